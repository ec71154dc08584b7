"""What operating systems have in different ways: Linux all of it, macOS most, Windows little.

Where something is missing, what stands here does without, or raises the OSError that callers know from file systems which
cannot do it either.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = [
    "HAS_PACKETS", "HOLDS_DIRECTORIES", "O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "after_fork", "end_group", "is_there", "lock",
    "more_files", "pread", "refer", "user_number",
]  # fmt: skip

O_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
O_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
O_BINARY: int = getattr(os, "O_BINARY", 0)
"""Flags of `os.open`. On Windows a descriptor is for text unless one says so, and is never inherited."""

HAS_PACKETS = sys.platform not in ("darwin", "win32") and hasattr(socket, "AF_UNIX") and hasattr(socket, "SOCK_SEQPACKET")
"""Whether two processes can have a socket between them that keeps messages apart. macOS has the name of it, and no more."""

HOLDS_DIRECTORIES: bool = sys.platform != "win32"
"""Whether a directory can be opened, and so locked."""

_SYNCHRONIZE, _WAIT_TIMEOUT, _ACCESS_DENIED = 0x00100000, 0x102, 5  # of winbase.h and winerror.h
_reading = threading.Lock()


def after_fork(function: Callable[[], object]) -> None:
    """Have a function called in each child that is forked; where there is no fork, there is none."""
    register = getattr(os, "register_at_fork", None)
    if register is not None:
        register(after_in_child=function)


def lock(file: Any, *, shared: bool = False) -> None:
    """Lock a file, or an open descriptor, until it is closed or its process dies.

    Raises:
        BlockingIOError: another process has it.
        OSError: there are no such locks, on this file system or on this system.
    """
    try:
        import fcntl
    except ImportError:  # Windows: its locks keep others from reading, too
        raise OSError(errno.ENOSYS, "no locks here") from None
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def more_files() -> None:
    """Let this process have as many files open as it may: one that serves many sessions has about fifteen for each."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def user_number() -> int | None:
    """Return the number of this user, by which one can tell that files are nobody else's; None where there is none."""
    number = getattr(os, "getuid", None)
    return None if number is None else int(number())


def pread(descriptor: int, count: int, at: int) -> bytes:
    """Return what is there in a file, wherever it is read otherwise."""
    read = getattr(os, "pread", None)
    if read is not None:
        return bytes(read(descriptor, count, at))
    with _reading:  # the position is one for all threads; who appends does so at the end, wherever that is
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, count)


def refer(place: str, file: str) -> None:
    """Let a file be at another place, too, without copying it where that can be done: on Windows few may make links."""
    try:
        os.symlink(file, place)
    except (OSError, NotImplementedError):
        shutil.copyfile(file, place)


def is_there(pid: int) -> bool:
    """Return whether there is a process of this id, a zombie among them."""
    if sys.platform == "win32":  # there, `os.kill` ends it, whatever the signal is
        return _is_there_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _is_there_on_windows(pid: int) -> bool:
    import ctypes

    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 - mypy knows the name on Windows only
    kernel.OpenProcess.restype = ctypes.c_void_p
    process = kernel.OpenProcess(_SYNCHRONIZE, False, pid)
    if not process:
        return bool(kernel.GetLastError() == _ACCESS_DENIED)
    try:
        return bool(kernel.WaitForSingleObject(ctypes.c_void_p(process), 0) == _WAIT_TIMEOUT)
    finally:
        kernel.CloseHandle(ctypes.c_void_p(process))


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process that was started with a session of its own, and all that it has started; on Windows it alone."""
    kill_all = getattr(os, "killpg", None)
    if kill_all is None:
        process.kill()
        return
    try:
        kill_all(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # they have ended, or became another user's
        return
