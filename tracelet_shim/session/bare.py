"""What the program has written to event files, and nothing of which came here: said at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tracelet_shim import intercept
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.session.replies import Replies

__all__ = ["nothing_seen"]


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
