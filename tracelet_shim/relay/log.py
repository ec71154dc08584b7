"""The session's records in order, shared by all trackers; each worker reads them from where it stands.

Events are kept in memory once for all trackers, within a byte budget. What does not fit is forgotten and, when a slow
tracker gets there, read again from the event file, which has it anyway; `tracelet_shim.ledger.Index` tells where.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.decode import Decoder
from tracelet_shim.eventfile import EventFileReader
from tracelet_shim.ledger import Index

__all__ = ["Entry", "Log"]

_OVERHEAD = 700  # bytes that a small decoded event takes in memory beyond its payload, measured
_MAX_READERS = 32


class Entry(NamedTuple):
    """A record's events with its number in the session.

    Attributes:
        number: 0 for the session's first record.
        events: its events.
        lost: True if it fitted into no memory and its event file is gone.
    """

    number: int
    events: tuple[ev.Event, ...]
    lost: bool = False


class _GoneError(Exception):
    """An event file that cannot be read, now or later."""


class _UnreadableError(Exception):
    """An event file that cannot be read now: a server of files that is away, missing rights."""


class Log:
    """Append by one thread, read by many.

    Args:
        decoder: decodes records, also those that are read again.
        complete: True if nobody writes to the event files any more: a record that they lack is passed over.

    Attributes:
        memory: bytes that the kept events may take.
        length: number of records so far.
        events: number of events in them that backends count.
    """

    def __init__(self, decoder: Decoder, *, complete: bool = False) -> None:
        self._decoder = decoder
        self._complete = complete
        self._decoding = threading.Lock()
        self.memory: float = 0
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._kept: deque[tuple[Entry, int]] = deque()
        self._kept_bytes = 0
        self._index: Index | None = None
        self.length = 0
        self.events = 0
        self._readers: dict[int, EventFileReader] = {}
        self._cursors: list[Callable[[], int]] = []

    def open(self, index: Index, events: int) -> None:
        """Continue behind what the index has already.

        Args:
            index: the session's.
            events: the number of events in its records, as far as it is known.
        """
        self._index = index
        self.length = index.length
        self.events = events

    def add_cursor(self, position: Callable[[], int]) -> None:
        """Register a reader; what all readers have passed is forgotten."""
        self._cursors.append(position)

    def append(self, records: list[msg.Record]) -> None:
        """Decode records and keep them.

        Raises:
            OSError: the index cannot be written for now. Nothing is lost by that as long as this process lives.
        """
        with self._decoding:
            decoded = [
                tuple(self._decoder.decode(record)) if record.data is not None or _is_whole(record) else None
                for record in records
            ]
        try:
            if self._index is not None:
                self._index.append(records)
        finally:
            self._keep(records, decoded)

    def _keep(self, records: list[msg.Record], decoded: list[tuple[ev.Event, ...] | None]) -> None:
        with self._grown:
            for record, events in zip(records, decoded, strict=True):
                number = self.length
                self.length += 1
                if events is None:
                    self.events += 0 if isinstance(record.hint, msg.Nested) else 1
                    self._kept.clear()  # what is kept has no gaps: the older records are read from the files too
                    self._kept_bytes = 0
                    continue
                if len(events) == 1 and isinstance(events[0], ev.Scalar):  # nearly always
                    self.events += 1
                    size = _OVERHEAD + len(events[0].source)
                else:
                    self.events += sum(not isinstance(event, ev.Marker) for event in events)
                    size = _OVERHEAD * max(len(events), 1) + sum(_size(event) for event in events)
                self._kept.append((Entry(number, events), size))
                self._kept_bytes += size
            slowest = self._slowest()
            while self._kept and (self._kept[0][0].number < slowest or self._kept_bytes > self.memory):
                self._kept_bytes -= self._kept.popleft()[1]
            self._grown.notify_all()

    def _slowest(self) -> int:
        return min((position() for position in self._cursors), default=self.length)

    @property
    def spilled(self) -> bool:
        """True if some reader will have to go to the event files."""
        with self._lock:
            first = self._kept[0][0].number if self._kept else self.length
        return self._slowest() < first

    def wait(self, number: int, timeout: float) -> bool:
        """Wait until there are more records, `wake` is called or `timeout` seconds have passed; return whether there is a
        record `number`."""
        with self._grown:
            if self.length <= number:
                self._grown.wait(timeout)
            return self.length > number

    def wake(self) -> None:
        """Let waiting readers look at their own conditions."""
        with self._grown:
            self._grown.notify_all()

    def read(self, number: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries from `number` on; fewer, or none, where an event file has not got them yet."""
        with self._lock:
            first = self._kept[0][0].number if self._kept else self.length
            if number >= first:
                return [entry for entry, _ in islice(self._kept, number - first, number - first + limit)]
        return self._read_again(number, min(first, number + limit))

    def review(self) -> list[int]:
        """Decode what the index has, once and in order, for the sake of what the decoder has to remember. Return the
        number of events, that backends count, before each record, and before the next one to come."""
        counted = [0]
        while len(counted) <= self.length:
            for entry in self._read_again(len(counted) - 1, min(len(counted) + 999, self.length)):
                counted.append(counted[-1] + sum(not isinstance(event, ev.Marker) for event in entry.events))
        return counted

    def _read_again(self, start: int, stop: int) -> list[Entry]:
        entries: list[Entry] = []
        if self._index is None:
            return entries
        with self._decoding:
            for number, record in enumerate(self._index.read(start, stop), start):
                if not _is_whole(record):
                    try:
                        record.data = self._from_file(record)
                    except _GoneError:
                        entries.append(Entry(number, (), lost=True))
                        continue
                    except _UnreadableError:
                        break
                    if record.data is None:
                        if self._complete:
                            entries.append(Entry(number, ()))
                            continue
                        break
                entries.append(Entry(number, tuple(self._decoder.decode(record))))
        return entries

    def _from_file(self, record: msg.Record) -> bytes | None:
        """Return the data of a record; None as long as the file does not reach so far.

        Raises:
            _GoneError: the file is not there, or not on this machine's file systems.
            _UnreadableError: it is there, and cannot be read.
        """
        reader = self._readers.pop(record.source, None)
        path = self._decoder.source(record.source).path
        try:
            if reader is None:
                reader = EventFileReader(path)
            self._readers[record.source] = reader  # most recently used at the end
            while len(self._readers) > _MAX_READERS:
                self._readers.pop(next(iter(self._readers))).close()
            return reader.read(record.position)
        except FileNotFoundError:
            raise _GoneError(path) from None
        except OSError as error:
            raise _UnreadableError(path) from error

    @property
    def safe(self) -> int:
        """The number of records that a successor could continue from, if this process were killed."""
        return self._index.written if self._index is not None else self.length

    def mark(self, backend: str, at: tuple[int, int], delivered: int, failed: int) -> None:
        """Note on disk where a tracker stands, for whoever goes on if this process is killed."""
        index = self._index
        if index is not None:
            index.cursors.mark(backend, at, delivered, failed)

    def close(self, *, remove: bool) -> None:
        """Let go of the files; `remove` the index if nothing is left to deliver."""
        with self._decoding:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            if self._index is not None:
                self._index.close(remove=remove)
                self._index = None


def _is_whole(record: msg.Record) -> bool:
    """True if the record needs no proto."""
    return isinstance(record.hint, msg.Embedded)


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
