"""The index of a session: which records it has, in order.

It is a file beside the ledger, since it is the log of the channel rather than state: 28 bytes are appended for each record as it
comes, before anybody has looked into it, and nothing in it ever changes.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tracelet_shim.bus import messages as msg
from tracelet_shim.common.private_files import open_file
from tracelet_shim.common.system import lock, pread

__all__ = ["Index", "in_use", "indexed"]

_ENTRY = struct.Struct("<IQdQ")
_VALUED = 1 << 31


class Index:
    """Which records a session has, in order; appended by one thread, read by many.

    Args:
        directory: the state directory; None keeps the files in a temporary place, for a session without one.
        session: the session's id.

    Attributes:
        owned: False if another process has the index open: it serves the session.
        length: number of records.
        written: how many of them are in the file; less than `length` while the disk is full.
    """

    def __init__(self, directory: Path | None, session: str) -> None:
        self._paths: tuple[Path, ...] = ()
        self.owned = True
        if directory is None:
            self._entries: Any = tempfile.TemporaryFile(prefix="tracelet-", buffering=0)  # noqa: SIM115 - closed by close()
            self._hints: Any = tempfile.TemporaryFile(prefix="tracelet-", buffering=0)  # noqa: SIM115
        else:
            self._paths = tuple(directory / f"{session}.{what}" for what in ("index", "hints"))
            appended = [open_file(path, os.O_RDWR | os.O_APPEND) for path in self._paths]
            self._entries, self._hints = (open(file, "a+b", buffering=0) for file in appended)  # noqa: SIM115
            self.owned = _lock(self._entries)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[msg.Hint] = msgspec.msgpack.Decoder(msg.Hint)
        self._hints_end = self._hints.seek(0, os.SEEK_END)
        end = self._entries.seek(0, os.SEEK_END)
        self.length = self.written = end // _ENTRY.size
        self._new_entries, self._new_hints = bytearray(), bytearray()
        if end % _ENTRY.size:  # cut off in the middle of an entry
            self._entries.truncate(self.length * _ENTRY.size)

    def append(self, records: list[msg.Record]) -> None:
        """Add records; written to the files at once.

        Raises:
            OSError: they could not be written. They are kept, and written with the next ones.
        """
        entries, hints = [], bytearray()
        pack = _ENTRY.pack
        for record in records:
            at = 0
            if record.hint is not None:
                data = self._encoder.encode(record.hint)
                at = self._hints_end + len(self._new_hints) + len(hints) + 1
                hints += len(data).to_bytes(4, "little") + data
            value = record.value
            if value is None:
                entries.append(pack(record.source, record.position, 0.0, at))
            else:
                entries.append(pack(record.source | _VALUED, record.position, value, at))
        self._new_entries += b"".join(entries)
        self._new_hints += hints
        self.length += len(records)
        try:
            if self._new_hints:
                _write_all(self._hints, self._new_hints)
                self._hints_end += len(self._new_hints)
                self._new_hints = bytearray()
            _write_all(self._entries, self._new_entries)
        except OSError:
            with contextlib.suppress(OSError):  # what was written in part comes again as a whole
                self._hints.truncate(self._hints_end)
                self._entries.truncate(self.written * _ENTRY.size)
            raise
        self._new_entries = bytearray()
        self.written = self.length

    def read(self, start: int, stop: int) -> Iterator[msg.Record]:
        """Yield the records from number `start` to before `stop`, without their data. A hint, which may be large, is read when
        its turn comes."""
        data = b""
        if start < self.written:
            count = min(stop, self.written) - start
            data = pread(self._entries.fileno(), count * _ENTRY.size, start * _ENTRY.size)
        if stop > self.written:
            first = max(start, self.written) - self.written
            data += self._new_entries[first * _ENTRY.size : (stop - self.written) * _ENTRY.size]
        for source, position, value, at in _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]):
            number = value if source & _VALUED else None
            yield msg.Record(source & ~_VALUED, position, None, number, self._hint(at) if at else None)

    def taken(self) -> dict[int, int]:
        """Return, by source, the position behind the last record."""
        found: dict[int, int] = {}
        for start in range(0, self.length, 65536):
            data = pread(self._entries.fileno(), 65536 * _ENTRY.size, start * _ENTRY.size)
            for source, position, _, _ in _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]):
                number = source & ~_VALUED
                found[number] = max(found.get(number, 0), position + 1)
        return found

    def own(self) -> int:
        """Return how many records are of sources of the relay's own."""
        count = 0
        for start in range(0, self.length, 65536):
            data = pread(self._entries.fileno(), 65536 * _ENTRY.size, start * _ENTRY.size)
            entries = _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size])
            count += sum(source & ~_VALUED >= msg.OWN_SOURCES for source, *_ in entries)
        return count

    def numbers(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Return the numbers of the records at these places, (source, position), as far as they are here."""
        found: dict[tuple[int, int], int] = {}
        for start in range(0, self.written, 65536):
            data = pread(self._entries.fileno(), 65536 * _ENTRY.size, start * _ENTRY.size)
            entries = _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size])
            for number, (source, position, _, _) in enumerate(entries, start):
                place = source & ~_VALUED, position
                if place in places:
                    found.setdefault(place, number)
        return found

    def _hint(self, at: int) -> msg.Hint:
        if at > self._hints_end:
            start = at - 1 - self._hints_end
            length = int.from_bytes(self._new_hints[start : start + 4], "little")
            return self._decoder.decode(self._new_hints[start + 4 : start + 4 + length])
        fd = self._hints.fileno()
        length = int.from_bytes(pread(fd, 4, at - 1), "little")
        return self._decoder.decode(pread(fd, length, at + 3))

    def close(self, *, remove: bool) -> None:
        """Close the files; remove them if nothing is left to deliver."""
        self._entries.close()
        self._hints.close()
        if remove:
            for path in self._paths:
                path.unlink(missing_ok=True)


def indexed(directory: Path, session: str) -> tuple[int, dict[int, int], int] | None:
    """Return what the index of a session has: the number of records, by source the position behind the last, and how many records
    are the relay's own. None if there is no index, since everything has arrived."""
    if not (directory / f"{session}.index").exists():
        return None
    index = Index(directory, session)
    try:
        return index.length, index.taken(), index.own()
    finally:
        index.close(remove=False)


def in_use(directory: Path, session: str) -> bool:
    """Return whether a process serves the session: it has locked the index."""
    try:
        with open(directory / f"{session}.index", "rb") as file:
            return not _lock(file)
    except FileNotFoundError:
        return False


def _lock(file: Any) -> bool:
    """Lock a file until it is closed, or its process dies; return False if another process has done that."""
    try:
        lock(file)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: then nobody has one
        return True
    return True


def _write_all(file: Any, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
