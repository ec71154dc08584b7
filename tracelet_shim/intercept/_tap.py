"""The tap on `add_event` of torch's `FileWriter`, and of an `EventFileWriter` that none of those has made: keeps each event that
TensorBoard has just built.

All data passes here, whatever method or foreign code it came from. The event is serialised at once, so later changes
to it or to the user's buffers do not matter, and its place in the event file is counted: that is its identity.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from typing import Any, NamedTuple

from tracelet_shim.bus.messages import Record
from tracelet_shim.common.system import after_fork
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.intercept import _calls
from tracelet_shim.intercept._accelerate import EventWriter, accelerate
from tracelet_shim.intercept._sink import ActiveRuns, Sink, current

__all__ = [
    "ATTRIBUTE", "Source", "absolute", "add_event", "created", "directory", "events_created", "events_logged", "flush_files",
    "live", "making", "new_runs", "publish_without_event", "runs_of",
]  # fmt: skip

ATTRIBUTE = "_tracelet_source"
_PART = "_tracelet_part"
"""Marks an EventFileWriter that is part of a FileWriter, where its events are seen."""
live: weakref.WeakSet[Any] = weakref.WeakSet()
"""The file writers that a session has seen and that still exist."""


class _Making(threading.local):
    """What is just made in this thread.

    Attributes:
        now: True if a SummaryWriter is.
        file: True if a FileWriter is.
        events: the EventFileWriter that is: it puts its first event into its file by itself.
    """

    now = False
    file = False
    events: Any = None


making = _Making()


class _Handler(NamedTuple):
    """A signal handler that writes an event.

    Attributes:
        position: the event's.
        is_behind: what it has interrupted is in the file already.
        last: what that looks for, once it goes on.
    """

    position: int
    is_behind: bool
    last: bytes


class Source:
    """What we know of one FileWriter or EventFileWriter; kept on the object itself, so that it dies with it.

    Attributes:
        logdir, path: its log directory and event file, absolute; found when it was created, if we were there: a program
            may change its working directory later.
        position: position of the next event in its file; None if events may have passed unseen.
        ready: the sink that knows it, if its position is known and its file has our writer.
        runs: to which runs it belongs, and the sink that has said so; None if no sink was there when it was made.
        lock: held round the native call, so that positions are in the order of the file. The native writer holds a lock
            of its own in the same place; this one may be taken again by a signal handler.
        busy: an event is just being written, and a call that finds it so is a handler's.
        step: by how much `position` will grow with the event that is being written: more than 1 if handlers have written behind
            it; 0 when it has.
        late: what handlers have written, and is published behind what they have interrupted.
        is_called: False if no method that is noted writes to it: then a call in this thread is another one, which a signal
            handler has interrupted.
    """

    is_called = True
    __slots__ = ("batch", "busy", "late", "lock", "logdir", "number", "path", "position", "ready", "runs", "sink", "step")

    def __init__(self, writer: Any, position: int | None) -> None:
        self.runs: tuple[Sink, ActiveRuns] | None = None
        self.logdir = absolute(writer.get_logdir())
        part = writer.__dict__.get("event_writer")
        if part is not None:
            setattr(part, _PART, True)
        path = self.name_of(part if part is not None else writer) or os.path.join(self.logdir, f"unknown-{id(writer)}")
        self.path = absolute(path)
        self.position = position
        self.lock = threading.RLock()
        self.sink: Sink | None = None
        self.number = -1
        self.batch: EventWriter | None = None
        self.ready: Sink | None = None
        self.busy = False
        self.step = 1
        self.late: deque[Record] = deque()

    def name_of(self, events: Any) -> str | None:
        """Return the path of the file of an event writer."""
        return getattr(events, "_file_name", None)

    def interrupt(self) -> _Handler:
        """Begin to write an event of a signal handler, while another one is being written to the same file."""
        position, last = self.position or 0, self.batch.last if self.batch is not None else b""
        if not self.step:
            return _Handler(position, True, last)
        position += self.step - 1
        is_there = self.batch is not None and self.batch.count() > position
        return _Handler(position + is_there, is_there, last)

    def written_by(self, handler: _Handler) -> int:
        """Take note that it is written; return its position."""
        if handler.is_behind and self.step:
            self.step += 1
        else:
            self.position = (self.position or 0) + 1
        return handler.position

    def register(self, writer: Any, sink: Sink) -> None:
        """Announce the event file to a sink that has not seen it."""
        self.find_position(writer)
        call = self.call()
        owner = _logdir(call.writer) if call is not None else self.logdir
        if self.runs is None or self.runs[0] is not sink:  # made before this session was there
            self.runs = (sink, runs_of(call.writer, sink) if call is not None and owner != self.logdir else sink.active_runs())
        self.number = sink.add_source(self.path, self.logdir, owner if owner != self.logdir else None, self.runs[1])
        self.sink = sink
        self.ready = sink if self.batch is not None else None
        live.add(writer)

    def find_position(self, writer: Any) -> None:
        """Find out how many events are in the file of a writer that was used before we watched it."""
        if self.position is None:
            self.position = _count(writer, self.path)

    def call(self) -> _calls.Note | None:
        """Return the call in this thread that an event may come from."""
        return _calls.now.call if self.is_called else None


class _Direct(Source):
    """An EventFileWriter that is part of no FileWriter."""

    __slots__ = ()
    is_called = False


def _source_for(writer: Any, position: int | None) -> Source:
    return Source(writer, position) if "event_writer" in writer.__dict__ else _Direct(writer, position)


def _logdir(writer: Any) -> str:
    """Return the log directory of a SummaryWriter as it was when its event file was opened."""
    source = _source(writer._get_file_writer())
    return source.logdir if source is not None else absolute(writer.get_logdir())


def _source(writer: Any) -> Source | None:
    """Return what is known of a file writer, or (tensorboardX) of the event writer in it."""
    own = writer.__dict__ if writer is not None else {}
    found: Source | None = own.get(ATTRIBUTE)
    if found is None and "event_writer" in own:
        found = getattr(own["event_writer"], "__dict__", {}).get(ATTRIBUTE)
    return found


def directory(writer: Any) -> str:
    """Return the log directory of a SummaryWriter: tensorboardX has another name for it."""
    return absolute(writer.log_dir if hasattr(writer, "log_dir") else writer.logdir)


def runs_of(writer: Any, sink: Sink) -> ActiveRuns:
    """Return to which runs a SummaryWriter belongs: those that were active when it was made, as far as the sink has seen
    that, else those that are now."""
    source = _source(writer.file_writer)
    if source is not None and source.runs is not None and source.runs[0] is sink:
        return source.runs[1]
    known = current.runs.get(directory(writer)) if source is None else None
    return known if known is not None else sink.active_runs()


def new_runs(source: Source, sink: Sink) -> ActiveRuns:
    """Return to which runs a FileWriter belongs that is made now: to its SummaryWriter's, if that was made earlier."""
    call = source.call()
    if call is not None:
        return runs_of(call.writer, sink)
    if making.now:
        runs = current.runs[source.logdir] = sink.active_runs()
        return runs
    known = current.runs.get(source.logdir)
    return known if known is not None else sink.active_runs()


