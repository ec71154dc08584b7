"""MLflow: runs in experiments, in a local SQLite file or on a tracking server.

Decisions, with the place in MLflow 3.17 that a rule comes from:

- Everything goes through `MlflowClient` with the run's id. The fluent API is thread-local: from our thread it would
  start a run of its own (``tracking/fluent.py``, ``_active_run_stack``). Where nothing is configured, MLflow's own
  default store is used (``tracking/_tracking_service/utils.py``): ``./mlflow.db``, or a ``./mlruns`` that has data.
- A scalar is a metric. The store's primary key is (key, timestamp, step, value) and a row that exists is skipped
  (``sqlalchemy_store.py``, ``_log_metrics_once``): a repeated delivery counts once. Two *different* calls with the same
  value and step within one millisecond would be taken for one, so the later one is moved on by 1 ms (`_own_time`).
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

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import shlex
import sqlite3
import tempfile
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from xml.sax.saxutils import escape as xml_escape

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim._secrets import mask_text
from tracelet_shim._text import as_utf8, second_name, usable
from tracelet_shim.backends.base import Backend, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.mlflow.file import make_whole, path_of, put_right
from tracelet_shim.backends.mlflow.probe import PROBE, own_hook
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.transient import is_refusal

__all__ = ["MLflowBackend"]

_ILLEGAL_KEY = r"[^/\w.\- :]|^/|/(?=/)|/\Z|(?<![^/])\.{1,2}(?![^/])|^\.\."
"""``utils/validation.py``: `validate_param_and_metric_name` and `path_not_unique`, for metrics, params and tags."""

_ILLEGAL_IMAGE_KEY = r"[^A-Za-z0-9_\-./ ]|^ "
"""``tracking/client.py``, `log_image`; and a file whose name begins with a blank is listed without it by servers."""

_MAX_KEY, _MAX_PARAM, _MAX_TAG, _MAX_EXPERIMENT, _MAX_RUN_NAME = 250, 6000, 8000, 500, 250
_MAX_BATCH = 1000
_BINS = 64  # of a drawing
_LARGEST = 1.7976931348623157e308
_REMEMBERED = 65_536

_RELAY_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's 7 block four minutes a call; the relay retries itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_TRANSIENT_CODES = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "RESOURCE_CONFLICT", "ABORTED", "CANCELLED",
}  # fmt: skip

_DATABASES = ("postgresql", "mysql", "mssql")


class _Recent(OrderedDict[int, int]):
    """The latest entries; the oldest make room."""

    def put(self, key: int, value: int) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > _REMEMBERED:
            self.popitem(last=False)


class MLflowBackend(Backend):
    name = "mlflow"
    module = "mlflow"
    distribution = "mlflow"
    probe = PROBE
    own_hook = staticmethod(own_hook)
    credentials = (
        "check user, password or token (MLFLOW_TRACKING_USERNAME and _PASSWORD, MLFLOW_TRACKING_TOKEN, "
        "DATABRICKS_HOST and _TOKEN, or in the tracking URI)"
    )
    batch_events = _MAX_BATCH
    options: ClassVar[Mapping[str, str]] = {
        "tracking_uri": "where to log: sqlite:///file.db, http://host:5000, ...; else MLFLOW_TRACKING_URI",
        "experiment_id": "log into the experiment of this id (a project= given in the call wins)",
        "artifact_location": "root of the files of an experiment that is created here, a path or URI",
        "parent_run_id": "make the run a nested run of this one",
    }
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
        ev.Blob: Capability(Level.FILE, "the bytes"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._client: Any = None
        self._run: Any = None
        self._run_id = ""
        self._joined = False
        self._secret = ""
        self._source: dict[str, str] = {}
        self._keys = Names(_ILLEGAL_KEY, _MAX_KEY)
        self._image_keys = Names(_ILLEGAL_IMAGE_KEY, 140)  # with step, time and uuid it must fit into a file name
        self._told: set[str] = set()
        self._params: dict[str, dict[str, str]] = {}
        self._infinite: dict[str, set[str]] = {}
        self._children: dict[str, str] | None = None
        self._images_tagged = False
        self._taken, self._moved, self._next = _Recent(), _Recent(), _Recent()

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
        uri = str(options.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or "")
        if uri.partition(":")[0] != "databricks":
            return
        known = any(name.startswith(("DATABRICKS_", "ARM_")) for name in os.environ)  # of the unified login, Azure's too
        file = os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg"
        if not known and not os.path.exists(os.path.expanduser(file)):
            raise errors.BackendUnavailableError(
                cls.name, f"no credentials for the tracking URI {uri!r}; remedy: `databricks auth login`, or set DATABRICKS_HOST "
                "and DATABRICKS_TOKEN",
            )  # fmt: skip

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        if run.program.pid != os.getpid():  # never change the environment of the user's own process
            for variable, value in _RELAY_ENVIRONMENT.items():
                os.environ.setdefault(variable, value)
        uri = _absolute(str(self.given.get("tracking_uri") or _default_uri()))
        self._secret = urlsplit(uri).netloc.rpartition("@")[0]
        if _is_file_store(uri):  # there a key is a file and its slashes are folders: "a" and "a/b" exclude each other
            self._keys = Names(_ILLEGAL_KEY + "|/", _MAX_KEY, in_bytes=True)
        path = path_of(uri)
        with self._without_secrets(), _alone(path) as alone, _placed():
            self._client = self._client or _connect(uri, path, alone=alone)
            self._run = self._run or self._find(run) or self._create(run)
            self._run_id = self._run.info.run_id
            self._params[self._run_id] = dict(self._run.data.params)
            self._infinite[self._run_id] = set(json.loads(self._run.data.tags.get("tracelet.infinite", "[]")))
            self._set_tags(self._run_id, self._tags(run))
            self._log_params(self._run_id, _flat(run.config))
        return OpenedRun(self._run_id, self._url(uri))

    def _experiment(self, run: RunInfo) -> str:
        """Return the id of the experiment: the call's, else what `mlflow.start_run` would take."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import fluent
        from mlflow.tracking.default_experiment.registry import get_experiment_id

        name = run.project or ""
        if not name:
            chosen = self.given.get("experiment_id")
            if not chosen and not self.given.get("tracking_uri"):  # set_experiment is about MLflow's own store
                chosen = getattr(fluent, "_active_experiment_id", None)
            if chosen:
                return str(chosen)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
            if not name:
                return str(os.environ.get("MLFLOW_EXPERIMENT_ID") or get_experiment_id())
        name = Names(_UNPRINTABLE, _MAX_EXPERIMENT)(name)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self.given.get("artifact_location")))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # another process may have been faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise errors.BackendError(
                f"MLflow experiment {name!r} is deleted; mlflow experiments restore -x {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _find(self, run: RunInfo) -> Any:
        """Return the run to continue, or None. An open that is tried again finds what the first try has made."""
        given = run.resume or (None if run.run_id else os.environ.get("MLFLOW_RUN_ID"))
        if given:
            found = self._client.get_run(given)
            if found.info.lifecycle_stage != "active":
                raise errors.BackendError(f"MLflow run {given} is deleted; mlflow runs restore --run-id {given}")
            self._joined = run.borrowed
        else:
            tag, value = ("run_id", self._keys(run.run_id)) if run.run_id else ("session", run.session)
            query = f"tags.`tracelet.{tag}` = '{value}'"
            runs = self._client.search_runs(
                [self._experiment(run)], query, max_results=1, order_by=["attributes.start_time DESC"]
            )
            found = runs[0] if runs else None
        if found is not None and not self._joined:
            self._client.update_run(found.info.run_id, status="RUNNING", name=_run_name(run.exp_name))
        return found

    def _create(self, run: RunInfo) -> Any:
        tags = {key: self._fit("", f"tags/{key}", value, _MAX_TAG) for key, value in self._tags(run).items()}
        name = _run_name(run.exp_name) or tags.get("mlflow.runName")
        return self._create_run(self._experiment(run), int(run.started * 1000), {**tags, **self._origin(run)}, name)

    def _create_run(self, experiment: str, start_time: int | None, tags: dict[str, str], name: str | None) -> Any:
        """Create a run, once. If the answer is lost, the server may have made it: MLflow's HTTP client would then make a
        second one by trying again; we look for the first one before we do (`_find`, `_child`)."""
        with _variable("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"):
            return self._client.create_run(experiment, start_time, tags, name)

    def _tags(self, run: RunInfo) -> dict[str, str]:
        """Return the run's tags; for a run of the user's only what the user asked for."""
        tags = {self._keys(key): value for key, value in run.tags.items()}
        if run.exp_name or self._run is not None:
            tags.pop("mlflow.runName", None)
        if run.notes is not None:
            tags["mlflow.note.content"] = run.notes
        if self._joined:
            return tags
        own = {
            "session": run.session,
            "run_id": self._keys(run.run_id) if run.run_id else None,
            "group": run.group,
            "root": run.root and as_utf8(run.root),
            "exp_name": run.exp_name if run.exp_name and _run_name(run.exp_name) != run.exp_name else None,
        }
        tags.update({f"tracelet.{key}": value for key, value in own.items() if value})
        return tags

    def _origin(self, run: RunInfo) -> dict[str, str]:
        """Return the tags that say what ran: the user's program, never the relay."""
        from mlflow.tracking.context.git_context import GitRunContext
        from mlflow.tracking.context.registry import resolve_tags
        from mlflow.utils import git_utils

        program = run.program
        script = program.script or (program.argv[0] if program.argv and program.argv[0] not in ("", "-c") else None)
        tags = {"mlflow.source.name": _plain(script or program.module or "<console>"), "mlflow.source.type": "LOCAL"}
        if "git" in run.what_ran and program.script and os.path.exists(program.script):
            found = {
                "commit": git_utils.get_git_commit(program.script),
                "branch": git_utils.get_git_branch(program.script),
                "repoURL": mask_text(git_utils.get_git_repo_url(program.script) or ""),
            }
            if found["commit"]:
                tags.update({f"mlflow.source.git.{key}": value for key, value in found.items() if value})
        tags = {key: str(value) for key, value in resolve_tags(tags, ignore=[GitRunContext]).items()}
        self._source = dict(tags)
        parent = self.given.get("parent_run_id")
        return {**tags, "mlflow.parentRunId": str(parent)} if parent else tags

    def _url(self, uri: str) -> str | None:
        place = f"#/experiments/{self._run.info.experiment_id}/runs/{self._run_id}"
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https"):
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/{place}"
        if parts.scheme == "sqlite" or _is_file_store(uri):
            return f"mlflow ui --backend-store-uri {uri}"
        return None

    def close(self, status: Status) -> None:
        if self._run is not None and not self._joined:
            self._end(self._run_id, _STATUS[status], round(self.ended_at() * 1000))

    def _end(self, run_id: str, status: str, end_time: int | None) -> None:
        """End a run. `set_terminated` prints a link on standard output, on servers; it is kept quiet for this call."""
        with _variable("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"), self._without_secrets():
            self._client.set_terminated(run_id, status, end_time)

    @property
    def handle(self) -> Any:
        """The `mlflow.entities.Run`, as it was when it was opened."""
        return self._run

    def is_transient(self, error: BaseException) -> bool:
        code = getattr(error, "error_code", None)  # MlflowException; the codes are in mlflow/exceptions.py
        if isinstance(code, str):
            return code in _TRANSIENT_CODES and not (code == "INTERNAL_ERROR" and is_refusal(str(error)))
        response = getattr(error, "response", None)  # requests.HTTPError, from uploading a file
        if response is not None:
            return response.status_code in (408, 425, 429) or response.status_code >= 500
        cause = getattr(error, "orig", None)  # sqlalchemy.exc.DBAPIError, from opening the database
        if cause is not None and not isinstance(cause, sqlite3.Error):
            return type(error).__name__ in ("OperationalError", "InterfaceError") and not is_refusal(str(error))
        error = cause or error
        return super().is_transient(error)

    @contextlib.contextmanager
    def _without_secrets(self) -> Iterator[None]:
        """Take ``user:password@`` of the tracking URI out of errors: MLflow quotes the whole URL in its messages."""
        try:
            yield
        except Exception as error:
            if self._secret and self._secret in str(error):
                said = str(error).replace(self._secret, "***")
                error.args = (said,)
                if hasattr(error, "message"):
                    error.message = said
                error.__cause__ = error.__context__ = None
            raise

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        with self._without_secrets():
            super().write(events)
            for names in (self._keys, self._image_keys, self._paths):
                for key in names.shortened.keys() - self._told:
                    said = json.dumps({"key": key, "name": names.shortened[key]}, indent=1).encode()
                    self._put(self._run_id, f"shortened_names/{key[-16:]}.json", said)
                    self._told.add(key)

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        for start in range(0, len(events), _MAX_BATCH):
            chunk = events[start : start + _MAX_BATCH]
            self._log_metrics(self._run_id, [(event.path, event.value, event) for event in chunk])
            self.written += len(chunk)

    def _log_metrics(self, run_id: str, points: Sequence[tuple[str, float, ev.Event]]) -> None:
        from mlflow.entities import Metric

        metrics, infinite = [], []
        for name, value, event in points:
            key, step = self._keys(name), int(event.step)
            when = self._own_time(run_id, key, step, value, self.wall_time_ms(event), event.record)
            metrics.append(Metric(key, float(value), when, step))
            if math.isinf(value):
                wall_time = event.wall_time if math.isfinite(event.wall_time) else str(event.wall_time)
                row = {"key": key, "tag": name, "step": step, "timestamp": when, "wall_time": wall_time}
                infinite.append((event, {**row, "value": str(value)}))
        if infinite:
            self._keep_infinite(run_id, infinite)
        self._client.log_batch(run_id, metrics=metrics, synchronous=True)

    def _own_time(self, run_id: str, key: str, step: int, value: float, when: int, record: ev.RecordId) -> int:
        """Return a timestamp at which MLflow takes this point for itself and not for the repetition of another.

        The same event gets the same time again. What is known of earlier points is bounded and does not outlive the
        process: equal points further apart than 65,536 others, that also share the millisecond, are not told apart.
        """
        shown = "nan" if math.isnan(value) else min(max(value, -_LARGEST), _LARGEST)
        point = (run_id, key, step, shown)
        owner, slot = hash(record), hash((*point, when))
        if self._taken.get(slot, owner) == owner:
            self._taken.put(slot, owner)
            return when
        repeat = hash((slot, owner))
        if repeat in self._moved:
            return self._moved[repeat]
        moved = self._next.get(slot, when + 1)
        while self._taken.get(hash((*point, moved)), owner) != owner:
            moved += 1
        self._taken.put(hash((*point, moved)), owner)
        self._moved.put(repeat, moved)
        self._next.put(slot, moved + 1)
        return moved

    def _keep_infinite(self, run_id: str, rows: list[tuple[ev.Event, dict[str, Any]]]) -> None:
        leaf = self.artifact_stem(rows[0][0]).rpartition("/")[2]
        listing = json.dumps([row for _, row in rows], indent=1)
        self._put(run_id, f"infinite_values/{leaf}.json", listing.encode())
        known = self._infinite.setdefault(run_id, set())
        new = {row["key"] for _, row in rows} - known
        if new and len(json.dumps(sorted(known | new))) <= _MAX_TAG:
            self._set_tags(run_id, {"tracelet.infinite": json.dumps(sorted(known | new))})
            known |= new

    def log_image(self, event: ev.Image) -> None:
        from PIL import Image

        png, thumbnail = io.BytesIO(event.data), io.BytesIO()
        try:
            with Image.open(io.BytesIO(event.data)) as picture:
                if event.format != "png":
                    png = io.BytesIO()
                    picture.save(png, format="PNG")
                clear = "A" in picture.getbands() or "transparency" in picture.info
                small = picture.convert("RGBA" if clear else "RGB")
            small.thumbnail((256, 256))
            small.save(thumbnail, format="WEBP", method=0)
        except (OSError, ValueError, Image.DecompressionBombError):  # not a picture that Pillow reads; MLflow needs one
            self.attach_files(event)
            return
        record = "\0".join(map(str, event.record)).encode("utf-8", "surrogateescape")
        identity = uuid.UUID(bytes=hashlib.blake2b(record, digest_size=16).digest(), version=4)
        key = self._image_keys(event.path).replace("/", "~")
        stem = f"images/{key}+step+{event.step}+timestamp+{self.wall_time_ms(event)}+{identity}"
        self._put(self._run_id, f"{stem}.png", png.getvalue())
        self._put(self._run_id, f"{stem}+compressed.webp", thumbnail.getvalue())
        if not self._images_tagged:
            self._set_tags(self._run_id, {"mlflow.loggedImages": "True"})
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
        picture = _svg(points, f"{event.path}, step {event.step}", across, up)
        if picture:
            self.attach(self.artifact_stem(event) + ".svg", picture, event)

    def log_hparams(self, event: ev.HParams) -> None:
        run_id = self._run_id if event.trial is None else self._child(event, event.trial)
        for path, data in self.files_of(event):
            self._put(run_id, path, data)
        self._log_params(run_id, {name: str(value) for name, value in event.params.items()})
        if event.metrics:
            self._log_metrics(run_id, [(name, value, event) for name, value in event.metrics.items()])
        if event.trial is not None:
            self._end(run_id, "FINISHED", self.wall_time_ms(event) or None)

    def _child(self, event: ev.HParams, trial: str) -> str:
        """Return the id of the trial's nested run; one that an earlier session or try has made is found again."""
        key = self._keys(trial)
        if self._children is None:
            self._children = {}
            query, token = f"tags.`mlflow.parentRunId` = '{self._run_id}'", None
            while True:
                page = self._client.search_runs([self._run.info.experiment_id], query, page_token=token)
                for child in page:
                    self._children.setdefault(child.data.tags.get("tracelet.trial", ""), child.info.run_id)
                token = page.token
                if not token:
                    break
        if key not in self._children:
            tags = {**self._source, "mlflow.parentRunId": self._run_id, "tracelet.trial": key}
            children, self._children = self._children, None  # after a failure, look whether it was made all the same
            made = self._create_run(
                self._run.info.experiment_id, self.wall_time_ms(event) or None, tags, _run_name(trial) or key
            )
            children[key] = made.info.run_id
            self._children = children
        return self._children[key]

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        known = self._params.setdefault(run_id, {})
        fitted = ((name, self._fit(run_id, f"params/{name}", text, _MAX_PARAM)) for name, text in params.items())
        values = {self._keys(name): text for name, text in fitted}
        try:
            self._client.log_batch(
                run_id, params=[Param(key, text) for key, text in values.items() if key not in known], synchronous=True
            )
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            known.update(self._client.get_run(run_id).data.params)  # the user, or an earlier session, was there before
            new = [Param(key, text) for key, text in values.items() if key not in known]
            self._client.log_batch(run_id, params=new, synchronous=True)
        for key, text in values.items():
            known.setdefault(key, text)
        self._set_tags(
            run_id, {self._keys(f"tracelet.param.{key}"): text for key, text in values.items() if known[key] != text}
        )

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        fitted = [RunTag(key, self._fit(run_id, f"tags/{key}", text, _MAX_TAG)) for key, text in tags.items()]
        self._client.log_batch(run_id, tags=fitted, synchronous=True)

    def _fit(self, run_id: str, name: str, text: str, limit: int) -> str:
        """Return `text` within MLflow's limit; a longer one is cut, says so, and is attached whole as a file."""
        plain = _plain(text)
        if len(plain) <= limit:
            return plain
        data = text.encode("utf-8", "surrogatepass")
        path = f"{self._paths(name)}/whole={hashlib.blake2s(data, digest_size=4).hexdigest()}.txt"
        if run_id:  # a run that is being made gets its tags again as soon as it can take files
            self._put(run_id, path, data)
        marker = f" ... [cut: {len(text)} characters, whole in {path}]"
        return plain[: limit - len(marker)] + marker

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._put(self._run_id, path, data)

    def _put(self, run_id: str, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="tracelet-") as directory:  # log_stream is younger than MLflow 3.1
            file = os.path.join(directory, name)
            with open(file, "wb") as out:
                out.write(data)
            self._client.log_artifact(run_id, file, folder or None)


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a moment: what MLflow reads at each call and takes in no other way."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


