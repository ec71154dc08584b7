"""Curves, meshes and embeddings as figures in Plotly's JSON, for trackers that show such. Needs no Plotly.

JSON has no NaN and no infinities: what is not finite is None, a gap in the figure, or a text in a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.render.projection import principal_axes
from tracelet_shim.backends.render.tables import COUNTS, pr_curve_columns
from tracelet_shim.backends.shared.values import finite

__all__ = ["Figure", "embedding", "mesh", "pr_curve", "table"]

Figure = tuple[list[dict[str, Any]], dict[str, Any]]
"""Traces and layout."""


def table(event: ev.Table) -> Figure:
    """Return a table; NaN and infinities are texts in it."""
    rows = [[finite(cell) if isinstance(cell, float) else cell for cell in row] for row in event.rows]
    cells = {"values": [list(column) for column in zip(*rows, strict=True)] or [[] for _ in event.columns]}
    return [{"type": "table", "header": {"values": list(event.columns)}, "cells": cells}], {}


def pr_curve(event: ev.PRCurve) -> Figure:
    """Return precision over recall; threshold and counts are shown on hover, and stand in ``customdata``."""
    columns = {name: _gaps(values) for name, values in pr_curve_columns(event).items()}
    curve = {
        "type": "scatter", "mode": "lines+markers", "name": event.path[:200],
        "x": columns["recall"], "y": columns["precision"],
        "customdata": [list(row) for row in zip(columns["threshold"], *(columns[name] for name in COUNTS), strict=True)],
        "hovertemplate": "recall %{x}<br>precision %{y}<br>threshold %{customdata[0]}<br>TP %{customdata[1]}, "
        "FP %{customdata[2]}, TN %{customdata[3]}, FN %{customdata[4]}",
    }  # fmt: skip
    axes = {f"{axis}axis": {"title": {"text": text}, "range": [0, 1.05]} for axis, text in (("x", "recall"), ("y", "precision"))}
    return [curve], axes


def mesh(event: ev.Mesh) -> Figure:
    """Return one 3D scene for each mesh or point cloud of the batch, side by side; the config is the layout's ``meta``."""
    vertices = event.vertices.numpy()
    faces = event.faces.numpy() if event.faces is not None else None
    colors = event.colors.numpy() if event.colors is not None else None
    traces, scenes = [], {}
    for i, points in enumerate(vertices):
        scene = f"scene{i + 1 if i else ''}"
        scenes[scene] = {"aspectmode": "data", "domain": {"x": [i / len(vertices), (i + 1) / len(vertices)]}}
        trace: dict[str, Any] = {"scene": scene, "name": f"{event.tag[:200]} {i}", **_columns(points)}
        rgb = [f"rgb({r},{g},{b})" for r, g, b in colors[i].tolist()] if colors is not None else None
        if faces is None:
            traces.append({"type": "scatter3d", "mode": "markers", "marker": {"size": 2, "color": rgb}, **trace})
        else:
            corners = dict(zip("ijk", faces[i].T.tolist(), strict=True))
            traces.append({"type": "mesh3d", "vertexcolor": rgb, **corners, **trace})
    return traces, {**scenes, "meta": {"config": event.config}}


def embedding(event: ev.Embedding, most: int, between: str = " | ") -> Figure:
    """Return the points on three principal axes, with their labels; of more than `most` points a part.

    Args:
        event: the points.
        most: what a browser draws at ease.
        between: what stands between the parts of a label.
    """
    points, rows = principal_axes(event.matrix.numpy(), 3, most)
    labels = None
    if event.metadata:  # a foreign file may have fewer labels than points
        known = [between.join(row)[:200] for row in event.metadata]
        labels = [known[i] if i < len(known) else "" for i in rows]
    cloud = {
        "type": "scatter3d", "mode": "markers", "name": event.tag[:200], "marker": {"size": 3}, "text": labels,
        **_columns(points),
    }  # fmt: skip
    axes = {f"{axis}axis": {"title": {"text": f"PC{n}"}} for n, axis in enumerate("xyz", 1)}
    return [cloud], {"scene": axes}


def _columns(points: Any) -> dict[str, list[float | None]]:
    return {axis: _gaps(column) for axis, column in zip("xyz", points.T.tolist(), strict=True)}


def _gaps(values: Iterable[float] | Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
