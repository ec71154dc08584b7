"""DVCLive: one directory a run, in the layout that `dvc`, its VS Code extension and DVC Studio read.

Decisions, with the place in DVCLive 3.49 that a rule comes from:

- A run is ``dvclive/<project>/<exp_name>`` under the program's directory. `dvclive.Live` deletes what an earlier run
  left in its directory (``live.py``, ``_init_cleanup``), so no two runs share one, unless the user names it (`dir`).
- A `Live` object holds parameters and summary, and is the `handle`. In any Git repository, its ``_init_dvc`` would run
  ``dvc init`` and stage files (``dvc.py``, ``get_dvc_repo``): it does so only under `save_dvc_exp`, and only then is DVC
  Studio told of the run. Its ``next_step`` and ``sync`` read every table again (``utils.py``, ``parse_metrics``): they
  are not called. Files are replaced in one step; `Live`, killed while it writes, leaves half of one behind.
- A scalar is a row of ``plots/metrics/<tag>.tsv``, as ``plots/metric.py`` writes it (milliseconds, step, value; ``nan``
  and ``inf`` as such), appended at once. After a crash, rows that come again are found and skipped.
- A tag is a path here. `_PATH` keeps it inside, its folders apart from files, and the columns ``step`` and
  ``timestamp`` to themselves. Names that had to be cut are in ``names.json``.
- ``metrics.json`` has the latest values, nested by slashes as `Live` does it; with ``x`` and ``x/y``, the second stays
  one key ``"x/y"``.
- Histograms, PR curves and images are plots; a whole folder of them is one entry of ``dvc.yaml``. That file lies in the
  run's directory: from a shared one, `Live` drops entries of other runs (``dvc.py``, ``update_dvcyaml``).
- DVCLive has nothing for the other types: they are files under ``media/``. Nor for status, tags, notes: ``run.json``.
- A trial is a directory of the same form under ``trials/``.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.dvclive.probe import PROBE
from tracelet_shim.backends.shared.names import FILE_NAME, Names
from tracelet_shim.common.text import as_utf8, quoted

__all__ = ["DVCLiveBackend"]

logger = logging.getLogger("tracelet_shim.backends.dvclive")

RUN_FILE = "run.json"
NAMES_FILE = "names.json"
OPEN_FILES = 64

_DATA = r"\.(?=(?:tsv|csv|json|ya?ml|jpe?g|png|gif|svg)(?:/|\Z))"
"""A folder of such a name would be read as a file (``report.py``, ``utils.py``), or stand where a file must."""
_HIDDEN = r"(?:^|(?<=/))\."
"""DVC and Git do not look into ``.git``, ``.dvc`` and the like."""
_COLUMN = r"(?:^|(?<=/))(?:s(?=tep\Z)|t(?=imestamp\Z))"
"""The last part of a name is the value's column in the table."""
_PATH = re.compile(f"{FILE_NAME.pattern}|{_DATA}|{_HIDDEN}|{_COLUMN}")
_COMPONENT = re.compile(f"{_PATH.pattern}|/")
_EXPERIMENT = re.compile(r"[^A-Za-z0-9._\-]|^[.\-]|\.(?=\.|\Z|lock\Z)")
"""What may not stand in a Git reference, which a DVC experiment is."""

