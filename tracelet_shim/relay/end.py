"""The end of a process in which trackers were served."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading

__all__ = ["clean_up"]

_SECONDS = 2.0


def clean_up() -> None:
    """Run the SDKs' exit handlers, which remove their temporary directories, for as long as is reasonable: some hang."""
    thread = threading.Thread(target=atexit._run_exitfuncs, daemon=True)  # noqa: SLF001 - there is no public way
    thread.start()
    thread.join(_SECONDS)
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
