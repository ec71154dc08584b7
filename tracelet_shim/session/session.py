"""One session: settings + interception + bus + relay, and the order in which they end."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import msgspec

from tracelet_shim import errors, intercept
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend, Job, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.channel import Channel, SplitChannel, ThreadChannel
from tracelet_shim.bus.process import RelayChannel
from tracelet_shim.common import run_report
from tracelet_shim.common.text import quoted
from tracelet_shim.display.terminal import Drain, html_table, say
from tracelet_shim.provenance import ci
from tracelet_shim.provenance.program import ExitWatch, describe, rank, scheduled_job, world_group
from tracelet_shim.session.parts import Parts, Plan, Route
from tracelet_shim.session.settings import Settings

__all__ = ["Session", "say"]

logger = logging.getLogger("tracelet_shim")

_HARMLESS = ("system-metrics", "what-ran")
"""Kinds of trouble that make no event of the user's doubtful."""

OWNER = "_TRACELET_OWNER"
"""Environment variable: host and pid of the process that has a session open, so that its children do not open one more."""


def owner_mark() -> str:
    """Return what `OWNER` is set to by this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def has_other_owner() -> bool:
    """True if this process is the child of one that has a session open. The environment may also have come from another
    machine, or from a process that is gone: a job that was submitted from a notebook is nobody's child."""
    host, _, pid = os.environ.get(OWNER, "").rpartition(":")
    if not pid.isdigit() or host != socket.gethostname() or int(pid) == os.getpid():
        return False
    return run_report.is_alive(int(pid), math.inf)


