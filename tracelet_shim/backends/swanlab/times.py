"""TensorBoard's wall times as SwanLab's timestamps, protobuf's."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["set_time", "timestamp"]

_FIRST, _LAST = -62135596800, 253402300799  # the seconds that protobuf's Timestamp can write as text


def timestamp(wall_time: float) -> tuple[int, int]:
    """Return seconds and nanoseconds since the epoch; (0, 0) for what a timestamp cannot hold."""
    if not (math.isfinite(wall_time) and _FIRST <= wall_time <= _LAST):
        return 0, 0
    seconds = math.floor(wall_time)
    nanos = round((wall_time - seconds) * 1e9)
    return (seconds + 1, 0) if nanos == 10**9 else (seconds, nanos)


def set_time(field: Any, wall_time: float) -> None:
    """Set a timestamp that stands in a record."""
    field.seconds, field.nanos = timestamp(wall_time)
