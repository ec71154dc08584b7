"""The projector's files: what TensorBoard keeps beside its event files is written again.

As `torch.utils.tensorboard._embedding` does it, for `add_embedding`.
"""

from __future__ import annotations

import hashlib
import os
import re

from tracelet_shim import events as ev
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.files import replace
from tracelet_shim.backends.shared.values import utf8

__all__ = ["encode_tag", "write_embedding"]

_UNSAFE_TAG = re.compile(r"[%/\\\x00-\x1f\x7f\ud800-\udfff]|^\.+$")


def write_embedding(folder: str, event: ev.Embedding) -> None:
    """Write an embedding into a writer's directory of the copy."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    step = str(event.step).zfill(5)
    relative = f"{step}/{encode_tag(event.tag)}"
    os.makedirs(os.path.join(folder, relative), exist_ok=True)
    tag = utf8(event.tag)
    info = projector_config_pb2.EmbeddingInfo(tensor_name=f"{tag}:{step}")
    for suffix, data in files.render(event):
        name = suffix.removeprefix(".")
        replace(os.path.join(folder, relative, name), data)
        if name == "tensors.tsv":
            info.tensor_path = f"{relative}/{name}"
        elif name == "metadata.tsv":
            info.metadata_path = f"{relative}/{name}"
        elif name == "sprite.png":
            info.sprite.image_path = f"{relative}/{name}"
            info.sprite.single_image_dim.extend(event.sprite_size or ())
    path = os.path.join(folder, "projector_config.pbtxt")
    config = projector_config_pb2.ProjectorConfig()
    if os.path.exists(path):
        with open(path, encoding="utf-8") as existing:
            text_format.Parse(existing.read(), config)
    others = [other for other in config.embeddings if other.tensor_path != info.tensor_path]
    del config.embeddings[:]
    config.embeddings.extend([*others, info])
    replace(path, text_format.MessageToString(config).encode())


def encode_tag(tag: str) -> str:
    """Return the directory name that `SummaryWriter.add_embedding` gives a tag; where that is no safe name, a safe one.

    ``%`` stands in the result only where it begins an escape, so the names made here are those of no other tag.
    """

    def escape(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02x}" for byte in match.group().encode("utf-8", "surrogatepass"))

    name = _UNSAFE_TAG.sub(escape, tag)
    if not name:
        return "%empty"
    if len(name.encode()) <= 200:
        return name
    digest = hashlib.blake2s(tag.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{name.encode()[:160].decode(errors='ignore')}%h{digest}"
