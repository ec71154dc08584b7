"""The records of a session, as its stream has them: what `Index` and event files are where there is no Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.fleet.keys import Keys, Position
from tracelet_shim.fleet.lease import Leases
from tracelet_shim.state.index import Index

__all__ = ["Parts", "StreamIndex"]

_ENTRIES = 4
_AGAIN_SECONDS = 0.3


class Parts:
    """Puts messages together from the entries of a stream, in order."""

    def __init__(self) -> None:
        self._decoder: wire.Decoder[msg.Message] = wire.Decoder(msg.Message)
        self._parts: list[bytes] = []

    def take(self, fields: Mapping[bytes, bytes]) -> msg.Message | None:
        """Return the message that is complete with this entry, if one is. A message of which a part was appended before the
        program's side was killed comes again, from its first part on."""
        number = int(fields[b"n"])
        del self._parts[number:]
        if b"p" in fields:
            self._parts.append(fields[b"p"])
            return None
        parts, self._parts = self._parts, []
        return self._decoder.decode(b"".join([*parts, fields[b"m"]]))


class StreamIndex(Index):
    """Which records a session has, in order, with their data.

    Args:
        client: of Redis.
        keys: the session's.
        length: how many an earlier owner has taken.
        leases: asked while Redis does not answer.
    """

    def __init__(self, client: Any, keys: Keys, length: int, leases: Leases) -> None:
        self._client = client
        self._keys = keys
        self._leases = leases
        self.owned = True
        self.length = self.written = length
        self._lock = threading.Lock()
        self._latest: tuple[int, list[msg.Record]] = (0, [])  # the batch that was read last, with the number of its first

    def append(self, records: list[msg.Record]) -> None:
        self.length = self.written = self.length + len(records)

    def read(self, start: int, stop: int) -> Iterator[msg.Record]:
        while start < stop:
            first, records = self._batch(start)
            for record in records[max(0, start - first) : max(0, stop - first)]:
                # A copy: who reads it may take its data off.
                yield msg.Record(record.source, record.position, record.data, record.value, record.hint)
            start = first + len(records)

    def _batch(self, number: int) -> tuple[int, list[msg.Record]]:
        """Return the batch with the record `number`, and the number of its first."""
        with self._lock:
            first, records = self._latest
        if first <= number < first + len(records):
            return first, records
        parts = Parts()
        after = Position(number)
        while True:
            entries = self._range(after)
            if not entries:
                raise LookupError(f"the stream of session {self._keys.session} has no record {number}")
            for entry, fields in entries:
                after = Position.of(entry)
                message = parts.take(fields)
                if isinstance(message, msg.Records) and after.records > number:
                    first = after.records - len(message.records)
                    if first > number:
                        raise LookupError(f"the stream of session {self._keys.session} has no record {number} any more")
                    with self._lock:
                        self._latest = first, message.records
                    return first, message.records

    def _range(self, after: Position) -> list[tuple[bytes, dict[bytes, bytes]]]:
        import redis

        while True:
            try:
                return list(self._client.xrange(self._keys.log, min=f"({after}", max="+", count=_ENTRIES))
            except (redis.RedisError, OSError):
                self._leases.check()
                time.sleep(_AGAIN_SECONDS)

    def taken(self) -> dict[int, int]:
        return {}

    def own(self) -> int:
        return 0

    def numbers(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        return {}

    def close(self, *, remove: bool) -> None:
        """Who has the session's lease decides what becomes of its stream."""
