"""The relay process of one session. Started by `tracelet_shim.bus.relay_process`, through `_start`; not for use by hand.

Messages come on standard input and, from the first writer on, in a ring (`tracelet_shim.bus.ring`); replies go to standard
output, a socket. Both are moved away before any SDK is imported, so that
what an SDK prints cannot mix with them. Ends when told to, or when its parent is gone: then it delivers what it has and
closes the runs as failed (killed, where the parent got SIGTERM).
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from tracelet_shim.backends.base import Program
from tracelet_shim.bus import messages as msg
from tracelet_shim.common.private_files import open_file
from tracelet_shim.relay import said
from tracelet_shim.relay.connection import Connection
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.relay.end import clean_up
from tracelet_shim.relay.guest import take_place
from tracelet_shim.relay.priority import Priority
from tracelet_shim.relay.serving import OPEN_SECONDS, Place, serve

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
        serve(connection, relay, _OwnProcess())
    except BaseException:
        logger.exception("the relay stopped")
        code = 1
    finally:
        connection.send()
        relay.let_open(OPEN_SECONDS)
        clean_up()
    os._exit(code)  # an SDK's own exit handlers may hang; every run has been closed, or given up with a message


class _OwnProcess(Place):
    """This process is the session's alone.

    What the relay and the SDKs print is in ``<session>.log`` of the state directory. Until that is known it is in the nameless
    temporary file that standard error was started with. Nothing stays of a session in which all went well.
    """

    def __init__(self) -> None:
        self._log: Path | None = None
        self._priority = Priority()

    def begin(self, program: Program) -> None:
        take_place(program)

    def log_to(self, directory: Path, session: str) -> None:
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
        self._log = path

    def step_back(self, *, back: bool) -> None:
        self._priority.step_back(back=back)

    def end_by(self, seconds: float) -> None:
        """End this process some time after that, whatever happens: an SDK may hang with the interpreter's lock held."""
        faulthandler.dump_traceback_later(seconds + 2 * OPEN_SECONDS, exit=True)

    def ended(self, *, clean: bool) -> None:
        if self._log is not None and clean:
            self._log.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
