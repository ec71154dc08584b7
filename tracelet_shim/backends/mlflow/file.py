"""MLflow's SQLite file: it is there whole, or not at all.

MLflow makes a new file in some seventy steps, each of which is stored by itself (``store/db/utils.py``,
`_initialize_tables`; Alembic's migrations are no transaction in SQLite). A process that ends between two of them leaves a
file that MLflow refuses from then on. So a new file is made under another name, and linked to its own when it is whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tracelet_shim.common.system import is_there

__all__ = ["make_whole", "path_of", "put_right"]

logger = logging.getLogger(__name__)

_SIBLINGS = ("-journal", "-wal", "-shm")
_NEW = ".new-"
_QUIET_SECONDS = 10.0
"""A half-made file that has not changed for so long is not being made any more."""
_QUIET_UNSEEN = 60.0
"""The same, where it cannot be seen which processes have a file open."""
_FILLED = ("experiments", "runs", "registered_models")
"""Tables that have rows in every file that was ever in use: the first experiment comes right after the last step."""


def path_of(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for any other store, and for a database in memory."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    path = make_url(uri).database or ""
    return Path(path) if os.path.isabs(path) else None


def make_whole(path: Path, uri: str, make: Callable[[str], None], *, alone: bool) -> None:
    """Make the database if there is none. Whoever is first has made it: an existing file is never replaced.

    Args:
        path: the file.
        uri: the same as SQLite URI.
        make: has MLflow make the database of an URI, and lets go of it.
        alone: True if no other process of ours is doing the same: what is left of a killed one is removed.
    """
    if alone:
        _remove_left(path)
    if path.exists():
        return
    new = path.with_name(f".{path.name}{_NEW}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        if not _can_link(new):
            return  # then MLflow makes it in its place
        from sqlalchemy.engine import make_url

        make(make_url(uri).set(database=str(new)).render_as_string(hide_password=False))
        with contextlib.closing(sqlite3.connect(new)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(FileExistsError):  # somebody else was faster
            os.link(new, path)
    finally:
        for suffix in ("", *_SIBLINGS):
            Path(f"{new}{suffix}").unlink(missing_ok=True)


def put_right(path: Path) -> bool:
    """Move a half-made database aside, under a name that says so; return whether it was one.

    Nobody has put anything into it, and nobody is making it any more. It is kept, since it is not ours.
    """
    if not _is_unfinished(path) or _is_in_use(path):
        return False
    aside = path.with_name(f"{path.name}.half-made-{time.strftime('%Y%m%d-%H%M%S')}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}_")
    for suffix in (*_SIBLINGS, ""):  # a journal that stays behind would be taken for the next database's
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    logger.warning("%s was half made, by a process that was killed, and empty; it is %s now, and made anew", path, aside.name)
    return True


def _is_unfinished(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=1)) as database:
            tables = {str(row[0]) for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            filled = [database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in _FILLED if name in tables]  # noqa: S608
    except sqlite3.Error:  # locked, or no database
        return False
    return bool({"experiments", "alembic_version"} & tables) and not any(filled)


def _is_in_use(path: Path) -> bool:
    """True if somebody may still be making the file: another process has it open, or it has changed just now."""
    found = path.stat()
    own, seen = str(os.getpid()), False
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.stat(file) for file in (process / "fd").iterdir()] if process.name != own else []
        except OSError:  # it has ended, or is another user's
            continue
        seen = True
        if any((file.st_dev, file.st_ino) == (found.st_dev, found.st_ino) for file in files):
            return True
    return time.time() - found.st_mtime < (_QUIET_SECONDS if seen else _QUIET_UNSEEN)


def _remove_left(path: Path) -> None:
    """Remove what is left of processes that were killed while they made this database."""
    for left in path.parent.iterdir():
        _, new, maker = left.name.partition(f".{path.name}{_NEW}")
        if new and left.name.startswith(".") and not _runs(maker.partition("-")[0]):
            left.unlink(missing_ok=True)


def _runs(pid: str) -> bool:
    return pid.isdigit() and is_there(int(pid))


def _can_link(new: Path) -> bool:
    """Begin the file; return whether it can get another name, which not all file systems allow."""
    trial = Path(f"{new}-link")
    try:
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        os.link(new, trial)
        trial.unlink()
    except OSError:
        return False
    return True
