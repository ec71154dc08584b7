"""What was delivered where: kept on disk, so that a relay that dies, or a job that is killed, can be continued.

In the state directory (``.tracelet`` in the session's root directory, or ``TRACELET_STATE_DIR``) stand

    ledger.db            SQLite: sessions, event files, runs by tracker and how far each tracker is, events set aside or lost
    <session>.index      one entry of 28 bytes a record: which record of which file, and a scalar's exact float64
    <session>.log        what the relay process and the trackers' SDKs had to say
    system/              event files of the system metrics (`tracelet_shim.provenance.system_metrics`); they stay
    <session>.what-ran   what is attached to a run that could not be opened yet (`tracelet_shim.provenance.what_ran`), msgpack
    <session>.hints      what calls knew that their protos lost (`tracelet_shim.bus.messages.Hint`), msgpack
    <session>.cursors    how far each tracker is, written after each batch; the ledger follows twice a second
    <session>.decoded    which paths and trials were told apart, written before a tracker is told; the ledger follows likewise

The data itself stays where it is, in the event files. Options and credentials are never written here. The files
of a session are removed when everything has been delivered; they stay as long as a tracker has refused something, which may
be offered to it again. All are 0600, in a directory that is 0700 if we have made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sqlite3
import struct
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tracelet_shim import errors
from tracelet_shim.backends.base import Job, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common.private_files import make_directory, make_file, open_file, restrict
from tracelet_shim.common.text import escaped, quoted, unescaped

__all__ = [
    "About",
    "Index",
    "Ledger",
    "Refused",
    "RunRow",
    "SessionRow",
    "in_use",
    "indexed",
    "moved_on",
    "new_run",
    "state_directory",
]

ToldTrial = tuple[int, int, "str | None", dict[str, Any]]
"""Which hparams are the run's own and which a trial's: source, position, trial, params."""
GivenPath = tuple[str, str, str, "str | None", str]
"""Which writer, tag and series has which path: path, writer, tag, series, suffix."""

_ENTRY = struct.Struct("<IQdQ")
_MARK = struct.Struct("<16sQQQQ")
_VALUED = 1 << 31
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, started REAL, ended REAL, status TEXT, root TEXT, project TEXT, exp_name TEXT, run_id TEXT,
    script TEXT, cwd TEXT, host TEXT, pid INTEGER, events INTEGER DEFAULT 0, records INTEGER DEFAULT 0,
    cut_off INTEGER DEFAULT 0, about TEXT)""",
    """CREATE TABLE IF NOT EXISTS sources (
    session TEXT, id INTEGER, path TEXT, logdir TEXT, parent TEXT, replay INTEGER, taken INTEGER DEFAULT 0,
    PRIMARY KEY (session, id))""",
    "CREATE TABLE IF NOT EXISTS writers (session TEXT, number INTEGER, logdir TEXT, PRIMARY KEY (session, number))",
    """CREATE TABLE IF NOT EXISTS runs (
    session TEXT, backend TEXT, run_id TEXT, url TEXT, cursor INTEGER DEFAULT 0, delivered INTEGER DEFAULT 0,
    failed INTEGER DEFAULT 0, state TEXT, error TEXT, part INTEGER DEFAULT 0, PRIMARY KEY (session, backend))""",
    """CREATE TABLE IF NOT EXISTS trials (
    session TEXT, source INTEGER, position INTEGER, trial TEXT, params TEXT, PRIMARY KEY (session, source, position))""",
    "CREATE TABLE IF NOT EXISTS paths (session TEXT, path TEXT, writer TEXT, tag TEXT, series TEXT, suffix TEXT)",
    """CREATE TABLE IF NOT EXISTS set_aside (
    session TEXT, backend TEXT, path TEXT, position INTEGER, kind TEXT, tag TEXT, step INTEGER, message TEXT, at REAL,
    source INTEGER, part INTEGER)""",
    """CREATE TABLE IF NOT EXISTS lost (
    session TEXT, backend TEXT, source INTEGER, events INTEGER, PRIMARY KEY (session, backend, source))""",
)
_ADDED = ("source", "part")
"""Columns that `set_aside` has got after 0.1."""


def state_directory(root: str, environment: Mapping[str, str]) -> Path:
    """Return where a session with this root keeps its state."""
    named = environment.get("TRACELET_STATE_DIR")
    if named:
        return Path(named).absolute()
    if "://" in root:
        base = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        return Path(base, "tracelet-shim")
    return Path(root, ".tracelet")


