"""LevelDB's log format, in which W&B and SwanLab keep a run: for their readers, which share nothing with the backends."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

__all__ = ["records"]


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log with a header of seven bytes, up to its end, or to where a killed process left off."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        crc, size, kind = struct.unpack("<IHB", data[at : at + 7])
        piece = data[at + 7 : at + 7 + size]
        if kind == 0 or len(piece) < size or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != crc:
            return
        at += 7 + size
        parts = piece if kind in (1, 2) else parts + piece
        if kind in (1, 4):
            yield parts
