"""Where rings are: in the state directory, or, if its file system cannot be trusted, in memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tracelet_shim.common.system import user_number

__all__ = ["SUFFIX", "all_in_memory", "in_memory", "is_mine", "remove_ring"]

SUFFIX = ".ring"
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - in a directory of the user's own


def in_memory(directory: str | os.PathLike[str]) -> str:
    """Return the directory for rings that cannot be in the state directory `directory`."""
    import hashlib

    return os.path.join(all_in_memory(), hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:16])


def all_in_memory() -> str:
    """Return the directory above all of those, of this user."""
    return os.path.join(_SHARED_MEMORY, f"tracelet-shim-{user_number()}")


def is_mine(directory: str | os.PathLike[str]) -> bool:
    """Return whether nobody else can have made this directory, and the one above it, and nobody else can write there."""
    for each in (directory, os.path.dirname(directory)):
        found = os.lstat(each)
        if found.st_uid != user_number() or found.st_mode & 0o022:
            return False
    return True


def remove_ring(path: Path) -> None:
    """Remove a ring, and the directories that it was alone in."""
    with contextlib.suppress(OSError):  # the other side has removed it, or there are more
        path.unlink(missing_ok=True)
        if path.is_relative_to(_SHARED_MEMORY):
            path.parent.rmdir()
            path.parent.parent.rmdir()
