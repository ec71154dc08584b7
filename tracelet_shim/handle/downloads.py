"""Artifacts that were asked for, as files of this machine: ``<state>/downloads/<digest>/<artifact>``.

They are made in a directory of their own and get their name in one step. The same content is there once: if what is there has not
been changed since, it is what is returned.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tracelet_shim.common.inside import is_inside, open_regular
from tracelet_shim.common.private_files import make_directory
from tracelet_shim.common.run_report import is_alive
from tracelet_shim.eventfiles.own_records import ArtifactContent
from tracelet_shim.handle import snapshots

__all__ = ["DIRECTORY", "fill", "making", "settle"]

DIRECTORY = "downloads"
_SHOWN = 16  # digits of the digest


@contextlib.contextmanager
def making(directory: Path) -> Iterator[str]:
    """Make an empty directory in that of the downloads; it is gone in the end.

    Raises:
        OSError: it cannot be made.
    """
    make_directory(directory.parent)
    make_directory(directory)
    for name in os.listdir(directory):
        _, pid, rest = [*name.split(".", 2), "", ""][:3]
        if rest and pid.isdigit() and not is_alive(int(pid), _made(directory / name)):  # of a program that was killed
            shutil.rmtree(directory / name, ignore_errors=True)
    made = directory / f".{os.getpid()}.{uuid.uuid4().hex}"
    make_directory(made)
    try:
        yield str(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _made(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process was faster
        return 0.0


def fill(directory: str, name: str, content: ArtifactContent, store: str) -> str:
    """Make an artifact of what a store has of it; return where it is.

    Args:
        directory: an empty one.
        name: the artifact's.
        content: says which files it has.
        store: where they are, by their SHA-256.

    Raises:
        OSError, ValueError: it cannot be made.
    """
    top = os.path.normpath(name)
    place = os.path.join(directory, os.path.basename(os.path.normpath(f"/{name}")) or "artifact")
    for file in content.files:
        below = os.path.normpath(os.path.relpath(file.path, top))
        target = os.path.normpath(os.path.join(place, below))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        snapshots.copy(os.path.join(store, file.sha256), target)
    return place


def settle(directory: str, path: str) -> tuple[Path, str]:
    """Give what was made in a directory its place; return that, and the digest of the artifact.

    Args:
        directory: of `making`.
        path: the artifact, in that directory.

    Raises:
        OSError, ValueError: it is not there, or elsewhere.
    """
    if not is_inside(path, directory):
        raise ValueError(f"it was put into {path}, which is outside of {directory}")
    digest = _digest(path)
    within = os.path.relpath(os.path.realpath(path), os.path.realpath(directory))
    number = 0
    while True:
        place = Path(directory).parent / (digest[:_SHOWN] + (f".{number}" if number else ""))
        try:
            os.rename(directory, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return place / within, digest
        there = place / within
        if there.exists() and _digest(str(there)) == digest:
            return there, digest
        number += 1


def _digest(path: str) -> str:
    """Return the SHA-256 of a file, or of the lines that ``sha256sum`` prints of the files of a directory."""
    if not os.path.isdir(path):
        return _sha256(path)
    found = hashlib.sha256()
    for name, at in sorted(snapshots.files_of(path, ".")[0]):
        found.update(f"{_sha256(at)}  {name}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _sha256(path: str) -> str:
    with open_regular(path) as file:
        found = hashlib.sha256()
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
