"""What other threads import."""

from __future__ import annotations

import sys
import threading

__all__ = ["importing"]


def importing(thread: threading.Thread) -> str | None:
    """Return the module that a thread is importing: the outermost, which is what was asked for."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the documented way to look at another thread
    found = None
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            found = frame.f_locals.get("name", found)
        frame = frame.f_back
    return found
