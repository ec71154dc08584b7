"""Opening files that somebody else has laid out: regular files only, and none that lies outside of a directory.

A FIFO or a device is never opened: to open one for reading may wait for ever, or do something. Symbolic links are followed
as long as they stay inside.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from tracelet_shim.common.system import O_BINARY, O_CLOEXEC, O_NOFOLLOW

__all__ = ["is_below", "is_inside", "open_regular", "read_regular", "refusal"]

_FILE = os.O_RDONLY | O_BINARY | O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | O_CLOEXEC
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | O_NOFOLLOW | O_CLOEXEC
_KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link that leads nowhere",
}  # fmt: skip


def is_inside(path: str, top: str) -> bool:
    """Return whether a path, whatever links it goes through, ends in the directory `top` or below it."""
    return is_below(os.path.realpath(path), os.path.realpath(top))


def is_below(real: str, base: str) -> bool:
    """Return whether a path is the directory `base` or below it, both without links."""
    return real == base or real.startswith(base.rstrip(os.sep) + os.sep)


def open_regular(path: str, inside: str | None = None) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: the file; may be a symbolic link.
        inside: the directory that it has to be in; None: anywhere.

    Raises:
        OSError: it is something else, or lies elsewhere, or cannot be opened. `strerror` says what is wrong.
    """
    real = os.path.realpath(path)
    if inside is not None and not is_below(real, os.path.realpath(inside)):
        raise OSError(errno.EXDEV, f"{real} is outside of {inside}", path)
    _check(os.lstat(real), path)
    fd = _open(real, os.path.realpath(inside) if inside is not None else None)
    try:
        _check(os.fstat(fd), path)
        return os.fdopen(fd, "rb")
    except OSError:
        os.close(fd)
        raise


def _check(about: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(about.st_mode), 'something else')}, no regular file", path)


def _open(real: str, base: str | None) -> int:
    """Open what has been resolved. Below `base` no directory may have become a link since, by somebody who can write there."""
    if base is None or os.open not in os.supports_dir_fd:  # Windows: nothing is opened from a directory on
        return os.open(real, _FILE)
    *folders, name = os.path.relpath(real, base).split(os.sep)
    fd = os.open(base, _DIRECTORY)
    try:
        for folder in folders:
            above, fd = fd, os.open(folder, _DIRECTORY, dir_fd=fd)
            os.close(above)
        return os.open(name, _FILE, dir_fd=fd)
    finally:
        os.close(fd)


def read_regular(path: str, inside: str | None, most: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: as `open_regular` does, or there are more than `most` bytes.
    """
    with open_regular(path, inside) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else b""
    if size > most or len(data) > most:
        raise OSError(errno.EFBIG, f"{max(size, len(data)):,} bytes, and more than {most:,} are not read", path)
    return data


def refusal(path: str, inside: str) -> str | None:
    """Return why `open_regular` would not open this file; None if it would, or if it is gone."""
    try:
        open_regular(path, inside).close()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None