_UNPRINTABLE = r"[\x00-\x1f\x7f\ud800-\udfff]"


def _plain(text: str) -> str:
    """Return `text` without what no database takes as text: lone surrogates and NUL, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _run_name(name: str | None) -> str | None:
    return Names(_UNPRINTABLE, _MAX_RUN_NAME)(name) if name else None


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return nested `config` as ``optimizer/lr`` -> text; if that gave one name twice, nested values stay, as JSON."""

    def leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from leaves(f"{prefix}/{key}", inner)
        else:
            yield prefix, value

    pairs = [pair for key, value in config.items() for pair in leaves(str(key), value)]
    if len(dict(pairs)) < len(pairs):
        pairs = list(config.items())
    return {name: json.dumps(v) if isinstance(v, (Mapping, list, tuple)) else str(v) for name, v in pairs}


def _is_file_store(uri: str) -> bool:
    scheme = urlsplit(uri).scheme
    return scheme == "file" or (not scheme and uri not in ("databricks", "databricks-uc", "uc"))


def _default_uri() -> str:
    """Return where MLflow itself would log."""
    import mlflow

    try:
        return str(mlflow.get_tracking_uri())
    except UnicodeEncodeError:  # that is in the working directory, which MLflow cannot name
        return "sqlite:///mlflow.db"


