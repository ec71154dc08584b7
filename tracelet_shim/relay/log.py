"""The session's records in order, shared by all trackers; each worker reads them from where it stands.

They are kept in memory once for all trackers, within a byte budget, and are decoded by the first worker that gets there: what
one thread makes and another one uses has to go from processor to processor. What does not fit is forgotten and, when a slow
tracker gets there, read again from the event file, which has it anyway; `tracelet_shim.ledger.Index` tells where.
"""

from __future__ import annotations

import math
import struct
import sys
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from operator import attrgetter

import msgspec

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.tfrecord import EventFileReader
from tracelet_shim.ledger import GivenPath, Index, ToldTrial

__all__ = ["Batch", "Log"]

_OVERHEAD = 700  # bytes that a small decoded event takes in memory beyond its payload, measured
_BATCH_BYTES = 300  # that a batch takes beside its events
_DECODED = 4  # the times that a record which is no scalar takes its own bytes when it is decoded: a copy, lists of floats
_MAX_READERS = 32
_MOST_READ = 5000  # records that are read again in one go, for which other trackers have to wait
_ALONE, _ONE_OF_MANY, _PAYLOAD = 1 / 12, 1 / 32, 1 / 48
"""Parts of the memory, beside what is kept for all: what the batch may take that a tracker is writing, which is all there is, or
one of many; and what that may have of payload. SDKs make copies of both, which take twice as much and more."""


_FLOAT = struct.Struct("<f")
_data_of, _hint_of, _source_of = attrgetter("data"), attrgetter("hint"), attrgetter("source")


class Batch(msgspec.Struct, frozen=True):
    """The events of records that follow each other.

    Attributes:
        start: the number of the first record; the session's first has 0.
        stop: the number behind the last record.
        events: their events, in order.
        counts: how many events each record has; None if each has one.
        markers: how many of the events are `events.Marker`, which are not delivered to every backend.
        gone: of records that fitted into no memory, and that their event file does not have either, the source of each; None for
            one that would not have become an event. Such records are a batch of their own.
    """

    start: int
    stop: int
    events: list[ev.Event]
    counts: list[int] | None = None
    markers: int = 0
    gone: tuple[int | None, ...] = ()

    @property
    def lost(self) -> int:
        """The number of events that can never be read."""
        return len(self.gone) - self.gone.count(None)

    @property
    def counted(self) -> int:
        """The number of events that are delivered to every backend."""
        return len(self.events) - self.markers

    def place(self, events: int) -> tuple[int, int]:
        """Return where the batch goes on behind so many of its events: at which record, and how many events of that are done."""
        if self.counts is None:
            return self.start + events, 0
        ends = list(accumulate(self.counts))
        record = bisect_right(ends, events)
        return self.start + record, events - (ends[record - 1] if record else 0) if record < len(ends) else 0

    def part(self, start: int, stop: int) -> Batch:
        """Return the batch of the records from `start` to before `stop`; itself, if it has no others."""
        if start <= self.start and stop >= self.stop:
            return self
        first, last = max(start, self.start) - self.start, min(stop, self.stop) - self.start
        if self.counts is None:
            events, counts = self.events[first:last], None
        else:
            counts = self.counts[first:last]
            before = sum(self.counts[:first])
            events = self.events[before : before + sum(counts)]
        return _batch(self.start + first, self.start + last, events, counts)

    def without_markers(self) -> Batch:
        """Return the batch without events that are not delivered to every backend."""
        if not self.markers:
            return self
        groups = self.groups()
        counts = [sum(type(event) is not ev.Marker for event in group) for group in groups]
        events = [event for event in self.events if type(event) is not ev.Marker]
        return Batch(self.start, self.stop, events, counts, 0, self.gone)

    def groups(self) -> list[list[ev.Event]]:
        """Return the events of each record."""
        events = iter(self.events)
        return [list(islice(events, count)) for count in self.counts or [1] * len(self.events)]


def _batch(start: int, stop: int, events: list[ev.Event], counts: list[int] | None) -> Batch:
    return Batch(start, stop, events, counts, list(map(type, events)).count(ev.Marker))


class _GoneError(Exception):
    """An event file that cannot be read, now or later."""


class _UnreadableError(Exception):
    """An event file that cannot be read now: a server of files that is away, missing rights."""


