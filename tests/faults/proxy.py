"""A small HTTP proxy for 127.0.0.1 that misbehaves on demand, of the standard library alone.

Each request is answered as `Proxy.fault` says: forwarded, forwarded late, answered with an error, forwarded and then cut
off before or in the middle of the answer, or left without any answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Delay(NamedTuple):
    """Forward; pass the answer on after so many seconds."""

    seconds: float


class Answer(NamedTuple):
    """Do not forward; answer with this status."""

    status: int


class Reset(NamedTuple):
    """Forward and let the server do its work; pass on this part of its answer, and reset the connection."""

    part: float


class Hang(NamedTuple):
    """Do not forward; keep the connection open without an answer, until the proxy is closed or the client goes away."""


Fault: TypeAlias = Delay | Answer | Reset | Hang | None


class Request(NamedTuple):
    """What the proxy has seen.

    Attributes:
        number: 0 for the first one.
        line: ``POST /api/2.0/mlflow/runs/log-batch``.
        fault: what was done to it.
    """

    number: int
    line: str
    fault: Fault


class Proxy:
    """Listens on a port of its own; a context manager.

    Args:
        target: port on 127.0.0.1 that requests go to.
        fault: chooses what happens to a request, by its number and its first line without the version.

    Attributes:
        port: where it listens.
        requests: what came, in order.
    """

    def __init__(self, target: int, fault: Callable[[int, str], Fault]) -> None:
        self.target = target
        self.fault = fault
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:  # noqa: PYI034 - nobody subclasses it
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(60)
            request = _read_request(client)
            if request is None:
                return
            line = request.split(b"\r\n", 1)[0].decode("latin-1").rpartition(" ")[0]
            with self._lock:
                number = len(self.requests)
                fault = self.fault(number, line)
                self.requests.append(Request(number, line, fault))
            self._do(client, request, fault)

    def _do(self, client: socket.socket, request: bytes, fault: Fault) -> None:
        if isinstance(fault, Hang):
            client.settimeout(0.2)
            while not self._closed.is_set():
                with contextlib.suppress(TimeoutError):
                    if not client.recv(1):
                        return
            return
        if isinstance(fault, Answer):
            body = b"a proxy says no"
            head = f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
            return
        answer = self._forward(request)
        if isinstance(fault, Reset):
            client.sendall(answer[: int(len(answer) * fault.part)])
            # Zero seconds of lingering: closing sends RST, not FIN.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if isinstance(fault, Delay):
            time.sleep(fault.seconds)
        client.sendall(answer)

    def _forward(self, request: bytes) -> bytes:
        """Return the server's whole answer. If there is no server, the client sees its connection end."""
        with socket.create_connection(("127.0.0.1", self.target), timeout=60) as server:
            server.sendall(request)
            parts = []
            while part := server.recv(1 << 16):  # ends, because we ask the server to close
                parts.append(part)
        return b"".join(parts)


def _read_request(client: socket.socket) -> bytes | None:
    """Return one request, told to close the connection behind it; None if there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(1 << 16)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += client.recv(1 << 16)
    else:
        while len(body) < int(fields.get(b"content-length", b"0")):
            body += client.recv(1 << 16)
    kept = [line for line in lines if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*kept, b"Connection: close", b"", body])
