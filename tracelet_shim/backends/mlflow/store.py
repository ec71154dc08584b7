"""The client of a store: of a server, of a database, of a SQLite file that may have to be made first."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tracelet_shim import errors
from tracelet_shim.backends.mlflow.file import make_whole, path_of, put_right
from tracelet_shim.backends.mlflow.versions import SERVERS, let_go, was_made_by_newer
from tracelet_shim.common.private_files import locked

__all__ = ["connect", "in_turn", "one_at_a_time"]

_BEING_MADE = ("already exists", "out-of-date", "duplicate column", "no such")
"""What the SDK's errors say while another process is creating the same database."""

_TURN_SECONDS = 60.0
_turns: dict[Path, threading.Lock] = {}
_TALK_SECONDS, _AT_A_TIME = 20.0, 8
_talking: dict[str, threading.BoundedSemaphore] = {}

_REVISION = re.compile(r"found version (\w+)|Can't locate revision identified by '(\w+)'")
"""``store/db/utils.py``, `_verify_schema`; and Alembic, whose migrations MLflow starts where it misses a table."""


@contextlib.contextmanager
def one_at_a_time(uri: str) -> Iterator[bool]:
    """Let one of our processes at a time open a SQLite store: MLflow's first users of a new file break each other.

    The lock is on the file's folder, so that it leaves nothing behind. It is waited for, but not for ever; what is yielded
    tells whether it was got.
    """
    path, got = path_of(uri), False
    with contextlib.ExitStack() as stack:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            turn = _turns.setdefault(path.parent, threading.Lock())  # threads would ask again and again
            if turn.acquire(timeout=_TURN_SECONDS):
                stack.callback(turn.release)
                got = stack.enter_context(locked(path.parent, _TURN_SECONDS))
        yield got


@contextlib.contextmanager
def in_turn(uri: str) -> Iterator[None]:
    """Let so many of this process's runs at a time talk to a database as it can serve: one that is a file. MLflow has one pool of
    15 connections for all (SQLAlchemy's `QueuePool`), and who waits for the file holds one meanwhile. A turn is waited for, but
    not for ever."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    most = 1 if path_of(uri) is not None else _AT_A_TIME if scheme in SERVERS else 0
    if not most:
        yield
        return
    turns = _talking.setdefault(uri, threading.BoundedSemaphore(most))
    mine = turns.acquire(timeout=_TALK_SECONDS)
    try:
        yield
    finally:
        if mine:
            turns.release()


def connect(uri: str, *, alone: bool) -> Any:
    """Return an `MlflowClient`. Another program may be making the same database: its tables are waited for.

    Args:
        uri: of the store.
        alone: what `one_at_a_time` has yielded.
    """
    from mlflow import MlflowClient

    path = path_of(uri)
    with _quiet():
        if urlsplit(uri).scheme.partition("+")[0] in SERVERS:
            _knock(uri)
        problem: Exception | None = None
        for pause in (0.5, 1, 2, 4, 8, 0):
            try:
                if path is not None:
                    make_whole(path, uri, _make, alone=alone)
                return MlflowClient(tracking_uri=uri)
            except Exception as error:
                if (newer := _of_a_newer(error)) is not None:
                    raise newer from error
                if not any(word in str(error) for word in _BEING_MADE):
                    raise
                problem = error
                let_go(uri)
                if path is None or not put_right(path):
                    time.sleep(pause)
        raise _unusable(uri, path, problem) from problem


def _of_a_newer(problem: Exception) -> errors.BackendError | None:
    """Return what to tell of a database that a newer MLflow has made; None if this is not what is wrong."""
    found = _REVISION.search(str(problem))
    if found is None or not was_made_by_newer(found[1] or found[2]):
        return None
    said = str(problem).partition("\n")[0].partition(". Take a backup")[0]
    return errors.BackendError(
        f"the MLflow database was made by a newer version than this, {metadata.version('mlflow')}: {said}; "
        "pip install --upgrade mlflow, or log into another database"
    )


def _unusable(uri: str, path: Path | None, problem: Exception | None) -> errors.BackendError:
    said = str(problem).partition("\n")[0].partition(". Take a backup")[0]
    remedy = f"; make a copy of {path}, then: mlflow db upgrade {shlex.quote(uri)}" if path is not None else ""
    return errors.BackendError(f"the MLflow database cannot be used: {said}{remedy}")


def _make(uri: str) -> None:
    """Have MLflow make a database, as the first client of it does, and let go of it."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri)
    let_go(uri)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without "Creating initial MLflow database tables..."."""
    notices = logging.getLogger("mlflow.store.db.utils")
    level = notices.level
    notices.setLevel(logging.WARNING)
    try:
        yield
    finally:
        notices.setLevel(level)


def _knock(uri: str) -> None:
    """Connect to a database server once: MLflow tries for minutes whatever it is, a wrong password too."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()
