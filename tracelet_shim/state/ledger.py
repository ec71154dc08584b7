"""The ledger: sessions, their event files and runs, what was delivered, what was refused and lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tracelet_shim import errors
from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common.private_files import make_directory, make_file, restrict
from tracelet_shim.state.database import Database, columns_of, connected, make_tables, selected, share, unshare
from tracelet_shim.state.place import new_run
from tracelet_shim.state.rows import About, Changes, Refused, RunRow, SessionRow

__all__ = ["Ledger"]


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
        self._connection: Database | None = None
        self._is_shared = False
        if not path.exists():
            return  # `begin` makes it
        try:
            self._connection = connected(path)
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
    def _db(self) -> Database:
        if self._connection is None:  # used before a session has begun
            make_file(self._path)
            self._connection = connected(self._path)
            make_tables(self._db)
        return self._connection

    def _is_half_made(self) -> bool:
        try:
            (problem,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if problem != "ok":
                raise sqlite3.DatabaseError(problem.splitlines()[-1])
            return not columns_of(self._db, "sessions") or not self.sessions()
        except sqlite3.Error:
            self.close()
            raise

    def begin(self, run: RunInfo, root: str, trackers: Iterable[str] = ()) -> SessionRow | None:
        """Enter a session with its trackers, in one transaction, that of the tables included: there is no ledger without a
        session, and no session without its trackers. Return what is there of it already (its relay was restarted); that stays.
        """
        trackers = list(trackers)
        known = None
        if self._connection is not None or not self._make(run, root, trackers):
            if self._connection is None:
                make_file(self._path)
                self._connection = connected(self._path)
            restrict(self._path)  # SQLite gives the rights of this file to those that it makes beside it
            known = self._enter(run, root, trackers)
        share(self._db, self._path)
        self._is_shared = True
        return known

    def _make(self, run: RunInfo, root: str, trackers: list[str]) -> bool:
        """Make the file aside and put it in its place as a whole, so that nobody finds half of one; return whether it is ours."""
        aside = self._path.with_name(f"ledger.db.{run.session}")
        try:
            make_file(aside)
            self._connection = connected(aside)
            try:
                self._enter(run, root, trackers)
            finally:
                self._connection.close()
                self._connection = None
            with contextlib.suppress(OSError):  # another session's came first, or there are no hard links here
                os.link(aside, self._path)
                self._connection = connected(self._path)
                return True
        finally:
            aside.unlink(missing_ok=True)
        return False

    def _enter(self, run: RunInfo, root: str, trackers: list[str]) -> SessionRow | None:
        p = run.program
        about = msgspec.json.encode(About(run.tags, run.notes, run.config, run.group, run.offline, run.job, run.forward)).decode()
        with self._transaction():
            make_tables(self._db)
            known = self.session(run.session)
            if known is None:
                self._db.execute(
                    "INSERT INTO sessions (id, started, root, project, exp_name, run_id, script, cwd, host, pid, about,"
                    " counted) VALUES (?,?,?,?,?,?,?,?,?,?,?,0)",
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

    def save(self, session: str, events: int, records: int, runs: Iterable[RunRow]) -> None:
        """Write where everything stands, whatever was there before.

        Args:
            session: its id.
            events: how many it has.
            records: how many it has; the events of all of them are counted.
            runs: where its trackers stand.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE sessions SET events = ?, records = ?, counted = ? WHERE id = ?", (events, records, records, session)
            )
            self._db.executemany("INSERT OR REPLACE INTO runs VALUES (?,?,?,?,?,?,?,?,?,?)", [(session, *run) for run in runs])

    def commit(self, session: str, changes: Changes) -> None:
        """Write what has changed, in one transaction: it is all there after a kill, or nothing is."""
        with self._transaction():
            self.add_trials(session, changes.trials)
            self.add_paths(session, changes.paths)
            self._add_refused(session, changes.refused)
            self._db.executemany("DELETE FROM set_aside WHERE rowid = ?", [(key,) for key in changes.accepted])
            self._db.executemany(
                "INSERT INTO lost VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET events = events + excluded.events",
                [(session, *row) for row in changes.lost],
            )
            self._db.executemany(
                "UPDATE runs SET run_id = ?, url = ?, state = ?, error = ? WHERE session = ? AND backend = ?",
                [(*shown, session, name) for name, shown in changes.runs.items()],
            )
            self._db.executemany(
                "UPDATE runs SET cursor = ?, part = ?, delivered = ?, failed = ? WHERE session = ? AND backend = ?",
                [(*standing, session, name) for name, standing in changes.standings.items()],
            )
            if changes.counts is not None:
                self._db.execute(
                    "UPDATE sessions SET events = ?, records = ?, counted = ? WHERE id = ?", (*changes.counts, session)
                )

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
        columns = selected(self._db, "sessions", SessionRow._fields)
        row = self._db.execute(f"SELECT {columns} FROM sessions WHERE id = ?", (session,)).fetchone()  # noqa: S608 - our names
        return SessionRow(*row) if row else None

    def sessions(self) -> list[SessionRow]:
        """Return all sessions, the latest first.

        Raises:
            sqlite3.Error: the ledger cannot be read, or has a session whose id would be a path to somewhere else.
        """
        columns = selected(self._db, "sessions", SessionRow._fields)
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

    def event_files(self) -> set[str]:
        """Return the event files of all sessions."""
        return {path for (path,) in self._db.execute("SELECT DISTINCT path FROM sources")}

    def is_waited_for(self, path: str, session: str) -> bool:
        """Return whether another session than this one has still to deliver something of an event file, or may do so again."""
        query = (
            "SELECT 1 FROM sources JOIN sessions s ON s.id = sources.session WHERE path = ? AND s.id != ? AND (s.ended IS NULL"
            " OR s.cut_off OR EXISTS (SELECT 1 FROM set_aside a WHERE a.session = s.id) OR EXISTS (SELECT 1 FROM runs r"
            " WHERE r.session = s.id AND (r.cursor < s.records OR r.state != 'closed'))) LIMIT 1"
        )
        return self._db.execute(query, (path, session)).fetchone() is not None

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
        columns = selected(self._db, "set_aside", ("rowid", *Refused._fields))
        query = f"SELECT {columns} FROM set_aside WHERE session = ? AND backend = ? ORDER BY rowid"  # noqa: S608
        return [(key, Refused(*row)) for key, *row in self._db.execute(query, (session, backend))]

    def lost(self, session: str) -> dict[str, dict[str, int]]:
        """Return, by tracker and event file, how many events it has not got, and never will: the file does not have them."""
        found: dict[str, dict[str, int]] = {}
        if columns_of(self._db, "lost"):
            query = (
                "SELECT backend, path, SUM(lost.events) FROM lost JOIN sources ON sources.session = lost.session"
                " AND sources.id = lost.source WHERE lost.session = ? GROUP BY backend, path"
            )
            for backend, path, events in self._db.execute(query, (session,)):
                found.setdefault(backend, {})[path] = events
        return found

    def close(self) -> None:
        if self._connection is not None:
            if self._is_shared:
                unshare(self._connection)
            self._connection.close()
