"""The relay, `tracelet_shim.relay`, in a process of its own, over two pipes.

Everything here runs on the bus's sender thread and never waits for more than a moment, however slow the relay is: what the
pipe does not take stays in `backlog`, and the bus then stops handing data over.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.channel import Channel, ThreadChannel
from tracelet_shim.bus.launch import RelayDiedError, relay_command, relay_environment, sigterm_mark
from tracelet_shim.common import run_report

__all__ = ["RelayChannel"]

_READ = 1 << 16
_WINDOW = 8 << 20
_LAST_WORDS = 2.5
"""Seconds that a relay may take to end after its last reply."""
_RESTARTS, _RESTART_SECONDS = 3, 600.0
"""A relay that dies is started again so many times within so many seconds."""
_PAUSE = 5.0
"""Seconds, growing, before another attempt if it cannot be started at all."""


class ProcessChannel(Channel):
    """Starts the relay and talks to it.

    Messages go into the pipe at once, where they outlive this process. Until the relay has said hello they are kept as
    well, so that a relay that cannot start costs nothing: `unsent` then has all of them, for another channel. What has been
    sent is kept until the relay has it in its index, so that a new
    relay can be given what its predecessor may have lost.

    Args:
        predecessor: the channel to a relay of the same session that died.
    """

    def __init__(self, predecessor: ProcessChannel | None = None) -> None:
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
        self._continuing = predecessor is not None
        self._waiting: tuple[RelayDiedError, float] | None = None
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._encoder = wire.Encoder()
        self._decoder: wire.Decoder[msg.Reply] = wire.Decoder(msg.Reply)
        self._greeted = False
        self._closed = False
        self._unopened: set[str] = set()  # trackers that may be making their store just now
        try:
            self._log = tempfile.TemporaryFile(prefix="tracelet-relay-")  # noqa: SIM115 - open as long as the relay may fail
            self._process = self._start()
        except RelayDiedError:
            raise
        except Exception as error:  # no temporary directory, no descriptors left, ...: a thread will do
            raise RelayDiedError(f"{type(error).__name__}: {error}", started=False) from error
        if predecessor is not None:
            self._take_over(predecessor)

    def _start(self) -> subprocess.Popen[bytes]:
        term_read = sigterm_mark()
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                relay_command(term_read),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=relay_environment(os.environ),
                pass_fds=(term_read,),
                start_new_session=True,  # the terminal's Ctrl-C is for the training
            )
        except OSError as error:
            raise RelayDiedError(f"{sys.executable!r} cannot be started: {error}", started=False) from error
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        run_report.add(relay=process.pid, of=os.getpid())
        return process

    def _take_over(self, predecessor: ProcessChannel) -> None:
        """Tell the new relay what the old one had been told; `_continued` sends what it had not kept."""
        self._window, self._window_bytes = predecessor._window, predecessor._window_bytes
        self._count, self._indexed, self._lost = predecessor._count, predecessor._indexed, predecessor._lost
        self._latest, self._gone = predecessor._latest, predecessor._gone
        for message in predecessor._told:
            self.send(msgspec.structs.replace(message, restarted=True) if isinstance(message, msg.Open) else message)
        self._transmit(msg.Continue())

    def wait(self, problem: RelayDiedError, until: float) -> None:
        """After the end of the relay: only keep what is sent, and fail again at `until` (monotonic seconds)."""
        self._continuing = True
        self._waiting = (problem, until)

    def send(self, message: msg.Message) -> None:
        data = self._encoder.encode(message)  # before anything else: what cannot be encoded must leave no trace
        if not self._greeted:
            self.unsent.append(message)
        if isinstance(message, (msg.Open, msg.Writer, msg.Source)):
            self._told.append(message)
            if isinstance(message, msg.Open):
                self._unopened = {spec.name for spec in message.backends}
            if self._waiting is None:
                self._write_frame(data)
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

    def _write_frame(self, data: bytes) -> None:
        self._outgoing += wire.FRAME.pack(len(data))
        self._outgoing += data
        if len(self._outgoing) > _READ:
            self._write()

    @property
    def backlog(self) -> int:
        # What has been sent and is kept for a successor takes memory as well; the relay answers about ten times a second, and
        # what is normal in that time does not count.
        return len(self._outgoing) + max(0, self._window_bytes - _WINDOW)

    def pump(self) -> None:
        if self._waiting is not None:
            problem, until = self._waiting
            if time.monotonic() >= until:
                raise RelayDiedError(str(problem), started=True)
            return
        self._read()
        for _ in range(64):
            if not self._outgoing or not self._write():
                break

    def _write(self) -> bool:
        """Write what the pipe takes; return whether it took anything."""
        assert self._process.stdin is not None
        fd = self._process.stdin.fileno()
        try:
            _, writable, _ = select.select([], [fd], [], 0.01)
            if not writable:
                return False
            written = os.write(fd, memoryview(self._outgoing)[: 1 << 18])
        except BlockingIOError:
            return False
        except OSError:
            self._died("it ended")
            return False
        del self._outgoing[:written]
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        ended = False
        while not ended:
            try:
                data = os.read(fd, _READ)
            except BlockingIOError:
                break
            self._incoming += data
            ended = not data
        for frame in wire.frames(self._incoming):
            if not self._greeted:
                self._greeted = True
                self.unsent.clear()
                continue
            reply = self._decoder.decode(frame)
            if isinstance(reply, msg.Continued):
                self._continued(reply.records)
                continue
            if isinstance(reply, msg.Counters):
                self._acknowledged(reply.records)
            if isinstance(reply, (msg.Counters, msg.Closed)):
                self._complete(reply)
            self._unopened -= _not_opening(reply)
            self._closed = self._closed or isinstance(reply, msg.Closed)
            self.on_reply(reply)
        if ended:
            self._died("it ended")

    def _died(self, reason: str) -> None:
        if self._closed:
            return
        self.release()
        with contextlib.suppress(subprocess.TimeoutExpired):
            reason += f" with exit code {self._process.wait(1.0)}"
        raise RelayDiedError(reason + self._last_words(), started=self._greeted)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(0)
            lines = self._log.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
            return f": {lines[-1]}" if lines else ""
        return ""

    def release(self) -> None:
        """Close our ends of the pipes; the relay, if it lives, finishes on its own."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def finish(self) -> None:
        """Wait for the process to be gone, so that it leaves no zombie; without a last reply it has stood still beyond its
        deadline, and is killed. Not so while a tracker may be making its store, which might be unusable for ever then: it
        ends by itself."""
        self.release()
        if self._waiting is not None:
            return
        try:
            self._process.wait(_LAST_WORDS if self._closed else 0.1)
        except subprocess.TimeoutExpired:
            if self._unopened:
                self._process.send_signal(signal.SIGCONT)  # should somebody have stopped it
                threading.Thread(target=self._process.wait, name="tracelet-relay-end", daemon=True).start()
            else:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def after_fork(self) -> None:
        """Close the child's copies of the pipes: the relay must see the end when the parent is gone."""
        self.release()
        self._process.returncode = 0  # not our child: keep Popen from waiting for it


def _not_opening(reply: msg.Reply) -> set[str]:
    """Return the trackers of which the reply says that they have opened their run, or do not try any more."""
    if isinstance(reply, msg.Opened):
        return {reply.backend}
    if isinstance(reply, (msg.Counters, msg.Closed)):
        return {name for name, backend in reply.backends.items() if backend.state in ("failed", "closed")}
    return set()


class RelayChannel(Channel):
    """The relay process, or what takes its place.

    A relay that cannot be started is replaced by a thread in this process. One that dies later is started again, and
    continues from its ledger; if it dies again and again, delivery is over, and the data is in the event files.

    Args:
        tell: takes what the user should know of this.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._restarts: deque[float] = deque(maxlen=_RESTARTS)
        self._now: Channel
        try:
            self._now = ProcessChannel()
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
        if len(self._restarts) == _RESTARTS and now - self._restarts[0] <= _RESTART_SECONDS:
            raise error
        self._restarts.append(now)
        self._tell(f"the relay process died ({error}); starting it again")
        try:
            self._now = ProcessChannel(dead)
        except RelayDiedError as problem:
            dead.wait(problem, now + _PAUSE * len(self._restarts))

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
