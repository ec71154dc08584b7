"""The rows of one `write`, which are stored at once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.rows import Keys, rows
from tracelet_shim.backends.trackio import log_ids
from tracelet_shim.backends.trackio.names import OWN
from tracelet_shim.backends.trackio.run import Run
from tracelet_shim.backends.trackio.store import Store
from tracelet_shim.backends.trackio.values import iso, plain

__all__ = ["Batch"]

_DEVICE = re.compile(r"\A(?:gpu\.\d+|\w+)\.")


class Batch:
    """Rows for runs of one project.

    Args:
        project: its name in the store.
        store: where the rows will go.
        keys: the rule for keys of rows.

    Attributes:
        rows: those that are not stored yet.
        samples: the same, for the system's page.
    """

    def __init__(self, project: str, store: Store, keys: Names) -> None:
        self._project, self._store, self._keys = project, store, keys
        self.rows: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []

    def add_event(self, run: Run, event: ev.Event, values: dict[str, Any], part: str = "") -> None:
        """Add the row of one event. `part` tells the rows of one event apart."""
        self._add(run, event, plain(values), log_ids.of_event(run.id, event.record, part))

    def add_scalars(self, run: Run, events: Sequence[ev.Scalar]) -> None:
        """Add the rows of scalars: as few as there may be, or one for each."""
        if not self._store.shares_rows:
            for event in events:
                self.add_event(run, event, {self._keys(event.path): float(event.value)})
            return
        keys = Keys(lambda event: self._keys(event.path))
        for group in log_ids.without_gaps(events):
            at = 0
            for first, values in rows(group, keys):
                at += len(values)
                log_id = log_ids.shared(run.id, first.record, group[at - 1].record)
                self._add(run, first, values if all(map(math.isfinite, values.values())) else plain(values), log_id)

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
        """Add a row of plain `values` at the step and time of `event`."""
        if self._keys.shortened and (cut := [key for key in values if key in self._keys.shortened]):
            values[f"{OWN}tag"] = [plain(self._keys.shortened[key]) for key in cut]
        when = iso(event.wall_time)
        if when is None or not self._store.keeps_time:
            values[f"{OWN}wall_time"] = plain(float(event.wall_time))
        self.rows.append({
            "project": self._project, "run": run.name, "run_id": run.id, "metrics": values, "step": int(event.step),
            "timestamp": when or iso(0.0), "config": None, "log_id": log_id,
        })  # fmt: skip


def _device(event: ev.Scalar) -> str:
    """Return the name of a sample; the page puts what is before the last slash together: ``gpu/0/celsius``."""
    return _DEVICE.sub(lambda found: found[0].replace(".", "/"), event.tag)
