"""What a collector keeps of a session: in Redis, under its lease."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.fleet.lease import Leases
from tracelet_shim.fleet.ledger import FleetLedger
from tracelet_shim.fleet.stream import StreamIndex
from tracelet_shim.state.index import Index
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.rows import Changes
from tracelet_shim.state.session import LeftError, SessionState

__all__ = ["FleetState"]

_AGAIN_SECONDS = 0.3

_Result = TypeVar("_Result")

logger = logging.getLogger("tracelet_shim.fleet")


class FleetState(SessionState):
    """As `SessionState`; but nothing goes on before what was delivered is noted, or the lease is over.

    Args:
        ledger: the session's.
        index: of its stream.
        leases: of this process.
        trouble, counts, directory: as of `SessionState`.

    Attributes:
        leaves: another process goes on with the session from now on.
    """

    has_all_records = False  # what every tracker has is trimmed

    def __init__(
        self,
        ledger: FleetLedger,
        index: StreamIndex,
        leases: Leases,
        trouble: Callable[[str, str], None],
        counts: Callable[[], tuple[int, int, int]],
        directory: Path | None = None,
    ) -> None:
        super().__init__(trouble, counts, directory)
        self._fleet = ledger
        self._index = index
        self._leases = leases
        self.leaves = False

    def open(self, run: RunInfo, root: str, trackers: Iterable[str], *, keeps: bool) -> Index:
        self.is_open = True
        self._session = run.session
        self.known = self._until_done(lambda: self._fleet.begin(run, root, trackers))
        self._ledger = self._fleet
        self.is_kept = True
        return self._index

    def may_write(self) -> None:
        self._leases.check()
        if self.leaves:
            raise LeftError

    def write(self, write: Callable[[Ledger, str], None]) -> None:
        if self._ledger is None:
            return

        def locked() -> None:
            with self._using:
                write(self._fleet, self._session)

        self._until_done(locked)

    def _until_done(self, do: Callable[[], _Result]) -> _Result:
        while True:
            try:
                return do()
            except sqlite3.Error as error:
                self._cannot_write(error)

    def _change(self, changes: Changes) -> None:
        with self._changing:
            self._changes.add(changes)
        self._commit()

    def _commit(self) -> None:
        super()._commit()
        while self._fails:
            super()._commit()

    def _cannot_write(self, error: sqlite3.Error) -> None:
        logger.warning("session %s: %s; nothing more is delivered before it is noted", self._session, error)
        self._leases.check()
        time.sleep(_AGAIN_SECONDS)
