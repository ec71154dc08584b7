"""What the program has written to event files, and nothing of which came here: said at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tracelet_shim import intercept
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.common.text import quoted
from tracelet_shim.session.replies import Replies

__all__ = ["Foreign", "nothing_seen"]


class Foreign:
    """Where producers write that are not listened to."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}  # by log directory, what writes there
        self._is_told = False

    def add(self, producer: str, logdir: str) -> None:
        self._made.setdefault(logdir, producer)

    def tell(self, specs: Sequence[msg.BackendSpec], replies: Replies) -> None:
        """Say, once, what has gone to event files only, and what helps."""
        if self._is_told or not self._made:
            return
        self._is_told = True
        logdir, producer = next(iter(self._made.items()))
        names = ",".join(spec.name for spec in specs)
        more = f" and {len(self._made) - 1} more" if len(self._made) > 1 else ""
        text = (
            f"what {producer} has written in {logdir}{more} does not reach {names}: it is not listened to; remedy: "
            f"watch={_short(logdir)!r} (TRACELET_WATCH, tracelet-shim run --watch), or now: "
            f"tracelet-shim replay {quoted(logdir)} --backend {names}"
        )
        run_report.add(unseen=text, pid=os.getpid())
        replies.warn(msg.Trouble(None, "foreign", text))


def _short(path: str) -> str:
    """Return a path relative to the working directory where it is below that."""
    near = os.path.relpath(path)
    return path if near.startswith(os.pardir) else near


def nothing_seen(reason: str, specs: Sequence[msg.BackendSpec], replies: Replies, *, has_begun: bool) -> None:
    """Say that the program has used `SummaryWriter`, and that nothing of it came here."""
    names = ",".join(spec.name for spec in specs)
    text = (
        f"nothing of {intercept.missed_package()} reaches {names} in this process ({reason}); to deliver what the event "
        f"files have: tracelet-shim replay LOGDIR --backend {names}"
    )
    if not has_begun:
        run_report.add(unseen=text, pid=os.getpid())
    replies.warn(msg.Trouble(None, "unseen", text))