class Log:
    """Append by one thread, read by many.

    Args:
        decoder: decodes records, also those that are read again.
        complete: True if nobody writes to the event files any more: a record that they lack is lost.

    Attributes:
        memory: bytes that the kept records and events may take.
        length: number of records so far.
    """

    def __init__(self, decoder: Decoder, *, complete: bool = False) -> None:
        self._decoder = decoder
        self._complete = complete
        self._decoding = threading.Lock()
        self.memory: float = 0
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._decoded: deque[tuple[Batch, int]] = deque()  # with the bytes of each
        self._waiting: deque[msg.Record] = deque()  # to be decoded: what comes behind those, up to the last record
        self._kept_bytes = 0
        self._index: Index | None = None
        self.length = 0
        self._counted_to = 0  # the records before this have been decoded once
        self._surplus = 0  # how many more events than records there are
        self._counting = threading.Lock()
        self._readers: dict[int, EventFileReader] = {}
        self._cursors: list[Callable[[], int]] = []
        self._news: deque[tuple[list[ToldTrial], list[GivenPath]]] = deque()

    def open(self, index: Index, events: int) -> None:
        """Continue behind what the index has already.

        Args:
            index: the session's.
            events: the number of events in its records, as far as it is known.
        """
        self._index = index
        self.length = index.length
        self.recount(events)

    def recount(self, events: int) -> None:
        """Take note that there are so many events that backends count in the records so far."""
        self._counted_to, self._surplus = self.length, events - self.length

    @property
    def events(self) -> int:
        """The number of events that backends count; a record that nobody has decoded yet counts as one, or none if it
        is a part of an `add_hparams`."""
        return self.length + self._surplus

    def add_cursor(self, position: Callable[[], int]) -> None:
        """Register a reader; what all readers have passed is forgotten."""
        self._cursors.append(position)

    def take_news(self) -> list[tuple[list[ToldTrial], list[GivenPath]]]:
        """Return which trials and paths have been told apart since the last time, for the ledger."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def add_source(self, source: msg.Source) -> None:
        """Take note of an event file. What a replayed record says depends on which files there are, so what came before is
        decoded before."""
        if not source.replay:
            self._decoder.add_source(source)
            return
        with self._decoding:
            while (number := self._counted_to) < self.length:
                if number >= self._frontier:
                    self._decode_next(number, self.length)
                elif self._decode_again(number, min(self._frontier, number + _MOST_READ)).stop == number:
                    break  # in a file that cannot be read now
            self._decoder.add_source(source)

    def append(self, records: list[msg.Record]) -> None:
        """Keep records.

        Raises:
            OSError: the index cannot be written for now. Nothing is lost by that as long as this process lives.
        """
        try:
            if self._index is not None:
                self._index.append(records)
        finally:
            kept = records
            if None in map(_data_of, records):
                gaps = (at for at, record in enumerate(records) if record.data is None and not _is_whole(record))
                kept = records[max(gaps, default=-1) + 1 :]
            size = _raw_bytes(kept)
            nested = _nested(records)
            with self._grown:
                if len(kept) < len(records):  # what is kept has no gaps: the older records are read from the files too
                    self._decoded.clear()
                    self._waiting.clear()
                    self._kept_bytes = 0
                self._waiting.extend(kept)
                self._kept_bytes += size
                self.length += len(records)
                if nested:
                    with self._counting:
                        self._surplus -= nested
                self._forget()
                self._grown.notify_all()

    def _forget(self) -> None:
        """Forget what every reader has passed, and what there is no memory for; to be called with the lock held."""
        decoded, waiting, slowest = self._decoded, self._waiting, self._slowest()
        while decoded and (decoded[0][0].stop <= slowest or self._kept_bytes > self.memory):
            self._kept_bytes -= decoded.popleft()[1]
        while waiting and (self._frontier < slowest or self._kept_bytes > self.memory):
            self._kept_bytes -= _raw_bytes((waiting.popleft(),))

    def _slowest(self) -> int:
        return min((position() for position in self._cursors), default=self.length)

    @property
    def _frontier(self) -> int:
        """The number of the first record that waits to be decoded."""
        return self.length - len(self._waiting)

    @property
    def _first(self) -> int:
        """The number of the first record that is in memory."""
        return self._decoded[0][0].start if self._decoded else self._frontier

    @property
    def spilled(self) -> bool:
        """True if some reader will have to go to the event files."""
        with self._lock:
            first = self._first
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

    def read(self, number: int, limit: int) -> Batch:
        """Return the events of up to `limit` records from `number` on; of fewer if they are large, and of fewer, or none, where
        an event file has not got them yet."""
        while True:
            with self._lock:
                first = self._first
                if first <= number < self._frontier:
                    return self._cut(number, limit)
            if number < first:
                return self._read_again(number, min(first, number + limit, number + _MOST_READ))
            with self._decoding:
                batch = self._decode_next(number, limit)
            if batch is not None and number < batch.stop:
                return batch.part(number, number + limit)

    def _decode_next(self, number: int, limit: int) -> Batch | None:
        """Decode records that wait, and keep them, unless they have been forgotten meanwhile. Return None if none waits, or if
        `number` has been decoded; to be called with the decoder's lock held."""
        with self._lock:
            self._forget()  # what has been delivered makes room for what is decoded now
            start = self._frontier
            if number < start or not self._waiting:
                return None
            records = self._within(islice(self._waiting, limit))
        batch = self._decode(start, records)
        size, raw = _bytes(batch), _raw_bytes(records)
        with self._lock:
            if self._frontier == start:
                for _ in records:
                    self._waiting.popleft()
                self._decoded.append((batch, size))
                self._kept_bytes += size - raw
                self._forget()
        return batch

    def _decode(self, start: int, records: list[msg.Record]) -> Batch:
        """Return the events of the records from number `start` on."""
        events, counts = self._decoder.decode(records)
        news = self._decoder.new_trials(), self._decoder.new_paths()
        if any(news):
            if self._index is not None:
                self._index.note(*news)
            self._news.append(news)
        stop = start + len(records)
        batch = _batch(start, stop, events, None if counts.count(1) == len(counts) else counts)
        before = self._counted_to
        if start <= before < stop:
            new = batch.part(before, stop)
            guessed = stop - before - _nested(records[before - start :])
            with self._counting:
                self._surplus += new.counted - guessed
            self._counted_to = stop
        return batch

    def _within(self, records: Iterable[msg.Record]) -> list[msg.Record]:
        """Return of `records` what one tracker may hold: what it has in hand is not forgotten when memory is short."""
        share, payload = self._share()
        most = share // _OVERHEAD
        found: list[msg.Record] = []
        for record in records:
            found.append(record)
            data = record.data
            payload -= len(data) if data is not None and record.value is not None else _DECODED * _payload(record)
            if payload <= 0 or len(found) >= most:
                break
        return found

    def _cut(self, number: int, limit: int) -> Batch:
        """Return what is decoded from `number` on, as much as one tracker may hold; to be called with the lock held."""
        share, payload = self._share()
        stop = number + limit
        at = bisect_right(self._decoded, number, key=lambda kept: kept[0].start) - 1
        parts: list[Batch] = []
        for batch, size in islice(self._decoded, at, None):
            share -= size
            payload -= size - _OVERHEAD * len(batch.events) - _BATCH_BYTES
            if parts and (share < 0 or payload < 0 or batch.start >= stop):
                break
            parts.append(batch.part(number, stop))
        return _joined(parts)

    def _share(self) -> tuple[float, float]:
        """Return how many bytes one tracker may hold, and how many of them as payload."""
        return max(_ALONE / max(1, len(self._cursors)), _ONE_OF_MANY) * self.memory, _PAYLOAD * self.memory

    def review(self) -> list[int]:
        """Decode what the index has, once and in order, for the sake of what the decoder has to remember. Return the
        number of events, that backends count, before each record, and before the next one to come."""
        counted = [0]
        while (done := len(counted) - 1) < self.length:
            stop = min(done + 1000, self.length)
            batch = self._read_again(done, stop)
            for source in batch.gone:
                counted.append(counted[-1] + (source is not None))
            for group in batch.groups() if not batch.gone else ():
                counted.append(counted[-1] + sum(type(event) is not ev.Marker for event in group))
            if len(counted) - 1 == done:  # in a file that cannot be read now; nearly every record has one event
                counted += range(counted[-1] + 1, counted[-1] + 1 + stop - done)
        return counted

    def _read_again(self, start: int, stop: int) -> Batch:
        with self._decoding:  # for all of it: the trackers share the readers of the event files, each from its own place
            return self._decode_again(start, stop)

    def _decode_again(self, start: int, stop: int) -> Batch:
        gone: list[int | None] = []
        records = self._within(self._again(start, stop, gone))
        if not gone:
            return self._decode(start, records)
        stop = start + len(gone)
        if start <= self._counted_to < stop:
            self._counted_to = stop  # each stays counted as it was guessed
        return Batch(start, stop, [], [0] * len(gone), 0, tuple(gone))

    def _again(self, start: int, stop: int, gone: list[int | None]) -> Iterator[msg.Record]:
        """Yield records with their data, as far as the event files have got them. If the first can never be read, nothing is
        yielded, and `gone` becomes what `Batch.gone` says of it and of those that follow it directly."""
        index = self._index
        read = False
        for record in index.read(start, stop) if index is not None else ():
            if not _is_whole(record):
                try:
                    record.data = self._from_file(record)
                except _GoneError:
                    if read:
                        return
                    gone.append(None if isinstance(record.hint, msg.Nested) else record.source)
                    continue
                except _UnreadableError:
                    return
                if record.data is None:
                    return
            if gone:
                return
            read = True
            yield record

    def _from_file(self, record: msg.Record) -> bytes | None:
        """Return the data of a record; None as long as the file does not reach so far.

        Raises:
            _GoneError: the file is not there, or not on this machine's file systems, or it will never reach so far.
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
            data = reader.read(record.position)
        except FileNotFoundError:
            raise _GoneError(path) from None
        except OSError as error:
            broken = self._readers.pop(record.source, None)  # nobody knows where in the file it stands
            if broken is not None:
                broken.close()
            raise _UnreadableError(path) from error
        if data is not None and record.value is not None and not _has_value(data, record.value):
            data = None  # another record, in a file that was cut or replaced and then went on
        if data is None and self._complete:
            raise _GoneError(path)
        return data

    def lacks(self, source: int | None = None, *, number: int = 0) -> str:
        """Return what is wrong with the event file `source`, or that of record `number`, which does not give a record."""
        if source is None:
            with self._decoding:
                source = next((record.source for record in self._index.read(number, number + 1)), -1) if self._index else -1
        path = self._decoder.source(source).path
        try:
            with open(path, "rb"):
                return f"{path} has fewer records than were logged"
        except FileNotFoundError:
            return f"{path} is gone"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror or error})"

    def path(self, source: int) -> str:
        """Return the event file with this number."""
        return self._decoder.source(source).path

    def numbers(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Return the numbers of the records that stand at these places, (source, position), as far as they are there."""
        return self._index.numbers(places) if self._index is not None else {}

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


