"""ClearML, online and offline.

What a task gets from each event: names (`names`) and places (`places`) as the server takes them, into one task (`run`) that is
made or found again (`tasks`, `resume`), by requests that end (`session`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Acknowledged, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.clearml import own_forms, session
from tracelet_shim.backends.clearml import run as door
from tracelet_shim.backends.clearml.console import Console
from tracelet_shim.backends.clearml.names import TaskNames
from tracelet_shim.backends.clearml.own_forms import OwnForms
from tracelet_shim.backends.clearml.places import TaskPlaces, not_finite
from tracelet_shim.backends.clearml.probe import PROBE, own_hook
from tracelet_shim.backends.clearml.program import describe
from tracelet_shim.backends.clearml.resume import OfflineLog, ServerEvents
from tracelet_shim.backends.clearml.run import RunTask
from tracelet_shim.backends.clearml.settings import ENVIRONMENT, environment_variable, has_credentials, is_offline
from tracelet_shim.backends.clearml.tasks import Tasks, main_task
from tracelet_shim.backends.render import files, plotly
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.shared.options import Parser, switch
from tracelet_shim.backends.shared.transient import Patience
from tracelet_shim.backends.shared.trials import Trials
from tracelet_shim.backends.shared.values import flat
from tracelet_shim.backends.shared.versions import Versions

__all__ = ["ClearMLBackend"]

_SUMMARY = ("Summary", -(2**31))  # title and iteration of `Logger.report_single_value`
_PLOT_BYTES = 8_000_000  # a request may have 15 MB (``api.http.max_req_size``); the SDK drops what is longer
_PLOT_POINTS = 2_000  # of an embedding: what a browser can turn
_OPEN_TRIALS = 200  # each a task of the SDK's; the server itself stops those that are silent for two hours
_ARTIFACTS = frozenset({"graph", "blob", "hparams", "custom_scalars"})  # one a run, not a row of steps
_LABELS = {"pr_curve": "PR curve", "image": ""}  # behind the title; all other kinds by their own name


class ClearMLBackend(OwnForms):
    """ClearML; see the package's modules for the mapping."""

    name = "clearml"
    module = "clearml"
    distribution = "clearml"
    versions = Versions("1.14.0", "2.1.12")
    probe = PROBE
    own_hook = staticmethod(own_hook)
    credentials = (
        "check the credentials (`clearml-init`, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY), or stay local "
        "with CLEARML_OFFLINE_MODE=1"
    )
    parsers: ClassVar[Mapping[str, Parser]] = {"offline": switch, "store_diff": switch, "packages": switch}
    options: ClassVar[Mapping[str, str]] = {
        "api_host": "API server; default: CLEARML_API_HOST, then clearml.conf",
        "web_host": "web server, for the link to the run; default: CLEARML_WEB_HOST, then clearml.conf",
        "files_host": "file server or bucket of images and other media; default: CLEARML_FILES_HOST, then clearml.conf",
        "access_key": "API access key; default: CLEARML_API_ACCESS_KEY, then clearml.conf",
        "secret_key": "API secret key; default: CLEARML_API_SECRET_KEY, then clearml.conf",
        "config_file": "configuration file; default: CLEARML_CONFIG_FILE, then ~/clearml.conf",
        "cache_dir": "its folder offline gets the offline sessions; default: CLEARML_CACHE_DIR",
        "offline": "write to a local session, whatever the session's offline setting; default: CLEARML_OFFLINE_MODE",
        "output_uri": "where artifacts go (s3://..., /folder, true for the file server)",
        "task_type": "training (default), testing, inference, data_processing, ...",
        "store_diff": "record uncommitted changes; default: sdk.development.store_uncommitted_code_diff",
        "packages": "record the versions of the installed packages; default true",
    }
    acknowledged = Acknowledged(
        here="the line is in the offline session's log",
        server="the answer to the request, which is made where it is waited for",
        again=(
            "the server keeps one event for each series and step, and is asked for what a continued run has, and for its models "
            "and lines; offline, the log is read"
        ),
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "scalar, float64, wall time in ms; NaN and infinities as a 1 in the plot '<title> · nan' (the server takes "
            "none); repeated steps in the series '·2', then in '<title> · repeated' (the server would overwrite); the system "
            "metrics under ClearML's own titles for them",
        ),
        ev.Histogram: Capability(Level.CONVERTED, "bar plot at its step, real bucket edges; statistics in its meta"),
        ev.Image: Capability(Level.NATIVE, "debug sample at its step, the unchanged file (no JPEG), all of them kept"),
        ev.Video: Capability(Level.NATIVE, "debug sample (GIF) at its step"),
        ev.Audio: Capability(Level.NATIVE, "debug sample (WAV) at its step"),
        ev.Text: Capability(Level.NATIVE, "debug sample (.txt) at its step"),
        ev.PRCurve: Capability(Level.CONVERTED, "line plot at its step; thresholds and counts shown on hover"),
        ev.Mesh: Capability(Level.CONVERTED, "3D plot at its step, the config in its meta; .ply files above 8 MB"),
        ev.Embedding: Capability(
            Level.CONVERTED, "3D scatter plot (PCA, at most 2,000 points); all data as .tsv and .png debug samples"
        ),
        ev.Tensor: Capability(Level.FILE, ".npy as debug sample at its step"),
        ev.Graph: Capability(Level.FILE, ".pbtxt and .pb as artifacts"),
        ev.HParams: Capability(
            Level.NATIVE,
            "hyperparameters, metrics as single values; a further trial is a child task (offline: its own session)",
        ),
        ev.CustomScalars: Capability(Level.CONVERTED, "configuration object (JSON); ClearML has no layouts of charts"),
        **own_forms.CAPABILITIES,
        ev.Blob: Capability(Level.FILE, "artifact"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._names = TaskNames()
        self._places = TaskPlaces(self._names.of, self.wall_time_ms)
        self._patience = Patience()
        self._opened = False
        self._status: Status = "finished"  # of trials that end before the run does
        self._trials: Trials[RunTask] = Trials(_OPEN_TRIALS, lambda task: self._end(task, self._status))
        self._trial_ids: dict[str, str] = {}
        self._trials_begun: set[str] = set()  # the server may have made a task for them, and not said so
        self._undo = contextlib.ExitStack()
        self._offline = False
        self._own = True
        self._resumed = False
        self._again = False  # an earlier process of this session may have made tasks
        self._made: str | None = None
        self._worker: Any = None

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        given = cls.parsed(options)
        if not (offline or is_offline(given) or has_credentials(given)):
            raise errors.BackendUnavailableError(
                cls.name,
                "no credentials (CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or ~/clearml.conf); "
                "remedy: run clearml-init, or use offline mode (CLEARML_OFFLINE_MODE=1)",
            )

    @classmethod
    def borrowed(cls) -> str | None:
        main = main_task()
        return str(main.id) if main is not None else None

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        task_class = sys.modules["clearml"].Task
        names = ("close", "mark_completed", "mark_failed", "mark_stopped")
        return [Ending(task_class, name, lambda task, *_: str(task.id)) for name in names]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        try:
            return self._open(run)
        except BaseException:
            self._undo.close()
            raise

    def _open(self, run: RunInfo) -> OpenedRun:
        given = {variable: self.given.get(option) for option, variable in ENVIRONMENT.items()}
        self._undo.enter_context(variables({variable: str(value) for variable, value in given.items() if value}))
        quiet = "clearml" not in sys.modules
        from clearml import Task

        main = main_task()
        self._own = main is None or run.resume != main.id
        if self._own and run.borrowed:
            raise errors.BackendError(f"your ClearML task {run.resume} has ended")
        if self._own:
            self._connect(run, main)
        self._offline = bool(Task._offline_mode)
        self._tasks = Tasks(offline=self._offline)
        if quiet:  # the SDK's log goes to standard output, which is the user's
            for handler in logging.getLogger("clearml").handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                    handler.setStream(sys.stderr)
        program = describe(run, self.given) if self._own else {}
        task = self._task(run, program) if self._own else main
        requests = None if self._own or self._offline else session.bounded_like(task.session)
        self._run = RunTask(task, offline=self._offline, session=requests)
        continued = self._resumed or self._again or not self._own
        stored = self._stored(task, requests) if continued else None
        log = Tasks.log_of(str(task.id)) if self._offline and continued else None
        self._console = Console(self._run, log, asks=not self._offline)
        self._places = TaskPlaces(self._names.of, self.wall_time_ms, stored, self._run.expect)
        self._describe_run(run, program)
        self._opened = True
        if self._offline:
            return OpenedRun(str(task.id), str(task.get_offline_mode_folder()))
        return OpenedRun(str(task.id), str(task.get_output_log_web_page()))

    def _connect(self, run: RunInfo, main: Any) -> None:
        from clearml.backend_interface.base import InterfaceBase

        offline = self.given.get("offline", bool(run.offline or InterfaceBase._offline_mode))
        if main is not None and offline != bool(InterfaceBase._offline_mode):
            raise errors.BackendError(f"ClearML: task {main.id} is active here, {'on' if offline else 'off'}line")
        session.connect(self.given, offline=offline, undo=self._undo.callback)

    def _task(self, run: RunInfo, program: dict[str, Any]) -> Any:
        """Return the task to continue, or a new one."""
        remote = None if self._offline else environment_variable("TASK_ID")  # clearml-agent runs us: its task, and its to end
        if remote and not run.resume:
            self._own = False
        wanted = self._made or run.resume or remote  # made: by an attempt to open that then failed
        if not wanted and run.run_id is not None:
            wanted = run.run_id if self._tasks.has(run.run_id) else self._tasks.find(f"tracelet.run_id:{run.run_id}")
        elif not wanted:
            wanted = self._made = self._tasks.begun(run.session)
            self._again = wanted is not None
        if wanted:
            self._resumed = wanted != self._made
            return self._tasks.get(wanted)
        default = str(program.get("repository") or "").rstrip("/").rpartition("/")[2].removesuffix(".git") or "Untitled"
        script = Path(run.program.script or run.program.module or "run").stem
        task = self._tasks.create(
            self._names.task(run.project or default), self._names.task(run.exp_name or script),
            str(self.given.get("task_type") or "training"), session=run.session if run.run_id is None else None,
            tag=f"tracelet.run_id:{run.run_id}",
        )  # fmt: skip
        self._made = str(task.id)
        return task

    def _stored(self, task: Any, requests: Any) -> OfflineLog | ServerEvents:
        return OfflineLog(Tasks.log_of(str(task.id))) if self._offline else ServerEvents(task, requests)

    def _describe_run(self, run: RunInfo, program: dict[str, Any]) -> None:
        task = self._run.task
        labels = [f"tracelet.{key}:{value}" for key, value in (("run_id", run.run_id), ("group", run.group)) if value]
        properties = self._set_tags(run.tags, labels)
        if self._own:
            properties |= {"tracelet.session": run.session, "tracelet.command": shlex.join(run.program.argv)}
            if not self._resumed and (started := self.iso_time(run.started)):
                properties["tracelet.started"] = started
        for key, given in (("project", run.project), ("exp_name", run.exp_name)):
            if given is not None and given != self._names.task(given):
                properties[f"tracelet.{key}"] = given
        self._set_properties(properties)
        if run.notes:
            task.set_comment(run.notes)
        if run.config:
            self._run.set_params("General", flat(run.config, "/"), self._names.param)
        if not self._own:
            return
        if self.given.get("output_uri") and not self._offline:
            uri = str(self.given["output_uri"])
            task.output_uri = {"true": True, "false": False}.get(uri.lower(), uri)
        if program and not self._resumed:
            task._update_script(program)
        if not self._offline:
            from clearml.backend_interface.task.development.worker import DevWorker

            # The server stops a task that is silent for two hours. No stop signal: it would kill this process.
            self._worker = DevWorker()
            self._worker.register(task, stop_signal_support=False)

    def close(self, status: Status) -> None:
        try:
            self._publish_names()
            self._status = status
            self._trials.end_all()
            if self._own:
                if ended := self.iso_time(self.ended_at()):  # ClearML's own times are those of the delivery
                    self._run.task.set_user_properties({"name": "tracelet.ended", "value": ended})
                self._end(self._run, status)
        finally:
            if self._worker is not None:
                self._worker.unregister()
            if main_task() is None:
                from clearml.backend_interface.metrics import Metrics

                Metrics.close_async_threads()
            self._undo.close()

    def _end(self, task: RunTask, status: Status) -> None:
        try:
            task.end(status)
        except session.RefusedError as error:
            if self.is_transient(error):
                raise
            task.task.log.info("status %s not set: %s", status, error)  # the user has ended it in the web UI

    @property
    def handle(self) -> Any:
        return self._run.task

    def is_transient(self, error: BaseException) -> bool:
        passes = session.passes(error, self._patience if self._opened else None)
        return super().is_transient(error) if passes is None else passes

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        self._places.begin(events)
        super().write(events)
        self._patience.reset()
        self._places.done(events, 10 * self.batch_events)
        self._run.expect_no_more()
        self._publish_names()

    def _publish_names(self) -> None:
        """Keep the whole names of what had to be shortened: configuration object ``tracelet.names``."""
        with self._names.shortened.telling() as new:
            if new:
                text = json.dumps(self._names.shortened.everything(), indent=1)
                self._run.task.set_configuration_object("tracelet.names", config_text=text, config_type="json")

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        self._run.deliver([
            door.scalar(*self._places.of(e, not_finite(e.value)), e.value, self.wall_time_ms(e)) for e in events
        ])  # fmt: skip

    def _media(self, event: ev.Event, label: str, suffix: str, data: bytes, variant: str = "") -> None:
        title, series, step = self._places.of(event, label)
        name = self.artifact_stem(event).rpartition("/")[2].removeprefix("step=")
        if variant:
            series, name = f"{series} ·{variant}", f"{name}_{variant.removesuffix(suffix)}"
        self._run.deliver([door.media(title, series, step, name, suffix, data, self.wall_time_ms(event))])

    def _show_file(self, event: ev.Event) -> None:
        suffix, data = next(files.render(event))
        self._media(event, _LABELS.get(event.kind, event.kind), ".txt" if suffix == ".md" else suffix, data)

    def log_image(self, event: ev.Image) -> None:
        self._show_file(event)

    def log_video(self, event: ev.Video) -> None:
        self._show_file(event)

    def log_audio(self, event: ev.Audio) -> None:
        self._show_file(event)

    def log_text(self, event: ev.Text) -> None:
        self._show_file(event)

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        if event.kind in _ARTIFACTS:
            self._run.add_artifact(path, data)
            return
        variant = path.removeprefix(self.artifact_stem(event)).lstrip(".")
        self._media(event, _LABELS.get(event.kind, event.kind), f".{variant.rpartition('.')[2]}", data, variant)

    def _plot(self, event: ev.Event, figure: plotly.Figure) -> bool:
        """Report a plotly figure; return False, and report nothing, if it is too large."""
        traces, layout = figure
        text = json.dumps({"data": traces, "layout": {"title": event.path[:200], **layout}}, allow_nan=False)
        if len(text) > _PLOT_BYTES:
            return False
        place = self._places.of(event, _LABELS.get(event.kind, event.kind))
        self._run.deliver([door.plot(*place, text, self.wall_time_ms(event))])
        return True

    def log_histogram(self, event: ev.Histogram) -> None:
        # TensorBoard's outermost limits may lie at 1.8e308; the samples end at `min` and `max`.
        last = event.max if math.isfinite(event.max) else math.inf
        ends = [min(limit, last) if limit > 1e300 else limit for limit in event.limits]
        first = min(event.min, ends[0]) if ends and math.isfinite(event.min) else ends[0] if ends else 0.0
        rows = [(a, b, n) for a, b, n in zip([first, *ends], ends, event.counts, strict=False) if n or b > a]
        while len(rows) > 1 and not rows[0][2]:
            del rows[0]
        while len(rows) > 1 and not rows[-1][2]:
            del rows[-1]
        numbers = {name: getattr(event, name) for name in ("min", "max", "num", "sum", "sum_squares")}
        bars = {
            "type": "bar", "name": event.path[:200], "x": [a for a, _, _ in rows], "width": [b - a for a, b, _ in rows],
            "y": [n for _, _, n in rows], "offset": 0,
            "meta": {name: n if math.isfinite(n) else str(n) for name, n in numbers.items()},
        }  # fmt: skip
        plain = bool(rows) and all(math.isfinite(number) for row in rows for number in row)
        if not (plain and self._plot(event, ([bars], {"bargap": 0}))):
            self.attach_files(event)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        if not self._plot(event, plotly.pr_curve(event)):
            self.attach_files(event)

    def log_mesh(self, event: ev.Mesh) -> None:
        too_large = event.vertices.numpy().nbytes > _PLOT_BYTES // 2
        if too_large or not self._plot(event, plotly.mesh(event)):
            self.attach_files(event)

    def log_embedding(self, event: ev.Embedding) -> None:
        self._plot(event, plotly.embedding(event, _PLOT_POINTS, ", "))
        self.attach_files(event)

    def log_custom_scalars(self, event: ev.CustomScalars) -> None:
        task = self._run.task
        text = json.dumps(event.layout, indent=1)
        name = "custom_scalars" + (f" · {self._names.series(event.writer)}" if event.writer else "")
        configurations = task.data.configuration or {}
        if name in configurations and configurations[name].value != text:
            name += f" ·{event.record.position}"
        task.set_configuration_object(name, config_text=text, config_type="json")

    # -- hyperparameters --------------------------------------------------------------------------------------------

    def log_hparams(self, event: ev.HParams) -> None:
        trial = event.trial
        task = self._run if trial is None else self._trials.get(trial, lambda: self._trial(str(trial)))
        task.set_params("hparams", event.params, self._names.param)
        wall = self.wall_time_ms(event)
        points = []
        for name, value in event.metrics.items():
            title, step = _SUMMARY
            label = not_finite(value)
            points.append(door.scalar(f"{title} · {label}" if label else title, self._names.series(name), step, value, wall))
        if points:
            task.deliver(points)

    def _trial(self, trial: str) -> RunTask:
        """Return the child task of a trial: the one of an earlier session of this run, or a new one."""
        parent = self._run.task
        tag = f"tracelet.trial:{parent.id}:{self._names.series(trial)}"
        begun = self._resumed or self._again or trial in self._trials_begun
        earlier = self._trial_ids.get(trial) or (self._tasks.find(tag) if begun else None)
        self._trials_begun.add(trial)
        if earlier:
            task = self._tasks.get(earlier)
        else:
            name = self._names.task(f"{parent.name} · {trial}")
            task = self._tasks.create(parent.get_project_name(), name, str(parent.task_type), tag=tag)
        made = RunTask(task, offline=self._offline)
        if trial not in self._trial_ids:  # else it has been told this
            task.set_parent(parent.id)
            task.add_tags([tag])
            task.set_user_properties({"name": "tracelet.trial", "value": trial})
            self._trial_ids[trial] = str(task.id)
        return made
