"""The relay process. Started by `tracelet_shim.bus.process`, through `_start`; not for use by hand.

Messages come on standard input, replies go to standard output; both are moved away before any SDK is imported, so that
what an SDK prints cannot mix with them. Ends when told to, or when its parent is gone: then it delivers what it has and
closes the runs as failed (killed, where the parent got SIGTERM).
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import faulthandler
import gc
import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.wire import FRAME, frames
from tracelet_shim.common.private_files import open_file
from tracelet_shim.relay import said
from tracelet_shim.relay.dispatcher import Relay

_TICK = 0.1
_ORPHAN_DEADLINE = 300.0
_OPEN_SECONDS = 120.0
"""How long a tracker that makes its store may go on with that, after the end of all the rest."""
_CLEAN_UP_SECONDS = 2.0
_YOUNG_OBJECTS = 50_000
_NICENESS = 5

logger = logging.getLogger("tracelet_shim.relay")


class _Connection:
    """The two pipes to the training process.

    Args:
        read, write: file descriptors.
        parent: pid of the training process.
        term: file descriptor on which the parent leaves a mark at SIGTERM.
    """

    def __init__(self, read: int, write: int, parent: int, term: int) -> None:
        self._read = read
        self._write = write
        self._parent = parent
        self._term = term
        self._wake_read, self._wake_write = os.pipe()
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._replies: collections.deque[msg.Reply] = collections.deque()
        self._encoder = wire.Encoder()
        self._decoder: wire.Decoder[msg.Message] = wire.Decoder(msg.Message)
        self.woken = self.lost = False
        for fd in (read, write, term, self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def reply(self, reply: msg.Reply) -> None:
        """Queue a reply; from any thread."""
        self._replies.append(reply)

    def wake(self) -> None:
        """End the wait in `receive`; from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def hello(self) -> None:
        self._outgoing += FRAME.pack(0)

    def receive(self, timeout: float) -> list[msg.Message]:
        """Wait a little for messages; sets `woken` if `wake` was called, and `lost` when the parent's end is closed or the
        parent is gone."""
        self.send()
        # The end of a pipe can be read again and again.
        reading = [self._wake_read] if self.lost else [self._wake_read, self._read]
        readable, _, _ = select.select(reading, [self._write] if self._outgoing else [], [], timeout)
        self.woken = self._wake_read in readable
        if self.woken:
            os.read(self._wake_read, 1024)
        if self._read in readable:
            data = os.read(self._read, 1 << 20)
            self._incoming += data
            self.lost = not data
        elif os.getppid() != self._parent:  # a forked child of the parent may hold the pipe open
            self.lost = True
        return [self._decoder.decode(frame) for frame in frames(self._incoming)]

    def send(self) -> None:
        """Write what the pipe takes. Nobody may be reading any more: that is no reason to stop delivering."""
        if self.lost:
            self._replies.clear()
            self._outgoing.clear()
        while self._replies:
            data = self._encoder.encode(self._replies.popleft())
            self._outgoing += FRAME.pack(len(data)) + data
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                try:
                    del self._outgoing[: os.write(self._write, self._outgoing)]
                except BrokenPipeError:
                    self._outgoing.clear()

    def terminated(self) -> bool:
        """True if the parent got SIGTERM."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._term, 1))
        return False


def main() -> None:
    """Serve one session."""
    parent, term = int(sys.argv[1]), int(sys.argv[2])
    read, write = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # A scheduler signals the whole job; the parent's end decides when this process has to go.
        signal.signal(number, signal.SIG_IGN)
    # What waits here are many small objects without cycles. At Python's own pace of 700, looking through them again and again
    # takes most of the time there is.
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
    _step_back()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    said.listen()
    connection = _Connection(read, write, parent, term)
    relay = Relay(connection.reply, wake=connection.wake)
    connection.hello()
    code = 0
    try:
        _serve(connection, relay)
    except BaseException:
        logger.exception("the relay stopped")
        code = 1
    finally:
        connection.send()
        relay.let_open(_OPEN_SECONDS)
        _clean_up()
        logging.shutdown()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    os._exit(code)  # an SDK's own exit handlers may hang; every run has been closed, or given up with a message


def _step_back() -> None:
    """Let training come first where there are too few processors. Linux shares them out among sessions before it looks at the
    processes in one (``man 7 sched``, the autogroup feature), and this process has a session of its own."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):  # no such feature, or not allowed
        Path("/proc/self/autogroup").write_text(str(_NICENESS))


def _clean_up() -> None:
    """Run the SDKs' exit handlers, which remove their temporary directories, for as long as is reasonable: some hang."""
    thread = threading.Thread(target=atexit._run_exitfuncs, daemon=True)  # noqa: SLF001 - there is no public way
    thread.start()
    thread.join(_CLEAN_UP_SECONDS)


class _LogFile:
    """What the relay and the SDKs print, in ``<session>.log`` of the state directory.

    Until that is known it is in the nameless temporary file that standard error was started with. Nothing stays of a
    session in which all went well.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def move_to(self, directory: Path, session: str) -> None:
        path = directory / f"{session}.log"
        try:
            file = open_file(path, os.O_WRONLY | os.O_APPEND)
        except OSError:
            logger.warning("no log file can be kept in %s", directory)
            return
        with contextlib.suppress(OSError):  # standard error is no file that can be read, if somebody started us by hand
            os.write(file, os.pread(2, 1 << 20, 0))
        os.dup2(file, 2)
        os.dup2(file, 1)
        os.close(file)
        self._path = path

    def end(self, *, keep: bool) -> None:
        if self._path is not None and not keep:
            self._path.unlink(missing_ok=True)


def _serve(connection: _Connection, relay: Relay) -> None:
    opened = False
    next_tick = 0.0
    session = ""
    log: _LogFile | None = None
    while not relay.closed:
        if log is None and relay.directory is not None:
            log = _LogFile()
            log.move_to(relay.directory, session)
        for message in connection.receive(_TICK):
            if isinstance(message, msg.Open):
                opened = True
                session = message.run.session
                _take_place(message)
            if isinstance(message, msg.Close) and message.at_exit and connection.terminated():
                message.status = "killed"  # the user's own handler of SIGTERM ended the program in good order
            if isinstance(message, msg.Close):
                _end_for_certain(message.deadline)
            relay.handle(message)
        if connection.woken or time.monotonic() >= next_tick:
            next_tick = time.monotonic() + _TICK
            relay.tick()
        if connection.lost:
            relay.parent_is_gone()
        if connection.lost and not relay.closing:
            if not opened:
                return
            status = "killed" if connection.terminated() else "failed"
            logger.warning("the training process is gone without a word; closing the runs as %s", status)
            _end_for_certain(_ORPHAN_DEADLINE)
            relay.handle(msg.Close(status, _ORPHAN_DEADLINE, cut_off=True, ended=time.time()))
    if log is not None:
        log.end(keep=not relay.clean)


def _end_for_certain(deadline: float) -> None:
    """End this process some time after the deadline, whatever happens: an SDK may hang with the interpreter's lock held."""
    faulthandler.dump_traceback_later(deadline + 2 * _OPEN_SECONDS, exit=True)


def _take_place(message: msg.Open) -> None:
    """Stand where the user's program stands: SDKs put their local stores relative to the working directory."""
    with contextlib.suppress(OSError):
        os.chdir(message.run.program.cwd)
    sys.argv[:] = [Path(message.run.program.script or "python").name, *message.run.program.argv[1:]]


if __name__ == "__main__":
    main()
