"""Files as they are at the time of a call, for trackers that get them later.

A hard link would be no snapshot: a program that writes ``last.pt`` again writes into the same file. So a file is cloned where the
file system can do that (btrfs, XFS), and copied elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from tracelet_shim.common.inside import open_regular
from tracelet_shim.common.private_files import make_directory, open_file
from tracelet_shim.eventfiles.own_records import StoredFile

__all__ = ["MOST_FILES", "copy", "files_of", "keep"]

MOST_FILES = 10_000
"""Files of one artifact."""
_CLONE = 0x40049409  # FICLONE
_PIECE = 1 << 20


def files_of(path: str, name: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the files of an artifact: (path within it, beginning with `name`; where it is); and what else there is.

    A directory's are those below it, in the order of their names. Links to files are followed, links to directories are not;
    these, links to nothing, pipes and devices are left out.

    Raises:
        OSError, ValueError: there is no such file, there is none in the directory, or there are too many.
    """
    if not stat.S_ISDIR(os.stat(path).st_mode):
        base = os.path.basename(os.path.abspath(path))
        same = os.path.splitext(name)[1] == os.path.splitext(base)[1]  # a new name of the file, and not of a folder for it
        return [(name if same else f"{name}/{base}", path)], []
    found, left_out = [], []
    for directory, folders, names in os.walk(path, onerror=_raise):
        folders.sort()
        left_out += [at for folder in folders if os.path.islink(at := os.path.join(directory, folder))]
        below = os.path.relpath(directory, path)
        for file in sorted(names):
            at = os.path.join(directory, file)
            if not os.path.isfile(at):
                left_out.append(at)
                continue
            found.append((os.path.normpath(os.path.join(name, below, file)), at))
            if len(found) > MOST_FILES:
                raise ValueError(f"{path} has more than {MOST_FILES:,} files")
    if not found:
        raise ValueError(f"{path} has no files")
    return found, left_out


def _raise(error: OSError) -> None:
    raise error


def keep(path: str, store: str, name: str) -> StoredFile:
    """Keep a file as it is now, in the directory `store`, under the SHA-256 of its content. Nothing of it is held in memory.

    Raises:
        OSError: it is no regular file, it cannot be read, or there is no room: a snapshot takes at most half of what is free.
    """
    make_directory(store)
    temporary = os.path.join(store, f".{uuid.uuid4().hex}")
    with contextlib.closing(open_regular(path)) as source:
        size = os.fstat(source.fileno()).st_size
        try:
            with open(temporary, "w+b", opener=open_file) as copy:
                cloned = _clone(source, copy)
                free = shutil.disk_usage(store).free
                if not cloned and size > free // 2:
                    problem = f"it has {size:,} bytes, and where the state is there are {free:,} left"
                    raise OSError(errno.ENOSPC, problem, path)
                digest = hashlib.sha256()
                size = 0
                for piece in _pieces(copy if cloned else source):
                    digest.update(piece)
                    size += len(piece)
                    if not cloned:
                        copy.write(piece)
            os.replace(temporary, os.path.join(store, digest.hexdigest()))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    return StoredFile(name, size, digest.hexdigest())


def copy(path: str, target: str) -> None:
    """Copy a file that was kept to a place where there is none.

    Raises:
        OSError: it is kept no longer, or there is no room.
    """
    with contextlib.closing(open_regular(path)) as source, open(target, "xb") as made:
        if not _clone(source, made):
            shutil.copyfileobj(source, made, _PIECE)


def _clone(source: BinaryIO, copy: BinaryIO) -> bool:
    """Let both files share what is on the disk; return False where that cannot be done."""
    try:
        import fcntl

        fcntl.ioctl(copy.fileno(), _CLONE, source.fileno())
    except (OSError, ImportError):  # not here; on Windows not at all
        return False
    return True


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
