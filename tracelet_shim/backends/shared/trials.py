"""The trials of a sweep, each a run of its own beside the session's run.

A trial may come in parts, and many trials in one session; a tracker cannot have thousands of runs open. So a few are open at a
time. An older one is ended, and found again if another part of it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Trials"]

Run = TypeVar("Run")


class Trials(Generic[Run]):
    """The open trials.

    Args:
        most: how many are open at a time.
        end: ends the run of one.
    """

    def __init__(self, most: int, end: Callable[[Run], None]) -> None:
        self._most = most
        self._end = end
        self._open: dict[str, Run] = {}  # the latest used goes last

    def get(self, trial: str, open_run: Callable[[], Run]) -> Run:
        """Return the run of a trial: the one that is open, or the one that `open_run` opens or finds."""
        if trial in self._open:
            run = self._open[trial] = self._open.pop(trial)
            return run
        while len(self._open) >= self._most:
            self._end_one(next(iter(self._open)))
        run = self._open[trial] = open_run()
        return run

    def end_all(self) -> None:
        """End all that are open. After an error those that are left are still to be ended."""
        for trial in list(self._open):
            self._end_one(trial)

    def forget(self) -> None:
        """The process that had them is gone, and they are ended with it."""
        self._open.clear()

    def _end_one(self, trial: str) -> None:
        run = self._open.pop(trial)
        try:
            self._end(run)
        except BaseException:
            self._open = {trial: run, **self._open}
            raise

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._open.values()))
