"""Events as W&B's own types: what `wandb.Run.log` takes as values."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tracelet_shim import events as ev
from tracelet_shim.backends.render.geometry import obj
from tracelet_shim.backends.render.tables import COUNTS, pr_curve_columns

__all__ = [
    "MAX_BINS", "Table", "bins", "charted", "embedding", "histogram", "html_of", "objects", "page", "pr_curve", "table_of",
]  # fmt: skip

MAX_BINS = 512
"""`wandb.Histogram.MAX_LENGTH`."""

MAX_THUMBNAILS = 500
"""Label images of an embedding that become cells of its table; beyond, the sprite is attached as it is."""

MAX_CELLS = 500_000
"""Cells of an embedding's table: W&B checks each, some 10 us. A larger matrix is shown in part and attached whole."""


def histogram(event: ev.Histogram) -> Any | None:
    """Return a histogram; None if W&B has no numbers for it."""
    import wandb

    counts, edges = bins(event)
    if not (len(counts) and np.isfinite(counts).all() and np.isfinite(edges).all()):
        return None
    return wandb.Histogram(np_histogram=(counts.tolist(), edges.tolist()))


def bins(event: ev.Histogram) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return counts and edges of at most `MAX_BINS` buckets. Neighbours are added up, so that no sample is lost."""
    limits = np.array(event.limits, float)
    counts = np.array(event.counts, float)
    if not len(limits):
        return counts, limits
    edges = np.concatenate([[min(event.min, limits[0])], limits])
    filled = np.flatnonzero(counts)
    if len(filled):  # empty buckets at both ends, TensorBoard's own first one among them
        counts, edges = counts[filled[0] : filled[-1] + 1], edges[filled[0] : filled[-1] + 2]
    if edges[-1] > 1e308 and event.max >= edges[-2]:  # TensorBoard's open last bucket
        edges[-1] = event.max
    if len(counts) > MAX_BINS:
        starts = np.unique(np.linspace(0, len(counts), MAX_BINS, endpoint=False).astype(int))
        counts = np.add.reduceat(counts, starts)
        edges = np.append(edges[starts], edges[-1])
    return counts, edges


def page(event: ev.Text) -> tuple[str, bool]:
    """Return a web page with a text, as it is, and whether that shows all of it."""
    whole = '<meta charset="utf-8"><pre style="white-space: pre-wrap">\n' + html.escape(event.text) + "</pre>"
    # a NUL or half a surrogate pair cannot stand in a page: there it is shown as U+FFFD, the file has it
    shown = re.sub("[\x00\ud800-\udfff]", "\ufffd", whole)
    return shown, shown == whole


def html_of(page: str) -> Any:
    """Return a page as it is; read from a stream, since a text is looked for as a path."""
    import wandb

    return wandb.Html(io.StringIO(page), inject=False)


def pr_curve(event: ev.PRCurve) -> Any:
    """Return a line chart over a table that has all columns."""
    import wandb

    columns = pr_curve_columns(event)
    names = ["threshold", "precision", "recall", *COUNTS]
    rows = [list(row) for row in zip(*(columns[name] for name in names), strict=True)]
    return _plot_table()(
        "wandb/line/v0",
        wandb.Table(columns=names, data=rows),
        {"x": "recall", "y": "precision"},
        {"title": event.path},
        split_table=True,
    )


def _plot_table() -> Any:
    """Return what is `wandb.plot_table` from 0.18.7 on; before, that is one of the active run."""
    try:
        from wandb.plot import plot_table
    except ImportError:
        from wandb.sdk.wandb_run import Run

        return Run.plot_table
    return plot_table


def objects(event: ev.Mesh) -> Any:
    """Return the mesh or point cloud, or a list of all of a batch."""
    import wandb

    vertices = event.vertices.numpy()
    faces = event.faces.numpy() if event.faces is not None else None
    colors = event.colors.numpy() if event.colors is not None else None

    def item(i: int) -> Any:
        if faces is None:
            points = vertices[i].astype(float)
            return wandb.Object3D(points if colors is None else np.hstack([points, colors[i]]))
        text = obj(vertices[i], faces[i], colors[i] if colors is not None else None)
        return wandb.Object3D(io.StringIO(text), file_type="obj")

    return item(0) if len(vertices) == 1 else [item(i) for i in range(len(vertices))]


class Table(NamedTuple):
    """An embedding as a table.

    Attributes:
        table: the SDK's.
        whole: whether it has all points.
        pictures: whether it has the label images.
    """

    table: Any
    whole: bool
    pictures: bool


def embedding(event: ev.Embedding) -> Table:
    """Return an embedding as a table, for the 2D projection."""
    import wandb

    points, dimensions = event.matrix.shape
    shown = min(points, wandb.Table.MAX_ROWS, MAX_CELLS // max(dimensions, 1))
    matrix = event.matrix.numpy()[:shown]
    columns = [f"d{i}" for i in range(dimensions)]
    cells: list[list[Any]] = [[] for _ in matrix]
    if event.metadata is not None:
        width = max((len(row) for row in event.metadata), default=0)
        labels = event.metadata_header or ("label", *(f"label{i}" for i in range(1, width)))
        columns = [*_distinct(labels, taken={*columns, "image"}), *columns]
        cells = [[*row] for row in event.metadata[:shown]]
    thumbnails = _sprite_cells(event) if shown == points <= MAX_THUMBNAILS else []
    if thumbnails:
        columns = ["image", *columns]
        cells = [[wandb.Image(picture), *row] for picture, row in zip(thumbnails, cells, strict=True)]
    data = [[*row, *values] for row, values in zip(cells, matrix.tolist(), strict=True)]
    return Table(wandb.Table(columns=columns, data=data, allow_mixed_types=True), shown == points, bool(thumbnails))


def _distinct(names: Sequence[str], taken: set[str]) -> list[str]:
    """Return `names` with an underscore behind those that are taken: a table's columns must differ."""
    result = []
    for name in names:
        distinct = name
        while distinct in taken:
            distinct += "_"
        taken.add(distinct)
        result.append(distinct)
    return result


