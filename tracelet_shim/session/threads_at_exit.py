"""Threads while a program ends, where the interpreter refuses to start them.

SDKs that are still to open or close a run start threads for it. Python 3.12.0 to 3.12.2 refuse that from the moment on at which
the program's last line is over; those before and after let it until all threads that the program waits for have ended (CPython
issue 113964). The system does not refuse: there, a thread is made by it, and calls the interpreter as those of C libraries do.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["REFUSES", "allowed"]

REFUSES = (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 2)
_running: dict[int, Any] = {}
"""What the threads run, which ctypes frees with its last reference."""


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Within, threads can be started at the end of the program, too. Where that cannot be had, it is as it was."""
    instead = _instead_of(_thread.start_new_thread) if REFUSES else None
    if instead is None:
        yield
        return
    starts = threading._start_new_thread, _thread.start_new_thread  # type: ignore[attr-defined]  # noqa: SLF001 - not in 3.13
    threading._start_new_thread = _thread.start_new_thread = instead  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        yield
    finally:
        threading._start_new_thread, _thread.start_new_thread = starts  # type: ignore[attr-defined]  # noqa: SLF001


def _instead_of(refusing: Callable[..., int]) -> Callable[..., int] | None:
    """Return what starts a thread where `_thread.start_new_thread` refuses to; None where the system has no POSIX threads."""
    try:
        import ctypes

        create = ctypes.CDLL(None).pthread_create
    except (ImportError, OSError, TypeError, AttributeError):  # TypeError: Windows has no library without a name
        return None
    body_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)

    def start(function: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> int:
        with contextlib.suppress(RuntimeError):
            return refusing(function, args, kwargs or {})
        made, begun = [], _thread.allocate_lock()
        begun.acquire()

        def body(_: object) -> None:
            made.append(_thread.get_ident())
            begun.release()
            with contextlib.suppress(SystemExit):  # ends a thread, silently
                function(*args, **(kwargs or {}))

        called = body_type(body)
        _running[id(called)] = called
        if error := create(ctypes.byref(ctypes.c_void_p()), None, called, None):
            raise RuntimeError(f"can't start new thread (error {error})")
        begun.acquire()
        return made[0]

    return start
