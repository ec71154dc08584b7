"""What is kept on disk of one session: its entry in the ledger, and its index.

Each worker writes where its tracker stands after each batch, and what the decoder has told apart before its tracker is told: one
transaction, in which everything goes along that has come meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.state import older
from tracelet_shim.state.index import Index
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.place import state_directory
from tracelet_shim.state.rows import Changes, GivenPath, Refused, RunRow, SessionRow, Shown, ToldTrial

__all__ = ["LeftError", "SessionState"]

_Found = TypeVar("_Found")


class LeftError(BaseException):
    """Another process goes on with this session: nothing more may be written to its trackers."""


class SessionState:
    """The state of a session; may be used from any thread. Where it has no place, or that is full, delivery goes on all the same.

    Args:
        trouble: told, by kind, what cannot be kept.
        counts: returns how many events there are, how many records, and for how many of these the events have been counted.
        directory: the state directory, where it is another than the root directory and the environment say.

    Attributes:
        is_open: True as soon as `open` has been called.
        directory: the state directory, once it is known and if it can be written.
        is_kept: True if there is a ledger.
        known: what the ledger had of this session before, if its relay was restarted.
        owned: False if another process serves the session.
    """

    has_all_records = True
    """Whether the session's records can be read again from the first one on."""

    def __init__(
        self, trouble: Callable[[str, str], None], counts: Callable[[], tuple[int, int, int]], directory: Path | None = None
    ) -> None:
        self._trouble = trouble
        self._counts = counts
        self._place = directory
        self._session = ""
        self.is_open = self.is_kept = False
        self.directory: Path | None = None
        self.known: SessionRow | None = None
        self.owned = True
        self._ledger: Ledger | None = None
        self._using = threading.Lock()  # the ledger
        self._changes = Changes()  # that the ledger has not got yet
        self._changing = threading.Lock()
        self._runs: dict[str, Shown] = {}  # these two as the ledger has them
        self._counted: tuple[int, int, int] | None = None
        self._fails = False

    # -- opening, and what an earlier relay has left ----------------------------------------------------------------------

    def open(self, run: RunInfo, root: str, trackers: Iterable[str], *, keeps: bool) -> Index:
        """Open the ledger and enter the session, or find it there; return its index. With `keeps` false, nothing is kept."""
        self.is_open = True
        self._session = run.session
        if not keeps:
            return Index(None, run.session)
        directory = self._place or state_directory(root, os.environ)
        ledger = None
        try:
            ledger = Ledger(directory)
            known = ledger.begin(run, root, trackers)
            index = Index(directory, run.session)
            if known is not None and index.owned:
                self._take_over(ledger)
        except (OSError, sqlite3.Error) as error:
            if ledger is not None:
                ledger.close()
            self._trouble("ledger", f"no state can be kept in {directory} ({error}); a crashed run could not be continued")
            return Index(None, run.session)
        self._ledger, self.known, self.directory, self.owned = ledger, known, directory, index.owned
        self.is_kept = True
        run_report.add(session=run.session, directory=str(directory.absolute()))
        return index

    def _take_over(self, ledger: Ledger) -> None:
        """Let the ledger have what an older version has kept beside it."""
        session = self._session
        trials, paths = older.told_apart(ledger.directory, session)
        places = {(source, position) for source, position, *_ in ledger.trials(session)}
        known = set(ledger.paths(session))
        changes = Changes(
            trials=[trial for trial in trials if trial[:2] not in places],
            paths=[path for path in paths if path not in known],
            standings={
                row.backend: (row.cursor, row.part, row.delivered, row.failed)
                for row in older.moved_on(ledger.directory, session, ledger.runs(session))
            },
        )
        ledger.commit(session, changes)
        older.forget(ledger.directory, session)

    def path(self, what: str) -> Path:
        """Return the file of this session with such a suffix; there must be a state directory."""
        assert self.directory is not None
        return self.directory / f"{self._session}.{what}"

    def _read(self, read: Callable[[Ledger, str], _Found]) -> _Found | None:
        with self._using:
            return read(self._ledger, self._session) if self._ledger is not None else None

    def told(self) -> tuple[list[ToldTrial], list[GivenPath]]:
        """Return which trials and paths have been told apart, in order."""
        return self._read(lambda ledger, session: (ledger.trials(session), ledger.paths(session))) or ([], [])

    def runs(self) -> dict[str, RunRow]:
        """Return where each tracker stands, or stood."""
        return {row.backend: row for row in self._read(lambda ledger, session: ledger.runs(session)) or ()}

    def sources(self) -> list[msg.Source]:
        return self._read(lambda ledger, session: ledger.sources(session)) or []

    def writers(self) -> list[str]:
        """Return the log directories, in the order in which they were named."""
        return self._read(lambda ledger, session: ledger.writers(session)) or []

    def taken(self) -> dict[int, int]:
        """Return, by source, the position behind the last record, if the session had ended."""
        return self._read(lambda ledger, session: ledger.taken(session)) or {}

    def lost(self) -> dict[str, int]:
        """Return, by tracker, how many events it will never get."""
        lost = self._read(lambda ledger, session: ledger.lost(session)) or {}
        return {name: sum(files.values()) for name, files in lost.items()}

    def set_aside_of(self, backend: str) -> list[tuple[int, Refused]]:
        """Return the events that a tracker refused, each with the key under which it is kept."""
        return self._read(lambda ledger, session: ledger.set_aside_of(session, backend)) or []

    def earlier(self, run: RunInfo, root: str) -> tuple[str, dict[str, str]] | None:
        """Return the session of an earlier start of this job that `run` continues, and its runs by tracker."""
        session = self._read(lambda ledger, _: ledger.earlier(run, root))
        if session is None:
            return None
        rows = self._read(lambda ledger, _: ledger.runs(session.id)) or ()
        return session.id, {row.backend: row.run_id for row in rows if row.run_id is not None}

    def may_write(self) -> None:
        """To be called before each thing that is written to a tracker.

        Raises:
            LeftError: it may not be.
        """

    # -- while it runs ------------------------------------------------------------------------------------------------

    def write(self, write: Callable[[Ledger, str], None]) -> None:
        """Write to the ledger, if there is one: `write` gets it and the session's id."""
        if self._ledger is None:
            return
        try:
            with self._using:
                write(self._ledger, self._session)
        except sqlite3.Error as error:
            self._cannot_write(error)

    def tell(self, trials: list[ToldTrial], paths: list[GivenPath]) -> None:
        """Keep what the decoder has told apart, before a tracker is told."""
        self._change(Changes(trials=trials, paths=paths))

    def show(self, backend: str, shown: Shown) -> None:
        """Keep what there is to be seen of a run."""
        self._change(Changes(runs={backend: shown}))

    def stand(
        self,
        backend: str,
        standing: tuple[int, int, int, int],
        refused: list[Refused],
        accepted: list[int],
        lost: list[tuple[str, int, int]],
    ) -> None:
        """Keep where a tracker stands (`relay.progress.Standing`), with what it has refused, has taken after all, and has lost up
        to there, for whoever goes on after a kill."""
        self._change(Changes(standings={backend: standing}, refused=refused, accepted=accepted, lost=lost))

    def _change(self, changes: Changes) -> None:
        if self._ledger is None:
            return
        with self._changing:
            self._changes.add(changes)
        if not self._fails:  # else it is tried again by `save`: a tracker does not wait for that
            self._commit()

    def save(self, runs: dict[str, Shown]) -> None:
        """Write what there is to be seen of the runs, and what could not be written before, if anything has changed."""
        if self._ledger is None:
            return
        new = {name: shown for name, shown in runs.items() if self._runs.get(name) != shown}
        with self._changing:
            self._changes.add(Changes(runs=new))
            changed = self._changes != Changes()
        if changed or self._counts() != self._counted:
            self._commit()

    def _commit(self) -> None:
        """Write what there is. Who has waited for somebody else's transaction may find that it was written with that."""
        try:
            with self._using:
                if self._ledger is None:  # its end has come meanwhile
                    return
                with self._changing:
                    changes, self._changes = self._changes, Changes()
                changes.counts = counts = self._counts()  # not before the standings: a tracker has only what has been counted
                if counts == self._counted and changes == Changes(counts=counts):
                    return
                try:
                    self._ledger.commit(self._session, changes)
                except sqlite3.Error:
                    with self._changing:
                        changes.add(self._changes)
                        self._changes = changes
                    raise
                self._runs |= changes.runs
                self._counted = counts
        except sqlite3.Error as error:
            self._fails = True
            self._cannot_write(error)
        else:
            self._fails = False

    def let_go(self) -> None:
        """Close the ledger, with what it has of this session."""
        with self._using:
            ledger, self._ledger = self._ledger, None
            if ledger is not None:
                ledger.close()

    def _cannot_write(self, error: sqlite3.Error) -> None:
        self._trouble("ledger", f"cannot write the ledger in {self.directory} ({error})")

    def end(
        self,
        everything: bool,
        records: int,
        status: str,
        taken: dict[int, int],
        *,
        cut_off: bool,
        behind: bool,
        own: Sequence[str] = (),
    ) -> tuple[bool, bool, list[str]]:
        """Enter the end, and close the ledger.

        Args:
            everything: each tracker has everything.
            records: how many there are.
            status: how the session ended.
            taken: by source, the position behind the last record.
            cut_off: the event files may have more.
            behind: the index lacks records.
            own: event files of ours.

        Returns:
            Whether the ledger has it that each tracker has everything; whether something that one has refused may be offered to
            it again; and which of those files no other session has still to deliver something of.
        """
        retry, free = False, list[str]()
        ledger, session = self._ledger, self._session
        if ledger is None:
            return everything, retry, free
        with self._using:
            try:
                everything = everything and all(row.cursor >= records for row in ledger.runs(session))
                retry = bool(ledger.count_refused(session))
                lost = behind and not everything  # then the event files have more than the index, as after a crash
                ledger.end(session, status, cut_off=cut_off or lost, taken={} if lost else taken)
                free = [path for path in own if not ledger.is_waited_for(path, session)]
            except sqlite3.Error as error:
                self._cannot_write(error)
            self._ledger = None  # a tracker that was left behind may still come
            ledger.close()
        return everything, retry, free
