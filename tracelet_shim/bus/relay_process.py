"""The relay process, as the training process holds it: a socket to it, one from it, and its end.

Both are sockets, and are written to as such: writing to a pipe that nobody reads any more would kill a program that has given
SIGPIPE its usual meaning back, and where a program closes descriptors that it does not know, and opens files of its own in their
places, nothing is written into those.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.collected import CollectedSession, Collector
from tracelet_shim.bus.launch import RelayDiedError, relay_command, relay_environment, sigterm_mark
from tracelet_shim.common import run_report
from tracelet_shim.common.system import HAS_PACKETS

__all__ = ["RelayProcess"]

_LONGEST_REPLY = 1 << 20
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_LAST_WORDS = 2.5
"""Seconds that a relay may take to end after its last reply."""

_ending: list[subprocess.Popen[bytes]] = []
"""Relays that are left to end by themselves at the end of the interpreter, where no thread can wait for them."""


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    """Leave no zombie of a relay that ends by itself."""
    try:
        threading.Thread(target=process.wait, name="tracelet-relay-end", daemon=True).start()
    except RuntimeError:
        _ending.append(process)


def _is_stopped(pid: int) -> bool:
    """True if the process stands still until it gets SIGCONT, as far as this system tells."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def _is_ready(ours: socket.socket, wanted: int, seconds: float) -> bool:
    """Wait, at most so many seconds; a program may have more descriptors open than `select.select` can name."""
    poll = select.poll()
    poll.register(ours, wanted)
    return bool(poll.poll(seconds * 1000))


