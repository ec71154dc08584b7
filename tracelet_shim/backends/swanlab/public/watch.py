"""What the service has got of a run: the uploads of 0.6 and 0.7, watched.

The SDK uploads by kind, from a table (`UploadType`) of functions that return (answer, error). It tries again what ends in one of
its own errors, for as long as the run lasts, and drops anything else with a line on the terminal. Here the table's functions are
wrapped: an error is judged by our own rules, a batch that is refused for good is divided until the one value is found, and
nothing else is dropped.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tracelet_shim.backends.shared.transient import Patience

__all__ = ["Refused", "Watch"]

_TABLES = ("swanlab.core_python.uploader.thread", "swanlab.data.cloud")
_FILES = "swanlab.core_python.api.service"
"""The module whose `upload_file` puts a media file into the object store; nobody hears of the error of its last attempt."""
_VALUES = ("SCALAR_METRIC", "MEDIA_METRIC")


class Refused(NamedTuple):
    """A value that the service refused for good: its number, and why."""

    number: int
    reason: str


class Watch:
    """The uploads of one run; of several in a process, one after the other.

    Args:
        table: the SDK's.
    """

    CONFIG = ("", -1)
    """What stands for the config among (key, step)."""

    def __init__(self, table: Any) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, int], int] = {}  # what was handed over -> its number
        self._refused: list[Refused] = []
        self._behind: str | None = None
        self._patience = Patience()
        self._files: dict[Any, Exception] = {}  # of the batch that is being uploaded: those that were not
        self._take_over_files()
        for name in _VALUES:
            kind = getattr(table, name)
            kind.value["upload"] = self._judged(_original(kind.value["upload"]))
        table.FILE.value["upload"] = self._config(_original(table.FILE.value["upload"]))

    @classmethod
    def of(cls, run: Any) -> Watch | None:
        """Return that of a run; None if the SDK uploads in a way that we do not know."""
        if "swanlab.data" not in type(run).__module__:
            return None
        for name in _TABLES:
            try:
                table = getattr(importlib.import_module(name), "UploadType", None)
            except ImportError:
                continue
            if table is not None and all(hasattr(table, kind) for kind in (*_VALUES, "FILE")):
                return cls(table)
        return None

    def handed(self, what: tuple[str, int], number: int) -> None:
        """This was handed over, or is about to be."""
        with self._lock:
            self._waiting[what] = number

    def taken_back(self, what: tuple[str, int]) -> None:
        """The SDK has not taken it."""
        with self._lock:
            self._waiting.pop(what, None)

    def first(self, count: int) -> int:
        """Return the number of the first value that the service may not have, of `count`."""
        with self._lock:
            return min(self._waiting.values(), default=count + 1)

    def take_refused(self) -> list[Refused]:
        """Return what was refused since the last time."""
        with self._lock:
            taken, self._refused = self._refused, []
        return taken

    def behind(self) -> str | None:
        """Return why the service does not take what waits."""
        with self._lock:
            return self._behind if self._waiting else None

    def wait(self, seconds: float) -> None:
        """Wait until the service has all, or a time is over."""
        end = time.monotonic() + seconds
        while self.first(-1) > 0 and time.monotonic() < end:
            time.sleep(0.1)

    # -- in the SDK's thread ----------------------------------------------------------------------------------------

    def _judged(self, upload: Callable[..., tuple[Any, Exception | None]]) -> Callable[..., tuple[Any, Exception | None]]:
        def call(models: Sequence[Any], *_: Any, **__: Any) -> tuple[Any, Exception | None]:
            error = self._attempt(upload, models)
            if error is None:
                return None, None
            return None, _kept(error)

        call.original = upload  # type: ignore[attr-defined]
        return call

    def _take_over_files(self) -> None:
        """Know which files were not uploaded. (Before 0.7.1 or so they go through an object store's client that tells nobody.)"""
        try:
            module: Any = importlib.import_module(_FILES)
        except ImportError:
            return
        upload = getattr(module, "upload_file", None)
        if upload is None:
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            place = kwargs.get("url")
            try:
                answer = _original(upload)(*args, **kwargs)
            except Exception as error:
                self._files[place] = error
                raise
            self._files.pop(place, None)
            return answer

        call.original = _original(upload)  # type: ignore[attr-defined]
        module.upload_file = call

    def _attempt(self, upload: Callable[..., tuple[Any, Exception | None]], models: Sequence[Any]) -> Exception | None:
        """Upload models; return why some of them are to come again."""
        self._files.clear()
        try:
            _, error = upload(list(models))
        except Exception as problem:
            error = problem
        error = error or next(iter(self._files.values()), None)
        if error is None:
            self._patience.reset()
            self._done(models)
            return None
        response = getattr(error, "resp", None) if hasattr(error, "resp") else getattr(error, "response", None)
        status = getattr(response, "status_code", 0)
        if self._patience.passes(status, own=response is None or _is_own(response)):
            with self._lock:
                self._behind = f"the service does not take uploads: {str(error) or type(error).__name__}"
            return error
        if len(models) > 1:
            middle = len(models) // 2
            # both are tried: what is stored already is the same again
            first, second = self._attempt(upload, models[:middle]), self._attempt(upload, models[middle:])
            return first or second
        with self._lock:
            number = self._waiting.pop((models[0].key, models[0].step), None)
            if number is not None:
                self._refused.append(Refused(number, str(error)))
        return None

    def _done(self, models: Sequence[Any]) -> None:
        with self._lock:
            self._behind = None
            for model in models:
                self._waiting.pop((model.key, model.step), None)

    def _config(self, upload: Callable[..., tuple[Any, Exception | None]]) -> Callable[..., tuple[Any, Exception | None]]:
        def call(models: Sequence[Any], *_: Any, **__: Any) -> tuple[Any, Exception | None]:
            with self._lock:
                number = self._waiting.get(self.CONFIG)
            try:
                answer, error = upload(models)
            except Exception as problem:
                answer, error = None, problem
            if error is not None:
                return None, _kept(error)
            with self._lock:
                if self._waiting.get(self.CONFIG) == number:  # not set anew meanwhile
                    self._waiting.pop(self.CONFIG, None)
            return answer, None

        call.original = upload  # type: ignore[attr-defined]
        return call


def _original(upload: Any) -> Any:
    return getattr(upload, "original", upload)


def _is_own(response: Any) -> bool:
    """Tell whether an answer has the service's own form."""
    return "json" in response.headers.get("Content-Type", "")


def _kept(error: Exception) -> Exception:
    """Return an error as the SDK keeps what it was about."""
    from swanlab.error import SyncError

    kept: Exception = error if isinstance(error, SyncError) else SyncError(str(error))
    return kept
