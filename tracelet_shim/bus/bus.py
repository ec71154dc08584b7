"""The training thread's side: publish is one append; everything else happens on the sender thread."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple

import msgspec

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.channel import Channel

__all__ = ["Bus"]

_POLL, _SHORT_POLL = 0.05, 0.005
"""Seconds between two looks at the channel; the short one while somebody waits for an answer."""
_BATCH_RECORDS = 1000
_BATCH_BYTES = 1 << 20
_FEW_QUEUED, _MOST_QUEUED = 10_000, 100_000
_SLACK = 0.5
"""Seconds for an answer to come back, where the deadline itself is zero or nearly so."""
_LAST_WORDS = 3.0
"""Seconds for the relay process to end after its last answer: SDKs remove their temporary directories."""

logger = logging.getLogger("tracelet_shim")
_hint_of = attrgetter("hint")


class _Gap:
    """Records of one event file without their data.

    Attributes:
        nested: how many of them are but parts of an `add_hparams`.
    """

    __slots__ = ("_hints", "_positions", "_series", "_taken", "_valued", "_values", "nested")

    def __init__(self) -> None:
        self._positions = array("Q")
        self._values = array("d")
        self._valued = bytearray()
        self._hints: dict[int, msg.Hint] = {}
        self._series: msg.Series | None = None
        self._taken = 0
        self.nested = 0

    def add(self, record: msg.Record) -> None:
        if isinstance(record.hint, msg.Series):
            self._series = record.hint  # the same for all records of its file
        elif record.hint is not None and not isinstance(record.hint, msg.Frames):  # for frames there is no room
            self._hints[len(self._positions)] = record.hint
            self.nested += isinstance(record.hint, msg.Nested)
        self._positions.append(record.position)
        self._values.append(record.value if record.value is not None else 0.0)
        self._valued.append(record.value is not None)

    def take(self, source: int, count: int) -> list[msg.Record]:
        """Return the next `count` records."""
        first, self._taken = self._taken, min(self._taken + count, len(self._positions))
        return [
            msg.Record(source, self._positions[i], None, self._values[i] if self._valued[i] else None, self._hint(i))
            for i in range(first, self._taken)
        ]

    def _hint(self, i: int) -> msg.Hint | None:
        return self._hints.get(i, self._series)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def is_empty(self) -> bool:
        return self._taken == len(self._positions)


class _Gaps(NamedTuple):
    """In the queue: the records that were not queued before it, by source."""

    sources: dict[int, _Gap]


def _nested(records: Iterable[msg.Record]) -> int:
    return list(map(type, map(_hint_of, records))).count(msg.Nested)


def _events(items: Iterable[object]) -> int:
    """Return how many events there are in what the queue has. Nobody has decoded them here: a record counts as one, or none if
    it is a part of an `add_hparams`."""
    records = [item for item in items if type(item) is msg.Record]
    gaps = [gap for item in items if type(item) is _Gaps for gap in item.sources.values()]
    return len(records) - _nested(records) + sum(len(gap) - gap.nested for gap in gaps)


class _Waiting:
    """For a flush: what it waits for, and whether every tracker had everything then."""

    __slots__ = ("done", "whole")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.whole = False


class Bus:
    """Takes messages from any thread, without waiting, and sends them in order.

    Args:
        make_channel: makes what carries them; called on the sender thread, so that starting a process costs the training
            thread nothing.
        memory: bytes that may wait in this process, a third of them here, the others in the channel. A record beyond that
            goes without its data, which the relay then reads from the event file. Beyond 100,000 records, or as many as
            that third holds (but 10,000), only positions and exact values are kept, 17 bytes a record, and the small hints.
        on_reply: takes the relay's replies; called from other threads.
    """

    def __init__(self, make_channel: Callable[[], Channel], memory: int, on_reply: Callable[[msg.Reply], None]) -> None:
        self._make_channel = make_channel
        self._channel: Channel | None = None
        self._memory = memory // 3
        self._most_queued = min(_MOST_QUEUED, max(_FEW_QUEUED, self._memory // msg.RECORD_BYTES))
        self._on_reply = on_reply
        self._queue: deque[msg.Message | msg.Record | _Gaps] = deque()
        self._waiting_bytes = 0
        self._gaps: dict[int, _Gap] | None = None  # by source, once too much waits
        self._gap_lock = threading.RLock()
        # What was published is counted without a step more for the training thread: what the sender has taken from the queue and
        # the gaps (a change of both, and of the sum, is made under the lock), and what they have.
        self._popped = 0  # events
        self._refused = 0  # events that came after the end
        self._unsendable = 0  # events
        self._sent = 0  # records
        self._nested: array[int] = array("Q")  # their numbers among the records that were sent
        self._known: dict[str, tuple[msg.BackendState, int]] = {}  # what the relay has said, and how many records that is about
        self._owed: deque[tuple[int, _Gap]] = deque()
        self._wake = threading.Event()
        self._stopped = self._closing = False
        self._close_until = 0.0
        self._flush_ids = itertools.count(1)
        self._flushing: dict[int, _Waiting] = {}
        self._closed = threading.Event()
        self._closed_states: dict[str, msg.BackendState] | None = None
        self._thread = threading.Thread(target=self._run, name="tracelet-sender", daemon=True)

    def start(self, message: msg.Open) -> None:
        """Send the first message."""
        self._queue.append(message)
        self._thread.start()
        self._wake.set()

    # -- the training thread ------------------------------------------------------------------------------------------

    def publish(self, record: msg.Record) -> None:
        """Queue a record: one append, no lock, no I/O."""
        if self._stopped:
            with self._gap_lock:
                self._refused += type(record.hint) is not msg.Nested
            return
        data = record.data
        if data is not None:
            if self._gaps is not None or len(self._queue) >= self._most_queued:
                self._remember(record)
                return
            # Threads may race for the sum. It is set right each time the sender empties the queue.
            self._waiting_bytes += len(data)
            if self._waiting_bytes > self._memory:
                record.data = None
        self._queue.append(record)

    def _remember(self, record: msg.Record) -> None:
        """Keep of a record only that it is there: it is far more than the relay takes, and it is in the event file."""
        with self._gap_lock:
            if self._gaps is None:
                self._gaps = {}
            self._gaps.setdefault(record.source, _Gap()).add(record)

    def tell(self, message: msg.Message) -> None:
        """Queue any other message, behind all that was published before it."""
        if self._gaps is not None:
            with self._gap_lock:
                if self._gaps is not None:
                    self._queue.append(_Gaps(self._gaps))
                    self._gaps = None
        self._queue.append(message)

    def nudge(self) -> None:
        """Ask the sender not to wait for its next turn."""
        self._wake.set()

    # -- waiting, from any thread but the sender's --------------------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Wait until all that was published has been delivered to every tracker; False if `timeout` seconds passed, or if
        something of it never will be."""
        number = next(self._flush_ids)
        waiting = self._flushing[number] = _Waiting()
        self.tell(msg.Flush(number))
        self._wake.set()
        if self._stopped and not self._thread.is_alive():  # nobody is there to answer
            waiting.done.set()
        try:
            return waiting.done.wait(timeout) and waiting.whole and not self._unsendable
        finally:
            self._flushing.pop(number, None)

    def states(self, names: Iterable[str]) -> dict[str, msg.BackendState]:
        """Return where each tracker stands: what the relay has said, and pending all that it has not taken, wherever that is."""
        known, published = self._known, self._published()
        found = {}
        for name in names:
            state, taken = known.get(name, (msg.BackendState(), 0))
            pending, failed = state.pending + self._beyond(published, taken), state.failed + self._unsendable
            found[name] = msgspec.structs.replace(state, pending=pending, failed=failed)
        return found

    def unsent(self) -> int:
        """Return how many events the relay has not taken, as far as it has said."""
        return self._beyond(self._published(), max((taken for _, taken in self._known.values()), default=0))

    def _published(self) -> int:
        with self._gap_lock:
            gaps = _events([_Gaps(self._gaps)]) if self._gaps is not None else 0
            return self._popped + _events(list(self._queue)) + gaps + self._refused - self._unsendable

    def _beyond(self, published: int, taken: int) -> int:
        """Return how many of so many events come after the first `taken` records that were sent."""
        return max(0, published - (taken - bisect_left(self._nested, taken)))

    def begin_close(self, message: msg.Close) -> None:
        """Ask for the end, without waiting for it; only the first time counts."""
        if self._closing:
            return
        self._close_until = time.monotonic() + message.deadline + _SLACK
        share = message.deadline - min(2.0, 0.2 * message.deadline)
        self.tell(msgspec.structs.replace(message, deadline=share, since=time.monotonic(), ended=time.time()))
        self._closing = True
        self._wake.set()

    def close(
        self,
        message: msg.Close,
        progress: Callable[[], None] | None = None,
        *,
        last_words: float = _LAST_WORDS,
        until: threading.Event | None = None,
    ) -> dict[str, msg.BackendState] | None:
        """Drain and end all runs; return their last states, or None if the relay did not answer in time.

        Args:
            message: how to end, and how many seconds that may take. The relay is told to be done a little earlier, so that
                its answer is here by then.
            progress: called about ten times a second while waiting.
            last_words: seconds to wait for the end of the relay process after its answer.
            until: return None as soon as this is set: the end is waited for by another call.
        """
        self.begin_close(message)
        while True:
            try:
                return self._wait_closed(self._close_until, progress, last_words, until)
            except SystemExit:
                # A handler of the user's, for one more SIGTERM: at the end of the program it has no other meaning.
                if not message.at_exit:
                    raise

    def _wait_closed(
        self, until: float, progress: Callable[[], None] | None, last_words: float, or_until: threading.Event | None
    ) -> dict[str, msg.BackendState] | None:
        while not self._closed.wait(0.1) and time.monotonic() < until and self._thread.is_alive():
            if or_until is not None and or_until.is_set():
                return None
            if progress is not None:
                progress()
        self._stopped = True
        self._wake.set()
        self._thread.join(last_words)
        return self._closed_states

    def after_fork(self) -> None:
        """In a forked child: this bus is the parent's."""
        self._queue.clear()
        if self._channel is not None:
            self._channel.after_fork()

    def handles(self) -> Mapping[str, Backend]:
        """Return the backends that live in this process, by name."""
        return self._channel.handles() if self._channel is not None else {}

    # -- the sender thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            channel = self._channel = self._make_channel()
            channel.on_reply = self._replied
            while not self._stopped:
                self._wake.wait(_POLL if not (self._flushing or self._closing) else _SHORT_POLL)
                self._wake.clear()
                self._send_queued(channel)
                channel.pump()
            channel.finish()
        except Exception as error:
            self._stopped = True
            with self._gap_lock:  # nothing is kept in memory any more, but counted
                self._popped += _events(self._queue)
                self._queue.clear()
                self._owe_gaps()
                self._owed.clear()
            logger.debug("the sender thread stopped", exc_info=True)
            self._on_reply(msg.Trouble(None, "internal", f"delivery stopped: {type(error).__name__}: {error}"))
            self._closed.set()
            for waiting in list(self._flushing.values()):
                waiting.done.set()

    def _send_queued(self, channel: Channel) -> None:
        self._send_owed(channel)
        while self._queue and not self._owed and channel.backlog <= self._memory:
            batch, other = self._take()
            if batch:
                self._send(channel, msg.Records(batch))
            if isinstance(other, _Gaps):
                self._owed.extend(other.sources.items())
            elif other is not None:
                self._send(channel, other)
        if not self._queue:
            self._waiting_bytes = 0
            if self._gaps is not None:
                with self._gap_lock:
                    self._owe_gaps()

    def _take(self) -> tuple[list[msg.Record], msg.Message | _Gaps | None]:
        """Take a batch of records out of the queue, and what stands behind it if that is something else."""
        batch: list[msg.Record] = []
        other: msg.Message | _Gaps | None = None
        size = 0
        with self._gap_lock:
            while self._queue and len(batch) < _BATCH_RECORDS and size < _BATCH_BYTES:
                message = self._queue.popleft()
                if not isinstance(message, msg.Record):
                    other = message
                    break
                batch.append(message)
                size += len(message.data) if message.data is not None else 0
            self._popped += _events([*batch, other])
        return batch, other

    def _owe_gaps(self) -> None:
        """The queue is empty: what did not fit into it comes next; to be called with the lock held."""
        if self._gaps is not None:
            self._popped += _events([_Gaps(self._gaps)])
            self._owed.extend(self._gaps.items())
            self._gaps = None

    def _send(self, channel: Channel, message: msg.Message) -> None:
        """Hand over; a record that cannot be encoded or decoded must not take the others with it."""
        records = message.records if isinstance(message, msg.Records) else []
        first = self._sent
        self._nested.extend(first + i for i, record in enumerate(records) if type(record.hint) is msg.Nested)
        self._sent += len(records)
        try:
            channel.send(message)
        except (TypeError, ValueError, OverflowError, AttributeError, LookupError) as error:
            self._sent = first
            del self._nested[bisect_left(self._nested, first) :]
            if len(records) > 1:
                for record in records:
                    self._send(channel, msg.Records([record]))
                return
            self._unsendable += len(records) - _nested(records)
            logger.debug("a message could not be sent", exc_info=True)
            self._on_reply(msg.Trouble(None, "unsent", f"an event could not be sent: {type(error).__name__}: {error}"))

    def _send_owed(self, channel: Channel) -> None:
        """Send the ranges of records that had not been queued; the relay reads them from the event files."""
        while self._owed and channel.backlog <= self._memory:
            source, gap = self._owed[0]
            self._send(channel, msg.Records(gap.take(source, _BATCH_RECORDS)))
            if gap.is_empty:
                self._owed.popleft()

    def _replied(self, reply: msg.Reply) -> None:
        if isinstance(reply, msg.Flushed):
            if (waiting := self._flushing.get(reply.id)) is not None:
                waiting.whole = reply.whole
                waiting.done.set()
        elif isinstance(reply, msg.Closed):
            self._learn(reply.backends, reply.taken)
            self._on_reply(msg.Counters(reply.backends, taken=reply.taken))
            self._closed_states = reply.backends
            self._closed.set()
        elif isinstance(reply, msg.More):
            self.tell(msg.Rest(reply.backend))
            self._wake.set()
        else:
            if isinstance(reply, msg.Counters):
                self._learn(reply.backends, reply.taken)
            self._on_reply(reply)

    def _learn(self, states: Mapping[str, msg.BackendState], taken: int) -> None:
        self._known = {**self._known, **{name: (state, taken) for name, state in states.items()}}
