"""What is logged through a session itself: tables, artifacts, models, tags, alerts.

A registry holds links to versions, and a link is known by what it leads to, so one that comes again is there once. A registry
beside a server, or of a Space, is a bucket of Hugging Face, which the program that logs has to know by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.trackio import log_ids
from tracelet_shim.backends.trackio.fetching import used
from tracelet_shim.backends.trackio.names import OWN, artifact_file, artifact_name
from tracelet_shim.backends.trackio.run import Run
from tracelet_shim.backends.trackio.store import Store
from tracelet_shim.backends.trackio.tables import MOST_CELLS, table
from tracelet_shim.backends.trackio.values import iso, plain

__all__ = ["CAPABILITIES", "OwnForms"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(Level.NATIVE, "trackio.Table (its head, if large), whole as CSV and JSON: an artifact"),
    ev.Artifact: Capability(
        Level.NATIVE,
        "artifact with its type and aliases; equal content is one version; names that Trackio does not take are escaped, and "
        "whole in the metadata",
    ),
    ev.Model: Capability(
        Level.NATIVE,
        "artifact of the type model; register_as links it, with its aliases, into a registry of this machine that exists (option "
        "registry, or `registry-<name>/<collection>`); on a server or a Space: no registry, which is said once",
    ),
    ev.Tags: Capability(Level.CONVERTED, "config, `tracelet/tag/...`"),
    ev.Alert: Capability(Level.NATIVE, "alert"),
    ev.Used: Capability(Level.NATIVE, "input of the run; of another tracker or project in the config, `tracelet/used/...`"),
}
_NAME = r"[^A-Za-z0-9._\-]"  # ``cas.py``, `validate_artifact_name` and `validate_aliases`
_ALIAS = rf"{_NAME}|^v(?=\d+\Z)|^l(?=atest\Z)"
_REGISTRY = r"(?:registry-)?([A-Za-z0-9_\-]+)/(.+)"  # `registry_storage.parse_collection_target`
_DEFAULT_REGISTRY = "models"
_LEVELS = {"info": "info", "warning": "warn", "error": "error"}


class OwnForms(Backend):
    """The part of the backend that shows them."""

    _main: Run | None
    _store: Store | None
    _keys: Names
    _project: str

    def _row(self, event: ev.Event, values: dict[str, Any], part: str = "") -> None:
        raise NotImplementedError

    def log_table(self, event: ev.Table) -> None:
        self.attach_files(event)
        head = event.rows[: max(1, MOST_CELLS // max(1, len(event.columns)))]
        rows = [dict(zip(event.columns, map(plain, row), strict=True)) for row in head]
        self._row(event, {self._keys(event.path): table(rows)})

    def log_artifact(self, event: ev.Artifact) -> None:
        self._log_version(event)

    def log_model(self, event: ev.Model) -> None:
        version = self._log_version(event)
        if event.register_as is None:
            return
        assert self._main is not None
        assert self._store is not None
        found = re.fullmatch(_REGISTRY, event.register_as)
        given = str(self.given.get("registry") or _DEFAULT_REGISTRY).removeprefix("registry-")
        registry, collection = found.groups() if found else (given, event.register_as)
        problem = self._store.link(
            registry=registry, collection=Names(_NAME, 128)(collection), type=event.category or "model",
            source_artifact=artifact_name(event.tag), source_version=version, aliases=_aliases(event),
            run_name=self._main.name, run_id=self._main.id,
        )  # fmt: skip
        if problem is not None:
            self.notice("registry", f"a model is an artifact, but in no registry: {problem}")

    def _log_version(self, event: ev.Artifact) -> int:
        """Log an artifact; return its version."""
        assert self._main is not None
        assert self._store is not None
        for file in event.files:
            self.check_kept(file)
        paths = [(file.path.removeprefix(f"{event.tag}/"), file) for file in event.files]
        changed = {name: path for path, _ in paths if (name := artifact_file(path)) != path}
        about = {"name": event.tag, "wall_time": event.wall_time, **({"files": changed} if changed else {})}
        return self._store.files(
            [(artifact_file(path), file) for path, file in paths],
            name=artifact_name(event.tag), type=event.category or "artifact", description=None,
            metadata=plain(about), aliases=_aliases(event),
            run_name=self._main.name, run_id=self._main.id,
        )  # fmt: skip

    def log_tags(self, event: ev.Tags) -> None:
        assert self._main is not None
        self._main.config |= {f"{OWN}tag/{plain(name)}": plain(value) for name, value in event.tags.items()}
        self._main.changed = True

    def log_used(self, event: ev.Used) -> None:
        assert self._main is not None
        assert self._store is not None
        known = used(self._store, self._project, event) if event.tracker in ("", self.name) else None
        if known is not None:
            self._store.use(known, self._main.name, self._main.id)
            return
        about = {"from": event.tracker, "identity": event.identity, "sha256": event.digest}
        self._main.config[f"{OWN}used/{plain(event.tag)}"] = plain(about)
        self._main.changed = True

    def log_alert(self, event: ev.Alert) -> None:
        assert self._main is not None
        assert self._store is not None
        if not self._store.has_alerts:
            alert = {"level": _LEVELS[event.level], "title": plain(event.tag), "text": plain(event.text)}
            self._row(event, {f"{OWN}alert/{self._keys(event.tag)}": table([alert])})
            return
        self._store.alert({
            "run": self._main.name, "run_id": self._main.id, "title": plain(event.tag), "text": plain(event.text),
            "level": _LEVELS[event.level], "step": event.step, "timestamp": iso(event.wall_time) or self._main.started,
            "alert_id": log_ids.of_event(self._main.id, event.record, "alert"),
        })  # fmt: skip


def _aliases(event: ev.Artifact) -> list[str]:
    return list(map(Names(_ALIAS, 128), event.aliases))
