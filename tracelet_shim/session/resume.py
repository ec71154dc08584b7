"""What a session leaves for a resumed delivery: a note in the ledger, and the command that the user is told."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tracelet_shim.common.text import quoted

__all__ = ["leave_open", "resume_command"]


def leave_open(session: str, root: str) -> str | None:
    """Note in the ledger that the event files have more than was handed over. Return what went wrong, if anything did."""
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
        return f"cannot write the ledger in {directory} ({error})"
    return None


def resume_command(roots: Iterable[str], *, refused: bool = False) -> str | None:
    """Return the command that delivers what is in the event files only; None where it would find no state or no files."""
    directory = os.environ.get("TRACELET_STATE_DIR")
    state = f"TRACELET_STATE_DIR={quoted(os.path.abspath(directory))} " if directory else ""
    retry = " --retry-refused" if refused else ""
    found = (root for root in dict.fromkeys(roots) if "://" not in root)
    return "; ".join(f"{state}tracelet-shim replay {quoted(root)} --resume{retry}" for root in found) or None