class SessionRow(NamedTuple):
    """A session as the ledger has it. Times are seconds since the epoch. `ended` is None while it runs or if its relay was
    killed; `status` is None before its program has ended, or if nobody saw that. `cut_off` tells that the event files may
    have more than `records`; `about` is `About` as JSON."""

    id: str
    started: float
    ended: float | None
    status: str | None
    root: str
    project: str | None
    exp_name: str | None
    run_id: str | None
    script: str | None
    cwd: str
    host: str
    pid: int
    events: int
    records: int
    cut_off: bool
    about: str | None

    @property
    def is_replay(self) -> bool:
        """True if no training process was seen: everything in the log directory is the session's."""
        return self.pid == 0


class About(msgspec.Struct, omit_defaults=True):
    """The rest of a `RunInfo`: what a run that could not be opened yet has to be opened with later."""

    tags: dict[str, str] = {}
    notes: str | None = None
    config: dict[str, Any] = {}
    group: str | None = None
    offline: bool = False
    job: Job | None = None


class RunRow(NamedTuple):
    """How far one tracker is. `cursor` is the number of records, from the session's first, that it is done with; of the
    next one, it has the first `part` events."""

    backend: str
    run_id: str | None
    url: str | None
    cursor: int
    delivered: int
    failed: int
    state: str
    error: str | None
    part: int = 0


class Refused(NamedTuple):
    """An event that a tracker refused.

    Attributes:
        backend: the tracker.
        path, position, part: event file, record in it, and value in that; `part` is None in a ledger of 0.1.
        kind, tag, step, message: what it is, and what the tracker had to say; None beyond the first ten thousand, of which only
            the places are kept.
        at: when, in seconds since the epoch.
        source: number of the event file; None in a ledger of 0.1.
    """

    backend: str
    path: str | None
    position: int
    kind: str | None
    tag: str | None
    step: int | None
    message: str | None
    at: float
    source: int | None = None
    part: int | None = None


def new_run(directory: Path) -> str:
    """Return the remedy where a state directory does not tell what was delivered."""
    logdir = quoted(str(directory.parent)) if directory.name == ".tracelet" else "LOGDIR"
    return f"to deliver what the event files have into a new run: tracelet-shim replay {logdir} --backend NAMES"


