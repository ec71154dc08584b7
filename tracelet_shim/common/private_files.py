"""Files and directories that are nobody else's: 0600 and 0700 whatever the umask is, and at no name that another user of the
machine could have taken first.

A log directory may lie where others read, and what we keep in it has names of machines, commands and parameters.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator

from tracelet_shim.common.system import O_BINARY, O_CLOEXEC, O_NOFOLLOW, lock

__all__ = ["locked", "make_directory", "make_file", "open_file", "restrict"]

_Path = str | os.PathLike[str]

_FILE, _DIRECTORY = 0o600, 0o700
_PAUSE = 0.05


def make_directory(path: _Path) -> None:
    """Make a directory, and those above it, if there is none. One that is there is its owner's, and stays as it is."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        os.mkdir(path, _DIRECTORY)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    os.chmod(path, _DIRECTORY)  # a umask may have taken rights away from the owner as well


def make_file(path: _Path) -> None:
    """Make an empty file if there is none."""
    with contextlib.suppress(FileExistsError):
        os.close(open_file(path, os.O_WRONLY | os.O_EXCL))


def open_file(path: _Path, flags: int) -> int:
    """Open a file for writing, make it if there is none; return the descriptor. Also an `opener` for `open`.

    A link is not followed: in a log directory from somebody else it could lead to any file of the user's. A file that an
    older version has made with more rights loses them.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_CREAT | O_BINARY | O_CLOEXEC | O_NOFOLLOW, _FILE)
    with contextlib.suppress(OSError, AttributeError):  # another user's, or a file system, or Windows, without rights
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != _FILE:
            os.fchmod(descriptor, _FILE)
    return descriptor


def restrict(path: _Path) -> None:
    """Take the rights of others from a file that an older version has made, without opening it: closing it again would end the
    locks that this process has on it."""
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) != _FILE:
            os.chmod(path, _FILE)


@contextlib.contextmanager
def locked(directory: _Path, seconds: float) -> Iterator[bool]:
    """Let one process at a time do something in a directory. The lock is on the directory itself, so that there is no file
    whose name could be taken, and nothing is left behind. It is waited for, but not for ever; what is yielded tells whether it
    was got."""
    got = False
    with contextlib.ExitStack() as stack:
        if os.name != "nt" or not os.path.isdir(directory):  # there, a directory cannot be opened
            descriptor = os.open(directory, os.O_RDONLY | O_CLOEXEC)
            stack.callback(os.close, descriptor)
            got = _wait_for(descriptor, seconds)
        yield got


def _wait_for(descriptor: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            lock(descriptor)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError:  # a file system without locks
            break
    return False
