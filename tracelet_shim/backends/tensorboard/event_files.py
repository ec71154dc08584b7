"""The event files of the copy: records are appended, and found again if they come a second time.

A record is framed as `tensorboard.summary.writer.record_writer` does it (length, masked CRC32C, data, masked CRC32C). Every write
has reached the operating system before it counts as delivered. Continuing a run after a crash needs no book: a record that comes
again is found in the copy and skipped, a torn last record is overwritten.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import BinaryIO

from tracelet_shim.eventfiles import tfrecord

__all__ = ["OPEN_FILES", "Copy", "EventFiles"]

OPEN_FILES = 64


class Copy:
    """One event file of the copy.

    Attributes:
        path: where it is.
        size: bytes of whole records that it has.
        last: position in the original of the latest record; None before the first.
        cursor: how far records that come again were recognised; None if none can come again.
        is_new: True if no earlier session wrote to it.
    """

    __slots__ = ("cursor", "is_new", "last", "path", "size")

    def __init__(self, path: str, size: int = 0) -> None:
        self.path = path
        self.size = size
        self.last: int | None = None
        self.cursor: int | None = None
        self.is_new = True

    @classmethod
    def at(cls, path: str) -> Copy:
        """Return the copy at a path, where an earlier session of the run may have begun it."""
        copy = cls(path)
        if os.path.exists(path):
            with open(path, "rb") as existing:
                copy.size = max((start + length + 4 for start, length in _spans(existing)), default=0)
            copy.is_new = copy.size == 0
            copy.cursor = 0
        return copy


class EventFiles:
    """The event files that are open: at most `OPEN_FILES`, whatever the number of writers."""

    def __init__(self) -> None:
        self._handles: OrderedDict[str, BinaryIO] = OrderedDict()

    def append(self, copy: Copy, records: list[bytes]) -> None:
        """Write records behind what the copy has. The copy grows only if all was written; a torn end is overwritten."""
        if not records:
            return
        handle = self._handle(copy)
        if copy.cursor is not None:
            records = _missing(handle, copy, records)
        data = memoryview(tfrecord.joined(records))
        handle.seek(copy.size)
        done = 0
        while done < len(data):
            done += handle.write(data[done:]) or 0
        copy.size += len(data)

    def _handle(self, copy: Copy) -> BinaryIO:
        handle = self._handles.get(copy.path)
        if handle is not None:
            self._handles.move_to_end(copy.path)
            return handle
        while len(self._handles) >= OPEN_FILES:
            self._handles.popitem(last=False)[1].close()
        os.makedirs(os.path.dirname(copy.path), exist_ok=True)
        descriptor = os.open(copy.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        handle = self._handles[copy.path] = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 - kept
        return handle

    def sync(self) -> None:
        """Force what was written to disk."""
        for handle in self._handles.values():
            os.fsync(handle.fileno())

    def close(self) -> None:
        while self._handles:
            self._handles.popitem()[1].close()


def _spans(file: BinaryIO, offset: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (offset of the data, length) of every whole record from `offset` on."""
    size = os.fstat(file.fileno()).st_size
    while offset + 16 <= size:
        file.seek(offset)
        start = file.read(12)
        (length,) = struct.unpack("<Q", start[:8])
        if offset + 16 + length > size or start != tfrecord.header(length):
            return
        yield offset + 12, length
        offset += 16 + length


def _missing(file: BinaryIO, copy: Copy, records: list[bytes]) -> list[bytes]:
    """Return the records that the copy does not have yet.

    Records come again in the order in which the copy has them; so the first that is not found ends the search.
    """
    for done, record in enumerate(records):
        spans = ((start, length) for start, length in _spans(file, copy.cursor or 0) if start + length + 4 <= copy.size)
        for start, length in spans:
            if length == len(record):
                file.seek(start)
                if file.read(length) == record:
                    copy.cursor = start + length + 4
                    break
        else:
            copy.cursor = None
            return records[done:]
    return []
