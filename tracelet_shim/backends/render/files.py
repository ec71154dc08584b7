"""Events as files that an ordinary program opens: what a tracker gets that has no type of its own for them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tracelet_shim import events as ev
from tracelet_shim.backends.render.geometry import ply
from tracelet_shim.backends.render.tables import bucket_numbers, pr_curve_columns
from tracelet_shim.backends.shared.values import finite

__all__ = ["FOLDERS", "render"]

FOLDERS: dict[str, str] = {
    "scalar": "scalars",
    "histogram": "histograms",
    "image": "images",
    "video": "videos",
    "audio": "audio",
    "text": "text",
    "pr_curve": "pr_curves",
    "mesh": "meshes",
    "embedding": "embeddings",
    "tensor": "tensors",
    "graph": "graphs",
    "hparams": "hparams",
    "custom_scalars": "custom_scalars",
    "table": "tables",
    "artifact": "artifacts",
    "model": "models",
    "tags": "tags",
    "alert": "alerts",
    "used": "used",
    "blob": "other",
}
"""The folder of each event kind among a run's files."""


def render(event: ev.Event) -> Iterator[tuple[str, bytes]]:
    """Yield (file name suffix, content) for `event`. The first is the one that a person would open."""
    yield from _RENDER[event.kind](event)


def _json(value: Any) -> bytes:
    return json.dumps(_plain(value), indent=1, default=str, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """Return `value` with every NaN and infinity in it as a string."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return finite(value) if isinstance(value, float) else value


def _scalar(e: ev.Scalar) -> Iterator[tuple[str, bytes]]:
    yield ".json", _json({"tag": e.path, "step": e.step, "wall_time": e.wall_time, "value": e.value})


def _histogram(e: ev.Histogram) -> Iterator[tuple[str, bytes]]:
    yield ".json", _json({"tag": e.path, "step": e.step, **bucket_numbers(e), "limits": e.limits, "counts": e.counts})


def _image(e: ev.Image) -> Iterator[tuple[str, bytes]]:
    yield f".{e.format}", e.data


def _video(e: ev.Video) -> Iterator[tuple[str, bytes]]:
    yield ".gif", e.data


def _audio(e: ev.Audio) -> Iterator[tuple[str, bytes]]:
    suffix = {"audio/mpeg": ".mp3", "audio/ogg": ".ogg", "audio/flac": ".flac"}.get(e.content_type, ".wav")
    yield suffix, e.data


def _text(e: ev.Text) -> Iterator[tuple[str, bytes]]:
    yield ".md", e.text.encode("utf-8", "surrogatepass")


def _pr_curve(e: ev.PRCurve) -> Iterator[tuple[str, bytes]]:
    out = io.StringIO()
    rows = csv.writer(out)
    columns = pr_curve_columns(e)
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    yield ".csv", out.getvalue().encode()


def _mesh(e: ev.Mesh) -> Iterator[tuple[str, bytes]]:
    vertices = e.vertices.numpy()
    faces = e.faces.numpy() if e.faces is not None else None
    colors = e.colors.numpy() if e.colors is not None else None
    if not len(vertices):  # an empty batch is an event all the same
        yield ".ply", ply((), None, None)
    for i in range(len(vertices)):
        suffix = ".ply" if len(vertices) == 1 else f".{i}.ply"
        face, color = (part[i] if part is not None else None for part in (faces, colors))
        yield suffix, ply(vertices[i], face, color)
    if e.config != "{}":
        yield ".config.json", e.config.encode()


def _tsv(rows: list[tuple[str, ...]]) -> bytes:
    clean = str.maketrans("\t\n\r", "   ")
    lines = ("\t".join(cell.translate(clean) for cell in row) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "surrogatepass")


def _embedding(e: ev.Embedding) -> Iterator[tuple[str, bytes]]:
    matrix = e.matrix.numpy()
    yield ".tensors.tsv", _tsv([tuple(str(x) for x in row) for row in matrix.tolist()])
    if e.metadata is not None:
        header = [e.metadata_header] if e.metadata_header else []
        yield ".metadata.tsv", _tsv([*header, *e.metadata])
    if e.sprite is not None:
        yield ".sprite.png", e.sprite


def _tensor(e: ev.Tensor) -> Iterator[tuple[str, bytes]]:
    out = io.BytesIO()
    np.save(out, e.value.numpy(), allow_pickle=False)
    yield ".npy", out.getvalue()


def _graph(e: ev.Graph) -> Iterator[tuple[str, bytes]]:
    from tensorboard.compat.proto import graph_pb2

    yield ".pbtxt", str(graph_pb2.GraphDef.FromString(e.graph_def)).encode()
    yield ".pb", e.graph_def


def _hparams(e: ev.HParams) -> Iterator[tuple[str, bytes]]:
    yield ".json", _json({"trial": e.trial, "params": e.params, "metrics": e.metrics, "domain": e.domain})


def _custom_scalars(e: ev.CustomScalars) -> Iterator[tuple[str, bytes]]:
    yield ".json", _json(e.layout)


def _table(e: ev.Table) -> Iterator[tuple[str, bytes]]:
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(e.columns)
    rows.writerows(e.rows)
    yield ".csv", out.getvalue().encode("utf-8", "surrogatepass")
    yield ".json", _json({"columns": e.columns, "data": e.rows})  # in which a text is not a number, and None not empty


def _artifact(e: ev.Artifact) -> Iterator[tuple[str, bytes]]:
    """List the files, which may be larger than memory; `Backend.log_artifact` attaches them."""
    files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in e.files]
    yield ".json", _json({"name": e.tag, "type": e.category, "aliases": e.aliases, "files": files})


def _tags(e: ev.Tags) -> Iterator[tuple[str, bytes]]:
    yield ".json", _json(e.tags)


def _alert(e: ev.Alert) -> Iterator[tuple[str, bytes]]:
    yield ".md", f"**{e.level}: {e.tag}**\n\n{e.text}\n".encode("utf-8", "surrogatepass")


def _used(e: ev.Used) -> Iterator[tuple[str, bytes]]:
    yield ".json", _json({"name": e.tag, "from": e.tracker, "identity": e.identity, "sha256": e.digest})


def _blob(e: ev.Blob) -> Iterator[tuple[str, bytes]]:
    # The name may come from a foreign event file: it must not lead out of the folder, nor be too long for one.
    yield "." + re.sub(r"[^A-Za-z0-9._-]", "_", e.name)[-80:], e.data


_RENDER: dict[str, Callable[[Any], Iterator[tuple[str, bytes]]]] = {
    "scalar": _scalar,
    "histogram": _histogram,
    "image": _image,
    "video": _video,
    "audio": _audio,
    "text": _text,
    "pr_curve": _pr_curve,
    "mesh": _mesh,
    "embedding": _embedding,
    "tensor": _tensor,
    "graph": _graph,
    "hparams": _hparams,
    "custom_scalars": _custom_scalars,
    "table": _table,
    "artifact": _artifact,
    "model": _artifact,
    "tags": _tags,
    "alert": _alert,
    "used": _used,
    "blob": _blob,
}
