"""`add_scalar` as it is nearly always called, for less than it costs natively: the event's bytes are put together by hand.

A tag that is a str, a value that is a float or a small int, and a step that is an int or none, on a writer of torch's own class,
of which nobody has replaced a part: then the event has four fields at most, and is byte for byte what the native way would
have serialised (``tensorboard/compat/proto/event.proto``, ``summary.proto``). Whatever else there is takes the native way.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from struct import Struct
from types import FunctionType, MethodType
from typing import Any

import wrapt

from tracelet_shim.bus.messages import Record
from tracelet_shim.intercept import _calls, _tap
from tracelet_shim.intercept._sink import current
from tracelet_shim.intercept._tap import ATTRIBUTE

__all__ = ["encoded", "is_own", "scalar_method"]

_LARGEST = 3.4e38  # beyond float32 lie infinities, of which native code makes what it makes
_SMALLEST = -_LARGEST
_MOST_TAGS = 10_000

_Shape = tuple[Callable[..., bytes], bytes]
_latest: tuple[int | None, bytes, dict[str, _Shape]] = (None, b"", {})
"""The latest step, how it stands in an event, and by tag how such events are packed, with what stands between step and value.
Many tags have one step; read and replaced as one, so that threads need no lock."""
_shapes: tuple[dict[str, _Shape], ...] = (_latest[2], *({} for _ in range(11)))
"""By how many bytes the step has."""
_shapes_of_2, _shapes_of_3 = _shapes[2], _shapes[3]


def _varint(number: int) -> bytes:
    found = bytearray()
    number &= (1 << 64) - 1
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _new_tag(tag: str, step: bytes, shapes: dict[str, _Shape]) -> _Shape:
    text = tag.encode()
    value = (b"\n" + _varint(len(text)) + text if text else b"") + b"\x15"
    summary = b"\n" + _varint(len(value) + 4) + value
    part = b"*" + _varint(len(summary) + 4) + summary
    if len(shapes) >= _MOST_TAGS:
        shapes.clear()
    found = shapes[tag] = _packing(len(step), len(part)), part
    return found


@functools.lru_cache(1000)
def _packing(step: int, part: int) -> Callable[..., bytes]:
    return Struct(f"<cd{step}s{part}sf").pack


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
    global _latest
    known, data, shapes = _latest
    if known is not step:
        if step is None or not 0 < step < 16384:
            data = b"\x10" + _varint(step) if step else b""  # 0 is the default, and left out
            shapes = _shapes[len(data)]
        elif step < 128:
            data, shapes = b"\x10%c" % step, _shapes_of_2
        else:
            data, shapes = b"\x10%c%c" % (step & 127 | 128, step >> 7), _shapes_of_3
        _latest = step, data, shapes
    pack, part = shapes.get(tag) or _new_tag(tag, data, shapes)
    return pack(b"\t", wall_time, data, part, value)


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


def is_own(function: Any, name: str) -> bool:
    """Return whether a function is one of the module's of this name, and not what somebody has put in its place."""
    module = sys.modules.get(name)
    return type(function) is FunctionType and module is not None and function.__globals__ is vars(module)


class _Native:
    """What a native call would go through, as it is at the first one.

    Attributes:
        is_plain: all of it is torch's and TensorBoard's own, and serialises as we do. Others patch it too (autologging, ClearML),
            mostly before the first call, and are to see their events.
    """

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
        self.write = EventFileWriter.__dict__["add_event"]
        module = summary_writer.__module__
        self.is_plain = (
            is_own(self.scalar, module.rpartition(".")[0] + ".summary")
            and is_own(self.get, module)
            and is_own(self.add_summary, module)
            and isinstance(self.add_event, wrapt.FunctionWrapper)
            and self.add_event._self_wrapper is _tap.add_event
            and is_own(self.add_event.__wrapped__, module)
            and isinstance(self.write, wrapt.FunctionWrapper)
            and self.write._self_wrapper is _tap.events_logged
            and is_own(self.write.__wrapped__, EventFileWriter.__module__)
            and _agrees()
        )


