"""What is logged through a session itself: tables, alerts, tags; and the system metrics that it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.aim import objects
from tracelet_shim.backends.aim.run import Run
from tracelet_shim.backends.base import Backend, Capability, Level
from tracelet_shim.backends.render.tables import markdown
from tracelet_shim.backends.shared.values import utf8

__all__ = ["CAPABILITIES", "OwnForms", "on_system_tab"]

CAPABILITIES: Mapping[type[ev.Event], Capability] = {
    ev.Table: Capability(Level.CONVERTED, "Text, a Markdown table of up to 500 rows; CSV and JSON as artifacts"),
    ev.Artifact: Capability(
        Level.NATIVE, "artifacts; a later one of its name replaces it; on a server, where `artifacts_uri` names no place, texts"
    ),
    ev.Model: Capability(Level.CONVERTED, "as artifacts; Aim has no registry"),
    ev.Tags: Capability(Level.CONVERTED, "tags `name=value`"),
    ev.Alert: Capability(Level.CONVERTED, "Text"),
}
_TEXT_ROWS = 500
_SYSTEM: Mapping[str, tuple[str, dict[str, str]]] = {
    "cpu.percent": ("__system__cpu", {}),
    "process.cpu.percent": ("__system__cpu", {"of": "process"}),
    "memory.percent": ("__system__memory_percent", {}),
}
_GPU = {
    "percent": "__system__gpu", "memory.percent": "__system__gpu_memory_percent", "celsius": "__system__gpu_temp",
    "watts": "__system__gpu_power_watts",
}  # fmt: skip


def on_system_tab(tag: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name and context under which the page of a run has a system metric on its tab System, which shows the names that
    it knows (`systemMetricsDict` of Aim's UI) and no other; None if there is none for it."""
    gpu = re.fullmatch(r"gpu\.(\d+)\.(.+)", tag)
    if gpu is None:
        return _SYSTEM.get(tag)
    return (_GPU[gpu[2]], {"gpu": int(gpu[1])}) if gpu[2] in _GPU else None


class OwnForms(Backend):
    """The part of the backend that shows them."""

    _run: Run | None

    def _put(self, event: ev.Event, value: Any, kind: str) -> None:
        raise NotImplementedError

    def _acknowledge(self, event: ev.Event | None = None) -> None:
        raise NotImplementedError

    def log_table(self, event: ev.Table) -> None:
        self.attach_files(event)  # exactly
        self._put(event, objects.text(utf8(markdown(event, _TEXT_ROWS))), event.kind)

    def log_alert(self, event: ev.Alert) -> None:
        self._put(event, objects.text(utf8(f"**{event.level}**: {event.text}")), event.kind)

    def log_tags(self, event: ev.Tags) -> None:
        assert self._run is not None
        self._run.set_tags(event.tags)
        self._acknowledge(event)

    def log_used(self, event: ev.Used) -> None:
        assert self._run is not None
        self._run.say_used(event)
        self._acknowledge(event)
