"""The directory of one run: all that is written to it goes through here.

Rows of metrics are appended at once. What sums up the run is written now and then: ``metrics.json`` has the latest values, nested
by slashes as `Live` does it (with ``x`` and ``x/y``, the second stays one key ``"x/y"``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.dvclive.dvcyaml import Listing
from tracelet_shim.backends.dvclive.files import NAMES_FILE, content, write_json, write_yaml
from tracelet_shim.backends.dvclive.live import note_image, save_experiment, tell_studio, write_report
from tracelet_shim.backends.dvclive.plots import table_look
from tracelet_shim.backends.dvclive.summary import flatten, nest, yaml_value
from tracelet_shim.backends.dvclive.tables import Tables
from tracelet_shim.backends.shared.files import RUN_FILE, about_run, copy, load, replace
from tracelet_shim.backends.shared.names import Names, Shortened
from tracelet_shim.backends.shared.values import finite

__all__ = ["Run", "about_of"]

_OURS = "tracelet"
"""The name of a parameter of ours, which holds what else is to be seen among them."""


def about_of(run: RunInfo, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what run.json says: DVCLive has nothing for status, tags and notes.

    Args:
        run: the call's.
        before: what it says already, of a run that is continued.
    """
    return {**about_run(run, before), "host": run.program.host, "pid": run.program.pid, "experiment": None}


class Run:
    """One run.

    Args:
        live: the `Live` on the directory.
        directory: where it is.
        about: what run.json says of it.
        paths: the rule for names.
        again: events may come that are already there.
        continued: the run has metrics of an earlier session.
        dvcyaml: the file that lists it; None for none.
    """

    def __init__(
        self,
        live: Any,
        directory: str,
        about: dict[str, Any],
        paths: Names,
        *,
        again: bool,
        continued: bool,
        dvcyaml: str | None,
    ) -> None:
        self.live = live
        self.directory = directory
        self.about = about
        self._again = again
        self._tables = Tables(self._path("plots", "metrics"), again=again)
        self._latest = dict(self._tables.last_values()) if continued else {}
        self._listing = Listing(directory, dvcyaml, paths) if dvcyaml is not None else None
        self._shortened = Shortened(paths)
        self._next_save = 0.0

    def _path(self, *parts: str) -> str:
        return os.path.join(self.directory, *parts)

    # -- at once ------------------------------------------------------------------------------------------------------

    def append(self, rows: Mapping[str, list[bytes]], latest: Mapping[str, float], step: int) -> None:
        """Append to the tables; all or nothing.

        Args:
            rows: the new rows of each key.
            latest: the latest value of each key.
            step: the latest.
        """
        self._tables.append(rows)
        self._latest.update(latest)
        self.live._step = step

    def write_plot(self, path: str, rows: list[dict[str, Any]]) -> None:
        write_json(self._path("plots/custom", f"{path}.json"), rows)

    def write_picture(self, key: str, step: int, identity: str, data: bytes, suffix: str) -> None:
        """Store a picture as ``<tag>/<step>.png``: viewers have a slider for those. A repeated step has a longer name."""
        images = self._path("plots/images")
        path = os.path.join(images, key, f"{step}.{suffix}")
        longer = os.path.join(images, key, f"{step}_{identity}.{suffix}")
        if os.path.exists(longer) or (os.path.exists(path) and not (self._again and content(path) == data)):
            path = longer
        replace(path, data)
        note_image(self.live, os.path.relpath(path, images), step)

    def write_media(self, path: str, data: bytes) -> None:
        replace(self._path("media", path), data)

    def copy_artifact(self, path: str, file: str) -> None:
        """Keep a file where `Live.log_artifact` would copy it to: ``artifacts/...``."""
        copy(file, self._path(path))

    def log_params(self, params: Mapping[str, Any]) -> None:
        known = self.live._params
        plain = yaml_value(dict(params))
        if any(name not in known or known[name] != value for name, value in plain.items()):
            known.update(plain)
            write_yaml(self.live.params_file, known)

    def log_latest(self, values: Mapping[str, float]) -> None:
        """Note values that stand in no table; they are saved with the next batch."""
        self._latest.update(values)
        self._next_save = 0.0

    def write_table(self, name: str, path: str, rows: list[dict[str, Any]]) -> None:
        """Store a table as a plot; dvc.yaml lists the latest of each name."""
        path = f"{path}.json"
        write_json(self._path("plots/custom", path), rows)
        tables = {key: value for key, value in self.about.get("tables", {}).items() if value["name"] != name}
        self.save_about(tables={**tables, path: {"name": name, **table_look(rows)}})
        self._next_save = 0.0

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags: in run.json, as those that the run began with, and among the parameters, which DVC shows."""
        self.save_about(tags={**(self.about.get("tags") or {}), **tags})
        ours = self.live._params.get(_OURS)
        known = ours.get("tags", {}) if isinstance(ours, Mapping) else {}
        self.log_params({_OURS: {"tags": {**known, **tags}}})
        self._next_save = 0.0

    def add_artifact(self, name: str, **about: Any) -> None:
        """List an artifact in dvc.yaml."""
        self.save_about(artifacts={**self.about.get("artifacts", {}), name: about})
        self._next_save = 0.0

    def add_alert(self, name: str, **about: Any) -> None:
        """Note an alert in run.json."""
        self.save_about(alerts={**self.about.get("alerts", {}), name: about})

    def add_charts(self, charts: Mapping[str, list[str]]) -> None:
        """Note charts of the program's own: title -> tags."""
        self.save_about(charts={**self.about.get("charts", {}), **charts})

    def save_about(self, **changed: Any) -> None:
        self.about.update(changed)
        write_json(self._path(RUN_FILE), self.about)

    # -- now and then -------------------------------------------------------------------------------------------------

    def save_if_due(self) -> None:
        if time.monotonic() > self._next_save:
            self.save()

    def save(self) -> None:
        """Write what sums up the run: metrics.json, dvc.yaml, names.json."""
        began = time.monotonic()
        live = self.live
        known = {key: value for key, value in flatten(live.summary) if key != "step"}  # also what came through `handle`
        known.update((key, finite(value)) for key, value in self._latest.items())
        live.summary = nest(known)
        if live._step is not None:
            live.summary["step"] = live.step
        if known:
            write_json(live.metrics_file, live.summary)
        with self._shortened.telling() as names:
            if names:
                write_json(self._path(NAMES_FILE), {**load(self.directory, NAMES_FILE), **names})
        if self._listing is not None:
            self._listing.save(
                params=bool(live._params),
                metrics=bool(live.summary),
                charts=self.about.get("charts", {}),
                keys=self._latest,
                tables={
                    path: {key: value for key, value in table.items() if key != "name"}
                    for path, table in self.about.get("tables", {}).items()
                },
                artifacts=self.about.get("artifacts", {}),
            )
        tell_studio(live)
        now = time.monotonic()
        self._next_save = now + max(1.0, 20 * (now - began))  # 5 % of the time at most, whatever the number of tags

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self, status: str, ended: float, *, report: bool) -> None:
        self._tables.close()
        self.save_about(status=status, ended=ended)
        self.save()
        if report:
            write_report(self.live, self.directory)
        if self.live._save_dvc_exp:
            listing = self._listing.file if self._listing is not None else None
            self.save_about(experiment=save_experiment(self.live, self.directory, listing))
