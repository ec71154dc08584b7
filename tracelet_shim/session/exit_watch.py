"""How the program ends, as far as its exit code and errors tell."""

from __future__ import annotations

import sys
import threading
from typing import Any

import wrapt

__all__ = ["ExitWatch"]

_watch: ExitWatch | None = None


def _exiting(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG001 - wrapt's signature
    if _watch is not None and threading.current_thread() is threading.main_thread():
        _watch.noted(args[0] if args else None)
    return wrapped(*args, **kwargs)


class ExitWatch:
    """Tells, when the interpreter ends, in which way.

    Nothing is hooked for exceptions: the interpreter itself leaves an uncaught one in ``sys.last_value`` before it runs
    the atexit handlers. Only ``sys.exit`` leaves no trace, so it is wrapped to note its code; a program that catches
    the SystemExit and goes on is told by what it does afterwards (`still_running`).

    Attributes:
        code: of the last `sys.exit`, if nothing was logged since.
        terminated: set by whoever sees SIGTERM come.
    """

    def __init__(self) -> None:
        self.code: object = None
        self.terminated = False

    def watch(self) -> None:
        """Begin to note the codes of `sys.exit`."""
        global _watch
        _watch = self
        if not isinstance(sys.exit, wrapt.FunctionWrapper):
            sys.exit = wrapt.FunctionWrapper(sys.exit, _exiting)

    def noted(self, code: object) -> None:
        """The main thread has called `sys.exit` with this code."""
        self.code = code

    def still_running(self) -> None:
        """The program logs: if it had called `sys.exit` before and is past it, that was caught."""
        if self.code is None or threading.current_thread() is not threading.main_thread():
            return
        if not isinstance(sys.exc_info()[1], SystemExit):  # else a finally block on the way out
            self.code = None

    def status(self) -> str:
        """Return ``"finished"``, ``"failed"`` or ``"killed"``; to be called at exit."""
        error = getattr(sys, "last_value", None)
        if self.terminated or isinstance(error, KeyboardInterrupt):
            return "killed"
        if error is not None and not hasattr(sys, "ps1"):  # at a prompt, an error ends nothing
            return "failed"
        if self.code in (None, 0, False):
            return "finished"
        return "killed" if self.code in (130, 143) else "failed"
