"""How the process ends: with a code of ours if, under strict, data did not arrive; by SIGINT after Ctrl-C; and never by a thread
of ours."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tracelet_shim.session.session import Session

__all__ = ["UNDELIVERED", "exit_if_undelivered", "interrupted_after_all", "let_imports_end", "verdict"]

UNDELIVERED = 3
"""Exit code of a program that ran to its end under strict, and whose data did not all arrive."""
_IMPORT_SECONDS = 120.0
_QUIET_SECONDS = 1.0


class Verdict:
    """Whether the process is to have an exit code of ours. It is asked once more when the interpreter lets go of this module: by
    then handlers that were registered before ours have run, and may have logged.

    Attributes:
        undelivered: something was not delivered.
        session: the one that the end of the program has ended, under strict.
    """

    def __init__(self) -> None:
        self.undelivered = False
        self.session: Session | None = None

    @property
    def is_bad(self) -> bool:
        return self.undelivered or (self.session is not None and self.session.is_late)

    def __del__(self, exit_now: Callable[[int], NoReturn] = os._exit, code: int = UNDELIVERED) -> None:
        if self.is_bad:
            exit_now(code)


verdict = Verdict()


def exit_if_undelivered() -> None:
    """Under strict, give the process an exit code of its own if something was not delivered.

    An exception in an atexit handler changes no exit code, so the process is ended here; what is left to run then are
    only handlers that were registered before the session began.
    """
    if verdict.is_bad:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(UNDELIVERED)


def interrupted_after_all() -> None:
    """Let the process end by SIGINT, as it would without us.

    The interpreter remembers that it ends for an uncaught KeyboardInterrupt, and forgets it at the next `eval` of a text
    in any thread; SDKs that are being imported do that a lot (namedtuple). Let it see one again.
    """

    def interrupt() -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        eval("interrupt()", {"interrupt": interrupt})  # noqa: S307 - our own text


def let_imports_end() -> None:
    """Wait until no tracker that is served here, and that nobody waits for any more, is in the middle of an import.

    A daemon thread that wants the interpreter's lock while the interpreter ends is made to exit (CPython before 3.14,
    ``take_gil``), which unwinds its stack; where that has a C++ function that catches everything, as initialisers of extension
    modules do, the C library aborts the whole program: "FATAL: exception not rethrown". Imports end by themselves.
    """
    if "tracelet_shim.relay.worker" not in sys.modules:  # no tracker was served here
        return
    from tracelet_shim.common.imports import importing
    from tracelet_shim.display.terminal import say

    began, told = time.monotonic(), False
    while time.monotonic() - began < _IMPORT_SECONDS:
        ours = [thread for thread in threading.enumerate() if thread.daemon and thread.name.startswith("tracelet-")]
        modules = sorted({module for thread in ours if (module := importing(thread)) is not None})
        if not modules:
            return
        if not told and time.monotonic() - began >= _QUIET_SECONDS:
            told = True
            say(f"waiting for the import of {', '.join(modules)} to end: to stop in the middle of it could crash the program")
        time.sleep(0.05)
