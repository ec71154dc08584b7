"""One tracker's thread: opens its run, writes batches in order, retries, closes. No other tracker notices."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, RunInfo, UnsettledLostError
from tracelet_shim.backends.registry import validate
from tracelet_shim.bus import messages as msg
from tracelet_shim.ledger import RunRow
from tracelet_shim.relay.log import Batch, Log
from tracelet_shim.relay.own_random import keep_apart
from tracelet_shim.relay.what_ran import WhatRan, with_tags

__all__ = ["Worker"]

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_LONGEST_TURN = 10.0
_MOST_REFUSED = 10_000
"""So many events that a tracker refused are kept in the ledger one by one; of all others, only their number."""
_TAGS_SECONDS = 5.0
_wall_time = attrgetter("wall_time")

logger = logging.getLogger("tracelet_shim.relay")


_opening = threading.Lock()
_jitter = random.Random()  # noqa: S311 - not the program's, where we live in its process


@contextlib.contextmanager
def _one_at_a_time(patience: Callable[[], float]) -> Iterator[None]:
    """Let one tracker open at a time: SDKs share libraries, and importing those in several threads at once can go wrong
    (partially initialised modules). A tracker that is stuck holds the others up for a few seconds only.

    Args:
        patience: seconds that the wait may take from its begin; asked again and again, since the end may come meanwhile.
    """
    since = time.monotonic()
    mine = _opening.acquire(blocking=False)
    while not mine and time.monotonic() - since < patience():
        mine = _opening.acquire(timeout=0.1)
    try:
        yield
    finally:
        if mine:
            _opening.release()


class Standing(NamedTuple):
    """How far a tracker is: the number of the record that comes next, how many of its events have been delivered, and how many
    events have been delivered and refused in all."""

    number: int
    part: int
    delivered: int
    failed: int


class Worker:
    """Delivers the log to one tracker.

    Args:
        spec: which backend, with its options.
        run: what the run is opened with.
        log: where the events are.
        what_ran: what is attached to a run that this worker opens, and is not there yet.
        reply: takes replies; called from this worker's thread.
        wake: called when a flush is done, and at the end.
        backend: a backend object, instead of the class that `spec` names.

    Attributes:
        at: the number of the record that comes next, and how many of its events have been delivered.
        safe: how far the tracker is with what no kill can take from it; who goes on after one goes on from here.
    """

    def __init__(
        self,
        spec: msg.BackendSpec,
        run: RunInfo,
        log: Log,
        what_ran: WhatRan,
        reply: Callable[[msg.Reply], None],
        wake: Callable[[], None],
        backend: Backend | None,
    ) -> None:
        self.name = spec.name
        self.state = msg.BackendState()
        self.backend = backend
        self.at = (0, 0)
        self.safe = Standing(0, 0, 0, 0)
        self._unsafe: deque[Standing] = deque()
        self.opened: msg.Opened | None = None
        self._refused: list[tuple[Any, ...]] = []
        self._errors: dict[type[BaseException], int] = {}
        self._spec = spec
        self._run = msgspec.structs.replace(run, resume=spec.resume, borrowed=spec.borrowed) if spec.resume else run
        self._log = log
        self._what_ran = what_ran
        self._fresh: RunInfo | None = None  # for the case that the run to continue is gone
        self._unattached: list[ev.Blob] | None = None  # None: not known yet
        self._attach_at = 0.0
        self._reply = reply
        self._wake = wake
        self._ended = False
        self._opens = threading.Lock()  # held while the tracker may be making its store
        self._flushes: deque[int] = deque()  # asked for, and not done
        self._flushed = 0
        self._closing = threading.Event()
        self._give_up = threading.Event()
        self._deadline = self._drain_until = float("inf")
        self._status = "finished"
        self._run_ended: float | None = None
        self._at_least: float | None = None
        self._last_event = -math.inf
        self._thread = threading.Thread(target=self._main, name=f"tracelet-{spec.name}", daemon=True)
        log.add_cursor(lambda: self.cursor)

    def start(self) -> None:
        self._thread.start()

    @property
    def cursor(self) -> int:
        """The number of records that are done with."""
        return self.at[0]

    def restore(self, row: RunRow) -> None:
        """Before `start`: go on where an earlier worker of this session stopped, in the run that it had opened."""
        self.at = (row.cursor, row.part)
        self.state.delivered, self.state.failed = row.delivered, row.failed
        self.safe = Standing(*self.at, row.delivered, row.failed)
        if row.run_id is not None:
            self.opened = msg.Opened(self.name, row.run_id, row.url)
            self._run = msgspec.structs.replace(self._run, resume=row.run_id)

    def resume(self, run_id: str) -> None:
        """Before `start`: continue this run if it is still there, unless another one was asked for."""
        if self._run.resume is None:
            self._fresh = self._run
            self._run = msgspec.structs.replace(self._run, resume=run_id)

    @property
    def continues(self) -> str | None:
        """The id of the run that this worker continues, or is about to."""
        return self._run.resume if not self._run.borrowed else None

    def recount(self, events: int) -> None:
        """Before `start`: before the cursor there are so many events. What the ledger says may be half a second old."""
        self.state.delivered = max(0, events + self.at[1] - self.state.failed)
        self.safe = self.safe._replace(delivered=self.state.delivered)

    def take_refused(self) -> list[tuple[Any, ...]]:
        """Return the events set aside since the last time, for the ledger."""
        refused, self._refused = self._refused, []
        return refused

    # -- called from the dispatcher's thread --------------------------------------------------------------------------

    def request_flush(self, number: int) -> None:
        """Ask that everything before record `number` is delivered without waiting for a batch to fill."""
        if number > self._flushed:
            self._flushes.append(number)
            self._log.wake()

    def has_flushed(self, number: int) -> bool:
        """True if everything before record `number` is delivered and flushed, or never will be."""
        return self._flushed >= number or self.state.state in ("failed", "closed", "abandoned")

    def close(self, status: str, deadline: float, ended: float | None, at_least: float | None = None) -> None:
        """Begin to end: drain, close the run with `status`, at the latest at `deadline` (monotonic seconds).

        The run ended at `ended`; if that is None, with the last event that is delivered here, or, if there is none, at
        `at_least`.
        """
        self._run_ended, self._at_least = ended, at_least
        self._status = status
        self._deadline = deadline
        left = deadline - time.monotonic()
        self._drain_until = deadline - min(3.0, 0.2 * left)  # the rest is for closing the run
        self._closing.set()
        self._log.wake()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ended

    def pending(self) -> int:
        """Return the number of events that are still to be delivered. What was read again from event files is counted when
        it is there, so this may be too small, but is 0 only if nothing is missing."""
        if self.cursor >= self._log.length:
            return 0
        return max(1, self._log.events - self.state.delivered - self.state.failed)

    def join(self) -> bool:
        """Wait for the end, up to the deadline; return whether it ended. An SDK that hangs is left behind."""
        if self._thread.ident is None:  # a restarted relay whose training process is gone: it never began
            return True
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self._give_up.set()
            self.state.state = "abandoned"
        return not self._thread.is_alive()

    def let_open(self, until: float) -> None:
        """After the end: wait until the tracker is out of its `open`, at the latest until then (monotonic seconds). A store of
        which a part has been made may be unusable for ever."""
        if self._opens.acquire(timeout=max(0.0, until - time.monotonic())):
            self._opens.release()
        else:
            logger.warning("%s has not opened its run in time", self.name)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            if self._open():
                while self._deliver():
                    pass
                self._attach_at_last()
                self._close()
        except BaseException as error:  # an SDK that raises SystemExit must not end this thread in silence
            self._fail(f"stopped by {type(error).__name__}: {error}", "internal")
            logger.exception("worker of %s stopped", self.name)
        finally:
            self._ended = True
            self._wake()

    def _open(self) -> bool:
        """Open the run, trying again as long as that may help; return whether it is open."""
        attempt = 0
        if self._run.resume is None:
            found = self._what_ran.tags(min(_TAGS_SECONDS, self._patience()))
            self._run = with_tags(self._run, found)
        else:
            self._unattached = []  # it has them, or is the user's
        while not self._give_up.is_set():
            try:
                if self.backend is None:
                    module, _, name = self._spec.target.partition(":")
                    self.backend = validate(getattr(import_module(module), name))(self._spec.options)
                if self._run.program.pid == os.getpid():
                    keep_apart(self.backend.module)
                with _one_at_a_time(self._patience), self._opens:
                    if self._give_up.is_set():
                        return False
                    opened = self.backend.open(self._run)
            except Exception as error:
                transient = self.backend is not None and self.backend.is_transient(error)
                self._note("cannot open a run", error)
                if not transient and self._fresh is not None:
                    gone = f"run {self._run.resume} of the job's earlier start cannot be continued ({_text(error)})"
                    self._reply(msg.Trouble(self.name, "not-continued", f"{gone}; a new one is opened"))
                    self._run, self._fresh = self._fresh, None
                    self._unattached = None
                    continue
                if not transient:
                    self._fail(f"cannot open a run: {_text(error)}", "open")
                    return False
                self._retrying(f"cannot open a run yet: {_text(error)}", "open")
                attempt += 1
                if not self._pause(attempt):
                    self._fail(f"no run could be opened: {_text(error)}", "open")
                    return False
                continue
            self.state.state = "open"
            self.state.error = None
            self.opened = msg.Opened(self.name, opened.run_id, opened.url)
            self._reply(self.opened)
            return True
        return False

    def _patience(self) -> float:
        """Return how long to wait for another tracker that is being opened: at the end, a part of the time that is left."""
        return min(_LONGEST_TURN, (self._drain_until - time.monotonic()) / 3)

    def _deliver(self) -> bool:
        """Write one batch; return False when everything is delivered and the end was asked for, or time is up."""
        backend = self.backend
        assert backend is not None
        if self._give_up.is_set() or time.monotonic() > self._drain_until:
            return False
        self._attach(backend)
        if self._flushes and self._flushes[0] <= self.cursor:  # whatever has come since, or was asked for
            self._flush(backend)
        if not self._log.wait(self.cursor, 0.0):
            if self._closing.is_set() and self.cursor >= self._log.length:
                return False
            if self._unsafe:
                self._settle()
            self._log.wait(self.cursor, 0.02 if self._flushes else 0.2 if self._unsafe else 1.0)
            return True
        self._gather(backend)
        batch = self._log.read(self.cursor, backend.batch_events)
        if batch.stop == batch.start:  # its event file does not reach so far yet
            return self._wait_for_file()
        try:
            self._write(backend, batch if backend.mirrors_event_files else batch.without_markers())
        except UnsettledLostError as error:
            self._go_back()
            self._note("written events were lost", error)
            self._retrying(_text(error), "retry")
            self._pause(1)
            return True
        if batch.lost:
            self.state.failed += batch.lost
            self.state.error = f"{batch.lost} events did not fit into memory and cannot be read from their event files"
            self._reply(msg.Trouble(self.name, "lost", self.state.error))
        return True

    def _attach(self, backend: Backend) -> bool:
        """Attach what ran, as soon as that is known; return whether it may be tried again. No event waits for a second try."""
        if self._unattached is None:
            self._unattached = self._what_ran.files()
        while self._unattached and time.monotonic() >= self._attach_at:
            event = self._unattached[0]
            try:
                backend.attach(event.tag, event.data, event)
            except Exception as error:
                logger.warning("%s: %s was not attached", self.name, event.tag, exc_info=True)
                if backend.is_transient(error):
                    self._attach_at = time.monotonic() + _LONGEST_DELAY
                    return True
                self._reply(msg.Trouble(self.name, "what-ran", f"{event.tag} was refused: {_text(error)}"))
            self._unattached.pop(0)
        return bool(self._unattached)

    def _attach_at_last(self) -> None:
        """Everything else is delivered, or time is up: attach what is still to be attached."""
        assert self.backend is not None
        if self._unattached is None:
            self._unattached = self._what_ran.files(self._drain_until - time.monotonic())
        self._attach_at = 0.0
        attempt = 0
        while self._attach(self.backend):
            attempt += 1
            if not self._pause(attempt):
                break
            self._attach_at = 0.0
        if self._unattached or self._unattached is None:
            self._reply(msg.Trouble(self.name, "what-ran", "what ran was not attached to the run in time"))

    def _stand(self, batch: Batch, done: int) -> None:
        """Stand behind the first `done` events of a batch: what was delivered is not delivered again by whoever goes on from
        here."""
        self.at = batch.place(done)
        self._unsafe.append(Standing(*self.at, self.state.delivered, self.state.failed))
        self._settle()

    def _settle(self) -> None:
        """Note on disk how far the tracker is with what is safe."""
        assert self.backend is not None
        settled = self.state.delivered - self.backend.unsettled()
        before = self.safe
        while self._unsafe and self._unsafe[0].delivered <= settled:
            self.safe = self._unsafe.popleft()
        if self.safe is not before:
            self._log.mark(self.name, self.safe)

    def _go_back(self) -> None:
        """Stand where everything is safe; what comes after that is delivered again."""
        number, part, self.state.delivered, self.state.failed = self.safe
        self.at = (number, part)
        self._unsafe.clear()

    def _gather(self, backend: Backend) -> None:
        """Let a batch fill: by count, or for `batch_seconds`, unless a flush or the end is waiting."""
        until = time.monotonic() + backend.batch_seconds
        while (
            self._log.length - self.cursor < backend.batch_events
            and not self._closing.is_set()
            and not (self._flushes and self._flushes[-1] > self.cursor)
            and (left := until - time.monotonic()) > 0
        ):
            self._log.wait(self.cursor + backend.batch_events - 1, min(left, 0.1))

    def _flush(self, backend: Backend) -> None:
        """Flush the tracker: everything before the cursor is delivered."""
        try:
            backend.flush()
        except Exception as error:
            self._retrying(f"flush failed: {_text(error)}", "flush")
            if backend.is_transient(error):
                self._give_up.wait(_FIRST_DELAY)
                return  # and again
        else:
            if self.state.state == "retrying":
                self.state.state, self.state.error = "open", None
        self._flushed = self.cursor
        while self._flushes and self._flushes[0] <= self._flushed:
            self._flushes.popleft()
        self._wake()

    def _wait_for_file(self) -> bool:
        if self._closing.is_set() and time.monotonic() > self._drain_until:
            return False
        self._closing.wait(0.2) if not self._closing.is_set() else time.sleep(0.1)
        return True

    def _write(self, backend: Backend, batch: Batch) -> None:
        """Deliver the events of `batch`, whatever it takes: retry what may pass, set aside what cannot. When there is no time
        left, the cursor stays at the first event that was not delivered.

        Raises:
            UnsettledLostError: as of `Backend.write`.
        """
        attempt = 0
        done = self.at[1]
        events = batch.events[done:] if done else batch.events
        while events and not self._give_up.is_set():
            backend.written = 0
            try:
                backend.write(events)
            except UnsettledLostError:
                raise
            except BaseException as error:
                written = backend.written
                self._count(events[:written])
                done += written
                self._stand(batch, done)
                events = events[written:]
                if not isinstance(error, Exception):  # the end of this worker, but not to be delivered twice afterwards
                    raise
                if written:
                    attempt = 0
                if not events:
                    return
                self._note(f"write failed at {events[0].path[:200]}", error)
                if backend.is_transient(error):
                    self._retrying(_text(error), "retry")
                    attempt += 1
                    if not self._pause(attempt):
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
                self._count(events)
                events = []
                if self.state.state == "retrying":
                    self.state.state, self.state.error = "open", None
        if not events:
            self._stand(batch, len(batch.events))

    def _one_by_one(self, backend: Backend, events: list[ev.Event]) -> list[ev.Event]:
        """A batch of scalars was refused as a whole: find the one that is to blame. Return what is left to write."""
        while events and isinstance(events[0], ev.Scalar) and not self._give_up.is_set():
            try:
                backend.write(events[:1])
            except UnsettledLostError:
                raise
            except Exception as error:
                if backend.is_transient(error):
                    return events
                self._set_aside(events[0], error)
            else:
                self._count(events[:1])
            events = events[1:]
        return events

    def _count(self, delivered: list[ev.Event]) -> None:
        if delivered:
            last = max(map(_wall_time, delivered))
            if not math.isfinite(last):  # some are NaN or infinite
                last = max(filter(math.isfinite, map(_wall_time, delivered)), default=-math.inf)
            self._last_event = max(self._last_event, last)
        self.state.delivered += len(delivered) - list(map(type, delivered)).count(ev.Marker)

    def _set_aside(self, event: ev.Event, error: Exception) -> None:
        self.state.failed += 1
        message = f"{event.kind} {event.path[:80]!r} at step {event.step} was refused: {_text(error)}"
        self.state.error = message
        at = event.record
        if self.state.failed <= _MOST_REFUSED:
            self._refused.append(
                (self.name, at.file, at.position, event.kind, event.path[:1000], event.step, _text(error), time.time())
            )
        self._reply(msg.Trouble(self.name, f"refused-{event.kind}", message))

    def _pause(self, attempt: int) -> bool:
        """Back off; return False when there is no time left."""
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempt - 1)) * _jitter.uniform(0.7, 1.3)
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            if self._give_up.wait(min(left, 0.25)):
                return False
            if self._closing.is_set():  # little time: try sooner
                until = min(until, time.monotonic() + 1.0)
                if time.monotonic() > self._drain_until:
                    return False
        return True

    def _note(self, what: str, error: BaseException) -> None:
        """Log an error the first, second, fourth, eighth ... time that one of its type comes: days of an outage, or a
        million events that are refused, must not fill the disk."""
        times = self._errors[type(error)] = self._errors.get(type(error), 0) + 1
        if times & (times - 1) == 0:
            logger.warning("%s: %s (error %d of this type)", self.name, what, times, exc_info=error)

    def _retrying(self, message: str, kind: str) -> None:
        self.state.state = "retrying"
        self.state.error = message
        self._reply(msg.Trouble(self.name, kind, message))

    def _fail(self, message: str, kind: str) -> None:
        self.state.state = "failed"
        self.state.error = message
        self._reply(msg.Trouble(self.name, kind, message))

    def _close(self) -> None:
        backend = self.backend
        assert backend is not None
        if self._give_up.is_set():
            return
        if self._attempt("flushing", backend, backend.flush) and self._unsafe:
            self._settle()
        backend.ended = self._run_ended
        if backend.ended is None:
            last = self._last_event if math.isfinite(self._last_event) else self._at_least
            backend.ended = None if last is None else max(last, self._run.started)
        if self._attempt("closing", backend, lambda: backend.close(self._status)):
            self.state.state = "closed"  # whatever became of the flush before
            if self._unsafe:
                self.safe = self._unsafe.pop()
                self._log.mark(self.name, self.safe)

    def _attempt(self, what: str, backend: Backend, do: Callable[[], None]) -> bool:
        """Do one of the last things, again and again if that may help, until the deadline; return whether it was done."""
        attempt = 0
        while True:
            try:
                do()
            except Exception as error:
                self._note(f"{what} the run failed", error)
                attempt += 1
                left = self._deadline - 0.5 - time.monotonic()
                if backend.is_transient(error) and left > 0:
                    self._retrying(f"{what} the run failed: {_text(error)}", "close")
                    if not self._give_up.wait(min(_FIRST_DELAY * attempt, left)):
                        continue
                self._fail(f"{what} the run failed: {_text(error)}", "close")
                return False
            return True


def _text(error: BaseException) -> str:
    """One line of an error, for people; SDKs put whole pages into theirs."""
    name = type(error).__name__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, errors.TraceletError):
        return first or name
    return f"{name}: {first[:300]}" if first else name
