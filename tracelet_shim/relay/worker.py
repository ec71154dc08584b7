"""One tracker's thread: opens its run, writes batches in order, closes. No other tracker notices."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

import msgspec

from tracelet_shim.backends.base import Backend, RunInfo, UnsettledLostError
from tracelet_shim.bus import messages as msg
from tracelet_shim.provenance.what_ran import WhatRan
from tracelet_shim.relay.attachments import Attachments
from tracelet_shim.relay.batch import Batch
from tracelet_shim.relay.ending import FIRST_DELAY, Ending
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.offers import Offers
from tracelet_shim.relay.opening import Opening
from tracelet_shim.relay.progress import Progress
from tracelet_shim.relay.troubles import Troubles, text_of
from tracelet_shim.relay.watch import Silence, Watch
from tracelet_shim.relay.writing import Writing
from tracelet_shim.state.rows import RunRow, Shown
from tracelet_shim.state.session import LeftError, SessionState

__all__ = ["Worker"]

_ASK_SECONDS = 0.2

logger = logging.getLogger("tracelet_shim.relay")


class Worker:
    """Delivers the log to one tracker.

    Args:
        spec: which backend, with its options.
        run: what the run is opened with.
        log: where the events are.
        what_ran: what is attached to a run that this worker opens, and is not there yet.
        reply: takes replies; called from this worker's thread.
        wake: called when a flush is done, and at the end.
        session: keeps where the tracker stands.
        backend: a backend object, instead of the class that `spec` names.

    Attributes:
        state: what the tracker has been handed, and its latest trouble.
        progress: how far it is.
        offers: what is offered to it again.
        opened: its run, once that is open, or as an earlier worker had opened it.
    """

    def __init__(
        self,
        spec: msg.BackendSpec,
        run: RunInfo,
        log: Log,
        what_ran: WhatRan,
        reply: Callable[[msg.Reply], None],
        wake: Callable[[], None],
        session: SessionState,
        backend: Backend | None,
    ) -> None:
        self.name = spec.name
        self.state = msg.BackendState()
        self.opened: msg.Opened | None = None
        self._log = log
        self._reply = reply
        self._wake = wake
        self._session = session
        self._thread = threading.Thread(target=self._main, name=f"tracelet-{spec.name}", daemon=True)
        self._ending = Ending()
        self._watch = Watch(self._thread)
        self._watch.backend = backend
        self._troubles = Troubles(spec.name, self.state, reply)
        self.progress = Progress(spec.name, self.state)
        self.offers = Offers(log, self.state, self.progress, self._ending, self._watch, self._troubles)
        self._writing = Writing(self.progress, self._ending, self._watch, self._troubles, self._confirm)
        self._attachments = Attachments(spec.name, what_ran, self._ending, self._watch, self._troubles)
        self._opening = Opening(spec, run, what_ran, self._attachments, self._ending, self._watch, self._troubles)
        self._ended = False
        self._flushes: deque[int] = deque()  # asked for, and not done
        self._flushed = 0
        self._unflushed = False  # the latest flush has failed for good
        self._behind: str | None = None
        self._waits_at = -1  # the record that its event file has not got
        log.add_cursor(lambda: self.cursor)

    def start(self) -> None:
        self._thread.start()

    @property
    def backend(self) -> Backend | None:
        """The backend object, once there is one."""
        return self._watch.backend

    @property
    def cursor(self) -> int:
        """The number of records that are done with."""
        return self.progress.at[0]

    def restore(self, row: RunRow, lost: int = 0) -> None:
        """Before `start`: go on where an earlier worker of this session stopped, in the run that it had opened."""
        self.progress.restore(row, lost)
        if row.run_id is not None:
            self.opened = msg.Opened(self.name, row.run_id, row.url)
            self._opening.continue_run(row.run_id)

    def resume(self, run_id: str) -> None:
        """Before `start`: continue this run if it is still there, unless another one was asked for."""
        self._opening.continue_job(run_id)

    @property
    def continues(self) -> str | None:
        """The id of the run that this worker continues or joins, or is about to."""
        return self._opening.run.resume

    @property
    def shown(self) -> Shown:
        """What there is to be seen of the run, for the ledger."""
        run_id, url = (self.opened.run_id, self.opened.url) if self.opened else (self.continues, None)
        return run_id, url, self.state.state, self.state.error

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
        self._ending.begin(status, deadline, ended, at_least, self._log.length, is_last=is_last)
        self._log.wake()

    def end_at(self, number: int) -> None:
        """What comes behind record `number` came too late."""
        self._ending.end_at(number)
        self._log.wake()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ended

    @property
    def is_opening(self) -> bool:
        """True until its run is open, or will not be."""
        return self.alive and self.state.state == "opening"

    def report(self) -> msg.BackendState:
        """Return where this tracker stands. What it has been handed is pending until it has stored that. What was read again
        from event files is counted when it is there, so the pending may be too few, but are 0 only if nothing is missing."""
        delivered = self.progress.safe.delivered
        unconfirmed = max(0, self.state.delivered - delivered)
        left = len(self.offers)
        if self.cursor < self._log.length:
            left = max(1, self._log.events - delivered - unconfirmed - self.state.failed)
        silence = self.silence() if self.state.error is None else None
        return msgspec.structs.replace(
            self.state, delivered=delivered, pending=left + unconfirmed, unconfirmed=unconfirmed,
            error=self.state.error if silence is None else silence.text,
        )  # fmt: skip

    def silence(self) -> Silence | None:
        """Return what the tracker has been asked and not answered for ten seconds; None if it answers, or has nothing to do."""
        return self._watch.silence()

    def join(self) -> bool:
        """Wait for the end, up to the deadline; return whether it ended. An SDK that hangs is left behind."""
        if self._thread.ident is None:  # a restarted relay whose training process is gone: it never began
            return True
        self._thread.join(max(0.0, self._ending.deadline - time.monotonic()))
        if self._thread.is_alive():
            self._ending.give_up.set()
            if self.state.error is None:
                self.state.error = self._watch.unanswered()
            backend = self.backend
            # One that tells what is not stored would have to be asked, and does not answer.
            if backend is not None and self._writing.leave(backend) and type(backend).unsettled is Backend.unsettled:
                self._confirm()
            self.state.state = "abandoned"
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Do nothing more than what is being done just now."""
        self._ending.give_up.set()
        self._log.wake()

    def let_open(self, until: float) -> None:
        """After the end: wait until the tracker is out of its `open`, at the latest until then (monotonic seconds)."""
        self._opening.let_open(until)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        self._watch.begin()
        try:
            if self._open():
                while not self._come_to_the_end():
                    pass
        except LeftError:
            logger.info("%s goes on elsewhere", self.name)
        except BaseException as error:  # an SDK that raises SystemExit must not end this thread in silence
            self._troubles.fail("internal", f"stopped by {type(error).__name__}: {error}")
            logger.exception("worker of %s stopped", self.name)
        finally:
            self.offers.put_back()
            self._ended = True
            self._wake()

    def _open(self) -> bool:
        self._session.may_write()
        opened = self._opening.open()
        if opened is None:
            return False
        self.state.state, self.state.error = "open", None
        self.opened = opened
        self._session.show(self.name, self.shown)  # before anything is delivered: else that could not be continued after a kill
        self._reply(opened)
        self._wake()
        return True

    def _come_to_the_end(self) -> bool:
        """Deliver everything and close the run; return False if what the tracker was handed is lost, and is to be delivered
        again."""
        backend = self.backend
        assert backend is not None
        try:
            while self._deliver(backend):
                pass
            self._attachments.attach_at_last(backend)
            self._close(backend)
        except UnsettledLostError as error:
            self.progress.go_back()
            self.offers.go_back()
            self._forgotten(error)
            return False
        return True

    def _deliver(self, backend: Backend) -> bool:
        """Write one batch; return False when everything is delivered and the end was asked for, or time is up."""
        self._session.may_write()
        if self._ending.time_is_up:
            self._name_file()
            return False
        self._attachments.attach(backend)
        if self.offers:
            self._offer_again(backend)
            return True
        if self._has_ended():
            return False
        if self._flushes and self._flushes[0] <= self.cursor:  # whatever has come since, or was asked for
            self._flush(backend)
        if not self._log.wait(self.cursor, 0.0):
            if self.progress.is_unsafe:
                self._confirm()
            self._log.wait(self.cursor, 0.02 if self._flushes else _ASK_SECONDS if self.progress.is_unsafe else 1.0)
            return True
        self._gather(backend)
        batch = self._log.read(self.cursor, backend.batch_events)
        if batch.stop == batch.start:  # its event file does not reach so far yet
            return self._wait_for_file()
        if batch.gone:
            self._pass_over(batch)
            return True
        self._writing.write(backend, batch if backend.mirrors_event_files else batch.without_markers())
        return True

    def _has_ended(self) -> bool:
        """True if the end was asked for, and what was logged before it is delivered, and what has come meanwhile. What comes
        after that is not waited for: a thread that logs on and on would hold up the end until the deadline."""
        if not self._ending.is_due(self.cursor):
            return False
        if self._ending.asks_for_more():
            self._reply(msg.More(self.name))
            self._wake()
        return self._ending.is_due(self.cursor)

    def _forgotten(self, error: UnsettledLostError) -> None:
        self._troubles.note("written events were lost", error)
        self._troubles.retrying("retry", text_of(error))
        self._ending.pause(1)

    def _offer_again(self, backend: Backend) -> None:
        try:
            self.offers.make(backend)
        except UnsettledLostError as error:
            self._forgotten(error)
        else:
            self._confirm()

    def _pass_over(self, batch: Batch) -> None:
        """Count what is nowhere any more, and name the files that should have had it."""
        for source, records in Counter(batch.gone).items():
            if source is not None:
                self.progress.lose(source, records)
                self._troubles.error(f"lost-{source}", f"events are lost: {self._log.lacks(source)}")
        self.progress.stand(batch, 0)
        self._confirm()

    def _confirm(self) -> None:
        """Ask how much the tracker has stored, and note how far it is with that."""
        backend = self.backend
        assert backend is not None
        with self._watch.asking("confirm", "asking what it has stored"):
            stored = self.state.delivered - backend.unsettled()
            stored -= self._take_refused(backend)
        self._say_behind(backend.behind() if self.progress.is_unsafe else None)
        for kind, text in backend.take_notices().items():
            self._troubles.tell(kind, text)
        further = self.progress.confirm(stored)
        if further is not None:
            refused, lost = further
            safe = self.progress.safe
            self._session.stand(self.name, safe, refused, self.offers.release(safe), lost)

    def _take_refused(self, backend: Backend) -> int:
        """Count what the tracker has refused after it had been handed over."""
        refused = backend.take_refused()
        for refusal in refused:
            _, kind, path, step, reason = refusal
            self._troubles.error(f"refused-{kind}", f"{kind} {path[:80]!r} at step {step} was refused: {reason}")
            self.progress.refused_later(refusal)
        self.offers.refused_later(len(refused))
        return len(refused)

    def _say_behind(self, why: str | None) -> None:
        """Tell why what was handed over is not acknowledged, when that changes."""
        if why != self._behind and why is not None:
            self._troubles.retrying("behind", why)
        elif why is None and self._behind is not None:
            self._troubles.passed()
        self._behind = why

    def _gather(self, backend: Backend) -> None:
        """Let a batch fill: by count, or for `batch_seconds`, unless a flush or the end is waiting."""
        until = time.monotonic() + backend.batch_seconds
        while (
            self._log.length - self.cursor < backend.batch_events
            and not self._ending.closing.is_set()
            and not (self._flushes and self._flushes[-1] > self.cursor)
            and (left := until - time.monotonic()) > 0
        ):
            self._log.wait(self.cursor + backend.batch_events - 1, min(left, 0.1))

    def _flush(self, backend: Backend) -> None:
        """Flush the tracker: everything before the cursor is delivered."""
        try:
            with self._watch.asking("flush", "flushing what it was given"):
                backend.flush()
        except Exception as error:
            self._troubles.retrying("flush", f"flush failed: {text_of(error)}")
            if backend.is_transient(error):
                self._ending.give_up.wait(FIRST_DELAY)
                return  # and again
            self._unflushed = True
        else:
            self._unflushed = False
            if self.progress.is_unsafe:
                self._confirm()
            self._troubles.passed()
            if self.progress.is_unsafe and self.progress.safe.number < self._flushes[0]:  # not stored yet, and may be lost
                self._ending.give_up.wait(_ASK_SECONDS)
                return
        self._flushed = self.progress.safe.number if self.progress.is_unsafe and not self._unflushed else self.cursor
        while self._flushes and self._flushes[0] <= self._flushed:
            self._flushes.popleft()
        self._wake()

    def _wait_for_file(self) -> bool:
        self._waits_at = self.cursor
        closing = self._ending.closing
        closing.wait(0.2) if not closing.is_set() else time.sleep(0.1)
        return True

    def _name_file(self) -> None:
        """Time is up: if an event file has not got the next record, say which one."""
        if self._waits_at == self.cursor < self._log.length and not self._ending.give_up.is_set():
            self._troubles.error("file", f"{self._log.lacks(number=self.cursor)}; delivery stands there")

    def _close(self, backend: Backend) -> None:
        self._session.may_write()
        if self._ending.give_up.is_set():
            return
        if self._attempt("flushing", backend, backend.flush) and self.progress.is_unsafe:
            self._confirm()
        backend.ended = self._ending.run_ended
        if backend.ended is None:
            last = self.progress.last_event if math.isfinite(self.progress.last_event) else self._ending.at_least
            backend.ended = None if last is None else max(last, self._opening.run.started)
        if self._attempt("closing", backend, lambda: backend.close(self._ending.status)):
            if self.progress.is_unsafe:
                self._settle_at_last(backend)
            self.state.state = "closed"  # whatever became of the flush before
            if self.progress.is_unsafe:
                count = self.state.delivered - self.progress.safe.delivered
                why = f" ({self._behind})" if self._behind else ""
                self.state.error = f"its run was ended before it had acknowledged {count} events{why}"

    def _settle_at_last(self, backend: Backend) -> None:
        """The run is closed: ask what the tracker has; again and again, if that may still become more."""
        self._confirm()
        if self.progress.is_unsafe and backend.may_settle():
            self._reply(msg.HandedOver(self.name))
        while self.progress.is_unsafe and backend.may_settle() and not self._ending.give_up.wait(_ASK_SECONDS):
            if time.monotonic() > self._ending.deadline - 0.5:
                break
            self._confirm()

    def _attempt(self, what: str, backend: Backend, do: Callable[[], None]) -> bool:
        """Do one of the last things, again and again if that may help, until the deadline; return whether it was done."""
        attempt = 0
        while True:
            try:
                with self._watch.asking("close", f"{what} its run"):
                    do()
            except UnsettledLostError:
                raise
            except Exception as error:
                self._troubles.note(f"{what} the run failed", error)
                attempt += 1
                left = self._ending.deadline - 0.5 - time.monotonic()
                if backend.is_transient(error) and left > 0:
                    self._troubles.retrying("close", f"{what} the run failed: {text_of(error)}")
                    if not self._ending.give_up.wait(min(FIRST_DELAY * attempt, left)):
                        continue
                self._troubles.fail("close", f"{what} the run failed: {text_of(error)}")
                return False
            return True
