"""TensorBoard event files: how a record is framed, and reading records by position.

The format (``tensorboard/summary/writer/record_writer.py``): 8 bytes length, 4 bytes masked CRC32C of the length, the
data, 4 bytes masked CRC32C of the data; little endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import BinaryIO

from tracelet_shim import errors
from tracelet_shim.common.inside import open_regular

__all__ = [
    "DamagedRecordError",
    "EventFileReader",
    "checked_records",
    "count_records",
    "framed",
    "framing",
    "header",
    "joined",
    "masked_crc32c",
    "records",
    "require_protos",
]

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_pack_crc = _CRC.pack
_HEADER = struct.Struct("<QI")
_FRAME = _HEADER.size + 4
_LONGEST = (1 << 31) - 1
"""Bytes that a serialised proto may have. A file can have a hole of any size, which takes no disk and all the memory."""


def records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the data of each complete record from the current offset; end at the first that is incomplete, or has a wrong
    checksum: in a file that was cut under its writer, which goes on all the same, there is something else.

    The file's offset is left at the start of that record, so that iteration can be tried again when the file has grown.
    Between two records nobody else may move it.
    """
    size = 0  # of the file, and where this is in it, are asked for as seldom as may be: system calls take longest
    start = file.tell()
    while True:
        length = _length(file.read(_HEADER.size))
        if length is not None:
            end = start + _FRAME + length
            if end > size:
                size = os.fstat(file.fileno()).st_size
            # A damaged length may ask for more than there is memory.
            if end <= size and length <= _LONGEST:
                data = file.read(length)
                if len(data) == length and file.read(4) == _CRC.pack(masked_crc32c(data)):
                    start = end
                    yield data
                    continue
        file.seek(start)
        return


def _length(start: bytes) -> int | None:
    """Return the length of the record that begins so; None if there is no whole or no right header."""
    if len(start) < _HEADER.size:
        return None
    length: int = _HEADER.unpack(start)[0]
    return length if start == header(length) else None


class DamagedRecordError(Exception):
    """A record whose checksum is wrong.

    Attributes:
        offset: byte offset of the record in its file.
    """

    def __init__(self, offset: int, problem: str) -> None:
        self.offset = offset
        super().__init__(problem)


def checked_records(file: BinaryIO, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset behind it, data) of each record from byte `offset` on; end at the first incomplete one.

    Raises:
        DamagedRecordError: a checksum is wrong. What comes before has been yielded.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(offset)
    while offset + _FRAME <= size:
        start = file.read(_HEADER.size)
        length, expected = _HEADER.unpack(start)
        if masked_crc32c(start[:8]) != expected:
            raise DamagedRecordError(offset, "the checksum of a record's length is wrong")
        if length > _LONGEST:
            raise DamagedRecordError(offset, f"a record says that it has {length:,} bytes, more than an event can have,")
        if offset + _FRAME + length > size:
            return
        try:
            data, trailer = file.read(length), file.read(4)
        except MemoryError:
            raise DamagedRecordError(offset, f"there is no memory for a record of {length:,} bytes") from None
        if len(data) + len(trailer) < length + 4:  # cut while it was read
            return
        if masked_crc32c(data) != int.from_bytes(trailer, "little"):
            raise DamagedRecordError(offset, "the checksum of a record's data is wrong")
        offset += _FRAME + length
        yield offset, data


@lru_cache(1)
def _crc32c() -> Callable[[bytes], int] | None:
    """Return the C implementation, loaded at first use; None if it is not installed."""
    try:
        from google_crc32c import value
    except ImportError:
        return None
    return value  # type: ignore[no-any-return]


def masked_crc32c(data: bytes) -> int:
    """Return the masked CRC32C of TFRecord files; google_crc32c is a thousand times faster than tensorboard's own."""
    value = _crc32c()
    if value is None:
        from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

        return pywrap_tensorflow.masked_crc32c(data)  # type: ignore[no-any-return]
    crc = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(4096)
