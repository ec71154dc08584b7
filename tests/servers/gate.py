"""A gate before a real server on 127.0.0.1, for HTTP and WebSockets: it lets everything through, or has one of the faults of
networks and of proxies, which know no service. Of the standard library alone.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from typing import Any

__all__ = ["Gate"]

_REQUEST = re.compile(rb"([A-Z]+ (\S+)) HTTP/1\.[01]\r\n")
_BODIES = {"json": (b"application/json", b'{"error": "injected"}'), "html": (b"text/html", b"<html>a page of the proxy's</html>")}


class Gate:
    """Listens on a port of its own.

    Args:
        target: the port on 127.0.0.1 that connections go to.

    Attributes:
        port: where it listens.
        requests: what came from clients: its ``path`` (empty for more of an open connection) and its ``fault`` (empty: none).
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.requests: list[dict[str, Any]] = []
        self._fault = self._body = ""
        self._changed = threading.Event()  # set, and another one in its place, with each change of the fault
        self._open = set[socket.socket]()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def fail(self, fault: str, body: str = "html") -> None:
        """From now on: ``hang`` (nothing is passed on or answered), ``lost`` (requests are passed on, and connections end before
        the answers), or a status, with which each request is answered; what comes in an open connection ends that.

        Args:
            fault: which.
            body: of an answer: ``json`` or ``html``.
        """
        self._change(fault, body)

    def heal(self) -> None:
        """Pass everything on from now on; what was held back is never passed on, and its connection ends."""
        self._change("", "")

    def close(self) -> None:
        self._change("closed", "")
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for end in left:
            _cut(end)

    def _change(self, fault: str, body: str) -> None:
        self._fault, self._body = fault, body
        changed, self._changed = self._changed, threading.Event()
        changed.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        ends = [client]
        try:
            if self._fault != "hang":
                with contextlib.suppress(OSError):  # no server: the client's connection ends as it does with most proxies
                    ends.append(socket.create_connection(("127.0.0.1", self.target)))
            with self._lock:
                self._open.update(ends)
            if len(ends) == 2:
                threading.Thread(target=self._answers, args=(ends[1], client), daemon=True).start()
            if len(ends) == 2 or self._fault:
                self._questions(client, ends[1] if len(ends) == 2 else None)
        finally:
            for end in ends:
                _cut(end)
            with self._lock:
                self._open.difference_update(ends)

    def _questions(self, client: socket.socket, server: socket.socket | None) -> None:
        """Pass on what the client sends, until one of the two ends it, or a fault does."""
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                changed, fault = self._changed, self._fault
                request = _REQUEST.match(data)
                self.requests.append({"path": request[2].decode() if request else "", "fault": fault})
                if fault == "hang":
                    changed.wait()
                    return
                if fault not in ("", "lost"):
                    if request:
                        kind, body = _BODIES[self._body]
                        head = b"HTTP/1.1 %s Injected\r\nContent-Type: %s\r\n" % (fault.encode(), kind)
                        client.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(1 << 16):  # else its unread rest would make the answer be thrown away
                            pass
                    return
                if server is None:
                    return
                server.sendall(data)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                changed, fault = self._changed, self._fault
                if fault == "hang":
                    changed.wait()
                    break
                if fault:
                    break
                client.sendall(data)
        _cut(client)
        _cut(server)


def _cut(end: socket.socket) -> None:
    """End a connection at once, for whoever waits on it in another thread, too."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
