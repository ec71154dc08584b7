"""What a program has written to its event files, and was killed before it could hand it over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.directory import Directory, beyond

if TYPE_CHECKING:
    from tracelet_shim.relay.dispatcher import Relay

__all__ = ["take_tail"]


class _Taker:
    """Hands what is read to a relay, and does not wait for its trackers."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.size = 0

    def feed(self, records: list[msg.Record], read: int) -> None:
        self.relay.handle(msg.Records(records))

    def stopped(self) -> bool:
        return False


def take_tail(relay: Relay) -> int:
    """Give a relay what the event files that it knows have behind the last record that it got of each. Nobody writes to them any
    more. Return the number of records."""
    tail = Directory(_Taker(relay), None)
    for path, root in relay.waiting():  # for a first writer that does not come any more
        number = 1 + max((source.id for source in relay.sources()), default=-1)
        relay.handle(msg.Source(number, path, root, None))
    for source in relay.sources():
        taken = relay.taken.get(source.id, 0)
        if beyond(source.path, taken):
            tail.know(source, taken)
    return tail.read()
