"""A proxy in front of a Trackio server, which passes requests on, or answers with a page of its own."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """Serves on a port of this machine.

    Args:
        server: the address of what is behind it.

    Attributes:
        url: its own address.
        status: with what it answers by itself; None: it passes requests on.
        answered: how many requests it has answered by itself.
    """

    def __init__(self, server: str) -> None:
        self.server = server.partition("?")[0].rstrip("/")
        self.status: int | None = None
        self.answered = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])))

            def _answer(self, body: bytes | None) -> None:
                if proxy.status is None:
                    status, content = self._passed_on(body)
                else:
                    status, content = proxy.status, b"<html><body>a page of the proxy's</body></html>"
                    proxy.answered += 1
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _passed_on(self, body: bytes | None) -> tuple[int, bytes]:
                mine = ("host", "connection", "accept-encoding")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in mine}
                request = urllib.request.Request(proxy.server + self.path, body, headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        return answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    return error.code, error.read()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
