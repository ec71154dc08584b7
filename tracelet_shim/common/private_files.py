"""Files and directories that are nobody else's: 0600 and 0700 whatever the umask is, and at no name that another user of the
machine could have taken first.

A log directory may lie where others read, and what we keep in it has names of machines, commands and parameters.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator

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
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE)
    with contextlib.suppress(OSError):  # another user's, or a file system without rights
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
def locked(directory: _Path, seconds: float) -> Iterator[None]:
    """Let one process at a time do something in a directory. The lock is on the directory itself, so that there is no file
    whose name could be taken, and nothing is left behind. It is waited for, but not for ever."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_PAUSE)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(descriptor)
