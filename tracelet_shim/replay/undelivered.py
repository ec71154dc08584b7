"""What a session has not delivered: for `--resume`, and for the status."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tracelet_shim.common.run_report import is_alive
from tracelet_shim.eventfiles.logdir import walk
from tracelet_shim.relay.directory import beyond
from tracelet_shim.replay.rings import waiting_in_ring
from tracelet_shim.replay.session_files import SessionFiles
from tracelet_shim.state.index import in_use, indexed
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.older import moved_on
from tracelet_shim.state.rows import RunRow, SessionRow

__all__ = ["Missing", "missing", "running"]

def running(session: SessionRow, directory: Path) -> bool:
    """Return whether the session is being served: by its training process, its relay, or a replay."""
    if in_use(directory, session.id):
        return True
    return session.ended is None and session.host == socket.gethostname() and is_alive(session.pid, session.started)


class Missing(NamedTuple):
    """What a session has not delivered.

    Attributes:
        runs: the runs that are not complete.
        pending: by tracker, the number of events that are still to be delivered to it; with a tail, of those that are known.
        tail: how many records the event files have that the session never got.
        backends: all trackers of the session.
        refused: by tracker, the number of events that it refused and that are set aside.
        lost: by tracker and event file, the number of events that the file should have and does not.
        rows: all runs of the session, the latest that is known of them.
    """

    runs: tuple[RunRow, ...]
    pending: Mapping[str, int]
    tail: int
    backends: tuple[str, ...]
    refused: Mapping[str, int]
    lost: Mapping[str, Mapping[str, int]]
    rows: tuple[RunRow, ...]

    @property
    def anything(self) -> bool:
        """True if the session is to be continued."""
        return bool(self.runs) or self.tail > 0 or not self.backends


def missing(ledger: Ledger, session: SessionRow, root: str, *, alive: bool = False) -> Missing:
    """Return what is missing of a session.

    Args:
        ledger: has the session.
        session: the session.
        root: where its root directory is now.
        alive: True if it is running: then only the ledger is looked at.
    """
    rows = tuple(ledger.runs(session.id))
    length, taken, own = session.records, dict[int, int](), 0
    if not alive:
        rows = tuple(moved_on(ledger.directory, session.id, rows))
        length, taken, own = indexed(ledger.directory, session.id) or (length, taken, own)
    records = max(length, session.records)
    events = session.events + records - session.records
    lost = ledger.lost(session.id)
    refused = {row.backend: row.failed - sum(lost.get(row.backend, {}).values()) for row in rows}
    pending = {row.backend: max(1, events - row.delivered - row.failed) for row in rows if row.cursor < records}
    tail = 0
    if not alive and (session.ended is None or session.cut_off):
        files = SessionFiles(ledger, session, root, taken)
        tail = sum(beyond(path, files.taken[path]) for path in {source.path for source in files.sources})
        found = (os.path.join(at, name) for place in files.places for at, names in walk(place) for name in names)
        tail += sum(beyond(path, files.start_of(path)) for path in found if files.is_new(path))
        tail = max(tail, waiting_in_ring(ledger.directory, session.id, length - own))
    behind = tuple(row for row in rows if tail or row.state != "closed" or row.backend in pending)
    return Missing(
        behind, pending, tail, tuple(row.backend for row in rows), {name: n for name, n in refused.items() if n > 0}, lost, rows
    )
