"""Tables and small web pages, which Trackio shows as `trackio.Table` and `trackio.Html`."""

from __future__ import annotations

from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.render.svg import line_chart
from tracelet_shim.backends.render.tables import COUNTS, pr_curve_columns

__all__ = ["MOST_CELLS", "buckets", "embedding_rows", "pr_curve_page", "pr_curve_rows", "table"]

MOST_CELLS = 20_000  # a table is part of the row, and the dashboard loads all rows


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a row holds for a `trackio.Table`; before 0.3, which has none, it is kept all the same."""
    return {"_type": "trackio.table", "_value": rows}


def buckets(event: ev.Histogram) -> list[dict[str, Any]]:
    """Return the exact buckets of a histogram, for a dashboard that draws none."""
    each = zip((event.min, *event.limits), event.limits, event.counts, strict=False)
    return [{"from": low, "to": high, "count": count} for low, high, count in each]


def pr_curve_rows(event: ev.PRCurve) -> list[dict[str, Any]]:
    columns = pr_curve_columns(event)
    names = ("threshold", "precision", "recall", *COUNTS)
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def pr_curve_page(event: ev.PRCurve) -> bytes:
    """Return a page with the curve."""
    curve = line_chart(zip(event.recall, event.precision, strict=True), event.path, "recall", "precision")
    return b'<!doctype html><html><head><meta charset="utf-8"></head><body>%s</body></html>' % curve


def embedding_rows(event: ev.Embedding) -> list[dict[str, Any]]:
    """Return the head of the matrix, as much as a table may have, with the labels in front."""
    matrix = event.matrix.numpy()
    labels = event.metadata or ((),) * len(matrix)
    header = event.metadata_header or ("label",) * bool(event.metadata)
    columns = [*header, *(f"d{i}" for i in range(matrix.shape[1]))]
    columns = [name if columns.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(columns)]
    head = zip(labels, matrix[: max(1, MOST_CELLS // max(1, len(columns)))].tolist(), strict=False)
    return [dict(zip(columns, (*cells, *values), strict=False)) for cells, values in head]
