"""The runs of an earlier start of the same job, which are continued."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.worker import Worker
from tracelet_shim.state.index import in_use
from tracelet_shim.state.session import SessionState

__all__ = ["JobContinuation"]

_ORPHAN_SECONDS = 300.0
"""How long the relay of an earlier start of a job may still be at work, at least."""


class JobContinuation:
    """Whether a session goes on where an earlier start of its job stopped. That is known as soon as there is a ledger to look in.

    Args:
        message: opens the session.

    Attributes:
        waiting: True as long as the workers wait for that.
    """

    def __init__(self, message: msg.Open) -> None:
        self._run = message.run
        self._linger = message.linger  # as the earlier one's, which was started in the same way
        self.waiting = message.run.job is not None and message.run.job.times > 0 and message.keeps_state
        self._predecessor: str | None = None
        self._until = 0.0

    def look(self, state: SessionState, root: str, workers: Iterable[Worker]) -> None:
        """Let the workers go on in the runs of an earlier start, if there are any."""
        earlier = state.earlier(self._run, root)
        if earlier is None:
            return
        self._predecessor, runs = earlier
        for worker in workers:
            if worker.name in runs:
                worker.resume(runs[worker.name])
        self._until = time.monotonic() + max(_ORPHAN_SECONDS, self._linger)

    def is_free(self, directory: Path | None) -> bool:
        """Return whether the relay of the earlier start has ended, or has had its time: it would end the runs under us."""
        busy = directory is not None and self._predecessor is not None and in_use(directory, self._predecessor)
        return not busy or time.monotonic() >= self._until
