"""Messages as bytes: msgpack, which holds nothing but UTF-8 (paths, and what a program hands over, need not be that), in frames
of a 4-byte little-endian length."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from tracelet_shim.common.text import escaped, unescaped

__all__ = ["FRAME", "Decoder", "Encoder", "frames"]

FRAME = struct.Struct("<I")

T = TypeVar("T")


class _Escaped(msgspec.Struct, tag="escaped"):
    """A message with texts that are no UTF-8.

    Attributes:
        data: the message, each of its texts `escaped`, as msgpack.
    """

    data: bytes


class Encoder:
    """Encodes messages; what msgpack has no type for becomes a text."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=str)  # better a text than nothing

    def encode(self, message: Any) -> bytes:
        try:
            return self._encoder.encode(message)
        except UnicodeEncodeError:
            plain = msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=str)
            return self._encoder.encode(_Escaped(self._encoder.encode(_each_text(plain, escaped))))


class Decoder(Generic[T]):
    """Decodes what an `Encoder` has encoded.

    Args:
        kind: the type of the messages.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind | _Escaped)

    def decode(self, data: bytes) -> T:
        message = self._decoder.decode(data)
        if isinstance(message, _Escaped):
            message = msgspec.convert(_each_text(msgspec.msgpack.decode(message.data), unescaped), self._kind)
        return message  # type: ignore[no-any-return]


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_each_text(key, change): _each_text(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_text(each, change) for each in value]
    return value


def frames(buffer: bytearray) -> list[bytes]:
    """Take the complete frames off the front of a buffer."""
    found = []
    start = 0
    while len(buffer) - start >= FRAME.size:
        (length,) = FRAME.unpack_from(buffer, start)
        end = start + FRAME.size + length
        if len(buffer) < end:
            break
        found.append(bytes(buffer[start + FRAME.size : end]))
        start = end
    if start:
        del buffer[:start]
    return found