_PLOTS = {
    "histograms": {"x": "bin", "y": "count", "template": "simple"},
    "pr_curves": {"x": "recall", "y": "precision", "template": "simple"},
}
_IMAGES = frozenset({"png", "jpeg", "jpg", "gif", "svg"})
_LONGEST_PARAM = 20_000
_UNREADABLE = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Line breaks of Unicode: ruamel.yaml folds a text there, and loses them."""


class DVCLiveBackend(Backend):
    """Writes DVCLive directories."""

    name = "dvclive"
    module = "dvclive"
    distribution = "dvclive"
    probe = PROBE
    batch_events = 2000
    options: ClassVar[Mapping[str, str]] = {
        "dir": "directory of the run; as in DVCLive, what an earlier run left there is overwritten;"
        " default: dvclive/<project>/<exp_name>, another for each run",
        "save_dvc_exp": "true: save the run as a DVC experiment at its end, and report to DVC Studio where that is"
        " configured; needs a Git repository and runs `dvc init` there if need be; the default of dir is then dvclive",
        "dvcyaml": "path of the dvc.yaml that lists the run's metrics, params and plots, or false for none;"
        " default: dvc.yaml in the run's directory",
        "report": "html or md: write a report at the end",
    }
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
        ev.Blob: Capability(Level.FILE, "the bytes, under media/"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._named_dir = self._path_option("dir")
        self._saves = self._flag_option("save_dvc_exp", default=False)
        given = self.given.get("dvcyaml")
        self._wants_dvcyaml = not _is_false(given)
        self._named_dvcyaml = None if _is_false(given) or _is_true(given) else self._path_option("dvcyaml")
        if self._named_dvcyaml and os.path.basename(self._named_dvcyaml) != "dvc.yaml":
            raise errors.ConfigurationError(f"dvclive: dvcyaml={given!r}: DVC reads no file that is not named dvc.yaml")
        self._report = self.given.get("report") or None
        if self._report not in (None, "html", "md"):
            raise errors.ConfigurationError(f"dvclive: report={self._report!r} is neither 'html' nor 'md'")
        self._paths = Names(_PATH, 180)
        self._trial_names = Names(_COMPONENT, 180)
        self._live: Any = None
        self._dir = self._dvcyaml = ""
        self._about: dict[str, Any] = {}
        self._tables = _Tables("", again=False)
        self._again = False
        self._latest: dict[str, float] = {}
        self._listed: Any = None
        self._names_saved = 0
        self._next_save = 0.0

    def _path_option(self, option: str) -> str | None:
        value = self.given.get(option)
        if value is None or value == "":
            return None
        path = os.fspath(value)
        if not isinstance(path, str) or "\0" in path or re.match(r"[A-Za-z][\w+.-]+://", path):
            raise errors.ConfigurationError(f"dvclive: {option}={path!r} is no local path")
        return os.path.expanduser(path)

    def _flag_option(self, option: str, *, default: bool) -> bool:
        value = self.given.get(option)
        if value is None or value == "":
            return default
        if not (_is_true(value) or _is_false(value)):
            raise errors.ConfigurationError(f"dvclive: {option}={value!r} is neither true nor false")
        return _is_true(value)

    # -- the run ------------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        with _undisturbed():
            import dvclive  # noqa: F401 - before anything else imports a part of it
        self._dir, overwrite = self._directory(run)
        before = {} if overwrite else _load(self._dir)
        if before.keys() <= {"sessions"}:  # claimed, and no more
            before = {}
        self._live = self._open_live(run, overwrite=overwrite)
        own = os.path.join(self._dir, "dvc.yaml")
        self._dvcyaml = os.path.abspath(os.path.join(run.program.cwd, self._named_dvcyaml or own))
        # Only then can events come a second time. A run that is continued under its run_id may repeat a row on purpose.
        self._again = run.resume is not None or run.session in before.get("sessions", [])
        self._tables = _Tables(os.path.join(self._dir, "plots", "metrics"), again=self._again)
        self._latest = dict(self._tables.last_values()) if before else {}
        given = {
            "exp_name": run.exp_name, "project": run.project, "run_id": run.run_id, "group": run.group,
            "tags": run.tags or None, "notes": run.notes, "config": run.config or None,
        }  # fmt: skip
        self._about = {
            **before,
            **{key: value for key, value in given.items() if value is not None or key not in before},
            "status": "running",
            "sessions": [*(s for s in before.get("sessions", []) if s != run.session), run.session],
            "logdir": run.root and as_utf8(run.root),
            "program": run.program.readable().script or run.program.module,
            "host": run.program.host,
            "pid": run.program.pid,
            "started": before.get("started", run.started),
            "ended": None,
            "experiment": None,
        }
        self._save_about()
        self._log_params(run.config)
        self._save()
        return OpenedRun(self._dir, f"cd {quoted(self._dir)} && dvc plots show")

    def _directory(self, run: RunInfo) -> tuple[str, bool]:
        """Return the run's directory, and whether what an earlier run left there gives way to it."""
        if run.resume:
            return os.path.abspath(run.resume), False
        fixed = self._named_dir or ("dvclive" if self._saves else None)
        if fixed is not None:
            directory = os.path.abspath(os.path.join(run.program.cwd, fixed))
            about = _load(directory)
            if _continues(run, about) or not _has_run(directory):
                return directory, False
            if about.get("experiment") or (self._named_dir and not _is_active(about)):
                return directory, not _wants_resume()
            why = "another program is writing to it" if _is_active(about) else "its run is in no DVC experiment yet"
            logger.warning("dvclive: %s is left alone: %s", directory, why)
            if self._named_dir:
                return f"{directory}-{run.session}", False
        component = Names(_COMPONENT, 120)
        project = os.path.abspath(os.path.join(run.program.cwd, "dvclive", component(run.project or "default")))
        if run.run_id is not None:
            for name in sorted(os.listdir(project)) if os.path.isdir(project) else ():
                if _continues(run, _load(os.path.join(project, name))):
                    return os.path.join(project, name), False
        directory = os.path.join(project, component(run.exp_name or run.run_id or run.session))
        if not (_claim(directory, run.session) or _continues(run, _load(directory)) or _wants_resume()):
            return f"{directory}-{run.session}", False
        return directory, False

    def _open_live(self, run: RunInfo, *, overwrite: bool) -> Any:
        make = _live_class(studio=not run.offline)
        settings = {
            "dir": self._dir,
            "report": self._report,
            "dvcyaml": False,
            "exp_name": Names(_EXPERIMENT, 180)(run.exp_name) if run.exp_name else None,
            "exp_message": run.notes,
            "save_dvc_exp": self._saves,
        }
        if overwrite and _load(self._dir):  # else the folders are not ours
            for name in ("media", "trials"):
                shutil.rmtree(os.path.join(self._dir, name), ignore_errors=True)
            _write_json(os.path.join(self._dir, NAMES_FILE), {})
        if not overwrite:
            self._set_broken_aside()
        live = make(**settings, resume=not overwrite)
        live._step = live.summary.get("step")  # `Live` goes on with the next one; here each event has its own
        if self._saves and not live._save_dvc_exp:
            logger.warning("dvclive: no DVC experiment will be saved: it needs a Git repository with a commit")
        return live

    def _set_broken_aside(self) -> None:
        """`Live` cannot resume with half a file, from a process or machine that stopped while it wrote."""
        from dvclive.serialize import load_yaml

        for name in ("metrics.json", "params.yaml"):
            path = os.path.join(self._dir, name)
            if os.path.exists(path):
                try:
                    whole = isinstance(load_yaml(path), dict)  # JSON is YAML
                except Exception:
                    whole = False
                if not whole:
                    logger.warning("dvclive: %s cannot be read, and is kept as %s.broken", path, name)
                    os.replace(path, f"{path}.broken")

    def flush(self) -> None:
        self._save()

    def close(self, status: Status) -> None:
        if self._live is None:
            return
        self._tables.close()
        self._about.update(status=status, ended=self.ended_at())
        self._save_about()
        self._save()
        if self._report:
            self._write_report()
        if self._live._save_dvc_exp:
            self._save_experiment()

    def _save_experiment(self) -> None:
        if self._wants_dvcyaml:
            self._live._include_untracked.append(self._dvcyaml)
        self._live.end()
        if self._live._experiment_rev is None:  # `end` has told the logger why
            raise errors.BackendError(
                f"DVC has not saved the experiment; its files are in {self._dir}; remedy: dvc exp save -I {self._dir}"
            )
        self._about["experiment"] = {"name": self._live._exp_name, "rev": self._live._experiment_rev}
        self._save_about()

    def _write_report(self) -> None:
        """Let `Live` write its report. It wants to know each plot by its file (``report.py``)."""
        from dvclive.plots import CustomPlot

        folder = os.path.join(self._dir, "plots", "custom")
        for path in _walk(folder, ".json"):
            kind = _PLOTS.get(path.partition("/")[0])
            if kind is not None:
                name = path.removesuffix(".json")
                self._live._plots[name] = CustomPlot(name, self._live.plots_dir, **kind)
        try:
            self._live.make_report()
        except Exception:  # a picture of what is there; the run itself is complete
            logger.warning("dvclive: the report of %s could not be written", self._dir, exc_info=True)
        finally:
            self._live._report_mode = None  # `end` would write it again
            self._live._plots.clear()

    @property
    def handle(self) -> Any:
        """The `dvclive.Live`."""
        return self._live

    # -- what is written now and then ---------------------------------------------------------------------------------

    def _save_about(self) -> None:
        _write_json(os.path.join(self._dir, RUN_FILE), self._about)

    def _save(self) -> None:
        """Write what sums up the run: metrics.json, dvc.yaml, names.json."""
        began = time.monotonic()
        live = self._live
        known = {key: value for key, value in _flatten(live.summary) if key != "step"}  # also what came through `handle`
        known.update(_json_value(self._latest))
        live.summary = _nest(known)
        if live._step is not None:
            live.summary["step"] = live.step
        if known:
            _write_json(live.metrics_file, live.summary)
        if len(self._paths.shortened) != self._names_saved:
            path = os.path.join(self._dir, NAMES_FILE)
            _write_json(path, {**_load(self._dir, NAMES_FILE), **self._paths.shortened})
            self._names_saved = len(self._paths.shortened)
        if self._wants_dvcyaml:
            self._save_dvcyaml()
        if live._studio_queue is None or not live._studio_queue.unfinished_tasks:  # else a slow Studio would pile them up
            live.post_data_to_studio()
        now = time.monotonic()
        self._next_save = now + max(1.0, 20 * (now - began))  # 5 % of the time at most, whatever the number of tags

    def _save_dvcyaml(self) -> None:
        """List what there is, in the form of ``dvclive.dvc.make_dvcyaml``."""
        base = os.path.dirname(self._dvcyaml)

        def place(name: str) -> str:
            return os.path.relpath(os.path.join(self._dir, name), base).replace(os.sep, "/")

        plots: list[Any] = []
        if os.path.isdir(os.path.join(self._dir, "plots/metrics")):
            plots.append({place("plots/metrics"): {"x": "step"}})
        if os.path.isdir(os.path.join(self._dir, "plots/images")):
            plots.append(place("plots/images"))
        for kind, look in _PLOTS.items():
            if os.path.isdir(os.path.join(self._dir, "plots/custom", kind)):
                plots.append({place(f"plots/custom/{kind}"): dict(look)})
        for title, tags in self._about.get("charts", {}).items():
            lines = {place(f"plots/metrics/{key}.tsv"): key.rpartition("/")[2] for key in self._shown(tags)}
            if lines:
                plots.append({place(self._paths(title)): {"x": "step", "y": lines}})
        entries = {
            "params": [place("params.yaml")] if self._live._params else [],
            "metrics": [place("metrics.json")] if self._live.summary else [],
            "plots": plots,
        }
        if entries == self._listed:
            return
        if base == self._dir:
            _write_yaml(self._dvcyaml, {section: new for section, new in entries.items() if new})
        else:
            self._list_among_others(entries, place(""))
        self._listed = entries

    def _list_among_others(self, entries: dict[str, list[Any]], prefix: str) -> None:
        from dvc.utils.serialize import modify_yaml  # type: ignore[import-untyped]

        def ours(entry: Any) -> bool:
            return str(next(iter(entry), "") if isinstance(entry, dict) else entry).startswith(f"{prefix}/")

        os.makedirs(os.path.dirname(self._dvcyaml), exist_ok=True)
        with modify_yaml(self._dvcyaml) as whole:
            for section, new in entries.items():
                listed = whole.get(section)
                if listed is None:
                    listed = whole[section] = []
                for i in reversed(range(len(listed))):  # in place: comments stay
                    if ours(listed[i]):
                        del listed[i]
                listed.extend(new)
                if not listed:
                    del whole[section]

    def _shown(self, tags: list[str]) -> Iterator[str]:
        """Yield the metrics that a chart shows. TensorBoard takes a layout's tags as regular expressions."""
        patterns = []
        for tag in tags:
            try:
                patterns.append(re.compile(f"(?:.*/)?(?:{tag}|{re.escape(tag)})"))
            except re.error:
                patterns.append(re.compile(f"(?:.*/)?{re.escape(tag)}"))
        return (key for key in sorted(self._latest) if any(pattern.fullmatch(key) for pattern in patterns))

    # -- events -------------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        super().write(events)
        if time.monotonic() > self._next_save:
            self._save()

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        rows: dict[str, list[bytes]] = {}
        latest = {}
        for event in events:
            key = self._paths(event.path)
            rows.setdefault(key, []).append(b"%d\t%d\t%r\n" % (self.wall_time_ms(event), event.step, event.value))
            latest[key] = event.value
        self._tables.append(rows)
        self._latest.update(latest)
        self._live._step = events[-1].step

    def log_histogram(self, event: ev.Histogram) -> None:
        if not event.counts:
            self.attach_files(event)
            return
        edges = (min(event.min, event.limits[0]), *event.limits)
        rows: list[dict[str, Any]] = []
        for (left, right), count in zip(pairwise(edges), event.counts, strict=True):
            # Drawn within the range of the samples: TensorBoard's last edge may be 1.8e308.
            center = _clip(left, event.min, event.max) / 2 + _clip(right, event.min, event.max) / 2
            rows.append({"bin": center, "left": left, "right": right, "count": count})
        rows[0].update(
            step=event.step, min=event.min, max=event.max, num=event.num, sum=event.sum, sum_squares=event.sum_squares
        )
        self._plot(event, rows)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        names = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")
        columns = [getattr(event, name) for name in names]
        last = max(len(event.precision) - 1, 1)
        rows = [
            {"threshold": i / last, **dict(zip(names, values, strict=True))}
            for i, values in enumerate(zip(*columns, strict=True))
        ]
        self._plot(event, rows)

    def _plot(self, event: ev.Event, rows: list[dict[str, Any]]) -> None:
        _write_json(os.path.join(self._dir, "plots/custom", f"{self.artifact_stem(event)}.json"), rows)

    def log_image(self, event: ev.Image) -> None:
        if event.format in _IMAGES:
            self._picture(event, event.data, event.format)
        else:
            self.attach_files(event)

    def log_video(self, event: ev.Video) -> None:
        self._picture(event, event.data, "gif")

    def _picture(self, event: ev.Event, data: bytes, suffix: str) -> None:
        """Store a picture as ``<tag>/<step>.png``: viewers have a slider for those. A repeated step has a longer name."""
        folder = os.path.join(self._dir, "plots/images", self._paths(event.path))
        name = f"{event.step}.{suffix}"
        path = os.path.join(folder, name)
        digest = self.artifact_stem(event).rpartition("_")[2]
        longer = os.path.join(folder, f"{event.step}_{digest}.{suffix}")
        if os.path.exists(longer) or (os.path.exists(path) and not (self._again and _content(path) == data)):
            path = longer
        _replace(path, data)
        self._note_image(path, event.step)

    def _note_image(self, path: str, step: int) -> None:
        """Tell `Live` of an image, for Studio; without Studio, nobody asks."""
        if "data" not in self._live._studio_events_to_skip:
            from dvclive.plots import Image

            image = Image(os.path.relpath(path, os.path.join(self._dir, "plots/images")), self._live.plots_dir)
            image.step = step
            self._live._images[image.name] = image

    def log_custom_scalars(self, event: ev.CustomScalars) -> None:
        self.attach_files(event)
        charts = {
            f"{category} - {title}": list(tags)
            for category, titles in event.layout.items()
            for title, (_, tags) in titles.items()
        }
        self._about["charts"] = {**self._about.get("charts", {}), **charts}
        self._save_about()

    def log_hparams(self, event: ev.HParams) -> None:
        if event.trial is not None:
            self._log_trial(event.trial, event)
            return
        self.attach_files(event)  # with types, domains and step; params.yaml has only the latest value of each
        self._log_params(event.params)
        self._latest.update({self._paths(name): value for name, value in event.metrics.items()})
        self._next_save = 0.0

    def _log_params(self, params: Mapping[str, Any]) -> None:
        known = self._live._params
        plain = _yaml_value(dict(params))
        if any(name not in known or known[name] != value for name, value in plain.items()):
            known.update(plain)
            _write_yaml(self._live.params_file, known)

    def _log_trial(self, name: str, event: ev.HParams) -> None:
        """Add a part of a trial. The directory itself is the memory: a trial may come in many parts, and twice."""
        directory = os.path.join(self._dir, "trials", self._trial_names(name))
        about = _load(directory)
        about = {
            "trial": name,
            "params": {**about.get("params", {}), **event.params},
            "metrics": {**about.get("metrics", {}), **event.metrics},
            "domain": {**about.get("domain", {}), **event.domain},
            "step": event.step,
            "wall_time": event.wall_time,
            "status": "finished",
        }
        listed = {}
        if about["params"]:
            _write_yaml(os.path.join(directory, "params.yaml"), _yaml_value(about["params"]))
            listed["params"] = ["params.yaml"]
        if about["metrics"]:
            summary = _nest({self._paths(key): value for key, value in about["metrics"].items()})
            _write_json(os.path.join(directory, "metrics.json"), {**summary, "step": event.step})
            listed["metrics"] = ["metrics.json"]
        if self._wants_dvcyaml:
            _write_yaml(os.path.join(directory, "dvc.yaml"), listed)
        _write_json(os.path.join(directory, RUN_FILE), about)

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        _replace(os.path.join(self._dir, "media", path), data)