def header(length: int) -> bytes:
    """Return the 12 bytes that stand before a record of `length` bytes."""
    packed = _LENGTH.pack(length)
    return packed + _CRC.pack(masked_crc32c(packed))


def framed(data: bytes) -> bytes:
    """Return a record as it stands in a file: header, data, checksum."""
    return header(len(data)) + data + _pack_crc(masked_crc32c(data))


def framing() -> Callable[[bytes], bytes]:
    """Return `framed`, for the way of each call: the same with less."""
    value = _crc32c()
    if value is None:
        return framed

    def framed_at_once(data: bytes, header: Callable[[int], bytes] = header, pack: Callable[[int], bytes] = _pack_crc) -> bytes:
        crc = value(data)  # as in `masked_crc32c`
        return header(len(data)) + data + pack((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)

    return framed_at_once


def joined(records: Iterable[bytes]) -> bytes:
    """Return records as they stand in a file, one behind the other."""
    return b"".join(map(framed, records))


def count_records(path: str, size: int | None = None, *, most: int | None = None) -> int:
    """Return the number of complete records in an event file, or in its first `size` bytes, reading only their headers; at most
    `most`."""
    count = offset = 0
    with open_regular(path) as file:
        there = os.fstat(file.fileno()).st_size
        size = there if size is None else min(there, size)
        while count != most:
            length = _length(file.read(_HEADER.size))
            if length is None:
                return count
            offset += _FRAME + length
            if offset > size:
                return count
            file.seek(offset)
            count += 1
    return count


class EventFileReader:
    """Reads records by position, forwards as a rule; going back costs little, since every thousandth place is known.

    Args:
        path: the event file.
    """

    _STRIDE = 1000

    def __init__(self, path: str) -> None:
        self._file = open_regular(path)  # closed by close()
        self._records = records(self._file)
        self._next = 0
        self._places = [0]  # byte offset of each _STRIDE-th record, as far as it has been passed

    def read(self, position: int) -> bytes | None:
        """Return the record at `position`; None as long as the file does not reach so far."""
        known = min(position // self._STRIDE, len(self._places) - 1)
        if position < self._next or known * self._STRIDE > self._next:
            self._file.seek(self._places[known])
            self._records = records(self._file)
            self._next = known * self._STRIDE
        if not self._pass_over(position):
            return None
        data = next(self._records, None)
        if data is None:  # it has ended, at the end of the file as it was then or with an error
            self._records = records(self._file)
            data = next(self._records, None)
        if data is not None:
            self._passed()
        return data

    def _pass_over(self, position: int) -> bool:
        """Go on to the record at `position`; return False if the file does not reach so far."""
        if self._next == position:
            return True
        at, size = self._file.tell(), os.fstat(self._file.fileno()).st_size
        while self._next < position:
            length = _length(self._file.read(_HEADER.size))
            end = at + _FRAME + length if length is not None else size + 1
            if end > size:
                break
            at = self._file.seek(end)
            self._passed()
        self._file.seek(at)
        self._records = records(self._file)
        return self._next == position

    def _passed(self) -> None:
        self._next += 1
        if self._next == len(self._places) * self._STRIDE:
            self._places.append(self._file.tell())

    def close(self) -> None:
        self._file.close()


def require_protos() -> None:
    """Make sure that event files can be decoded.

    Raises:
        ConfigurationError: tensorboard, which has what they consist of, is not installed, or not whole.
    """
    try:
        from tensorboard.compat.proto import event_pb2  # noqa: F401
        from tensorboard.plugins.projector import projector_config_pb2  # noqa: F401
    except Exception as error:  # protobuf raises what it likes where versions do not fit
        first = next(iter(str(error).splitlines()), "")
        raise errors.ConfigurationError(
            f"event files cannot be read without tensorboard ({type(error).__name__}: {first}); remedy: pip install tensorboard"
        ) from error
