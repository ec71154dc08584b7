"""The session's records in order, shared by all trackers; each worker reads them from where it stands.

Events are kept in memory once for all trackers, within a byte budget. What does not fit is forgotten and, when a slow
tracker gets there, read again from the event file, which has it anyway; `tracelet_shim.ledger.Index` tells where.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import attrgetter

import msgspec

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.decode import Decoder
from tracelet_shim.eventfile import EventFileReader
from tracelet_shim.ledger import Index

__all__ = ["Entry", "Log"]

_OVERHEAD = 700  # bytes that a small decoded event takes in memory beyond its payload, measured
_MAX_READERS = 32
_MOST_READ = 5000  # records that are read again in one go, for which what arrives meanwhile has to wait
_ALONE, _ONE_OF_MANY, _PAYLOAD = 1 / 12, 1 / 32, 1 / 48
"""Parts of the memory, beside what is kept for all: what the batch may take that a tracker is writing, which is all there is, or
one of many; and what that may have of payload. SDKs make copies of both, which take twice as much and more."""


_bytes_of = attrgetter("size")


class Entry(msgspec.Struct, gc=False):
    """A record's events with its number in the session.

    Attributes:
        number: 0 for the session's first record.
        events: its events.
        size: bytes that they take in memory, about.
        counted: how many of them are delivered to every backend: all but `events.Marker`.
        lost: True if it fitted into no memory and its event file is gone.
    """

    number: int
    events: tuple[ev.Event, ...]
    size: int
    counted: int
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
        self._kept: deque[Entry] = deque()
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
        entries: list[Entry] = []
        events = 0
        has_gap = False
        with self._decoding:
            decode = self._decoder.decode
            for number, record in enumerate(records, self.length):
                if record.data is not None or _is_whole(record):
                    entries.append(entry := _entry(number, decode(record)))
                    events += entry.counted
                else:
                    events += 0 if isinstance(record.hint, msg.Nested) else 1
                    entries.clear()  # what is kept has no gaps: the older records are read from the files too
                    has_gap = True
        try:
            if self._index is not None:
                self._index.append(records)
        finally:
            self._keep(entries, len(records), events, has_gap)

    def _keep(self, entries: list[Entry], records: int, events: int, has_gap: bool) -> None:
        """Add `entries`, the last of so many `records`; to what is there already, unless there is a gap between them."""
        with self._grown:
            kept = self._kept
            if has_gap:
                kept.clear()
                self._kept_bytes = 0
            kept.extend(entries)
            self._kept_bytes += sum(map(_bytes_of, entries))
            self.length += records
            self.events += events
            slowest = self._slowest()
            while kept and (kept[0].number < slowest or self._kept_bytes > self.memory):
                self._kept_bytes -= kept.popleft().size
            self._grown.notify_all()

    def _slowest(self) -> int:
        return min((position() for position in self._cursors), default=self.length)

    @property
    def spilled(self) -> bool:
        """True if some reader will have to go to the event files."""
        with self._lock:
            first = self._kept[0].number if self._kept else self.length
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
        """Return up to `limit` entries from `number` on; fewer if they are large, and fewer, or none, where an event file has
        not got them yet."""
        with self._lock:
            first = self._kept[0].number if self._kept else self.length
            if number >= first:
                return self._cut(islice(self._kept, number - first, number - first + limit))
        return self._read_again(number, min(first, number + limit, number + _MOST_READ))

    def _cut(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return of `entries` what one tracker may hold: what it has in hand is not forgotten when memory is short."""
        share = max(_ALONE / max(1, len(self._cursors)), _ONE_OF_MANY)
        left, payload = share * self.memory, _PAYLOAD * self.memory
        found = []
        for entry in entries:
            found.append(entry)
            left -= entry.size
            payload -= max(0, entry.size - _OVERHEAD)
            if left <= 0 or payload <= 0:
                break
        return found

    def review(self) -> list[int]:
        """Decode what the index has, once and in order, for the sake of what the decoder has to remember. Return the
        number of events, that backends count, before each record, and before the next one to come."""
        counted = [0]
        while (done := len(counted) - 1) < self.length:
            stop = min(done + 1000, self.length)
            for entry in self._read_again(done, stop):
                counted.append(counted[-1] + entry.counted)
            if len(counted) - 1 == done:  # in a file that cannot be read now; nearly every record has one event
                counted += range(counted[-1] + 1, counted[-1] + 1 + stop - done)
        return counted

    def _read_again(self, start: int, stop: int) -> list[Entry]:
        with self._decoding:  # for all of it: the trackers share the readers of the event files, each from its own place
            return self._cut(self._again(start, stop))

    def _again(self, start: int, stop: int) -> Iterator[Entry]:
        if self._index is not None:
            for number, record in enumerate(self._index.read(start, stop), start):
                entry = self._entry_again(number, record)
                if entry is None:
                    return
                yield entry

    def _entry_again(self, number: int, record: msg.Record) -> Entry | None:
        if not _is_whole(record):
            try:
                record.data = self._from_file(record)
            except _GoneError:
                return Entry(number, (), 0, 0, lost=True)
            except _UnreadableError:
                return None
            if record.data is None:
                return Entry(number, (), 0, 0) if self._complete else None
        return _entry(number, self._decoder.decode(record))

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
            broken = self._readers.pop(record.source, None)  # nobody knows where in the file it stands
            if broken is not None:
                broken.close()
            raise _UnreadableError(path) from error

    @property
    def safe(self) -> int:
        """The number of records that a successor could continue from, if this process were killed."""
        return self._index.written if self._index is not None else self.length

    def mark(self, backend: str, standing: tuple[int, int, int, int]) -> None:
        """Note on disk where a tracker stands (`worker.Standing`), for whoever goes on if this process is killed."""
        index = self._index
        if index is not None:
            index.cursors.mark(backend, standing)

    def close(self, *, remove: bool) -> None:
        """Let go of the files; `remove` the index if nothing is left to deliver."""
        with self._decoding:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            if self._index is not None:
                self._index.close(remove=remove)
                self._index = None


def _entry(number: int, events: tuple[ev.Event, ...]) -> Entry:
    if len(events) == 1 and type(event := events[0]) is ev.Scalar:  # nearly always
        return Entry(number, events, _OVERHEAD + len(event.source), 1)
    size = _OVERHEAD * max(len(events), 1) + sum(map(_size, events)) + (len(events[0].source) if events else 0)
    return Entry(number, events, size, sum(type(event) is not ev.Marker for event in events))


def _is_whole(record: msg.Record) -> bool:
    """True if the record needs no proto."""
    return isinstance(record.hint, msg.Embedded)


def _size(event: ev.Event) -> int:
    """Return the bytes of an event's own payload, without the record that it shares with others."""
    if isinstance(event, ev.Histogram):
        return 80 * len(event.limits)
    if isinstance(event, (ev.Image, ev.Video, ev.Audio, ev.Blob)):
        return len(event.data)
    if isinstance(event, ev.Text):
        return sys.getsizeof(event.text)
    if isinstance(event, ev.Tensor):
        return len(event.value.data)
    if isinstance(event, ev.Embedding):
        return len(event.matrix.data) + len(event.sprite or b"") + 100 * len(event.metadata or ())
    if isinstance(event, ev.Mesh):
        return sum(len(part.data) for part in (event.vertices, event.faces, event.colors) if part is not None)
    return 0
