"""How far one tracker is: with what it was handed, and with what no kill can take from it."""

from __future__ import annotations

import math
import time
from collections import deque
from operator import attrgetter
from typing import NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Refusal
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.batch import Batch
from tracelet_shim.state.rows import Refused, RunRow

__all__ = ["Progress", "Standing"]

_MOST_REFUSED = 10_000
"""So many events that a tracker refused are kept in the ledger with its messages; of all others, only their places."""

_wall_time = attrgetter("wall_time")


class Standing(NamedTuple):
    """How far a tracker is: the number of the record that comes next, how many of its events have been delivered, and how many
    events have been delivered and refused in all."""

    number: int
    part: int
    delivered: int
    failed: int


class _Reached(NamedTuple):
    """A place that the tracker has come to, and what it had refused and lost from the one before up to there: the last of these
    as event file and number of events. `ends` are the latest records of the events that it was handed on the way: by event file,
    the position."""

    standing: Standing
    refused: list[Refused]
    lost: list[tuple[str, int, int]]
    ends: dict[str, int]


class Progress:
    """How far a tracker is. Changed by its worker's thread.

    Args:
        name: the tracker.
        state: counts what was delivered, refused and lost.

    Attributes:
        at: the number of the record that comes next, and how many of its events have been delivered.
        safe: how far the tracker is with what no kill can take from it; who goes on after one goes on from here.
        last_event: the latest wall time of what was delivered.
    """

    def __init__(self, name: str, state: msg.BackendState) -> None:
        self._name = name
        self._state = state
        self.at = (0, 0)
        self.safe = Standing(0, 0, 0, 0)
        self.last_event = -math.inf
        self._unsafe: deque[_Reached] = deque()
        self._refused: list[Refused] = []  # since the last place, as all of these
        self._ends: dict[str, int] = {}
        self._lost: list[tuple[str, int, int]] = []

    def restore(self, row: RunRow, lost: int) -> None:
        """Go on where an earlier worker of this session stopped."""
        self.at = (row.cursor, row.part)
        self._state.delivered, self._state.failed, self._state.lost = row.delivered, row.failed, lost
        self.safe = Standing(*self.at, row.delivered, row.failed)

    def recount(self, events: int) -> None:
        """Before the cursor there are so many events. What the ledger says may be half a second old."""
        self._state.delivered = max(0, events + self.at[1] - self._state.failed)
        self.safe = self.safe._replace(delivered=self._state.delivered)

    @property
    def is_unsafe(self) -> bool:
        """True if the tracker has been handed something that it has not stored yet."""
        return bool(self._unsafe)

    def count(self, delivered: list[ev.Event]) -> None:
        """Count events that the tracker has taken."""
        data = delivered
        if markers := list(map(type, delivered)).count(ev.Marker):  # they have the time at which their file was made
            data = [event for event in delivered if type(event) is not ev.Marker]
        if data:
            last = max(map(_wall_time, data))
            if not math.isfinite(last):  # some are NaN or infinite
                last = max(filter(math.isfinite, map(_wall_time, data)), default=-math.inf)
            self.last_event = max(self.last_event, last)
        self._state.delivered += len(delivered) - markers
        self._ends |= {event.record.file: event.record.position for event in delivered}

    def set_aside(self, event: ev.Event, reason: str) -> None:
        """Count an event that the tracker refused, and keep where it is."""
        self._refused.append(self._kept(Refusal.of(event, reason)))

    def refused_later(self, refusal: Refusal) -> None:
        """Count an event that the tracker refused after it had been handed over, and keep where it is. In the ledger it comes
        with the place behind it, not before: until then it would come again."""
        record, refused = refusal.record, self._kept(refusal)
        self._state.delivered -= 1
        behind = False
        for at, reached in enumerate(self._unsafe):
            if not behind and reached.ends.get(record.file, -1) >= record.position:
                behind = True
                reached.refused.append(refused)
            if behind:
                before = reached.standing
                standing = before._replace(delivered=before.delivered - 1, failed=before.failed + 1)
                self._unsafe[at] = reached._replace(standing=standing)
        if not behind:
            self._refused.append(refused)

    def _kept(self, refusal: Refusal) -> Refused:
        """Count a refused event, and return what is kept of it."""
        at, kind, path, step, reason = refusal
        self._state.failed += 1
        refused = Refused(self._name, at.file, at.position, kind, path[:1000], step, reason, time.time(), None, at.index)
        if self._state.failed > _MOST_REFUSED:
            refused = refused._replace(kind=None, tag=None, step=None, message=None)
        return refused

    def lose(self, source: int, events: int) -> None:
        """Count events that their event file does not have."""
        self._lost.append((self._name, source, events))
        self._state.failed += events
        self._state.lost += events

    def stand(self, batch: Batch, done: int) -> None:
        """Stand behind the first `done` events of a batch: what was delivered is not delivered again by whoever goes on from
        here, as soon as that is safe."""
        self.at = batch.place(done)
        self.stand_here()

    def stand_here(self) -> None:
        """What was counted is at the place where the tracker stands."""
        standing = Standing(*self.at, self._state.delivered, self._state.failed)
        self._unsafe.append(_Reached(standing, self._refused, self._lost, self._ends))
        self._refused, self._lost, self._ends = [], [], {}

    def confirm(self, stored: int) -> tuple[list[Refused], list[tuple[str, int, int]]] | None:
        """Take note that the tracker has stored so many events. If it is further than before, return what it has refused and lost
        on the way: (tracker, event file, events)."""
        if not self._unsafe or self._unsafe[0].standing.delivered > stored:
            return None
        refused: list[Refused] = []
        lost: list[tuple[str, int, int]] = []
        while self._unsafe and self._unsafe[0].standing.delivered <= stored:
            reached = self._unsafe.popleft()
            refused += reached.refused
            lost += reached.lost
            self.safe = reached.standing
        return refused, lost

    def go_back(self) -> None:
        """Stand where everything is safe; what comes after that is delivered again."""
        number, part, self._state.delivered, self._state.failed = self.safe
        self.at = (number, part)
        for reached in self._unsafe:
            self._state.lost -= sum(events for *_, events in reached.lost)
        self._unsafe.clear()
        self._refused, self._lost, self._ends = [], [], {}
