"""The SQLite file itself: its tables, and how it is opened."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tracelet_shim.common.file_systems import is_local
from tracelet_shim.common.text import escaped, unescaped

__all__ = ["Database", "columns_of", "connected", "make_tables", "selected", "share", "unshare"]

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, started REAL, ended REAL, status TEXT, root TEXT, project TEXT, exp_name TEXT, run_id TEXT,
    script TEXT, cwd TEXT, host TEXT, pid INTEGER, events INTEGER DEFAULT 0, records INTEGER DEFAULT 0,
    cut_off INTEGER DEFAULT 0, about TEXT, counted INTEGER)""",
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
_ADDED = {"sessions": ("counted",), "set_aside": ("source", "part")}
"""Columns that tables have got after 0.1; all are integers."""


class Database(sqlite3.Connection):
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


def connected(path: Path) -> Database:
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False, factory=Database)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        db.close()
        raise
    return db


def make_tables(db: Database) -> None:
    """Make what is missing, also in a ledger of an older version."""
    for statement in _SCHEMA:
        db.execute(statement)
    for table, added in _ADDED.items():
        for column in set(added) - columns_of(db, table):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER")


def columns_of(db: Database, table: str) -> set[str]:
    """Return the names of a table's columns; none if there is no such table."""
    return {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}


def selected(db: Database, table: str, columns: Iterable[str]) -> str:
    """Return what to select of a table; NULL for a column that a ledger of an older version has not got."""
    lacking = set(_ADDED.get(table, ())) - columns_of(db, table)
    return ", ".join("NULL" if column in lacking else column for column in columns)


def share(db: Database, path: Path) -> None:
    """Let a transaction take microseconds rather than milliseconds: SQLite's write-ahead log. It needs memory that all share who
    open the file, which those on another machine do not: https://sqlite.org/wal.html, "Overview". Where the file may be on a
    server of files, or there is no such memory, the rollback journal stays, or comes back.
    """
    with contextlib.suppress(sqlite3.OperationalError):  # somebody is in a transaction, the disk is full: as it was
        db.execute(f"PRAGMA journal_mode = {'WAL' if is_local(path) else 'DELETE'}").fetchone()


def unshare(db: Database) -> None:
    """Leave one file that can be read anywhere, also where nothing can be written. Another session that has it open does that at
    its own end."""
    with contextlib.suppress(sqlite3.OperationalError):
        db.execute("PRAGMA journal_mode = DELETE").fetchone()
