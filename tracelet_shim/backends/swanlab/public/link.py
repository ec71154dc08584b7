"""The way to a run's writer: in this process, or in one of its own.

0.6 and 0.7 have one run a process, known to all of it, and leave their variables, hooks and handlers there. So a run of ours
lives in a process that has nothing else, and so does each trial; only a run of the user's is written to where it is. That process
ends with ours, and can be killed when its server does not answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tracelet_shim import errors
from tracelet_shim.backends.swanlab.public.writer import Writer

__all__ = ["Here", "Link", "Process", "serve"]

_SIZE = struct.Struct("<Q")
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tracelet_shim.backends.swanlab.public.link import serve; serve()"
)


class Link:
    """The way to the writer of one run."""

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the writer."""
        raise NotImplementedError

    def end(self) -> None:
        """The run has ended, or is given up."""


class Here(Link):
    """In this process.

    Args:
        writer: the writer.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._writer, method)(*args)


class Process(Link):
    """In a process of its own, which may have one run after another.

    Args:
        directory: its working directory.
    """

    def __init__(self, directory: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSTARTUP")}
        path = [entry for entry in map(str, sys.path) if entry] + [str(Path(__file__).parents[4])]
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-c", _START, json.dumps(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                env={**environment, "TRACELET_DISABLED": "1"}, cwd=directory if os.path.isdir(directory) else None,
            )  # fmt: skip
        except OSError as error:
            raise errors.BackendError(f"the process that SwanLab runs in cannot be started: {error}") from error

    def call(self, method: str, *args: Any) -> Any:
        with self._lock:
            try:
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                _send(self._process.stdin, (method, args))
                answer, error = _receive(self._process.stdout)
            except (OSError, EOFError, ValueError):  # ValueError: it was ended from another thread
                raise ConnectionError("the process that SwanLab ran in has ended") from None
        if error is not None:
            raise error
        return answer

    def __del__(self) -> None:  # given up without an end, as by a backend that was not closed
        if hasattr(self, "_process"):
            self.end()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def serve() -> None:
    """Be that process: what comes in on standard input is asked of the writer, for as long as whoever asks is there."""
    asks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # the SDK prints
        os.dup2(nothing, descriptor)
    writer: Writer | None = None
    questions = _Questions(asks)
    while True:
        method, args = questions.next()
        try:
            if method == "begin":
                writer = Writer.begin(*args)
                answer: Any = writer.begun
            else:
                answer = getattr(writer, method)(*args)
            reply: tuple[Any, BaseException | None] = answer, None
        except BaseException as error:
            reply = None, _portable(error)
        _send(answers, reply)


class _Questions:
    """What is asked, read in a thread, so that this process ends at once with the one that asks: who goes on in its place must
    not meet it at the same run.

    Args:
        pipe: where it comes from.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        import queue

        self._queue: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue()
        self._pipe = pipe
        threading.Thread(target=self._read, daemon=True).start()
        self.next: Callable[[], tuple[str, tuple[Any, ...]]] = self._queue.get

    def _read(self) -> None:
        try:
            while True:
                self._queue.put(_receive(self._pipe))
        finally:
            os._exit(0)


def _portable(error: BaseException) -> BaseException:
    """Return an error as the other process can read it: of the SDK's own, the text."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, str(error.strerror))
    if type(error).__module__ == "builtins" or isinstance(error, errors.EventRejectedError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error) if isinstance(error, errors.TraceletError) else f"{type(error).__name__}: {error}"
    if kinds & {"Timeout", "NetworkError"} or ("RequestException" in kinds and "ConnectionError" in kinds):
        return ConnectionError(text)
    return errors.BackendError(text)


def _send(pipe: Any, message: Any) -> None:
    data = pickle.dumps(message)
    pipe.write(_SIZE.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: Any) -> Any:
    head = pipe.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(head)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)  # noqa: S301 - of a process that we have started, or that has started us
