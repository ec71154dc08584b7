"""Points of many dimensions on their first principal axes, for a chart of two or three."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["principal_axes"]

_EXACT = 256  # points or dimensions up to which the axes are found exactly, which takes time in the square of this


def principal_axes(matrix: Any, axes: int, most: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return where points lie on their principal axes, and which points these are.

    Of many points with many dimensions the axes are found by iteration: near enough for the eye, and in linear time. Where
    there are no more dimensions than axes, these are shown as they are, and the rest is 0. A number that is not finite counts
    as 0; what would be larger than float64 can hold, on its axis, is drawn smaller: all points by the same factor.

    Args:
        matrix: of any number type, shape (points, dimensions).
        axes: how many.
        most: points that a browser draws at ease; of more, so many are taken at equal distances.

    Returns:
        float64 of shape (n, axes), and the n row numbers, ascending; n is at most `most`.
    """
    values = np.atleast_2d(np.asarray(matrix, np.float64))
    rows = np.unique(np.linspace(0, max(len(values) - 1, 0), min(len(values), most)).astype(np.int64))
    points = np.nan_to_num(values[rows], nan=0.0, posinf=0.0, neginf=0.0)
    if not points.size:
        return np.zeros((len(points), axes)), rows
    scale = np.abs(points).max() or 1.0  # squares of what is near 1e308 would overflow
    points = points / scale
    points -= points.mean(axis=0)
    if points.shape[1] > axes:
        if min(points.shape) > _EXACT:
            points = _near(points, axes)
        left, sizes, _ = np.linalg.svd(points, full_matrices=False)
        points = (left * sizes)[:, :axes]
    points = points * min(scale, np.finfo(np.float64).max / 2 / max(np.abs(points).max(), 1.0))
    return np.pad(points, ((0, 0), (0, axes - points.shape[1]))), rows


def _near(points: NDArray[np.float64], axes: int) -> NDArray[np.float64]:
    """Return points in a space that is nearly that of the first principal axes."""
    basis = np.random.default_rng(0).normal(size=(points.shape[1], axes))
    for _ in range(20):
        basis = np.linalg.qr(points.T @ (points @ basis))[0]
    return np.asarray(points @ basis)
