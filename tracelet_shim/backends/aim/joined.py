"""A run that the user has open in this process: found without importing the SDK, written to beside him, ended by him.

Aim has no active run: whoever has an `aim.Run` writes to it. So the user's is the latest that is open of those that his thread
has made, else of those of the main thread.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
import weakref
from typing import Any

__all__ = ["active", "is_ours", "let_go", "seen", "wait_for_server"]

_SECONDS = 20.0


class _Made:
    """A run of the user's, and the thread that has made it; None as long as that is not known."""

    def __init__(self, run: Any, thread: int | None = None) -> None:
        self.run, self.thread = weakref.ref(run), thread

    def maker(self, run: Any, here: int) -> int | None:
        if self.thread is None:
            lock = getattr(run._lock, "_sf_lock", None)
            if lock is None:  # on a server
                self.thread = threading.main_thread().ident
            elif lock.is_locked:  # a lock of `filelock` knows that only in the thread that has taken it
                self.thread = here
        return self.thread


_made: list[_Made] = []
_ours: set[str] = set()
"""Hashes of runs that we open ourselves in this process."""
_seen: dict[str, Any] = {}
"""By hash: what is written through, of runs that were active once and have not been let go."""


def is_ours(run_hash: str) -> None:
    """A run of this hash that is opened from now on is not the user's."""
    _ours.add(run_hash)


def active() -> str | None:
    """Return the hash of the user's run, or None."""
    module = sys.modules.get("aim.sdk.run")
    if module is None or not hasattr(module, "Run"):  # it is the last that the module makes
        return None
    _watch(module)
    here, main = threading.get_ident(), threading.main_thread().ident
    found = None
    for made in reversed(_made):
        run = made.run()
        if run is None or not _is_open(run):
            _forget(made)
            continue
        maker = made.maker(run, here)
        if maker == here:
            found = run
            break
        if found is None and (maker == main or (maker is None and here != main)):
            found = run
    if found is None:
        return None
    run_hash = str(found.hash)
    if run_hash not in _seen:
        _seen[run_hash] = _double(found)
    return run_hash


def seen(run_hash: str) -> Any | None:
    """Return what writes to the run of this hash that was active once, as long as it has not been let go."""
    return _seen.get(run_hash)


def let_go(run: Any) -> None:
    """Nothing is written any more through what `seen` has returned: the store's files are closed with the last reference."""
    run_hash = str(run.hash)
    if _seen.get(run_hash) is run:  # the user may have opened his run again
        del _seen[run_hash]


def wait_for_server(run: Any) -> None:
    """Return when the Aim server has everything that was written to a user's run, which goes through Aim's own queue.

    Raises:
        ConnectionError, TimeoutError: it has not.
    """
    queue = run.repo._client.get_queue()
    until = time.monotonic() + _SECONDS
    while queue._queue.unfinished_tasks:
        if not queue._thread.is_alive():
            raise ConnectionError("Aim's own thread, which sends what is written to your run, has ended")
        if time.monotonic() > until:
            raise TimeoutError(f"the Aim server has not taken the data for {_SECONDS:g} s")
        time.sleep(0.01)


def _is_open(run: Any) -> bool:
    return run._resources is not None and run._resources.finalizer.alive


def _forget(made: _Made) -> None:
    with contextlib.suppress(ValueError):  # another thread has
        _made.remove(made)


def _double(run: Any) -> Any:
    """Return another object for the same run. The user's own ends with his last reference to it: we must have none."""
    double = object.__new__(type(run))
    double.__dict__.update(run.__dict__, _resources=None, _props=None)  # the latter: SQLAlchemy's, for one thread
    return double


def _watch(module: Any) -> None:
    """Note who makes runs, from now on. Those that are there already are the main thread's, as far as nothing else is known."""
    resources = module.BasicRunAutoClean
    if hasattr(resources.__init__, "_notes"):
        return
    original = resources.__init__

    @functools.wraps(original)
    def init(self: Any, instance: Any) -> None:
        original(self, instance)
        thread = threading.current_thread()
        if not instance.read_only and not thread.name.startswith("tracelet-"):
            _made.append(_Made(instance, threading.get_ident()))

    init._notes = True  # type: ignore[attr-defined]
    resources.__init__ = init
    there = [item for item in list(resources._finalizers) if isinstance(item, module.BasicRun)]
    _made.extend(_Made(run) for run in there if not run.read_only and str(run.hash) not in _ours)
