"""The trials of a sweep: each a run of its own, whose group is the id of the session's run.

Through the core they are written offline. If the session's run is online, they are uploaded after that one has ended: ending a
run ends the login. Through the public API each has a process of its own, and is online at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.shared.trials import Trials
from tracelet_shim.backends.shared.values import utf8
from tracelet_shim.backends.swanlab.road import Road, Run

__all__ = ["TrialRuns"]

MAX_TRIALS = 8
"""Trials kept open at a time, for parts that arrive later; an older one is ended, and resumed if it must be."""


class TrialRuns:
    """The runs of a session's trials.

    Args:
        parent: the session's run.
        info: what it was opened with.
        opener: opens runs.

    Attributes:
        continued: True if an earlier session may have written trials of the same names.
        waiting: how many of the events are on disk, and wait for the end to be uploaded.
        problem: why one of them was not uploaded, if so.
    """

    def __init__(self, parent: Run, info: RunInfo, opener: Road) -> None:
        self._parent = parent
        self._info = info
        self._opener = opener
        self.continued = bool(info.resume or info.run_id)
        self._open: Trials[Run] = Trials(MAX_TRIALS, self._end)
        self._ended: dict[str, list[Path]] = {}
        self._online = parent.mode == "online"
        self._wait = self._online and opener.trials_wait
        self.waiting = 0
        self.problem: str | None = None

    def waits(self) -> None:
        """An event of a trial was written."""
        self.waiting += self._online  # of those that are online, too: they have an end to wait for

    def take_up(self, left: Iterable[tuple[str, Path]]) -> None:
        """These have been written by earlier sessions, and are uploaded with the others."""
        for run_id, folder in left:
            self._ended.setdefault(run_id, []).append(folder)
            self.waiting += 1

    def uploaded(self) -> None:
        """All have been uploaded."""
        self.waiting = 0

    def get(self, trial: str, started: float) -> Run:
        """Return the run of a trial, opening or resuming it; its id follows from the parent's and the name."""
        run_id = hashlib.blake2s(f"{self._parent.id}\0{utf8(trial)}".encode(), digest_size=8).hexdigest()
        return self._open.get(run_id, lambda: self._begin(run_id, trial, started))

    def _begin(self, run_id: str, trial: str, started: float) -> Run:
        child = self._opener.trial(self._info, self._parent, trial, run_id, started)
        if run_id in self._ended or self.continued:
            self._opener.take_up(child, begun=False)
        child.about |= {"session": self._info.session, "parent": self._parent.id, "trial": trial}
        return child

    def _end(self, child: Run) -> None:
        folders = self._ended.setdefault(child.id, [])
        if child.dir not in folders:
            folders.append(child.dir)
        with self._opener.ending():
            self.problem = child.finish("finished", child.latest) or self.problem
        self._opener.ended(self._parent, child)

    def end_all(self) -> None:
        self._open.end_all()

    def flush(self) -> None:
        for run in self._open:
            run.flush()

    def unsent(self) -> Iterator[tuple[str, Path]]:
        """Yield id and directory of the runs that are to be uploaded: a resumed one has several."""
        for run_id, folders in self._ended.items() if self._wait else ():
            for folder in folders:
                yield run_id, folder
