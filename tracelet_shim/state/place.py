"""Where the state of a session is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tracelet_shim.common.began import began_at
from tracelet_shim.common.text import quoted

__all__ = ["new_run", "state_directory"]


def state_directory(root: str, environment: Mapping[str, str]) -> Path:
    """Return where a session with this root keeps its state."""
    named = environment.get("TRACELET_STATE_DIR")
    if named:
        return Path(began_at(), named)
    if "://" in root:
        base = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        return Path(base, "tracelet-shim")
    return Path(root, ".tracelet")


def new_run(directory: Path) -> str:
    """Return the remedy where a state directory does not tell what was delivered."""
    logdir = quoted(str(directory.parent)) if directory.name == ".tracelet" else "LOGDIR"
    return f"to deliver what the event files have into a new run: tracelet-shim replay {logdir} --backend NAMES"