class RelayProcess:
    """Starts the relay. Nothing here waits for more than a moment.

    A reply is a packet of its own, which one call receives as a whole, so a signal handler may receive in the middle of that.

    Args:
        collector: that of this machine, which may serve the session instead of a process of its own.
        opened: the session's first message; None where only a process of its own will do.

    Attributes:
        greeted: it has said hello.
        closed: it has said its last word.

    Raises:
        RelayDiedError: it cannot be started.
    """

    def __init__(self, collector: Collector | None = None, opened: msg.Open | None = None) -> None:
        self.greeted = self.closed = False
        self._opening: set[str] = set()  # trackers that may be making their store just now
        self._outgoing = bytearray()
        self._received: deque[bytes] = deque()
        self._decoder: wire.Decoder[msg.Reply] = wire.Decoder(msg.Reply)
        if not HAS_PACKETS:
            raise RelayDiedError("this system has no sockets that keep messages apart", started=False)
        try:
            self._log = tempfile.TemporaryFile(prefix="tracelet-relay-")  # noqa: SIM115 - open as long as the relay may fail
            self._orders, orders = socket.socketpair()
            with orders:
                self._socket, replies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with replies:
                    self._process = self._served(orders, replies, collector, opened) or self._start(orders, replies)
        except RelayDiedError:
            raise
        except Exception as error:  # no temporary directory, no descriptors left, ...: a thread will do
            raise RelayDiedError(f"{type(error).__name__}: {error}", started=False) from error
        self._orders.setblocking(False)
        self._socket.setblocking(False)

    @property
    def pid(self) -> int:
        """The id of the process that serves the session; 0 if that is not known yet."""
        return self._process.pid

    def _served(
        self, orders: socket.socket, replies: socket.socket, collector: Collector | None, opened: msg.Open | None
    ) -> CollectedSession | None:
        if collector is None or opened is None:
            return None
        return collector.serve(opened, orders, replies, sigterm_mark(), self._log)

    def _start(self, orders: socket.socket, replies: socket.socket) -> subprocess.Popen[bytes]:
        term_read = sigterm_mark()
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                relay_command(term_read),
                stdin=orders.fileno(),
                stdout=replies.fileno(),
                stderr=self._log,
                env=relay_environment(os.environ),
                pass_fds=(term_read,),
                start_new_session=True,  # the terminal's Ctrl-C is for the training
            )
        except OSError as error:
            raise RelayDiedError(f"{sys.executable!r} cannot be started: {error}", started=False) from error
        run_report.add(relay=process.pid, of=os.getpid())
        return process

    # -- to the relay -------------------------------------------------------------------------------------------------

    @property
    def unwritten(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._outgoing)

    def send(self, data: bytes, message: msg.Message | None = None) -> None:
        """Hand an encoded message over; `message` if it tells which trackers will be opened."""
        if isinstance(message, msg.Open):
            self._opening = {spec.name for spec in message.backends}
        self._outgoing += wire.FRAME.pack(len(data))
        self._outgoing += data

    def wake(self) -> None:
        """Have the relay look at its ring; if the socket is full, it has something to look at."""
        if not self._outgoing:
            with contextlib.suppress(OSError):
                self._orders.send(wire.FRAME.pack(0), _NO_SIGNAL)

    def write(self, wait: float = 0.0) -> bool:
        """Write what the socket takes; return whether it took anything."""
        try:
            if not self._outgoing or not _is_ready(self._orders, select.POLLOUT, wait):
                return False
            written = self._orders.send(memoryview(self._outgoing)[: 1 << 18], _NO_SIGNAL)
        except BlockingIOError:
            return False
        except (OSError, ValueError):  # `replies` will say so
            self._outgoing.clear()
            return False
        del self._outgoing[:written]
        return True

    # -- from the relay -----------------------------------------------------------------------------------------------

    def replies(self) -> Iterator[msg.Reply]:
        """Yield what has come.

        Raises:
            RelayDiedError: it has ended, without its last word.
        """
        received = self._received
        with contextlib.suppress(BlockingIOError):
            while not (received and not received[-1]):
                received.extend(map(self._socket.recv, (_LONGEST_REPLY,)))  # one call, also for a signal handler
        while received and received[0]:
            reply = self._decoder.decode(received.popleft())
            self._note(reply)
            yield reply
        if received and not self.closed:
            self._died()

    def wait(self, seconds: float) -> None:
        """Wait until a reply comes, at most so many seconds."""
        with contextlib.suppress(OSError, ValueError):  # it was let go
            _is_ready(self._socket, select.POLLIN, seconds)

    def _note(self, reply: msg.Reply) -> None:
        if isinstance(reply, msg.Hello):
            self.greeted = True
        elif isinstance(reply, msg.Opened):
            self._opening.discard(reply.backend)
        elif isinstance(reply, (msg.Counters, msg.Closed)):
            self._opening -= {name for name, backend in reply.backends.items() if backend.state in ("failed", "closed")}
            self.closed = self.closed or isinstance(reply, msg.Closed)

    # -- its end ------------------------------------------------------------------------------------------------------

    def _died(self) -> None:
        reason, code = "it ended", 0
        self.release()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            reason += f" with exit code {code}"
        if isinstance(self._process, CollectedSession):
            raise RelayDiedError(self._process.reason or reason, started=True, refused=self._process.refused)
        # Whom somebody kills can run here all the same, however early that was.
        raise RelayDiedError(reason + self._last_words(), started=self.greeted or code == -signal.SIGKILL)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(0)
            lines = self._log.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
            return f": {lines[-1]}" if lines else ""
        return ""

    def release(self) -> None:
        """Close our ends; the relay, if it lives, finishes on its own."""
        for each in (self._orders, self._socket):
            with contextlib.suppress(OSError):  # closed by the program
                each.close()

    def finish(self, seconds: float = _LAST_WORDS, *, lingers: bool = False) -> bool:
        """Wait for the process to be gone, so that it leaves no zombie; without a last reply it has stood still beyond its
        deadline, and is killed. Not so while a tracker may be making its store, which might be unusable for ever then, or if
        the relay `lingers`, unless somebody has stopped it: it ends by itself.

        What it has said by then can still be read, until `release`.

        Returns:
            True if it lingers.
        """
        left = False
        try:
            self._process.wait(min(seconds, _LAST_WORDS) if self.closed else 0.1)
        except subprocess.TimeoutExpired:
            if self.closed and seconds < _LAST_WORDS:
                self._leave()
            elif self._opening or (lingers and not _is_stopped(self.pid)):
                left = lingers and not self.closed
                self._process.send_signal(signal.SIGCONT)  # should somebody have stopped it
                self._leave()
            else:
                self._process.kill()
                self._process.wait()
        self._log.close()
        return left

    def _leave(self) -> None:
        if isinstance(self._process, CollectedSession):
            self._process.let_go()
        else:
            _reap_later(self._process)

    def after_fork(self) -> None:
        """Close the child's copies: the relay must see the end when the parent is gone."""
        self.release()
        if isinstance(self._process, CollectedSession):
            self._process.let_go()
        self._process.returncode = 0  # not our child: keep Popen from waiting for it
