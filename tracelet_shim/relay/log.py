"""The session's records in order, shared by all trackers; each worker reads them from where it stands.

Events are kept in memory once for all trackers, within a byte budget. What does not fit is forgotten and, when a slow
tracker gets there, read again from the event file, which has it anyway. Only an index stays: which record of which file,
with the exact value of a scalar (the file has float32): 24 bytes a record.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.decode import Decoder
from tracelet_shim.eventfile import EventFileReader

__all__ = ["Entry", "Log"]

_CHUNK = 4096
_OVERHEAD = 700  # bytes that a small decoded event takes in memory beyond its payload, measured
_MAX_READERS = 32


class Entry(NamedTuple):
    """A record's events with its number in the session.

    Attributes:
        number: 0 for the session's first record.
        events: its events; empty for a record of TensorBoard's own book-keeping.
    """

    number: int
    events: tuple[ev.Event, ...]


class _Chunk:
    """The index of up to `_CHUNK` records that follow each other."""

    __slots__ = ("hints", "position", "source", "value", "valued")

    def __init__(self) -> None:
        self.source = array("L")
        self.position = array("Q")
        self.value = array("d")
        self.valued = bytearray()
        self.hints: dict[int, msg.Hint] = {}


class Log:
    """Append by one thread, read by many.

    Args:
        decoder: decodes records that are read again.
        memory: bytes that the kept events may take.
    """

    def __init__(self, decoder: Decoder, memory: int) -> None:
        self._decoder = decoder
        self.memory = memory
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._kept: deque[tuple[Entry, int]] = deque()
        self._kept_bytes = 0
        self._chunks: deque[_Chunk] = deque()
        self._first_chunk = 0  # number of the chunk at the left end of _chunks
        self.length = 0
        self.events = 0
        self._readers: dict[int, EventFileReader] = {}
        self._reading = threading.Lock()
        self._cursors: dict[str, Callable[[], int]] = {}

    def add_cursor(self, name: str, position: Callable[[], int]) -> None:
        """Register a reader; what all readers have passed is forgotten."""
        self._cursors[name] = position

    def append(self, records: list[msg.Record]) -> None:
        """Decode records and keep them.

        Sets `length`, the number of records so far, and `events`, the number of events in them that backends count.
        """
        decoded = [
            (record, tuple(self._decoder.decode(record)) if record.data is not None or _is_whole(record) else None)
            for record in records
        ]
        with self._grown:
            for record, events in decoded:
                self._index(record)
                number = self.length
                self.length += 1
                self.events += sum(not isinstance(e, ev.Marker) for e in events) if events is not None else _expected(record)
                if events is None:
                    self._forget_all()  # order: what is older must not be kept in front of a gap
                    continue
                size = _OVERHEAD * max(len(events), 1) + sum(_size(event) for event in events)
                self._kept.append((Entry(number, events), size))
                self._kept_bytes += size
            self._trim()
            self._grown.notify_all()

    def _index(self, record: msg.Record) -> None:
        if not self._chunks or len(self._chunks[-1].source) == _CHUNK:
            self._chunks.append(_Chunk())
        chunk = self._chunks[-1]
        if record.hint is not None:
            chunk.hints[len(chunk.source)] = record.hint
        chunk.source.append(record.source)
        chunk.position.append(record.position)
        chunk.value.append(record.value if record.value is not None else 0.0)
        chunk.valued.append(record.value is not None)

    def _forget_all(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0

    def _trim(self) -> None:
        slowest = min((position() for position in self._cursors.values()), default=self.length)
        while self._kept and (self._kept[0][0].number < slowest or self._kept_bytes > self.memory):
            self._kept_bytes -= self._kept.popleft()[1]
        while self._chunks and (self._first_chunk + 1) * _CHUNK <= min(slowest, self.length):
            self._chunks.popleft()
            self._first_chunk += 1

    @property
    def spilled(self) -> bool:
        """True if some reader will have to go to the event files."""
        slowest = min((position() for position in self._cursors.values()), default=self.length)
        with self._lock:
            first = self._kept[0][0].number if self._kept else self.length
        return slowest < first

    def wait(self, number: int, timeout: float) -> bool:
        """Wait until there is a record `number`; return whether there is."""
        with self._grown:
            return self._grown.wait_for(lambda: self.length > number, timeout)

    def wake(self) -> None:
        """Let waiting readers look at their own conditions."""
        with self._grown:
            self._grown.notify_all()

    def read(self, number: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries from `number` on; fewer, or none, where an event file has not got them yet."""
        with self._lock:
            first = self._kept[0][0].number if self._kept else self.length
            if number >= first:
                start = number - first
                return [entry for entry, _ in islice(self._kept, start, start + limit)]
            until = min(first, number + limit)
            wanted = [self._record(n) for n in range(number, until)]
        return self._read_again(number, wanted)

    def _record(self, number: int) -> msg.Record:
        chunk = self._chunks[number // _CHUNK - self._first_chunk]
        i = number % _CHUNK
        value = chunk.value[i] if chunk.valued[i] else None
        return msg.Record(chunk.source[i], chunk.position[i], None, value, chunk.hints.get(i))

    def _read_again(self, number: int, wanted: list[msg.Record]) -> list[Entry]:
        entries: list[Entry] = []
        with self._reading:
            for record in wanted:
                if not _is_whole(record):
                    record.data = self._from_file(record)
                    if record.data is None:
                        break
                entries.append(Entry(number + len(entries), tuple(self._decoder.decode(record))))
        return entries

    def _from_file(self, record: msg.Record) -> bytes | None:
        reader = self._readers.pop(record.source, None)
        try:
            if reader is None:
                reader = EventFileReader(self._decoder.source(record.source).path)
            self._readers[record.source] = reader  # most recently used at the end
            while len(self._readers) > _MAX_READERS:
                self._readers.pop(next(iter(self._readers))).close()
            return reader.read(record.position)
        except OSError:
            return None

    def close(self) -> None:
        with self._reading:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()


def _is_whole(record: msg.Record) -> bool:
    """True if the record needs no proto."""
    return isinstance(record.hint, msg.Embedded)


def _expected(record: msg.Record) -> int:
    """The number of events of a record that is only in its file yet: one, as a rule."""
    return 0 if isinstance(record.hint, msg.Nested) else 1


def _size(event: ev.Event) -> int:
    size = len(event.source)
    if isinstance(event, ev.Histogram):
        return size + 80 * len(event.limits)
    if isinstance(event, (ev.Image, ev.Video, ev.Audio, ev.Blob)):
        return size + len(event.data)
    if isinstance(event, ev.Text):
        return size + sys.getsizeof(event.text)
    if isinstance(event, ev.Tensor):
        return size + len(event.value.data)
    if isinstance(event, ev.Embedding):
        return size + len(event.matrix.data) + len(event.sprite or b"") + 100 * len(event.metadata or ())
    if isinstance(event, ev.Mesh):
        return size + sum(len(part.data) for part in (event.vertices, event.faces, event.colors) if part is not None)
    return size
