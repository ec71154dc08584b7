"""`add_scalar` as it is nearly always called, for less than it costs natively: the event's bytes are put together by hand.

A tag that is a str, a value that is a float or a small int, and a step that is an int or none, on a writer of torch's own class,
of which nobody has replaced a part: then the event has four fields at most, and is byte for byte what the native way would
have serialised (``tensorboard/compat/proto/event.proto``, ``summary.proto``). Whatever else there is takes the native way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from struct import Struct
from types import FunctionType
from typing import Any

from tracelet_shim.bus.messages import Record
from tracelet_shim.intercept import _calls
from tracelet_shim.intercept._sink import current
from tracelet_shim.intercept._tap import ATTRIBUTE

__all__ = ["encoded", "scalar_wrapper"]

_LARGEST = 3.4e38  # beyond float32 lie infinities, of which native code makes what it makes
_MOST_TAGS = 10_000
_WALL_TIME = Struct("<cd")
_VALUE = Struct("<f")

_parts: dict[str, bytes] = {}
"""By tag, what stands between step and value."""


def _varint(number: int) -> bytes:
    found = bytearray()
    number &= (1 << 64) - 1
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _part(tag: str) -> bytes:
    text = tag.encode()
    value = (b"\n" + _varint(len(text)) + text if text else b"") + b"\x15"
    summary = b"\n" + _varint(len(value) + _VALUE.size) + value
    part = b"*" + _varint(len(summary) + _VALUE.size) + summary
    if len(_parts) >= _MOST_TAGS:
        _parts.clear()
    _parts[tag] = part
    return part


def encoded(wall_time: float, tag: str, value: float, step: int | None) -> bytes:
    """Return the serialised event.

    Args:
        wall_time: seconds, not 0.
        tag: any text that is UTF-8.
        value: finite, also as float32.
        step: a 64 bit integer, or None.

    Raises:
        UnicodeEncodeError: the tag has lone surrogates.
    """
    part = _parts.get(tag)
    if part is None:
        part = _part(tag)
    if not step:
        return _WALL_TIME.pack(b"\t", wall_time) + part + _VALUE.pack(value)
    if 0 < step < 128:
        return _WALL_TIME.pack(b"\t", wall_time) + b"\x10%c" % step + part + _VALUE.pack(value)
    if 0 < step < 16384:
        return _WALL_TIME.pack(b"\t", wall_time) + b"\x10%c%c" % (step & 127 | 128, step >> 7) + part + _VALUE.pack(value)
    return _WALL_TIME.pack(b"\t", wall_time) + b"\x10" + _varint(step) + part + _VALUE.pack(value)


def _agrees() -> bool:
    """Return whether the installed protobuf serialises as we do."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    return all(
        Event(wall_time=1.5, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=0.1)])).SerializeToString()
        == encoded(1.5, tag, 0.1, step)
        for step in (0, 1, 200, 20_000, -1, 2**63 - 1)
        for tag in ("", "loss", "x" * 200, "é")
    )


class _Native:
    """What a native call would go through, as it was when it was patched."""

    def __init__(self, file_writer: Any, summary_writer: Any) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.file_writer = file_writer
        self.summary_writer = summary_writer
        self.event_writer = EventFileWriter
        self.names = vars(sys.modules[summary_writer.__module__])
        self.scalar = self.names["scalar"]
        self.get = summary_writer._get_file_writer
        self.add_summary = file_writer.add_summary
        self.add_event = file_writer.__dict__["add_event"]
        self.write = EventFileWriter.add_event
        functions = (self.scalar, self.get, self.add_summary, self.write)
        self.is_plain = all(type(function) is FunctionType for function in functions) and _agrees()


def scalar_wrapper(file_writer: Any, summary_writer: Any, noting: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper for `add_scalar`.

    Args:
        file_writer: torch's class.
        summary_writer: torch's class.
        noting: the wrapper for whatever is not usual.
    """
    native: _Native | None = None

    def wrapper(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
        nonlocal native
        sink = current.sink
        if sink is None or type(writer) is not summary_writer or _calls.now.call is not None:
            return noting(wrapped, writer, args, kwargs)
        step = None
        if len(args) == 3 and not kwargs:
            tag, value, step = args
        elif len(args) == 2 and not kwargs:
            tag, value = args
        elif len(args) == 2 and len(kwargs) == 1 and "global_step" in kwargs:
            (tag, value), step = args, kwargs["global_step"]
        else:
            return noting(wrapped, writer, args, kwargs)
        file = writer.__dict__.get("file_writer")
        source = file.__dict__.get(ATTRIBUTE) if type(file) is file_writer else None
        if (
            source is None
            or source.batch is None  # or it has had no first call yet, or a call of another session
            or source.sink is not sink
            or source.position is None
            or type(tag) is not str
            or not (type(value) is float or (type(value) is int and -(1 << 53) < value < 1 << 53))
            or not -_LARGEST < value < _LARGEST
            or not (step is None or (type(step) is int and -(1 << 63) <= step < 1 << 63))
            or len(file.__dict__) != 2
            or "_get_file_writer" in writer.__dict__
        ):
            return noting(wrapped, writer, args, kwargs)
        if native is None:
            native = _Native(file_writer, summary_writer)
        events = file.event_writer
        if not (
            native.is_plain
            and type(events) is native.event_writer
            and events._async_writer is source.batch
            and "add_event" not in events.__dict__
            and native.event_writer.add_event is native.write
            and file_writer.add_summary is native.add_summary
            and file_writer.__dict__["add_event"] is native.add_event
            and summary_writer._get_file_writer is native.get
            and native.names["scalar"] is native.scalar
        ):
            return noting(wrapped, writer, args, kwargs)
        try:
            now = time.time()
            if not now:
                return noting(wrapped, writer, args, kwargs)
            data = encoded(now, tag, value, step)
        except (UnicodeEncodeError, TypeError):  # the tag; a clock that somebody has replaced
            return noting(wrapped, writer, args, kwargs)
        with source.lock:
            if not source.busy:
                source.busy = True
                try:
                    source.batch.write(data)
                    position = source.position
                    source.position, source.step = position + source.step, 1
                    try:
                        sink.publish(Record(source.number, position, data, float(value)))
                    except Exception as error:
                        sink.problem(error)
                finally:
                    source.busy = False
                return None
        return noting(wrapped, writer, args, kwargs)  # a signal handler has come in the middle of another call

    return wrapper
