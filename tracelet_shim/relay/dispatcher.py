"""The right half of the picture as one object: messages in, replies out.

It neither knows nor cares whether it lives in a process of its own or in a thread of the training process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tracelet_shim.backends.base import Backend, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.writer_names import WriterNames
from tracelet_shim.ledger import Index, Ledger, Refused, RunRow, in_use, state_directory
from tracelet_shim.provenance.system_metrics import WRITER, SampleFile, Sampler
from tracelet_shim.provenance.what_ran import WhatRan, with_tags
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.worker import Offer, Worker

__all__ = ["Relay"]

_SAVE_SECONDS = 0.5
_KEPT = 0.65
"""The part of the memory that events may take which wait; the rest is for those that are being received and written."""
_ORPHAN_SECONDS = 300.0
"""How long the relay of an earlier start of a job may still be at work."""

logger = logging.getLogger("tracelet_shim.relay")


class Relay:
    """Decodes records and delivers them to the trackers.

    Args:
        reply: takes each reply; called from several threads, must not block.
        wake: called from any thread when `tick` should be called soon; must not block.
        objects: backend objects of the user's, by name, for specs that have no target.
        state: the state directory, where it is another than the root directory and the environment say.
        complete: True if nobody writes to the event files any more: a record that they lack is lost.
        retry_refused: offer again what trackers refused, in a session that is continued.

    Attributes:
        closing, closed: the end has been asked for; has been reached.
        owned: False if another process serves the session.
        taken: by source, the position behind the last record.
        directory: the state directory, once it is known and if it can be written.
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
    ) -> None:
        self._reply = reply
        self._wake = wake
        self._objects = objects or {}
        self._state = state
        self._complete = complete
        self._retry_refused = retry_refused
        self.workers: list[Worker] = []
        self._names = WriterNames()
        self._decoder = Decoder(self._names)
        self._log = Log(self._decoder, complete=complete)
        self._session: msg.Open | None = None
        self._what_ran: WhatRan | None = None
        self._sampler: Sampler | None = None
        self._samples: SampleFile | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._own_records = 0
        self._ledger: Ledger | None = None
        self._has_state = False
        self._waiting = False  # for the root directory, where an earlier start of the same job may have left its runs
        self._predecessor: str | None = None
        self._predecessor_until = 0.0
        self._writers: dict[str, int] = {}
        self._files: list[str] = []
        self._earlier_events = 0
        self.taken: dict[int, int] = {}
        self.owned = True
        self._flushes: list[tuple[int, int]] = []
        self._silent: set[tuple[str, str]] = set()
        self._reported: tuple[object, ...] = ()
        self._saved: tuple[object, ...] = ()
        self._refused: list[Refused] = []  # these three wait for the ledger
        self._accepted: list[int] = []
        self._lost: list[tuple[str, int, int]] = []
        self._next_save = 0.0
        self._status = ""
        self._cut_off = False
        self._index_behind = False
        self._deadline = 0.0
        self.closing = False
        self.closed = False
        self.directory: Path | None = None
        self.clean = True

    def handle(self, message: msg.Message) -> None:
        """Take one message. Never waits for a tracker."""
        if isinstance(message, msg.Records):
            self.taken.update({record.source: record.position + 1 for record in message.records})
            try:
                self._log.append(message.records)
            except OSError as error:
                if not self._index_behind:
                    self._trouble("index", f"cannot write the index of the session ({error}); a crash now could not be continued")
                self._index_behind = True
            else:
                self._index_behind = False
        elif isinstance(message, msg.Source):
            self._log.add_source(message)
            self._files.append(message.path)
            self._add_writer(message.parent or message.logdir)
            self._keep_state(lambda ledger, session: ledger.add_source(session, message))
        elif isinstance(message, msg.Writer):
            self._add_writer(message.logdir)
        elif isinstance(message, msg.Flush):
            if self._waiting:
                self._start()
            self._flushes.append((message.id, self._log.length))
            for worker in self.workers:
                worker.request_flush(self._log.length)
        elif isinstance(message, msg.Open):
            self._open(message)
        elif isinstance(message, msg.Continue):
            self._continue()
        elif isinstance(message, msg.Rest):
            for worker in self.workers:
                if worker.name == message.backend:
                    worker.end_at(self._log.length)
        else:
            self._begin_close(message)

    def tick(self) -> None:
        """Answer flushes that are done, report and save the counters if they changed, end when all workers have ended or
        the deadline is over; to be called about ten times a second."""
        while self._flushes and all(worker.has_flushed(self._flushes[0][1]) for worker in self.workers):
            self._report()
            number, length = self._flushes.pop(0)
            self._reply(msg.Flushed(number, all(worker.has_all(length) for worker in self.workers)))
        if self._waiting and self._predecessor is not None:
            self._start_after_predecessor()
        self._sample()
        self._report()
        self._name_the_silent()
        if time.monotonic() >= self._next_save:
            self._save()
        if self.closing and not self.closed and not (self._alive() and time.monotonic() < self._deadline):
            self._end()

    def learn(self, source: int, data: bytes) -> None:
        """Let the decoder see a record that was delivered earlier."""
        self._decoder.learn(source, data)

    def ahead(self) -> int:
        """Return how many records the fastest tracker has still to take; 0 if none takes any now."""
        taking = [worker for worker in self.workers if worker.state.state in ("opening", "open")]
        return min((self._log.length - worker.cursor for worker in taking), default=0)

    def states(self) -> dict[str, msg.BackendState]:
        """Return where each tracker stands now."""
        return {worker.name: worker.report() for worker in self.workers}

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
        self._what_ran = WhatRan(run)
        if message.system_metrics is not None:
            self._sampler = Sampler(run, message.system_metrics)
        for spec in message.backends:
            of_worker = asked_for if spec.borrowed else run  # a run of the user's gets only what was asked for
            mine = self._objects.get(spec.name)
            self.workers.append(Worker(spec, of_worker, self._log, self._what_ran, self._worker_says, self._wake, mine))
        if message.restarted:
            if self._complete:  # a session that was killed in its first moment has no writer to follow
                self._keep_state(lambda *_: None)
            return
        if not _may_continue(message):
            self._start()
            return
        self._waiting = True
        if message.root is not None:
            self._keep_state(lambda *_: None)  # so that the ledger is opened now

    def _start(self) -> None:
        assert self._what_ran is not None
        self._waiting = False
        self._what_ran.start()
        if self._sampler is not None and not self.closing:
            self._sampler.start()
        for worker in self.workers:
            worker.start()

    def _start_after_predecessor(self) -> None:
        """Start, unless the relay of the job's earlier start is still at work: it would end the runs under us."""
        directory, earlier = self.directory, self._predecessor
        busy = directory is not None and earlier is not None and in_use(directory, earlier)
        if not busy or time.monotonic() >= self._predecessor_until:
            self._start()

    def _continue_job(self, ledger: Ledger, run: RunInfo, root: str) -> None:
        """Go on in the runs of an earlier start of this job, if there are any."""
        earlier = ledger.earlier(run, root)
        if earlier is not None:
            runs = {row.backend: row.run_id for row in ledger.runs(earlier.id) if row.run_id is not None}
            for worker in self.workers:
                if worker.name in runs:
                    worker.resume(runs[worker.name])
            self._predecessor = earlier.id
            self._predecessor_until = time.monotonic() + _ORPHAN_SECONDS

    def _worker_says(self, reply: msg.Reply) -> None:
        if isinstance(reply, msg.Opened):
            self._next_save = 0.0  # so that it can be continued if we are killed
        elif isinstance(reply, msg.Trouble) and reply.kind.startswith(("refused-", "lost-")):
            self._next_save = 0.0  # so that it is known which, if we are killed
        self._reply(reply)

    def _add_writer(self, logdir: str) -> None:
        """Name a log directory. The ledger has them in order, so that they are given the same names again."""
        self._names(logdir)
        if logdir not in self._writers:
            number = self._writers[logdir] = len(self._writers)
            self._keep_state(lambda ledger, session: ledger.add_writer(session, number, logdir))

    def _sample(self) -> None:
        """Write down what the sampler has, and take it like any other records. It waits for the first log directory."""
        if self._sampler is None or self._names.root is None or not self._has_state:
            return
        if self._sampler.problem is not None:
            self._trouble("system-metrics", self._sampler.problem)
            self._sampler.problem = None
        samples = self._sampler.take()
        if not samples:
            return
        try:
            if self._samples is None:
                self._samples = self._sample_file(self._names.root)
                self.handle(self._samples.source)
            records = self._samples.append(samples)
        except OSError as error:
            self._sampler.stop()
            self._sampler = None
            self._trouble("system-metrics", f"no more system metrics: they cannot be written ({error})")
            return
        self._own_records += len(records)
        self.handle(msg.Records(records))

    def _sample_file(self, root: str) -> SampleFile:
        """Make the file in the state directory; without one, in a temporary place, for as long as this relay lives.

        Raises:
            OSError: there is no place for it.
        """
        assert self._session is not None
        run = self._session.run
        earlier = []
        if self._ledger is not None:
            earlier = [source for source in self._ledger.sources(run.session) if source.id >= msg.OWN_SOURCES]
        number = msg.OWN_SOURCES + len(earlier)
        if self.directory is not None:
            return SampleFile(self.directory / WRITER, run, root, number)
        self._temporary = tempfile.TemporaryDirectory(prefix="tracelet-")
        return SampleFile(Path(self._temporary.name, WRITER), run, root, number)

    # -- state on disk ------------------------------------------------------------------------------------------------

    def _keep_state(self, write: Callable[[Ledger, str], None]) -> None:
        """Write to the ledger; it opens with the first log directory. Without one, delivery goes on all the same."""
        assert self._session is not None
        run = self._session.run
        if not self._has_state and self._names.root is not None:
            self._has_state = True
            self._open_state(self._names.root, run.session)
        if self._ledger is not None:
            try:
                write(self._ledger, run.session)
            except sqlite3.Error as error:
                self._trouble("ledger", f"cannot write the ledger in {self._ledger.directory} ({error})")

    def _open_state(self, root: str, session: str) -> None:
        assert self._session is not None
        if not self._session.keeps_state:
            self._log.open(Index(None, session), 0)
            return
        directory = self._state or state_directory(root, os.environ)
        known = None
        try:
            self._ledger = Ledger(directory)
            known = self._ledger.begin(self._session.run, root, [worker.name for worker in self.workers])
            index = Index(directory, session)
            self.directory = directory
            run_report.add(session=session, directory=str(directory.absolute()))
            self.owned = index.owned
        except (OSError, sqlite3.Error) as error:
            self._trouble("ledger", f"no state can be kept in {directory} ({error}); a crashed run could not be continued")
            self._ledger, index = None, Index(None, session)
        if known is None or self._ledger is None:
            self._log.open(index, 0)
            if self._waiting:
                if self._ledger is not None:
                    self._continue_job(self._ledger, self._session.run, root)
                self._start_after_predecessor()
            self._save()
            return
        assert self._what_ran is not None
        self._what_ran.restore(directory / f"{session}.what-ran")
        self._log.open(index, known.events + max(0, index.length - known.records))
        trials, paths = index.noted()
        known_paths = dict.fromkeys(self._ledger.paths(session))
        new_paths = [path for path in paths if path not in known_paths]
        self._decoder.restore_trials([*self._ledger.trials(session), *trials])
        self._decoder.restore_paths([*known_paths, *new_paths])
        self._keep_state(lambda ledger, session: ledger.add_trials(session, trials))
        self._keep_state(lambda ledger, session: ledger.add_paths(session, new_paths))
        rows = {row.backend: row for row in index.cursors.moved_on(self._ledger.runs(session))}
        self.taken = self._ledger.taken(session)
        for source, position in index.taken().items():
            self.taken[source] = max(position, self.taken.get(source, 0))
            self._own_records += position if source >= msg.OWN_SOURCES else 0  # theirs are indexed from the first on
        if index.length == 0 and known.records:  # removed, since everything had arrived: records are counted anew
            self._earlier_events = known.events
            rows = {name: row._replace(cursor=0, part=0) for name, row in rows.items()}
            self._ledger.save(session, known.events, 0, rows.values())
        lost = self._ledger.lost(session)
        for worker in self.workers:
            if worker.name in rows:
                worker.restore(rows[worker.name], sum(lost.get(worker.name, {}).values()))

    def _continue(self) -> None:
        """The messages that a predecessor had are here again: say how many records it had taken, and go on."""
        if self._ledger is not None and self._session is not None:
            for source in self._ledger.sources(self._session.run.session):
                if source.id >= msg.OWN_SOURCES:  # of these, only the predecessor knew
                    self._decoder.add_source(source)
        self._reply(msg.Continued(self._log.length - self._own_records))
        if self._complete:
            self._recount()
        if self._retry_refused:
            self._offer_again()
        self._start()

    def _offer_again(self) -> None:
        """Look up what trackers refused, and let it be offered to them once more. A ledger of 0.1 has no numbers of files."""
        if self._ledger is None or self._session is None:
            return
        session = self._session.run.session
        numbers = {source.path: source.id for source in self._ledger.sources(session)}
        for worker in self.workers:
            found: list[tuple[tuple[int, int], int, Refused]] = []
            for key, refused in self._ledger.set_aside_of(session, worker.name):
                source = refused.source if refused.source is not None else numbers.get(refused.path or "", -1)
                found.append(((source, refused.position), key, refused))
            at = self._log.numbers({place for place, *_ in found})
            worker.offer([Offer(at[place], key, refused) for place, key, refused in found if place in at])

    def _recount(self) -> None:
        """Find out exactly what is missing. (With event files that are still being written to this cannot be done.)"""
        events = [self._earlier_events + number for number in self._log.review()]
        self._log.recount(events[-1])
        for worker in self.workers:
            worker.recount(events[min(worker.cursor, len(events) - 1)])

    def _save(self) -> None:
        self._next_save = time.monotonic() + _SAVE_SECONDS
        self._accepted += [key for worker in self.workers for key in worker.take_accepted()]
        stand = [worker.safe for worker in self.workers]  # after what was accepted, before what is refused or lost
        self._refused += [row for worker in self.workers for row in worker.take_refused()]
        self._lost += [row for worker, safe in zip(self.workers, stand, strict=True) for row in worker.take_lost(safe)]
        if self._ledger is None or self._session is None:
            self._refused.clear()
            return
        rows = []
        for worker, safe in zip(self.workers, stand, strict=True):
            s = worker.state
            run_id, url = (worker.opened.run_id, worker.opened.url) if worker.opened else (worker.continues, None)
            rows.append(RunRow(worker.name, run_id, url, safe.number, safe.delivered, safe.failed, s.state, s.error, safe.part))
        now = (self._log.events, self._log.length, *rows)
        session = self._session.run.session
        try:
            for trials, paths in self._log.take_news():
                self._ledger.add_trials(session, trials)
                self._ledger.add_paths(session, paths)
            more = (self._refused, self._accepted, self._lost)
            if now != self._saved or any(more):
                self._ledger.save(session, self._log.events, self._log.length, rows, *more)
                self._saved = now
                for what in more:
                    what.clear()
        except sqlite3.Error as error:
            self._trouble("ledger", f"cannot write the ledger in {self._ledger.directory} ({error})")
        if self._what_ran is not None and any(worker.opened is None for worker in self.workers):
            try:
                self._what_ran.keep(self._ledger.directory / f"{session}.what-ran")
            except OSError as error:
                self._trouble("what-ran", f"what ran cannot be kept for a run that is opened later ({error})")

    # -- replies ------------------------------------------------------------------------------------------------------

    def _trouble(self, kind: str, message: str) -> None:
        logger.warning(message)
        self._reply(msg.Trouble(None, kind, message))

    def _report(self) -> None:
        states = self.states()
        now = (self._log.safe, self._log.length, *map(msgspec.structs.astuple, states.values()))
        if now != self._reported:
            self._reported = now
            root = self._names.root if self._ledger is not None else None
            safe, taken = self._log.safe - self._own_records, self._log.length - self._own_records
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

    # -- end ----------------------------------------------------------------------------------------------------------

    def _begin_close(self, message: msg.Close) -> None:
        self.closing = True
        if self._sampler is not None:
            self._sampler.stop()
            self._sample()
            self._sampler = None  # a sample that is being taken now would come after the trackers have everything
        self._status = message.status
        self._cut_off = message.cut_off
        now = time.monotonic()
        self._deadline = min(now, now if message.since is None else message.since) + message.deadline
        last_write = self._last_write() if message.ended is None else None
        if self._waiting:
            self._start()
        is_last = message.cut_off or self._complete
        for worker in self.workers:
            worker.close(message.status, self._deadline, message.ended, last_write, is_last=is_last)
        self._keep_state(lambda ledger, session: ledger.will_end(session, message.status))

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
        retry = False  # what trackers refused can be offered to them again, as long as there is the index
        everything = all(worker.safe.number >= self._log.length for worker in self.workers)
        self.clean = everything and all(state.complete for state in states.values())
        if self._ledger is not None and self._session is not None:
            try:
                session = self._session.run.session
                everything = everything and all(row.cursor >= self._log.length for row in self._ledger.runs(session))
                retry = bool(self._ledger.count_refused(session))
                lost = self._index_behind and not everything  # then the event files have more than the index, as after a crash
                taken = {} if lost else self.taken
                self._ledger.end(session, self._status, cut_off=self._cut_off or lost, taken=taken)
            except sqlite3.Error as error:
                self._trouble("ledger", f"cannot write the ledger in {self._ledger.directory} ({error})")
            self._ledger.close()
        if self._ledger is None and self._session is not None:
            run_report.add(session=self._session.run.session, runs=[self._last_word(worker) for worker in self.workers])
        self._log.close(remove=everything and not retry)
        if self._samples is not None:
            self._samples.close()
        if self._temporary is not None:
            self._temporary.cleanup()
        if everything and self.directory is not None and self._session is not None:
            (self.directory / f"{self._session.run.session}.what-ran").unlink(missing_ok=True)
        self._reply(msg.Closed(states, self._log.length - self._own_records))
        self.closed = True

    def _last_word(self, worker: Worker) -> dict[str, object]:
        s, opened = worker.report(), worker.opened
        return {
            "backend": worker.name, "run_id": opened and opened.run_id, "url": opened and opened.url, "state": s.state,
            "delivered": s.delivered, "pending": s.pending, "set_aside": s.failed - s.lost, "lost": s.lost,
            "error": s.error and s.error[:500],
        }  # fmt: skip


def _may_continue(message: msg.Open) -> bool:
    """True if this is not the first start of a job, and there will be a ledger to look in."""
    return message.run.job is not None and message.run.job.times > 0 and message.keeps_state