def _after_fork() -> None:
    """In a child: a thread of the parent's may hold any of the locks, in the middle of an event."""
    for writer in list(live):
        source = _source(writer)
        if source is not None:
            source.lock = threading.RLock()
            source.busy, source.step = False, 1
            source.late.clear()


after_fork(_after_fork)


def flush_files() -> None:
    """Have TensorBoard write out what its own queues hold, so that it can be read from the event files."""
    for writer in list(live):
        with contextlib.suppress(Exception):  # closed, or its disk is full: there is nothing to be had from it
            writer.flush()


def absolute(path: object) -> str:
    """Return a log directory or file as an absolute path; a URL stays what it is."""
    text = str(path)
    return text if "://" in text else os.path.abspath(text)


def _count(writer: Any, path: str) -> int:
    """Return how many events are in the file of a writer that was used before we watched it."""
    with contextlib.suppress(OSError):  # closed: the native call is about to say so
        writer.flush()
    with contextlib.suppress(OSError):  # not a local file: positions then start behind file_version
        return tfrecord.count_records(path)
    return 1


def created(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap `FileWriter.__init__`: position 0 is the file_version event that the native writer puts there."""
    outer, making.file = making.file, True
    try:
        result = wrapped(*args, **kwargs)
    finally:
        making.file = outer
    if writer is not None:  # ``FileWriter.__init__(self=...)``: its first event will make it known
        _found(writer)
    return result


def events_created(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap `EventFileWriter.__init__`: as `created`, where no FileWriter makes it."""
    if writer is None:
        return wrapped(*args, **kwargs)
    outer, making.events = making.events, writer
    try:
        result = wrapped(*args, **kwargs)
    finally:
        making.events = outer
    if not making.file:
        _found(writer)
    return result


def _found(writer: Any) -> None:
    """Take note of a file writer that was just made."""
    try:
        source = _source_for(writer, 1)
        setattr(writer, ATTRIBUTE, source)
        sink = current.sink
        if sink is not None:
            source.runs = (sink, new_runs(source, sink))
            if sink.accelerates:
                batch = source.batch = accelerate(writer)
                if batch is not None:
                    source.lock = batch.lock  # one for both, taken once
    except Exception as error:
        if current.sink is not None:
            current.sink.problem(error)


def events_logged(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap `EventFileWriter.add_event`: as `add_event`, where the writer is part of no FileWriter."""
    if writer is None or making.events is writer or _PART in writer.__dict__:
        return wrapped(*args, **kwargs)
    return add_event(wrapped, writer, args, kwargs)


def add_event(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap `FileWriter.add_event`: native first and untouched, then publish."""
    sink = current.sink
    source: Source | None = writer.__dict__.get(ATTRIBUTE) if writer is not None else None
    if sink is None or writer is None:  # no writer: ``FileWriter.add_event(something_else, event)``
        if source is not None:
            source.position = source.ready = None
        return wrapped(*args, **kwargs)
    if source is None:
        try:
            source = writer.__dict__.setdefault(ATTRIBUTE, _source_for(writer, None))
        except Exception as error:
            sink.problem(error)
            return wrapped(*args, **kwargs)
    with source.lock:
        if source.sink is not sink or source.position is None:
            try:
                source.register(writer, sink)
            except Exception as error:
                sink.problem(error)
                return wrapped(*args, **kwargs)
        handler = source.interrupt() if source.busy else None
        if handler is None:
            source.busy, source.step = True, 1
        try:
            result = wrapped(*args, **kwargs)
            if handler is None:
                position = source.position or 0
                source.position, source.step = position + source.step, 0
            else:
                position = source.written_by(handler)
            try:
                event = args[0] if args else kwargs["event"]
                value = hint = None
                call = _calls.now.call
                if call is not None and source.is_called:
                    try:
                        value, hint = call.contribution(event, writer)
                    except Exception as error:  # the event itself is still whole
                        sink.problem(error)
                data = source.batch.last if source.batch is not None else event.SerializeToString()
                record = Record(source.number, position, data, value, hint)
                if handler is None or not handler.is_behind:
                    sink.publish(record)
                else:
                    source.late.append(record)
            except Exception as error:
                sink.problem(error)
        finally:
            if handler is None:
                while source.late:  # a handler may come between two of them, too
                    sink.publish(source.late.popleft())
                source.busy = False
            elif source.batch is not None:
                source.batch.last = handler.last
    return result


def publish_without_event(writer: Any, sink: Sink, path: str, position: int, hint: Any) -> None:
    """Publish what TensorBoard keeps in files of its own beside the event file."""
    number = sink.add_source(absolute(path), _logdir(writer), None, runs_of(writer, sink))
    sink.publish(Record(number, position, None, None, hint))
