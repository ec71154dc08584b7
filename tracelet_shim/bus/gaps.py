"""Records for which there is no room: only that they are there, their exact values and what else is small."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from tracelet_shim.bus import messages as msg

__all__ = ["Gap", "Gaps", "events_in", "nested_in"]

_hint_of = attrgetter("hint")


class Gap:
    """Records of one event file without their data: 17 bytes a record, and the small hints.

    Attributes:
        nested: how many of them are but parts of an `add_hparams`.
    """

    __slots__ = ("_hints", "_positions", "_series", "_taken", "_valued", "_values", "nested")

    def __init__(self) -> None:
        self._positions = array("Q")
        self._values = array("d")
        self._valued = bytearray()
        self._hints: dict[int, msg.Hint] = {}
        self._series: msg.Series | None = None
        self._taken = 0
        self.nested = 0

    def add(self, record: msg.Record) -> None:
        if isinstance(record.hint, msg.Series):
            self._series = record.hint  # the same for all records of its file
        elif record.hint is not None and not isinstance(record.hint, msg.Frames):  # for frames there is no room
            self._hints[len(self._positions)] = record.hint
            self.nested += isinstance(record.hint, msg.Nested)
        self._positions.append(record.position)
        self._values.append(record.value if record.value is not None else 0.0)
        self._valued.append(record.value is not None)

    def take(self, source: int, count: int) -> list[msg.Record]:
        """Return the next `count` records."""
        found = self.peek(source, count)
        self._taken += len(found)
        return found

    def peek(self, source: int, count: int) -> list[msg.Record]:
        """Return the next `count` records, and leave them."""
        last = min(self._taken + count, len(self._positions))
        return [
            msg.Record(source, self._positions[i], None, self._values[i] if self._valued[i] else None, self._hint(i))
            for i in range(self._taken, last)
        ]

    def drop(self, count: int) -> None:
        """Leave out the next `count` records: they have been taken."""
        self._taken += count

    def left(self) -> int:
        """Return how many events are still to be taken, as `events_in` counts them."""
        nested = sum(isinstance(hint, msg.Nested) for at, hint in self._hints.items() if at >= self._taken)
        return len(self._positions) - self._taken - nested

    def _hint(self, i: int) -> msg.Hint | None:
        return self._hints.get(i, self._series)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def is_empty(self) -> bool:
        return self._taken == len(self._positions)


class Gaps(NamedTuple):
    """In a queue: the records that were not queued before it, by source."""

    sources: dict[int, Gap]


def nested_in(records: Iterable[msg.Record]) -> int:
    """Return how many of the records are but parts of an `add_hparams`."""
    return list(map(type, map(_hint_of, records))).count(msg.Nested)


def events_in(items: Iterable[object]) -> int:
    """Return how many events there are in what a queue has. Nobody has decoded them here: a record counts as one, or none if
    it is a part of an `add_hparams`."""
    records = [item for item in items if type(item) is msg.Record]
    gaps = [gap for item in items if type(item) is Gaps for gap in item.sources.values()]
    return len(records) - nested_in(records) + sum(len(gap) - gap.nested for gap in gaps)
