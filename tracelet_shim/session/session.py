"""One session: settings + interception + bus + relay, and the order in which they end."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tracelet_shim import errors, intercept
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.bus import Bus
from tracelet_shim.bus.channel import Channel, SplitChannel, ThreadChannel
from tracelet_shim.bus.mailbox import Mailbox
from tracelet_shim.bus.process import RelayChannel
from tracelet_shim.common import run_report
from tracelet_shim.display.notebook import html_table
from tracelet_shim.display.terminal import Drain, say
from tracelet_shim.eventfiles.own_files import is_own
from tracelet_shim.eventfiles.writer_names import root_of
from tracelet_shim.handle.recorder import Recorder
from tracelet_shim.provenance import ci
from tracelet_shim.session import account, bare, owner
from tracelet_shim.session.exit_watch import ExitWatch
from tracelet_shim.session.late import Late
from tracelet_shim.session.native import Native
from tracelet_shim.session.own_methods import OwnMethods
from tracelet_shim.session.parts import Parts, Plan, Route
from tracelet_shim.session.replies import Replies
from tracelet_shim.session.run_info import job_of, run_info
from tracelet_shim.session.settings import Settings
from tracelet_shim.session.watched import watched
from tracelet_shim.state.place import state_directory

__all__ = ["Session"]

logger = logging.getLogger("tracelet_shim")


class Session(OwnMethods):
    """A running session. Made by `start_logging`; a context manager that stops at its end.

    Attributes:
        id: 16 hex digits, the same in all trackers.
        settings: what it was started with.
        active: False if this process does not log (another rank does), or after `stop`.
        objects: the backends that were given as objects, by name.
        from_environment: True if no call asked for it: it begins with the first writer.
        is_late: True if something was logged after the end of the program had ended the session.
        opened_as: what its runs are opened with; None before it has begun.
        on_hosting: called when a tracker's SDK is about to be used in this process, which was not to be expected.
    """

    def __init__(
        self,
        settings: Settings,
        specs: list[msg.BackendSpec],
        objects: Mapping[str, Backend],
        *,
        active: bool = True,
        from_environment: bool = False,
    ) -> None:
        self.id = uuid.uuid4().hex[:16]
        self.settings = settings
        self.active = active
        self.accelerates = settings.accelerate
        self.from_environment = from_environment
        self._specs = specs
        self.objects = dict(objects)
        self._bus: Parts | None = None
        self._routes: list[Route] = []
        self._logdirs = set[str]()
        self._hosts_a_run = False
        self.opened_as: RunInfo | None = None
        self._classes: dict[str, type[Backend]] = {}
        self.on_hosting: Callable[[], None] = lambda: None
        self._begin_lock = threading.Lock()
        self._replies = Replies(self.id, [spec.name for spec in specs], quiet=settings.quiet)
        self._job = job_of(settings)
        self._stopped_as: str | None = None
        self._is_over = False  # what was left has been delivered, or will not be waited for
        self.is_late = False
        self.exit_watch = ExitWatch()
        self.watched, self._foreign = watched(settings, from_environment=from_environment, active=active), bare.Foreign()
        root = intercept.absolute(settings.root) if settings.root is not None else None
        self._recorder = Recorder(self, self.id, _place, self._untaken, root)

    # -- begin --------------------------------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """True once the runs are being opened."""
        return self._bus is not None

    def renewed(self) -> Session:
        """Return a session like this one, for a forked child, which shares no lock with its parent."""
        return Session(self.settings, self._specs, self.objects, from_environment=self.from_environment)

    def begin(self) -> Parts:
        """Start the relay and open the runs, without waiting for them. A second call changes nothing."""
        bus = self._bus
        if bus is not None:
            return bus
        with self._begin_lock:
            if self._bus is None:
                bus = self._start()
                self._routes = bus.routes
                self._bus = bus
        if bus is not None:
            self._describe()
        assert self._bus is not None
        return self._bus

    def _start(self) -> Parts:
        plan = Plan(
            self._open_message, self._make_bus, self._part_opens, self._recorder.wait_no_longer, self._replies.take, self.problem,
            self.settings.exit_timeout, self.settings.quiet,
        )  # fmt: skip
        bus = Parts(self.id, self._specs, plan)
        bus.begin(self.active_runs())
        owner.take()
        util = sys.modules.get("multiprocessing.util")
        if util is not None and sys.modules["multiprocessing.process"].parent_process() is not None:
            # A forked process of multiprocessing ends without atexit; it runs its finalizers instead.
            util.Finalize(None, self._worker_ends, exitpriority=0)
        if self.accelerates:
            intercept.use_fast_crc()
        self.exit_watch.watch()
        return bus

    def _worker_ends(self) -> None:
        with contextlib.suppress(errors.DeliveryError):  # said already; the exit code is multiprocessing's
            self.stop(self.exit_watch.status(), at_exit=True)

    @property
    def hosts_trackers(self) -> bool:
        """True if a tracker's SDK runs in this process."""
        return self.settings.delivery == "thread" or self._hosts_a_run or any(not spec.class_path for spec in self._specs)

    def _part_opens(self, session: str, specs: list[msg.BackendSpec]) -> None:
        run_report.add(
            began=session, pid=os.getpid(), trackers=[spec.name for spec in specs], linger=self.settings.linger
        )
        for spec in specs:
            twice = registry.find(spec.name).own_hook() if spec.class_path else None
            if twice is not None:
                self._replies.warn(msg.Trouble(spec.name, "twice", f"it will have everything twice: {twice}"))
        if not self._hosts_a_run and any(spec.here for spec in specs):
            self._hosts_a_run = True
            self.on_hosting()

    def _open_message(self, session: str, specs: list[msg.BackendSpec]) -> msg.Open:
        message = self._would_open(session, specs)
        self.opened_as = self.opened_as or message.run
        return message

    def _would_open(self, session: str, specs: list[msg.BackendSpec]) -> msg.Open:
        run = run_info(session, self.settings, self._job, borrowed=specs[0].borrowed)
        if specs[0].borrowed:  # a run of the user's gets only what was asked for, and is no scheduler's to continue
            run = msgspec.structs.replace(run, job=None, what_ran=(), project=self._project_of(specs[0].name) or run.project)
        s, found = self.settings, ci.tags(os.environ) if self.settings.ci else {}
        return msg.Open(
            run, specs, int(s.memory * 1e6), run.root, found, s.system_metrics, linger=s.linger,
            watch=list(self.watched.tops), since=self.watched.since, forward_password=s.password,
        )  # fmt: skip

    def _project_of(self, name: str) -> str | None:
        try:
            return registry.find(name).borrowed_project()
        except Exception as error:  # an SDK that has changed: only a later `replay --resume` needs it
            self.problem(error)
            return None

    def _make_bus(self, specs: list[msg.BackendSpec], on_reply: Callable[[msg.Reply], None]) -> Bus | Mailbox:
        """Return a way to the relay process that needs no thread here, where all backends are there; else one with a thread."""
        memory = int(self.settings.memory * 1e6)
        if self.settings.delivery != "thread" and all(spec.class_path and not spec.here for spec in specs):
            return Mailbox(self._state_directory, memory, say, on_reply, self.settings.collector)
        return Bus(lambda: self._make_channel(specs), memory, on_reply)

    def _state_directory(self, logdir: str) -> str:
        """Return where the state is if this is the first log directory."""
        root = intercept.absolute(self.settings.root) if self.settings.root is not None else None
        return str(_place(root or (logdir if self._recorder.is_root(logdir) else root_of(logdir))))

    def _make_channel(self, specs: list[msg.BackendSpec]) -> Channel:
        """Choose the hosting: a process of its own, this one for backends that must live here, or both."""
        here = {spec.name for spec in specs if not spec.class_path or spec.here}
        if self.settings.delivery == "thread" or len(here) == len(specs):
            return ThreadChannel(self.objects)
        there = RelayChannel(say)
        return SplitChannel(ThreadChannel(self.objects), here, there) if here else there

    # -- the sink of interception -------------------------------------------------------------------------------------

    def active_runs(self) -> intercept.ActiveRuns:
        """Return the runs that the user has active in this thread, in trackers of this session."""
        found = []
        for spec in self._specs:
            try:
                if spec.class_path and spec.name not in self._classes:
                    self._classes[spec.name] = registry.find(spec.name)
                run_id = self._classes[spec.name].borrowed() if spec.class_path else None
            except Exception as error:  # an SDK that has changed, or is just being imported by another thread
                self.problem(error)
                continue
            if run_id is not None:
                found.append((spec.name, run_id))
        return tuple(found)

    def writer_created(self, logdir: str, runs: intercept.ActiveRuns) -> None:
        self.begin().writer_created(logdir, runs)
        self._logdirs.add(logdir)
        self._recorder.settle(runs, root_of(logdir))

    def foreign_writer(self, producer: str, logdir: str) -> None:
        if not self.watched.covers(logdir):
            self._foreign.add(producer, logdir)
        elif self.from_environment:  # it begins with the first writer, whoever's that is
            self.begin()

    def opening(self) -> msg.Open:
        return self._would_open(self.id, self._specs)

    def join(self, runs: intercept.ActiveRuns) -> None:
        self.begin().begin(runs)

    def add_source(self, path: str, logdir: str, parent: str | None, runs: intercept.ActiveRuns) -> int:
        number = self.begin().add_source(path, logdir, parent, runs)
        if not is_own(path):
            self._logdirs.add(parent or logdir)
        self._recorder.settle(runs, root_of(parent or logdir))
        return number

    def publish(self, record: msg.Record) -> None:
        if self.exit_watch.code is not None:
            self.exit_watch.still_running()
        if self._routes:  # there since add_source, which every record's file goes through
            self._routes[record.source].publish(record)

    def nudge(self) -> None:
        if self._bus is not None:
            self._bus.nudge()

    def problem(self, error: Exception) -> None:
        logger.debug("interception failed", exc_info=error)
        self._replies.warn(msg.Trouble(None, f"intercept-{type(error).__name__}", f"a call could not be observed: {error!r}"))

    # -- for the user -------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until everything logged so far is in every tracker.

        Args:
            timeout: seconds to wait at most.

        Returns:
            False if the time ran out, delivery to a tracker has failed for good, or one has refused an event.
        """
        intercept.settle()
        self._recorder.wait_no_longer()
        if self._bus is None:
            return True
        return self._bus.flush(timeout) and not any(s.state == "failed" or s.failed for s in self.status().values())

    def status(self) -> dict[str, msg.BackendState]:
        """Return, by tracker: its state, how many events are delivered, pending and failed, and the latest error. Pending is
        all that was logged and is not in the tracker, wherever it is."""
        bus = self._bus
        return {**self._replies.states, **(bus.states() if bus is not None else {})}

    @property
    def urls(self) -> dict[str, str | None]:
        """The runs' links or local places, by tracker. Waits until each run is open or has failed to open."""
        return {name: opened.url for name, opened in self.wait_opened().items()}

    @property
    def run_ids(self) -> dict[str, str]:
        """The trackers' own ids of the runs, by tracker. Waits until each run is open or has failed to open."""
        return {name: opened.run_id for name, opened in self.wait_opened().items()}

    @property
    def native(self) -> Mapping[str, Any]:
        """The trackers' own run objects, by name, where they live in this process.

        Raises:
            ConfigurationError: on look-up, if the tracker lives in the relay process.
        """
        self.wait_opened()
        handles = self._bus.handles() if self._bus is not None else {}
        return Native(handles, [spec.name for spec in self._specs])

    def wait_opened(self, timeout: float | None = None) -> dict[str, msg.Opened]:
        """Wait until each run is open or has failed to open, at most `timeout` seconds (default: `exit_timeout`)."""
        if self.active and self._stopped_as is None:
            bus = self.begin()
            if self._job is not None and self._job.times:
                bus.flush(0.0)  # the relay may still wait to see the log directory: it is to open the runs now
        look = self._bus.look if self._bus is not None else lambda: None
        return self._replies.wait_opened(self.settings.exit_timeout if timeout is None else timeout, look)

    def unopened(self) -> dict[str, str]:
        """Return why no run could be opened, by tracker, for those that will have none."""
        return self._replies.unopened()

    def __enter__(self) -> Session:  # noqa: PYI034 - nobody subclasses it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, GeneratorExit):
            status = "finished"
        elif issubclass(kind, SystemExit):
            status = "finished" if getattr(error, "code", None) in (None, 0) else "failed"
        else:
            status = "killed" if issubclass(kind, KeyboardInterrupt) else "failed"
        try:
            self.stop(status)
        except errors.DeliveryError:
            if kind is None:  # else the user's own exception is the one to see
                raise

    def __repr__(self) -> str:
        names = ", ".join(spec.name for spec in self._specs)
        state = self._stopped_as or ("active" if self.active else "inactive")
        return f"<Session {self.id} [{names}] {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the runs and how far each is, as far as is known now."""
        states = self.status()
        opened = self._replies.opened
        title = f"tracelet-shim session {self.id}: {self._stopped_as or ('active' if self.active else 'inactive')}"
        return html_table(title, ((name, opened[name].url if name in opened else None, s) for name, s in states.items()))

    # -- end ----------------------------------------------------------------------------------------------------------

    def stop(self, status: str = "finished", timeout: float | None = None, *, at_exit: bool = False) -> None:
        """Deliver what is left and end all runs. A second call changes nothing; one at exit goes on with an end that a handler of
        the user's has left by SystemExit.

        Args:
            status: ``"finished"``, ``"failed"`` or ``"killed"``.
            timeout: seconds this may take; `exit_timeout` of the settings if None.
            at_exit: True if nobody asked for it: the program is ending.

        Raises:
            DeliveryError: under `strict`, if anything was not delivered.
            ConfigurationError: an unknown status.
        """
        if status not in ("finished", "failed", "killed"):
            raise errors.ConfigurationError(f"status {status!r} is none of 'finished', 'failed', 'killed'")
        if self._is_over or not (self.active if self._stopped_as is None else at_exit):
            return
        self._stopped_as = status
        self.active = False
        if (reason := intercept.missed()) is not None:
            bare.nothing_seen(reason, self._specs, self._replies, has_begun=self.has_begun)
        self._foreign.tell(self._specs, self._replies)
        intercept.settle()
        self._recorder.wait_no_longer()
        if self._bus is None and self.watched.has_news:  # of a writer that nobody knows
            self.begin()
        if self._bus is None:
            self._is_over = True
            self._let_go(at_exit=at_exit)
            if self.settings.strict and self._replies.in_doubt:
                raise errors.DeliveryError("nothing was delivered; see the warning above", {})
            return
        deadline = self.settings.exit_timeout if timeout is None else timeout
        states = self._drain(self._bus, msg.Close(status, deadline, at_exit, linger=self.settings.linger))
        owner.give_up()
        self._is_over = True
        try:
            account.tell(
                self._bus, self._replies, self.id, answered=states is not None, strict=self.settings.strict, at_exit=at_exit
            )
        finally:
            if self.settings.ci and not (self._bus.lingers and run_report.is_read()):  # which tells the job later, and more
                self._tell_job(self.status())

    def _drain(self, bus: Parts, message: msg.Close) -> dict[str, msg.BackendState] | None:
        """Wait for what is left; return where the trackers stand then, or None if a relay did not answer in time."""
        bars = Drain(self.status, message.deadline, quiet=self.settings.quiet)
        flushed = False

        def waiting() -> None:
            nonlocal flushed
            if self._replies.spilled and not flushed:
                flushed = True
                intercept.flush_files()  # what did not fit into memory is read from them
            bars.show()

        try:
            return bus.close(message, waiting)
        except KeyboardInterrupt:
            self._is_over = True
            bars.close()
            seconds = message.deadline + message.linger
            goes_on = "" if self.hosts_trackers else f"; the relay goes on by itself, for up to {seconds:.0f} s"
            remedy = account.remedy(bus)
            say(f"interrupted{goes_on}" + (f"; to deliver what is missing then: {remedy}" if remedy is not None else ""))
            raise
        finally:
            bars.close()
            self._let_go(at_exit=message.at_exit)

    def _let_go(self, *, at_exit: bool) -> None:
        """Take nothing more. While the end waited, what other threads logged was taken; what comes after the end of the program
        has begun, from them or from handlers of that end, is named at least."""
        if intercept.sink() is self:
            intercept.set_sink(Late(self) if at_exit and self._bus is not None else None)

    def came_late(self) -> None:
        """Take note of an event that was logged after the end; one line says so."""
        if not self.is_late:
            self.is_late = True
            account.too_late(self._bus, self._replies, "events are logged after the end of the session")

    def _tell_job(self, states: Mapping[str, msg.BackendState]) -> None:
        """Tell the CI job, if there is one, what became of this session."""
        title = " / ".join(name for name in (self.settings.project, self.settings.exp_name) if name) or self.id
        opened = self._replies.opened
        urls = {name: opened[name].url for name in states if name in opened}
        ci.tell(os.environ, title, urls, states, account.remedy(self._bus), quiet=self.settings.quiet)
        for part in self._bus.ids if self._bus is not None else ():
            run_report.add(session=part, told=True)

    def after_fork(self) -> None:
        """In a forked child: nothing of this session is ours."""
        self.active = False
        if self._bus is not None:
            self._bus.after_fork()
        self._bus = None
        self._routes = []
        self._stopped_as, self._is_over = "forked", True


def _place(root: str) -> Path:
    return state_directory(root, os.environ)