class _Tables:
    """The tables of a run's metrics. Rows are appended at once; at most `OPEN_FILES` tables are open.

    Args:
        directory: where they are.
        again: rows may come that are already there. Those of one table come in the order in which it has them, so the
            first that is not found ends the search.
    """

    def __init__(self, directory: str, *, again: bool) -> None:
        self._directory = directory
        self._again = again
        self._cursors: dict[str, int | None] = {}
        self._open: OrderedDict[str, int] = OrderedDict()
        self._untimed: set[str] = set()

    def append(self, rows: Mapping[str, list[bytes]]) -> None:
        """Append to each table its rows; after an error, none are appended."""
        done: list[tuple[str, int, int]] = []
        cursors: dict[str, int | None] = {}
        try:
            for key, given in rows.items():
                table = self._table(key)
                lines = [line.partition(b"\t")[2] for line in given] if key in self._untimed else given
                if self._again:
                    lines, cursors[key] = self._missing(key, lines)
                data = b"".join(lines)
                if data and os.fstat(table).st_size == 0:
                    data = f"timestamp\tstep\t{key.rpartition('/')[2]}\n".encode() + data
                written = 0
                try:
                    while written < len(data):
                        written += os.write(table, data[written:])
                finally:
                    if written:
                        end = os.lseek(table, 0, os.SEEK_CUR)
                        done.append((key, end - written, end))
        except OSError:
            for key, start, end in reversed(done):
                table = self._table(key)
                if os.fstat(table).st_size == end:  # else another session of the same run has written behind it
                    os.ftruncate(table, start)
            raise
        self._cursors.update(cursors)

    def _table(self, key: str) -> int:
        table = self._open.get(key)
        if table is not None:
            self._open.move_to_end(key)
            return table
        while len(self._open) >= OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        path = self._path(key)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            table = os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            table = os.open(path, flags, 0o666)
        self._open[key] = table
        size = os.fstat(table).st_size
        if size:
            if os.pread(table, 5, 0) == b"step\t":  # a run that began under `Live.log_metric` without timestamp=True
                self._untimed.add(key)
            if self._again and os.pread(table, 1, size - 1) != b"\n":  # the machine went down within a row
                with open(path, "rb") as file:
                    os.ftruncate(table, file.read().rfind(b"\n") + 1)
        return table

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, f"{key}.tsv")

    def _missing(self, key: str, lines: list[bytes]) -> tuple[list[bytes], int | None]:
        """Return the rows that the table does not have yet, and where to look for the next one."""
        cursor = self._cursors.get(key, 0)
        if cursor is None:
            return lines, None
        with open(self._path(key), "rb") as file:
            file.seek(cursor)
            for done, line in enumerate(lines):
                for there in iter(file.readline, b""):
                    if there == line:
                        cursor = file.tell()
                        break
                else:
                    return lines[done:], None
        return [], cursor

    def last_values(self) -> Iterator[tuple[str, float]]:
        """Yield each metric's last value."""
        for path in _walk(self._directory, ".tsv"):
            with open(os.path.join(self._directory, path), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                last = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]  # half a row is none
            try:
                yield path.removesuffix(".tsv"), float(last.rpartition(b"\t")[2])
            except ValueError:  # no row but the header, or a text that the user logged through `handle`
                continue

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


