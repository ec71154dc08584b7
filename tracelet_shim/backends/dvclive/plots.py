"""Rows of the plots that histograms and curves become, and how DVC draws them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tracelet_shim import events as ev

__all__ = ["PLOTS", "histogram_rows", "pr_curve_rows"]

PLOTS = {
    "histograms": {"x": "bin", "y": "count", "template": "simple"},
    "pr_curves": {"x": "recall", "y": "precision", "template": "simple"},
}


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


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
