"""What goes into the ring: at once where there is room, else positions, in order, at a later look."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.accounts import Accounts
from tracelet_shim.bus.bus import Bus
from tracelet_shim.bus.gaps import Gap, Gaps, events_in
from tracelet_shim.bus.ring import Ring, RingReader

__all__ = ["Outbox"]

Item = msg.Record | msg.Message
_UNSENDABLE = (TypeError, ValueError, OverflowError, AttributeError, LookupError)


class _Parts:
    """A message that is larger than the ring.

    Attributes:
        message: the whole.
        left: its parts that are still to be put, and whether each is the first, and the last.
        begin, end: where it stands, in bytes written.
    """

    def __init__(self, message: msg.Message, data: bytes, ring: Ring) -> None:
        self.message = message
        self.left = deque(ring.parts_of(data))
        self.begin = ring.written
        self.end: int | None = None

    def put(self, ring: Ring) -> bool:
        """Put what is left; return False if there is no room for all of it."""
        while self.left:
            data, is_first, is_last = self.left[0]
            begin = ring.written
            if not ring.put_part(data, first=is_first, last=is_last):
                return False
            if is_first:
                self.begin = begin
            self.left.popleft()
        self.end = ring.written
        return True

    def has_lost_its_beginning(self, ring: Ring) -> bool:
        """Return whether only those who had taken some parts of it have had these, and not all of it."""
        return self.begin < ring.freed and (self.end is None or ring.freed < self.end)


class Outbox:
    """Puts records and messages into a ring, from any thread, in order, without waiting.

    Threads take a lock in turn. A signal handler may come in the middle of a put, in the same thread: what it has is put by the
    call that it has interrupted.

    Args:
        accounts: counts what is put.

    Attributes:
        ring: None before there is one, and after the end: then everything is kept for later.
        instead: what takes everything instead of a ring.
        errors: why events fit into no message.
    """

    def __init__(self, accounts: Accounts) -> None:
        self.ring: Ring | None = None
        self.instead: Bus | None = None
        self._accounts = accounts
        self.errors: deque[Exception] = deque()
        self._records = 0  # when the ring is gone
        self._encoder = wire.Encoder()
        self._lock = threading.RLock()
        self._putting = False
        self._aside: deque[Item] = deque()
        self._full = False
        self._drops = False
        self._dropped = 0  # events
        self._behind: deque[msg.Message | Gaps | _Parts] = deque()  # for which there was no room
        self._gaps: dict[int, Gap] | None = None
        self._large: deque[_Parts] = deque()  # of which a part may be in the ring

    @property
    def records(self) -> int:
        """The number of records that have been put into the ring."""
        return self.ring.records if self.ring is not None else self._records

    def begin(self, ring: Ring) -> None:
        """Here is the ring."""
        with self._lock:
            self.ring = ring

    def forget(self) -> int:
        """Keep nothing that waits for room; return how many events that were. From now on what finds no room is dropped."""
        with self._lock:
            waiting = self._waiting()
            self._behind.clear()
            self._aside.clear()
            self._gaps = None
            self._drops = True
        return waiting

    def end(self, *, remove: bool) -> None:
        """Nothing more will be put; `remove` the ring's file, or leave it to whoever comes later."""
        with self._lock:
            ring, self.ring = self.ring, None
            if ring is not None:
                self._records = ring.records
                ring.close(remove=remove)

    def hand_over(self, bus: Bus) -> None:
        """Let a bus have everything from now on, and before that what nobody has taken out of the ring."""
        with self._lock:
            if self.ring is not None:
                reader = RingReader(self.ring.path)
                while messages := reader.read():
                    _pass_on(messages, bus)
                reader.close(remove=True)
                self.end(remove=True)
            self._own_gaps()
            for item in self._behind:
                if isinstance(item, Gaps):
                    _pass_on([msg.Records(gap.take(source, len(gap))) for source, gap in item.sources.items()], bus)
                else:
                    _pass_on([item.message if isinstance(item, _Parts) else item], bus)
            self._behind.clear()
            self.instead = bus

    def put_at_once(self, record: msg.Record) -> bool:
        """Put a record that has no hint into the ring, as nearly all are; return False if it is to go the way of the others."""
        with self._lock:
            ring = self.ring
            if self._putting or self._full or ring is None:
                return False
            self._putting = True
            try:
                if not ring.put(record):
                    self._remember(record)
                if self._aside:
                    self._put_aside()
            finally:
                self._putting = False
            return True

    def put(self, item: Item) -> None:
        """Put a record or a message into the ring, or keep it for later."""
        with self._lock:
            if self._putting:
                self._aside.append(item)
                return
            self._putting = True
            try:
                self._put(item)
                if self._aside:
                    self._put_aside()
            finally:
                self._putting = False

    def _put_aside(self) -> None:
        while self._aside:
            self._put(self._aside.popleft())

    def _put(self, item: Item) -> None:
        try:
            if self.instead is not None:
                _pass_on([msg.Records([item]) if isinstance(item, msg.Record) else item], self.instead)
            elif type(item) is not msg.Record:
                self._put_message(item)  # type: ignore[arg-type]
            elif self._full or not self._put_record(item):
                self._remember(item)
        except _UNSENDABLE as error:
            self._cannot_send(error)

    def _put_record(self, record: msg.Record) -> bool:
        """Put a record into the ring; return False if there is no room, or no ring."""
        ring, hint = self.ring, record.hint
        if ring is None:
            return False
        if hint is None:
            return ring.put(record)
        encoded = self._encoder.encode(msg.Hinted(hint))
        if not ring.put(record, encoded):
            return False
        if type(hint) is msg.Nested:
            self._accounts.nested.append(ring.records - 1)
        return True

    def _remember(self, record: msg.Record) -> None:
        """Keep of a record only that it is there: it is more than the relay takes, and it is in the event file."""
        self._full = True
        if self._drops:  # and all that follow: what is in the ring has no gaps, behind which event files would be read on
            self._dropped += type(record.hint) is not msg.Nested
            return
        if self._gaps is None:
            self._gaps = {}
        self._gaps.setdefault(record.source, Gap()).add(record)

    def _put_message(self, message: msg.Message) -> None:
        if self._full or self.ring is None or not self.ring.put_message(self._encoder.encode(message)):
            self._full = True
            if not self._drops:
                self._own_gaps()
                self._behind.append(message)

    def _own_gaps(self) -> None:
        if self._gaps is not None:
            self._behind.append(Gaps(self._gaps))
            self._gaps = None

    def settle(self) -> None:
        """Put into the ring what has waited for room."""
        with self._lock:
            ring = self.ring
            if ring is None or self._putting:
                return
            self._putting = True
            try:
                while self._full and self._settle_next(ring):
                    pass
                while self._large and (self._large[0].end or 0) <= ring.freed:
                    self._large.popleft()
            finally:
                self._putting = False

    def begin_again(self) -> None:
        """The reader is gone, and nobody reads: let its successor find the ring, and the whole of what it had taken in part.

        Raises:
            OSError: somebody has removed the ring's file, and there is no place for another.
        """
        with self._lock:
            ring = self.ring
            if ring is None:
                return
            ring.restore()
            under_way = [item for item in self._behind if isinstance(item, _Parts) and item.end is None][:1]
            for parts in [*under_way, *self._large]:
                if parts.has_lost_its_beginning(ring):
                    again = _Parts(parts.message, self._encoder.encode(parts.message), ring)
                    if parts in under_way:
                        self._behind[0] = again
                    else:
                        self._large.remove(parts)
                        self._behind.append(again)
                        self._full = True

    def _settle_next(self, ring: Ring) -> bool:
        """Put what is next into the ring; return False if there is no room."""
        if not self._behind:
            self._own_gaps()
            if not self._behind:
                self._full = False
                return True
        first = self._behind[0]
        if isinstance(first, Gaps):
            return self._settle_gaps(ring, first)
        if isinstance(first, _Parts):
            if not first.put(ring):
                return False
            self._behind.popleft()
            self._large.append(first)
            return True
        data = self._encoder.encode(first)
        if not ring.fits(len(data)):
            self._behind[0] = _Parts(first, data, ring)
            return True
        if not ring.put_message(data):
            return False
        self._behind.popleft()
        return True

    def _settle_gaps(self, ring: Ring, gaps: Gaps) -> bool:
        if not gaps.sources:
            self._behind.popleft()
            return True
        source, gap = next(iter(gaps.sources.items()))
        for record in gap.peek(source, 1000):
            try:
                if not self._put_record(record):
                    if record.hint is None or ring.fits(len(self._encoder.encode(msg.Hinted(record.hint)))):
                        return False
                    alone = msg.Records([record])
                    self._behind.appendleft(_Parts(alone, self._encoder.encode(alone), ring))
                    ring.records += 1
                    gap.drop(1)
                    return True
            except _UNSENDABLE as error:
                self._cannot_send(error)
            gap.drop(1)
        if gap.is_empty:
            del gaps.sources[source]
        return True

    def _cannot_send(self, error: Exception) -> None:
        self._accounts.unsendable += 1
        self.errors.append(error)  # told when the lock is free

    def published(self) -> int:
        """Return how many events have been put, those that wait included."""
        with self._lock:
            return self.records - len(self._accounts.nested) + self._waiting() + self._dropped

    def _waiting(self) -> int:
        gaps = [gap for item in self._behind if isinstance(item, Gaps) for gap in item.sources.values()]
        gaps += self._gaps.values() if self._gaps is not None else ()
        return sum(gap.left() for gap in gaps) + events_in(list(self._aside))


def _pass_on(messages: Iterable[msg.Message], bus: Bus) -> None:
    for message in messages:
        if isinstance(message, msg.Records):
            for record in message.records:
                bus.publish(record)
        elif not isinstance(message, (msg.Open, msg.Flush)):  # who waits for a flush asks the bus
            bus.tell(message)
