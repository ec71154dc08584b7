"""The relay process. Started by `tracelet_shim.bus.process`, through `_start`; not for use by hand.

Messages come on standard input and, from the first writer on, in a ring (`tracelet_shim.bus.ring`); replies go to standard
output, a socket. Both are moved away before any SDK is imported, so that
what an SDK prints cannot mix with them. Ends when told to, or when its parent is gone: then it delivers what it has and
closes the runs as failed (killed, where the parent got SIGTERM).
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.common.private_files import open_file
from tracelet_shim.relay import said
from tracelet_shim.relay.connection import Connection
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.relay.guest import take_place
from tracelet_shim.relay.priority import Priority
from tracelet_shim.relay.tail import take_tail

_TICK = 0.1
_ORPHAN_SECONDS = 300.0
"""How long a relay whose training process is gone without a word goes on, at least."""
_OPEN_SECONDS = 120.0
"""How long a tracker that makes its store may go on with that, after the end of all the rest."""
_CLEAN_UP_SECONDS = 2.0
_YOUNG_OBJECTS = 50_000

logger = logging.getLogger("tracelet_shim.relay")


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
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    said.listen()
    connection = Connection(read, write, parent, term)
    relay = Relay(connection.reply, wake=connection.wake)
    connection.reply(msg.Hello())
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


def _serve(connection: Connection, relay: Relay) -> None:
    opened = tail_taken = False
    next_tick = 0.0
    session, linger = "", 0.0
    log: _LogFile | None = None
    priority = Priority()
    while not relay.closed:
        if log is None and relay.directory is not None:
            log = _LogFile()
            log.move_to(relay.directory, session)
        for message in connection.receive(_TICK):
            if isinstance(message, msg.Open):
                opened = True
                session, linger = message.run.session, message.linger
                take_place(message.run.program)
                connection.waits = message.restarted
            if isinstance(message, msg.Close) and message.at_exit and connection.terminated():
                message.status = "killed"  # the user's own handler of SIGTERM ended the program in good order
            if isinstance(message, msg.Close):
                _end_for_certain(message.deadline + message.linger)
            if isinstance(message, msg.UseRing):
                connection.use_ring(message.path)
                continue
            if isinstance(message, msg.Continue):
                message.lost = connection.go_on(relay.records)
            relay.handle(message)
        priority.step_back(back=opened and not connection.lost and not relay.is_waited_for)
        connection.done(indexed=relay.indexed)
        if connection.woken or time.monotonic() >= next_tick:
            next_tick = time.monotonic() + _TICK
            relay.tick()
        if connection.lost and not tail_taken and (not relay.closing or connection.is_orphan):
            tail_taken = True
            logger.info("%d records were in the event files only", take_tail(relay))
        if connection.lost:
            relay.parent_is_gone()
        if connection.lost and not relay.closing:
            if not opened:
                return
            status = "killed" if connection.terminated() else "failed"
            logger.warning("the training process is gone without a word; closing the runs as %s", status)
            seconds = max(_ORPHAN_SECONDS, linger)
            _end_for_certain(seconds)
            relay.handle(msg.Close(status, seconds, cut_off=True, ended=time.time()))
    connection.end()
    if log is not None:
        log.end(keep=not relay.clean)


def _end_for_certain(deadline: float) -> None:
    """End this process some time after the deadline, whatever happens: an SDK may hang with the interpreter's lock held."""
    faulthandler.dump_traceback_later(deadline + 2 * _OPEN_SECONDS, exit=True)


if __name__ == "__main__":
    main()
