"""What is logged through a session itself: tables, artifacts, models, tags, alerts.

SwanLab has neither artifacts nor a registry of models. `swanlab.save` takes at most 100 files a call, and links to them offline;
here each is copied and handed over alone, of up to the 50 GiB that SwanLab takes, and the config says what belongs together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level, RunInfo
from tracelet_shim.backends.shared.values import utf8
from tracelet_shim.backends.swanlab import charts

if TYPE_CHECKING:
    from tracelet_shim.backends.swanlab.road import Run
    from tracelet_shim.backends.swanlab.trials import TrialRuns

__all__ = ["CAPABILITIES", "OwnForms", "cannot_fetch"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(Level.CONVERTED, "the table that `swanlab.echarts.Table` draws; beyond 10 MiB attached as CSV and JSON"),
    ev.Artifact: Capability(
        Level.FILE,
        "files saved with the run, in artifacts/; name, type and aliases in the config, since SwanLab has no artifacts",
    ),
    ev.Model: Capability(
        Level.FILE, "as an artifact, with the name that it is registered as; SwanLab has no registry of models"
    ),
    ev.Tags: Capability(Level.CONVERTED, "config, under `tracelet`; SwanLab takes labels only when a run begins"),
    ev.Alert: Capability(
        Level.CONVERTED, "Text; SwanLab has no alerts: its notifiers are plugins with keys of your own, told of the end of a run"
    ),
}


def cannot_fetch(options: Mapping[str, Any], run: RunInfo) -> str | None:  # noqa: ARG001 - it never can
    """As `Backend.cannot_fetch`."""
    return "SwanLab gives no files back: its API has metrics and configs alone"


class OwnForms(Backend):
    """The part of the backend that shows them."""

    def _opened(self) -> tuple[Run, TrialRuns]:
        raise NotImplementedError

    def _media(self, event: ev.Event, kind: str, items: Sequence[tuple[str, bytes]]) -> bool:
        raise NotImplementedError

    def _set_params(self, run: Run, params: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def attach_path(self, path: str, file: str, event: ev.Event) -> None:
        run = self._opened()[0]
        with run.of(event):
            run.save_copy(path, file)

    def log_table(self, event: ev.Table) -> None:
        self._media(event, "echarts", [charts.table(event)])

    def log_artifact(self, event: ev.Artifact) -> None:
        super().log_artifact(event)
        self._say(event, {})

    def log_model(self, event: ev.Model) -> None:
        super().log_artifact(event)
        self._say(event, {"model": True, "registered as": event.register_as})
        if event.register_as is not None:
            self.notice("registry", "a model is among the files of its run, but in no registry: SwanLab has none")

    def _say(self, event: ev.Artifact, more: Mapping[str, Any]) -> None:
        """Say in the config what the files of an artifact are."""
        said = {"type": event.category or None, "aliases": list(event.aliases) or None, "files": len(event.files), **more}
        known = self._opened()[0].about.get("artifacts", {})
        self._tell(event, artifacts={**known, event.tag: {key: value for key, value in said.items() if value is not None}})

    def log_tags(self, event: ev.Tags) -> None:
        self._tell(event, tags={**(self._opened()[0].about.get("tags") or {}), **event.tags})

    def _tell(self, event: ev.Event, **about: Any) -> None:
        run = self._opened()[0]
        run.about |= about
        with run.of(event):
            self._set_params(run, {})

    def log_alert(self, event: ev.Alert) -> None:
        self._media(event, "text", [("txt", utf8(f"**{event.level}: {event.tag}**\n\n{event.text}").encode())])
