"""MLflow: runs in experiments, in a local SQLite file or on a tracking server.

Decisions, with the place in MLflow 3.17 that a rule comes from:

- Where nothing is configured, MLflow's own default store is used (``tracking/_tracking_service/utils.py``): ``./mlflow.db``, or
  a ``./mlruns`` that has data.
- A scalar is a metric. The store's primary key is (key, timestamp, step, value) and a row that exists is skipped
  (``sqlalchemy_store.py``, ``_log_metrics_once``): a repeated delivery counts once. Two *different* calls with the same
  value and step within one millisecond would be taken for one, so the later one is moved on by 1 ms (`OwnTimes`).
- Infinities are stored as ±1.7976931348623157e308 (``sanitize_metric_value``). The true points are listed in files
  under ``infinite_values/``, their keys in the tag ``tracelet.infinite``.
- An image gets the file names that `MlflowClient.log_image` makes and the UI's image grid parses, but we write the
  files: TensorBoard's PNG unchanged, and under a name made from the event: a second delivery replaces the first.
- Parameters cannot change. The first value stays the parameter, a later one becomes the tag ``tracelet.param.<name>``,
  and every `add_hparams` is kept whole, with types and domains, as a JSON file under ``hparams/``.
- A trial is a nested run (tag ``mlflow.parentRunId``), FINISHED at once: a crash leaves no child running for ever.
- MLflow has nothing for the other types: they are files of the kinds that its artifact page can show (Markdown, CSV,
  TSV, SVG, GIF, WAV, JSON), plus the exact data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Acknowledged, Backend, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.mlflow import limits, login, settings
from tracelet_shim.backends.mlflow.errors import passes, refused_as
from tracelet_shim.backends.mlflow.fetching import fetch
from tracelet_shim.backends.mlflow.models import log_model, register
from tracelet_shim.backends.mlflow.pictures import picture
from tracelet_shim.backends.mlflow.probe import PROBE, own_hook
from tracelet_shim.backends.mlflow.resume import experiment_of, find
from tracelet_shim.backends.mlflow.run import Rules, Run, create
from tracelet_shim.backends.mlflow.sending import Sender
from tracelet_shim.backends.mlflow.store import connect, in_turn, one_at_a_time
from tracelet_shim.backends.mlflow.tables import table_file
from tracelet_shim.backends.mlflow.tags import listed, origin, tags_of
from tracelet_shim.backends.mlflow.times import OwnTimes
from tracelet_shim.backends.mlflow.trials import Trials
from tracelet_shim.backends.mlflow.versions import VERSIONS, missing_for_databases
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.render.svg import line_chart
from tracelet_shim.backends.shared.names import Names, Shortened
from tracelet_shim.backends.shared.transient import Patience
from tracelet_shim.backends.shared.values import cut
from tracelet_shim.common.began import working_directory

__all__ = ["MLflowBackend"]

_BINS = 64  # of a drawing
_ALERT = 1000  # characters of one, in a tag that has several
_TABLES = "mlflow.loggedArtifacts"  # `MlflowClient.log_table`
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class MLflowBackend(Backend):
    name = "mlflow"
    module = "mlflow"
    distribution = "mlflow"
    versions = VERSIONS
    probe = PROBE
    own_hook = staticmethod(own_hook)
    fetch = staticmethod(fetch)
    credentials = (
        "check user, password or token (MLFLOW_TRACKING_USERNAME and _PASSWORD, MLFLOW_TRACKING_TOKEN, "
        "DATABRICKS_HOST and _TOKEN, or in the tracking URI)"
    )
    shares_process = True
    # What its pool of connections has no room for is opened and closed for each request (mlflow/environment_variables.py).
    shared_variables: ClassVar[Mapping[str, str]] = {"MLFLOW_HTTP_POOL_MAXSIZE": "256", "MLFLOW_HTTP_POOL_CONNECTIONS": "256"}
    batch_events = limits.MAX_BATCH
    options: ClassVar[Mapping[str, str]] = {
        "tracking_uri": "where to log: sqlite:///file.db, http://host:5000, ...; else MLFLOW_TRACKING_URI",
        "experiment_id": "log into the experiment of this id (a project= given in the call wins)",
        "artifact_location": "root of the files of an experiment that is created here, a path or URI",
        "parent_run_id": "make the run a nested run of this one",
    }
    acknowledged = Acknowledged(
        here="the transaction of the SQLite file is committed, the artifact is in its place",
        server="the answer to the request, which is made where it is waited for",
        again="the store recognises the points and files that it has",
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "metric; time in whole ms; ±inf shows as ±1.79e308, the true values are in infinite_values/*.json",
        ),
        ev.Histogram: Capability(Level.FILE, "exact buckets as JSON, and a drawing as SVG; MLflow has no histograms"),
        ev.Image: Capability(Level.NATIVE, "image grid by key and step; TensorBoard's own PNG, and a WebP thumbnail"),
        ev.Video: Capability(Level.FILE, "animated GIF, plays on the artifact page"),
        ev.Audio: Capability(Level.FILE, "WAV, plays on the artifact page"),
        ev.Text: Capability(Level.FILE, "Markdown file, rendered on the artifact page"),
        ev.PRCurve: Capability(Level.FILE, "CSV, shown as a table, and the curve as SVG; MLflow has no curves by step"),
        ev.Mesh: Capability(Level.FILE, "PLY, for any 3D viewer; MLflow has none"),
        ev.Embedding: Capability(Level.FILE, "TSV for projector.tensorflow.org, vectors shown as a table; sprite as PNG"),
        ev.Tensor: Capability(Level.FILE, "NPY"),
        ev.Graph: Capability(Level.FILE, "pbtxt, shown as text, and pb"),
        ev.HParams: Capability(Level.NATIVE, "params and metrics, a trial as nested run; types and domains as JSON"),
        ev.CustomScalars: Capability(Level.FILE, "JSON; MLflow has no chart layout in its API"),
        ev.Table: Capability(Level.NATIVE, "table of the evaluation view, which `load_table` reads; exactly as CSV"),
        ev.Artifact: Capability(Level.NATIVE, "artifact of the run, in `artifacts`; a later one of its name replaces it"),
        ev.Model: Capability(
            Level.NATIVE,
            "logged model, an output of the run (MLflow 2: artifact of the run); a version of `register_as`, with the aliases",
        ),
        ev.Tags: Capability(Level.NATIVE, "tags"),
        ev.Alert: Capability(Level.CONVERTED, "tag `tracelet.alerts`, the latest of them; each as a Markdown file"),
        ev.Used: Capability(Level.NATIVE, "input dataset of the run"),
        ev.Blob: Capability(Level.FILE, "the bytes"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._uri = ""
        self._client: Any = None
        self._entity: Any = None  # the `mlflow.entities.Run`, as it was when it was opened
        self._joined = False
        self._source: dict[str, str] = {}
        self._image_keys = Names(limits.ILLEGAL_IMAGE_KEY, 140)  # with step, time and uuid it must fit into a file name
        self._artifact_paths = limits.artifact_paths()
        self._images_tagged = False
        self._patience = Patience()
        self._opened = False
        self._run: Run
        self._sender: Sender
        self._trials: Trials
        self._shortened: Shortened

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def borrowed(cls) -> str | None:
        import sys

        active_run = getattr(sys.modules.get("mlflow"), "active_run", None)
        active = active_run() if active_run is not None else None
        if active is None:
            return None
        return str(active.info.run_id)

    @classmethod
    def borrowed_options(cls) -> Mapping[str, Any]:
        return {"tracking_uri": settings.users_uri()}

    @classmethod
    def joins_from_outside(cls) -> bool:
        return True

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        """`end_run` where it is found: the module's own name is used by ``with start_run()`` and at exit. What else ends a
        run calls `set_terminated`."""
        import mlflow
        from mlflow.tracking import fluent

        def active(*_: Any) -> str | None:
            return cls.borrowed()

        def given(_: Any, args: Any, kwargs: Any) -> str | None:
            run_id = kwargs.get("run_id", args[0] if args else None)
            return None if run_id is None else str(run_id)

        return (
            Ending(mlflow, "end_run", active), Ending(fluent, "end_run", active),
            Ending(mlflow.MlflowClient, "set_terminated", given),
        )  # fmt: skip

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        uri = cls.probe.address(cls.parsed(options))
        missing = settings.missing_login(uri) or "; remedy: ".join(missing_for_databases(uri) or ())
        if missing:
            raise errors.BackendUnavailableError(cls.name, missing)

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        cwd = run.program.cwd
        if run.program.pid != os.getpid():
            settings.prepare_relay()
            cwd = working_directory()  # as good, unless the program has moved
        self._uri = uri = settings.tracking_uri(self.given, cwd)
        # In files a key is a file and its slashes are folders: "a" and "a/b" exclude each other.
        in_files = settings.is_file_store(uri)
        keys = Names(limits.ILLEGAL_KEY + ("|/" if in_files else ""), limits.MAX_KEY, in_bytes=in_files)
        self._shortened = Shortened(keys, self._image_keys, self._paths, self._artifact_paths)
        with settings.readable_errors(uri), one_at_a_time(uri) as alone, in_turn(uri), settings.named_artifacts(cwd):
            self._client = self._client or connect(uri, alone=alone)
            self._sender = Sender(self._client, uri)
            rules = Rules(keys, self._paths, OwnTimes(), self.artifact_stem, in_files, self._sender)
            if self._entity is None:
                self._entity, self._joined = find(self._client, run, self.given, keys)
            if self._entity is None:
                self._entity = self._create(run, keys)
            info, data = self._entity.info, self._entity.data
            infinite = listed(data.tags.get("tracelet.infinite"))
            self._run = Run(self._client, info.run_id, rules, params=data.params, infinite=infinite)
            self._trials = Trials(self._client, self._entity, rules, self._source)
            self._run.set_tags(tags_of(run, keys, made=True, joined=self._joined))
            self._run.log_params(limits.config_params(run.config))
        self._opened = True
        return OpenedRun(info.run_id, settings.link(uri, info.experiment_id, info.run_id))

    def _create(self, run: RunInfo, keys: Names) -> Any:
        # A tag that is cut here comes again as soon as the run can take the file that has it whole.
        tags = {
            key: limits.fit(f"tags/{key}", value, limits.SURE_TAG, self._paths)[0]
            for key, value in tags_of(run, keys, made=False, joined=False).items()
        }
        self._source = origin(run)
        parent = self.given.get("parent_run_id")
        nested = {"mlflow.parentRunId": str(parent)} if parent else {}
        name = limits.run_name(run.exp_name) or tags.get("mlflow.runName")
        experiment = experiment_of(self._client, run, self.given)
        return create(self._client, experiment, int(run.started * 1000), {**tags, **self._source, **nested}, name)

    def close(self, status: Status) -> None:
        if self._entity is not None and not self._joined:
            with settings.readable_errors(self._uri), in_turn(self._uri):
                self._run.end(_STATUS[status], round(self.ended_at() * 1000))

    @property
    def handle(self) -> Any:
        """The `mlflow.entities.Run`, as it was when it was opened."""
        return self._entity

    def is_transient(self, error: BaseException) -> bool:
        known = passes(error, self._patience if self._opened else None)
        return super().is_transient(getattr(error, "orig", None) or error) if known is None else known

    def advice(self, error: BaseException) -> str:
        status, _ = refused_as(error) or (0, False)
        if isinstance(error, ImportError) and (missing := missing_for_databases(self._uri)) is not None:
            return missing[1]  # `check` did not know where MLflow would log
        return login.advice(status, self._uri) or super().advice(error)

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        with settings.readable_errors(self._uri), in_turn(self._uri):
            super().write(events)
            with self._shortened.telling() as names:
                for key, name in names.items():
                    said = json.dumps({"key": key, "name": name}, indent=1).encode()
                    self._run.log_file(f"shortened_names/{key[-16:]}.json", said)
        self._patience.reset()

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        for start in range(0, len(events), limits.MAX_BATCH):
            chunk = events[start : start + limits.MAX_BATCH]
            self._run.log_metrics([(event.path, event.value, event) for event in chunk])
            self.written += len(chunk)

    def log_image(self, event: ev.Image) -> None:
        made = picture(event, self._image_keys(event.path))
        if made is None:
            self.attach_files(event)
            return
        path, png, thumbnail = made
        self._run.log_file(f"{path}.png", png)
        self._run.log_file(f"{path}+compressed.webp", thumbnail)
        if not self._images_tagged:
            self._run.set_tags({"mlflow.loggedImages": "True"})
            self._images_tagged = True

    def log_histogram(self, event: ev.Histogram) -> None:
        self.attach_files(event)
        low, high, counts = uniform_bins(event, _BINS) or (0.0, 1.0, ())
        wide = (high - low) / max(len(counts), 1)
        corners = [(low + wide * (i + side), float(n)) for i, n in enumerate(counts) for side in (0, 1)]
        self._draw(event, corners, "value", f"samples per {wide:.3g}")

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        self.attach_files(event)
        self._draw(event, list(zip(event.recall, event.precision, strict=True)), "recall", "precision")

    def _draw(self, event: ev.Event, points: list[tuple[float, float]], across: str, up: str) -> None:
        drawn = line_chart(points, f"{event.path}, step {event.step}", across, up)
        if drawn:
            self.attach(self.artifact_stem(event) + ".svg", drawn, event)

    def log_hparams(self, event: ev.HParams) -> None:
        when = self.wall_time_ms(event) or None
        run = self._run if event.trial is None else self._trials.run_of(event.trial, when)
        for path, data in self.files_of(event):
            run.log_file(path, data)
        run.log_params({name: str(value) for name, value in event.params.items()})
        if event.metrics:
            run.log_metrics([(name, value, event) for name, value in event.metrics.items()])
        if event.trial is not None:
            run.end("FINISHED", when)

    def log_table(self, event: ev.Table) -> None:
        self.attach_files(event)
        path = self.artifact_stem(event) + ".json"
        self._run.log_file(path, table_file(event))  # in place of the other JSON: what `load_table` reads
        self._run.tell(_TABLES, {"path": path, "type": "table"})

    def log_tags(self, event: ev.Tags) -> None:
        self._run.set_tags({self._run.key(name): value for name, value in event.tags.items()})

    def log_used(self, event: ev.Used) -> None:
        self._run.log_input(event)

    def log_model(self, event: ev.Model) -> None:
        for file in event.files:
            self.check_kept(file)
        inside = {self._artifact_paths(file.path.removeprefix(f"{event.tag}/")): file.at for file in event.files}
        model = log_model(self._client, self._sender, self._entity.info.experiment_id, self._run.run_id, event, inside)
        source = f"models:/{model}"
        if model is None:
            self.log_artifact(event)
            source = f"runs:/{self._run.run_id}/artifacts/{self._artifact_paths(event.tag)}"
        if event.register_as is not None:
            for alias, there in register(self._client, self._run.run_id, source, event, model).items():
                self.notice(f"alias {alias}", f"the alias {alias!r} is {there!r} in the registry: MLflow takes no such name")

    def log_alert(self, event: ev.Alert) -> None:
        self.attach_files(event)
        about = {"level": event.level, "title": event.tag, "text": cut(event.text, _ALERT, " ...")}
        self._run.tell("tracelet.alerts", {**about, "file": self.artifact_stem(event) + ".md"})

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._run.log_file(path, data)

    def attach_path(self, path: str, file: str, event: ev.Event) -> None:
        self._run.copy_file(path, file)
