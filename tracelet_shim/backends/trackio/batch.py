"""The rows of one `write`, which are stored at once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.rows import WALL_TOLERANCE, Keys, rows
from tracelet_shim.backends.trackio import log_ids
from tracelet_shim.backends.trackio.names import OWN
from tracelet_shim.backends.trackio.run import Run
from tracelet_shim.backends.trackio.store import Store
from tracelet_shim.backends.trackio.values import iso, plain

__all__ = ["Batch"]

_DEVICE = re.compile(r"\A(?:gpu\.\d+|\w+)\.")


_SPAN = 60.0
"""Seconds between the first and the last value of a row, at most: the dashboard's time axis shows the row's time for all."""

_FILES = 16
"""Event files that a row has values of, at most: `add_scalars` has one for each curve, and the row's name has a part for each."""


class Batch:
    """Rows for runs of one project.

    Where the store can be asked what it has (`Store.shares_rows`), a row has all that one `write` brings for a step, as a user's
    own ``trackio.log({...}, step=...)`` has. The dashboard counts rows as steps, draws 3000 of a run, and smooths over rows: one
    that has no value of a curve makes a kink in it. Nothing may be lost, doubled or change its place for that. So a row ends
    before an event that is of another step; that is not the next one of its event file (what is between would be taken for
    stored, see ``resume.py``); whose key the row has; that is older than what the row has, or `_SPAN` younger. A row has the
    time of its first value; that of another is beside it, in ``tracelet/wall_times``, if it differs by more than
    `WALL_TOLERANCE`. What is in a later `write` is in a later row: nothing waits for it.

    Args:
        project: its name in the store.
        store: where the rows will go.
        keys: the rule for keys of rows.

    Attributes:
        samples: rows for the system's page that are not stored yet.
    """

    def __init__(self, project: str, store: Store, keys: Names) -> None:
        self._project, self._store, self._keys = project, store, keys
        self._rows: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self._scalar_keys = Keys(lambda event: self._keys(event.path))
        self._run: Run | None = None
        self._first: ev.Event | None = None  # of the row that is not complete yet
        self._spans: dict[str, tuple[ev.RecordId, ev.RecordId]] = {}  # event file -> first and last value of it in that row
        self._values: dict[str, Any] = {}
        self._times: dict[str, float] = {}
        self._latest = 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that are not stored yet."""
        self._end_row()
        return self._rows

    def add_event(self, run: Run, event: ev.Event, values: dict[str, Any], part: str = "", *, alone: bool = True) -> None:
        """Add the values of one event. `part` tells the rows of one event apart; `alone`: they are a row of their own."""
        if alone or not self._store.shares_rows:
            self._end_row()
            self._add(run, event, plain(values), log_ids.of_event(run.id, event.record, part))
        else:
            (key,) = values
            self._share(run, event, key, plain(values[key]))

    def add_scalars(self, run: Run, events: Sequence[ev.Scalar]) -> None:
        if not self._store.shares_rows:
            for event in events:
                self.add_event(run, event, {self._keys(event.path): float(event.value)})
            return
        for event in events:
            value = float(event.value)
            self._share(run, event, self._scalar_keys.of(event), value if math.isfinite(value) else plain(value))

    def _share(self, run: Run, event: ev.Event, key: str, value: Any) -> None:
        """Put a value into the row that is not complete yet, or begin another one with it."""
        first, record, wall = self._first, event.record, event.wall_time
        span = self._spans.get(record.file)
        if (
            first is None or event.step != first.step or key in self._values or run is not self._run
            or not (wall - self._latest >= -WALL_TOLERANCE and wall - first.wall_time <= _SPAN)  # as NaN is
            or (len(self._spans) >= _FILES if span is None else not log_ids.is_next(span[1], record))
        ):  # fmt: skip
            self._end_row()
            self._run, self._first, self._spans, self._values, self._times = run, event, {}, {}, {}
            span, self._latest = None, wall
        elif abs(wall - first.wall_time) > WALL_TOLERANCE:
            self._times[key] = float(wall)
        self._values[key] = value
        self._spans[record.file] = (record if span is None else span[0], record)
        self._latest = max(wall, self._latest)

    def _end_row(self) -> None:
        first, run, values, times = self._first, self._run, self._values, self._times
        if first is None or run is None:
            return
        if len(values) == 1 and not isinstance(first, ev.Scalar):
            log_id = log_ids.of_event(run.id, first.record)
        else:
            log_id = log_ids.JOINT.join(log_ids.shared(run.id, *span) for span in self._spans.values())
        self._first, self._spans = None, {}
        self._add(run, first, {**values, f"{OWN}wall_times": times} if times else values, log_id)

    def add_samples(self, run: Run, events: Sequence[ev.Scalar]) -> None:
        """Add the rows of system metrics: one a time, or on a server, as of `add_scalars`, one for each. They have no step."""
        for group in log_ids.without_gaps(events):
            one_time = rows(group, Keys(_device)) if self._store.shares_rows else ((e, {_device(e): e.value}) for e in group)
            at = 0
            for first, values in one_time:
                at += len(values)
                shared = log_ids.shared(run.id, first.record, group[at - 1].record)
                log_id = shared if self._store.shares_rows else log_ids.of_event(run.id, first.record)
                self.samples.append({
                    "project": self._project, "run": run.name, "run_id": run.id, "metrics": plain(values),
                    "timestamp": iso(first.wall_time) or iso(0.0), "log_id": log_id,
                })  # fmt: skip

    def _add(self, run: Run, event: ev.Event, values: dict[str, Any], log_id: str) -> None:
        """Add a row of plain `values` at the step and time of `event`. The time is a text: numbers are drawn as curves."""
        if self._keys.shortened and (cut := [key for key in values if key in self._keys.shortened]):
            values[f"{OWN}tag"] = [plain(self._keys.shortened[key]) for key in cut]
        when = iso(event.wall_time)
        if when is None or not self._store.keeps_time:
            values[f"{OWN}wall_time"] = repr(float(event.wall_time))
        self._rows.append({
            "project": self._project, "run": run.name, "run_id": run.id, "metrics": values, "step": int(event.step),
            "timestamp": when or iso(0.0), "config": None, "log_id": log_id,
        })  # fmt: skip


def _device(event: ev.Scalar) -> str:
    """Return the name of a sample; the page puts what is before the last slash together: ``gpu/0/celsius``."""
    return _DEVICE.sub(lambda found: found[0].replace(".", "/"), event.tag)
