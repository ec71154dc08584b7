"""Which process has the session: marks by which its children know that they are not to open one more.

None is in ``os.environ``: programs and their tests look at what has changed there. On Linux the process holds an empty file in
memory, whose name children find under ``/proc``, also those that are given an environment of their own. Children that lose their
parent (``python evaluate.py &``) have the mark in what C knows as the environment.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket

from tracelet_shim.common import run_report

__all__ = ["VARIABLE", "give_up", "has_other_owner", "take"]

VARIABLE = "_TRACELET__OWNER"
"""Environment variable of children: host and pid of the process that has a session open."""
_FILE = "tracelet-shim-session-of-"
_MOST_ANCESTORS = 64

_taken: tuple[int, int | None] | None = None
"""The process that has taken the session, this one or one that it was forked from, and the descriptor of its mark."""


def take() -> None:
    """Mark this process as the owner of a session."""
    global _taken
    descriptor = None
    with contextlib.suppress(OSError, AttributeError):  # no Linux; no descriptors left
        descriptor = os.memfd_create(f"{_FILE}{os.getpid()}")
    os.putenv(VARIABLE, f"{socket.gethostname()}:{os.getpid()}")
    _taken = os.getpid(), descriptor


def give_up() -> None:
    """Take the mark away, if it is this process's."""
    global _taken
    if _taken is not None and _taken[0] == os.getpid():
        os.unsetenv(VARIABLE)
        if _taken[1] is not None:
            with contextlib.suppress(OSError):  # a program may close all descriptors there are
                if _name_of(f"/proc/self/fd/{_taken[1]}").startswith(_FILE):
                    os.close(_taken[1])
        _taken = None


def has_other_owner() -> bool:
    """True if this process is the child of one that has a session open. The environment may also have come from another
    machine, or from a process that is gone: a job that was submitted from a notebook is nobody's child."""
    if _taken is not None and _taken[0] != os.getpid() and run_report.is_alive(_taken[0], math.inf):  # forked
        return True
    host, _, pid = os.environ.get(VARIABLE, "").rpartition(":")
    if pid.isdigit() and host == socket.gethostname() and int(pid) != os.getpid() and run_report.is_alive(int(pid), math.inf):
        return True
    return any(_is_marked(ancestor) for ancestor in _ancestors())


def _ancestors() -> list[int]:
    found: list[int] = []
    pid = os.getppid()
    with contextlib.suppress(OSError, ValueError, IndexError):  # no /proc, or one that is gone
        while pid > 1 and len(found) < _MOST_ANCESTORS:
            found.append(pid)
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])  # behind the name come the state and the parent
    return found


def _is_marked(pid: int) -> bool:
    with contextlib.suppress(OSError):  # somebody else's
        for number in os.listdir(f"/proc/{pid}/fd"):
            if _name_of(f"/proc/{pid}/fd/{number}") == f"{_FILE}{pid}":
                return True
    return False


def _name_of(descriptor: str) -> str:
    """Return the name of a file in memory; nothing if it is none."""
    with contextlib.suppress(OSError):  # closed meanwhile
        target = os.readlink(descriptor)
        if target.startswith("/memfd:"):
            return target.removeprefix("/memfd:").removesuffix(" (deleted)")
    return ""
