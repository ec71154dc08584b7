"""Keeping SwanLab off the process that it runs in, the user's own or the relay.

The process-wide run, its config, ``sys.excepthook`` and SIGINT's handler stay the user's; there is no terminal capture and no
exit handler, and nothing is printed.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.swanlab.times import set_time

__all__ = ["Quiet", "apart", "leave_alone", "one_at_a_time", "readable_environment"]

_NESTED = ("PROJECT", "EXPERIMENT", "RUN", "TERMINAL", "INTEGRATION", "CORE", "PROBE")

_ours = threading.local()


@contextlib.contextmanager
def apart(started: float | None = None) -> Iterator[None]:
    """Let SwanLab open or end a run in this thread without a trace in the process: the active run and its config, the
    exception hook and SIGINT's handler stay the user's, whose other threads may log meanwhile.

    Args:
        started: of a run that is opened within: since when it runs, in seconds since the epoch.
    """
    with readable_environment():
        _keep_to_ourselves()
    hook, interrupt = sys.excepthook, signal.getsignal(signal.SIGINT)
    _ours.depth = getattr(_ours, "depth", 0) + 1
    _ours.started = started
    try:
        yield
    finally:
        _ours.depth -= 1
        sys.excepthook = hook
        if threading.current_thread() is threading.main_thread() and interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)


def _keep_to_ourselves() -> None:
    """Make the functions that know the process's one active run look away within `apart`; and the one that starts a run take
    our time for it instead of now."""
    from swanlab.sdk.internal.core_python.core import CorePython

    runs: Any = importlib.import_module("swanlab.sdk.internal.run")
    components: Any = importlib.import_module("swanlab.sdk.internal.run.components")
    configs: Any = importlib.import_module("swanlab.sdk.internal.run.components.config")
    if hasattr(runs.set_run, "tracelet"):
        return

    def config(*context: Any, **more: Any) -> Any:
        """What `create_run_config` does, but for making it ``swanlab.config``; 0.10.1 has more context than those before."""
        made = configs.Config()
        made._copy_from(configs._global_config)
        made._bindctx(*context, **more)
        return made

    original_start = CorePython.deliver_run_start

    def start(core: Any, request: Any) -> Any:
        if getattr(_ours, "depth", 0):
            set_time(request.start_record.started_at, _ours.started)
        return original_start(core, request)

    CorePython.deliver_run_start = start

    def unless_ours(module: Any, name: str, instead: Callable[..., Any]) -> None:
        original = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return (instead if getattr(_ours, "depth", 0) else original)(*args, **kwargs)

        call.tracelet = True  # type: ignore[attr-defined]
        setattr(module, name, call)

    runs.signal = _Signals()
    unless_ours(importlib.import_module("swanlab.sdk.cmd.init"), "has_run", lambda: False)
    unless_ours(components, "create_run_config", config)
    unless_ours(components, "deactivate_run_config", lambda: None)
    unless_ours(runs, "clear_run", lambda: None)
    unless_ours(runs, "set_run", lambda _: None)


class _Signals:
    """The module `signal` as SwanLab's runs see it: ours have no handler. 0.8 sets one in any thread; only one may."""

    def __getattr__(self, name: str) -> Any:
        return getattr(signal, name)

    def signal(self, number: int, handler: Any) -> Any:
        return signal.getsignal(number) if getattr(_ours, "depth", 0) else signal.signal(number, handler)


def leave_alone(opened: Any) -> None:
    """Take a run that was opened by `swanlab.init` off the process's exit and signals."""
    atexit.unregister(opened._handle_atexit)  # it would wait for a dead service without end
    opened._is_main_thread = False  # so that finish() leaves SIGINT alone


@contextlib.contextmanager
def readable_environment() -> Iterator[dict[str, str]]:
    """Hide variables such as ``SWANLAB_PROJECT=x``, which stop `swanlab.Settings`: it wants JSON there. Yield them."""
    given = {name: os.environ[name] for name in (f"SWANLAB_{part}" for part in _NESTED) if name in os.environ}
    hidden = {name: value for name, value in given.items() if not value.strip("'\" ").startswith("{")}
    with variables(dict.fromkeys(hidden)):
        yield hidden


class Quiet:
    """SwanLab's lines on the terminal: off from the first run that is opened until the last one has ended."""

    def __init__(self) -> None:
        self._before: bool | None = None

    def begin(self) -> None:
        from swanlab.sdk.internal.pkg import console

        if self._before is None:
            self._before = bool(console.c.quiet)
            console.c.quiet = True

    def end(self) -> None:
        if self._before is not None:
            console = sys.modules["swanlab.sdk.internal.pkg.console"]
            console.c.quiet, self._before = self._before, None


def one_at_a_time(core: Any) -> threading.RLock:
    """Let one thread at a time into a run's core: the SDK's own thread delivers the config, and what the user logs. Return
    the lock."""
    lock = threading.RLock()

    def locked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return method(*args, **kwargs)

        return call

    for kind in ("columns", "scalars", "media", "logs", "saves"):
        name = f"upsert_{kind}"
        setattr(core, name, locked(getattr(core, name)))
    return lock
