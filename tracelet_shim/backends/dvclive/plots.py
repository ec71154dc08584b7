"""Rows of the plots that histograms and curves become, and how DVC draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tracelet_shim import events as ev

__all__ = ["PLOTS", "TABLES", "histogram_rows", "pr_curve_rows", "table_look", "table_rows"]

PLOTS = {
    "histograms": {"x": "bin", "y": "count", "template": "simple"},
    "pr_curves": {"x": "recall", "y": "precision", "template": "simple"},
}
TABLES = "tables"
"""The folder of tables, each of which has columns of its own."""


def histogram_rows(event: ev.Histogram) -> list[dict[str, Any]]:
    """Return a row a bucket; the statistics stand in the first one. Empty without buckets."""
    if not event.counts:
        return []
    edges = (min(event.min, event.limits[0]), *event.limits)
    rows: list[dict[str, Any]] = []
    for (left, right), count in zip(pairwise(edges), event.counts, strict=True):
        # Drawn within the range of the samples: TensorBoard's last edge may be 1.8e308.
        center = _clip(left, event.min, event.max) / 2 + _clip(right, event.min, event.max) / 2
        rows.append({"bin": center, "left": left, "right": right, "count": count})
    rows[0].update(
        step=event.step, min=event.min, max=event.max, num=event.num, sum=event.sum, sum_squares=event.sum_squares
    )
    return rows


def pr_curve_rows(event: ev.PRCurve) -> list[dict[str, Any]]:
    names = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")
    columns = [getattr(event, name) for name in names]
    last = max(len(event.precision) - 1, 1)
    return [
        {"threshold": i / last, **dict(zip(names, values, strict=True))}
        for i, values in enumerate(zip(*columns, strict=True))
    ]


def table_rows(event: ev.Table) -> list[dict[str, Any]]:
    """Return a table as rows of a plot: over its first column, where that is one of rising numbers, else over the number of the
    row, which comes first then. Empty without a column of numbers to draw."""
    columns = dict(zip(event.columns, zip(*event.rows, strict=True), strict=True)) if event.rows else {}
    if columns and not _rises(columns[event.columns[0]]):
        row = "row" + "_" * sum(name.rstrip("_") == "row" for name in columns)
        columns = {row: tuple(range(len(event.rows))), **columns}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return rows if table_look(rows)["y"] else []


def table_look(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how DVC draws a table: a line a column of numbers, over the first one."""
    x, *others = rows[0] if rows else ("row",)
    return {"x": x, "y": [name for name in others if any(map(_is_number, (row[name] for row in rows)))], "template": "simple"}


def _rises(cells: Sequence[Any]) -> bool:
    return all(map(_is_number, cells)) and all(left < right for left, right in pairwise(cells))


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool) and math.isfinite(cell)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
