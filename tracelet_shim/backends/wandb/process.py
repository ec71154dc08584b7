"""Keeping W&B off the process that it runs in, the user's own or the relay; and W&B's service, a process of its own."""

from __future__ import annotations

import contextlib
import inspect
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tracelet_shim.backends.wandb.library import library

__all__ = ["arguments", "restart_service", "undisturbed", "unread_settings", "wait_for_logs"]


def restart_service() -> None:
    """As `Library.restart_service`."""
    library().restart_service()


def wait_for_logs(*, ours: bool) -> None:
    """Wait until the logs of runs that were ended are on disk: `finish` of the SDK returns before W&B's service has closed them.

    Args:
        ours: the service is ours alone; else it may have runs of the user's.
    """
    if ours:
        with library().ours(), contextlib.suppress(SystemExit):  # it passes on the exit code of the service
            library().teardown()
    else:
        time.sleep(0.2)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put back ``sys.exit`` and ``sys.excepthook``, which W&B replaces when it starts its service (`exit_hooks.py`)."""
    leave, hook = sys.exit, sys.excepthook
    try:
        yield
    finally:
        sys.exit, sys.excepthook = leave, hook


@contextlib.contextmanager
def arguments(argv: Sequence[str]) -> Iterator[None]:
    """Have W&B record these arguments. It takes them from ``sys.argv`` (`Settings._args`, up to 0.18 a setting like others): in
    the relay those of another program, in the user's own process with any secret that they have."""
    import wandb

    settings: Any = wandb.Settings
    own = inspect.getattr_static(settings, "_args", None)
    if not isinstance(own, property):
        yield
        return
    settings._args = property(lambda _: list(argv[1:]))
    try:
        yield
    finally:
        settings._args = own


def unread_settings() -> contextlib.AbstractContextManager[None]:
    """As `Library.unread`."""
    return library().unread()
