"""What records and events take in memory, about."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.batch import Batch

__all__ = ["BATCH_BYTES", "OVERHEAD", "bytes_of", "payload_of", "raw_bytes"]

OVERHEAD = 700
"""Bytes that a small decoded event takes in memory beyond its payload, measured."""
BATCH_BYTES = 300
"""Bytes that a batch takes beside its events."""

_data_of, _hint_of, _source_of = attrgetter("data"), attrgetter("hint"), attrgetter("source")


def raw_bytes(records: Sequence[msg.Record]) -> int:
    """Return the bytes that records take in memory before they are decoded, about."""
    data = map(_data_of, records)
    if set(map(type, map(_hint_of, records))) <= {type(None), msg.Series} and None not in (whole := list(data)):
        return msg.RECORD_BYTES * len(records) + sum(map(len, whole))
    return msg.RECORD_BYTES * len(records) + sum(map(payload_of, records))


def payload_of(record: msg.Record) -> int:
    """Return the bytes of what a record carries."""
    size = len(record.data) if record.data is not None else 0
    hint = record.hint
    if isinstance(hint, msg.Frames):
        return size + len(hint.frames.data)
    if isinstance(hint, msg.Embedded):
        images = len(hint.images.data) if hint.images is not None else 0
        return size + len(hint.matrix.data) + images + 100 * len(hint.metadata or ())
    return size


def bytes_of(batch: Batch) -> int:
    """Return the bytes that the events of a batch take in memory, about."""
    size = BATCH_BYTES + OVERHEAD * len(batch.events)
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
    if isinstance(event, ev.Table):
        return sum(map(sys.getsizeof, chain.from_iterable(event.rows))) + 60 * len(event.rows)
    if isinstance(event, ev.Artifact):
        return 500 * len(event.files)
    if isinstance(event, ev.Mesh):
        return sum(len(part.data) for part in (event.vertices, event.faces, event.colors) if part is not None)
    return 0
