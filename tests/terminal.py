"""A program on a terminal of its own, as a person sees it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import time
from collections.abc import Mapping, Sequence


class Terminal:
    """Starts a program as the leader of a session on a new pseudo-terminal; a context manager that kills what is left.

    Args:
        command: the program and its arguments.
        environment: its environment.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.text = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.execvpe(command[0], list(command), dict(environment))
            finally:
                os._exit(127)
        self._code: int | None = None

    def __enter__(self) -> Terminal:  # noqa: PYI034 - nobody subclasses it
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)  # hangs up on what is left

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 60.0) -> None:
        """Read until what is on the screen from now on matches."""
        until = time.monotonic() + seconds
        start = len(self.text)
        while not re.search(pattern, self.text[start:]):
            assert time.monotonic() < until, f"{pattern!r} did not come:\n{self.text}"
            assert self._read(0.1), f"{pattern!r} had not come at the end:\n{self.text}"

    def end(self, seconds: float = 60.0) -> int:
        """Read until the end of the program; return its exit code, or the negative number of its signal."""
        until = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < until, f"it did not end:\n{self.text}"
        self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code

    def _read(self, seconds: float) -> bool:
        """Take what is there; return False at the end."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # what Linux says when the last process has closed the terminal
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)
