"""What SwanLab's service has got, for the core of 0.8 to 0.10.0, whose uploads tell nothing: the SDK's handlers, watched.

There a batch that the service refuses (4xx) is dropped with a line in a log, and so is a file or the config that cannot be
uploaded for any reason. Here the handlers are called themselves, an error in them is judged by our own table, and what may pass
is raised: then the SDK keeps the batch.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tracelet_shim.backends.swanlab.uploads import Uploads

__all__ = ["EarlierUploads"]

_SWALLOWED = ("complete_save_files", "prepare_save_files", "upload_config", "upload_saves")
"""Functions of the SDK's sender whose errors go no further than its log."""

_errors = threading.local()


class EarlierUploads(Uploads):
    """The uploads of one run; see `Uploads`."""

    def _watch(self, sender: Any) -> Any:
        """Take over the transport's handlers; return the sender, which the transport has only handed to its dispatcher."""
        self._pending: set[int] = set()
        self._behind: str | None = None
        transport = self._transport
        sender = transport._dispatcher._sender
        put = transport.put

        def noted(records: Sequence[Any]) -> None:
            with self._lock:
                self._pending.update(record.num for record in records)
            put(records)

        transport.put = noted
        with transport._cond:  # what the beginning of the run has put there
            waiting = list(transport._buf._records) if hasattr(transport._buf, "_records") else []
        self._pending.update(record.num for record in waiting)
        _remember_errors()
        sender.upload = self._uploader(sender, sender.upload)
        return sender

    def _uploader(self, sender: Any, upload: Callable[..., None]) -> Callable[[str, Sequence[Any]], None]:
        def call(kind: str, records: Sequence[Any]) -> None:
            handler = sender._upload_handlers.get(kind)
            if handler is None:
                upload(kind, records)
                self._confirm(records)
                return
            error = self._attempt(kind, handler, records)
            if error is not None:
                raise error
            if sender._tracker is not None:
                sender._tracker.advance_records(len(records))

        return call

    def _attempt(self, kind: str, handler: Callable[[Sequence[Any]], None], records: Sequence[Any]) -> Exception | None:
        """Upload records; return why some of them are to come again."""
        _errors.found = None
        try:
            handler(records)
            error: Exception | None = _errors.found
        except Exception as problem:
            error = problem
        if error is None:
            self._patience.reset()
            self._confirm(records)
            return None
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", 0) or 0
        own = "json" in response.headers.get("Content-Type", "") if response is not None else True
        if self._patience.passes(status, own=own):
            with self._lock:
                self._behind = str(error) or type(error).__name__
            return error
        if len(records) > 1:
            middle = len(records) // 2
            first, second = self._attempt(kind, handler, records[:middle]), self._attempt(kind, handler, records[middle:])
            return first or second
        self._note(kind, records, error)
        self._confirm(records)
        return None

    def _confirm(self, records: Sequence[Any]) -> None:
        with self._lock:
            self._behind = None
            self._pending.difference_update(record.num for record in records)

    def _first_pending(self, default: int) -> int:
        with self._lock:
            return min(self._pending, default=default)

    def _problem(self) -> str | None:
        return self._behind

    def waiting(self) -> int:
        """Return the number of records that the service has not taken yet."""
        with self._lock:
            return len(self._pending) if self._transport is not None else 0

    def missing(self) -> str | None:
        """Return what the service has not got when the run has ended."""
        count = self.waiting()
        return f"{count} records are not uploaded" if count else None


def _remember_errors() -> None:
    """Have the errors that the SDK swallows told to `EarlierUploads`."""
    module: Any = importlib.import_module("swanlab.sdk.internal.core_python.transport.sender")

    def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                _errors.found = error
                raise

        call.tracelet = True  # type: ignore[attr-defined]
        return call

    for name in _SWALLOWED:
        function = getattr(module, name, None)
        if function is not None and not hasattr(function, "tracelet"):
            setattr(module, name, remembered(function))
