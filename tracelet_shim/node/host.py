"""The process in which many sessions are served, each with a thread of its own and those of its trackers.

Started by `tracelet_shim.node.front`, which sends it sessions. All that is of the process is theirs in common: working directory
and environment, which they agree in; standard error; the priority. It ends when the front lets it go, or is gone, and the last
session has ended.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Program
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.common.system import more_files
from tracelet_shim.relay import said
from tracelet_shim.relay.connection import Connection
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.relay.end import clean_up
from tracelet_shim.relay.priority import Priority
from tracelet_shim.relay.serving import OPEN_SECONDS, Place, serve

_FDS = 5
_LONGEST_REQUEST = 1 << 16
_LONGEST_TICK = 0.8
_YOUNG_OBJECTS = 50_000
_STUCK_SECONDS = 300.0
"""After so many seconds in which no thread could run, since an SDK hangs with the interpreter's lock held, the process ends."""

logger = logging.getLogger("tracelet_shim.relay")


class _Together:
    """What the sessions of this process have in common."""

    def __init__(self) -> None:
        self._priority = Priority()
        self._lock = threading.Lock()
        self._waited_for: set[object] = set()
        self._sessions: set[object] = set()
        self.all_clean = True

    def begin(self, session: object) -> None:
        with self._lock:
            self._sessions.add(session)

    def end(self, session: object, *, clean: bool) -> None:
        with self._lock:
            self._sessions.discard(session)
            self._waited_for.discard(session)
            self.all_clean = self.all_clean and clean

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def step_back(self, session: object, *, back: bool) -> None:
        """The process stands beside the training programs as long as one of them waits for it."""
        with self._lock:
            if back:
                self._waited_for.discard(session)
            else:
                self._waited_for.add(session)
            self._priority.step_back(back=not self._waited_for)


class _Shared(Place):
    """This process is that of many sessions.

    What they and the SDKs print is in the host's log, by thread. Nothing stays of a host in which all went well.
    """

    longest_tick, tick_beside = _LONGEST_TICK, _LONGEST_TICK / 2

    def __init__(self, together: _Together) -> None:
        self._together = together
        self._back: bool | None = None
        self.clean = False

    def begin(self, program: Program) -> None:
        """Nothing to do: the process stands where the program stands."""

    def log_to(self, directory: Path, session: str) -> None:
        threading.current_thread().name = f"session-{session}"
        logger.info("its state is in %s", directory)

    def step_back(self, *, back: bool) -> None:
        if back != self._back:
            self._back = back
            self._together.step_back(self, back=back)

    def end_by(self, seconds: float) -> None:
        """Others go on: that this session hangs is no reason to end the process."""

    def ended(self, *, clean: bool) -> None:
        self.clean = clean


class _Session:
    """One session, served by a thread.

    Args:
        request: what the front says of it.
        descriptors: of the connection to the training process, of what the relay reads and writes, of the pipe in which SIGTERM
            leaves its mark, and of the training process, where the system has such.
    """

    def __init__(self, request: dict[str, Any], descriptors: list[int], together: _Together, ended: Callable[[], None]) -> None:
        self._request = request
        self._control = socket.socket(fileno=descriptors[0])
        self._control.setblocking(False)
        self._ways = descriptors[1:4]
        self._process = descriptors[4] if len(descriptors) == _FDS else None
        self._together = together
        self._place = _Shared(together)
        self._ended = ended
        self._say({"pid": os.getpid()})
        together.begin(self)
        threading.Thread(target=self._main, name="session", daemon=True).start()

    def _say(self, word: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody may be there any more
            self._control.send(json.dumps(word).encode())

    def _is_orphan(self) -> bool:
        """True if the training process has ended."""
        if self._process is None:
            return not run_report.is_alive(self._request["pid"], self._request["at"])
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        return bool(poll.poll(0))

    def _main(self) -> None:
        run_report.report_to(self._request["report"])
        read, write, term = self._ways
        connection = Connection(
            read, write, self._request["pid"], term, is_gone=self._is_orphan, control=self._control
        )
        relay = Relay(connection.reply, wake=connection.wake)
        connection.reply(msg.Hello())
        code, reason = 0, ""
        try:
            serve(connection, relay, self._place)
        except BaseException as error:  # whatever it is, it is this session's
            logger.exception("a session stopped")
            code, reason = 1, f"{type(error).__name__}: {error}"
        try:
            if not relay.closed:
                relay.abandon()
            connection.send()
        except Exception:
            logger.exception("a session could not be let go")
        finally:
            self._let_go(connection, code, reason)
        relay.let_open(OPEN_SECONDS)

    def _let_go(self, connection: Connection, code: int, reason: str) -> None:
        run_report.add(served=self._request["key"], ended=True)
        connection.close()
        self._say({"code": code, "reason": reason})
        self._control.close()
        if self._process is not None:
            os.close(self._process)
        self._together.end(self, clean=self._place.clean and code == 0)
        self._ended()


class Host:
    """Takes sessions from the front.

    Args:
        way: the socket to it.
    """

    def __init__(self, way: socket.socket) -> None:
        self._way = way
        self._together = _Together()
        self._telling = threading.Lock()

    def run(self) -> bool:
        """Serve; return whether all went well."""
        self._way.settimeout(_STUCK_SECONDS / 10)
        while self._receive():
            faulthandler.dump_traceback_later(_STUCK_SECONDS, exit=True)
        while self._together.sessions:
            faulthandler.dump_traceback_later(_STUCK_SECONDS, exit=True)
            time.sleep(0.1)
        return self._together.all_clean

    def _receive(self) -> bool:
        """Take a session, or wait in vain for a while; return False if no more will come."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._way, _LONGEST_REQUEST, _FDS)
        except TimeoutError:
            return True
        except OSError:
            return False
        if not data:
            return False
        _Session(json.loads(data), list(descriptors), self._together, self._has_ended)
        return True

    def _has_ended(self) -> None:
        with self._telling, contextlib.suppress(OSError):  # the front may be gone
            self._way.send(b"-")


def main() -> None:
    """Serve what the front sends."""
    way = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(way.fileno(), False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sessions end with their programs
    more_files()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
    form = "%(asctime)s %(threadName)s %(name)s %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
    said.listen()
    registry.prepare_shared(os.environ)
    clean = False
    try:
        clean = Host(way).run()
    except BaseException:
        logger.exception("the host stopped")
    finally:
        clean_up()
    os._exit(0 if clean else 1)


if __name__ == "__main__":
    main()