def _sprite_cells(event: ev.Embedding) -> list[Any]:
    """Cut the sprite, a square grid, into one picture a point."""
    if event.sprite is None or event.sprite_size is None:
        return []
    from PIL import Image

    sheet = Image.open(io.BytesIO(event.sprite))
    width, height = event.sprite_size
    across = max(sheet.width // width, 1)
    corners = [(i % across * width, i // across * height) for i in range(event.matrix.shape[0])]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in corners]


class Logged(NamedTuple):
    """A table as `wandb.Run.log` treats it.

    Attributes:
        key: under which it stands in the row.
        table: the SDK's.
    """

    key: str
    table: Any

    def artifact(self, run_id: str, client: str) -> Any:
        """Return the artifact that W&B has it in, with the id of one that it was in before (`sdk/data_types/utils.py`,
        `_log_table_artifact`)."""
        from wandb.sdk.artifacts._internal_artifact import InternalArtifact

        artifact = InternalArtifact(f"run-{run_id}-{self.key}", "run_table")
        artifact._client_id = client
        artifact.add(self.table, self.key)
        return artifact


def table_of(value: Any, key: str) -> Logged | None:
    """Return the table that a value of this key is, or that a chart has; None if it is none."""
    import wandb

    if isinstance(value, wandb.Table):
        return Logged(key, value)
    table = charted(value)
    if not isinstance(table, wandb.Table):
        return None
    if not hasattr(value, "set_key"):
        return Logged(f"Custom Chart Tables/{key}_table", table)
    value.set_key(key)
    return Logged(value.spec.table_key, table)


def charted(value: Any) -> Any:
    """Return the table of a chart; None if the value is none."""
    return getattr(value, "table" if hasattr(value, "set_key") else "_data", None)  # the latter up to 0.18.6
