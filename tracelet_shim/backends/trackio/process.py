"""Keeping Trackio off the user's process: what it prints, and whom it asks."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

from tracelet_shim.backends.trackio import versions

__all__ = ["on_stderr", "quiet_run", "stop"]


@contextlib.contextmanager
def on_stderr(module: Any) -> Iterator[None]:
    """Let what `module` prints not get between the user's own output; standard output itself is left alone."""
    module.print = functools.partial(print, file=sys.stderr)
    try:
        yield
    finally:
        del module.print


def quiet_run(**settings: Any) -> Any:
    """Return a `trackio.run.Run` that asks nobody who the user is: `__init__` asks the Hub, without a time limit, where there
    is a token."""
    from trackio import run as sdk

    class Anonymous(sdk.Run):  # type: ignore[misc]
        def _get_username(self) -> None:
            """Ask nobody."""

    return Anonymous(**versions.known_names(sdk.Run.__init__, settings))  # before 0.24, the name alone tells a run


def stop(run: Any) -> None:
    """End the threads of a `trackio.run.Run`: its own `finish` would print, and wait for half a minute."""
    run._stop_flag.set()
    for sender in (getattr(run, "_local_sender_thread", None), run._client_thread):
        if sender is not None:
            sender.join(5)
