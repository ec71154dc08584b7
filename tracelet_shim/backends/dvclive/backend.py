"""DVCLive: one directory a run, in the layout that `dvc`, its VS Code extension and DVC Studio read.

Decisions, with the place in DVCLive 3.49 that a rule comes from:

- A scalar is a row of ``plots/metrics/<tag>.tsv``, as ``plots/metric.py`` writes it (milliseconds, step, value; ``nan``
  and ``inf`` as such), appended at once. After a crash, rows that come again are found and skipped.
- A tag is a path here. `limits.PATH` keeps it inside, its folders apart from files, and the columns ``step`` and
  ``timestamp`` to themselves. Names that had to be cut are in ``names.json``.
- Histograms, PR curves and images are plots; a whole folder of them is one entry of ``dvc.yaml``.
- DVCLive has nothing for the other types: they are files under ``media/``. Nor for status, tags, notes: ``run.json``.
- A trial is a directory of the same form under ``trials/``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Acknowledged, Capability, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.dvclive import own_forms
from tracelet_shim.backends.dvclive.fetching import fetch
from tracelet_shim.backends.dvclive.limits import COMPONENT, MAX_NAME, PATH
from tracelet_shim.backends.dvclive.live import open_live, undisturbed
from tracelet_shim.backends.dvclive.own_forms import OwnForms
from tracelet_shim.backends.dvclive.plots import histogram_rows, pr_curve_rows
from tracelet_shim.backends.dvclive.probe import PROBE
from tracelet_shim.backends.dvclive.resume import choose_directory, clear
from tracelet_shim.backends.dvclive.run import Run, about_of
from tracelet_shim.backends.dvclive.settings import OPTIONS, PARSERS
from tracelet_shim.backends.dvclive.trials import add_to_trial
from tracelet_shim.backends.shared.files import load
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.rows import Keys
from tracelet_shim.backends.shared.versions import Versions
from tracelet_shim.common.text import quoted

__all__ = ["DVCLiveBackend"]

_IMAGES = frozenset({"png", "jpeg", "jpg", "gif", "svg"})


class DVCLiveBackend(OwnForms):
    """Writes DVCLive directories."""

    name = "dvclive"
    module = "dvclive"
    distribution = "dvclive"
    versions = Versions("3.41.0", "3.49.1")
    probe = PROBE
    fetch = staticmethod(fetch)
    batch_events = 2000
    options = OPTIONS
    parsers = PARSERS
    acknowledged = Acknowledged(
        here="the line or file is in the run's directory",
        again="the files are read",
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE, "metric: a row of plots/metrics/*.tsv, time in whole ms; the latest value in metrics.json"
        ),
        ev.Histogram: Capability(
            Level.CONVERTED, "plot of the exact buckets, one a step; the statistics stand in its first row"
        ),
        ev.Image: Capability(Level.NATIVE, "image plot by step; TensorBoard's own bytes"),
        ev.Video: Capability(Level.CONVERTED, "image plot by step: the animated GIF, plays in reports"),
        ev.Audio: Capability(Level.FILE, "WAV under media/"),
        ev.Text: Capability(Level.FILE, "Markdown file under media/"),
        ev.PRCurve: Capability(Level.CONVERTED, "plot of precision over recall, one a step; all counts beside it"),
        ev.Mesh: Capability(Level.FILE, "PLY under media/, for any 3D viewer"),
        ev.Embedding: Capability(Level.FILE, "TSV under media/, for projector.tensorflow.org; sprite as PNG"),
        ev.Tensor: Capability(Level.FILE, "NPY under media/"),
        ev.Graph: Capability(Level.FILE, "pbtxt and pb under media/"),
        ev.HParams: Capability(
            Level.NATIVE, "params.yaml and metrics.json, a trial's in a directory of its own; types and domains as JSON"
        ),
        ev.CustomScalars: Capability(Level.CONVERTED, "plots of several metrics in dvc.yaml; whole as JSON in media/"),
        **own_forms.CAPABILITIES,
        ev.Blob: Capability(Level.FILE, "the bytes, under media/"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._dvcyaml: bool | str = self.given.get("dvcyaml", True)
        self._paths = Names(PATH, MAX_NAME)
        self._trial_names = Names(COMPONENT, MAX_NAME)
        self._live: Any = None
        self._run: Run

    # -- the run ------------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        with undisturbed():
            import dvclive  # noqa: F401 - before anything else imports a part of it
        saves, report = self.given.get("save_dvc_exp", False), self.given.get("report")
        directory, overwrite = choose_directory(run, self.given.get("dir"), saves=saves)
        before = {} if overwrite else load(directory)
        if before.keys() <= {"sessions"}:  # claimed, and no more
            before = {}
        if overwrite:
            clear(directory)
        self._live = open_live(directory, run, overwrite=overwrite, saves=saves, report=report)
        # Only then can events come a second time. A run that is continued under its run_id may repeat a row on purpose.
        again = run.resume is not None or run.session in before.get("sessions", [])
        about, listing = about_of(run, before), self._listing(run, directory)
        self._run = Run(self._live, directory, about, self._paths, again=again, continued=bool(before), dvcyaml=listing)
        self._run.save_about()
        self._run.log_params(run.config)
        self._run.save()
        return OpenedRun(directory, f"cd {quoted(directory)} && dvc plots show")

    def _listing(self, run: RunInfo, directory: str) -> str | None:
        """Return the path of the dvc.yaml, or None for none."""
        if self._dvcyaml is False:
            return None
        named = self._dvcyaml if isinstance(self._dvcyaml, str) else os.path.join(directory, "dvc.yaml")
        return os.path.abspath(os.path.join(run.program.cwd, named))

    def flush(self) -> None:
        self._run.save()

    def close(self, status: Status) -> None:
        if self._live is not None:
            self._run.end(status, self.ended_at(), report="report" in self.given)

    @property
    def handle(self) -> Any:
        """The `dvclive.Live`."""
        return self._live

    # -- events -------------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        super().write(events)
        self._run.save_if_due()

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        rows: dict[str, list[bytes]] = {}
        latest = {}
        keys = Keys(lambda event: self._paths(event.path))
        for event in events:
            key = keys.of(event)
            rows.setdefault(key, []).append(b"%d\t%d\t%r\n" % (self.wall_time_ms(event), event.step, event.value))
            latest[key] = event.value
        self._run.append(rows, latest, events[-1].step)

    def log_histogram(self, event: ev.Histogram) -> None:
        rows = histogram_rows(event)
        if rows:
            self._run.write_plot(self.artifact_stem(event), rows)
        else:
            self.attach_files(event)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        self._run.write_plot(self.artifact_stem(event), pr_curve_rows(event))

    def log_image(self, event: ev.Image) -> None:
        if event.format in _IMAGES:
            self._write_picture(event, event.data, event.format)
        else:
            self.attach_files(event)

    def log_video(self, event: ev.Video) -> None:
        self._write_picture(event, event.data, "gif")

    def _write_picture(self, event: ev.Event, data: bytes, suffix: str) -> None:
        identity = self.artifact_stem(event).rpartition("_")[2]
        self._run.write_picture(self._paths(event.path), event.step, identity, data, suffix)

    def log_custom_scalars(self, event: ev.CustomScalars) -> None:
        self.attach_files(event)
        charts = {
            f"{category} - {title}": list(tags)
            for category, titles in event.layout.items()
            for title, (_, tags) in titles.items()
        }
        self._run.add_charts(charts)

    def log_hparams(self, event: ev.HParams) -> None:
        if event.trial is not None:
            directory = os.path.join(self._run.directory, "trials", self._trial_names(event.trial))
            add_to_trial(directory, event.trial, event, self._paths, listed=self._dvcyaml is not False)
            return
        self.attach_files(event)  # with types, domains and step; params.yaml has only the latest value of each
        self._run.log_params(event.params)
        self._run.log_latest({self._paths(name): value for name, value in event.metrics.items()})

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._run.write_media(path, data)
