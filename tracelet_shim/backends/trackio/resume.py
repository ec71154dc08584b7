"""Which values the database has already: of a run that was there before, and after a write that failed.

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
    """

    def __init__(self, *, may_be: bool = False, row_each: bool = False) -> None:
        self._may_be = may_be
        self._row_each = row_each
        self._joint: dict[str, list[tuple[str, str]]] | None = None  # of rows of several files: file_id -> first and last places
        self._latest = dict[str, ev.RecordId]()

    def doubt(self) -> None:
        """Some of what comes now may be there already."""
        self._may_be, self._joint = True, None

    def among(self, events: Sequence[ev.Event], store: Store, run_id: str) -> set[ev.RecordId]:
        """Return the records of those among `events` that the run has already, as a value of a row that they share.

        An event that never shares a row can seem to be there as well, if it is within a record of others: it is not asked for.
        """
        there = set[ev.RecordId]()
        if not isinstance(store, Local) or not store.shares_rows:
            return there
        latest = self._latest
        if any(event.record.file in latest and event.record <= latest[event.record.file] for event in events):
            self.doubt()
        latest.update((event.record.file, event.record) for event in events)
        if not self._may_be:
            return there
        by_file = dict[str, list[ev.RecordId]]()
        system = set[str]()
        single = dict[str, ev.RecordId]()
        for event in events:
            by_file.setdefault(event.record.file, []).append(event.record)
            if not isinstance(event, ev.Scalar):
                single[log_ids.of_event(run_id, event.record)] = event.record
            elif is_sample(event.record.file, event.writer):
                system.add(event.record.file)
        for file, records in by_file.items():
            places, file_id = (log_ids.place(min(records)), log_ids.place(max(records))), log_ids.file_id(run_id, file)
            spans = store.spans(file_id, *places, system=file in system)
            spans = sorted({*spans, *self._of_joint(store).get(file_id, ())})
            starts = [first for first, _ in spans]
            for record in records:
                place = log_ids.place(record)
                at = bisect_right(starts, place)
                if at and place <= spans[at - 1][1]:
                    there.add(record)
        there.update(single[log_id] for log_id in store.known(list(single)))
        scalars = [event.record for event in events if isinstance(event, ev.Scalar)]
        if self._row_each and scalars:
            by_id = {log_ids.of_event(run_id, record): record for record in scalars}
            known = store.known(list(by_id))
            self._row_each = bool(known)  # what comes again comes first
            there.update(by_id[log_id] for log_id in known)
        return there

    def _of_joint(self, store: Local) -> dict[str, list[tuple[str, str]]]:
        if self._joint is None:
            self._joint = {}
            for log_id in store.joint():
                for file_id, *places in log_ids.spans(log_id):
                    self._joint.setdefault(file_id, []).append((places[0], places[1]))
        return self._joint
