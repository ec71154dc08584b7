"""A run that the user has open in this process: found without importing the SDK, written to beside him, left open."""

from __future__ import annotations

import sys
import weakref
from datetime import datetime, timezone
from typing import Any

from tracelet_shim.backends.trackio.names import OWN
from tracelet_shim.backends.trackio.run import Run
from tracelet_shim.backends.trackio.values import iso, plain

__all__ = ["UsersRun", "active", "id_of", "seen"]

_seen: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""The user's active runs that `active` has seen in this process, by id."""


def active() -> Any | None:
    """Return the user's active `trackio.run.Run`, or None."""
    current = getattr(sys.modules.get("trackio.context_vars"), "current_run", None)
    run = current.get() if current is not None else None
    if run is not None:
        _seen[id_of(run)] = run
    return run


def id_of(run: Any) -> str:
    """Return the id of a `trackio.run.Run`; before 0.24 that is its name."""
    return str(getattr(run, "id", run.name))


def seen(run_id: str) -> Any | None:
    """Return the run of this id that was active once, as long as the user has it."""
    return _seen.get(run_id)


class UsersRun:
    """The user's run, as far as we write into it.

    Args:
        native: his `trackio.run.Run`.
    """

    def __init__(self, native: Any) -> None:
        self.native = native
        self.project = str(native.project)
        self.has_told = False

    def place(self) -> tuple[str | None, str | None, str | None]:
        """Return Space, server and token: where his run goes."""
        return self.native._space_id, *(getattr(self.native, name, None) for name in ("_server_base_url", "_write_token"))

    def as_run(self) -> Run:
        now = iso(datetime.now(timezone.utc).timestamp()) or ""
        return Run(id_of(self.native), self.native.name, dict(self.native.config), now)

    def merge_config(self, ours: Run) -> None:
        """Bring the config up to date, ours and his, in both places.

        His run writes its whole config with its first row: what is queued must not come after ours, and what is not yet must
        carry ours. A row on its way to a server may be late all the same; so `close` writes once more.
        """
        user = self.native
        if getattr(user, "_is_local", False) and hasattr(user, "_flush_queues_inline"):
            with user._client_lock:
                user._flush_queues_inline()
        his = {key: value for key, value in user.config.items() if not key.startswith(OWN)}
        ours.config.update(his)
        user.config = plain(ours.config)
        self.has_told = True
