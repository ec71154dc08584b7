"""The relay, `tracelet_shim.relay`, in a process of its own, over two pipes.

Everything here runs on the bus's sender thread and never waits for more than a moment, however slow the relay is: what the
pipe does not take stays in `backlog`, and the bus then stops handing data over.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.channel import Channel, ThreadChannel
from tracelet_shim.bus.launch import RelayDiedError
from tracelet_shim.bus.relay_process import RelayProcess

__all__ = ["PAUSE", "RESTARTS", "RESTART_SECONDS", "RelayChannel"]

_READ = 1 << 16
_WINDOW = 8 << 20
RESTARTS, RESTART_SECONDS = 3, 600.0
"""A relay that dies is started again so many times within so many seconds."""
PAUSE = 5.0
"""Seconds, growing, before another attempt if it cannot be started at all."""


class ProcessChannel(Channel):
    """Starts the relay and talks to it.

    Messages go into the pipe at once, where they outlive this process. Until the relay has said hello they are kept as
    well, so that a relay that cannot start costs nothing: `unsent` then has all of them, for another channel. What has been
    sent is kept until the relay has it in its index, so that a new
    relay can be given what its predecessor may have lost.

    Args:
        predecessor: the channel to a relay of the same session that died.
        process: a relay that has been started, and has been sent its first message.
    """

    def __init__(self, predecessor: ProcessChannel | None = None, process: RelayProcess | None = None) -> None:
        self.unsent: list[msg.Message] = []
        self._told: list[msg.Message] = []  # Open, writers and sources: what a successor has to be told first
        # The others: number of records up to each, the message, and the memory that it takes
        self._window: deque[tuple[int, msg.Message, int]] = deque()
        self._window_bytes = 0
        self._count = 0
        self._indexed = 0  # records that the relay has entered in its index
        self._lost = 0  # records that predecessors had entered in an index which is gone
        self._gone: dict[str, int] = {}  # by tracker, how many of their events it may not have got
        self._latest: dict[str, msg.BackendState] = {}
        self._root: str | None = None
        self._continuing = predecessor is not None
        self._waiting: tuple[RelayDiedError, float] | None = None
        self._encoder = wire.Encoder()
        self._has_opened = process is not None
        self._process = process or RelayProcess()
        if predecessor is not None:
            self._take_over(predecessor)

    def _take_over(self, predecessor: ProcessChannel) -> None:
        """Tell the new relay what the old one had been told; `_continued` sends what it had not kept."""
        self._window, self._window_bytes = predecessor._window, predecessor._window_bytes
        self._count, self._indexed, self._lost = predecessor._count, predecessor._indexed, predecessor._lost
        self._latest, self._gone, self._root = predecessor._latest, predecessor._gone, predecessor._root
        for message in predecessor._told:
            self.send(msg.again(message, self._root))
        self._transmit(msg.Continue())

    def wait(self, problem: RelayDiedError, until: float) -> None:
        """After the end of the relay: only keep what is sent, and fail again at `until` (monotonic seconds)."""
        self._continuing = True
        self._waiting = (problem, until)

    def send(self, message: msg.Message) -> None:
        data = self._encoder.encode(message)  # before anything else: what cannot be encoded must leave no trace
        if not self._process.greeted:
            self.unsent.append(message)
        if isinstance(message, (msg.Open, msg.Writer, msg.Source)):
            self._told.append(message)
            if self._waiting is None and not (self._has_opened and isinstance(message, msg.Open)):
                self._write_frame(data, message)
            return
        size = len(data)
        if isinstance(message, msg.Records):
            self._count += len(message.records)
            size += msg.RECORD_BYTES * len(message.records)
        self._window.append((self._count, message, size))
        self._window_bytes += size
        if not self._continuing:
            self._write_frame(data)

    def _continued(self, records: int) -> None:
        """The relay has so many records of its predecessor's: send the rest."""
        self._continuing = False
        # Without state, or if its disk was full, it has less than its predecessor had said: that is not to be had again.
        lost = self._indexed - records - self._lost
        if lost > 0:
            self._lost += lost
            self._gone = {name: self._gone.get(name, 0) + min(lost, state.pending) for name, state in self._latest.items()}
        records += self._lost
        for end, message, _ in self._window:
            if isinstance(message, msg.Records):
                missing = message.records[max(0, records - (end - len(message.records))) :]
                if missing:
                    self._transmit(msg.Records(missing))
            else:
                self._transmit(message)

    def _acknowledged(self, records: int) -> None:
        records = self._indexed = records + self._lost
        while self._window and (
            self._window[0][0] < records
            or (self._window[0][0] == records and isinstance(self._window[0][1], msg.Records))
        ):
            self._window_bytes -= self._window.popleft()[2]

    def _complete(self, reply: msg.Counters | msg.Closed) -> None:
        """A successor knows nothing of what its predecessors had in an index which is gone."""
        self._latest = reply.backends
        if self._lost:
            reply.taken += self._lost
            for name, state in reply.backends.items():
                state.failed += self._gone.get(name, 0)

    def _transmit(self, message: msg.Message) -> None:
        self._write_frame(self._encoder.encode(message))

    def _write_frame(self, data: bytes, message: msg.Message | None = None) -> None:
        self._process.send(data, message)
        if self._process.unwritten > _READ:
            self._process.write(0.01)

    @property
    def backlog(self) -> int:
        # What has been sent and is kept for a successor takes memory as well; the relay answers about ten times a second, and
        # what is normal in that time does not count.
        return self._process.unwritten + max(0, self._window_bytes - _WINDOW)

    def pump(self) -> None:
        if self._waiting is not None:
            problem, until = self._waiting
            if time.monotonic() >= until:
                raise RelayDiedError(str(problem), started=True)
            return
        for reply in self._process.replies():
            if isinstance(reply, msg.Hello):
                self.unsent.clear()
                continue
            if isinstance(reply, msg.Continued):
                self._continued(reply.records)
                continue
            if isinstance(reply, msg.Counters):
                self._root = reply.root or self._root
                self._acknowledged(reply.records)
            if isinstance(reply, (msg.Counters, msg.Closed)):
                self._complete(reply)
            self.on_reply(reply)
        for _ in range(64):
            if not self._process.write(0.01):
                break

    def finish(self) -> None:
        """Wait for the process to be gone; see `RelayProcess.finish`."""
        if self._waiting is None:
            self._process.finish()
        self._process.release()

    def after_fork(self) -> None:
        self._process.after_fork()


