"""Aim's clean-up at the end of the process: what is ours is taken out of it, and it never hangs.

`aim.ext.cleanup.AutoClean` closes at exit whatever is still open. Of a server that is gone it waits for an answer, and when a
clean-up fails, e.g. because the repository was deleted meanwhile, it waits for ever.
"""

from __future__ import annotations

from typing import Any

__all__ = ["disown"]


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