def scalar_method(original: FunctionType, noting: Callable[..., Any], file_writer: Any, summary_writer: Any) -> FunctionType:
    """Return what `SummaryWriter.add_scalar` of an instance is.

    Args:
        original: torch's own.
        noting: wrapt's wrapper for whatever is not usual.
        file_writer: torch's class.
        summary_writer: torch's class.
    """
    native: _Native | None = None
    is_plain = False
    event_writer: Any = None
    names: dict[str, Any] = {}
    scalar = get = add_summary = add_event = write = None  # of `native`: a closure's own are there at once
    now, clock, attribute = _calls.now, time, ATTRIBUTE

    def learn() -> None:
        nonlocal native, is_plain, event_writer, names, scalar, get, add_summary, add_event, write
        native = _Native(file_writer, summary_writer)
        is_plain, event_writer, names, scalar = native.is_plain, native.event_writer, native.names, native.scalar
        get, add_summary, add_event, write = native.get, native.add_summary, native.add_event, native.write

    @functools.wraps(original)
    def add_scalar(writer: Any, /, *args: Any, **kwargs: Any) -> Any:
        sink = current.sink
        if sink is None or type(writer) is not summary_writer or now.call is not None:
            return noting(MethodType(original, writer), writer, args, kwargs)
        step = None
        if not kwargs and len(args) == 3:
            tag, value, step = args
        elif not kwargs and len(args) == 2:
            tag, value = args
        elif len(args) == 2 and len(kwargs) == 1 and "global_step" in kwargs:
            (tag, value), step = args, kwargs["global_step"]
        else:
            return noting(MethodType(original, writer), writer, args, kwargs)
        own = writer.__dict__
        file = own.get("file_writer")
        if type(file) is not file_writer or "_get_file_writer" in own:
            return noting(MethodType(original, writer), writer, args, kwargs)
        own = file.__dict__
        source = own.get(attribute)
        if (
            source is None
            or source.ready is not sink  # it has had no first call yet, or a call of another session
            or type(tag) is not str
            or not (type(value) is float or (type(value) is int and -(1 << 53) < value < 1 << 53))
            or not _SMALLEST < value < _LARGEST
            or not (step is None or (type(step) is int and -(1 << 63) <= step < 1 << 63))
            or len(own) != 2
        ):
            return noting(MethodType(original, writer), writer, args, kwargs)
        if native is None:
            learn()
        batch, events = source.batch, file.event_writer
        if not (
            is_plain
            and type(events) is event_writer
            and events._async_writer is batch
            and "add_event" not in events.__dict__
            and event_writer.__dict__["add_event"] is write
            and file_writer.add_summary is add_summary
            and file_writer.__dict__["add_event"] is add_event
            and summary_writer._get_file_writer is get
            and names["scalar"] is scalar
        ):
            return noting(MethodType(original, writer), writer, args, kwargs)
        try:
            wall_time = clock.time()
            if not wall_time:
                return noting(MethodType(original, writer), writer, args, kwargs)
            data = encoded(wall_time, tag, value, step)
        except (UnicodeEncodeError, TypeError):  # the tag; a clock that somebody has replaced
            return noting(MethodType(original, writer), writer, args, kwargs)
        with source.lock:
            if not source.busy:
                source.busy, source.step = True, 1
                try:
                    batch.append(data)
                    position = source.position
                    source.position, source.step = position + source.step, 0
                    try:
                        sink.publish(Record(source.number, position, data, value if type(value) is float else float(value)))
                    except Exception as error:
                        sink.problem(error)
                finally:
                    while source.late:
                        sink.publish(source.late.popleft())
                    source.busy = False
                return None
        # A signal handler has come in the middle of another call.
        return noting(MethodType(original, writer), writer, args, kwargs)

    return add_scalar  # type: ignore[return-value]
