"""One Trackio run, the session's own or a trial of it: what its config says, and the row that opens it.

A run has no status, tags or notes: they are in its config as ``tracelet/...``. A run exists as soon as it has a row
(``get_run_records``), and a config travels with rows only: an empty row opens each run, and is sent again whenever the config
changes. A server takes it for known; the local store has taken it away by then, see ``local.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import RunInfo, Status
from tracelet_shim.backends.trackio.log_ids import digest
from tracelet_shim.backends.trackio.names import OWN
from tracelet_shim.backends.trackio.values import iso, plain
from tracelet_shim.common.text import as_utf8

__all__ = ["Run"]


class Run:
    """What we know of a run.

    Args:
        run_id: its id in the store.
        name: its name there.
        config: what its config has so far.
        started: when it began, as `iso`.

    Attributes:
        changed: True if its config is to be sent.
    """

    def __init__(self, run_id: str, name: str, config: dict[str, Any], started: str) -> None:
        self.id, self.name, self.config, self.started = run_id, name, config, started
        self.changed = True

    def opening_row(self, project: str) -> dict[str, Any]:
        return {
            "project": project, "run": self.name, "run_id": self.id, "metrics": {}, "step": 0,
            "timestamp": self.started, "config": plain(self.config), "log_id": digest(self.id, "opened"),
        }  # fmt: skip

    def describe(self, run: RunInfo, project: str, group: str | None) -> None:
        """Say what the run is; Trackio's own keys (``run.py``) first.

        Args:
            run: what is known of it.
            project: the project's name in the store.
            group: that of the options.
        """
        about = {
            "_Username": self.config.get("_Username"),
            "_Created": self.config.get("_Created") or iso(run.started),
            "_Group": run.group or group or self.config.get("_Group"),
            f"{OWN}status": "running",
            f"{OWN}session": run.session,
            **_tags_and_notes(run),
        }
        if run.run_id:
            about[f"{OWN}run_id"] = run.run_id
        if run.root:
            about[f"{OWN}root"] = as_utf8(run.root)
        if run.project and run.project != project:
            about[f"{OWN}project"] = run.project
        if run.exp_name and run.exp_name != self.name:
            about[f"{OWN}exp_name"] = run.exp_name
        for key, value in about.items():
            self.config[key] = plain(value)

    def label(self, run: RunInfo) -> None:
        """Add tags and notes to a run that is not ours."""
        self.config.update(_tags_and_notes(run))

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Put parameters into the config. The first value stays, later ones are listed beside it."""
        for name, value in params.items():
            key, stored = _param_key(name), plain(value)
            values = [self.config.setdefault(key, stored), *self.config.get(f"{OWN}later/{key}", ())]
            if json.dumps(values[-1]) != json.dumps(stored):
                self.config[f"{OWN}later/{key}"] = [*values[1:], stored]

    def set_hparams(self, event: ev.HParams) -> None:
        self.set_params(event.params)
        for place, values in (("metrics", event.metrics), ("domains", event.domain)):
            if values:
                self.config[f"{OWN}{place}"] = {**self.config.get(f"{OWN}{place}", {}), **values}
        self.changed = True

    def end(self, status: Status, ended: float) -> None:
        self.config |= {f"{OWN}status": status, f"{OWN}ended": iso(ended)}

    # -- trials -----------------------------------------------------------------------------------------------------

    def trial_id(self, trial: str) -> str:
        return digest(self.id, "trial", trial)

    def trial_config(self, trial: str, group: str, started: str) -> dict[str, Any]:
        """Return what the config of a new trial of this run has: the dashboard shows both in one group."""
        return {
            "_Username": self.config.get("_Username"), "_Created": started, "_Group": group,
            f"{OWN}parent": self.id, f"{OWN}trial": trial,
            f"{OWN}status": "finished",  # at once: a crash leaves no trial running for ever
        }  # fmt: skip


def _tags_and_notes(run: RunInfo) -> dict[str, Any]:
    """Return labels each under a name of its own: the dashboard groups runs by single values only."""
    about: dict[str, Any] = {f"{OWN}tag/{plain(name)}": plain(value) for name, value in run.tags.items()}
    return about if run.notes is None else {**about, f"{OWN}notes": plain(run.notes)}


def _param_key(name: str) -> str:
    """Return the config key of a parameter: not one of ours, nor one of Trackio's, which begin with an underscore."""
    key = plain(name)
    return f"{OWN}param/{key}" if not key or key.startswith(("_", OWN)) else key
