"""Events of records that follow each other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain, islice

import msgspec

from tracelet_shim import events as ev

__all__ = ["Batch", "joined", "made"]


class Batch(msgspec.Struct, frozen=True):
    """The events of records that follow each other.

    Attributes:
        start: the number of the first record; the session's first has 0.
        stop: the number behind the last record.
        events: their events, in order.
        counts: how many events each record has; None if each has one.
        markers: how many of the events are `events.Marker`, which are not delivered to every backend.
        gone: of records that fitted into no memory, and that their event file does not have either, the source of each; None for
            one that would not have become an event. Such records are a batch of their own.
    """

    start: int
    stop: int
    events: list[ev.Event]
    counts: list[int] | None = None
    markers: int = 0
    gone: tuple[int | None, ...] = ()

    @property
    def lost(self) -> int:
        """The number of events that can never be read."""
        return len(self.gone) - self.gone.count(None)

    @property
    def counted(self) -> int:
        """The number of events that are delivered to every backend."""
        return len(self.events) - self.markers

    def place(self, events: int) -> tuple[int, int]:
        """Return where the batch goes on behind so many of its events: at which record, and how many events of that are done."""
        if self.counts is None:
            return self.start + events, 0
        ends = list(accumulate(self.counts))
        record = bisect_right(ends, events)
        return self.start + record, events - (ends[record - 1] if record else 0) if record < len(ends) else 0

    def part(self, start: int, stop: int) -> Batch:
        """Return the batch of the records from `start` to before `stop`; itself, if it has no others."""
        if start <= self.start and stop >= self.stop:
            return self
        first, last = max(start, self.start) - self.start, min(stop, self.stop) - self.start
        if self.counts is None:
            events, counts = self.events[first:last], None
        else:
            counts = self.counts[first:last]
            before = sum(self.counts[:first])
            events = self.events[before : before + sum(counts)]
        return made(self.start + first, self.start + last, events, counts)

    def without_markers(self) -> Batch:
        """Return the batch without events that are not delivered to every backend."""
        if not self.markers:
            return self
        groups = self.groups()
        counts = [sum(type(event) is not ev.Marker for event in group) for group in groups]
        events = [event for event in self.events if type(event) is not ev.Marker]
        return Batch(self.start, self.stop, events, counts, 0, self.gone)

    def groups(self) -> list[list[ev.Event]]:
        """Return the events of each record."""
        events = iter(self.events)
        return [list(islice(events, count)) for count in self.counts or [1] * len(self.events)]


def made(start: int, stop: int, events: list[ev.Event], counts: list[int] | None) -> Batch:
    """Return the batch of the records from number `start` to before `stop`; `counts` as in `Batch`."""
    return Batch(start, stop, events, counts, list(map(type, events)).count(ev.Marker))


def joined(parts: Sequence[Batch]) -> Batch:
    """Return one batch of several that follow each other."""
    if len(parts) == 1:
        return parts[0]
    counts = None
    if any(part.counts is not None for part in parts):
        counts = [count for part in parts for count in part.counts or [1] * len(part.events)]
    events = list(chain.from_iterable(part.events for part in parts))
    return Batch(parts[0].start, parts[-1].stop, events, counts, sum(part.markers for part in parts))
