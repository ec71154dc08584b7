"""What kind of file system a path is on."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

__all__ = ["is_local", "keeps_space", "share_of"]

_KEEP_SPACE = frozenset(["ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs"])
_LOCAL = _KEEP_SPACE | {"bcachefs", "btrfs", "zfs"}
"""File systems of this machine's own, as Linux calls them."""


def is_local(path: str | os.PathLike[str]) -> bool:
    """Return whether a file or directory is known to be on a file system of this machine's own."""
    return _kind(path) in _LOCAL


def keeps_space(path: str | os.PathLike[str]) -> bool:
    """Return whether the file system is this machine's own, and what has been allocated of it can be written to, however full it
    is. Where writing makes a copy, as in btrfs and zfs, that is not so."""
    return _kind(path) in _KEEP_SPACE


_SHARE = 16
"""Of what is free, one part in so many may be taken."""


def share_of(directory: str | os.PathLike[str], most: int, *, least: int) -> int:
    """Return how many bytes of its file system may be taken, at most so many: in a container, ``/dev/shm`` may be as small as 64
    MB, and is where the workers of a DataLoader hand over their batches.

    Raises:
        OSError: it is less than `least`.
    """
    found = os.statvfs(directory)
    share = min(most, found.f_bavail * found.f_frsize // _SHARE)
    if share < least:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(directory))
    return share


def _kind(path: str | os.PathLike[str]) -> str:
    real = os.path.realpath(path)
    device = os.stat(real).st_dev if os.path.exists(real) else -1
    if device == -1:
        return _look_up(real)
    if device not in _known:
        _known[device] = _look_up(real)
    return _known[device]


_known: dict[int, str] = {}
"""By device."""


def _look_up(path: str) -> str:
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # no Linux
        return ""
    real = os.fsencode(path) + b"/"
    longest, kind = b"", b""
    for mount in mounts:  # see proc(5)
        before, _, after = mount.partition(b" - ")
        place = re.sub(rb"\\(\d{3})", lambda found: bytes((int(found[1], 8),)), before.split(b" ")[4])
        if len(place) >= len(longest) and real.startswith(place.rstrip(b"/") + b"/"):
            longest, kind = place, after.split(b" ")[0]
    return kind.decode()
