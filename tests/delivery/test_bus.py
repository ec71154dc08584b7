"""The bus by itself, with a channel that stalls."""

from __future__ import annotations

import threading
import time

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.bus import Bus
from tracelet_shim.bus.channel import Channel


class StalledChannel(Channel):
    """Takes nothing until it is let go, then keeps every record."""

    def __init__(self) -> None:
        self.records: list[msg.Record] = []
        self.others: list[tuple[msg.Message, int]] = []
        self.go = threading.Event()

    def send(self, message: msg.Message) -> None:
        if isinstance(message, msg.Records):
            self.records += message.records
        else:
            self.others.append((message, len(self.records)))

    def pump(self) -> None:
        """Nothing is on the way."""

    @property
    def backlog(self) -> int:
        return 0 if self.go.is_set() else 1 << 60

    def finish(self) -> None:
        """Nothing is open."""

    def after_fork(self) -> None:
        """Nothing is shared."""


def test_a_stalled_relay_costs_bounded_memory_and_no_record() -> None:
    """While the relay takes nothing, 300,000 records cost no more than 100,000; afterwards each has been announced, in the
    order of its file."""
    channel = StalledChannel()
    bus = Bus(lambda: channel, 10_000_000, lambda reply: None)
    bus._thread.start()
    for i in range(300_000):
        bus.publish(msg.Record(i % 2, i // 2, b"x" * 40, 0.5))
    assert len(bus._queue) <= 100_001
    channel.go.set()
    until = time.monotonic() + 30
    while len(channel.records) < 300_000 and time.monotonic() < until:
        time.sleep(0.05)
    for source in (0, 1):
        assert [r.position for r in channel.records if r.source == source] == list(range(150_000))
    bus._stopped = True


def test_what_follows_a_gap_is_sent_behind_it() -> None:
    """A flush, a new writer and the end reach the relay behind every record that was published before them, however much has
    waited."""
    channel = StalledChannel()
    bus = Bus(lambda: channel, 10_000_000, lambda reply: None)
    bus._thread.start()
    for i in range(150_000):
        bus.publish(msg.Record(0, i, b"x" * 40, 0.5))
    bus.tell(msg.Writer("/new"))
    for i in range(150_000, 200_000):
        bus.publish(msg.Record(0, i, b"x" * 40, 0.5))
    bus.tell(msg.Close("finished", 1.0))
    channel.go.set()
    until = time.monotonic() + 30
    while len(channel.others) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert channel.others == [(msg.Writer("/new"), 150_000), (msg.Close("finished", 1.0), 200_000)]
    assert [r.position for r in channel.records] == list(range(200_000))
    bus._stopped = True
