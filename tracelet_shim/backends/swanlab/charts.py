"""Events in the forms that SwanLab's pages draw: ECharts options, point clouds. Each is (suffix, content) of a media item."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from tracelet_shim import events as ev
from tracelet_shim.backends.render import files
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.render.geometry import glb
from tracelet_shim.backends.render.projection import principal_axes
from tracelet_shim.backends.render.tables import COUNTS, pr_curve_columns
from tracelet_shim.backends.shared.values import finite

__all__ = ["BINS", "CHART_POINTS", "embedding", "histogram", "objects", "pr_curve", "table"]

BINS = 64
CHART_POINTS = 5_000

Item = tuple[str, bytes]


def histogram(event: ev.Histogram) -> Item:
    """Return bars, with the exact buckets beside them."""
    exact = json.loads(next(files.render(event))[1])
    bins = uniform_bins(event, BINS)
    chart: dict[str, Any] = {"title": {"text": "not finite"}}
    if bins is not None:
        low, high, counts = bins
        edges = np.linspace(low, high, len(counts) + 1).tolist()
        labels = [f"{a:.4g} … {b:.4g}" for a, b in pairwise(edges)]
        chart = {
            "tooltip": {"trigger": "axis"},
            "yAxis": {"type": "value"}, "xAxis": {"type": "category", "data": labels},
            "series": [{"type": "bar", "barCategoryGap": "0%", "data": counts.tolist()}],
        }  # fmt: skip
    return _chart({**chart, "tracelet": exact})


def pr_curve(event: ev.PRCurve) -> Item:
    """Return precision over recall; the dataset has thresholds and counts as well."""
    names = ["recall", "precision", "threshold", *COUNTS]
    columns = pr_curve_columns(event)
    rows = zip(*(map(finite, columns[name]) for name in names), strict=True)
    axis = {"type": "value", "min": 0, "max": 1}
    return _chart({
        "tooltip": {"trigger": "axis"},
        "dataset": {"dimensions": names, "source": [list(row) for row in rows]},
        "xAxis": {**axis, "name": "recall"}, "yAxis": {**axis, "name": "precision"},
        "series": [{"type": "line", "encode": {"x": "recall", "y": "precision", "tooltip": names}}],
    })  # fmt: skip


def table(event: ev.Table) -> Item:
    """Return what `swanlab.echarts.Table` dumps (`transforms.echarts.components.table`), but for NaN and infinities, as texts."""
    rows = ([finite(cell) if isinstance(cell, float) else cell for cell in row] for row in event.rows)
    return _chart({
        "_swanLab": "table", "colDefs": [{"field": name} for name in event.columns],
        "rowData": [dict(zip(event.columns, row, strict=True)) for row in rows],
    })  # fmt: skip


def embedding(event: ev.Embedding) -> Item | None:
    """Return the points on their two principal axes; None if there is nothing to draw."""
    matrix = event.matrix.numpy()
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        return None
    points, chosen = principal_axes(matrix, 2, CHART_POINTS)
    labels = [" · ".join(row) for row in event.metadata] if event.metadata else [str(i) for i in range(len(matrix))]
    rows = [[x, y, labels[i]] for (x, y), i in zip(points.tolist(), chosen.tolist(), strict=True) if i < len(labels)]
    return _chart({
        "tooltip": {"trigger": "item"}, "title": {"text": "principal axes"},
        "dataset": {"dimensions": ["first", "second", "label"], "source": rows},
        "xAxis": {"type": "value", "scale": True}, "yAxis": {"type": "value", "scale": True},
        "series": [{"type": "scatter", "encode": {"x": "first", "y": "second", "itemName": "label"}}],
    })  # fmt: skip


def objects(event: ev.Mesh) -> list[Item]:
    """Return the meshes or point clouds of a batch; none if SwanLab could not draw them."""
    vertices = event.vertices.numpy()
    faces = event.faces.numpy() if event.faces is not None else None
    colors = event.colors.numpy() if event.colors is not None else None
    if not vertices.size or not np.isfinite(vertices).all() or (faces is not None and not faces.size):
        return []
    items = []
    for i in range(len(vertices)):
        color = None if colors is None else colors[i]
        if faces is None:
            items.append(("swanlab.pts.json", _cloud(vertices[i], color)))
        else:
            items.append(("glb", glb(vertices[i], faces[i], color)))
    return items


def _cloud(vertices: Any, colors: Any | None) -> bytes:
    """Return a point cloud as SwanLab's own JSON (`transforms.object3d`), green, as there, where it has no colours."""
    rgb = np.broadcast_to(np.array([0, 255, 0], np.uint8), vertices.shape) if colors is None else colors
    points = [[*xyz, *color] for xyz, color in zip(vertices.tolist(), rgb.tolist(), strict=True)]
    extra = {"tracelet": {"colors": None}} if colors is None else {}
    return json.dumps({"version": "0.1", "points": points, "boxes": [], **extra}, allow_nan=False).encode()


def _chart(options: Mapping[str, Any]) -> Item:
    return "json", json.dumps(options, allow_nan=False).encode()