class Session:
    """A running session. Made by `start_logging`; a context manager that stops at its end.

    Attributes:
        id: 16 hex digits, the same in all trackers.
        settings: what it was started with.
        active: False if this process does not log (another rank does), or after `stop`.
        objects: the backends that were given as objects, by name.
        from_environment: True if no call asked for it: it begins with the first writer.
        is_late: True if something was logged after the end of the program had ended the session.
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
        self._hosts_a_run = False
        self._classes: dict[str, type[Backend]] = {}
        self.on_hosting: Callable[[], None] = lambda: None
        self._begin_lock = threading.Lock()
        self._states = {spec.name: msg.BackendState() for spec in specs}
        self._opened: dict[str, msg.Opened] = {}
        self._news = threading.Condition()
        self._warned: set[tuple[str | None, str]] = set()
        self._troubles: list[msg.Trouble] = []
        self._job = _job(settings)
        self._stopped_as: str | None = None
        self.is_late = False
        self._spilled = False
        self.exit_watch = ExitWatch()

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
        assert self._bus is not None
        return self._bus

    def _start(self) -> Parts:
        plan = Plan(
            self._open_message, lambda specs: self._make_channel(specs), self._part_opens, self._on_reply, self.problem,  # noqa: PLW0108
            int(self.settings.memory * 1e6), self.settings.exit_timeout, self.settings.quiet,
        )  # fmt: skip
        bus = Parts(self.id, self._specs, plan)
        bus.begin(self.home())
        os.environ[OWNER] = owner_mark()
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
        return self.settings.delivery == "thread" or self._hosts_a_run or any(not spec.target for spec in self._specs)

    def _part_opens(self, session: str, specs: list[msg.BackendSpec]) -> None:
        run_report.add(began=session, pid=os.getpid(), trackers=[spec.name for spec in specs])
        for spec in specs:
            twice = registry.find(spec.name).own_hook() if spec.target else None
            if twice is not None:
                self._on_trouble(msg.Trouble(spec.name, "twice", f"it will have everything twice: {twice}"))
        if not self._hosts_a_run and any(spec.here for spec in specs):
            self._hosts_a_run = True
            self.on_hosting()

    def _open_message(self, session: str, specs: list[msg.BackendSpec]) -> msg.Open:
        run = self._run_info(session)
        if specs[0].borrowed:  # a run of the user's gets only what was asked for, and is no scheduler's to continue
            run = msgspec.structs.replace(run, job=None, what_ran=(), project=self._project_of(specs[0].name) or run.project)
        found = ci.tags(os.environ) if self.settings.ci else {}
        return msg.Open(run, specs, int(self.settings.memory * 1e6), run.root, found, self.settings.system_metrics)

    def _project_of(self, name: str) -> str | None:
        try:
            return registry.find(name).borrowed_project()
        except Exception as error:  # an SDK that has changed: only a later `replay --resume` needs it
            self.problem(error)
            return None

    def _make_channel(self, specs: list[msg.BackendSpec]) -> Channel:
        """Choose the hosting: a process of its own, this one for backends that must live here, or both."""
        here = {spec.name for spec in specs if not spec.target or spec.here}
        if self.settings.delivery == "thread" or len(here) == len(specs):
            return ThreadChannel(self.objects)
        there = RelayChannel(say)
        return SplitChannel(ThreadChannel(self.objects), here, there) if here else there

    def _run_info(self, session: str) -> RunInfo:
        s = self.settings
        name, tags = s.exp_name, dict(s.tags)
        group = None
        if s.ranks == "all":
            group = world_group() or s.exp_name
            tags["rank"] = str(rank())
            name = f"{name}-rank{rank()}" if name else name
        root = intercept.absolute(s.root) if s.root is not None else None
        program = describe()
        if "command" not in s.what_ran:
            program = msgspec.structs.replace(program, argv=program.argv[:1])
        return RunInfo(
            session=session, program=program, started=time.time(), project=s.project, exp_name=name, run_id=s.run_id,
            tags=tags, notes=s.notes, config=dict(s.config), group=group, offline=s.offline, root=root,
            job=self._job, what_ran=s.what_ran,
        )  # fmt: skip

    # -- the sink of interception -------------------------------------------------------------------------------------

    def home(self) -> intercept.Home:
        """Return the runs that the user has active in this thread, in trackers of this session."""
        found = []
        for spec in self._specs:
            try:
                if spec.target and spec.name not in self._classes:
                    self._classes[spec.name] = registry.find(spec.name)
                run_id = self._classes[spec.name].borrowed() if spec.target else None
            except Exception as error:  # an SDK that has changed, or is just being imported by another thread
                self.problem(error)
                continue
            if run_id is not None:
                found.append((spec.name, run_id))
        return tuple(found)

    def writer_created(self, logdir: str, home: intercept.Home) -> None:
        self.begin().writer_created(logdir, home)

    def add_source(self, path: str, logdir: str, parent: str | None, home: intercept.Home) -> int:
        return self.begin().add_source(path, logdir, parent, home)

    def publish(self, record: msg.Record) -> None:
        self.exit_watch.still_running()
        if self._routes:  # there since add_source, which every record's file goes through
            self._routes[record.source].publish(record)

    def nudge(self) -> None:
        if self._bus is not None:
            self._bus.nudge()

    def problem(self, error: Exception) -> None:
        logger.debug("interception failed", exc_info=error)
        self._on_trouble(msg.Trouble(None, f"intercept-{type(error).__name__}", f"a call could not be observed: {error!r}"))

    # -- replies ------------------------------------------------------------------------------------------------------

    def _on_reply(self, reply: msg.Reply) -> None:
        if isinstance(reply, msg.Trouble):
            self._on_trouble(reply)
            return
        known = None
        with self._news:
            if isinstance(reply, msg.Opened):
                known = self._opened.get(reply.backend)
                self._opened[reply.backend] = reply
            elif isinstance(reply, msg.Counters):
                self._states = {**self._states, **reply.backends}
                self._spilled = reply.spilled
            self._news.notify_all()
        # A relay that was started again opens its runs again.
        if isinstance(reply, msg.Opened) and not self.settings.quiet and (known is None or known.url != reply.url):
            say(f"{reply.backend}: {reply.url or f'run {reply.run_id}'}")

    def _on_trouble(self, trouble: msg.Trouble) -> None:
        """Warn once a kind; keep all for `status`."""
        with self._news:
            if len(self._troubles) < 1000:
                self._troubles.append(trouble)
            known = (trouble.backend, trouble.kind) in self._warned
            self._warned.add((trouble.backend, trouble.kind))
        if not known:
            if trouble.backend is None and trouble.kind not in _HARMLESS:
                run_report.add(session=self.id, trouble=trouble.message)
            where = f"{trouble.backend}: " if trouble.backend else ""
            say(f"warning: {where}{trouble.message}")

    # -- for the user -------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until everything logged so far is in every tracker.

        Args:
            timeout: seconds to wait at most.

        Returns:
            False if the time ran out, delivery to a tracker has failed for good, or one has refused an event.
        """
        if self._bus is None:
            return True
        return self._bus.flush(timeout) and not any(s.state == "failed" or s.failed for s in self.status().values())

    def status(self) -> dict[str, msg.BackendState]:
        """Return, by tracker: its state, how many events are delivered, pending and failed, and the latest error. Pending is
        all that was logged and is not in the tracker, wherever it is."""
        bus = self._bus
        return {**self._states, **(bus.states() if bus is not None else {})}

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
        return _Native(handles, [spec.name for spec in self._specs])

    def wait_opened(self, timeout: float | None = None) -> dict[str, msg.Opened]:
        """Wait until each run is open or has failed to open, at most `timeout` seconds (default: `exit_timeout`)."""
        if self.active and self._stopped_as is None:
            bus = self.begin()
            if self._job is not None and self._job.times:
                bus.flush(0.0)  # the relay may still wait to see the log directory: it is to open the runs now
        until = time.monotonic() + (self.settings.exit_timeout if timeout is None else timeout)
        with self._news:
            self._news.wait_for(
                lambda: all(
                    name in self._opened or state.state in ("failed", "closed", "abandoned")
                    for name, state in self._states.items()
                ),
                max(0.0, until - time.monotonic()),
            )
            return dict(self._opened)

    def unopened(self) -> dict[str, str]:
        """Return why no run could be opened, by tracker, for those that will have none."""
        with self._news:
            failed = {name: state.error or "" for name, state in self._states.items() if state.state == "failed"}
            return {name: error for name, error in failed.items() if name not in self._opened}

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
        with self._news:
            opened = dict(self._opened)
        states = self.status()
        title = f"tracelet-shim session {self.id}: {self._stopped_as or ('active' if self.active else 'inactive')}"
        return html_table(title, ((name, opened[name].url if name in opened else None, s) for name, s in states.items()))

    # -- end ----------------------------------------------------------------------------------------------------------

    def stop(self, status: str = "finished", timeout: float | None = None, *, at_exit: bool = False) -> None:
        """Deliver what is left and end all runs. A second call changes nothing.

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
        if self._stopped_as is not None or not self.active:
            return
        self._stopped_as = status
        self.active = False
        reason = intercept.missed()
        if reason is not None:
            self.nothing_seen(reason)
        if self._bus is None:
            self._let_go(at_exit=at_exit)
            if self.settings.strict and self._troubles_of_ours():
                raise errors.DeliveryError("nothing was delivered; see the warning above", {})
        else:
            deadline = self.settings.exit_timeout if timeout is None else timeout
            drain = Drain(self.status, deadline, quiet=self.settings.quiet)
            flushed = False

            def waiting() -> None:
                nonlocal flushed
                if self._spilled and not flushed:
                    flushed = True
                    intercept.flush_files()  # what did not fit into memory is read from them
                drain.show()

            try:
                states = self._bus.close(msg.Close(status, deadline, at_exit), waiting)
            except KeyboardInterrupt:
                drain.close()
                goes_on = "" if self.hosts_trackers else f"; the relay goes on by itself, for up to {deadline:.0f} s"
                remedy = self._remedy()
                say(f"interrupted{goes_on}" + (f"; to deliver what is missing then: {remedy}" if remedy is not None else ""))
                raise
            finally:
                drain.close()
                self._let_go(at_exit=at_exit)
            if os.environ.get(OWNER) == owner_mark():
                del os.environ[OWNER]
            try:
                self._account(answered=states is not None)
            finally:
                if self.settings.ci:
                    self._tell_job(self.status())

    def _let_go(self, *, at_exit: bool) -> None:
        """Take nothing more. While the end waited, what other threads logged was taken; what comes after the end of the program
        has begun, from them or from handlers of that end, is named at least."""
        if intercept.sink() is self:
            intercept.set_sink(Late(self) if at_exit and self._bus is not None else None)

    def came_late(self) -> None:
        """Take note of an event that was logged after the end; one line says so."""
        if not self.is_late:
            self.is_late = True
            self._too_late("events are logged after the end of the session")

    def _too_late(self, what: str) -> None:
        """Say of events that they are in the event files only, and let a resumed delivery find them there."""
        entries = self._bus.entries() if self._bus is not None else []
        for session, root in entries:
            self._leave_open(session, root)
        remedy = _resuming(root for _, root in entries)
        later = f"; to deliver them: {remedy}" if remedy is not None else ""
        self._on_trouble(msg.Trouble(None, "late", f"{what}; they are in the event files only{later}"))

    def _leave_open(self, session: str, root: str) -> None:
        """Note in the ledger that the event files have more than was handed over."""
        import sqlite3  # not needed in any other case, and so not imported

        from tracelet_shim.state.ledger import Ledger
        from tracelet_shim.state.place import state_directory

        directory = state_directory(root, os.environ)
        try:
            if (directory / "ledger.db").is_file():
                ledger = Ledger(directory)
                ledger.leave_open(session)
                ledger.close()
        except (OSError, sqlite3.Error) as error:
            self._on_trouble(msg.Trouble(None, "ledger", f"cannot write the ledger in {directory} ({error})"))

    def _tell_job(self, states: Mapping[str, msg.BackendState]) -> None:
        """Tell the CI job, if there is one, what became of this session."""
        title = " / ".join(name for name in (self.settings.project, self.settings.exp_name) if name) or self.id
        urls = {name: self._opened[name].url for name in states if name in self._opened}
        ci.tell(os.environ, title, urls, states, self._remedy(), quiet=self.settings.quiet)
        for part in self._bus.ids if self._bus is not None else ():
            run_report.add(session=part, told=True)

    def nothing_seen(self, reason: str) -> None:
        """Say that the program has used `SummaryWriter`, and that nothing of it came here."""
        names = ",".join(spec.name for spec in self._specs)
        text = (
            f"nothing of torch.utils.tensorboard reaches {names} in this process ({reason}); to deliver what the event files "
            f"have: tracelet-shim replay LOGDIR --backend {names}"
        )
        if self._bus is None:
            run_report.add(unseen=text, pid=os.getpid())
        self._on_trouble(msg.Trouble(None, "unseen", text))

    def _account(self, *, answered: bool) -> None:
        """Say what did not arrive; raise under strict."""
        late = self._bus.unsent() if self._bus is not None else 0
        if answered and late:
            intercept.flush_files()  # so that they are there for a resumed delivery, however the program goes on
            self._too_late(f"{late} events were logged while the end waited, and came too late for the trackers")
        elif not answered and not self._troubles_of_ours():  # a relay that stands still, or died
            silent = "the relay did not answer at the end; what is missing is told as of its last report, and may be less"
            self._on_trouble(msg.Trouble(None, "silent", silent))
        states = self.status()
        missing = {name: s.missing for name, s in states.items() if not s.complete}
        for name in missing:
            say(f"warning: {name}: {states[name].shortfall}")
        remedy = self._remedy()
        if remedy is not None:
            say(f"what is missing is in the event files; to deliver it: {remedy}")
        if self.settings.strict and (missing or self._troubles_of_ours()):
            names = ", ".join(f"{name}: {count or states[name].state}" for name, count in missing.items())
            later = f"; to deliver it: {remedy}" if remedy is not None else ""
            raise errors.DeliveryError(f"not everything was delivered ({names or 'see the warnings above'}){later}", missing)

    def _remedy(self) -> str | None:
        """Return the command that delivers what is missing; None if nothing is that it could deliver."""
        if self._bus is None:
            return None
        return _resuming(self._bus.to_resume(), refused=any(state.refused for state in self.status().values()))

    def _troubles_of_ours(self) -> bool:
        return any(trouble.backend is None and trouble.kind not in _HARMLESS for trouble in self._troubles)

    def after_fork(self) -> None:
        """In a forked child: nothing of this session is ours."""
        self.active = False
        if self._bus is not None:
            self._bus.after_fork()
        self._bus = None
        self._routes = []
        self._stopped_as = "forked"


def _resuming(roots: Iterable[str], *, refused: bool = False) -> str | None:
    """Return the command that delivers what is in the event files only; None where it would find no state or no files."""
    directory = os.environ.get("TRACELET_STATE_DIR")
    state = f"TRACELET_STATE_DIR={quoted(os.path.abspath(directory))} " if directory else ""
    retry = " --retry-refused" if refused else ""
    found = (root for root in dict.fromkeys(roots) if "://" not in root)
    return "; ".join(f"{state}tracelet-shim replay {quoted(root)} --resume{retry}" for root in found) or None


class Late:
    """The sink behind a session that the end of the program has ended: threads go on, and handlers of that end come after ours.

    Args:
        session: the session.
    """

    accelerates = False

    def __init__(self, session: Session) -> None:
        self._session = session

    def home(self) -> intercept.Home:
        return ()

    def writer_created(self, logdir: str, home: intercept.Home) -> None:
        """Nothing is opened any more."""

    def add_source(self, path: str, logdir: str, parent: str | None, home: intercept.Home) -> int:
        return 0

    def publish(self, record: msg.Record) -> None:
        self._session.came_late()

    def nudge(self) -> None:
        """Nothing is waited for any more."""

    def problem(self, error: Exception) -> None:
        self._session.problem(error)


def _job(settings: Settings) -> Job | None:
    """Return the scheduler's job that this session may continue; an id that the user has chosen says it all."""
    job = scheduled_job() if settings.run_id is None else None
    return Job(f"{job.name}:rank{rank()}", job.times) if job is not None and settings.ranks == "all" else job


class _Native(Mapping[str, Any]):
    def __init__(self, backends: Mapping[str, Backend], names: list[str]) -> None:
        self._backends = backends
        self._names = names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(f"{name!r} is not a backend of this session; it has {', '.join(self._names)}")
        if name in self._backends:
            return self._backends[name].handle
        raise errors.ConfigurationError(
            f"the run of {name!r} lives in the relay process; to get its own object here, use delivery='thread' "
            "(TRACELET_DELIVERY=thread)"
        )

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
