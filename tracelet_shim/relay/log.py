"""The session's records in order, shared by all trackers; each worker reads them from where it stands.

They are kept in memory once for all trackers, within a byte budget, and are decoded by the first worker that gets there: what
one thread makes and another one uses has to go from processor to processor. What does not fit is forgotten and, when a slow
tracker gets there, read again from the event file, which has it anyway; `tracelet_shim.state.index.Index` tells where.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from operator import attrgetter

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.relay.batch import Batch, joined, made
from tracelet_shim.relay.event_files import EventFiles, is_whole
from tracelet_shim.relay.sizes import BATCH_BYTES, OVERHEAD, bytes_of, payload_of, raw_bytes
from tracelet_shim.state.index import Index
from tracelet_shim.state.rows import GivenPath, ToldTrial

__all__ = ["Log"]

_DECODED = 4  # the times that a record which is no scalar takes its own bytes when it is decoded: a copy, lists of floats
_MOST_READ = 5000  # records that are read again in one go, for which other trackers have to wait
_ALONE, _ONE_OF_MANY, _PAYLOAD = 1 / 12, 1 / 32, 1 / 48
"""Parts of the memory, beside what is kept for all: what the batch may take that a tracker is writing, which is all there is, or
one of many; and what that may have of payload. SDKs make copies of both, which take twice as much and more."""

_data_of, _hint_of = attrgetter("data"), attrgetter("hint")


class Log:
    """Append by one thread, read by many.

    Args:
        decoder: decodes records, also those that are read again.
        complete: True if nobody writes to the event files any more: a record that they lack is lost.
        tell: takes which trials and paths are told apart, before the events that say so are read.

    Attributes:
        memory: bytes that the kept records and events may take.
        length: number of records so far.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        complete: bool = False,
        tell: Callable[[list[ToldTrial], list[GivenPath]], None] = lambda *_: None,
    ) -> None:
        self._decoder = decoder
        self._tell = tell
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
        self._files = EventFiles(lambda source: decoder.source(source).path, complete=complete)
        self._cursors: list[Callable[[], int]] = []

    def open(self, index: Index, events: int, records: int | None = None) -> None:
        """Continue behind what the index has already.

        Args:
            index: the session's.
            events: the number of events in its first `records`, as far as it is known; those of the others are guessed.
            records: all of them, if that is None.
        """
        self._index = index
        self.length = index.length
        if records is not None and records < self.length:
            events += self.length - records - _nested(list(index.read(records, self.length)))
        self.recount(events)

    def count_from(self, records: int) -> None:
        """Take note that the events of so many records have been counted exactly, and those of the others are guessed."""
        self._counted_to = min(records, self.length)

    def recount(self, events: int) -> None:
        """Take note that there are so many events that backends count in the records so far."""
        with self._counting:
            self._counted_to, self._surplus = self.length, events - self.length

    @property
    def events(self) -> int:
        """The number of events that backends count; a record that nobody has decoded yet counts as one, or none if it
        is a part of an `add_hparams`."""
        return self.length + self._surplus

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of events and of records, and of how many records the events have been counted exactly."""
        with self._counting:
            return self.length + self._surplus, self.length, self._counted_to

    def add_cursor(self, position: Callable[[], int]) -> None:
        """Register a reader; what all readers have passed is forgotten."""
        self._cursors.append(position)

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
                gaps = (at for at, record in enumerate(records) if record.data is None and not is_whole(record))
                kept = records[max(gaps, default=-1) + 1 :]
            size = raw_bytes(kept)
            nested = _nested(records)
            with self._grown:
                if len(kept) < len(records):  # what is kept has no gaps: the older records are read from the files too
                    self._decoded.clear()
                    self._waiting.clear()
                    self._kept_bytes = 0
                self._waiting.extend(kept)
                self._kept_bytes += size
                with self._counting:
                    self.length += len(records)
                    self._surplus -= nested
                self._forget()
                self._grown.notify_all()

    def _forget(self) -> None:
        """Forget what every reader has passed, and what there is no memory for; to be called with the lock held."""
        decoded, waiting, slowest = self._decoded, self._waiting, self._slowest()
        while decoded and (decoded[0][0].stop <= slowest or self._kept_bytes > self.memory):
            self._kept_bytes -= decoded.popleft()[1]
        while waiting and (self._frontier < slowest or self._kept_bytes > self.memory):
            self._kept_bytes -= raw_bytes((waiting.popleft(),))

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

    def raw(self, number: int, limit: int, most: int) -> list[msg.Record]:
        """Return records from `number` on as they are, with their data: at most `limit`, and none behind the one with which they
        reach `most` bytes. None where an event file has not got them yet. One that is nowhere any more has no data."""
        with self._lock:
            first = self._frontier
            if number >= first:
                return _up_to(islice(self._waiting, number - first, number - first + limit), most)
        with self._decoding:
            gone: list[int | None] = []
            stop = min(first, number + limit)
            indexed = self._index.read(number, stop) if self._index is not None else ()
            found = _up_to(self._files.again(indexed, gone), most)
            if gone and self._index is not None:
                return list(self._index.read(number, number + len(gone)))
            return found

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
        size, raw = bytes_of(batch), raw_bytes(records)
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
            self._tell(*news)
        stop = start + len(records)
        batch = made(start, stop, events, None if counts.count(1) == len(counts) else counts)
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
        most = share // OVERHEAD
        found: list[msg.Record] = []
        for record in records:
            found.append(record)
            data = record.data
            payload -= len(data) if data is not None and record.value is not None else _DECODED * payload_of(record)
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
            payload -= size - OVERHEAD * len(batch.events) - BATCH_BYTES
            if parts and (share < 0 or payload < 0 or batch.start >= stop):
                break
            parts.append(batch.part(number, stop))
        return joined(parts)

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
        indexed = self._index.read(start, stop) if self._index is not None else ()
        records = self._within(self._files.again(indexed, gone))
        if not gone:
            return self._decode(start, records)
        stop = start + len(gone)
        if start <= self._counted_to < stop:
            self._counted_to = stop  # each stays counted as it was guessed
        return Batch(start, stop, [], [0] * len(gone), 0, tuple(gone))

    def lacks(self, source: int | None = None, *, number: int = 0) -> str:
        """Return what is wrong with the event file `source`, or that of record `number`, which does not give a record."""
        if source is None:
            with self._decoding:
                source = next((record.source for record in self._index.read(number, number + 1)), -1) if self._index else -1
        return self._files.lacks(source)

    def numbers(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Return the numbers of the records that stand at these places, (source, position), as far as they are there."""
        return self._index.numbers(places) if self._index is not None else {}

    @property
    def safe(self) -> int:
        """The number of records that a successor could continue from, if this process were killed."""
        return self._index.written if self._index is not None else self.length

    def close(self, *, remove: bool) -> None:
        """Let go of the files; `remove` the index if nothing is left to deliver."""
        with self._decoding:
            self._files.close()
            if self._index is not None:
                self._index.close(remove=remove)
                self._index = None


def _up_to(records: Iterable[msg.Record], most: int) -> list[msg.Record]:
    found: list[msg.Record] = []
    for record in records:
        found.append(record)
        most -= payload_of(record) + msg.RECORD_BYTES // 4
        if most <= 0:
            break
    return found


def _nested(records: Sequence[msg.Record]) -> int:
    """Return how many of the records are but parts of an `add_hparams`: they become events that are not counted."""
    return list(map(type, map(_hint_of, records))).count(msg.Nested)
