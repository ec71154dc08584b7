"""What a tracker has refused is offered to it once more."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, UnsettledLostError
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.ending import Ending
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.progress import Progress, Standing
from tracelet_shim.relay.troubles import Troubles, text_of
from tracelet_shim.relay.watch import Watch
from tracelet_shim.state.rows import Refused

__all__ = ["Offer", "Offers"]

_GAP = 16
"""So many records that were not refused are read again between two that were, rather than to read twice."""


class Offer(NamedTuple):
    """A refused event that is offered to its tracker again.

    Attributes:
        number: of its record.
        key: under which the ledger keeps it.
        refused: what it keeps.
    """

    number: int
    key: int
    refused: Refused

    def among(self, events: list[ev.Event]) -> ev.Event | None:
        """Return the event, of those of its record."""
        r = self.refused
        for event in events:
            if (event.record.index == r.part) if r.part is not None else ((event.kind, event.path[:1000]) == (r.kind, r.tag)):
                return event
        return None


class Offers:
    """What is still to be offered to a tracker again. Until each has been taken, or refused once more, it is pending.

    Args:
        log: where the events are.
        state: counts what is set aside.
        progress: counts what the tracker has.
        ending: says when time is up.
        watch: watches the tracker.
        troubles: are told.
    """

    def __init__(
        self, log: Log, state: msg.BackendState, progress: Progress, ending: Ending, watch: Watch, troubles: Troubles
    ) -> None:
        self._log = log
        self._state = state
        self._progress = progress
        self._ending = ending
        self._watch = watch
        self._troubles = troubles
        self._left: deque[Offer] = deque()
        self._made: tuple[int, list[int], list[Offer]] | None = None  # safe with so many delivered events; keys of what was taken

    def __len__(self) -> int:
        return len(self._left)

    def add(self, offers: list[Offer]) -> None:
        self._left = deque(sorted(offers, key=lambda offer: offer.number))
        self._state.failed -= len(offers)

    def put_back(self) -> None:
        """What could not be offered stays set aside."""
        self._state.failed += len(self._left)
        self._left.clear()

    def release(self, safe: Standing) -> list[int]:
        """What was taken of what was refused before is no longer set aside, once it is safe: return the keys under which the
        ledger has it."""
        if self._made is None or safe.delivered < self._made[0]:
            return []
        accepted, self._made = self._made[1], None
        return accepted

    def refused_later(self, events: int) -> None:
        """So many of the delivered events have been refused after all: those that were offered come first."""
        if self._made is not None:
            delivered, accepted, offers = self._made
            self._made = delivered - events, accepted, offers

    def go_back(self) -> None:
        """What was taken and is not safe yet is lost, and offered again."""
        if self._made is not None:
            self.add(self._made[2])
            self._made = None

    def make(self, backend: Backend) -> None:
        """Offer all, before anything else. What is taken stays set aside in the ledger until it is safe with the tracker.

        Raises:
            UnsettledLostError: as of `Backend.write`; everything is to be offered again.
        """
        offers, accepted = list(self._left), list[int]()
        try:
            while self._left and not self._ending.time_is_up:
                if not self._offer(backend, self._next(backend), accepted):
                    break
        except UnsettledLostError:
            self.put_back()
            self._progress.go_back()
            self.go_back()
            self.add(offers)
            raise
        self.put_back()
        self._progress.stand_here()
        self._made = self._state.delivered, accepted, offers

    def _next(self, backend: Backend) -> list[tuple[Offer, ev.Event]]:
        """Return what is to be offered next, with its events; what is not in its event file any more is put back."""
        start = stop = self._left[0].number
        for offer in islice(self._left, backend.batch_events):
            if offer.number > stop + _GAP:
                break
            stop = offer.number
        batch = self._log.read(start, stop + 1 - start)
        groups = batch.groups() if not batch.gone else []
        found = []
        for offer in list(islice(self._left, backend.batch_events)):
            if offer.number >= max(batch.stop, start + 1):
                break
            at = offer.number - start
            event = offer.among(groups[at]) if at < len(groups) else None
            if event is not None:
                found.append((offer, event))
                continue
            self._left.remove(offer)
            self._state.failed += 1
            self._troubles.tell("not-offered", "an event that was refused is not in its event file any more")
        return found

    def _offer(self, backend: Backend, found: list[tuple[Offer, ev.Event]], accepted: list[int]) -> bool:
        """Offer events that are the next ones; return False when there is no time left. `accepted` gets the keys of those that
        are taken."""
        attempt, size = 0, len(found)
        while found:
            events = [event for _, event in found[:size]]
            backend.written = 0
            problem = None
            try:
                with self._watch.asking("write", f"writing {len(events)} events that it refused"):
                    backend.write(events)
            except UnsettledLostError:
                raise
            except Exception as error:
                events, problem = events[: backend.written], error
            self._progress.count(events)
            accepted += [offer.key for offer, _ in found[: len(events)]]
            for _ in events:
                self._left.popleft()
            found = found[len(events) :]
            if problem is None:
                continue
            if backend.is_transient(problem):
                self._troubles.retrying("retry", text_of(problem))
                attempt = 1 if events else attempt + 1
                if not self._ending.pause(attempt):
                    return False
            elif size > 1:
                size = 1  # one of them is to blame
            else:
                self._refused_again(found.pop(0)[1], problem)
        if self._state.state == "retrying":
            self._state.state = "open"
        return True

    def _refused_again(self, event: ev.Event, error: Exception) -> None:
        """It stays set aside as it is."""
        self._left.popleft()
        self._state.failed += 1
        message = f"{event.kind} {event.path[:80]!r} at step {event.step} was refused again: {text_of(error)}"
        self._troubles.error(f"refused-{event.kind}", message)