@contextlib.contextmanager
def _placed() -> Iterator[None]:
    """Let MLflow put the files of a database beside it where it cannot name the working directory."""
    here = second_name()
    if here is None:
        yield
        return
    variable = "_MLFLOW_SERVER_ARTIFACT_ROOT"  # what `mlflow server` says to its workers
    with _variable(variable, os.environ.get(variable, os.path.join(here, "mlruns"))):
        yield


def _absolute(uri: str) -> str:
    """Return a local store's URI with an absolute path, so that a later ``os.chdir`` cannot move the store."""
    path = uri.removeprefix("sqlite:///")
    if path != uri and path and not path.startswith(("/", ":", "file:")):
        return "sqlite:///" + os.path.join(usable(os.getcwd()), path)
    if not urlsplit(uri).scheme and _is_file_store(uri):
        from mlflow.utils.file_utils import path_to_local_file_uri

        return str(path_to_local_file_uri(os.path.join(usable(os.getcwd()), uri)))
    return uri


_BEING_MADE = ("already exists", "out-of-date", "duplicate column", "no such")
"""What the SDK's errors say while another process is creating the same database."""


@contextlib.contextmanager
def _alone(path: Path | None) -> Iterator[bool]:
    """Let one of our processes at a time open a SQLite store: MLflow's first users of a new file break each other.

    The lock is on the file's folder, so that it leaves nothing behind. It is waited for, but not for ever; what is yielded
    tells whether it was got.
    """
    alone = False
    with contextlib.ExitStack() as stack:
        if path is not None:
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, handle)
            until = time.monotonic() + 60
            while time.monotonic() < until:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    alone = True
                    break
                except BlockingIOError:
                    time.sleep(0.05)
                except OSError:  # a file system without locks
                    break
        yield alone


