"""How far each tracker is, in a file of fixed places."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tracelet_shim.common.private_files import open_file
from tracelet_shim.state.rows import RunRow

__all__ = ["Cursors", "moved_on"]

_MARK = struct.Struct("<16sQQQQ")


class Cursors:
    """How far each tracker is, in a file of fixed places: one small write a batch, which a killed process leaves whole.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: Any = open(open_file(path, os.O_RDWR), "r+b", buffering=0) if path is not None else None  # noqa: SIM115
        self._places = {key: i for i, (key, *_) in enumerate(self._read())}
        self._lock = threading.Lock()

    def _read(self) -> list[tuple[bytes, int, int, int, int]]:
        if self._file is None:
            return []
        data = os.pread(self._file.fileno(), 1 << 16, 0)
        return list(_MARK.iter_unpack(data[: len(data) // _MARK.size * _MARK.size]))

    def mark(self, backend: str, standing: tuple[int, int, int, int]) -> None:
        """Note where a tracker stands, from any thread: the number of the next record, how many of its events it has, and how
        many events have been delivered and refused in all."""
        if self._file is None:
            return
        key = _key(backend)
        with self._lock:
            place = self._places.setdefault(key, len(self._places))
        with contextlib.suppress(OSError, ValueError):  # the disk is full, or it is closed: the ledger has it soon
            os.pwrite(self._file.fileno(), _MARK.pack(key, *standing), place * _MARK.size)

    def moved_on(self, rows: Iterable[RunRow]) -> list[RunRow]:
        """Return what the ledger says, where it is behind brought up to date. (A run that the ledger does not know yet cannot
        be continued, so all goes into a new one.)"""
        marks = {key: mark for key, *mark in self._read()}
        found = []
        for row in rows:
            number, part, delivered, failed = marks.get(_key(row.backend), (0, 0, 0, 0))
            if row.run_id is not None and (number, part) > (row.cursor, row.part):
                row = row._replace(cursor=number, part=part, delivered=delivered, failed=failed)  # noqa: PLW2901
            found.append(row)
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _key(backend: str) -> bytes:
    return hashlib.blake2s(backend.encode(), digest_size=16).digest()


def moved_on(directory: Path, session: str, rows: Iterable[RunRow]) -> list[RunRow]:
    """Return what the ledger says of a session's runs, where it is behind its trackers brought up to date."""
    path = directory / f"{session}.cursors"
    if not path.exists():
        return list(rows)
    cursors = Cursors(path)
    try:
        return cursors.moved_on(rows)
    finally:
        cursors.close()
