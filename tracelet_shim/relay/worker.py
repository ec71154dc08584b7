"""One tracker's thread: opens its run, writes batches in order, retries, closes. No other tracker notices."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

import msgspec

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, RunInfo, UnsettledLostError
from tracelet_shim.backends.registry import validate
from tracelet_shim.bus import messages as msg
from tracelet_shim.ledger import Refused, RunRow
from tracelet_shim.provenance.what_ran import WhatRan, with_tags
from tracelet_shim.relay.log import Batch, Log
from tracelet_shim.relay.own_random import keep_apart
from tracelet_shim.relay.said import why

__all__ = ["Offer", "Worker"]

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_LONGEST_TURN = 10.0
_MOST_REFUSED = 10_000
"""So many events that a tracker refused are kept in the ledger with its messages; of all others, only their places."""
_GAP = 16
"""So many records that were not refused are read again between two that were, rather than to read twice."""
_TAGS_SECONDS = 5.0
_SILENT_SECONDS = 10.0
"""A tracker that takes longer to answer is named."""
_MOVING_SECONDS = 0.2
"""So much processor time in less than that is no waiting for an answer."""
_ASK_SECONDS = 0.2

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


class Silence(NamedTuple):
    """What a tracker does not answer.

    Attributes:
        kind: ``"open"``, ``"write"``, ``"confirm"``, ``"flush"`` or ``"close"``.
        what: what it was asked, in words.
        seconds: for how long there has been no answer.
        why: what is known of the reason; may be empty.
    """

    kind: str
    what: str
    seconds: float
    why: str

    @property
    def text(self) -> str:
        """One line for people."""
        return f"it has not answered for {self.seconds:.0f} s: {self.what}" + (f" ({self.why})" if self.why else "")


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
        self._behind: str | None = None
        self.opened: msg.Opened | None = None
        self._refused: list[Refused] = []
        self._offers: deque[Offer] = deque()
        self._offered: tuple[int, list[int], list[Offer]] | None = None
        self._accepted: list[int] = []
        self._lost: deque[tuple[int, int, int]] = deque()  # behind which record, event file, events
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
        self._unflushed = False  # the latest flush has failed for good
        self._writing: tuple[Batch, int, list[ev.Event]] | None = None  # with how many events of the batch were done before
        self._writing_lock = threading.Lock()
        self._doing: tuple[str, str, float] | None = None
        self._clock: int | None = None  # of the processor time of this worker's thread
        self._moved: tuple[int, float, float] = (0, 0.0, 0.0)  # events written, processor time, when
        self._end = 0  # the number of records that are to be delivered before the end
        self._asks = True  # for what is logged while the end waits
        self._waits_at = -1  # the record that its event file has not got
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

    def restore(self, row: RunRow, lost: int = 0) -> None:
        """Before `start`: go on where an earlier worker of this session stopped, in the run that it had opened."""
        self.at = (row.cursor, row.part)
        self.state.delivered, self.state.failed, self.state.lost = row.delivered, row.failed, lost
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
        """The id of the run that this worker continues or joins, or is about to."""
        return self._run.resume

    def recount(self, events: int) -> None:
        """Before `start`: before the cursor there are so many events. What the ledger says may be half a second old."""
        self.state.delivered = max(0, events + self.at[1] - self.state.failed)
        self.safe = self.safe._replace(delivered=self.state.delivered)

    def offer(self, offers: list[Offer]) -> None:
        """Before `start`: offer these again, which the tracker has refused, before anything else. Until each has been taken, or
        refused once more, it is pending."""
        self._offers = deque(sorted(offers, key=lambda offer: offer.number))
        self.state.failed -= len(offers)

    def take_refused(self) -> list[Refused]:
        """Return the events set aside since the last time, for the ledger."""
        refused, self._refused = self._refused, []
        return refused

    def take_accepted(self) -> list[int]:
        """Return the keys of what was set aside and is with the tracker now, for the ledger."""
        accepted, self._accepted = self._accepted, []
        return accepted

    def take_lost(self, safe: Standing) -> list[tuple[str, int, int]]:
        """Return what has been lost up to there and since the last time, for the ledger: (tracker, event file, events)."""
        lost = []
        while self._lost and self._lost[0][0] <= safe.number:
            lost.append((self.name, *self._lost.popleft()[1:]))
        return lost

    # -- called from the dispatcher's thread --------------------------------------------------------------------------

    def request_flush(self, number: int) -> None:
        """Ask that everything before record `number` is delivered without waiting for a batch to fill."""
        if number > self._flushed:
            self._flushes.append(number)
            self._log.wake()

    def has_flushed(self, number: int) -> bool:
        """True if everything before record `number` is delivered and flushed, or never will be."""
        return self._flushed >= number or self.state.state in ("failed", "closed", "abandoned")

    def has_all(self, number: int) -> bool:
        """True if the tracker has stored everything before record `number`, and has refused nothing so far."""
        return self._flushed >= number and not self._unflushed and not self.state.failed

    def close(
        self, status: str, deadline: float, ended: float | None, at_least: float | None = None, *, is_last: bool
    ) -> None:
        """Begin to end: drain, close the run with `status`, at the latest at `deadline` (monotonic seconds). `is_last` if nothing
        more can come.

        The run ended at `ended`; if that is None, with the last event that is delivered here, or, if there is none, at
        `at_least`.
        """
        self._run_ended, self._at_least = ended, at_least
        self._status = status
        self._deadline = deadline
        left = deadline - time.monotonic()
        self._drain_until = deadline - min(3.0, 0.2 * left)  # the rest is for closing the run
        self._end = self._log.length
        self._asks = not is_last
        self._closing.set()
        self._log.wake()

    def end_at(self, number: int) -> None:
        """What comes behind record `number` came too late."""
        self._end, self._asks = number, False
        self._log.wake()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ended

    def report(self) -> msg.BackendState:
        """Return where this tracker stands. What it has been handed is pending until it has stored that. What was read again
        from event files is counted when it is there, so the pending may be too few, but are 0 only if nothing is missing."""
        delivered = self.safe.delivered
        unconfirmed = max(0, self.state.delivered - delivered)
        left = len(self._offers)
        if self.cursor < self._log.length:
            left = max(1, self._log.events - delivered - unconfirmed - self.state.failed)
        silence = self.silence() if self.state.error is None else None
        return msgspec.structs.replace(
            self.state, delivered=delivered, pending=left + unconfirmed, unconfirmed=unconfirmed,
            error=self.state.error if silence is None else silence.text,
        )  # fmt: skip

    def silence(self) -> Silence | None:
        """Return what the tracker has been asked and not answered for ten seconds; None if it answers, or has nothing to do."""
        doing = self._doing
        if doing is None:
            return None
        now = time.monotonic()
        written, used = self.backend.written if self.backend is not None else 0, self._used()
        if written != self._moved[0] or used - self._moved[1] > _MOVING_SECONDS:
            self._moved = (written, used, now)
        seconds = now - max(doing[2], self._moved[2])
        if seconds < _SILENT_SECONDS:
            return None
        kind, what, since = doing
        return Silence(kind, what, seconds, self._why(since))

    def _why(self, since: float) -> str:
        return why(self._thread, self.backend.module if self.backend is not None else "", since)

    def _used(self) -> float:
        """Return the processor time of the thread: an SDK that is imported on a busy machine is slow, and waits for nobody."""
        with contextlib.suppress(OSError):  # the thread is gone
            return time.clock_gettime(self._clock) if self._clock is not None else 0.0
        return 0.0

    @contextlib.contextmanager
    def _asking(self, kind: str, what: str) -> Iterator[None]:
        """Remember since when the tracker is at it."""
        self._doing = (kind, what, time.monotonic())
        try:
            yield
        finally:
            self._doing = None

    def join(self) -> bool:
        """Wait for the end, up to the deadline; return whether it ended. An SDK that hangs is left behind."""
        if self._thread.ident is None:  # a restarted relay whose training process is gone: it never began
            return True
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self._give_up.set()
            doing = self._doing
            if doing is not None and self.state.error is None:
                cause = self._why(doing[2])
                after = f"still {doing[1]} after {time.monotonic() - doing[2]:.0f} s"
                self.state.error = after + (f" ({cause})" if cause else "")
            self._count_what_was_taken()
            self.state.state = "abandoned"
        return not self._thread.is_alive()

    def _count_what_was_taken(self) -> None:
        """The tracker is left behind in the middle of a write: count what it has taken of that."""
        writing = self._take_back()
        if writing is None or self.backend is None:
            return
        batch, done, events = writing
        taken = min(self.backend.written, len(events))
        self._count(events[:taken])
        self.at = batch.place(done + taken)
        self._unsafe.append(Standing(*self.at, self.state.delivered, self.state.failed))
        if type(self.backend).unsettled is Backend.unsettled:  # else it would have to be asked, and does not answer
            self._settle()

    def _take_back(self) -> tuple[Batch, int, list[ev.Event]] | None:
        """Return what is being written, to who comes first: the write is over, or it is given up."""
        with self._writing_lock:
            writing, self._writing = self._writing, None
        return writing

    def let_open(self, until: float) -> None:
        """After the end: wait until the tracker is out of its `open`, at the latest until then (monotonic seconds). A store of
        which a part has been made may be unusable for ever."""
        if self._opens.acquire(timeout=max(0.0, until - time.monotonic())):
            self._opens.release()
        else:
            logger.warning("%s has not opened its run in time", self.name)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        clock = getattr(time, "pthread_getcpuclockid", None)  # not on every system
        self._clock = clock(threading.get_ident()) if clock is not None else None
        try:
            if self._open():
                while not self._come_to_the_end():
                    pass
        except BaseException as error:  # an SDK that raises SystemExit must not end this thread in silence
            self._fail(f"stopped by {type(error).__name__}: {error}", "internal")
            logger.exception("worker of %s stopped", self.name)
        finally:
            self._put_back()
            self._ended = True
            self._wake()

    def _come_to_the_end(self) -> bool:
        """Deliver everything and close the run; return False if what the tracker was handed is lost, and is to be delivered
        again."""
        try:
            while self._deliver():
                pass
            self._attach_at_last()
            self._close()
        except UnsettledLostError as error:
            self._go_back()
            self._forgotten(error)
            return False
        return True

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
                with _one_at_a_time(self._patience), self._opens, self._asking("open", "opening its run"):
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
                    advice = self.backend.advice(error) if self.backend is not None else ""
                    self._fail(f"cannot open a run: {_text(error)}" + (f"; remedy: {advice}" if advice else ""), "open")
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
            self._name_file()
            return False
        self._attach(backend)
        if self._offers:
            self._offer_again(backend)
            return True
        if self._has_ended():
            return False
        if self._flushes and self._flushes[0] <= self.cursor:  # whatever has come since, or was asked for
            self._flush(backend)
        if not self._log.wait(self.cursor, 0.0):
            if self._unsafe:
                self._settle()
            self._log.wait(self.cursor, 0.02 if self._flushes else _ASK_SECONDS if self._unsafe else 1.0)
            return True
        self._gather(backend)
        batch = self._log.read(self.cursor, backend.batch_events)
        if batch.stop == batch.start:  # its event file does not reach so far yet
            return self._wait_for_file()
        if batch.gone:
            self._pass_over(batch)
            return True
        self._write(backend, batch if backend.mirrors_event_files else batch.without_markers())
        return True

    def _has_ended(self) -> bool:
        """True if the end was asked for, and what was logged before it is delivered, and what has come meanwhile. What comes
        after that is not waited for: a thread that logs on and on would hold up the end until the deadline."""
        if not self._closing.is_set() or self.cursor < self._end:
            return False
        if self._asks:
            self._asks, self._end = False, sys.maxsize  # until the answer is there
            self._reply(msg.More(self.name))
            self._wake()
        return self.cursor >= self._end

    def _forgotten(self, error: UnsettledLostError) -> None:
        self._note("written events were lost", error)
        self._retrying(_text(error), "retry")
        self._pause(1)

    def _pass_over(self, batch: Batch) -> None:
        """Count what is nowhere any more, and name the files that should have had it."""
        for source, records in Counter(batch.gone).items():
            if source is not None:
                self._lost.append((batch.stop, source, records))
                what = self._log.lacks(source)
                self._reply(msg.Trouble(self.name, f"lost-{source}", f"events are lost: {what}"))
                self.state.error = f"events are lost: {what}"
        self.state.failed += batch.lost
        self.state.lost += batch.lost
        self._stand(batch, 0)

    def _attach(self, backend: Backend) -> bool:
        """Attach what ran, as soon as that is known; return whether it may be tried again. No event waits for a second try."""
        if self._unattached is None:
            self._unattached = self._what_ran.files()
        while self._unattached and time.monotonic() >= self._attach_at:
            event = self._unattached[0]
            try:
                with self._asking("write", f"attaching {event.tag}"):
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
        with self._asking("confirm", "asking what it has stored"):
            settled = self.state.delivered - self.backend.unsettled()
            settled -= self._take_refused(self.backend)
        self._say_behind(self.backend.behind() if self._unsafe else None)
        before = self.safe
        while self._unsafe and self._unsafe[0].delivered <= settled:
            self.safe = self._unsafe.popleft()
        if self.safe is not before:
            self._log.mark(self.name, self.safe)
            self._release()

    def _take_refused(self, backend: Backend) -> int:
        """Count what the tracker has refused after it had been handed over."""
        refused = backend.take_refused()
        for text in refused:
            self.state.error = text
            self._reply(msg.Trouble(self.name, "refused-later", text))
        if count := len(refused):
            self.state.delivered -= count
            self.state.failed += count
            self._unsafe = deque(s._replace(delivered=s.delivered - count, failed=s.failed + count) for s in self._unsafe)
        return count

    def _say_behind(self, why: str | None) -> None:
        """Tell why what was handed over is not acknowledged, when that changes."""
        if why != self._behind and why is not None:
            self._retrying(why, "behind")
        elif why is None and self._behind is not None and self.state.state == "retrying":
            self.state.state, self.state.error = "open", None
        self._behind = why

    def _go_back(self) -> None:
        """Stand where everything is safe; what comes after that is delivered again."""
        number, part, self.state.delivered, self.state.failed = self.safe
        self.at = (number, part)
        self._unsafe.clear()
        while self._lost and self._lost[-1][0] > number:
            self.state.lost -= self._lost.pop()[2]
        if self._offered is not None:
            self.offer(self._offered[2])
            self._offered = None

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
            with self._asking("flush", "flushing what it was given"):
                backend.flush()
        except Exception as error:
            self._retrying(f"flush failed: {_text(error)}", "flush")
            if backend.is_transient(error):
                self._give_up.wait(_FIRST_DELAY)
                return  # and again
            self._unflushed = True
        else:
            self._unflushed = False
            if self._unsafe:
                self._settle()
            if self.state.state == "retrying":
                self.state.state, self.state.error = "open", None
            if self._unsafe and self.safe.number < self._flushes[0]:  # not stored yet, and may be lost
                self._give_up.wait(_ASK_SECONDS)
                return
        self._flushed = self.safe.number if self._unsafe and not self._unflushed else self.cursor
        while self._flushes and self._flushes[0] <= self._flushed:
            self._flushes.popleft()
        self._wake()

    def _wait_for_file(self) -> bool:
        self._waits_at = self.cursor
        self._closing.wait(0.2) if not self._closing.is_set() else time.sleep(0.1)
        return True

    def _name_file(self) -> None:
        """Time is up: if an event file has not got the next record, say which one."""
        if self._waits_at == self.cursor < self._log.length and not self._give_up.is_set():
            self.state.error = f"{self._log.lacks(number=self.cursor)}; delivery stands there"
            self._reply(msg.Trouble(self.name, "file", self.state.error))

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
            self._writing = (batch, done, events)
            try:
                with self._asking("write", f"writing {len(events)} events"):
                    backend.write(events)
            except UnsettledLostError:
                self._take_back()
                raise
            except BaseException as error:
                if self._take_back() is None:
                    return
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
                if self._take_back() is None:
                    return
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
                with self._asking("write", "writing an event"):
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

    # -- what was refused, once more ----------------------------------------------------------------------------------

    def _offer_again(self, backend: Backend) -> None:
        """Offer what was refused before. What is taken stays set aside in the ledger until it is safe with the tracker."""
        offers, accepted = list(self._offers), list[int]()
        try:
            while self._offers and not self._give_up.is_set() and time.monotonic() <= self._drain_until:
                if not self._offer(backend, self._next_offers(backend), accepted):
                    break
        except UnsettledLostError as error:
            self._put_back()
            self._go_back()
            self.offer(offers)
            self._forgotten(error)
            return
        self._put_back()
        self._unsafe.append(Standing(*self.at, self.state.delivered, self.state.failed))
        self._offered = self.state.delivered, accepted, offers
        self._settle()

    def _next_offers(self, backend: Backend) -> list[tuple[Offer, ev.Event]]:
        """Return what is to be offered next, with its events; what is not in its event file any more is put back."""
        start = stop = self._offers[0].number
        for offer in islice(self._offers, backend.batch_events):
            if offer.number > stop + _GAP:
                break
            stop = offer.number
        batch = self._log.read(start, stop + 1 - start)
        groups = batch.groups() if not batch.gone else []
        found = []
        for offer in list(islice(self._offers, backend.batch_events)):
            if offer.number >= max(batch.stop, start + 1):
                break
            at = offer.number - start
            event = offer.among(groups[at]) if at < len(groups) else None
            if event is not None:
                found.append((offer, event))
                continue
            self._offers.remove(offer)
            self.state.failed += 1
            self._reply(msg.Trouble(self.name, "not-offered", "an event that was refused is not in its event file any more"))
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
                with self._asking("write", f"writing {len(events)} events that it refused"):
                    backend.write(events)
            except UnsettledLostError:
                raise
            except Exception as error:
                events, problem = events[: backend.written], error
            self._count(events)
            accepted += [offer.key for offer, _ in found[: len(events)]]
            for _ in events:
                self._offers.popleft()
            found = found[len(events) :]
            if problem is None:
                continue
            if backend.is_transient(problem):
                self._retrying(_text(problem), "retry")
                attempt = 1 if events else attempt + 1
                if not self._pause(attempt):
                    return False
            elif size > 1:
                size = 1  # one of them is to blame
            else:
                self._refused_again(found.pop(0)[1], problem)
        if self.state.state == "retrying":
            self.state.state = "open"
        return True

    def _refused_again(self, event: ev.Event, error: Exception) -> None:
        """It stays set aside as it is."""
        self._offers.popleft()
        self.state.failed += 1
        self.state.error = f"{event.kind} {event.path[:80]!r} at step {event.step} was refused again: {_text(error)}"
        self._reply(msg.Trouble(self.name, f"refused-{event.kind}", self.state.error))

    def _put_back(self) -> None:
        """What could not be offered stays set aside."""
        self.state.failed += len(self._offers)
        self._offers.clear()

    def _release(self) -> None:
        """What was taken of what was refused before is no longer set aside, once it is safe."""
        if self._offered is not None and self.safe.delivered >= self._offered[0]:
            self._accepted += self._offered[1]
            self._offered = None

    def _count(self, delivered: list[ev.Event]) -> None:
        data = delivered
        if markers := list(map(type, delivered)).count(ev.Marker):  # they have the time at which their file was made
            data = [event for event in delivered if type(event) is not ev.Marker]
        if data:
            last = max(map(_wall_time, data))
            if not math.isfinite(last):  # some are NaN or infinite
                last = max(filter(math.isfinite, map(_wall_time, data)), default=-math.inf)
            self._last_event = max(self._last_event, last)
        self.state.delivered += len(delivered) - markers

    def _set_aside(self, event: ev.Event, error: Exception) -> None:
        self.state.failed += 1
        message = f"{event.kind} {event.path[:80]!r} at step {event.step} was refused: {_text(error)}"
        self.state.error = message
        at = event.record
        refused = Refused(
            self.name, at.file, at.position, event.kind, event.path[:1000], event.step, _text(error), time.time(), None, at.index
        )
        if self.state.failed > _MOST_REFUSED:
            refused = refused._replace(kind=None, tag=None, step=None, message=None)
        self._refused.append(refused)
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
                self._settle()
            if self._unsafe:
                count = self.state.delivered - self.safe.delivered
                self.state.error = f"its run was ended before it had acknowledged {count} events"

    def _attempt(self, what: str, backend: Backend, do: Callable[[], None]) -> bool:
        """Do one of the last things, again and again if that may help, until the deadline; return whether it was done."""
        attempt = 0
        while True:
            try:
                with self._asking("close", f"{what} its run"):
                    do()
            except UnsettledLostError:
                raise
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
    if isinstance(error, (errors.TraceletError, UnsettledLostError)):
        return first or name
    return f"{name}: {first[:300]}" if first else name
