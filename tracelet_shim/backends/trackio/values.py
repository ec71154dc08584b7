"""Values and times as Trackio stores them."""

from __future__ import annotations

import functools
import math
from datetime import datetime, timedelta
from typing import Any

from tracelet_shim.backends.shared import values

__all__ = ["iso", "plain"]

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC; one that knows it would add that to the text


def plain(value: Any) -> Any:
    """Return `value` as JSON that Trackio can store: no NaN, no lone surrogates, no integers beyond 64 bits."""
    return values.plain(value, number=_number)


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"  # utils.serialize_values


def iso(seconds: float) -> str | None:
    """Return a time as Trackio writes it, to the microsecond; None for one that a date cannot express."""
    try:
        whole = math.floor(seconds)
        more, micro = divmod(round((seconds - whole) * 1e6), 1_000_000)
        return f"{_to_the_second(whole + more)}.{micro:06d}+00:00"
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(16)
def _to_the_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")
