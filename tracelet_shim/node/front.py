"""The process that training processes connect to: it hands each session to the host of its kind.

A host is a process for all sessions that can share one: those of one interpreter, with the same import path, in the same
directory and with the same environment, but for `tracelet_shim.bus.collected.PER_PROCESS`. The front has no SDK itself, and
looks into nothing but what says that: so nothing that goes wrong with a tracker reaches it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tracelet_shim.bus.collected import PROTOCOL
from tracelet_shim.bus.collector_place import peer
from tracelet_shim.common import run_report
from tracelet_shim.common.private_files import open_file
from tracelet_shim.common.system import more_files, user_number

__all__ = ["IDLE", "Front"]

IDLE = 60.0
"""Seconds after which a collector ends that was started on demand, and a host that has nothing to do."""
_RENEW = 500
_LONGEST_REQUEST = 16 << 20
_FDS = 4
_PATIENCE = 10.0
"""Seconds that one who has connected may take to say what he wants."""
_BUSY_SECONDS, _PAUSE = 2.0, 0.005
"""How long a host may be too busy to take one more session."""

logger = logging.getLogger("tracelet_shim.node")


class _Host:
    """A host process, and the way to it.

    Attributes:
        sessions: how many it has.
        taken: how many it has had, those among them.
        since: monotonic seconds since which it has none.
    """

    def __init__(self, process: subprocess.Popen[bytes], way: socket.socket, log: Path) -> None:
        self.process = process
        self.way = way
        self.log = log
        self.sessions = self.taken = 0
        self.since = time.monotonic()


class Front:
    """Takes sessions until it is told to end, or nobody needs it.

    Args:
        path: of the socket.
        listener: listens there.
        held: the descriptor that keeps others from doing so.
        idle: seconds without a session after which it ends; None: never.
        drain: seconds that sessions may go on after the end has been asked for; None: as long as they take.
        renew: sessions after which a host gets no more, but a new one in its place: SDKs keep a little of each run (of MLflow's,
            0.4 MB was measured).
    """

    def __init__(
        self, path: Path, listener: socket.socket, held: int, *, idle: float | None = None, drain: float | None = None,
        renew: int = _RENEW,
    ) -> None:  # fmt: skip
        self._path = path
        self._listener = listener
        self._held = held
        self._idle = idle
        self._drain = drain
        self._renew = renew
        self._hosts: dict[bytes, _Host] = {}
        self._leaving: list[_Host] = []  # that have been told to end, or have died
        self._guests: dict[socket.socket, float] = {}
        self._since = time.monotonic()
        self._asked = 0  # how often the end has been asked for
        self._until = float("inf")
        self._selector = selectors.DefaultSelector()
        self._number = 0

    def run(self) -> None:
        """Serve."""
        more_files()
        woken, wakes = socket.socketpair()
        with woken, wakes:
            for end in (woken, wakes, self._listener):
                end.setblocking(False)
            signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGTERM, self._end)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, self._end)
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(woken, selectors.EVENT_READ)
            while not self._is_over():
                for key, _ in self._selector.select(self._pause()):
                    if key.fileobj is woken:
                        woken.recv(64)
                    elif key.fileobj is self._listener:
                        self._welcome()
                    elif isinstance(key.data, _Host):
                        self._hear(key.data)
                    else:
                        self._take(key.fileobj)  # type: ignore[arg-type]
                self._look()
            signal.set_wakeup_fd(-1)
        self._close()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1

    def _is_over(self) -> bool:
        busy = self._guests or self._leaving or any(host.sessions for host in self._hosts.values())
        if self._asked:
            return not busy
        return self._idle is not None and not busy and time.monotonic() >= self._since + self._idle

    def _pause(self) -> float:
        """Return how long to wait for something to happen."""
        if self._guests or self._leaving:
            return 0.2
        left = [self._until - time.monotonic()] if self._asked else []
        left += [self._since + self._idle - time.monotonic()] if self._idle is not None else []
        left += [host.since + IDLE - time.monotonic() for host in self._hosts.values() if not host.sessions]
        return max(0.05, min([*left, 60.0]))

    def _look(self) -> None:
        """Do what time asks for."""
        now = time.monotonic()
        if any(host.sessions for host in self._hosts.values()) or self._guests:
            self._since = now
        for guest in [guest for guest, until in self._guests.items() if now > until]:
            self._send_off(guest)
        for key, host in list(self._hosts.items()):
            if not host.sessions and now >= host.since + min(IDLE, self._idle or IDLE):
                self._let_go(key, host)
        self._leaving = [host for host in self._leaving if not self._has_ended(host)]
        if self._asked and self._listener.fileno() >= 0:
            logger.info("no more sessions are taken")
            self._refuse()
            self._until = now + self._drain if self._drain is not None else float("inf")
        if self._asked > 1 or now >= self._until:
            for host in (*self._hosts.values(), *self._leaving):
                if host.sessions:
                    logger.warning("%d sessions are left to processes of their own", host.sessions)
                host.process.kill()

    def _refuse(self) -> None:
        """Listen no longer. Who has connected, and was not taken, sees the end of the connection."""
        self._selector.unregister(self._listener)
        self._path.unlink(missing_ok=True)
        self._listener.close()

    def _close(self) -> None:
        if self._listener.fileno() >= 0:
            self._refuse()
        for key, host in list(self._hosts.items()):
            self._let_go(key, host)
        for host in self._leaving:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.process.wait(_PATIENCE)
            self._has_ended(host)
        os.close(self._held)

    # -- who comes ----------------------------------------------------------------------------------------------------

    def _welcome(self) -> None:
        try:
            guest, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # some will be closed soon
                time.sleep(_PAUSE)
            return  # else he has gone again
        _, user = peer(guest)
        if user != user_number():
            guest.close()
            return
        guest.setblocking(False)
        self._guests[guest] = time.monotonic() + _PATIENCE
        self._selector.register(guest, selectors.EVENT_READ)

    def _send_off(self, guest: socket.socket, reason: str | None = None) -> None:
        if reason is not None:
            with contextlib.suppress(OSError):
                guest.send(json.dumps({"code": 1, "reason": reason}).encode())
        self._leave(guest)
        guest.close()

    def _leave(self, guest: socket.socket) -> None:
        del self._guests[guest]
        self._selector.unregister(guest)

    def _take(self, guest: socket.socket) -> None:
        """Hand a session over to its host."""
        descriptors: list[int] = []
        try:
            try:
                _, descriptors, _, _ = socket.recv_fds(guest, 64, _FDS)
            except BlockingIOError:
                return
            if len(descriptors) != _FDS:  # somebody only wanted to know whether we are here
                self._send_off(guest)
                return
            wanted = json.loads(_read(descriptors[3]))
            if wanted["protocol"] != PROTOCOL:
                self._send_off(guest, "it is of another version")
                return
            host = self._host(wanted)
            pid, _ = peer(guest)
            self._pass_on(host, wanted, pid, [guest.fileno(), *descriptors[:3]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("a session cannot be served", exc_info=True)
            self._send_off(guest, f"{type(error).__name__}: {error}")
        else:
            self._leave(guest)
            guest.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _pass_on(self, host: _Host, wanted: dict[str, Any], pid: int, descriptors: list[int]) -> None:
        request = {"key": wanted["key"], "report": wanted["report"], "pid": pid, "at": time.time()}
        with contextlib.ExitStack() as stack:
            if hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):  # an old kernel; or it has just ended, which the host finds by itself
                    process = os.pidfd_open(pid)
                    stack.callback(os.close, process)
                    descriptors.append(process)
            _send(host.way, json.dumps(request).encode(), descriptors)
        host.sessions += 1
        host.taken += 1
        run_report.report_to(wanted["report"])
        run_report.add(served=wanted["key"], relay=host.process.pid)

    # -- hosts --------------------------------------------------------------------------------------------------------

    def _host(self, wanted: dict[str, Any]) -> _Host:
        """Return the host for a session, a new one if there is none."""
        kind = json.dumps([wanted["command"], wanted["cwd"], sorted(wanted["environment"].items())])
        key = hashlib.sha256(kind.encode()).digest()
        if key in self._hosts and self._hosts[key].taken >= self._renew:
            self._let_go(key, self._hosts[key])
        if key not in self._hosts:
            self._hosts[key] = self._start(wanted)
        return self._hosts[key]

    def _start(self, wanted: dict[str, Any]) -> _Host:
        self._number += 1
        log = self._path.with_name(f"host-{os.getpid()}-{self._number}.log")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(open_file(log, os.O_WRONLY | os.O_APPEND), "wb") as out:
            process = subprocess.Popen(  # noqa: S603 - what the same user would start himself
                [*wanted["command"], str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=wanted["cwd"] if os.path.isdir(wanted["cwd"]) else "/",
                env=wanted["environment"],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # the terminal's Ctrl-C is for us
            )
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        host = _Host(process, ours, log)
        self._selector.register(ours, selectors.EVENT_READ, host)
        logger.info("process %d serves %s", process.pid, wanted["cwd"])
        return host

    def _hear(self, host: _Host) -> None:
        """A session has ended there; or the host has."""
        with contextlib.suppress(BlockingIOError):
            while word := _received(host.way):
                host.sessions -= len(word)
                host.since = self._since = time.monotonic()
            key = next((key for key, mine in self._hosts.items() if mine is host), None)
            if key is not None:
                logger.warning("process %d ended with %d sessions; %s", host.process.pid, host.sessions, host.log)
                host.sessions = 0
                self._let_go(key, host)

    def _let_go(self, key: bytes, host: _Host) -> None:
        """Have a host end when its sessions have; there is none on the way to it."""
        del self._hosts[key]
        self._selector.unregister(host.way)
        host.way.close()
        self._leaving.append(host)

    def _has_ended(self, host: _Host) -> bool:
        code = host.process.poll()
        if code == 0:
            host.log.unlink(missing_ok=True)
        return code is not None


def _send(way: socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send, to one who may be busy for a moment."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            socket.send_fds(way, [data], descriptors)
        except OSError as error:  # the other limit is that of the descriptors that are on their way
            if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS) or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _received(way: socket.socket) -> bytes:
    try:
        return way.recv(64)
    except ConnectionError:
        return b""


def _read(descriptor: int) -> bytes:
    """Return all that is in a file, wherever it stands."""
    data = b""
    while len(data) < _LONGEST_REQUEST and (more := os.pread(descriptor, 1 << 20, len(data))):
        data += more
    return data
