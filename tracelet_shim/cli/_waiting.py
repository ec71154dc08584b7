"""The command of ``tracelet-shim run`` where no POSIX signals can be passed on: Windows, where Ctrl-C reaches it by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

__all__ = ["Waiting", "end_with", "flush"]


class Waiting:
    """Starts the command.

    Args:
        command: the program and its arguments.
        environment: its environment.

    Raises:
        OSError: the command cannot be started.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(command, env=environment)  # noqa: S603 - no shell: the arguments arrive as they were given

    def wait(self) -> int:
        """Wait until the command has ended, which decides what Ctrl-C means; return its exit code."""
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return self._process.wait()

    def pause(self, seconds: float) -> bool:
        """After the end of the command: wait; return False if someone wants us to end."""
        try:
            time.sleep(seconds)
        except KeyboardInterrupt:
            return False
        return True


def flush() -> None:
    """Write out what has been printed, if there is still somebody who reads it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def end_with(code: int) -> NoReturn:
    """End this process with the exit code that the command ended with."""
    flush()
    os._exit(code & 0xFF if code < 0 else code)
