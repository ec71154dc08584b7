"""What is logged through a session itself: tables, artifacts, models, tags, alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level
from tracelet_shim.backends.clearml import models
from tracelet_shim.backends.clearml.console import MOST_TEXT, Console
from tracelet_shim.backends.clearml.fetching import MODEL, cannot_fetch, fetch
from tracelet_shim.backends.clearml.names import TaskNames
from tracelet_shim.backends.clearml.run import RunTask
from tracelet_shim.backends.render import plotly
from tracelet_shim.backends.shared.values import utf8

__all__ = ["CAPABILITIES", "OwnForms"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(Level.NATIVE, "table, a plot at its step; a very large one as CSV and JSON"),
    ev.Artifact: Capability(Level.NATIVE, "artifacts, one a file; a later one of its name replaces it"),
    ev.Model: Capability(
        Level.NATIVE,
        "OutputModel, of a directory a package; register_as is its name, aliases are tags, which an earlier one keeps; offline "
        "artifacts, since the SDK makes no model there (AttributeError: locked)",
    ),
    ev.Tags: Capability(Level.NATIVE, "tags, and user properties for those with values"),
    ev.Alert: Capability(Level.CONVERTED, "line in the console"),
    ev.Used: Capability(Level.CONVERTED, "user property `tracelet.used/...`; of a model, also an input model of the task"),
}


class OwnForms(Backend):
    """The part of the backend that shows them."""

    fetch, cannot_fetch = staticmethod(fetch), staticmethod(cannot_fetch)
    _run: RunTask
    _names: TaskNames
    _console: Console
    _offline: bool

    def _plot(self, event: ev.Event, figure: plotly.Figure) -> bool:
        raise NotImplementedError

    def log_table(self, event: ev.Table) -> None:
        if not self._plot(event, plotly.table(event)):
            self.attach_files(event)

    def log_artifact(self, event: ev.Artifact) -> None:
        for file in event.files:
            self.check_kept(file)
            self._run.add_file(self._artifact_paths(file.path), file.at, file.size, file.sha256)

    def log_model(self, event: ev.Model) -> None:
        if self._offline:
            self.log_artifact(event)
            return
        for file in event.files:
            self.check_kept(file)
        models.log_model(self._run, event, self._names.task(event.register_as or event.tag), list(map(utf8, event.aliases)))

    def log_tags(self, event: ev.Tags) -> None:
        if properties := self._set_tags(event.tags):
            self._set_properties(properties)

    def _set_tags(self, tags: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, Any]:
        """Set labels, and return what has a value: that becomes properties."""
        if labels := [*(name for name, value in tags.items() if not value), *more]:
            self._run.task.add_tags(labels)
        return {name: value for name, value in tags.items() if value}

    def _set_properties(self, properties: Mapping[str, Any]) -> None:
        named = ({"name": self._names.param(name), "value": value} for name, value in properties.items())
        self._run.task.set_user_properties(*named)

    def log_alert(self, event: ev.Alert) -> None:
        text = utf8(f"{event.level}: {event.tag}" + (f": {event.text}" if event.text else ""))
        self._console.write(text[:MOST_TEXT], event.level, self.wall_time_ms(event))
        if len(text) > MOST_TEXT:
            self.attach_files(event)

    def log_used(self, event: ev.Used) -> None:
        where = f"{event.tracker}: {event.identity}" if event.tracker else "this session"
        self._set_properties({f"tracelet.used/{event.tag}": utf8(f"{where} (sha256 {event.digest})")})
        if event.tracker == self.name and event.identity.startswith(MODEL) and not self._offline:
            name = self._names.task(event.tag.removeprefix(MODEL))
            models.connect(self._run, event.identity.removeprefix(MODEL), name, "input")
