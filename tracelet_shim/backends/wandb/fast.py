"""A private way beside `Run.log`, for rows of numbers: many at a time."""

from __future__ import annotations

import copy
import inspect
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet_shim.backends.wandb.versions import count_steps, steps
from tracelet_shim.backends.wandb.versions import interface as interface_of

__all__ = ["Rows"]

_log = logging.getLogger(__name__)

_JSON = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""What JSON, as Python and W&B write it, has for the ``repr`` of a number, where it differs."""


class Rows:
    """Hands rows of numbers to W&B's service many at a time.

    `Run.log` hands over one: it wakes W&B's thread for I/O and waits until that has written to the socket, which takes
    longer than all the rest, the more so where other threads want the interpreter. Here all rows of a batch are handed
    over in one such turn, and in two writes. The messages are those of `Run.log` (`wandb_run.py`,
    `_partial_history_callback`; `sdk/interface/interface.py`, `publish_partial_history`; `interface_sock.py`, `_publish`;
    `lib/service/service_client.py`).
    """

    def __init__(self, run: Any) -> None:
        """Raises an AttributeError or the like if the installed SDK has other messages, or sends them in another way."""
        from wandb.proto.wandb_server_pb2 import ServerRequest

        seen: list[Any] = []
        interface = copy.copy(interface_of(run))
        interface._publish = seen.append
        row = {"a": 0.5, "n": math.nan, "i": -math.inf, "global_step": 3, "_timestamp": 1.5}
        interface.publish_partial_history(run, dict(row), user_step=steps(run))
        interface._assign(seen[0])
        self._request = ServerRequest
        self._empty = ServerRequest(record_publish=seen[0])  # what stands in a message beside the row
        self._empty.record_publish.request.partial_history.ClearField("item")
        if self._message(row).record_publish != seen[0]:
            raise ValueError("rows are encoded in another way")
        self._run, self._asyncer, self._client = run, interface._asyncer, interface._client
        ways = self._asyncer.run, self._client._writer.write, self._client._writer.drain
        if run._is_finished or not all(map(callable, ways)) or not inspect.iscoroutinefunction(self._client.publish):
            raise TypeError("messages are sent in another way")

    @classmethod
    def of(cls, run: Any) -> Rows | None:
        """Return the object for `run`; None if the installed SDK does not hand over rows as the known versions do."""
        try:
            return cls(run)
        except (ImportError, AttributeError, TypeError, ValueError, IndexError) as error:
            _log.info("rows are logged one by one, since W&B (known: from 0.21 on) has another way for them: %s", error)
            return None

    def _message(self, row: Mapping[str, Any]) -> Any:
        request = self._request()
        request.CopyFrom(self._empty)
        add = request.record_publish.request.partial_history.item.add
        for key, value in row.items():
            text = repr(value)
            add(key=key, value_json=_JSON.get(text, text))
        return request

    def publish(self, rows: Sequence[dict[str, Any]]) -> None:
        """Do what ``run.log(row)`` does, for each row. After an error the service may have some of them."""
        now = {"_timestamp": time.time()}
        *requests, last = [self._message(row if "_timestamp" in row else row | now) for row in rows]

        async def send() -> None:
            writer, frames = self._client._writer, _Frames()
            self._client._writer = frames
            try:
                for request in requests:
                    await self._client.publish(request)
            finally:
                self._client._writer = writer
            writer.write(b"".join(frames.data))
            await self._client.publish(last)  # waits until the socket takes more, and notes an error of it

        self._asyncer.run(send)
        count_steps(self._run, len(rows))  # part of the names of media files


class _Frames:
    """Keeps what the SDK's client writes; nothing else runs in its event loop meanwhile, since `drain` never waits."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.write = self.data.append

    async def drain(self) -> None:
        pass
