"""What the stand-in servers share: an HTTP server on 127.0.0.1 that records what it gets, keeps its state over a restart, and
misbehaves when it is told to.

    GET  /_standin/state                                           the state, as JSON
    POST /_standin/fault {"mode": "500", "paths": "...", "count": 1}   misbehave

Modes: ``ok``; ``hang`` (take the request, answer nothing, and close the connection when the mode ends); ``swallow`` (never answer
nor close what was asked meanwhile, as behind a dead load balancer); ``lost`` (do what was asked, then close the connection
without an answer); a status code (answer that). `paths` is a regular expression that limits it to some paths, `count` ends it
after so many requests (0: it lasts until the next one is set). `body` is what a status is answered with: ``"json"`` (an error
as many services write it, but not the one that is stood in for) or ``"html"`` (a proxy's page).

In the directory of a server: ``state.json`` is what it holds, written before each answer, so that an answer which is sent is
one that survives SIGKILL; ``requests.jsonl`` has a line for each request; ``files/`` are uploads.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Answer", "Query", "StandIn", "main"]

Answer = tuple[int, Any]
"""A status, and what is sent: bytes, or a value for JSON."""
Query = Mapping[str, list[str]]

_KEPT = 2000  # characters of a body that are recorded
_PROXY = b"<html><body><h1>stand-in: a proxy's page</h1></body></html>"


class LostError(Exception):
    """Close the connection without an answer."""


class Fault(NamedTuple):
    """How the server misbehaves; `left` requests do so, all where it is 0."""

    mode: str = "ok"
    paths: str = ""
    left: int = 0
    body: str = "json"


class StandIn(ThreadingHTTPServer):
    """Subclasses define `empty`, the first state, and `answer`.

    Args:
        port: where to listen; 0: where there is room.
        folder: what was received, and an earlier state.
    """

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, port: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lock = folder, threading.RLock()
        self._fault = Fault()
        stored = folder / "state.json"
        self.state: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else self.empty()
        self.save()
        self._requests = open(folder / "requests.jsonl", "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - kept open
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, LostError)):
            super().handle_error(request, client_address)

    def empty(self) -> dict[str, Any]:
        """Return the state of a server that nobody has used yet."""
        raise NotImplementedError

    def answer(self, method: str, path: str, query: Query, body: bytes, headers: Message) -> Answer:
        """Do what was asked."""
        raise NotImplementedError

    def unknown(self, what: str, asked: object) -> None:
        """Say loudly that a request is not understood: a test that depends on it proves nothing."""
        with self.lock:
            self.state["unknown"].append(what)
            self.save()
        print(f"stand-in: unknown {what} {str(asked)[:200]}", flush=True)

    def save(self) -> None:
        """Keep the state on disk."""
        with self.lock:
            new = self.folder / "state.json.new"
            new.write_text(json.dumps(self.state))
            os.replace(new, self.folder / "state.json")

    def store(self, path: str, data: bytes) -> str:
        """Keep an uploaded file; return where, relative to ``files``."""
        target = self.place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return str(target.relative_to(self.folder / "files"))

    def place(self, path: str) -> Path:
        """Return where an uploaded file is kept."""
        return self.folder.joinpath("files", *(part for part in Path(unquote(path)).parts if part not in ("/", "..", ".")))

    # -- faults ------------------------------------------------------------------------------------------------------

    def set_fault(self, asked: Mapping[str, Any]) -> None:
        with self.lock:
            self._fault = Fault(
                str(asked.get("mode", "ok")), asked.get("paths", ""), int(asked.get("count", 0)), asked.get("body", "json")
            )

    def take_fault(self, path: str) -> Fault:
        """Return how to treat a request to this path."""
        with self.lock:
            fault = self._fault
            if fault.mode == "ok" or not re.search(fault.paths, path):
                return Fault()
            if fault.left:
                self._fault = fault._replace(left=fault.left - 1) if fault.left > 1 else Fault()
            return fault

    def still(self, fault: Fault) -> bool:
        """True until another mode is set."""
        return self._fault[:2] == fault[:2]

    def note(self, line: Mapping[str, Any]) -> None:
        self._requests.write(json.dumps(line) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: Any) -> None:
        """``requests.jsonl`` has it."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        how = self.headers.get("Content-Encoding", "")
        return gzip.decompress(data) if how == "gzip" else zlib.decompress(data) if how == "deflate" else data

    def _send(self, status: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        kind = "text/html" if value is _PROXY else "application/octet-stream" if value is data else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _do(self) -> None:
        url = urlsplit(self.path)
        data = self._body()
        if url.path.startswith("/_standin/"):
            self._control(url.path, data)
            return
        fault = self.server.take_fault(url.path)
        if fault.mode in ("hang", "swallow"):
            self._note(url.path, 0, data, fault)
            self._keep_waiting(fault)
        if fault.mode.isdigit():
            status = int(fault.mode)
            said = f"stand-in answers {status}"
            self._note(url.path, status, data, fault)
            self._send(status, _PROXY if fault.body == "html" else {"error": said, "message": said})
            return
        try:
            status, value = self.server.answer(
                self.command, url.path, parse_qs(url.query, keep_blank_values=True), data, self.headers
            )
        except Exception as error:  # a stand-in that does not know something is to say so, loudly
            status, value = 500, {"error": f"stand-in: {type(error).__name__}: {error}"}
            self.server.unknown(f"{self.command} {self.path}: {type(error).__name__}: {error}", data[:_KEPT])
        self._note(url.path, status, data, fault)
        if fault.mode == "lost":
            raise LostError
        self._send(status, value)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _do  # noqa: N815 - what http.server looks for

    def _keep_waiting(self, fault: Fault) -> None:
        while fault.mode == "swallow" or self.server.still(fault):
            time.sleep(0.05)
        raise LostError

    def _note(self, path: str, status: int, data: bytes, fault: Fault) -> None:
        self.server.note({
            "time": round(time.time(), 3), "method": self.command, "path": path, "query": urlsplit(self.path).query,
            "status": status, "fault": fault.mode, "length": len(data), "body": data[:_KEPT].decode("utf-8", "replace"),
        })  # fmt: skip

    def _control(self, path: str, data: bytes) -> None:
        if path.endswith("/fault"):
            self.server.set_fault(json.loads(data or b"{}"))
        with self.server.lock:
            value = json.loads(json.dumps(self.server.state))
        self._send(200, value)


def main(server: type[StandIn], doc: str | None) -> None:
    """Serve until the process is killed; the first line of output says where."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path, required=True, help="directory for what is received")
    given = parser.parse_args()
    with server(given.port, given.record) as serving:
        print(f"listening on {serving.base}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            serving.serve_forever(0.05)
