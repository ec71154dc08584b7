"""Event files -> relay: any TensorBoard log directory into any trackers, and the rest of a session that was cut off.

Nothing is translated here. Records go, as they stand in the event files, to the same `Relay` that serves a training
process; it is hosted in this process. What calls knew and event files do not (exact values, keys of `add_scalars`) comes
from the index of a session that is continued, and is read off the names of directories for everything else.

The program that wrote the files is not running, or not here: backends are told a process id of 0.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from tracelet_shim import _series, errors
from tracelet_shim._inside import is_inside, refusal
from tracelet_shim._logdir import (
    CREATED,
    PROJECTOR,
    STATE,
    Damage,
    EventFile,
    Projector,
    elsewhere,
    is_event_file,
    projector_config,
    run_directories,
    walk,
)
from tracelet_shim._report import is_alive
from tracelet_shim._settings import Settings, resolve
from tracelet_shim._text import as_utf8
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfile import count_records
from tracelet_shim.ledger import About, Ledger, RunRow, SessionRow, in_use, indexed, moved_on, state_directory
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.relay.system import WRITER

__all__ = ["Damage", "Outcome", "Progress", "View", "missing", "replay", "resume", "run_directories", "running"]

_BATCH_RECORDS = 1000
_BATCH_BYTES = 1 << 20
_AHEAD = 20_000  # records that reading may be ahead of the fastest tracker
_POLL = 1.0
_TICK = 0.1


class Progress(NamedTuple):
    """How far a replay is: bytes read, bytes there are, and where each tracker stands."""

    read: int
    size: int
    states: Mapping[str, msg.BackendState]


class Outcome(NamedTuple):
    """How a replay ended.

    Attributes:
        session: its id; empty if there was nothing to do.
        root: the root directory.
        states: where each tracker stands.
        damages: files that could not be read to their end.
    """

    session: str
    root: str
    states: Mapping[str, msg.BackendState]
    damages: tuple[Damage, ...]

    @property
    def undelivered(self) -> dict[str, int]:
        """Number of events that are missing, by tracker."""
        return {
            name: s.pending + s.failed for name, s in self.states.items() if s.pending + s.failed or s.state != "closed"
        }


class View(Protocol):
    """Who started the replay."""

    def stopped(self) -> bool:
        """Return whether it shall end: what has been read is still delivered."""

    def say(self, line: str) -> None:
        """Tell the user something."""

    def progress(self, progress: Progress) -> None:
        """Called about ten times a second."""


# -- the files of a run, in order -------------------------------------------------------------------------------------


class _Directory:
    """The files of a log directory, in the order in which they are delivered: directories by the time of their first
    record, so that the first `add_hparams` is the one that was called first; files one after the other.

    Args:
        host: gets the records.
        top: the directory; None: nothing but the files that are added.
        recursive: take what is below as well.
        wanted: tells of a file that is found whether it belongs to the run.
        follow: there will be another look at it.
    """

    def __init__(
        self, host: _Host, top: str | None, *, recursive: bool = True, wanted: Callable[[str], bool] | None = None,
        follow: bool = False,
    ) -> None:
        self._host = host
        self._top = top
        self._recursive = recursive
        self._wanted = wanted
        self._follow = follow
        self.files: dict[str, EventFile | Projector] = {}
        self._refused: dict[str, str] = {}
        self._sources = 0

    def know(self, source: msg.Source, start: int) -> None:
        """Add a file that the relay knows already."""
        kind = Projector if os.path.basename(source.path) == PROJECTOR else EventFile
        inside = self._top if self._top is not None and is_inside(source.path, self._top) else None
        file = self.files[source.path] = kind(source.path, source.logdir, start, inside=inside)
        file.source = source.id
        self._sources = max(self._sources, source.id + 1)

    def scan(self) -> None:
        """Look for new files, and announce them."""
        new: dict[str, list[EventFile | Projector]] = {}
        self._refused.clear()
        for directory, logdir, names in self._places():
            for name in names:
                path = os.path.join(directory, name)
                if path in self.files or not (is_event_file(name) or name == PROJECTOR):
                    continue
                if self._wanted is not None and not self._wanted(path):
                    continue
                problem = self._refusal(path)
                if problem is not None:
                    self._refused[path] = problem
                    continue
                kind = Projector if name == PROJECTOR else EventFile
                new.setdefault(directory, []).append(kind(path, logdir, inside=self._top))
        homes = self._homes([file for files in new.values() for file in files])
        ordered = [sorted((file.order(), file.path, file) for file in files) for files in new.values()]
        for files in sorted(ordered, key=lambda files: (files[0][0][1], files[0][1])):
            for _, path, file in files:
                if path not in homes:
                    continue
                file.source, self._sources = self._sources, self._sources + 1
                self.files[path] = file
                self._host.relay.handle(msg.Source(file.source, path, file.logdir, homes[path], replay=True))

    def _homes(self, new: list[EventFile | Projector]) -> dict[str, str | None]:
        """Return whose `add_scalars` has made new files, if any has; without those of which only the next look can tell."""
        found: dict[str, str | None] = {file.path: None for file in new}
        files: dict[str, list[str]] = {}
        for file in (*self.files.values(), *new):
            files.setdefault(os.path.dirname(file.path), []).append(file.path)
        for file in new:
            if isinstance(file, EventFile) and self._top is not None and self._recursive:
                found[file.path] = _series.home(file.path, files, self._top)
                if self._follow and any(_series.homes(file.path, files, self._top)) and not _series.tags(file.path, self._top):
                    del found[file.path]
        return found

    def _refusal(self, path: str) -> str | None:
        """Return why this file is not read, if it is not: a link to somewhere else, a FIFO, ..."""
        assert self._top is not None
        if not is_inside(path, self._top):
            return elsewhere(os.path.realpath(path), self._top)
        return refusal(path, self._top)

    def _places(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield (directory, log directory, names of files); the two differ for system metrics, which lie with our state."""
        if self._top is None:
            return
        for directory, names in walk(self._top, recursive=self._recursive, refused=self._refused.__setitem__):
            yield directory, directory, names
            system = os.path.join(directory, STATE, WRITER)
            if self._recursive and os.path.isdir(system):
                with contextlib.suppress(OSError):  # of another user's session
                    yield system, os.path.join(directory, WRITER), os.listdir(system)

    def read(self) -> int:
        """Hand over what is new in the files; return the number of records."""
        count = size = 0
        batch: list[msg.Record] = []
        self._host.size = sum(file.size for file in self.files.values())
        for file in self.files.values():
            if self._host.view.stopped():
                break
            for record in file.records(self._host.relay.learn):
                batch.append(record)
                size += len(record.data or b"")
                if len(batch) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
                    count += len(batch)
                    self._host.feed(batch, sum(file.offset for file in self.files.values()))
                    batch, size = [], 0
                if self._host.view.stopped():
                    break
        if batch:
            self._host.feed(batch, sum(file.offset for file in self.files.values()))
        return count + len(batch)

    def damages(self) -> tuple[Damage, ...]:
        left_out = [Damage(path, None, problem) for path, problem in self._refused.items()]
        return (*left_out, *(damage for file in self.files.values() for damage in file.damages))


