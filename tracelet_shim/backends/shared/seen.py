"""What a killed process had written and nobody knows of: the last events come again, and must not be there twice."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import cast

__all__ = ["Seen"]


class Seen:
    """The points at the end of a store, each told off when it comes again: two that are alike may come on purpose.

    Args:
        points: what tells each point in the store from others; with `within`, that and its wall time in the store.
        in_order: what comes again comes first, so the first one that is new ends the search.
        within: seconds by which the store's wall time of a point may differ from its own, where a row has one time for all.
    """

    def __init__(self, points: Iterable[Hashable] = (), *, in_order: bool = False, within: float | None = None) -> None:
        self._in_order, self._within = in_order, within
        self._times: dict[Hashable, list[float]] = {}
        timed = ((point, math.nan) for point in points) if within is None else cast("Iterable[tuple[Hashable, float]]", points)
        for point, when in timed:
            self._times.setdefault(point, []).append(when)

    def __bool__(self) -> bool:
        return bool(self._times)

    def add(self, point: Hashable, wall_time: float = math.nan) -> None:
        """The store has this point too: it is read bit by bit."""
        self._times.setdefault(point, []).append(wall_time)

    def take(self, point: Hashable, wall_time: float = math.nan) -> bool:
        """Return whether the store has this point; it is told off then. One whose time is not finite has any time."""
        times = self._times.get(point, ())
        for when in times:
            if self._within is None or not math.isfinite(wall_time) or abs(when - wall_time) <= self._within:
                self._times[point].remove(when)  # NaN, too: it is the same object
                if not self._times[point]:
                    del self._times[point]
                return True
        if self._in_order:
            self._times.clear()
        return False

    def copy(self) -> Seen:
        """Return another one, for a batch of which nobody knows yet whether it will be written."""
        other = Seen(in_order=self._in_order, within=self._within)
        other._times = {point: list(times) for point, times in self._times.items()}
        return other

    def clear(self) -> None:
        """Nothing comes again any more."""
        self._times.clear()
