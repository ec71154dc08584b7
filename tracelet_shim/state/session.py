"""What is kept on disk of one session: its entry in the ledger, and its index."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.state.index import Index
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.place import state_directory
from tracelet_shim.state.rows import GivenPath, Refused, RunRow, SessionRow, ToldTrial

__all__ = ["SessionState"]

logger = logging.getLogger("tracelet_shim.relay")


class SessionState:
    """The state of a session. Where it has no place, or that is full, delivery goes on all the same.

    Args:
        trouble: told, by kind, what cannot be kept.
        directory: the state directory, where it is another than the root directory and the environment say.

    Attributes:
        is_open: True as soon as `open` has been called.
        directory: the state directory, once it is known and if it can be written.
        ledger: the ledger; None if there is none.
        index: which records there are; None before `open`.
        known: what the ledger had of this session before, if its relay was restarted.
        owned: False if another process serves the session.
    """

    def __init__(self, trouble: Callable[[str, str], None], directory: Path | None = None) -> None:
        self._trouble = trouble
        self._place = directory
        self._session = ""
        self.is_open = False
        self.directory: Path | None = None
        self.ledger: Ledger | None = None
        self.index: Index | None = None
        self.known: SessionRow | None = None
        self.owned = True
        self._news: deque[tuple[list[ToldTrial], list[GivenPath]]] = deque()
        self._refused: list[Refused] = []  # these three wait for the ledger
        self._accepted: list[int] = []
        self._lost: list[tuple[str, int, int]] = []
        self._saved: tuple[object, ...] = ()

    def open(self, run: RunInfo, root: str, trackers: Iterable[str], *, keeps: bool) -> Index:
        """Open the ledger and enter the session, or find it there. With `keeps` false, nothing is kept on disk."""
        self.is_open = True
        self._session = run.session
        if not keeps:
            self.index = Index(None, run.session)
            return self.index
        directory = self._place or state_directory(root, os.environ)
        try:
            self.ledger = Ledger(directory)
            self.known = self.ledger.begin(run, root, trackers)
            self.index = Index(directory, run.session)
            self.directory = directory
            run_report.add(session=run.session, directory=str(directory.absolute()))
            self.owned = self.index.owned
        except (OSError, sqlite3.Error) as error:
            self._trouble("ledger", f"no state can be kept in {directory} ({error}); a crashed run could not be continued")
            self.ledger, self.known, self.index = None, None, Index(None, run.session)
        return self.index

    def path(self, what: str) -> Path:
        """Return the file of this session with such a suffix; there must be a state directory."""
        assert self.directory is not None
        return self.directory / f"{self._session}.{what}"

    def write(self, write: Callable[[Ledger, str], None]) -> None:
        """Write to the ledger, if there is one: `write` gets it and the session's id."""
        if self.ledger is None:
            return
        try:
            write(self.ledger, self._session)
        except sqlite3.Error as error:
            self._cannot_write(error)

    def _cannot_write(self, error: sqlite3.Error) -> None:
        assert self.ledger is not None
        self._trouble("ledger", f"cannot write the ledger in {self.ledger.directory} ({error})")

    # -- what an earlier relay has left -------------------------------------------------------------------------------

    def told(self) -> tuple[list[ToldTrial], list[GivenPath]]:
        """Return which trials and paths have been told apart, in order."""
        if self.ledger is None or self.index is None:
            return [], []
        trials, paths = self.index.noted()
        known_paths = dict.fromkeys(self.ledger.paths(self._session))
        new_paths = [path for path in paths if path not in known_paths]
        known_trials = self.ledger.trials(self._session)
        self.write(lambda ledger, session: ledger.add_trials(session, trials))
        self.write(lambda ledger, session: ledger.add_paths(session, new_paths))
        return [*known_trials, *trials], [*known_paths, *new_paths]

    def runs(self) -> dict[str, RunRow]:
        """Return where each tracker stood."""
        if self.ledger is None or self.index is None:
            return {}
        return {row.backend: row for row in self.index.cursors.moved_on(self.ledger.runs(self._session))}

    def sources(self) -> list[msg.Source]:
        return self.ledger.sources(self._session) if self.ledger is not None else []

    def taken(self) -> dict[int, int]:
        """Return, by source, the position behind the last record, if the session had ended."""
        return self.ledger.taken(self._session) if self.ledger is not None else {}

    def set_aside_of(self, backend: str) -> list[tuple[int, Refused]]:
        """Return the events that a tracker refused, each with the key under which it is kept."""
        return self.ledger.set_aside_of(self._session, backend) if self.ledger is not None else []

    def lost(self) -> dict[str, int]:
        """Return, by tracker, how many events it will never get."""
        lost = self.ledger.lost(self._session) if self.ledger is not None else {}
        return {name: sum(files.values()) for name, files in lost.items()}

    # -- while it runs ------------------------------------------------------------------------------------------------

    def tell(self, trials: list[ToldTrial], paths: list[GivenPath]) -> None:
        """Keep what the decoder has told apart, before a tracker is told; from any thread."""
        if self.index is not None:
            self.index.note(trials, paths)
        self._news.append((trials, paths))

    def stand(self, backend: str, standing: tuple[int, int, int, int]) -> None:
        """Keep where a tracker stands (`relay.progress.Standing`), for whoever goes on after a kill; from any thread."""
        if self.index is not None:
            self.index.cursors.mark(backend, standing)

    def save(
        self,
        events: int,
        records: int,
        runs: list[RunRow],
        refused: Iterable[Refused],
        accepted: Iterable[int],
        lost: Iterable[tuple[str, int, int]],
    ) -> None:
        """Write where everything stands, as `Ledger.save`; what cannot be written now is written later."""
        self._refused += refused
        self._accepted += accepted
        self._lost += lost
        if self.ledger is None:
            self._refused.clear()
            return
        now = (events, records, *runs)
        more = (self._refused, self._accepted, self._lost)
        try:
            for trials, paths in [self._news.popleft() for _ in range(len(self._news))]:
                self.ledger.add_trials(self._session, trials)
                self.ledger.add_paths(self._session, paths)
            if now != self._saved or any(more):
                self.ledger.save(self._session, events, records, runs, *more)
                self._saved = now
                for what in more:
                    what.clear()
        except sqlite3.Error as error:
            self._cannot_write(error)

    def end(
        self, everything: bool, records: int, status: str, taken: dict[int, int], *, cut_off: bool, behind: bool
    ) -> tuple[bool, bool]:
        """Enter the end, and close the ledger.

        Args:
            everything: each tracker has everything.
            records: how many there are.
            status: how the session ended.
            taken: by source, the position behind the last record.
            cut_off: the event files may have more.
            behind: the index lacks records.

        Returns:
            Whether the ledger has it that each tracker has everything, and whether something that one has refused may be
            offered to it again.
        """
        retry = False
        if self.ledger is None:
            return everything, retry
        session = self._session
        try:
            everything = everything and all(row.cursor >= records for row in self.ledger.runs(session))
            retry = bool(self.ledger.count_refused(session))
            lost = behind and not everything  # then the event files have more than the index, as after a crash
            self.ledger.end(session, status, cut_off=cut_off or lost, taken={} if lost else taken)
        except sqlite3.Error as error:
            self._cannot_write(error)
        self.ledger.close()
        return everything, retry
