"""What the ledger has, row by row."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from tracelet_shim.backends.base import Job, RunInfo

__all__ = ["About", "Changes", "GivenPath", "Refused", "RunRow", "SessionRow", "Shown", "ToldTrial", "row_of"]

ToldTrial = tuple[int, int, "str | None", dict[str, Any]]
"""Which hparams are the run's own and which a trial's: source, position, trial, params."""
GivenPath = tuple[str, str, str, "str | None", str]
"""Which writer, tag and series has which path: path, writer, tag, series, suffix."""


class SessionRow(NamedTuple):
    """A session as the ledger has it. Times are seconds since the epoch. `ended` is None while it runs or if its relay was
    killed; `status` is None before its program has ended, or if nobody saw that. `cut_off` tells that the event files may
    have more than `records`; `about` is `About` as JSON. `events` is exact for the first `counted` records; of the others, which
    nobody has decoded yet, each counts as one, or none if it is a part of an `add_hparams`. `counted` is None in a session that
    an older version has begun."""

    id: str
    started: float
    ended: float | None
    status: str | None
    root: str
    project: str | None
    exp_name: str | None
    run_id: str | None
    script: str | None
    cwd: str
    host: str
    pid: int
    events: int
    records: int
    cut_off: bool
    about: str | None
    counted: int | None = None

    @property
    def is_replay(self) -> bool:
        """True if no training process was seen: everything in the log directory is the session's."""
        return self.pid == 0


def row_of(run: RunInfo, root: str) -> SessionRow:
    """Return the row of a session that begins."""
    p = run.program
    return SessionRow(
        run.session, run.started, None, None, root, run.project, run.exp_name, run.run_id, p.script, p.cwd, p.host, p.pid,
        0, 0, False, None, 0,
    )  # fmt: skip


class About(msgspec.Struct, omit_defaults=True):
    """The rest of a `RunInfo`: what a run that could not be opened yet has to be opened with later."""

    tags: dict[str, str] = {}
    notes: str | None = None
    config: dict[str, Any] = {}
    group: str | None = None
    offline: bool = False
    job: Job | None = None
    forward: str | None = None


class RunRow(NamedTuple):
    """How far one tracker is. `cursor` is the number of records, from the session's first, that it is done with; of the
    next one, it has the first `part` events."""

    backend: str
    run_id: str | None
    url: str | None
    cursor: int
    delivered: int
    failed: int
    state: str
    error: str | None
    part: int = 0


class Refused(NamedTuple):
    """An event that a tracker refused.

    Attributes:
        backend: the tracker.
        path, position, part: event file, record in it, and value in that; `part` is None in a ledger of 0.1.
        kind, tag, step, message: what it is, and what the tracker had to say; None beyond the first ten thousand, of which only
            the places are kept.
        at: when, in seconds since the epoch.
        source: number of the event file; None in a ledger of 0.1.
    """

    backend: str
    path: str | None
    position: int
    kind: str | None
    tag: str | None
    step: int | None
    message: str | None
    at: float
    source: int | None = None
    part: int | None = None


Shown = tuple["str | None", "str | None", str, "str | None"]
"""What there is to be seen of a run: its id, its URL, its state, its latest error."""


class Changes(msgspec.Struct):
    """What a session has to have written, in one transaction.

    Attributes:
        counts: how many events there are, how many records, and for how many of these the events have been counted exactly.
        trials, paths: what has been told apart.
        runs: by tracker, what there is to be seen.
        standings: by tracker, how far it is: cursor, part, delivered and failed of its `RunRow`.
        refused: events that have been set aside.
        accepted: keys (`Ledger.set_aside_of`) of those that have been taken after all.
        lost: how many more events have no record in their event file: (tracker, source, events).
    """

    counts: tuple[int, int, int] | None = None
    trials: list[ToldTrial] = []
    paths: list[GivenPath] = []
    runs: dict[str, Shown] = {}
    standings: dict[str, tuple[int, int, int, int]] = {}
    refused: list[Refused] = []
    accepted: list[int] = []
    lost: list[tuple[str, int, int]] = []

    def add(self, later: Changes) -> None:
        """Take over what came later."""
        self.counts = later.counts or self.counts
        self.trials += later.trials
        self.paths += later.paths
        self.runs |= later.runs
        self.standings |= later.standings
        self.refused += later.refused
        self.accepted += later.accepted
        self.lost += later.lost
