"""What the relay has said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.display.terminal import say

__all__ = ["Replies"]

_HARMLESS = ("handle-left-out", "system-metrics", "what-ran")
"""Kinds of trouble that make no event of the user's doubtful."""
_MOST_TROUBLES = 1000
_WAIT = 0.02


class Replies:
    """Where each tracker stands, which runs are open, and what went wrong. Other threads bring replies, the user's asks.

    Args:
        session: the session's id.
        names: of the trackers.
        quiet: say nothing of runs that have been opened.

    Attributes:
        states: by tracker; replaced, never changed, so that whoever reads it needs no lock.
        troubles: all, up to a limit; each kind is said once.
        spilled: True if memory had no room for some records, which are read from the event files.
    """

    def __init__(self, session: str, names: Iterable[str], *, quiet: bool) -> None:
        self._session = session
        self._quiet = quiet
        self._changed = threading.Condition()
        self._opened: dict[str, msg.Opened] = {}
        self._said: set[tuple[str | None, str]] = set()
        self.states = {name: msg.BackendState() for name in names}
        self.troubles: list[msg.Trouble] = []
        self.spilled = False

    def take(self, reply: msg.Reply) -> None:
        if isinstance(reply, msg.Trouble):
            self.warn(reply)
            return
        known = None
        with self._changed:
            if isinstance(reply, msg.Opened):
                known = self._opened.get(reply.backend)
                self._opened[reply.backend] = reply
            elif isinstance(reply, msg.Counters):
                self.states = {**self.states, **reply.backends}
                self.spilled = reply.spilled
            self._changed.notify_all()
        # A relay that was started again opens its runs again.
        if isinstance(reply, msg.Opened) and not self._quiet and (known is None or known.url != reply.url):
            say(f"{reply.backend}: {reply.url or f'run {reply.run_id}'}")

    def warn(self, trouble: msg.Trouble) -> None:
        """Warn once a kind; keep all."""
        with self._changed:
            if len(self.troubles) < _MOST_TROUBLES:
                self.troubles.append(trouble)
            known = (trouble.backend, trouble.kind) in self._said
            self._said.add((trouble.backend, trouble.kind))
        if not known:
            if trouble.backend is None and trouble.kind not in _HARMLESS:
                run_report.add(session=self._session, trouble=trouble.message)
            where = f"{trouble.backend}: " if trouble.backend else ""
            say(f"warning: {where}{trouble.message}")

    @property
    def in_doubt(self) -> bool:
        """True if there was a trouble of ours that makes delivery doubtful, whatever the trackers have said."""
        return any(trouble.backend is None and trouble.kind not in _HARMLESS for trouble in self.troubles)

    @property
    def opened(self) -> dict[str, msg.Opened]:
        """The runs that are open, by tracker."""
        with self._changed:
            return dict(self._opened)

    def wait_opened(self, seconds: float, look: Callable[[], None]) -> dict[str, msg.Opened]:
        """Wait until each run is open or will not be, and return those that are. `look` takes what there is to be heard."""
        until = time.monotonic() + seconds
        while True:
            look()
            with self._changed:
                over = all(
                    name in self._opened or state.state in ("failed", "closed", "abandoned")
                    for name, state in self.states.items()
                )
                if not over and (left := until - time.monotonic()) > 0:
                    self._changed.wait(min(left, _WAIT))
                    continue
                return dict(self._opened)

    def unopened(self) -> dict[str, str]:
        """Return why no run could be opened, by tracker, for those that will have none."""
        with self._changed:
            failed = {name: state.error or "" for name, state in self.states.items() if state.state == "failed"}
            return {name: error for name, error in failed.items() if name not in self._opened}
