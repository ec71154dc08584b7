"""A program on a terminal of its own, as a person sees it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

# In the child, since a process with threads should not run Python between fork and exec.
_TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


class Terminal:
    """Starts a program as the leader of a session on a new pseudo-terminal; a context manager that kills what is left.

    Args:
        command: the program and its arguments.
        environment: its environment.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.text = ""
        self._seen = 0  # characters of it that come before what is waited for next
        self._fd, end = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TAKE_TERMINAL, *command], env=dict(environment), stdin=end, stdout=end,
            stderr=end, start_new_session=True,
        )  # fmt: skip
        os.close(end)

    def __enter__(self) -> Terminal:  # noqa: PYI034 - nobody subclasses it
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._fd)  # hangs up on what is left

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 60.0) -> None:
        """Read until what has come since the last thing that was waited for, perhaps together with that, matches."""
        until = time.monotonic() + seconds
        while not (found := re.compile(pattern).search(self.text, self._seen)):
            assert time.monotonic() < until, f"{pattern!r} did not come:\n{self.text}"
            assert self._read(0.1), f"{pattern!r} had not come at the end:\n{self.text}"
        self._seen = found.end()

    def end(self, seconds: float = 60.0) -> int:
        """Read until the end of the program; return its exit code, or the negative number of its signal."""
        until = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < until, f"it did not end:\n{self.text}"
        return self._process.wait(seconds)

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