class _Database(sqlite3.Connection):
    """Takes and gives texts that are no UTF-8: paths."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.text_factory = lambda data: unescaped(data.decode("utf-8", "replace"))

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return super().execute(sql, _escaped(parameters))

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        return super().executemany(sql, map(_escaped, parameters))


def _escaped(parameters: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(escaped(each) if isinstance(each, str) else each for each in parameters)


class Ledger:
    """The SQLite file. Used from one thread.

    Args:
        directory: the state directory; made if it is missing. The file is there as soon as a session begins.
        existing: only look something up, in a ledger that must be there.

    Raises:
        StateError: with `existing`: there is none, or it is damaged, or has no session. "Found nothing" is never "all done".
    """

    def __init__(self, directory: Path, *, existing: bool = False) -> None:
        self.directory = directory
        self._path = path = directory / "ledger.db"
        if existing and not path.is_file():
            raise errors.StateError(f"{path} is not there; {new_run(directory)}")
        make_directory(directory)
        self._connection: _Database | None = None
        if not path.exists():
            return  # `begin` makes it
        try:
            self._connection = _connected(path)
            half_made = existing and self._is_half_made()
        except sqlite3.Error as error:
            if not existing:
                raise
            raise errors.StateError(f"{path} cannot be read ({error}); {new_run(directory)}") from error
        if half_made:
            self.close()
            raise errors.StateError(
                f"{path} has no session: what made it is only beginning, or was killed in that moment; {new_run(directory)}"
            )

    @property
    def _db(self) -> _Database:
        if self._connection is None:  # used before a session has begun
            make_file(self._path)
            self._connection = _connected(self._path)
            self._make_tables()
        return self._connection

    def _make_tables(self) -> None:
        for statement in _SCHEMA:
            self._db.execute(statement)
        for column in _ADDED:
            if column not in self._columns("set_aside"):
                self._db.execute(f"ALTER TABLE set_aside ADD COLUMN {column} INTEGER")

    def _is_half_made(self) -> bool:
        try:
            (problem,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if problem != "ok":
                raise sqlite3.DatabaseError(problem.splitlines()[-1])
            return not self._columns("sessions") or not self.sessions()
        except sqlite3.Error:
            self.close()
            raise

    def _columns(self, table: str) -> set[str]:
        return {name for _, name, *_ in self._db.execute(f"PRAGMA table_info({table})")}

    def begin(self, run: RunInfo, root: str, trackers: Iterable[str] = ()) -> SessionRow | None:
        """Enter a session with its trackers, in one transaction, that of the tables included: there is no ledger without a
        session, and no session without its trackers. Return what is there of it already (its relay was restarted); that stays.
        """
        trackers = list(trackers)
        if self._connection is None:
            if self._make(run, root, trackers):
                return None
            make_file(self._path)
            self._connection = _connected(self._path)
        restrict(self._path)  # SQLite gives the rights of this file to those that it makes beside it
        return self._enter(run, root, trackers)

    def _make(self, run: RunInfo, root: str, trackers: list[str]) -> bool:
        """Make the file aside and put it in its place as a whole, so that nobody finds half of one; return whether it is ours."""
        aside = self._path.with_name(f"ledger.db.{run.session}")
        try:
            make_file(aside)
            self._connection = _connected(aside)
            try:
                self._enter(run, root, trackers)
            finally:
                self._connection.close()
                self._connection = None
            with contextlib.suppress(OSError):  # another session's came first, or there are no hard links here
                os.link(aside, self._path)
                self._connection = _connected(self._path)
                return True
        finally:
            aside.unlink(missing_ok=True)
        return False

    def _enter(self, run: RunInfo, root: str, trackers: list[str]) -> SessionRow | None:
        p = run.program
        about = msgspec.json.encode(About(run.tags, run.notes, run.config, run.group, run.offline, run.job)).decode()
        with self._transaction():
            self._make_tables()
            known = self.session(run.session)
            if known is None:
                self._db.execute(
                    "INSERT INTO sessions (id, started, root, project, exp_name, run_id, script, cwd, host, pid, about)"
                    " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (run.session, run.started, root, run.project, run.exp_name, run.run_id,
                     p.script, p.cwd, p.host, p.pid, about),
                )  # fmt: skip
            rows = [(run.session, name) for name in trackers]
            self._db.executemany("INSERT OR IGNORE INTO runs (session, backend, state) VALUES (?,?,'opening')", rows)
        return known

    def will_end(self, session: str, status: str) -> None:
        """Enter how the program ended, before the end of delivery, which may be cut off."""
        self._db.execute("UPDATE sessions SET status = ? WHERE id = ?", (status, session))

    def end(self, session: str, status: str, *, cut_off: bool, taken: Mapping[int, int]) -> None:
        """Enter the end of a session; `taken` is, by source, the position behind the last record that it has."""
        with self._transaction():
            rows = [(position, session, source) for source, position in taken.items()]
            self._db.executemany("UPDATE sources SET taken = ? WHERE session = ? AND id = ?", rows)
            self._db.execute(
                "UPDATE sessions SET ended = ?, status = ?, cut_off = ? WHERE id = ?",
                (time.time(), status, cut_off, session),
            )

    def leave_open(self, session: str) -> None:
        """Enter that the event files have more than the session was handed, after its end."""
        self._db.execute("UPDATE sessions SET cut_off = 1 WHERE id = ?", (session,))

    def add_source(self, session: str, source: msg.Source) -> None:
        row = (session, source.id, source.path, source.logdir, source.parent, source.replay)
        self._db.execute(
            "INSERT INTO sources (session, id, path, logdir, parent, replay) VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE"
            " SET path = excluded.path, logdir = excluded.logdir, parent = excluded.parent, replay = excluded.replay",
            row,
        )

    def add_writer(self, session: str, number: int, logdir: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO writers VALUES (?,?,?)", (session, number, logdir))

    def add_trials(self, session: str, trials: Iterable[tuple[int, int, str | None, dict[str, Any]]]) -> None:
        """Keep which hparams are the run's own and which a trial's: (source, position, trial, params)."""
        rows = [(session, source, position, trial, json.dumps(params)) for source, position, trial, params in trials]
        self._db.executemany("INSERT OR REPLACE INTO trials VALUES (?,?,?,?,?)", rows)

    def add_paths(self, session: str, paths: Iterable[tuple[str, str, str, str | None, str]]) -> None:
        """Keep which writer, tag and series has which path: (path, writer, tag, series, suffix)."""
        self._db.executemany("INSERT INTO paths VALUES (?,?,?,?,?,?)", [(session, *path) for path in paths])

    def paths(self, session: str) -> list[tuple[str, str, str, str | None, str]]:
        query = "SELECT path, writer, tag, series, suffix FROM paths WHERE session = ? ORDER BY rowid"
        return list(self._db.execute(query, (session,)))

    def trials(self, session: str) -> list[tuple[int, int, str | None, dict[str, Any]]]:
        rows = self._db.execute(
            "SELECT source, position, trial, params FROM trials WHERE session = ? ORDER BY rowid", (session,)
        )
        return [(source, position, trial, json.loads(params)) for source, position, trial, params in rows]

    def save(
        self,
        session: str,
        events: int,
        records: int,
        runs: Iterable[RunRow],
        refused: Iterable[Refused] = (),
        accepted: Iterable[int] = (),
        lost: Iterable[tuple[str, int, int]] = (),
    ) -> None:
        """Write where everything stands, in one transaction.

        Args:
            session: its id.
            events: how many it has.
            records: how many it has.
            runs: where its trackers stand.
            refused: events that have been set aside since the last time.
            accepted: keys (`set_aside_of`) of those that have been taken after all.
            lost: how many more events have no record in their event file: (backend, source, events).
        """
        with self._transaction():
            self._add_refused(session, refused)
            self._db.executemany("DELETE FROM set_aside WHERE rowid = ?", [(key,) for key in accepted])
            self._db.executemany(
                "INSERT INTO lost VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET events = events + excluded.events",
                [(session, *row) for row in lost],
            )
            self._db.execute("UPDATE sessions SET events = ?, records = ? WHERE id = ?", (events, records, session))
            self._db.executemany("INSERT OR REPLACE INTO runs VALUES (?,?,?,?,?,?,?,?,?,?)", [(session, *run) for run in runs])

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # when the disk is full, SQLite has rolled back by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def set_aside(self, session: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Keep events that a tracker refused: fields of `Refused`."""
        with self._transaction():
            self._add_refused(session, (Refused(*row) for row in rows))

    def _add_refused(self, session: str, rows: Iterable[Refused]) -> None:
        """The number of the event file is looked up; where only the place is kept, that is all there is."""
        columns = "session, backend, path, position, kind, tag, step, message, at, source, part"
        number = "(SELECT id FROM sources WHERE session = ? AND path = ?)"
        self._db.executemany(
            f"INSERT INTO set_aside ({columns}) VALUES (?,?,?,?,?,?,?,?,?,{number},?)",  # noqa: S608 - our names
            [
                (session, r.backend, r.path if r.kind is not None else None, *r[2:8], session, r.path, r.part)
                for r in rows
            ],
        )  # fmt: skip

    def session(self, session: str) -> SessionRow | None:
        columns = ", ".join(SessionRow._fields)
        row = self._db.execute(f"SELECT {columns} FROM sessions WHERE id = ?", (session,)).fetchone()  # noqa: S608 - our names
        return SessionRow(*row) if row else None

    def sessions(self) -> list[SessionRow]:
        """Return all sessions, the latest first.

        Raises:
            sqlite3.Error: the ledger cannot be read, or has a session whose id would be a path to somewhere else.
        """
        columns = ", ".join(SessionRow._fields)
        query = f"SELECT {columns} FROM sessions ORDER BY rowid DESC"  # noqa: S608 - `started` is a replayed log's own
        rows = [SessionRow(*row) for row in self._db.execute(query)]
        for row in rows:
            if not re.fullmatch(r"[\w-]+", str(row.id)):  # SQLite keeps any type
                raise sqlite3.DatabaseError(f"{row.id!r} is no id of a session")
        return rows

    def earlier(self, run: RunInfo, root: str) -> SessionRow | None:
        """Return the session of an earlier start of this job that `run` continues.

        It is of the same script, project and name, and has this root directory: of several there, the first is continued by
        the first of this start, the second by the second. Where no session had this root, because the program makes up a new
        one each time, it is the only one of the start before.
        """
        starts: dict[int, list[SessionRow]] = {}
        for session in reversed(self.sessions()):
            job = msgspec.json.decode(session.about, type=About).job if session.about else None
            what = (session.script, session.project, session.exp_name)
            alike = session.id != run.session and what == (run.program.script, run.project, run.exp_name)
            if alike and job is not None and run.job is not None and job.name == run.job.name:
                starts.setdefault(job.times, []).append(session)
        times = run.job.times if run.job is not None else 0
        now = starts.get(times, [])
        before = [starts[number] for number in sorted(starts, reverse=True) if number < times]
        turn = sum(session.root == root for session in now)
        for start in before:
            same = [session for session in start if session.root == root]
            if turn < len(same):
                return same[turn]
        return before[0][0] if before and len(before[0]) == 1 and not now else None

    def runs(self, session: str) -> list[RunRow]:
        columns = ", ".join(RunRow._fields)
        rows = self._db.execute(f"SELECT {columns} FROM runs WHERE session = ? ORDER BY backend", (session,))  # noqa: S608
        return [RunRow(*row) for row in rows]

    def sources(self, session: str) -> list[msg.Source]:
        query = "SELECT id, path, logdir, parent, replay FROM sources WHERE session = ? ORDER BY id"
        rows = self._db.execute(query, (session,))
        return [msg.Source(number, path, logdir, parent, bool(replay)) for number, path, logdir, parent, replay in rows]

    def taken(self, session: str) -> dict[int, int]:
        """Return, by source, the position behind the last record that an ended session has."""
        return dict(self._db.execute("SELECT id, taken FROM sources WHERE session = ?", (session,)))

    def known_paths(self) -> set[str]:
        """Return the event files of all sessions."""
        return {path for (path,) in self._db.execute("SELECT DISTINCT path FROM sources")}

    def writers(self, session: str) -> list[str]:
        rows = self._db.execute("SELECT logdir FROM writers WHERE session = ? ORDER BY number", (session,))
        return [logdir for (logdir,) in rows]

    def refused(self, session: str) -> list[tuple[str, str, int, str, str, int, str]]:
        """Return the events set aside, those of which only the place is kept left out: (backend, file, position, kind, tag,
        step, message)."""
        query = (
            "SELECT backend, path, position, kind, tag, step, message FROM set_aside"
            " WHERE session = ? AND kind IS NOT NULL ORDER BY at"
        )
        return list(self._db.execute(query, (session,)))

    def count_refused(self, session: str) -> dict[str, int]:
        """Return, by tracker, how many events are set aside."""
        query = "SELECT backend, COUNT(*) FROM set_aside WHERE session = ? GROUP BY backend"
        return dict(self._db.execute(query, (session,)))

    def set_aside_of(self, session: str, backend: str) -> list[tuple[int, Refused]]:
        """Return the events that a tracker refused, each with the key under which it is kept."""
        added = ", ".join(column if column in self._columns("set_aside") else "NULL" for column in _ADDED)
        columns = "rowid, backend, path, position, kind, tag, step, message, at"
        query = f"SELECT {columns}, {added} FROM set_aside WHERE session = ? AND backend = ? ORDER BY rowid"  # noqa: S608
        return [(key, Refused(*row)) for key, *row in self._db.execute(query, (session, backend))]

    def lost(self, session: str) -> dict[str, dict[str, int]]:
        """Return, by tracker and event file, how many events it has not got, and never will: the file does not have them."""
        found: dict[str, dict[str, int]] = {}
        if self._columns("lost"):
            query = (
                "SELECT backend, path, SUM(lost.events) FROM lost JOIN sources ON sources.session = lost.session"
                " AND sources.id = lost.source WHERE lost.session = ? GROUP BY backend, path"
            )
            for backend, path, events in self._db.execute(query, (session,)):
                found.setdefault(backend, {})[path] = events
        return found

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _connected(path: Path) -> _Database:
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False, factory=_Database)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        db.close()
        raise
    return db


