"""The trials of a sweep: each a run of its own, whose group is the id of the session's run."""

from __future__ import annotations

import hashlib
from collections import Counter

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.shared.trials import Trials
from tracelet_shim.backends.wandb.opening import Opener
from tracelet_shim.backends.wandb.run import Run

__all__ = ["TrialRuns"]

MAX_TRIALS = 8
"""Trials kept open at a time, for parts that arrive later; an older one is ended, and resumed if it must be."""
_MAY_COME_AGAIN = 10_000
"""Values at the end of a trial's earlier logs, of which some may come again."""


class TrialRuns:
    """The runs of a session's trials.

    Args:
        opener: opens runs.

    Attributes:
        unsent: directories of those that are offline and were not stored in time, quoted for a shell.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._open: Trials[Run] = Trials(MAX_TRIALS, self._end)
        self._failed: Counter[str] = Counter()
        self.unsent: list[str] = []

    def get(self, trial: str, parent: Run, info: RunInfo) -> Run:
        """Return the run of a trial, opening or resuming it; its id follows from the parent's and the name."""
        return self._open.get(trial, lambda: self._begin(trial, parent, info))

    def _begin(self, trial: str, parent: Run, info: RunInfo) -> Run:
        # the number of failures is part of the id, since W&B's service refuses one that it failed to open
        unique = f"{parent.id}\0{trial}\0{self._failed[trial] or ''}"
        child = hashlib.blake2s(unique.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        try:
            run = Run(self._opener.trial(info, parent.id, trial, child), parent=parent)
        except Exception:
            self._failed[trial] += 1
            raise
        run.there = run.end_of_logs(run.step_there(), _MAY_COME_AGAIN)
        run.define()
        run.tell({}, session=info.session, parent=parent.id, trial=trial)
        return run

    def _end(self, run: Run) -> None:
        if (folder := run.finish("finished")) is not None:
            self.unsent.append(folder)

    def end_all(self) -> None:
        self._open.end_all()

    def forget(self) -> None:
        """W&B's service has died, and they have ended with it."""
        self._open.forget()
