"""The tap on tensorboardX's event writer, which has two ends.

`EventFileWriter.add_event` puts events into a `multiprocessing.Queue`; a thread takes them out and has `EventsWriter` write them.
Forked children put theirs into the same queue (`GlobalSummaryWriter` in a pool). So only the thread knows the order of the file,
and who came; only the caller knows what its call was given. At the one end what is known is kept with the event's bytes, at the
other the event is published, with its place in the file. `settle` waits for what is between the two.

Its writer stays what it is under `accelerate`: the queue is shared with other processes, which we could not replace.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any, NamedTuple

from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.intercept import _calls, _tap
from tracelet_shim.intercept._sink import Sink, current
from tracelet_shim.intercept._tap import ATTRIBUTE

__all__ = ["embeddings_in", "event_written", "events_created", "events_logged", "settle"]

_PATIENCE = 10.0
"""Seconds in which the thread takes nothing, after which nobody waits for it."""
_sleep, _now = time.sleep, time.monotonic  # as they were, whatever a program puts there


class _Given(NamedTuple):
    """An event on its way through the queue.

    Attributes:
        data: serialised, as it will be written.
        value, hint: what its call knew.
    """

    data: bytes
    value: float | None
    hint: msg.Hint | None


class _Queued(_tap.Source):
    """What we know of one EventFileWriter, and of the EventsWriter in it.

    Attributes:
        given: the events of this process that are in the queue. Threads append to it, one takes out: no lock.
        is_late: True if older events than the first of `given` may be in the queue, from before the session.
    """

    __slots__ = ("given", "is_late")

    def __init__(self, writer: Any, position: int | None) -> None:
        super().__init__(writer, position)
        self.given: list[_Given] = []
        self.is_late = position is None
        file = writer._ev_writer
        if position is not None:
            # The time in the name has seconds only: the next writer of that second writes over the file of the first.
            number = _names[self.path] = _names.get(self.path, 0) + 1
            self.path += f".{number}" if number > 1 else ""
        setattr(file, ATTRIBUTE, self)

    def name_of(self, events: Any) -> str | None:
        return str(events._ev_writer._file_name)

    def find_position(self, writer: Any) -> None:
        """Only the thread can."""

    def taken(self, data: bytes) -> _Given | None:
        """Return what was known of an event that is written now; None if it is another process's."""
        for index, given in enumerate(self.given.copy()):
            if given.data == data:
                del self.given[index]
                return given
        return None


_names: dict[str, int] = {}
"""How many writers there were of each path."""


def events_created(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap `EventFileWriter.__init__`: position 0 is the file_version event that it puts there."""
    result = wrapped(*args, **kwargs)
    sink = current.sink
    if writer is not None:
        try:
            source = _Queued(writer, 1)
            setattr(writer, ATTRIBUTE, source)
            if sink is not None:
                source.runs = (sink, _tap.new_runs(source, sink))
                _tap.live.add(writer)
        except Exception as error:
            if sink is not None:
                sink.problem(error)
    return result


def events_logged(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap `EventFileWriter.add_event`: keep what the call knew; then native, untouched."""
    sink = current.sink
    if sink is None or writer is None or writer._closed:  # a closed one takes nothing, and does not say so
        return wrapped(*args, **kwargs)
    source: _Queued | None = None
    given: _Given | None = None
    try:
        source = writer.__dict__.get(ATTRIBUTE) or writer.__dict__.setdefault(ATTRIBUTE, _Queued(writer, None))
        if source.sink is not sink:
            source.register(writer, sink)
        given = _known(args[0] if args else kwargs["event"], writer, sink)
        source.given.append(given)
    except Exception as error:
        sink.problem(error)
    try:
        return wrapped(*args, **kwargs)
    except BaseException:
        if source is not None and given is not None:
            with contextlib.suppress(ValueError):  # it has been written
                source.given.remove(given)
        raise


def _known(event: Any, writer: Any, sink: Sink) -> _Given:
    call = _calls.now.call
    value = hint = None
    if call is not None:
        try:
            value, hint = call.contribution(event, writer)
        except Exception as error:  # the event itself is still whole
            sink.problem(error)
    return _Given(event.SerializeToString(), value, hint)


def event_written(wrapped: Any, file: Any, args: Any, kwargs: Any) -> Any:
    """Wrap `EventsWriter._write_serialized_event`, in the thread of the writer: native first, then publish."""
    source: _Queued | None = file.__dict__.get(ATTRIBUTE) if file is not None else None
    if source is None:  # its first event, before it is known
        return wrapped(*args, **kwargs)
    if source.position is None:
        source.position = _count(file, source.path)
    result = wrapped(*args, **kwargs)
    position, source.position = source.position, source.position + 1
    sink = current.sink
    if sink is None:
        source.given.clear()  # of a session that is over
        return result
    try:
        data: bytes = args[0] if args else kwargs["event_str"]
        given = source.taken(data)
        if given is not None:
            source.is_late = False
        if not source.is_late:
            if source.sink is not sink:  # nobody but other processes has logged anything yet
                source.register(file, sink)
            value, hint = (given.value, given.hint) if given is not None else (None, None)
            sink.publish(msg.Record(source.number, position, data, value, hint))
    except Exception as error:
        sink.problem(error)
    return result


def _count(file: Any, path: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        file.flush()
    with contextlib.suppress(OSError):  # not a local file: positions then start behind file_version
        return tfrecord.count_records(path)
    return 1


def settle() -> None:
    """Wait until the threads of tensorboardX have taken what this process has logged so far."""
    if "tensorboardX.event_file_writer" not in sys.modules:
        return
    for writer in list(_tap.live):
        source = writer.__dict__.get(ATTRIBUTE)
        if not isinstance(source, _Queued) or not hasattr(writer, "_worker"):
            continue
        wanted = source.given[-1:]
        latest, until = source.position, _now() + _PATIENCE
        while wanted and any(given is wanted[0] for given in source.given.copy()):
            worker = writer._worker
            if worker is None or not worker.is_alive() or _now() > until:
                break  # an error of the disk has ended it, and with it what is in its queue
            if source.position != latest:
                latest, until = source.position, _now() + _PATIENCE
            _sleep(0.001)


def embeddings_in(directory: str) -> int:
    """Return how many embeddings the projector's file in a log directory names: tensorboardX appends to it."""
    with contextlib.suppress(OSError), open(os.path.join(directory, "projector_config.pbtxt"), encoding="utf-8") as file:
        return file.read().count("embeddings {\n")
    return 1  # in a bucket