class Cursors:
    """How far each tracker is, in a file of fixed places: one small write a batch, which a killed process leaves whole.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: Any = open(open_file(path, os.O_RDWR), "r+b", buffering=0) if path is not None else None  # noqa: SIM115
        self._places = {key: i for i, (key, *_) in enumerate(self._read())}
        self._lock = threading.Lock()

    def _read(self) -> list[tuple[bytes, int, int, int, int]]:
        if self._file is None:
            return []
        data = os.pread(self._file.fileno(), 1 << 16, 0)
        return list(_MARK.iter_unpack(data[: len(data) // _MARK.size * _MARK.size]))

    def mark(self, backend: str, standing: tuple[int, int, int, int]) -> None:
        """Note where a tracker stands, from any thread: the number of the next record, how many of its events it has, and how
        many events have been delivered and refused in all."""
        if self._file is None:
            return
        key = _key(backend)
        with self._lock:
            place = self._places.setdefault(key, len(self._places))
        with contextlib.suppress(OSError, ValueError):  # the disk is full, or it is closed: the ledger has it soon
            os.pwrite(self._file.fileno(), _MARK.pack(key, *standing), place * _MARK.size)

    def moved_on(self, rows: Iterable[RunRow]) -> list[RunRow]:
        """Return what the ledger says, where it is behind brought up to date. (A run that the ledger does not know yet cannot
        be continued, so all goes into a new one.)"""
        marks = {key: mark for key, *mark in self._read()}
        found = []
        for row in rows:
            number, part, delivered, failed = marks.get(_key(row.backend), (0, 0, 0, 0))
            if row.run_id is not None and (number, part) > (row.cursor, row.part):
                row = row._replace(cursor=number, part=part, delivered=delivered, failed=failed)  # noqa: PLW2901
            found.append(row)
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _key(backend: str) -> bytes:
    return hashlib.blake2s(backend.encode(), digest_size=16).digest()


def moved_on(directory: Path, session: str, rows: Iterable[RunRow]) -> list[RunRow]:
    """Return what the ledger says of a session's runs, where it is behind its trackers brought up to date."""
    path = directory / f"{session}.cursors"
    if not path.exists():
        return list(rows)
    cursors = Cursors(path)
    try:
        return cursors.moved_on(rows)
    finally:
        cursors.close()


