"""The training thread's side: publish is one append; everything else happens on the sender thread."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.accounts import Accounts
from tracelet_shim.bus.channel import Channel
from tracelet_shim.bus.gaps import Gap, Gaps, events_in, nested_in

__all__ = ["LAST_WORDS", "Bus", "closing_message", "through_exits"]

_Result = TypeVar("_Result")

_POLL, _SHORT_POLL = 0.05, 0.005
"""Seconds between two looks at the channel; the short one while somebody waits for an answer."""
_BATCH_RECORDS = 1000
_BATCH_BYTES = 1 << 20
_FEW_QUEUED, _MOST_QUEUED = 10_000, 100_000
_SLACK = 0.5
"""Seconds for an answer to come back, where the deadline itself is zero or nearly so."""
LAST_WORDS = 3.0
"""Seconds for the relay process to end after its last answer: SDKs remove their temporary directories."""

logger = logging.getLogger("tracelet_shim")


def closing_message(message: msg.Close) -> tuple[msg.Close, float]:
    """Return what the relay is told at the end, which is to be done a little earlier, and until when its answer is waited for."""
    now = time.monotonic()
    share = message.deadline - min(2.0, 0.2 * message.deadline)
    closing = msgspec.structs.replace(message, deadline=share, since=now, ended=time.time())
    return closing, now + message.deadline + _SLACK


def through_exits(wait: Callable[[], _Result], message: msg.Close) -> _Result:
    """Wait for the end, again after a handler of the user's for one more SIGTERM: at the end of the program that has no other
    meaning."""
    while True:
        try:
            return wait()
        except SystemExit:
            if not message.at_exit:
                raise


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
        self._queue: deque[msg.Message | msg.Record | Gaps] = deque()
        self._waiting_bytes = 0
        self._gaps: dict[int, Gap] | None = None  # by source, once too much waits
        self._gap_lock = threading.RLock()
        # What was published is counted without a step more for the training thread: what the sender has taken from the queue and
        # the gaps (a change of both, and of the sum, is made under the lock), and what they have.
        self._popped = 0  # events
        self._refused = 0  # events that came after the end
        self._sent = 0  # records
        self._accounts = Accounts()
        self._owed: deque[tuple[int, Gap]] = deque()
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
            self._gaps.setdefault(record.source, Gap()).add(record)

    def tell(self, message: msg.Message) -> None:
        """Queue any other message, behind all that was published before it."""
        if self._gaps is not None:
            with self._gap_lock:
                if self._gaps is not None:
                    self._queue.append(Gaps(self._gaps))
                    self._gaps = None
        self._queue.append(message)

    def nudge(self) -> None:
        """Ask the sender not to wait for its next turn."""
        self._wake.set()

    def look(self, wait: float = 0.0) -> None:
        """Replies come by themselves here: only wait so many seconds."""
        time.sleep(wait)

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
            return waiting.done.wait(timeout) and waiting.whole and not self._accounts.unsendable
        finally:
            self._flushing.pop(number, None)

    def states(self, names: Iterable[str]) -> dict[str, msg.BackendState]:
        """Return where each tracker stands: what the relay has said, and pending all that it has not taken, wherever that is."""
        return self._accounts.states(names, self._published())

    def unsent(self) -> int:
        """Return how many events the relay has not taken, as far as it has said."""
        return self._accounts.unsent(self._published())

    def _published(self) -> int:
        with self._gap_lock:
            gaps = events_in([Gaps(self._gaps)]) if self._gaps is not None else 0
            return self._popped + events_in(list(self._queue)) + gaps + self._refused - self._accounts.unsendable

    def begin_close(self, message: msg.Close) -> None:
        """Ask for the end, without waiting for it; only the first time counts."""
        if self._closing:
            return
        # What is on its way to the trackers, or they themselves, end with this process.
        closing, self._close_until = closing_message(msgspec.structs.replace(message, linger=0.0))
        self.tell(closing)
        self._closing = True
        self._wake.set()

    def close(
        self,
        message: msg.Close,
        progress: Callable[[], None] | None = None,
        *,
        last_words: float = LAST_WORDS,
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
        return through_exits(lambda: self._wait_closed(self._close_until, progress, last_words, until), message)

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
                self._popped += events_in(self._queue)
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
            if isinstance(other, Gaps):
                self._owed.extend(other.sources.items())
            elif other is not None:
                self._send(channel, other)
        if not self._queue:
            self._waiting_bytes = 0
            if self._gaps is not None:
                with self._gap_lock:
                    self._owe_gaps()

    def _take(self) -> tuple[list[msg.Record], msg.Message | Gaps | None]:
        """Take a batch of records out of the queue, and what stands behind it if that is something else."""
        batch: list[msg.Record] = []
        other: msg.Message | Gaps | None = None
        size = 0
        with self._gap_lock:
            while self._queue and len(batch) < _BATCH_RECORDS and size < _BATCH_BYTES:
                message = self._queue.popleft()
                if not isinstance(message, msg.Record):
                    other = message
                    break
                batch.append(message)
                size += len(message.data) if message.data is not None else 0
            self._popped += events_in([*batch, other])
        return batch, other

    def _owe_gaps(self) -> None:
        """The queue is empty: what did not fit into it comes next; to be called with the lock held."""
        if self._gaps is not None:
            self._popped += events_in([Gaps(self._gaps)])
            self._owed.extend(self._gaps.items())
            self._gaps = None

    def _send(self, channel: Channel, message: msg.Message) -> None:
        """Hand over; a record that cannot be encoded or decoded must not take the others with it."""
        records = message.records if isinstance(message, msg.Records) else []
        first = self._sent
        self._accounts.nested.extend(first + i for i, record in enumerate(records) if type(record.hint) is msg.Nested)
        self._sent += len(records)
        try:
            channel.send(message)
        except (TypeError, ValueError, OverflowError, AttributeError, LookupError) as error:
            self._sent = first
            del self._accounts.nested[bisect_left(self._accounts.nested, first) :]
            if len(records) > 1:
                for record in records:
                    self._send(channel, msg.Records([record]))
                return
            self._accounts.unsendable += len(records) - nested_in(records)
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
            self._accounts.learn(reply.backends, reply.taken)
            self._on_reply(msg.Counters(reply.backends, taken=reply.taken))
            self._closed_states = reply.backends
            self._closed.set()
        elif isinstance(reply, msg.More):
            self.tell(msg.Rest(reply.backend))
            self._wake.set()
        else:
            if isinstance(reply, msg.Counters):
                self._accounts.learn(reply.backends, reply.taken)
            self._on_reply(reply)
