"""Why a tracker does not answer, as far as that can be seen from outside: what its thread imports, and what its SDK logs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from tracelet_shim.common.imports import importing
from tracelet_shim.provenance.secrets import mask_text

__all__ = ["listen", "why"]

_LONGEST = 200
_MOST_LOGGERS = 1000

_said: dict[int | str, tuple[float, str]] = {}
"""The latest log line of each thread, and of each library."""


def listen() -> None:
    """Note from now on what is logged in this process. Not for a process of the user's, whose logging is not ours."""
    make = logging.getLogRecordFactory()

    def noting(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        library = record.name.partition(".")[0]
        if record.levelno >= logging.WARNING and library != "tracelet_shim" and len(_said) < _MOST_LOGGERS:
            _said[library] = (time.monotonic(), _line(record))
            if record.thread is not None:
                _said[record.thread] = _said[library]
        return record

    logging.setLogRecordFactory(noting)


def _line(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit
        text = str(record.msg)
    return mask_text(" ".join(text.split()))[:_LONGEST]


def why(thread: threading.Thread, library: str, since: float) -> str:
    """Return what is known of what a thread is at, in a few words; empty if nothing is.

    Args:
        thread: the tracker's.
        library: the top-level module of its SDK.
        since: monotonic seconds; what was logged before that says nothing of it.
    """
    imported = importing(thread)
    if imported:
        return f"importing {imported}"
    lines = [_said[key] for key in (library, thread.ident) if key in _said]
    at, line = max(lines, default=(0.0, ""))
    return f"its SDK says: {line}" if line and at >= since else ""