class RelayChannel(Channel):
    """The relay process, or what takes its place.

    A relay that cannot be started is replaced by a thread in this process. One that dies later is started again, and
    continues from its ledger; if it dies again and again, delivery is over, and the data is in the event files.

    Args:
        tell: takes what the user should know of this.
        process: as of `ProcessChannel`.
    """

    def __init__(self, tell: Callable[[str], None], process: RelayProcess | None = None) -> None:
        self._tell = tell
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._now: Channel
        try:
            self._now = ProcessChannel(process=process)
        except RelayDiedError as error:
            self._now = self._here(error, [])

    def _here(self, error: RelayDiedError, unsent: list[msg.Message]) -> Channel:
        self._tell(f"the relay process cannot run here ({error}); the trackers are served from a thread instead")
        channel = ThreadChannel()
        channel.on_reply = lambda reply: self.on_reply(reply)  # noqa: PLW0108 - it is set later
        for message in unsent:
            channel.send(message)
        return channel

    def _do(self, what: Callable[[], None]) -> None:
        self._now.on_reply = self.on_reply
        try:
            what()
        except RelayDiedError as error:
            dead = self._now
            assert isinstance(dead, ProcessChannel)
            now = time.monotonic()
            if not error.started and not self._restarts:
                self._now = self._here(error, dead.unsent)
            else:
                self._restart(error, dead, now)

    def _restart(self, error: RelayDiedError, dead: ProcessChannel, now: float) -> None:
        """Start a successor, now or, if the machine has no room for a process, a few seconds later; raise if that was tried
        too often."""
        if len(self._restarts) == RESTARTS and now - self._restarts[0] <= RESTART_SECONDS:
            raise error
        self._restarts.append(now)
        self._tell(f"the relay process died ({error}); starting it again")
        try:
            self._now = ProcessChannel(dead)
        except RelayDiedError as problem:
            dead.wait(problem, now + PAUSE * len(self._restarts))

    def send(self, message: msg.Message) -> None:
        self._do(lambda: self._now.send(message))

    def pump(self) -> None:
        self._do(lambda: self._now.pump())  # noqa: PLW0108 - another channel may be there by then

    @property
    def backlog(self) -> int:
        return self._now.backlog

    def handles(self) -> Mapping[str, Backend]:
        return self._now.handles()

    def finish(self) -> None:
        self._now.finish()

    def after_fork(self) -> None:
        self._now.after_fork()
