"""Which process has the session: a mark in the environment keeps its children from opening one more."""

from __future__ import annotations

import math
import os
import socket

from tracelet_shim.common import run_report

__all__ = ["give_up", "has_other_owner", "take"]

_OWNER = "_TRACELET__OWNER"
"""Environment variable: host and pid of the process that has a session open, so that its children do not open one more."""


def take() -> None:
    """Mark this process as the owner of a session."""
    os.environ[_OWNER] = _mark()


def give_up() -> None:
    """Take the mark away, if it is this process's."""
    if os.environ.get(_OWNER) == _mark():
        del os.environ[_OWNER]


def has_other_owner() -> bool:
    """True if this process is the child of one that has a session open. The environment may also have come from another
    machine, or from a process that is gone: a job that was submitted from a notebook is nobody's child."""
    host, _, pid = os.environ.get(_OWNER, "").rpartition(":")
    if not pid.isdigit() or host != socket.gethostname() or int(pid) == os.getpid():
        return False
    return run_report.is_alive(int(pid), math.inf)


def _mark() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