# -- the relay, in this process ---------------------------------------------------------------------------------------


class _Host:
    """A relay in this process, and what is shown of it.

    Args:
        view: who started the replay.
        patience: seconds without any progress after which waiting for the trackers is given up.
        state: the state directory, where the session has one.
    """

    def __init__(self, view: View, patience: float, state: Path | None = None) -> None:
        self.view = view
        self.relay = Relay(self._replied, state=state, complete=True)
        self.size = 0
        self._read = 0
        self._patience = patience
        self._replies: collections.deque[msg.Reply] = collections.deque()
        self._told: set[tuple[str | None, str]] = set()
        self._next_tick = 0.0

    def _replied(self, reply: msg.Reply) -> None:
        self._replies.append(reply)

    def feed(self, records: list[msg.Record], read: int) -> None:
        """Hand records over; wait if that is far ahead of the trackers."""
        self.relay.handle(msg.Records(records))
        self._read = read
        self.tick()
        self._wait(lambda: self.relay.ahead() <= _AHEAD)

    def drain(self) -> None:
        """Wait until every tracker has everything, or cannot get it."""
        self._wait(lambda: all(s.pending == 0 or s.state in ("failed", "closed") for s in self.relay.states().values()))

    def _wait(self, done: Callable[[], bool]) -> None:
        before: object = None
        since = time.monotonic()
        while not done() and not self.view.stopped():
            now = [(s.state, s.delivered, s.failed) for s in self.relay.states().values()]
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > self._patience:
                return
            time.sleep(0.02)
            self.tick()

    def rest(self, seconds: float) -> None:
        """Let the trackers work while there is nothing to read."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.view.stopped():
            time.sleep(0.05)
            self.tick()

    def tick(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + _TICK
            self.relay.tick()
            self.view.progress(Progress(self._read, self.size, self.relay.states()))
        self._tell()

    def close(self, status: str, *, cut_off: bool) -> Mapping[str, msg.BackendState]:
        """End the runs; return where the trackers stand."""
        self.relay.handle(msg.Close(status, self._patience, cut_off=cut_off))
        while not self.relay.closed:
            time.sleep(0.02)
            self.relay.tick()
        self.view.progress(Progress(self._read, self.size, self.relay.states()))
        self._tell()
        return self.relay.states()

    def _tell(self) -> None:
        while self._replies:
            reply = self._replies.popleft()
            if isinstance(reply, msg.Opened) and reply.url:
                self.view.say(f"{reply.backend}: {reply.url}")
            elif isinstance(reply, msg.Trouble) and (reply.backend, reply.kind) not in self._told:
                self._told.add((reply.backend, reply.kind))
                where = f"{reply.backend}: " if reply.backend else ""
                self.view.say(f"warning: {where}{reply.message}")


# -- replay -----------------------------------------------------------------------------------------------------------


def replay(
    logdir: str,
    arguments: Mapping[str, Any],
    view: View,
    *,
    recursive: bool = True,
    follow: bool = False,
    idle: float | None = None,
) -> Outcome:
    """Deliver a log directory, as a session of its own.

    Args:
        logdir: the directory.
        arguments: settings, as for `start_logging`; None means not given.
        view: who wants to know.
        recursive: take what is below as well, as writers of the run.
        follow: go on as the files grow and new ones come, until `view.stopped()`.
        idle: end that after so many seconds without anything new; None: never.

    Raises:
        ConfigurationError, BackendUnavailableError: what can be known at once.
    """
    logdir = os.path.abspath(logdir)
    if not os.path.isdir(logdir):
        raise errors.ConfigurationError(f"{logdir} is no directory")
    settings = resolve({**arguments, "root": arguments.get("root") or logdir}, registry.names())
    specs = _specs(settings)
    root = os.path.abspath(settings.root or logdir)
    host = _Host(view, settings.exit_timeout)
    directory = _Directory(host, logdir, recursive=recursive, follow=follow)
    info = _run_info(settings, logdir, root, recursive=recursive)
    host.relay.handle(msg.Open(info, specs, int(settings.memory * 1e6), root))
    news = time.monotonic()
    while True:
        directory.scan()
        if directory.read():
            news = time.monotonic()
        if not follow or view.stopped() or (idle is not None and time.monotonic() - news > idle):
            break
        host.rest(min(_POLL, idle or _POLL))
    interrupted = view.stopped() and not follow
    if not interrupted:
        host.drain()
    # What has not been read yet, and in a directory that was followed what still comes, is there for --resume.
    states = host.close("killed" if interrupted else "finished", cut_off=interrupted or follow)
    damages = tuple(damage for damage in directory.damages() if not (damage.expected and follow) and not interrupted)
    return Outcome(info.session, root, states, damages)


def _specs(settings: Settings) -> list[msg.BackendSpec]:
    from tracelet_shim._api import _specs as specs

    return specs(settings, {})


def _run_info(settings: Settings, logdir: str, root: str, *, recursive: bool) -> RunInfo:
    program = Program(
        script=None, module=None, argv=("tracelet-shim", "replay", as_utf8(logdir)), cwd=os.getcwd(), executable=sys.executable,
        pid=0, host=socket.gethostname(),
    )  # fmt: skip
    places = [(d, n) for d, ns in walk(logdir, recursive=recursive) for n in ns if is_event_file(n)]
    firsts = [EventFile(os.path.join(d, n), d, inside=logdir).order()[1] for d, n in places]
    started = min(firsts, default=math.inf)
    return RunInfo(
        session=uuid.uuid4().hex[:16], program=program, started=started if math.isfinite(started) else time.time(),
        project=settings.project, exp_name=settings.exp_name or as_utf8(os.path.basename(logdir)), run_id=settings.run_id,
        tags=settings.tags, notes=settings.notes, config=settings.config, offline=settings.offline, root=root,
        what_ran=(),
    )  # fmt: skip


# -- resume -----------------------------------------------------------------------------------------------------------


def running(session: SessionRow, directory: Path) -> bool:
    """Return whether the session is being served: by its training process, its relay, or a replay."""
    if in_use(directory, session.id):
        return True
    return session.ended is None and session.host == socket.gethostname() and is_alive(session.pid, session.started)


class Missing(NamedTuple):
    """What a session has not delivered.

    Attributes:
        runs: the runs that are not complete.
        tail: True if the event files have records that the session never got.
        backends: all trackers of the session.
    """

    runs: tuple[RunRow, ...]
    tail: bool
    backends: tuple[str, ...]

    @property
    def anything(self) -> bool:
        return bool(self.runs) or self.tail


def missing(ledger: Ledger, session: SessionRow, root: str) -> Missing:
    """Return what is missing of a session.

    Args:
        ledger: has the session.
        session: the session; it must not be running.
        root: where its root directory is now.
    """
    records, taken = indexed(ledger.directory, session.id) or (session.records, {})
    rows = tuple(moved_on(ledger.directory, session.id, ledger.runs(session.id)))
    backends = tuple(row.backend for row in rows)
    behind = tuple(row for row in rows if row.state != "closed" or row.cursor < records)
    if session.ended is not None and not session.cut_off:
        return Missing(behind, False, backends)
    files = _Known(ledger, session, root, taken)
    tail = any(_count(source.path) > files.taken[source.path] for source in files.sources) or any(
        files.is_new(os.path.join(directory, name)) for directory, names in walk(files.root) for name in names
    )
    return Missing(rows if tail else behind, tail, backends)


class _Known:
    """The files of a session, where they are now, and how to tell whether another one is of this session too.

    Args:
        ledger: has the session.
        session: the session.
        root: where its root directory is now. Paths below the one that it had are moved.
        taken: by source, what the index has.

    Attributes:
        sources: the sources that the ledger has; what was not seen when it was written follows the rules of replay.
        writers: the log directories in the order in which they were named.
        taken: by path, the position behind the last record.
    """

    def __init__(self, ledger: Ledger, session: SessionRow, root: str, taken: Mapping[int, int]) -> None:
        self.root = root
        self._session = session
        self.sources = [
            msg.Source(
                s.id, self._moved(s.path), self._moved(s.logdir), s.parent and self._moved(s.parent),
                replay=s.replay or s.parent is not None,
            )
            for s in ledger.sources(session.id)
        ]  # fmt: skip
        self.writers = [self._moved(logdir) for logdir in ledger.writers(session.id)]
        ended = ledger.taken(session.id)
        self.taken: dict[str, int] = {}
        for source in self.sources:
            position = max(taken.get(source.id, 0), ended.get(source.id, 0))
            self.taken[source.path] = max(position, self.taken.get(source.path, 0))
        self._others = {self._moved(path) for path in ledger.known_paths()}
        self._directories = {source.logdir for source in self.sources}

    def _moved(self, path: str) -> str:
        old = self._session.root
        if path == old:
            return self.root
        return os.path.join(self.root, os.path.relpath(path, old)) if path.startswith(f"{old.rstrip('/')}/") else path

    def is_new(self, path: str) -> bool:
        """Return whether this file is the session's and not in the ledger: of a replay everything is; of a training process
        what its event writers, whose files have its host and process id in their names, have begun since the start."""
        session, name = self._session, os.path.basename(path)
        if path in self._others or not (is_event_file(name) or name == PROJECTOR):
            return False
        if not is_inside(path, self.root) or not os.path.isfile(path):
            return False  # it is never read
        if session.is_replay:
            return True
        if name == PROJECTOR:
            return os.path.dirname(path) in self._directories and os.path.getmtime(path) >= session.started
        named = CREATED.search(name)
        return (
            named is not None
            and int(named.group(1)) >= int(session.started)
            and f"{named.group(2)}.".startswith(f"{session.host}.{session.pid}.")
        )


def _count(path: str) -> int:
    """Return how many records, or embeddings, a file has."""
    try:
        return len(projector_config(path)) if os.path.basename(path) == PROJECTOR else count_records(path)
    except (OSError, ValueError):
        return 0


def resume(logdir: str, arguments: Mapping[str, Any], view: View, *, session: str | None = None) -> Outcome:
    """Deliver what a session has not: into the same runs, and nothing twice.

    What the index of the session has is delivered from each tracker's cursor on. If the session was cut off, this is
    followed by what stands in the event files behind the last indexed record of each.

    Args:
        logdir: the session's root directory.
        arguments: settings that the ledger does not keep: ``backend`` (default: all of the session), ``options``, ...
        view: who wants to know.
        session: its id, or how that begins; None: the latest one that is not complete.

    Raises:
        ConfigurationError: there is no such session, or it is still running.
        BackendUnavailableError: what can be known at once.
    """
    logdir = os.path.abspath(logdir)
    directory = _state(logdir)
    ledger = Ledger(directory)
    try:
        chosen = _choose(ledger, logdir, session)
        if chosen is None:
            return Outcome("", logdir, {}, ())
        row, root, left = chosen
        index = indexed(directory, row.id)
        files = _Known(ledger, row, root, index[1] if index is not None else {})
    finally:
        ledger.close()
    if index is None and any(run.cursor < row.records for run in left.runs):
        raise errors.ConfigurationError(
            f"session {row.id} has lost its index in {directory}; what is missing cannot be told from what was delivered"
        )
    _check_files(files, row, view)
    _go_to(row.cwd, view)
    settings = resolve(arguments, registry.names())
    about = msgspec.json.decode(row.about or "{}", type=About)
    names = _names(settings.backend if arguments.get("backend") else (), row, left)
    if not names:
        return Outcome("", logdir, {}, ())
    settings = msgspec.structs.replace(settings, backend=names, offline=about.offline or bool(arguments.get("offline")))
    specs = _specs(settings)
    host = _Host(view, settings.exit_timeout, directory)
    relay = host.relay
    relay.handle(msg.Open(_again(row, about, root), specs, int(settings.memory * 1e6), root, restarted=True))
    for writer in files.writers:
        relay.handle(msg.Writer(writer))
    for source in files.sources:
        relay.handle(source)
    if not relay.owned:
        raise errors.ConfigurationError(f"session {row.id} is being delivered by another process")
    relay.handle(msg.Continue())
    rest = _Directory(host, root if left.tail else None, wanted=files.is_new)
    if left.tail:
        for source in files.sources:
            rest.know(source, files.taken[source.path])
        rest.scan()
        rest.read()
    host.drain()
    states = host.close(row.status or "failed", cut_off=view.stopped())
    if relay.clean:
        with contextlib.suppress(OSError):
            (directory / f"{row.id}.log").unlink(missing_ok=True)  # of the relay that did not come to its end
    return Outcome(row.id, root, states, tuple(damage for damage in rest.damages() if not damage.expected))


def _go_to(cwd: str, view: View) -> None:
    """SDKs have put their local stores relative to the working directory of the program. The ledger may be somebody else's, so
    where that is does not go without saying."""
    with contextlib.suppress(OSError):
        if not os.path.samefile(cwd, "."):
            os.chdir(cwd)
            view.say(f"continuing in {cwd}, where the session ran")


def _check_files(files: _Known, session: SessionRow, view: View) -> None:
    """Events whose file is gone count as failed, for good: make sure that it is not the file system that is not there."""
    needed = {source.path for source in files.sources if os.path.basename(source.path) != PROJECTOR}
    gone = sorted(path for path in needed if not os.path.exists(path))
    if gone and len(gone) == len(needed):
        raise errors.ConfigurationError(f"session {session.id}: none of its event files is there, beginning with {gone[0]}")
    for path in gone:
        view.say(f"warning: {path} is gone, and what has not been delivered of it")


def _state(logdir: str) -> Path:
    """Return the state directory that has a ledger."""
    candidates = dict.fromkeys((state_directory(logdir, os.environ), Path(logdir, STATE)))
    for directory in candidates:
        if (directory / "ledger.db").is_file():
            return directory
    raise errors.ConfigurationError(
        f"no session was recorded in {' or '.join(map(str, candidates))}; `tracelet-shim status` shows where there are some"
    )


def _choose(ledger: Ledger, logdir: str, name: str | None) -> tuple[SessionRow, str, Missing] | None:
    """Return the session to continue, its root directory, and what is missing; None if nothing is."""
    sessions = ledger.sessions()
    if name is not None:
        sessions = [session for session in sessions if session.id.startswith(name)]
        if len(sessions) != 1:
            raise errors.ConfigurationError(f"{len(sessions)} sessions in {ledger.directory} begin with {name!r}")
    elif ledger.directory != Path(logdir, STATE):  # a directory for the sessions of many log directories
        sessions = [session for session in sessions if _same(session.root, logdir)]
    for session in sessions:
        if running(session, ledger.directory):
            if name is None and session is not sessions[0]:
                continue
            raise errors.ConfigurationError(
                f"session {session.id} is still running (process {session.pid} on {session.host}, or what delivers for it)"
            )
        root = session.root if name is not None or _same(session.root, logdir) else logdir
        left = missing(ledger, session, root)
        if left.anything:
            return session, root, left
    return None


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _names(wanted: tuple[str, ...], session: SessionRow, left: Missing) -> tuple[str, ...]:
    """Return the trackers to deliver to."""
    rows = {row.backend: row for row in left.runs}
    for name in wanted:
        if name not in left.backends and left.backends:
            raise errors.ConfigurationError(
                f"session {session.id} has no run in {name!r}, but in {', '.join(left.backends)}; without --resume, "
                "a replay opens a new run"
            )
    names = wanted or left.backends
    if not left.backends:
        return names
    return tuple(name for name in names if name in rows)


def _again(row: SessionRow, about: About, root: str) -> RunInfo:
    """Return what the runs of a session are opened with. What ran is not what is here now; if the session has found it out,
    it is in its state directory."""
    program = Program(
        script=row.script, module=None, argv=(as_utf8(row.script or "python"),), cwd=row.cwd, executable=sys.executable,
        pid=row.pid, host=row.host,
    )  # fmt: skip
    return RunInfo(
        session=row.id, program=program, started=row.started, project=row.project, exp_name=row.exp_name,
        run_id=row.run_id, tags=about.tags, notes=about.notes, config=about.config, group=about.group,
        offline=about.offline, root=root, what_ran=(),
    )  # fmt: skip
