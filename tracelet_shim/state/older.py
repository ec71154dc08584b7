"""What older versions kept in files beside the ledger, which followed twice a second. A session that one of them has begun is
read, and continued, with that.

    <session>.cursors    how far each tracker is, written after each batch: 48 bytes a tracker
    <session>.decoded    which paths and trials were told apart, a line of JSON a batch
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path

from tracelet_shim.state.rows import GivenPath, RunRow, ToldTrial

__all__ = ["forget", "moved_on", "told_apart"]

_MARK = struct.Struct("<16sQQQQ")
_SUFFIXES = ("cursors", "decoded")


def moved_on(directory: Path, session: str, rows: Iterable[RunRow]) -> list[RunRow]:
    """Return what the ledger says of a session's runs, where it is behind its trackers brought up to date. (A run that the ledger
    does not know yet cannot be continued, so all goes into a new one.)"""
    data = _content(directory / f"{session}.cursors")
    marks = {key: mark for key, *mark in _MARK.iter_unpack(data[: len(data) // _MARK.size * _MARK.size])}
    found = []
    for row in rows:
        number, part, delivered, failed = marks.get(_key(row.backend), (0, 0, 0, 0))
        if row.run_id is not None and (number, part) > (row.cursor, row.part):
            row = row._replace(cursor=number, part=part, delivered=delivered, failed=failed)  # noqa: PLW2901
        found.append(row)
    return found


def told_apart(directory: Path, session: str) -> tuple[list[ToldTrial], list[GivenPath]]:
    """Return which trials and paths have been told apart, in order; the ledger has some of them."""
    trials: list[ToldTrial] = []
    paths: list[GivenPath] = []
    for line in _content(directory / f"{session}.decoded").split(b"\n"):
        with contextlib.suppress(ValueError):  # cut off
            new_trials, new_paths = json.loads(line)
            trials += map(tuple, new_trials)
            paths += map(tuple, new_paths)
    return trials, paths


def forget(directory: Path, session: str) -> None:
    """Remove the files, once the ledger has what is in them."""
    for suffix in _SUFFIXES:
        (directory / f"{session}.{suffix}").unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _key(backend: str) -> bytes:
    return hashlib.blake2s(backend.encode(), digest_size=16).digest()