def _connect(uri: str, path: Path | None, *, alone: bool) -> Any:
    """Return a client. Another program may be making the same database: its tables are waited for."""
    from mlflow import MlflowClient

    with _quiet():
        if urlsplit(uri).scheme.partition("+")[0] in _DATABASES:
            _knock(uri)
        problem: Exception | None = None
        for pause in (0.5, 1, 2, 4, 8, 0):
            try:
                if path is not None:
                    make_whole(path, uri, _make, alone=alone)
                return MlflowClient(tracking_uri=uri)
            except Exception as error:
                if not any(word in str(error) for word in _BEING_MADE):
                    raise
                problem = error
                _let_go(uri)
                if path is None or not put_right(path):
                    time.sleep(pause)
        said = str(problem).partition("\n")[0].partition(". Take a backup")[0]
        remedy = f"; make a copy of {path}, then: mlflow db upgrade {shlex.quote(uri)}" if path is not None else ""
        raise errors.BackendError(f"the MLflow database cannot be used: {said}{remedy}") from problem


def _make(uri: str) -> None:
    """Have MLflow make a database, as the first client of it does, and let go of it."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri)
    _let_go(uri)


def _let_go(uri: str) -> None:
    """Close the connections that MLflow keeps for a later use: the file that they are to is about to get another name."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.pop(uri, None)
    if engine is not None:
        engine.dispose()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without "Creating initial MLflow database tables..."."""
    notices = logging.getLogger("mlflow.store.db.utils")
    level = notices.level
    notices.setLevel(logging.WARNING)
    try:
        yield
    finally:
        notices.setLevel(level)


def _knock(uri: str) -> None:
    """Connect to a database server once: MLflow tries for minutes whatever it is, a wrong password too."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _svg(points: list[tuple[float, float]], title: str, across: str, up: str) -> bytes:
    """Return a line through `points` as a small SVG picture; empty if there is nothing to draw."""
    drawn = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not drawn:
        return b""
    left, right = min(x for x, _ in drawn), max(x for x, _ in drawn)
    top = max(y for _, y in drawn)
    wide, high = (right - left) or 1.0, top or 1.0
    line = " ".join(f"{60 + 520 * ((x - left) / wide):.1f},{300 - 260 * (y / high):.1f}" for x, y in drawn)
    words = [(320, 20, title), (320, 335, across), (60, 318, f"{left:.4g}"), (580, 318, f"{right:.4g}")]
    words += [(60, 34, up), (30, 48, f"{top:.4g}")]
    texts = (f'<text x="{x}" y="{y}" text-anchor="middle">{xml_escape(_printable(t))}</text>' for x, y, t in words)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="350" font-family="sans-serif" font-size="12">'
        f'<rect width="640" height="350" fill="white"/>{"".join(texts)}'
        '<path d="M60 40V300H580" fill="none" stroke="grey"/>'
        f'<polyline points="{line}" fill="none" stroke="#1f77b4"/></svg>'
    ).encode()


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:80])
