"""Histograms in bins of one width, for charts that draw the number of each bin as a bar or a point.

TensorBoard's own buckets are as narrow as 1e-12 around zero and grow from there: drawn so, a normal distribution has a
hole where most of its samples are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tracelet_shim import events as ev

__all__ = ["uniform_bins"]


def uniform_bins(event: ev.Histogram, most: int) -> tuple[float, float, NDArray[np.float64]] | None:
    """Return (low, high, counts) of at most `most` uniform bins with the same mass; None if a number is not finite.

    A bucket's samples are spread evenly over it, as TensorBoard itself draws them.
    """
    limits, counts = np.asarray(event.limits, float), np.asarray(event.counts, float)
    if not np.isfinite(limits).all() or not np.isfinite(counts).all():
        return None
    used = np.flatnonzero(counts)
    if not len(used):
        return 0.0, 1.0, np.zeros(1)
    edges = np.concatenate([[min(event.min, limits[0]) if math.isfinite(event.min) else limits[0]], limits])
    edges, counts = edges[used[0] : used[-1] + 2], counts[used[0] : used[-1] + 1]
    low, high = float(edges[0]), float(edges[-1])
    if low <= event.min < high:
        low = event.min
    if low < event.max <= high:
        high = event.max
    if not math.isfinite(high - low):
        return None
    if high <= low:  # all samples in a bucket without width
        return low - 0.5, high + 0.5, counts.sum(keepdims=True)
    edges = np.clip(edges, low, high)
    if len(counts) <= most and np.allclose(np.diff(edges), (high - low) / len(counts), rtol=1e-6, atol=0):
        return low, high, counts
    bins = min(most, max(64, 2 * len(counts)))
    below = np.interp(np.linspace(low, high, bins + 1), edges, np.concatenate([[0.0], np.cumsum(counts)]))
    below[0], below[-1] = 0.0, counts.sum()
    return low, high, np.diff(below)
