"""Which scalars the database has already: of a run that was there before, and after a write that failed.

A batch that comes again may be cut elsewhere, so the log_ids of its shared rows are others. Fragments cannot be asked, and what a
server does not have yet may be on its way (``server._enqueue_write``): there each scalar is a row, and its log_id is enough.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from tracelet_shim import events as ev
from tracelet_shim.backends.trackio import log_ids
from tracelet_shim.backends.trackio.local import Local
from tracelet_shim.backends.trackio.store import Store
from tracelet_shim.eventfiles.own_files import is_sample

__all__ = ["Stored"]


class Stored:
    """What may be in the store of one run.

    Args:
        may_be: True if the run was there before.
        row_each: True if it may have rows of one scalar each: of an earlier version, or of fragments.

    Attributes:
        may_be: True if some of what comes may be there.
    """

    def __init__(self, *, may_be: bool = False, row_each: bool = False) -> None:
        self.may_be = may_be
        self._row_each = row_each

    def among(self, events: Sequence[ev.Event], store: Store, run_id: str) -> set[ev.RecordId]:
        """Return the records of those scalars among `events` that the run has already."""
        there = set[ev.RecordId]()
        if not self.may_be or not isinstance(store, Local) or not store.shares_rows:
            return there
        by_file = dict[str, list[ev.RecordId]]()
        system = set[str]()
        for event in events:
            if isinstance(event, ev.Scalar):
                by_file.setdefault(event.record.file, []).append(event.record)
                if is_sample(event.record.file, event.writer):
                    system.add(event.record.file)
        for file, records in by_file.items():
            places = log_ids.place(min(records)), log_ids.place(max(records))
            spans = store.spans(log_ids.file_id(run_id, file), *places, system=file in system)
            starts = [first for first, _ in spans]
            for record in records:
                place = log_ids.place(record)
                at = bisect_right(starts, place)
                if at and place <= spans[at - 1][1]:
                    there.add(record)
        if self._row_each and by_file:
            by_id = {log_ids.of_event(run_id, record): record for group in by_file.values() for record in group}
            known = store.known(list(by_id))
            self._row_each = bool(known)  # what comes again comes first
            there.update(by_id[log_id] for log_id in known)
        return there
