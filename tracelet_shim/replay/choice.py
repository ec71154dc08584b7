"""Which session is continued, and for which trackers."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from tracelet_shim import errors
from tracelet_shim.eventfiles.logdir import STATE
from tracelet_shim.replay.rings import adopt, anything_left
from tracelet_shim.replay.undelivered import Missing
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.place import new_run, state_directory
from tracelet_shim.state.rows import SessionRow

__all__ = ["chosen", "same_place", "state_of", "trackers_of"]

def state_of(logdir: str) -> Path:
    """Return the state directory that has a ledger."""
    candidates = dict.fromkeys((state_directory(logdir, os.environ), Path(logdir, STATE)))
    for directory in candidates:
        if anything_left(directory):
            adopt(directory)
        if (directory / "ledger.db").is_file():
            return directory
    raise errors.StateError(
        f"no session was recorded in {' or '.join(map(str, candidates))}; `tracelet-shim status` shows where there are some; "
        f"{new_run(Path(logdir, STATE))}"
    )


def chosen(ledger: Ledger, logdir: str, name: str | None) -> list[SessionRow]:
    """Return the sessions of a log directory, the oldest first, or the only one with this name."""
    sessions = ledger.sessions()[::-1]
    if name is not None:
        sessions = [session for session in sessions if session.id.startswith(name)]
        if len(sessions) != 1:
            raise errors.ConfigurationError(f"{len(sessions)} sessions in {ledger.directory} begin with {name!r}")
    elif ledger.directory != Path(logdir, STATE):  # a directory for the sessions of many log directories
        sessions = [session for session in sessions if same_place(session.root, logdir)]
        if not sessions:
            raise errors.StateError(f"{ledger.directory} has sessions, but none of {logdir}; {new_run(Path(logdir, STATE))}")
    return sessions


def same_place(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def trackers_of(wanted: tuple[str, ...], session: SessionRow, left: Missing, *, retry_refused: bool) -> tuple[str, ...]:
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
