"""The right half of the picture as one object: messages in, replies out.

It neither knows nor cares whether it lives in a process of its own or in a thread of the training process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.own_files import is_own, store_of
from tracelet_shim.eventfiles.waiting import forget
from tracelet_shim.eventfiles.writer_names import WriterNames
from tracelet_shim.provenance.what_ran import WhatRan, with_tags
from tracelet_shim.relay.asked import Asked
from tracelet_shim.relay.job import JobContinuation
from tracelet_shim.relay.last_word import last_word
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.own import Own
from tracelet_shim.relay.restart import Restart
from tracelet_shim.relay.worker import Worker
from tracelet_shim.state.session import SessionState

if TYPE_CHECKING:
    from tracelet_shim.fleet.elsewhere import Forwarder

__all__ = ["Relay"]

_SAVE_SECONDS = 0.5
_KEPT = 0.65
"""The part of the memory that events may take which wait; the rest is for those that are being received and written."""

logger = logging.getLogger("tracelet_shim.relay")


class Relay(Asked):
    """Decodes records and delivers them to the trackers.

    Args:
        reply: takes each reply; called from several threads, must not block.
        wake: called from any thread when `tick` should be called soon; must not block.
        objects: backend objects of the user's, by name, for specs without a class path.
        state: the state directory, where it is another than the root directory and the environment say.
        complete: True if nobody writes to the event files any more: a record that they lack is lost.
        retry_refused: offer again what trackers refused, in a session that is continued.
        keeper: makes what keeps the session's state, of the arguments of `SessionState`.

    Attributes:
        closing, closed: the end has been asked for; has been reached.
        taken: by source, the position behind the last record.
        clean: False if something went wrong that a person may want to look into.
    """

    def __init__(
        self,
        reply: Callable[[msg.Reply], None],
        objects: Mapping[str, Backend] | None = None,
        *,
        wake: Callable[[], None] = lambda: None,
        state: Path | None = None,
        complete: bool = False,
        retry_refused: bool = False,
        keeper: Callable[..., SessionState] = SessionState,
    ) -> None:
        self._reply = reply
        self._wake = wake
        self._objects = objects or {}
        self._complete = complete
        self._retry_refused = retry_refused
        self.workers: list[Worker] = []
        self._names = WriterNames()
        self._decoder = Decoder(self._names)
        self._state = keeper(self._trouble, self._counts, state)
        self._log = Log(self._decoder, complete=complete, tell=self._state.tell)
        self._session: msg.Open | None = None
        self._restart = Restart(self._state, self._log, self._decoder, self.workers)
        self._job: JobContinuation | None = None
        self._what_ran: WhatRan | None = None
        self._forwarder: Forwarder | None = None
        self._own = Own(self._state, self.handle, self.learn, self._trouble, wake)
        self._writers: dict[str, int] = {}
        self._files: list[str] = []
        self._sources: set[int] = set()
        self.taken: dict[int, int] = {}
        self._flushes: list[tuple[int, int]] = []
        self._silent: set[tuple[str, str]] = set()
        self._reported: tuple[object, ...] = ()
        self._next_save = 0.0
        self._status = ""
        self._cut_off = False
        self._index_behind = False
        self._waited_for = self._deadline = 0.0
        self._lingers = False
        self.closing = False
        self.closed = False
        self.clean = True

    @property
    def is_waited_for(self) -> bool:
        """True if the program waits, or may do so: for the end, for a flush, or for a run to be open."""
        return self.closing or bool(self._flushes) or any(worker.is_opening for worker in self.workers)

    def handle(self, message: msg.Message) -> None:
        """Take one message. Never waits for a tracker."""
        if isinstance(message, msg.Records):
            self._own.heard_of(message)
            for source, position in {record.source: record.position + 1 for record in message.records}.items():
                self.taken[source] = max(position, self.taken.get(source, 0))  # an embedding may come again, later
            try:
                self._log.append(message.records)
            except OSError as error:
                if not self._index_behind:
                    self._trouble("index", f"cannot write the index of the session ({error}); a crash now could not be continued")
                self._index_behind = True
            else:
                self._index_behind = False
        elif isinstance(message, msg.Source):
            if message.id in self._sources:  # told again, after a restart
                return
            self._sources.add(message.id)
            self._own.heard_of(message)
            if is_own(message.path) and message.id < msg.OWN_SOURCES and self._own.watches and self._names.root is not None:
                message.logdir = self._names.root  # the root is that of a file which was found: the program does not know it
            if is_own(message.path) and self._names.root is None:  # there is no writer: this says what the root is
                self._names.root = message.logdir
            self._log.add_source(message)
            self._files.append(message.path)
            self._add_writer(message.parent or message.logdir)
            self._state.write(lambda ledger, session: ledger.add_source(session, message))
            self._forward(message)
        elif isinstance(message, msg.Writer):
            self._add_writer(message.logdir)
            self._forward(message)
        elif isinstance(message, msg.WhatRanFound):
            if self._what_ran is not None:
                self._what_ran.receive(message.data)
        elif isinstance(message, msg.Flush):
            if self._waits_for_job:
                self._start()
            if not self._own.look_before(message):
                self._flush(message)
        elif isinstance(message, msg.Open):
            self._open(message)
        elif isinstance(message, msg.Continue):
            self._continue(message.lost)
        elif isinstance(message, msg.Rest):
            for worker in self.workers:
                if worker.name == message.backend:
                    worker.end_at(self._log.length)
        elif isinstance(message, msg.Close):
            self._begin_close(message)

    def tick(self) -> None:
        """Answer flushes that are done, report and save the counters if they changed, end when all workers have ended or
        the deadline is over; to be called about ten times a second."""
        while self._flushes and all(worker.has_flushed(self._flushes[0][1]) for worker in self.workers):
            self._report()
            number, length = self._flushes.pop(0)
            self._reply(msg.Flushed(number, all(worker.has_all(length) for worker in self.workers)))
        if self._waits_for_job and self._state.is_open:
            self._start_when_free()
        self._take_own()
        self._report()
        self._name_the_silent()
        if time.monotonic() >= self._next_save:
            self._save()
        if self.closing and not self.closed:
            now = time.monotonic()
            if not self._alive() or now >= self._deadline:
                self._end()
            elif now >= self._waited_for:
                if not self._lingers:
                    self._linger()
                if self._forwarder is not None:
                    self._forwarder.nobody_waits()

    def learn(self, source: int, data: bytes) -> None:
        """Let the decoder see a record that was delivered earlier."""
        self._decoder.learn(source, data)

    def parent_is_gone(self) -> None:
        """The training process is gone before it had the last reply: it may have logged on, to its event files."""
        self._cut_off = True
        for worker in self.workers:
            worker.end_at(self._log.length)

    def _open(self, message: msg.Open) -> None:
        asked_for = message.run
        run = with_tags(asked_for, message.found)
        self._session = msgspec.structs.replace(message, run=run)
        self._names.root = message.root
        self._log.memory = _KEPT * message.memory
        self._what_ran = WhatRan(run, collects=not message.what_ran_comes)
        self._own.open(message, run)
        if run.forward is not None:
            from tracelet_shim.fleet.elsewhere import Forwarder

            others = (self._reply, self._wake, self._state, self._names)
            there = asked_for if message.backends[0].borrowed else run
            self._forwarder = Forwarder(message, there, self._log, self._what_ran, *others)
            self.workers += self._forwarder.workers
        for spec in message.backends if self._forwarder is None else ():
            of_worker = asked_for if spec.borrowed else run  # a run of the user's gets only what was asked for
            mine = self._objects.get(spec.name)
            worker = Worker(spec, of_worker, self._log, self._what_ran, self._reply, self._wake, self._state, mine)
            if spec.name in message.continues:
                worker.resume(message.continues[spec.name])
            self.workers.append(worker)
        if message.restarted:
            if self._complete or self._own.watches:  # there may be no writer to follow
                self._open_state()
            return
        self._own.watch()
        self._job = JobContinuation(message)
        if not self._job.waiting:
            self._start()
        elif message.root is not None:
            self._open_state()

    def _start(self) -> None:
        assert self._what_ran is not None
        if self._job is not None:
            self._job.waiting = False
        self._what_ran.start()
        if not self.closing:
            self._own.sample()
        if self._forwarder is not None:
            self._forwarder.about_to_start()
        for worker in self.workers:
            worker.start()

    @property
    def _waits_for_job(self) -> bool:
        """True as long as the workers do not begin, since an earlier start of the same job may have left its runs."""
        return self._job is not None and self._job.waiting

    def _start_when_free(self) -> None:
        assert self._job is not None
        if self._job.is_free(self.directory):
            self._start()

    def _add_writer(self, logdir: str) -> None:
        """Name a log directory. The first one tells where the ledger is, which has them in order, so that they are given the same
        names again."""
        self._names(logdir)
        self._open_state()
        if logdir not in self._writers:
            number = self._writers[logdir] = len(self._writers)
            self._state.write(lambda ledger, session: ledger.add_writer(session, number, logdir))

    def _take_own(self) -> None:
        for held in self._own.take(self._names.root, self.directory):
            self._flush(held) if isinstance(held, msg.Flush) else self._close(held)

    # -- state on disk ------------------------------------------------------------------------------------------------

    def _open_state(self) -> None:
        """Open the ledger and the index, once, as soon as there is a root directory."""
        if self._state.is_open or self._names.root is None:
            return
        assert self._session is not None
        run, root = self._session.run, self._names.root
        index = self._state.open(run, root, [worker.name for worker in self.workers], keeps=self._session.keeps_state)
        if self._state.known is not None:
            assert self._what_ran is not None
            if self.directory is not None:
                self._what_ran.restore(self._state.path("what-ran"))
            self.taken, own = self._restart.restore(self._state.known, index)
            for logdir in self._state.writers() if self._own.watches else ():  # in the order in which they were named
                self._names(logdir)
            self._own.restore(own, self.taken)
            return
        self._log.open(index, 0)
        if self._waits_for_job:
            assert self._job is not None
            self._job.look(self._state, root, self.workers)
            self._start_when_free()
        self._save()

    def _continue(self, lost: int) -> None:
        """The messages that a predecessor had are here again: say how many records it had taken, and go on."""
        for source in self._state.sources():
            if source.id >= msg.OWN_SOURCES:  # of these, only the predecessor knew
                self._decoder.add_source(source)
        self._reply(msg.Continued(self.records, lost))
        self._restart.count(exactly=self._complete and self._state.has_all_records)
        if self._retry_refused:
            self._restart.offer_again()
        self._start()
        self._own.watch()

    def _save(self) -> None:
        """Write down what each worker does not write itself with its batches."""
        self._next_save = time.monotonic() + _SAVE_SECONDS
        self._state.save({worker.name: worker.shown for worker in self.workers})
        if self.directory is not None and self._what_ran is not None and any(worker.opened is None for worker in self.workers):
            try:
                self._what_ran.keep(self._state.path("what-ran"))
            except OSError as error:
                self._trouble("what-ran", f"what ran cannot be kept for a run that is opened later ({error})")

        if self.directory is not None:
            self._own.keep()

    def _counts(self) -> tuple[int, int, int]:
        return self._log.counts()

    # -- replies ------------------------------------------------------------------------------------------------------

    def _trouble(self, kind: str, message: str) -> None:
        logger.warning(message)
        self._reply(msg.Trouble(None, kind, message))

    def _report(self) -> None:
        states = self.states()
        now = (self._log.safe, self._log.length, *map(msgspec.structs.astuple, states.values()))
        if now != self._reported:
            self._reported = now
            root = self._names.root if self._state.is_kept else None
            safe, taken = self._log.safe - self._own.records, self._log.length - self._own.records
            self._reply(msg.Counters(states, safe, self._log.spilled, root, taken))

    def _name_the_silent(self) -> None:
        """Say, once for each thing that a tracker is asked to do, that it does not answer."""
        for worker in self.workers:
            silence = worker.silence()
            if silence is not None and (worker.name, silence.kind) not in self._silent:
                self._silent.add((worker.name, silence.kind))
                logger.warning("%s: %s", worker.name, silence.text)
                self._reply(msg.Trouble(worker.name, f"silent-{silence.kind}", silence.text))

    def let_open(self, seconds: float) -> None:
        """After the end, before the process ends: let trackers that are still being opened come to an end with that."""
        until = time.monotonic() + seconds
        for worker in self.workers:
            worker.let_open(until)

    def abandon(self) -> None:
        """Without a word, as if the process had been killed: let go of the state, which whoever goes on takes over."""
        for worker in self.workers:
            worker.give_up()
        self._own.stop(None, None)
        self._state.let_go()
        self._log.close(remove=False)
        self.closed = True

    # -- end ----------------------------------------------------------------------------------------------------------

    def _begin_close(self, message: msg.Close) -> None:
        self.closing = True
        self._own.stop(self._names.root, self.directory)
        self._status = message.status
        self._cut_off = message.cut_off
        now = time.monotonic()
        self._waited_for = min(now, now if message.since is None else message.since) + message.deadline
        self._deadline = self._waited_for + message.linger
        if not self._own.look_before(message, now, self._deadline):
            self._close(message)

    def _flush(self, message: msg.Flush) -> None:
        self._flushes.append((message.id, self._log.length))
        self._forward(message)
        for worker in self.workers:
            worker.request_flush(self._log.length)

    def _close(self, message: msg.Close) -> None:
        """All that was to be taken before the end has been."""
        last_write = self._last_write() if message.ended is None else None
        if self._waits_for_job:
            self._start()
        is_last = message.cut_off or self._complete
        for worker in self.workers:
            worker.close(message.status, self._deadline, message.ended, last_write, is_last=is_last)
        self._forward(message)
        self._open_state()
        self._state.write(lambda ledger, session: ledger.will_end(session, message.status))

    def _forward(self, message: msg.Message) -> None:
        """Have collectors told of it, where the trackers are written to elsewhere."""
        if self._forwarder is not None:
            self._forwarder.tell(message)

    def _linger(self) -> None:
        """Nobody waits any more: say where the trackers stand, and go on."""
        self._lingers = True
        self._save()
        self._report()
        self._reply(msg.Lingers(self.states(), self.records))

    def _last_write(self) -> float | None:
        """Return when an event file was last written to."""
        times = []
        for path in self._files:
            with contextlib.suppress(OSError):
                times.append(os.path.getmtime(path))
        return max(times, default=None)

    def _alive(self) -> bool:
        return any(worker.alive for worker in self.workers)

    def _end(self) -> None:
        for worker in self.workers:
            if not worker.join():
                logger.warning("%s missed the deadline", worker.name)
        self._save()
        states = self.states()
        everything = all(worker.progress.safe.number >= self._log.length for worker in self.workers)
        self.clean = everything and all(state.complete for state in states.values())
        if self._session is not None and not self._state.is_kept:
            run_report.add(session=self._session.run.session, runs=[last_word(worker) for worker in self.workers])
        own = [path for path in self._files if is_own(path)]
        cut_off = self._cut_off or not self._own.is_whole
        everything, retry, free = self._state.end(
            everything, self._log.length, self._status, self.taken, cut_off=cut_off, behind=self._index_behind, own=own
        )
        for path in own if self._state.is_kept else ():
            forget(path)
        self._log.close(remove=everything and not retry)  # what was refused can be offered again, as long as there is the index
        for path in free if everything and not retry else ():
            shutil.rmtree(store_of(path), ignore_errors=True)
        self._own.close()
        for what in ("what-ran", "watched") if everything and self.directory is not None else ():
            self._state.path(what).unlink(missing_ok=True)
        self._reply(msg.Closed(states, self._log.length - self._own.records))
        self.closed = True
