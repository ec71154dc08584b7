"""Records that are read again: from the event files, which have them anyway."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator

from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.tfrecord import EventFileReader

__all__ = ["EventFiles", "is_whole"]

_MAX_READERS = 32

_FLOAT = struct.Struct("<f")


class _GoneError(Exception):
    """An event file that cannot be read, now or later."""


class _UnreadableError(Exception):
    """An event file that cannot be read now: a server of files that is away, missing rights."""


class EventFiles:
    """Reads the records of a session again. Used by one thread at a time.

    Args:
        path_of: returns the event file with a number.
        complete: True if nobody writes to the event files any more: a record that they lack is lost.
    """

    def __init__(self, path_of: Callable[[int], str], *, complete: bool) -> None:
        self._path_of = path_of
        self._complete = complete
        self._readers: dict[int, EventFileReader] = {}

    def again(self, records: Iterable[msg.Record], gone: list[int | None]) -> Iterator[msg.Record]:
        """Give records their data, and yield them, as far as the event files have got them. If the first can never be read,
        nothing is yielded, and `gone` becomes what `Batch.gone` says of it and of those that follow it directly."""
        read = False
        for record in records:
            if not is_whole(record):
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
        path = self._path_of(record.source)
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

    def lacks(self, source: int) -> str:
        """Return what is wrong with an event file that does not give a record."""
        path = self._path_of(source)
        try:
            with open(path, "rb"):
                return f"{path} has fewer records than were logged"
        except FileNotFoundError:
            return f"{path} is gone"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror or error})"

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


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


def is_whole(record: msg.Record) -> bool:
    """True if the record needs no proto, or has it."""
    return record.data is not None or isinstance(record.hint, msg.Embedded)
