"""What is logged through a session itself: tables, artifacts, tags, alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.trackio import log_ids
from tracelet_shim.backends.trackio.names import OWN
from tracelet_shim.backends.trackio.run import Run
from tracelet_shim.backends.trackio.store import Store
from tracelet_shim.backends.trackio.tables import MOST_CELLS
from tracelet_shim.backends.trackio.values import iso, plain

__all__ = ["CAPABILITIES", "OwnForms"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(Level.NATIVE, "trackio.Table (its head, if large), whole as CSV and JSON: an artifact"),
    ev.Artifact: Capability(Level.NATIVE, "artifact with its type and aliases; equal content is one version"),
    ev.Model: Capability(Level.CONVERTED, "artifact of the type model; it is not linked into a registry"),
    ev.Tags: Capability(Level.CONVERTED, "config, `tracelet/tag/...`"),
    ev.Alert: Capability(Level.NATIVE, "alert"),
}
_NAME = r"[^A-Za-z0-9._\-]"  # ``cas.py``, `validate_artifact_name` and `validate_aliases`
_ALIAS = rf"{_NAME}|^v(?=\d+\Z)|^l(?=atest\Z)"
_LEVELS = {"info": "info", "warning": "warn", "error": "error"}


class OwnForms(Backend):
    """The part of the backend that shows them."""

    _main: Run | None
    _store: Store | None
    _keys: Names

    def _row(self, event: ev.Event, values: dict[str, Any], part: str = "") -> None:
        raise NotImplementedError

    def log_table(self, event: ev.Table) -> None:
        import trackio

        self.attach_files(event)
        head = event.rows[: max(1, MOST_CELLS // max(1, len(event.columns)))]
        rows = [dict(zip(event.columns, map(plain, row), strict=True)) for row in head]
        self._row(event, {self._keys(event.path): {"_type": trackio.Table.TYPE, "_value": rows}})

    def log_artifact(self, event: ev.Artifact) -> None:
        assert self._main is not None
        assert self._store is not None
        for file in event.files:
            self.check_kept(file)
        alias, metadata = Names(_ALIAS, 128), {"name": event.tag, "wall_time": event.wall_time}
        self._store.files(
            [(file.path.removeprefix(f"{event.tag}/"), file) for file in event.files],
            name=Names(_NAME, 150)(event.tag), type=event.category or "artifact", description=None,
            metadata=plain(metadata), aliases=list(map(alias, event.aliases)),
            run_name=self._main.name, run_id=self._main.id,
        )  # fmt: skip

    def log_tags(self, event: ev.Tags) -> None:
        assert self._main is not None
        self._main.config |= {f"{OWN}tag/{plain(name)}": plain(value) for name, value in event.tags.items()}
        self._main.changed = True

    def log_alert(self, event: ev.Alert) -> None:
        assert self._main is not None
        assert self._store is not None
        self._store.alert({
            "run": self._main.name, "run_id": self._main.id, "title": plain(event.tag), "text": plain(event.text),
            "level": _LEVELS[event.level], "step": event.step, "timestamp": iso(event.wall_time) or self._main.started,
            "alert_id": log_ids.of_event(self._main.id, event.record, "alert"),
        })  # fmt: skip