# -- dvclive ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Take back what the import of ``dvc`` does to the process (``dvc/logger.py``, ``setup``).

    It has colorama replace both output streams and print at exit, and silences asyncio.
    """
    streams = sys.stdout, sys.stderr
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp")}
    had_exit = getattr(sys.modules.get("colorama.initialise"), "atexit_done", False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        colorama = sys.modules.get("colorama.initialise")
        if colorama is not None and not had_exit:
            atexit.unregister(colorama.reset_all)
            colorama.atexit_done = False  # type: ignore[attr-defined]


def _live_class(*, studio: bool) -> Callable[..., Any]:
    """Return `Live` without its side effects: on the repository, if it saves no experiment; on the network."""
    from dvclive import Live

    class OwnLive(Live):  # type: ignore[misc]
        _save_dvc_exp: bool

        def _init_dvc(self) -> None:
            self._dvc_file = self._init_dvc_file()
            if self._save_dvc_exp and _has_commit():
                # `Live` does it as well, but only after `dvc init` has spoken on standard output.
                logging.getLogger("dvc").setLevel(logging.getLogger("dvclive").level)
                try:
                    super()._init_dvc()
                except Exception:  # a broken repository: the run is worth more than the experiment made of it
                    logger.warning("dvclive: the DVC repository cannot be used", exc_info=True)
                    self._dvc_repo = None
            if self._dvc_repo is None:
                self._save_dvc_exp = False

        def _init_test(self) -> None:  # under DVCLIVE_TEST, `Live` throws data away
            self._init_dvc()

        def _init_studio(self) -> None:
            if self._save_dvc_exp and studio:
                super()._init_studio()
            else:
                self._studio_events_to_skip |= {"start", "data", "done"}

        def post_data_to_studio(self) -> None:
            if "data" not in self._studio_events_to_skip:
                super().post_data_to_studio()

    return OwnLive


def _has_commit() -> bool:
    """True in a Git repository that has a commit. Elsewhere `Live` cannot save, and raises or runs ``dvc init``."""
    from scmrepo.exceptions import SCMError
    from scmrepo.git import Git

    try:
        git = Git()
    except SCMError:
        return False
    try:
        return not git.no_commits
    finally:
        git.close()  # type: ignore[no-untyped-call]


def _wants_resume() -> bool:
    from dvclive import env
    from dvclive.utils import env2bool

    return bool(env2bool(env.DVCLIVE_RESUME))


# -- directories ------------------------------------------------------------------------------------------------------


def _continues(run: RunInfo, about: Mapping[str, Any]) -> bool:
    """True if `about` is of the run that is to be opened: an earlier or parallel session of it, or an earlier try."""
    same = run.run_id is not None and about.get("run_id") == run.run_id
    return same or run.session in about.get("sessions", [])


def _claim(directory: str, session: str) -> bool:
    """Make a directory that says from its first moment whose it is; False if there is one with something in it."""
    new = os.path.join(os.path.dirname(directory), f".new-{session}")
    _write_json(os.path.join(new, RUN_FILE), {"sessions": [session]})
    try:
        os.rename(new, directory)
    except OSError as error:
        shutil.rmtree(new)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _has_run(directory: str) -> bool:
    names = ("plots", "metrics.json", "params.yaml", RUN_FILE)
    return any(os.path.exists(os.path.join(directory, name)) for name in names)


def _is_active(about: Mapping[str, Any]) -> bool:
    """True if the program that writes this run is still there; on another machine, nobody can tell."""
    if about.get("status") != "running" or about.get("host") != socket.gethostname() or not about.get("pid"):
        return False
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _walk(directory: str, suffix: str) -> Iterator[str]:
    """Yield the files with this suffix, relative, with slashes."""
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            if name.endswith(suffix):
                yield os.path.relpath(os.path.join(folder, name), directory).replace(os.sep, "/")


def _load(directory: str, name: str = RUN_FILE) -> dict[str, Any]:
    """Return a JSON file of ours, empty if there is none."""
    try:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            about = json.load(file)
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _replace(path: str, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def _write_json(path: str, value: Any) -> None:
    text = json.dumps(_json_value(value), indent=4, default=str, allow_nan=False)  # as dvclive.serialize.dump_json
    _replace(path, text.encode() + b"\n")


def _write_yaml(path: str, value: Any) -> None:
    from dvclive.serialize import dump_yaml

    temporary = f"{path}.{os.getpid()}.tmp"
    dump_yaml(value, temporary)
    os.replace(temporary, path)


# -- values -----------------------------------------------------------------------------------------------------------


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() in ("1", "true", "yes", "on"))


def _is_false(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.strip().lower() in ("0", "false", "no", "off"))


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _json_value(value: Any) -> Any:
    """Return `value`, NaN and infinities in it as the texts that `Live.log_metric` stores for them."""
    if isinstance(value, dict):
        return {key: _json_value(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _yaml_value(value: Any) -> Any:
    """Return `value` in the types that YAML has; any other type would leave an empty params.yaml behind."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_yaml_text(str(key)): _yaml_value(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_yaml_value(each) for each in value]
    text = _yaml_text(str(value))
    if len(text) > _LONGEST_PARAM:
        return f"{text[:_LONGEST_PARAM]} ... (cut; {len(text)} characters are in run.json or media/hparams)"
    return text


def _yaml_text(text: str) -> str:
    """Return `text` with what UTF-8 cannot hold (lone surrogates) or ruamel.yaml does not read back as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode().translate(_UNREADABLE)


def _flatten(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nest keys by their slashes; below a key that is a metric itself, the rest of a key stays in one piece."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        parts = key.split("/")
        for i in range(1, len(parts)):
            if "/".join(parts[:i]) in flat:
                parts[i - 1 :] = ["/".join(parts[i - 1 :])]
                break
        place = nested
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = value
    return nested
