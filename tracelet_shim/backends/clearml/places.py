"""Where an event goes: title, series and iteration that no other event of the task has.

The server keeps one scalar or plot for each task, title, series and iteration (``EventBLL.id_fields`` of clearml-server: the
next one overwrites; a file has a name besides, so files do not). So the second event of a series at one step goes to the series
``<series> ·2``, and all further ones to the title ``<title> · repeated``, series ``<series> ·step <step>``, with the record's
position as iteration; where two event files have records at one position, the next one that is free.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Sequence

from tracelet_shim import events as ev
from tracelet_shim.backends.clearml.resume import OfflineLog, Place, ServerEvents, Stored
from tracelet_shim.backends.shared.places import Places

__all__ = ["Steps", "TaskPlaces", "not_finite"]

_SERIES = 100_000
"""The number of places whose steps are remembered: a program that makes up a tag a step must not grow us without end."""
_PLOTS = (ev.Histogram, ev.PRCurve, ev.Mesh, ev.Embedding)

Mark = tuple["int | None", "float | None"]
"""Time in ms and value: what tells an event in a place from others."""


def not_finite(value: float) -> str:
    """Return the kind of a value that the server takes as no number; empty for others."""
    return "" if math.isfinite(value) else str(value)


class Steps:
    """The set of the steps of one series: a few numbers for steps that grow evenly, as nearly all do."""

    def __init__(self) -> None:
        self._runs: list[list[int]] = []  # ascending [first, last, stride], an arithmetic progression each
        self._others: set[int] = set()

    def add(self, step: int) -> bool:
        """Return True if `step` was not in the set. When there is no more room, an earlier step counts as known."""
        runs, full = self._runs, len(self._runs) + len(self._others) > 50_000
        if not runs or step > runs[-1][1]:
            if runs and (full or runs[-1][0] == runs[-1][1] or step - runs[-1][1] == runs[-1][2]):
                runs[-1][1:] = [step, step - runs[-1][1]]
            else:
                runs.append([step, step, 1])
            return True
        at = bisect.bisect_right(runs, step, key=lambda run: run[0]) - 1
        inside = at >= 0 and step <= runs[at][1] and (step - runs[at][0]) % runs[at][2] == 0
        if full or inside or step in self._others:
            return False
        self._others.add(step)
        return True

    def add_next(self) -> int:
        """Add a step above all others, and return it."""
        step = self._runs[-1][1] + 1 if self._runs else 0
        self.add(step)
        return step


class TaskPlaces:
    """The places of one task.

    Args:
        names: (event) -> title and series.
        time_ms: (event) -> its time.
        stored: where what a continued task has already is read; None for a new one.
        tell: is told of what the store has of a batch that comes again.
    """

    def __init__(
        self, names: Callable[[ev.Event], tuple[str, str]], time_ms: Callable[[ev.Event], int],
        stored: OfflineLog | ServerEvents | None = None, tell: Callable[[Stored], object] | None = None,
    ) -> None:  # fmt: skip
        self._names = names
        self._time_ms = time_ms
        self._stored = stored
        self._repeats = Places(1)
        self._taken: dict[Place, Steps] = {}
        self._placed: dict[ev.RecordId, dict[str, tuple[str, str, int]]] = {}  # of what is not written yet
        self._may_come_again = stored is not None
        self._times: Collection[int] = ()  # of the batch that may come again
        self._own: dict[tuple[Place, Mark], set[int]] = {}  # iterations at which the store has an event of that batch
        self._tell = tell

    # -- batches ----------------------------------------------------------------------------------------------------

    def begin(self, events: Sequence[ev.Event]) -> None:
        """A batch is about to be written. The first one may come again: its process was killed behind the write."""
        if self._may_come_again:
            self._times = {self._time_ms(event) for event in events}

    def done(self, events: Sequence[ev.Event], most: int) -> None:
        """The batch is written; of others that were refused `most` are remembered, since they may come again."""
        self._may_come_again, self._times = False, ()
        self._own.clear()
        for event in events:  # others of the batch may come again, after this one was written alone
            self._placed.pop(event.record, None)
        while len(self._placed) > most:
            del self._placed[next(iter(self._placed))]

    # -- places -----------------------------------------------------------------------------------------------------

    def of(self, event: ev.Event, label: str) -> tuple[str, str, int]:
        """Return title, series and iteration; the same ones when a write is retried.

        Args:
            event: the event.
            label: what stands behind the title; empty: nothing.
        """
        placed = self._placed.setdefault(event.record, {})
        place = placed.get(label)
        if place is None:
            place = placed[label] = self._find(event, label)
        return place

    def _find(self, event: ev.Event, label: str) -> tuple[str, str, int]:
        title, series = self._names(event)
        title = f"{title} · {label}" if label else title
        scalar, step = isinstance(event, ev.Scalar), event.step
        for number in self._repeats.candidates((scalar, title, series), step, known_too=self._may_come_again):
            place = Place(scalar, title, f"{series} ·2" if number else series)
            if self._is_free(place, step, event):
                self._repeats.took((scalar, title, series), step, number)
                return place.title, place.series, step
        place = Place(scalar, f"{title} · repeated", f"{series} ·step {step}")
        position = event.record.position
        if not self._is_free(place, position, event):
            own = self._own.get((place, self._mark(event)))
            position = own.pop() if own else self._steps(place).add_next()
        return place.title, place.series, position

    def _is_free(self, place: Place, iteration: int, event: ev.Event) -> bool:
        """Whether an event can go there: nothing is there, or the event itself is. Then the place is taken."""
        if self._stored is not None:
            self._learn(self._stored, place, iteration, isinstance(event, _PLOTS))
            own = self._own.get((place, self._mark(event))) if self._own else None
            if own and iteration in own:
                own.discard(iteration)  # another one that is alike, at the same time, is another one
                return True
        return self._steps(place).add(iteration)

    def _learn(self, stored: OfflineLog | ServerEvents, place: Place, iteration: int, plot: bool) -> None:
        for known in stored.look(place, iteration, plot=plot):
            self._steps(known.place).add(known.iteration)
            if known.time in self._times:
                self._own.setdefault((known.place, (known.time, known.value)), set()).add(known.iteration)
                if self._tell is not None:
                    self._tell(known)

    def _steps(self, place: Place) -> Steps:
        known = self._taken.get(place)
        if known is None:
            known = Steps()
            if len(self._taken) < _SERIES:
                self._taken[place] = known
        return known

    def _mark(self, event: ev.Event) -> Mark:
        if not isinstance(event, ev.Scalar):
            return self._time_ms(event), None
        return self._time_ms(event), 1.0 if not_finite(event.value) else event.value
