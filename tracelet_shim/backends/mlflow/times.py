"""Points that MLflow would take for one: the later of them is moved on by a millisecond."""

from __future__ import annotations

import math
from collections import OrderedDict

from tracelet_shim import events as ev

__all__ = ["OwnTimes"]

LARGEST = 1.7976931348623157e308
"""In place of an infinity (``sanitize_metric_value``)."""
_REMEMBERED = 65_536


class OwnTimes:
    """The timestamps of points, each at which MLflow takes it for itself and not for the repetition of another.

    The same event gets the same time again. What is known of earlier points is bounded and does not outlive the
    process: equal points further apart than 65,536 others, that also share the millisecond, are not told apart.
    """

    def __init__(self) -> None:
        self._taken, self._moved, self._next = _Recent(), _Recent(), _Recent()

    def of(self, run_id: str, key: str, step: int, value: float, when: int, record: ev.RecordId) -> int:
        """Return the timestamp of a point whose event has this time, in milliseconds."""
        shown = "nan" if math.isnan(value) else min(max(value, -LARGEST), LARGEST)
        point = (run_id, key, step, shown)
        owner, slot = hash(record), hash((*point, when))
        if self._taken.get(slot, owner) == owner:
            self._taken.put(slot, owner)
            return when
        repeat = hash((slot, owner))
        if repeat in self._moved:
            return self._moved[repeat]
        moved = self._next.get(slot, when + 1)
        while self._taken.get(hash((*point, moved)), owner) != owner:
            moved += 1
        self._taken.put(hash((*point, moved)), owner)
        self._moved.put(repeat, moved)
        self._next.put(slot, moved + 1)
        return moved


class _Recent(OrderedDict[int, int]):
    """The latest entries; the oldest make room."""

    def put(self, key: int, value: int) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > _REMEMBERED:
            self.popitem(last=False)
