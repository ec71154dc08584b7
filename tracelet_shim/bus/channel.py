"""What carries messages to the relay, and the hosting in this process."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.dispatcher import Relay

__all__ = ["Channel", "ThreadChannel"]


class Channel(ABC):
    """Driven by the bus's sender thread alone.

    Attributes:
        on_reply: takes each reply; may be called from other threads too.
    """

    on_reply: Callable[[msg.Reply], None]

    @abstractmethod
    def send(self, message: msg.Message) -> None:
        """Hand a message over, in order."""

    @abstractmethod
    def pump(self) -> None:
        """Move what can be moved without waiting; called about twenty times a second."""

    @property
    def backlog(self) -> int:
        """Bytes that were handed over and have not left this process yet."""
        return 0

    @abstractmethod
    def after_fork(self) -> None:
        """Called in a forked child: let go of everything that belongs to the parent."""


class ThreadChannel(Channel):
    """Hosts the relay here, on the sender thread; each tracker still has a thread of its own.

    Args:
        objects: backend objects of the user's, by name.
    """

    def __init__(self, objects: Mapping[str, Backend] | None = None) -> None:
        self.relay = Relay(self._replied, objects)
        self._next_tick = 0.0

    def _replied(self, reply: msg.Reply) -> None:
        self.on_reply(reply)

    def send(self, message: msg.Message) -> None:
        self.relay.handle(message)

    def pump(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + 0.1
            self.relay.tick()

    def after_fork(self) -> None:
        """Nothing to do: the relay's threads do not exist in the child."""
