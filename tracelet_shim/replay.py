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
import re
import shlex
import socket
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from tracelet_shim import errors
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common.inside import is_inside, refusal
from tracelet_shim.common.run_report import is_alive
from tracelet_shim.common.text import as_utf8
from tracelet_shim.eventfiles import add_scalars
from tracelet_shim.eventfiles.logdir import (
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
from tracelet_shim.eventfiles.tfrecord import count_records, require_protos
from tracelet_shim.ledger import About, Ledger, RunRow, SessionRow, in_use, indexed, moved_on, new_run, state_directory
from tracelet_shim.provenance.system_metrics import WRITER
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.session.settings import Settings, resolve

__all__ = ["Damage", "Outcome", "Progress", "View", "missing", "replay", "resume", "run_directories", "running"]

_BATCH_RECORDS = 1000
_BATCH_BYTES = 1 << 20
_AHEAD = 20_000  # records that reading may be ahead of the fastest tracker
_POLL = 1.0
_TICK = 0.1
_FIRST_MOMENT = 60.0  # seconds that the first writer's file may be older than the session, on a machine that is swamped


class Progress(NamedTuple):
    """How far a replay is: bytes read, bytes there are, and where each tracker stands."""

    read: int
    size: int
    states: Mapping[str, msg.BackendState]


class Outcome(NamedTuple):
    """How the replay or the continuation of a session ended.

    Attributes:
        session: its id.
        root: the root directory.
        states: where each tracker stands.
        damages: files that could not be read to their end.
        lost: by tracker and event file, how many events are in neither.
        problem: why nothing was done, though something is missing.
    """

    session: str
    root: str
    states: Mapping[str, msg.BackendState]
    damages: tuple[Damage, ...] = ()
    lost: Mapping[str, Mapping[str, int]] = {}
    problem: str | None = None

    @property
    def undelivered(self) -> dict[str, int]:
        """Number of events that are missing, by tracker."""
        return {name: s.missing for name, s in self.states.items() if not s.complete}

    @property
    def refused(self) -> dict[str, int]:
        """Number of events that are set aside, by tracker."""
        return {name: s.refused for name, s in self.states.items() if s.refused}


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
                found[file.path] = add_scalars.home(file.path, files, self._top)
                above = self._follow and any(add_scalars.homes(file.path, files, self._top))
                if above and not add_scalars.tags(file.path, self._top):
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
        retry_refused: offer again what trackers refused.
    """

    def __init__(self, view: View, patience: float, state: Path | None = None, *, retry_refused: bool = False) -> None:
        self.view = view
        self.relay = Relay(self._replied, state=state, complete=True, retry_refused=retry_refused)
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

    def troubles(self) -> list[str]:
        """Return what has not been told yet."""
        return [reply.message for reply in self._replies if isinstance(reply, msg.Trouble)]

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
        StateError: there are no event files. No run is opened.
    """
    require_protos()
    logdir = os.path.abspath(logdir)
    if not os.path.isdir(logdir):
        raise errors.ConfigurationError(f"{logdir} is no directory")
    settings = resolve({**arguments, "root": arguments.get("root") or logdir}, registry.names())
    specs = _specs(settings)
    _wait_for_files(logdir, view, recursive=recursive, until=idle if follow else 0.0)
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


def _wait_for_files(logdir: str, view: View, *, recursive: bool, until: float | None) -> None:
    """Wait for the first event file, at most `until` seconds; None: until `view.stopped()`."""
    since = time.monotonic()
    while not (_event_files(logdir, recursive=recursive) or _has_embeddings(logdir, recursive=recursive)):
        if view.stopped() or (until is not None and time.monotonic() - since >= until):
            raise errors.StateError(f"{logdir} has no event files with anything in them; no run was opened")
        time.sleep(_TICK)


def _event_files(logdir: str, *, recursive: bool) -> list[EventFile]:
    """Return the event files that have something in them, be it damaged."""
    places = ((os.path.join(d, n), d) for d, ns in walk(logdir, recursive=recursive) for n in ns if is_event_file(n))
    return [file for file in (EventFile(*place, inside=logdir) for place in places) if file.size]


def _has_embeddings(logdir: str, *, recursive: bool) -> bool:
    return any(PROJECTOR in names for _, names in walk(logdir, recursive=recursive))


def _specs(settings: Settings) -> list[msg.BackendSpec]:
    from tracelet_shim.session.api import _specs as specs

    return specs(settings, {})


def _run_info(settings: Settings, logdir: str, root: str, *, recursive: bool) -> RunInfo:
    program = Program(
        script=None, module=None, argv=("tracelet-shim", "replay", as_utf8(logdir)), cwd=os.getcwd(), executable=sys.executable,
        pid=0, host=socket.gethostname(),
    )  # fmt: skip
    firsts = [file.begins() for file in _event_files(logdir, recursive=recursive)]
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
        pending: by tracker, the number of events that are still to be delivered to it; with a tail, of those that are known.
        tail: how many records the event files have that the session never got.
        backends: all trackers of the session.
        refused: by tracker, the number of events that it refused and that are set aside.
        lost: by tracker and event file, the number of events that the file should have and does not.
        rows: all runs of the session, the latest that is known of them.
    """

    runs: tuple[RunRow, ...]
    pending: Mapping[str, int]
    tail: int
    backends: tuple[str, ...]
    refused: Mapping[str, int]
    lost: Mapping[str, Mapping[str, int]]
    rows: tuple[RunRow, ...]

    @property
    def anything(self) -> bool:
        """True if the session is to be continued."""
        return bool(self.runs) or self.tail > 0 or not self.backends


def missing(ledger: Ledger, session: SessionRow, root: str, *, alive: bool = False) -> Missing:
    """Return what is missing of a session.

    Args:
        ledger: has the session.
        session: the session.
        root: where its root directory is now.
        alive: True if it is running: then only the ledger is looked at, which follows twice a second.
    """
    rows = tuple(ledger.runs(session.id))
    length, taken = session.records, dict[int, int]()
    if not alive:
        rows = tuple(moved_on(ledger.directory, session.id, rows))
        length, taken = indexed(ledger.directory, session.id) or (length, taken)
    records = max(length, session.records)
    events = session.events + records - session.records
    lost = ledger.lost(session.id)
    refused = {row.backend: row.failed - sum(lost.get(row.backend, {}).values()) for row in rows}
    pending = {row.backend: max(1, events - row.delivered - row.failed) for row in rows if row.cursor < records}
    tail = 0
    if not alive and (session.ended is None or session.cut_off):
        files = _Known(ledger, session, root, taken)
        tail = sum(_beyond(path, files.taken[path]) for path in {source.path for source in files.sources})
        found = (os.path.join(directory, name) for directory, names in walk(files.root) for name in names)
        tail += sum(_beyond(path, 0) for path in found if files.is_new(path))
    behind = tuple(row for row in rows if tail or row.state != "closed" or row.backend in pending)
    return Missing(
        behind, pending, tail, tuple(row.backend for row in rows), {name: n for name, n in refused.items() if n > 0}, lost, rows
    )


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
        known = {source.path for source in self.sources}
        # A replay has what there is, whoever has it too.
        self._others = known if session.is_replay else known | {self._moved(path) for path in ledger.known_paths()}
        # A session that was killed in its first moment knows no file. It begins with a writer, whose file is a moment older.
        self._since = session.started - (0 if known else _FIRST_MOMENT)
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
            and int(named.group(1)) >= int(self._since)
            and f"{named.group(2)}.".startswith(f"{session.host}.{session.pid}.")
        )


def _embeddings(path: str) -> int:
    try:
        return len(projector_config(path))
    except ImportError:  # `tracelet-shim status` without tensorboard, which has the projector's schema
        return len(re.findall(rb"^\s*embeddings\s*\{", Path(path).read_bytes(), re.MULTILINE))


def _beyond(path: str, taken: int) -> int:
    """Return how many records, or embeddings, a file has from position `taken` on; the first record says only what it is."""
    try:
        if os.path.basename(path) == PROJECTOR:
            return max(0, _embeddings(path) - taken)
        return max(0, count_records(path) - max(1, taken))
    except (OSError, ValueError):
        return 0


def resume(
    logdir: str, arguments: Mapping[str, Any], view: View, *, session: str | None = None, retry_refused: bool = False
) -> list[Outcome]:
    """Deliver what the sessions of a log directory have not: into the same runs, and nothing twice.

    What the index of a session has is delivered from each tracker's cursor on. If the session was cut off, this is
    followed by what stands in the event files behind the last indexed record of each.

    Args:
        logdir: the sessions' root directory.
        arguments: settings that the ledger does not keep: ``backend`` (default: all of the session), ``options``, ...
        view: who wants to know.
        session: the id of the only one, or how that begins; None: all that are not complete, the oldest first.
        retry_refused: offer what a tracker refused to it again.

    Returns:
        What became of each session that was not complete. An empty list says that every tracker has everything.

    Raises:
        ConfigurationError, BackendUnavailableError: what can be known at once.
        StateError: nothing can be told of what was delivered.
    """
    require_protos()
    logdir = os.path.abspath(logdir)
    directory = _state(logdir)
    wanted = resolve(arguments, registry.names()).backend if arguments.get("backend") else ()
    with contextlib.closing(Ledger(directory, existing=True)) as ledger:
        rows = _choose(ledger, logdir, session)
    outcomes = []
    here = os.getcwd()
    for row in rows:
        root = row.root if session is not None or _same(row.root, logdir) else logdir
        try:
            outcome = _continue(directory, row, root, arguments, wanted, view, retry_refused=retry_refused)
        except (errors.TraceletError, sqlite3.Error) as error:
            outcome = Outcome(row.id, root, {}, problem=str(error))
        finally:
            os.chdir(here)
        if outcome is not None:
            outcomes.append(outcome)
    return outcomes


def _continue(
    directory: Path,
    row: SessionRow,
    root: str,
    arguments: Mapping[str, Any],
    wanted: tuple[str, ...],
    view: View,
    *,
    retry_refused: bool,
) -> Outcome | None:
    """Deliver what is missing of a session, to the trackers that are wanted; return None if nothing is."""
    if running(row, directory):
        raise errors.StateError(
            f"session {row.id} is still running (process {row.pid} on {row.host}, or what delivers for it)"
        )
    with contextlib.closing(Ledger(directory, existing=True)) as ledger:
        row = ledger.session(row.id) or row
        left = missing(ledger, row, root)
        index = indexed(directory, row.id)
        files = _Known(ledger, row, root, index[1] if index is not None else {})
    names = _names(wanted, row, left, retry_refused=retry_refused)
    if not names:
        return _as_it_is(row, root, left, wanted)
    if view.stopped():
        raise errors.StateError(f"session {row.id} was not continued: interrupted")
    _check_index(directory, row, left, index[0] if index is not None else None)
    _check_files(files, row, view)
    _go_to(row, root, view)
    about = msgspec.json.decode(row.about or "{}", type=About)
    settings = resolve(arguments, registry.names())
    settings = msgspec.structs.replace(settings, backend=names, offline=about.offline or bool(arguments.get("offline")))
    specs = _specs(settings)
    host = _Host(view, settings.exit_timeout, directory, retry_refused=retry_refused)
    relay = host.relay
    relay.handle(msg.Open(_again(row, about, root), specs, int(settings.memory * 1e6), root, restarted=True))
    for writer in files.writers:
        relay.handle(msg.Writer(writer))
    for source in files.sources:
        relay.handle(source)
    if relay.directory is None:
        raise errors.StateError(f"session {row.id} was not continued: {'; '.join(host.troubles())}")
    if not relay.owned:
        raise errors.StateError(f"session {row.id} is being delivered by another process")
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
    with contextlib.closing(Ledger(directory, existing=True)) as ledger:
        lost = {name: found for name, found in ledger.lost(row.id).items() if name in states}
    return Outcome(row.id, root, states, tuple(damage for damage in rest.damages() if not damage.expected), lost)


def _as_it_is(row: SessionRow, root: str, left: Missing, wanted: tuple[str, ...]) -> Outcome | None:
    """Return what is missing of a session that cannot be continued; None if nothing is."""
    states = {
        run.backend: msg.BackendState(
            run.state, run.delivered, 0, run.failed, run.error, lost=run.failed - left.refused.get(run.backend, 0)
        )
        for run in left.rows
        if run.failed and run.backend in (wanted or left.backends)
    }
    lost = {name: found for name, found in left.lost.items() if name in states}
    return Outcome(row.id, root, states, lost=lost) if states else None


def _check_index(directory: Path, row: SessionRow, left: Missing, length: int | None) -> None:
    """An index that is gone or cut tells no longer what was delivered, unless the event files are read on where it ends.

    Raises:
        StateError: it is needed.
    """
    needed = any(run.cursor < row.records for run in left.runs)
    if needed and (length is None or (length < row.records and not left.tail)):
        raise errors.StateError(
            f"session {row.id} has lost its index in {directory}; what is missing cannot be told from what was delivered; "
            f"{new_run(directory)}"
        )


def _go_to(row: SessionRow, root: str, view: View) -> None:
    """Go to the program's working directory, since SDKs have put their local stores relative to it. Where that was moved together
    with the log directory, it is above that."""
    places = [row.cwd]
    within = os.path.relpath(row.root, row.cwd)
    if not within.startswith(os.pardir) and root.endswith(f"/{within}"):
        places.append(root[: -len(within)])
    for place in places:
        with contextlib.suppress(OSError):
            if not os.path.samefile(place, "."):  # the ledger may be somebody else's: where this goes on is said
                os.chdir(place)
                view.say(f"continuing in {place}, where session {row.id} ran")
            return
    view.say(f"warning: {row.cwd}, where session {row.id} ran, is gone; local stores of trackers are looked for in {os.getcwd()}")


def _check_files(files: _Known, session: SessionRow, view: View) -> None:
    """Events whose file is gone count as failed, for good: make sure that it is not the file system that is not there."""
    needed = {source.path for source in files.sources if os.path.basename(source.path) != PROJECTOR}
    gone = sorted(path for path in needed if not os.path.exists(path))
    if gone and len(gone) == len(needed):
        raise errors.StateError(f"session {session.id}: none of its event files is there, beginning with {gone[0]}")
    for path in gone:
        view.say(f"warning: {path} is gone, and what has not been delivered of it")


def _state(logdir: str) -> Path:
    """Return the state directory that has a ledger."""
    candidates = dict.fromkeys((state_directory(logdir, os.environ), Path(logdir, STATE)))
    for directory in candidates:
        if (directory / "ledger.db").is_file():
            return directory
    raise errors.StateError(
        f"no session was recorded in {' or '.join(map(str, candidates))}; `tracelet-shim status` shows where there are some; "
        f"{new_run(Path(logdir, STATE))}"
    )


def _choose(ledger: Ledger, logdir: str, name: str | None) -> list[SessionRow]:
    """Return the sessions of a log directory, the oldest first, or the only one with this name."""
    sessions = ledger.sessions()[::-1]
    if name is not None:
        sessions = [session for session in sessions if session.id.startswith(name)]
        if len(sessions) != 1:
            raise errors.ConfigurationError(f"{len(sessions)} sessions in {ledger.directory} begin with {name!r}")
    elif ledger.directory != Path(logdir, STATE):  # a directory for the sessions of many log directories
        sessions = [session for session in sessions if _same(session.root, logdir)]
        if not sessions:
            raise errors.StateError(f"{ledger.directory} has sessions, but none of {logdir}; {new_run(Path(logdir, STATE))}")
    return sessions


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _names(wanted: tuple[str, ...], session: SessionRow, left: Missing, *, retry_refused: bool) -> tuple[str, ...]:
    """Return the trackers to deliver to."""
    if not left.backends:  # of a version that noted them later than the session
        if not wanted:
            raise errors.StateError(
                f"session {session.id} was killed before its trackers were noted; name them: tracelet-shim replay "
                f"{shlex.quote(session.root)} --resume {session.id} --backend NAMES"
            )
        return wanted
    for name in wanted:
        if name not in left.backends:
            raise errors.ConfigurationError(
                f"session {session.id} has no run in {name!r}, but in {', '.join(left.backends)}; without --resume, "
                "a replay opens a new run"
            )
    behind = {row.backend for row in left.runs} | (left.refused.keys() if retry_refused else set())
    return tuple(name for name in wanted or left.backends if name in behind)


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
