"""The functions with which the user ends a run in a tracker: what was logged into it is to arrive before it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import wrapt

from tracelet_shim import intercept
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Ending

__all__ = ["unwatch", "watch"]


class Watcher(Protocol):
    """Who hears of the end of a run."""

    def end(self, name: str, run_id: str) -> Callable[[], None]:
        """A run of this tracker is about to be ended. Returns what is to be called when it has been."""

    def on_problem(self, error: Exception, /) -> None:
        """Take an error of ours."""


_watching: list[Watcher] = []


def watch(watcher: Watcher, name: str) -> None:
    """From now on, `watcher` hears of the end of a run of this tracker."""
    if watcher not in _watching:
        _watching.append(watcher)
    for ending in registry.find(name).ends():
        owner = next((each for each in getattr(ending.owner, "__mro__", ()) if ending.function in vars(each)), ending.owner)
        if not isinstance(vars(owner).get(ending.function), _Wrapper):
            wrapt.wrap_object(owner, ending.function, _Wrapper, (_waiting_for(name, ending),))


def unwatch(watcher: Watcher) -> None:
    if watcher in _watching:
        _watching.remove(watcher)


class _Wrapper(intercept.Wrapper):
    """To be told from wrappers of others'."""


def _waiting_for(name: str, ending: Ending) -> Callable[..., Any]:
    """Return a wrapper that lets what was logged arrive before the run ends. Nothing of it fails the user's call; only what
    is raised to end the wait (Ctrl-C) reaches him."""

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        # Our own threads deliver: they must never wait for themselves.
        ours = threading.current_thread().name.startswith("tracelet-")
        ended = []
        if not ours and _watching:
            intercept.settle()
        for watcher in () if ours else tuple(_watching):
            try:
                run_id = ending.run_id(instance, args, kwargs)
                if run_id is not None:
                    ended.append(watcher.end(name, run_id))
            except Exception as error:
                watcher.on_problem(error)
        try:
            return wrapped(*args, **kwargs)
        finally:
            for tell in ended:
                tell()

    return wrapper
