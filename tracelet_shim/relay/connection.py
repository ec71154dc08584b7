"""The relay process's end of what connects it with the training process."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable

import msgspec

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.ring import RingError, RingReader
from tracelet_shim.bus.wire import frames
from tracelet_shim.relay.leftovers import tidy

__all__ = ["Connection"]

logger = logging.getLogger("tracelet_shim.relay")


class Connection:
    """The socket from the training process, the one to it, and the ring.

    Args:
        read, write: file descriptors of the two.
        parent: pid of the training process.
        term: file descriptor on which the parent leaves a mark at SIGTERM.
        is_gone: tells whether the parent has ended, where this process is not its child.
        control: a socket on which the parent asks for the end of the session, whatever it is at.

    Attributes:
        killed: that has been asked for.
        woken: `wake` was called.
        waits: nothing is taken out of the ring before a restarted relay knows what it has (`go_on`).
        lost: the parent's end is closed, or the parent is gone, and everything that it has put into the ring has been received.
    """

    def __init__(
        self, read: int, write: int, parent: int, term: int, *,
        is_gone: Callable[[], bool] | None = None, control: socket.socket | None = None,
    ) -> None:  # fmt: skip
        self._read = read
        self._write = write
        self._is_gone = is_gone or (lambda: os.getppid() != parent)
        self._control = control
        self._term = term
        self._wake_read, self._wake_write = os.pipe()
        self._incoming = bytearray()
        self._replies: collections.deque[msg.Reply] = collections.deque()
        self._replying = threading.Lock()
        self._waking = threading.Lock()  # after `close`, the descriptor is another one's
        self._awake = True
        self._next: bytes | None = None  # the packet that the socket has not taken
        self._encoder = wire.Encoder()
        self._decoder: wire.Decoder[msg.Message] = wire.Decoder(msg.Message)
        self._ring: RingReader | None = None
        self._gone = False
        self.woken = self.lost = self.waits = self.killed = False
        for fd in (read, write, term, self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def reply(self, reply: msg.Reply) -> None:
        """Queue a reply; from any thread. The training process may not look for long: of counters, the latest will do."""
        with self._replying:
            if isinstance(reply, msg.Counters) and self._replies and isinstance(self._replies[-1], msg.Counters):
                self._replies.pop()
            self._replies.append(reply)

    def wake(self) -> None:
        """End the wait in `receive`; from any thread."""
        with self._waking, contextlib.suppress(BlockingIOError):
            if self._awake:
                os.write(self._wake_write, b"!")

    def receive(self, timeout: float) -> list[msg.Message]:
        """Wait a little for messages, half of that where one has to look into the ring for them; sets `woken` and `lost`."""
        self.send()
        if self._ring is not None:
            timeout = 0.0 if not self.waits and not self._ring.is_empty else timeout / 2
        readable = self._ready(timeout)
        self.woken = self._wake_read in readable
        if self.woken:
            os.read(self._wake_read, 1024)
        if self._read in readable:
            data = os.read(self._read, 1 << 20)
            self._incoming += data
            self._gone = self._gone or not data
        elif self.is_orphan:  # a forked child of the parent may hold the pipe open
            self._gone = True
        messages = [self._decoder.decode(frame) for frame in frames(self._incoming) if frame]
        if not messages and self._ring is not None and not self.waits:
            messages = self._from(self._ring)
        self.lost = self._gone and not messages
        return messages

    def _ready(self, timeout: float) -> set[int]:
        """Wait a little; return which descriptors can be read. There may be more in use than `select.select` can name."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if not self._gone:  # the end of a pipe can be read again and again
            poll.register(self._read, select.POLLIN)
        if self._next is not None:
            poll.register(self._write, select.POLLOUT)
        if self._control is not None:
            poll.register(self._control, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout * 1000)} - {self._write}
        if self._control is not None and self._control.fileno() in ready:
            with contextlib.suppress(OSError):
                self.killed = self.killed or bool(self._control.recv(16))
            self._control = None  # it has been said, or never will be
        return ready

    def _from(self, ring: RingReader) -> list[msg.Message]:
        try:
            return [message for message in ring.read() if not isinstance(message, msg.Open)]  # that came through the pipe
        except (RingError, msgspec.DecodeError) as error:
            logger.exception("nothing more can be read from the ring")
            self.reply(msg.Trouble(None, "ring", f"what the program logs from now on is in the event files only ({error})"))
            self._ring = None
            return []

    def use_ring(self, path: str) -> None:
        """Receive from this ring what is put into it."""
        self._ring = RingReader(path)
        tidy(path)

    def go_on(self, records: int) -> int:
        """A restarted relay has so many records in its index: leave them out. Return how many others are lost."""
        self.waits = False
        return self._ring.skip(records) if self._ring is not None else 0

    def done(self, *, indexed: bool) -> None:
        """What was received has been taken; `indexed`, if it is in the index too. If it is not, it stays in the ring for a
        successor, as long as there is room."""
        if self._ring is not None and not self.waits and (indexed or self._ring.is_half_full):
            self._ring.free()

    def send(self) -> None:
        """Send what the socket takes. Nobody may be reading any more: that is no reason to stop delivering."""
        if self._gone:  # a socket that nobody will read can be written again and again, or never
            self._next = None
            with self._replying:
                self._replies.clear()
            return
        with contextlib.suppress(BlockingIOError):
            while self._next is not None or self._replies:
                if self._next is None:
                    with self._replying:
                        self._next = self._encoder.encode(self._replies.popleft())
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    os.write(self._write, self._next)
                self._next = None

    @property
    def is_orphan(self) -> bool:
        """True if the parent has ended, so that it writes to no event file any more."""
        return self._is_gone()

    def terminated(self) -> bool:
        """True if the parent got SIGTERM."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._term, 1))
        return False

    def end(self) -> None:
        """Everything is delivered, or is in the index and the event files: the ring has nothing that is needed."""
        if self._ring is not None:
            self._ring.close(remove=True)
            self._ring = None

    def close(self) -> None:
        """Let go of everything, in a process that goes on. What has been put into the ring, and is not taken, stays there."""
        if self._ring is not None:
            self._ring.close(remove=False)
            self._ring = None
        self._gone = True
        for descriptor in (self._read, self._write, self._term, self._wake_read):
            os.close(descriptor)
        with self._waking:
            self._awake = False
            os.close(self._wake_write)
