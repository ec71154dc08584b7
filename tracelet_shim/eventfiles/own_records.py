"""Records that no plugin of TensorBoard has a form for: what is logged through a session itself.

Each is a summary value whose plugin is ours. Its content is msgpack, one of `Content`: the handle writes it, the decoder makes
an event of it. What TensorBoard has a form for (numbers, texts, pictures) is written in that.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

from tracelet_shim import events as ev
from tracelet_shim.eventfiles.own_files import stored_at

__all__ = [
    "PLUGIN", "AlertContent", "ArtifactContent", "Content", "ParamsContent", "StoredFile", "SummaryContent", "TableContent",
    "TagsContent", "UsedContent", "decoded", "encoded", "event",
]  # fmt: skip

PLUGIN = "tracelet"
_Param = Union[bool, int, float, str]  # noqa: UP007


class ParamsContent(msgspec.Struct, tag="params"):
    values: dict[str, _Param]


class SummaryContent(msgspec.Struct, tag="summary"):
    values: dict[str, float]


class TableContent(msgspec.Struct, tag="table"):
    columns: tuple[str, ...]
    rows: tuple[tuple[ev.Cell, ...], ...]


class StoredFile(msgspec.Struct, array_like=True):
    """As of `events.ArtifactFile`; where it is follows from where the record is."""

    path: str
    size: int
    sha256: str


class ArtifactContent(msgspec.Struct, tag="artifact", omit_defaults=True):
    """Attributes: as of `events.Artifact` and `events.Model`; `model` tells which of these it is."""

    files: tuple[StoredFile, ...]
    category: str = ""
    aliases: tuple[str, ...] = ()
    model: bool = False
    register_as: str | None = None


class TagsContent(msgspec.Struct, tag="tags"):
    tags: dict[str, str]


class AlertContent(msgspec.Struct, tag="alert"):
    text: str
    level: str


class UsedContent(msgspec.Struct, tag="used"):
    """Attributes: as of `events.Used`."""

    tracker: str
    identity: str
    digest: str


Content = Union[  # noqa: UP007
    ParamsContent, SummaryContent, TableContent, ArtifactContent, TagsContent, AlertContent, UsedContent,
]  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Content] = msgspec.msgpack.Decoder(Content)


def encoded(content: Content) -> bytes:
    """Return the content of a value's plugin data."""
    return _encoder.encode(content)


def decoded(data: bytes) -> Content:
    """Return what `encoded` was given.

    Raises:
        msgspec.DecodeError: it is of another version, or damaged.
    """
    return _decoder.decode(data)


def event(data: bytes, base: dict[str, Any]) -> ev.Event:
    """Return the event of a value with our plugin.

    Raises:
        msgspec.DecodeError, ValueError: it is of another version, or damaged.
    """
    content = decoded(data)
    base["source"] = b""  # TensorBoard has no form for it
    if isinstance(content, ParamsContent):
        return ev.HParams(**base, params=content.values, metrics={})
    if isinstance(content, SummaryContent):
        return ev.HParams(**base, params={}, metrics=content.values)
    if isinstance(content, TableContent):
        if any(len(row) != len(content.columns) for row in content.rows):
            raise ValueError("a table whose rows have not as many cells as there are columns")
        return ev.Table(**base, columns=content.columns, rows=content.rows)
    if isinstance(content, TagsContent):
        return ev.Tags(**base, tags=content.tags)
    if isinstance(content, AlertContent):
        return ev.Alert(**base, text=content.text, level=content.level)
    if isinstance(content, UsedContent):
        return ev.Used(**base, tracker=content.tracker, identity=content.identity, digest=content.digest)
    files = tuple(ev.ArtifactFile(f.path, f.size, f.sha256, stored_at(base["record"].file, f.sha256)) for f in content.files)
    about: dict[str, Any] = {"category": content.category, "aliases": content.aliases, "files": files}
    return ev.Model(**base, **about, register_as=content.register_as) if content.model else ev.Artifact(**base, **about)
