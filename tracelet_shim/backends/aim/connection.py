"""The connection to an Aim server: everything has a time limit, and what is written is kept until the server has it.

Aim's own client (``aim/ext/transport/client.py``, the same in 3.27 to 3.29) puts what is written into a queue with a thread.
The thread ends at the first answer that it does not expect, who waits for it waits for ever, and most requests have no limit.
Here the thread that writes sends, many instructions in one message, and an error is its own. What the server has not acknowledged
is sent again: each instruction says what is stored where, so that one that comes twice changes nothing.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import inspect
import logging
import socket
import struct
import threading
from collections import deque
from copy import deepcopy
from typing import Any

from tracelet_shim.errors import BackendError, EventRejectedError

__all__ = ["AnswerError", "connection_class"]

_SECONDS = 20.0  # without an answer; a server waits up to ten seconds for the lock of a run
_TOGETHER = 32
"""Instructions in a message, six scalars or so. The server's `unpack_args` copies the rest of a message for each of its parts."""
_MESSAGE_BYTES = 1 << 20  # beyond that an instruction goes alone: uvicorn takes 16 MiB
_TOO_BIG = 1009  # the code with which a WebSocket is closed on a message that is too long

logger = logging.getLogger(__name__)


class AnswerError(BackendError):
    """What has answered is no Aim server, or its last resort.

    Attributes:
        status: the HTTP status.
        own: False if the answer has not the form of Aim's server.
    """

    def __init__(self, text: str, status: int, *, own: bool) -> None:
        super().__init__(text)
        self.status, self.own = status, own