def _has_value(data: bytes, value: float) -> bool:
    """Return whether a record can be that of a scalar with this value: only another `simple_value` tells that it is not."""
    try:
        rounded = _FLOAT.pack(value)
    except OverflowError:  # beyond float32: it is an infinity there
        return True
    if data[-4:] == rounded or math.isnan(value):
        return True
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        (found,) = Event.FromString(data).summary.value
    except Exception:  # protobuf's DecodeError has no stable import path; or it has several values
        return True
    return found.WhichOneof("value") != "simple_value" or _FLOAT.pack(found.simple_value) == rounded


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    counts = None
    if any(part.counts is not None for part in parts):
        counts = [count for part in parts for count in part.counts or [1] * len(part.events)]
    events = list(chain.from_iterable(part.events for part in parts))
    return Batch(parts[0].start, parts[-1].stop, events, counts, sum(part.markers for part in parts))


def _is_whole(record: msg.Record) -> bool:
    """True if the record needs no proto."""
    return isinstance(record.hint, msg.Embedded)


def _nested(records: Sequence[msg.Record]) -> int:
    """Return how many of the records are but parts of an `add_hparams`: they become events that are not counted."""
    return list(map(type, map(_hint_of, records))).count(msg.Nested)


def _raw_bytes(records: Sequence[msg.Record]) -> int:
    """Return the bytes that records take in memory before they are decoded, about."""
    data = map(_data_of, records)
    if set(map(type, map(_hint_of, records))) <= {type(None), msg.Series} and None not in (whole := list(data)):
        return msg.RECORD_BYTES * len(records) + sum(map(len, whole))
    return msg.RECORD_BYTES * len(records) + sum(map(_payload, records))


def _payload(record: msg.Record) -> int:
    """Return the bytes of what a record carries."""
    size = len(record.data) if record.data is not None else 0
    hint = record.hint
    if isinstance(hint, msg.Frames):
        return size + len(hint.frames.data)
    if isinstance(hint, msg.Embedded):
        images = len(hint.images.data) if hint.images is not None else 0
        return size + len(hint.matrix.data) + images + 100 * len(hint.metadata or ())
    return size


def _bytes(batch: Batch) -> int:
    """Return the bytes that the events of a batch take in memory, about."""
    size = _BATCH_BYTES + _OVERHEAD * len(batch.events)
    if batch.counts is None and set(map(type, batch.events)) == {ev.Scalar}:  # nearly always
        return size + sum(map(len, map(_source_of, batch.events)))
    source = b""
    for event in batch.events:
        size += _size(event)
        if event.source is not source:  # the events of one record share it
            source = event.source
            size += len(source)
    return size


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