class Index:
    """Which records a session has, in order; appended by one thread, read by many.

    Args:
        directory: the state directory; None keeps the files in a temporary place, for a session without one.
        session: the session's id.

    Attributes:
        owned: False if another process has the index open: it serves the session.
        length: number of records.
        written: how many of them are in the file; less than `length` while the disk is full.
        cursors: how far each tracker is in it.
    """

    def __init__(self, directory: Path | None, session: str) -> None:
        self._paths: tuple[Path, ...] = ()
        self.owned = True
        if directory is None:
            self._entries: Any = tempfile.TemporaryFile(prefix="tracelet-", buffering=0)  # noqa: SIM115 - closed by close()
            self._hints: Any = tempfile.TemporaryFile(prefix="tracelet-", buffering=0)  # noqa: SIM115
            self._decoded: Any = None
            self.cursors = Cursors(None)
        else:
            self._paths = tuple(directory / f"{session}.{what}" for what in ("index", "hints", "decoded", "cursors"))
            appended = [open_file(path, os.O_RDWR | os.O_APPEND) for path in self._paths[:3]]
            self._entries, self._hints, self._decoded = (open(file, "a+b", buffering=0) for file in appended)  # noqa: SIM115
            self.cursors = Cursors(self._paths[3])
            self.owned = _lock(self._entries)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[msg.Hint] = msgspec.msgpack.Decoder(msg.Hint)
        self._hints_end = self._hints.seek(0, os.SEEK_END)
        end = self._entries.seek(0, os.SEEK_END)
        self.length = self.written = end // _ENTRY.size
        self._new_entries, self._new_hints = bytearray(), bytearray()
        if end % _ENTRY.size:  # cut off in the middle of an entry
            self._entries.truncate(self.length * _ENTRY.size)

    def append(self, records: list[msg.Record]) -> None:
        """Add records; written to the files at once.

        Raises:
            OSError: they could not be written. They are kept, and written with the next ones.
        """
        entries, hints = [], bytearray()
        pack = _ENTRY.pack
        for record in records:
            at = 0
            if record.hint is not None:
                data = self._encoder.encode(record.hint)
                at = self._hints_end + len(self._new_hints) + len(hints) + 1
                hints += len(data).to_bytes(4, "little") + data
            value = record.value
            if value is None:
                entries.append(pack(record.source, record.position, 0.0, at))
            else:
                entries.append(pack(record.source | _VALUED, record.position, value, at))
        self._new_entries += b"".join(entries)
        self._new_hints += hints
        self.length += len(records)
        try:
            if self._new_hints:
                _write_all(self._hints, self._new_hints)
                self._hints_end += len(self._new_hints)
                self._new_hints = bytearray()
            _write_all(self._entries, self._new_entries)
        except OSError:
            with contextlib.suppress(OSError):  # what was written in part comes again as a whole
                self._hints.truncate(self._hints_end)
                self._entries.truncate(self.written * _ENTRY.size)
            raise
        self._new_entries = bytearray()
        self.written = self.length

    def read(self, start: int, stop: int) -> Iterator[msg.Record]:
        """Yield the records from number `start` to before `stop`, without their data. A hint, which may be large, is read when
        its turn comes."""
        data = b""
        if start < self.written:
            count = min(stop, self.written) - start
            data = os.pread(self._entries.fileno(), count * _ENTRY.size, start * _ENTRY.size)
        if stop > self.written:
            first = max(start, self.written) - self.written
            data += self._new_entries[first * _ENTRY.size : (stop - self.written) * _ENTRY.size]
        for source, position, value, at in _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]):
            number = value if source & _VALUED else None
            yield msg.Record(source & ~_VALUED, position, None, number, self._hint(at) if at else None)

    def taken(self) -> dict[int, int]:
        """Return, by source, the position behind the last record."""
        found: dict[int, int] = {}
        for start in range(0, self.length, 65536):
            data = os.pread(self._entries.fileno(), 65536 * _ENTRY.size, start * _ENTRY.size)
            for source, position, _, _ in _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]):
                number = source & ~_VALUED
                found[number] = max(found.get(number, 0), position + 1)
        return found

    def note(self, trials: list[ToldTrial], paths: list[GivenPath]) -> None:
        """Keep what the decoder has told apart, for whoever goes on if this process is killed before the ledger has it."""
        if self._decoded is not None:
            with contextlib.suppress(OSError):  # the disk is full: the ledger has it soon
                self._decoded.write(b"\n" + json.dumps([trials, paths]).encode())

    def noted(self) -> tuple[list[ToldTrial], list[GivenPath]]:
        """Return what `note` was given, in order."""
        trials: list[ToldTrial] = []
        paths: list[GivenPath] = []
        if self._decoded is not None:
            self._decoded.seek(0)
            for line in self._decoded.readall().split(b"\n"):
                with contextlib.suppress(ValueError):  # cut off
                    new_trials, new_paths = json.loads(line)
                    trials += map(tuple, new_trials)
                    paths += map(tuple, new_paths)
        return trials, paths

    def numbers(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Return the numbers of the records at these places, (source, position), as far as they are here."""
        found: dict[tuple[int, int], int] = {}
        for start in range(0, self.written, 65536):
            data = os.pread(self._entries.fileno(), 65536 * _ENTRY.size, start * _ENTRY.size)
            entries = _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size])
            for number, (source, position, _, _) in enumerate(entries, start):
                place = source & ~_VALUED, position
                if place in places:
                    found.setdefault(place, number)
        return found

    def _hint(self, at: int) -> msg.Hint:
        if at > self._hints_end:
            start = at - 1 - self._hints_end
            length = int.from_bytes(self._new_hints[start : start + 4], "little")
            return self._decoder.decode(self._new_hints[start + 4 : start + 4 + length])
        fd = self._hints.fileno()
        length = int.from_bytes(os.pread(fd, 4, at - 1), "little")
        return self._decoder.decode(os.pread(fd, length, at + 3))

    def close(self, *, remove: bool) -> None:
        """Close the files; remove them if nothing is left to deliver."""
        self._entries.close()
        self._hints.close()
        if self._decoded is not None:
            self._decoded.close()
        self.cursors.close()
        if remove:
            for path in self._paths:
                path.unlink(missing_ok=True)


def indexed(directory: Path, session: str) -> tuple[int, dict[int, int]] | None:
    """Return what the index of a session has: the number of records, and by source the position behind the last. None if
    there is no index, since everything has arrived."""
    if not (directory / f"{session}.index").exists():
        return None
    index = Index(directory, session)
    try:
        return index.length, index.taken()
    finally:
        index.close(remove=False)


def in_use(directory: Path, session: str) -> bool:
    """Return whether a process serves the session: it has locked the index."""
    try:
        with open(directory / f"{session}.index", "rb") as file:
            return not _lock(file)
    except FileNotFoundError:
        return False


def _lock(file: Any) -> bool:
    """Lock a file until it is closed, or its process dies; return False if another process has done that."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: then nobody has one
        return True
    return True


def _write_all(file: Any, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
