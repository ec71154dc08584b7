"""A batch of events to one tracker, whatever it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, UnsettledLostError
from tracelet_shim.relay.batch import Batch
from tracelet_shim.relay.ending import Ending
from tracelet_shim.relay.progress import Progress
from tracelet_shim.relay.troubles import Troubles, text_of
from tracelet_shim.relay.watch import Watch

__all__ = ["Writing"]


class Writing:
    """Writes batches: retries what may pass, sets aside what cannot.

    Args:
        progress: counts what the tracker has.
        ending: says when time is up.
        watch: watches the tracker.
        troubles: are told.
        confirm: called whenever the tracker stands somewhere else.
    """

    def __init__(
        self, progress: Progress, ending: Ending, watch: Watch, troubles: Troubles, confirm: Callable[[], None]
    ) -> None:
        self._progress = progress
        self._ending = ending
        self._watch = watch
        self._troubles = troubles
        self._confirm = confirm
        self._now: tuple[Batch, int, list[ev.Event]] | None = None  # with how many events of the batch were done before
        self._lock = threading.Lock()

    def write(self, backend: Backend, batch: Batch) -> None:
        """Deliver the events of `batch`. When there is no time left, the cursor stays at the first that was not delivered.

        Raises:
            UnsettledLostError: as of `Backend.write`.
        """
        attempt = 0
        done = self._progress.at[1]
        events = batch.events[done:] if done else batch.events
        while events and not self._ending.give_up.is_set():
            backend.written = 0
            self._now = (batch, done, events)
            try:
                with self._watch.asking("write", f"writing {len(events)} events"):
                    backend.write(events)
            except UnsettledLostError:
                self._take_back()
                raise
            except BaseException as error:
                if self._take_back() is None:
                    return
                written = backend.written
                self._progress.count(events[:written])
                done += written
                self._stand(batch, done)
                events = events[written:]
                if not isinstance(error, Exception):  # the end of this worker, but not to be delivered twice afterwards
                    raise
                if written:
                    attempt = 0
                if not events:
                    return
                self._troubles.note(f"write failed at {events[0].path[:200]}", error)
                if backend.is_transient(error):
                    self._troubles.retrying("retry", text_of(error))
                    attempt += 1
                    if not self._ending.pause(attempt):
                        return
                    continue
                if len(events) > 1 and isinstance(events[0], ev.Scalar) and isinstance(events[1], ev.Scalar):
                    left = self._one_by_one(backend, events)
                else:
                    self._set_aside(events[0], error)
                    left = events[1:]
                done += len(events) - len(left)
                self._stand(batch, done)
                events = left
            else:
                if self._take_back() is None:
                    return
                self._progress.count(events)
                events = []
                self._troubles.passed()
        if not events:
            self._stand(batch, len(batch.events))

    def _one_by_one(self, backend: Backend, events: list[ev.Event]) -> list[ev.Event]:
        """A batch of scalars was refused as a whole: find the one that is to blame. Return what is left to write."""
        while events and isinstance(events[0], ev.Scalar) and not self._ending.give_up.is_set():
            try:
                with self._watch.asking("write", "writing an event"):
                    backend.write(events[:1])
            except UnsettledLostError:
                raise
            except Exception as error:
                if backend.is_transient(error):
                    return events
                self._set_aside(events[0], error)
            else:
                self._progress.count(events[:1])
            events = events[1:]
        return events

    def _set_aside(self, event: ev.Event, error: Exception) -> None:
        reason = text_of(error)
        self._progress.set_aside(event, reason)
        message = f"{event.kind} {event.path[:80]!r} at step {event.step} was refused: {reason}"
        self._troubles.error(f"refused-{event.kind}", message)

    def _stand(self, batch: Batch, done: int) -> None:
        self._progress.stand(batch, done)
        self._confirm()

    def leave(self, backend: Backend) -> bool:
        """The tracker is left behind, maybe in the middle of a write: count what it has taken of that. Return whether there was
        one. Called from the dispatcher's thread."""
        writing = self._take_back()
        if writing is None:
            return False
        batch, done, events = writing
        taken = min(backend.written, len(events))
        self._progress.count(events[:taken])
        self._progress.stand(batch, done + taken)
        return True

    def _take_back(self) -> tuple[Batch, int, list[ev.Event]] | None:
        """Return what is being written, to who comes first: the write is over, or it is given up."""
        with self._lock:
            writing, self._now = self._now, None
        return writing
