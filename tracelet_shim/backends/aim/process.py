"""What Aim has of the process: its clean-up at the end, and names in its modules.

What is ours is taken out of the clean-up, which never hangs.

`aim.ext.cleanup.AutoClean` closes at exit whatever is still open. Of a server that is gone it waits for an answer, and when a
clean-up fails, e.g. because the repository was deleted meanwhile, it waits for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["disown", "in_this_thread"]

_replacing = threading.Lock()
_instead: dict[tuple[str, str], tuple[Any, dict[int, Callable[..., Any]]]] = {}
"""By module and name, what stood there, and by thread what stands there for that: several runs may be opened at once."""


@contextmanager
def in_this_thread(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let a function stand in a module's name for a while, for calls from this thread. The user's own calls in this process, and
    those of other runs, find what they would."""
    key, thread = (module.__name__, name), threading.get_ident()
    with _replacing:
        if key not in _instead:
            original, here = getattr(module, name), dict[int, Callable[..., Any]]()
            _instead[key] = original, here
            setattr(module, name, _by_thread(here, original))
        _instead[key][1][thread] = function
    try:
        yield
    finally:
        with _replacing:
            original, here = _instead[key]
            del here[thread]
            if not here:
                setattr(module, name, original)
                del _instead[key]


def _by_thread(here: dict[int, Callable[..., Any]], original: Any) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return here.get(threading.get_ident(), original)(*args, **kwargs)

    return call


def disown(repo: Any, *objects: Any) -> list[Any]:
    """Take what is ours out of Aim's clean-up at exit: `close` does it, and Aim would wait for a dead server.

    Returns the finalizers of what a server keeps for us: they run with the last reference to it.
    """
    from aim.ext.cleanup import AutoClean

    _never_hang_at_exit(AutoClean)
    client = repo._client
    resources = list(client._resource_pool.values()) if client else []
    finalizers = []
    for item in (repo, *objects, *resources, *repo.container_pool.values()):
        found = AutoClean._finalizers.pop(item, None)
        if found and client:
            finalizers.append(found[1])
    return finalizers


def _never_hang_at_exit(auto_clean: Any) -> None:
    """Make Aim's clean-up at exit end when it fails: it waits for a signal that only a clean-up without error gives."""
    cleanup = auto_clean._cleanup
    if getattr(cleanup, "_always_ends", False):
        return

    def always_ends() -> None:
        try:
            cleanup()
        finally:
            auto_clean.stop_signal.set()

    always_ends._always_ends = True  # type: ignore[attr-defined]
    auto_clean._cleanup = staticmethod(always_ends)
