"""Keeping W&B off the process that it runs in, the user's own or the relay; and W&B's service, a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["arguments", "restart_service", "service_process", "undisturbed", "unread_settings", "wait_for_logs"]


def service_process(service: Any) -> subprocess.Popen[bytes] | None:
    """Return the process of W&B's service, if this process has started it.

    Args:
        service: the SDK's connection to it, or None.
    """
    return getattr(getattr(service, "_proc", None), "_process", None)


def restart_service() -> None:
    """End W&B's service process, unless a run of the user's lives there; the next init starts a new one.

    A service that failed to open a run goes on holding the run's id, and the next attempt is refused ("in use").
    """
    import wandb
    from wandb.sdk import wandb_setup

    library = wandb_setup.singleton()
    service = library.ensure_service()
    if library.most_recent_active_run is None and service.owns_service:
        service._proc._process.kill()
        with contextlib.suppress(OSError, SystemExit, AssertionError):  # lost, its exit code passed on, or ended already
            wandb.teardown()


def wait_for_logs(*, ours: bool) -> None:
    """Wait until the logs of runs that were ended are on disk: `finish` of the SDK returns before W&B's service has closed them.

    Args:
        ours: the service is ours alone; else it may have runs of the user's.
    """
    import wandb

    if ours:
        with contextlib.suppress(SystemExit):  # it passes on the exit code of the service
            wandb.teardown()
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
    """Have W&B record these arguments. It takes them from ``sys.argv`` (`Settings._args`): in the relay those of another
    program, in the user's own process with any secret that they have."""
    import wandb

    settings: Any = wandb.Settings
    own = settings._args
    settings._args = property(lambda _: list(argv[1:]))
    try:
        yield
    finally:
        settings._args = own


@contextlib.contextmanager
def unread_settings() -> Iterator[None]:
    """Have W&B forget settings and credentials that it first reads within: the user's own first init is to find them,
    the environment above all, as they are then (`wandb_setup.py`, "Changes to your environment will be ignored")."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    unread = wandb_setup.singleton().settings_if_loaded is None
    try:
        yield
    finally:
        if unread:
            wandb_setup.singleton()._settings = None
            wbauth.unauthenticate_session(update_settings=False)
