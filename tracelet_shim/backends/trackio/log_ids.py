"""By what Trackio knows a row: its ``log_id``, unique in the database (``idx_metrics_log_id``), made from what is in the row.

A row of one event is known by the event's record. A row of several, or of a scalar, has the places of its first and its last
value, between which nothing is missing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence

from tracelet_shim import events as ev

__all__ = ["JOINT", "digest", "file_id", "is_next", "of_event", "place", "shared", "spans", "without_gaps"]

JOINT = "+"
_FILE_ID = 20


def digest(*parts: str) -> str:
    return hashlib.blake2s("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def of_event(run_id: str, record: ev.RecordId, part: str = "") -> str:
    """Return the log_id of the row of one event. `part` tells the rows of one event apart."""
    return digest(run_id, *map(str, record), part)


def shared(run_id: str, first: ev.RecordId, last: ev.RecordId) -> str:
    """Return the log_id of a row that has all values of one event file from `first` to `last`; that of a row that has values of
    several files is those of each, joined by `JOINT`."""
    return f"{file_id(run_id, last.file)}{place(first)}-{place(last)}"


def spans(log_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield (file_id, first place, last place) of each event file that a shared row has values of."""
    for text in log_id.split(JOINT):
        start, _, last = text.partition("-")
        yield start[:_FILE_ID], start[_FILE_ID:], last


@functools.lru_cache(1000)
def file_id(run_id: str, file: str) -> str:
    """Return what the log_ids of all shared rows of an event file in a run begin with."""
    return digest(run_id, file)[:_FILE_ID]


def place(record: ev.RecordId) -> str:
    """Return where a record's value is in its file, as a text that sorts as it."""
    return f"{record.position:010x}{record.index:06x}"


def is_next(before: ev.RecordId, record: ev.RecordId) -> bool:
    """Tell whether `record` is the next value of the same record of a file, or the first of the next record."""
    if record.file != before.file:
        return False
    if record.position == before.position:
        return record.index == before.index + 1
    return record.position == before.position + 1 and record.index == 0


def without_gaps(events: Sequence[ev.Scalar]) -> Iterator[Sequence[ev.Scalar]]:
    """Cut `events` where a value is neither the next one of the same record of a file, nor the first of the next record."""
    start = 0
    file, position, index = "", -1, 0
    for at, event in enumerate(events):
        before, follows = file, position + 1
        file, position, number = event.record
        is_next = number == 0 if position == follows else position == follows - 1 and number == index + 1
        if not is_next or file != before:
            if at:
                yield events[start:at]
            start = at
        index = number
    if events:
        yield events[start:]
