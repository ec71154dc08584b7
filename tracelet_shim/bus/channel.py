"""What carries messages to the relay."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import msgspec

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg

__all__ = ["Channel", "SplitChannel", "ThreadChannel"]


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
        """Move what can be moved without waiting; called about twenty times a second, oftener at the end."""

    @property
    def backlog(self) -> int:
        """Bytes that were handed over and have not left this process yet."""
        return 0

    def handles(self) -> Mapping[str, Backend]:
        """Return the backends that live in this process, by name."""
        return {}

    @abstractmethod
    def finish(self) -> None:
        """After the last reply: let go of everything."""

    @abstractmethod
    def after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent, without harm to it."""


class ThreadChannel(Channel):
    """Hosts the relay here, on the sender thread; each tracker still has a thread of its own.

    Args:
        objects: backend objects of the user's, by name.
    """

    def __init__(self, objects: Mapping[str, Backend] | None = None) -> None:
        from tracelet_shim.relay.dispatcher import Relay  # not needed where the relay is a process

        self._relay = Relay(self._replied, objects, wake=self._tick_soon)
        self._next_tick = 0.0

    def _tick_soon(self) -> None:
        self._next_tick = 0.0

    def _replied(self, reply: msg.Reply) -> None:
        self.on_reply(reply)

    def send(self, message: msg.Message) -> None:
        if not self._relay.closed:
            self._relay.handle(message)

    def pump(self) -> None:
        if time.monotonic() >= self._next_tick and not self._relay.closed:
            self._next_tick = time.monotonic() + 0.1
            self._relay.tick()

    def handles(self) -> Mapping[str, Backend]:
        return {worker.name: worker.backend for worker in self._relay.workers if worker.backend is not None}

    def finish(self) -> None:
        """Nothing is left: the workers have ended, or were given up."""

    def after_fork(self) -> None:
        """Nothing to do: the relay's threads do not exist in the child."""


class SplitChannel(Channel):
    """Two hostings at once: some trackers in the relay process, some, by name, in this one.

    Each has taken so many of the records, so the counters of each are passed on for themselves.

    Args:
        here: hosts the backends in `names`.
        there: hosts all others.
    """

    def __init__(self, here: Channel, names: set[str], there: Channel) -> None:
        self._parts = (here, there)
        self._names = names
        self._spilled = [False, False]
        self._root: str | None = None
        self._flushed: dict[int, bool] = {}
        self._closed = 0
        for index, part in enumerate(self._parts):
            part.on_reply = lambda reply, index=index: self._replied(index, reply)  # type: ignore[misc]

    def send(self, message: msg.Message) -> None:
        for part, here in zip(self._parts, (True, False), strict=True):
            if isinstance(message, msg.Open):
                specs = [spec for spec in message.backends if (spec.name in self._names) is here]
                part.send(msgspec.structs.replace(message, backends=specs, keeps_state=not here))
            else:
                part.send(message)

    def pump(self) -> None:
        for part in self._parts:
            part.pump()

    @property
    def backlog(self) -> int:
        return max(part.backlog for part in self._parts)

    def handles(self) -> Mapping[str, Backend]:
        return self._parts[0].handles()

    def finish(self) -> None:
        for part in self._parts:
            part.finish()

    def after_fork(self) -> None:
        for part in self._parts:
            part.after_fork()

    def _replied(self, index: int, reply: msg.Reply) -> None:
        """Pass on what is one part's, join what both have to say."""
        if isinstance(reply, msg.Flushed):
            if reply.id not in self._flushed:
                self._flushed[reply.id] = reply.whole
                return
            reply = msg.Flushed(reply.id, self._flushed.pop(reply.id) and reply.whole)
        elif isinstance(reply, msg.Counters):
            self._spilled[index] = reply.spilled
            self._root = reply.root or self._root
            reply = msgspec.structs.replace(reply, spilled=any(self._spilled), root=self._root)
        elif isinstance(reply, msg.Closed):
            self.on_reply(msg.Counters(reply.backends, spilled=any(self._spilled), root=self._root, taken=reply.taken))
            self._closed += 1
            if self._closed < len(self._parts):
                return
            reply = msg.Closed({})
        self.on_reply(reply)