class _Sender:
    """Stands where Aim's client has its queue."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def wait_for_finish(self) -> None:
        self._connection.send()

    def stop(self) -> None:
        """There is no thread."""


class _Methods:
    """What a `Connection` does otherwise than Aim's client, from which it has the rest."""

    _http_protocol: str
    _ws_protocol: str
    _client_endpoint: str
    _tracking_endpoint: str
    _resource_pool: Any
    _heartbeat_sender: Any
    _ws: Any
    request_headers: dict[str, str]
    ssl_certfile: str | None = None  # up to 3.24, Aim's client has none
    ssl_context: Any = None
    uri: str

    def __init__(self, remote_path: str) -> None:
        import requests

        self._session = requests.Session()
        self._written = deque[tuple[Any, str, Any]]()  # and not acknowledged
        self._lock = threading.RLock()
        self._is_lost = False
        super().__init__(remote_path)  # type: ignore[call-arg]
        queue = self._queue
        queue._shutdown = True  # its thread ends behind this
        queue._queue.put((lambda _: None, ((),)))
        self._queue: Any = _Sender(self)

    # -- writing ----------------------------------------------------------------------------------------------------

    def run_instruction(self, queue_id: Any, resource: str, method: str, args: Any = (), is_write_only: bool = False) -> Any:
        if not is_write_only:
            return self._run_read_instructions(queue_id, resource, method, args)
        with self._lock:
            self._written.append((resource, method, deepcopy(args)))
        return None

    def start_instructions_batch(self, hash_: str) -> None:
        """Everything is sent in batches."""

    def flush_instructions_batch(self, hash_: str) -> None:
        """Likewise."""

    def send(self) -> None:
        """Send what is written; return when the server has acknowledged all of it.

        Raises:
            EventRejectedError: the server takes no message of that length; what was not acknowledged is forgotten.
            Exception: it was not acknowledged, and stays for the next time.
        """
        from websockets.exceptions import ConnectionClosed

        with self._lock:
            while self._written:
                message, count = self._message()
                try:
                    self._deliver(message)
                except ConnectionClosed as error:
                    self.drop()
                    if error.rcvd is None or error.rcvd.code != _TOO_BIG:
                        raise
                    self._written.clear()
                    raise EventRejectedError(f"the Aim server takes no message of {len(message)} bytes") from error
                except BaseException:
                    self.drop()
                    raise
                for _ in range(count):
                    self._written.popleft()

    def forget(self) -> None:
        """What was written and not acknowledged is not to be sent."""
        with self._lock:
            self._written.clear()

    def drop(self) -> None:
        """Whoever sends next connects anew."""
        self._is_lost = True
        ws, self._ws = self._ws, None
        if ws is not None:
            with contextlib.suppress(OSError):  # it is not connected any more
                ws.socket.shutdown(socket.SHUT_RDWR)  # `close` would wait for the server

    def _message(self) -> tuple[bytes, int]:
        """Return the next message, and how many instructions it has."""
        from aim.ext.transport.message_utils import encode_tree, pack_args

        count = min(_TOGETHER, len(self._written))
        while True:
            some = [self._written[n] for n in range(count)]
            message = pack_args(encode_tree(some, strict=False))
            if len(message) <= _MESSAGE_BYTES or count == 1:
                return message, count
            count //= 2

    def _deliver(self, message: bytes) -> None:
        from aim.ext.transport.message_utils import decode_tree, unpack_args

        if self._is_lost:
            self.reconnect()
        if self._ws is None:
            self._ws = self._websocket()
        self._ws.send(message)
        try:
            answer = self._ws.recv(timeout=_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"the Aim server has not taken the data for {_SECONDS:g} s") from error
        if answer != b"OK":
            self._raise(decode_tree(unpack_args(answer)))

    def _websocket(self) -> Any:
        from websockets.sync.client import connect

        options: dict[str, Any] = {"additional_headers": self.request_headers, "max_size": None}
        if self.ssl_context is not None:
            options["ssl"] = self.ssl_context
        if "legacy" in inspect.signature(connect).parameters:  # from 17.1 on: no iterator, but one connection
            options["legacy"] = True
        ws = connect(f"{self._ws_protocol}{self._tracking_endpoint}/{self.uri}/write-instruction/", **options)
        ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_SECONDS), 0))
        return ws

    # -- asking -----------------------------------------------------------------------------------------------------

    def _run_read_instructions(self, queue_id: Any, resource: str, method: str, args: Any) -> Any:
        from aim.ext.transport.message_utils import decode_tree, encode_tree, pack_args, unpack_args

        with self._lock:
            self.send()
            if self._is_lost:
                self.reconnect()
            packed = base64.b64encode(pack_args(encode_tree(args))).decode()
            question = {"resource_handler": resource, "method_name": method, "args": packed}
            answer = self._ask("POST", f"{self._tracking_endpoint}/{self.uri}/read-instruction/", json=question)
        if not answer.content or "html" in answer.headers.get("Content-Type", ""):
            raise AnswerError("the answer is no Aim server's", answer.status_code, own=False)
        return decode_tree(unpack_args(answer.content))

    def get_resource_handler(self, resource: Any, resource_type: str, handler: str = "", args: Any = ()) -> str:
        question = {"resource_handler": handler, "resource_type": resource_type, "args": base64.b64encode(args).decode()}
        answer = self._ask("POST", f"{self._tracking_endpoint}/{self.uri}/get-resource/", json=question)
        try:
            found = str(answer.json()["handler"])
        except (ValueError, LookupError, TypeError) as error:
            raise AnswerError("the answer is no Aim server's", answer.status_code, own=False) from error
        self._resource_pool[found] = resource
        return found

    def connect(self) -> Any:
        return self._ask("GET", f"{self._client_endpoint}/connect/{self.uri}/")

    def reconnect(self) -> Any:
        """Connect anew, to a server that may have been started again: it is told what it has to keep for us."""
        answer = self._ask("GET", f"{self._client_endpoint}/reconnect/{self.uri}/")
        for handler, resource in list(self._resource_pool.items()):
            self.get_resource_handler(resource, resource.resource_type, handler, resource.init_args)
        self._is_lost = False
        return answer

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        url = f"{self._http_protocol}{path}"
        answer = self._session.request(
            method, url, headers=self.request_headers, timeout=_SECONDS, verify=self.ssl_certfile, **body
        )
        if answer.status_code == 200:
            return answer
        try:
            found = answer.json()
        except ValueError:
            found = None
        own = isinstance(found, dict)
        if own and answer.status_code == 400 and isinstance(found.get("exception"), dict):
            self._raise(found["exception"])
        raise AnswerError(f"{answer.status_code} {answer.reason} from {url}", answer.status_code, own=own and "detail" in found)

    def _raise(self, told: dict[str, Any]) -> None:
        """Raise the exception that the server has told of."""
        from aim.ext.transport.message_utils import raise_exception

        name, text = str(told.get("class_name")), str(told.get("message"))
        if name == "UnauthorizedRequestError":  # it was started again, or has had no sign of life from us for minutes
            self.drop()
            raise ConnectionError("the Aim server has forgotten this connection")
        if name in {"Timeout", "RunLockingError"}:
            raise TimeoutError(text)
        raise_exception(told)

    # -- the end ----------------------------------------------------------------------------------------------------

    def release_resource(self, queue_id: Any, resource_handler: str) -> None:
        self._resource_pool.pop(resource_handler, None)
        self._say_goodbye(f"{self._tracking_endpoint}/{self.uri}/release-resource/{resource_handler}/")

    def disconnect(self) -> None:
        self._heartbeat_sender.stop()
        ws, self._ws = self._ws, None
        if ws is not None:
            ws.close()
        self._say_goodbye(f"{self._client_endpoint}/disconnect/{self.uri}/")
        self._session.close()

    def leave(self) -> None:
        """Leave without a word: the server is gone."""
        self._heartbeat_sender._shutdown = True
        self.drop()
        self._session.close()

    def _say_goodbye(self, path: str) -> None:
        """Called by finalizers, one after the other, which have nobody to tell an error; the server finds out by itself that we
        are gone."""
        if self._is_lost:  # each would wait for it
            return
        try:
            self._ask("GET", path)
        except Exception as error:
            self._is_lost = True
            logger.debug("the Aim server was not told: %s", error)


@functools.cache
def connection_class() -> type[Any]:
    """Return the class that takes the place of Aim's `Client`."""
    from aim.ext.transport.client import Client

    return type("Connection", (_Methods, Client), {})
