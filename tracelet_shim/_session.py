"""One session: settings + interception + bus + relay, and the order in which they end."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgspec

from tracelet_shim import _ci, _report, errors, intercept
from tracelet_shim._display import Drain, html_table, say
from tracelet_shim._double_logging import active_hook
from tracelet_shim._program import ExitWatch, describe, rank, scheduled_job, world_group
from tracelet_shim._settings import Settings
from tracelet_shim._text import quoted
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend, Job, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.bus import Bus
from tracelet_shim.bus.channel import Channel, SplitChannel, ThreadChannel
from tracelet_shim.bus.process import RelayChannel

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
    return _report.is_alive(int(pid), math.inf)


class Session:
    """A running session. Made by `start_logging`; a context manager that stops at its end.

    Attributes:
        id: 16 hex digits, the same in all trackers.
        settings: what it was started with.
        active: False if this process does not log (another rank does), or after `stop`.
        objects: the backends that were given as objects, by name.
        from_environment: True if no call asked for it: it begins with the first writer.
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
        self._bus: Bus | None = None
        self._begin_lock = threading.Lock()
        self._sources = itertools.count()
        self._states = {spec.name: msg.BackendState() for spec in specs}
        self._opened: dict[str, msg.Opened] = {}
        self._news = threading.Condition()
        self._warned: set[tuple[str | None, str]] = set()
        self._troubles: list[msg.Trouble] = []
        self._job = _job(settings)
        self._stopped_as: str | None = None
        self._spilled = False
        self._root: str | None = None
        self.exit_watch = ExitWatch()

    # -- begin --------------------------------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """True once the runs are being opened."""
        return self._bus is not None

    def renewed(self) -> Session:
        """Return a session like this one, for a forked child, which shares no lock with its parent."""
        return Session(self.settings, self._specs, self.objects, from_environment=self.from_environment)

    def begin(self) -> Bus:
        """Start the relay and open the runs, without waiting for them. A second call changes nothing."""
        bus = self._bus
        if bus is not None:
            return bus
        with self._begin_lock:
            if self._bus is None:
                bus = self._start()
                self._bus = bus
        assert self._bus is not None
        return self._bus

    def _start(self) -> Bus:
        memory = int(self.settings.memory * 1e6)
        for spec in self._specs:
            _borrow(spec)
            twice = active_hook(spec.name)
            if twice is not None:
                self._on_trouble(msg.Trouble(spec.name, "twice", f"it will have everything twice: {twice}"))
        bus = Bus(self._make_channel, memory, self._on_reply)
        run = self._run_info()
        found = _ci.tags(os.environ) if self.settings.ci else {}
        _report.add(began=self.id, pid=os.getpid(), trackers=[spec.name for spec in self._specs])
        bus.start(msg.Open(run, self._specs, memory, run.root, found, self.settings.system_metrics))
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
        return self.settings.delivery == "thread" or any(not spec.target or spec.here for spec in self._specs)

    def _make_channel(self) -> Channel:
        """Choose the hosting: a process of its own, this one for backends that must live here, or both."""
        here = {spec.name for spec in self._specs if not spec.target or spec.here}
        if self.settings.delivery == "thread" or len(here) == len(self._specs):
            return ThreadChannel(self.objects)
        there = RelayChannel(say)
        return SplitChannel(ThreadChannel(self.objects), here, there) if here else there

    def _run_info(self) -> RunInfo:
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
            session=self.id, program=program, started=time.time(), project=s.project, exp_name=name, run_id=s.run_id,
            tags=tags, notes=s.notes, config=dict(s.config), group=group, offline=s.offline, root=root,
            job=self._job, what_ran=s.what_ran,
        )  # fmt: skip

    # -- the sink of interception -------------------------------------------------------------------------------------

    def writer_created(self, logdir: str) -> None:
        self.begin().tell(msg.Writer(logdir))

    def add_source(self, path: str, logdir: str, parent: str | None) -> int:
        number = next(self._sources)
        self.begin().tell(msg.Source(number, path, logdir, parent))
        return number

    def publish(self, record: msg.Record) -> None:
        self.exit_watch.still_running()
        if self._bus is not None:  # begun by add_source, which every record's file goes through
            self._bus.publish(record)

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
                self._root = reply.root or self._root
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
                _report.add(session=self.id, trouble=trouble.message)
            where = f"{trouble.backend}: " if trouble.backend else ""
            say(f"warning: {where}{trouble.message}")

    # -- for the user -------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until everything logged so far is in every tracker.

        Args:
            timeout: seconds to wait at most.

        Returns:
            False if the time ran out, or delivery to a tracker has failed for good.
        """
        if self._bus is None:
            return True
        return self._bus.flush(timeout) and not any(s.state == "failed" for s in self._states.values())

    def status(self) -> dict[str, msg.BackendState]:
        """Return, by tracker: its state, how many events are delivered, pending and failed, and the latest error."""
        with self._news:
            return dict(self._states)

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
            opened, states = dict(self._opened), dict(self._states)
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
        if intercept.sink() is self:
            intercept.set_sink(None)
        self.active = False
        if self._bus is not None:
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
                remedy = self._remedy(self.status())
                say(f"interrupted{goes_on}" + (f"; to deliver what is missing then: {remedy}" if remedy is not None else ""))
                raise
            finally:
                drain.close()
            if os.environ.get(OWNER) == owner_mark():
                del os.environ[OWNER]
            try:
                self._account(states)
            finally:
                if self.settings.ci:
                    self._tell_job(states if states is not None else self.status())

    def _tell_job(self, states: Mapping[str, msg.BackendState]) -> None:
        """Tell the CI job, if there is one, what became of this session."""
        title = " / ".join(name for name in (self.settings.project, self.settings.exp_name) if name) or self.id
        urls = {name: self._opened[name].url for name in states if name in self._opened}
        _ci.tell(os.environ, title, urls, states, self._remedy(states), quiet=self.settings.quiet)
        _report.add(session=self.id, told=True)

    def _account(self, states: dict[str, msg.BackendState] | None) -> None:
        """Say what did not arrive; raise under strict."""
        if states is None:  # a relay that stands still, or died; what it has is not known
            if not self._troubles_of_ours():
                silent = "the relay did not answer at the end; the last events may be missing"
                self._on_trouble(msg.Trouble(None, "silent", silent))
            states = self.status()
        missing = {name: s.pending + s.failed for name, s in states.items() if s.pending + s.failed or s.state == "failed"}
        for name, count in missing.items():
            error = f" ({states[name].error})" if states[name].error else ""
            say(f"warning: {name}: {count} events were not delivered{error}")
        for name, state in states.items():
            if state.state == "abandoned" and name not in missing:
                say(f"warning: {name}: it has everything, but its run was not ended in time")
        remedy = self._remedy(states)
        if remedy is not None:
            say(f"what is missing is in the event files; to deliver it: {remedy}")
        if self.settings.strict and (missing or self._troubles_of_ours()):
            names = ", ".join(f"{name}: {count}" for name, count in missing.items()) or "see the warnings above"
            later = f"; to deliver it: {remedy}" if remedy is not None else ""
            raise errors.DeliveryError(f"not everything was delivered ({names}){later}", missing)

    def _remedy(self, states: Mapping[str, msg.BackendState]) -> str | None:
        """Return the command that delivers what is missing; None if nothing is, or if it would find no state or no files."""
        split = not all(spec.here or not spec.target for spec in self._specs) and self.settings.delivery == "process"
        in_ledger = [spec.name for spec in self._specs if spec.target and not (spec.here and split)]
        complete = all(states[name].state == "closed" and not states[name].pending for name in in_ledger)
        if self._root is None or "://" in self._root or complete:
            return None
        directory = os.environ.get("TRACELET_STATE_DIR")
        state = f"TRACELET_STATE_DIR={quoted(os.path.abspath(directory))} " if directory else ""
        return f"{state}tracelet-shim replay {quoted(self._root)} --resume"

    def _troubles_of_ours(self) -> bool:
        return any(trouble.backend is None and trouble.kind not in _HARMLESS for trouble in self._troubles)

    def after_fork(self) -> None:
        """In a forked child: nothing of this session is ours."""
        self.active = False
        if self._bus is not None:
            self._bus.after_fork()
        self._bus = None
        self._stopped_as = "forked"


def _borrow(spec: msg.BackendSpec) -> None:
    """Join the run that the user has active in this process, if there is one."""
    if not spec.target:
        return
    backend = registry.find(spec.name)
    run_id = backend.borrowed()
    if run_id is not None:
        spec.resume, spec.borrowed, spec.here = run_id, True, not backend.joins_from_outside()


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
