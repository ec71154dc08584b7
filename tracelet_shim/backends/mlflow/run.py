"""One run of MLflow: all that is written to it goes through here.

Everything goes through `MlflowClient` with the run's id. The fluent API is thread-local: from our thread it would start a run
of its own (``tracking/fluent.py``, ``_active_run_stack``).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend
from tracelet_shim.backends.mlflow.limits import MAX_PARAM, fit
from tracelet_shim.backends.mlflow.points import StoredPoints
from tracelet_shim.backends.mlflow.sending import Sender
from tracelet_shim.backends.mlflow.tags import listed
from tracelet_shim.backends.mlflow.times import OwnTimes
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.common.system import refer

__all__ = ["ONCE", "Rules", "Run", "create"]

ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""Variables for a request that makes something new. If the answer is lost, the server may have done it: MLflow's HTTP client
would have a second one made by trying again. Who asked looks for the first one before he does."""
_MAX_DATASET, _MAX_DIGEST, _MAX_SOURCE = 500, 36, 10_000  # `mlflow/utils/validation.py`; of the source more, but in JSON


class Rules(NamedTuple):
    """What all runs of a session have in common.

    Attributes:
        keys: the names of metrics, params and tags.
        paths: those of files.
        times: the timestamps of points.
        stem: gives the path of an event's file, without suffix.
        in_files: the store keeps metrics in files.
        sender: sends what goes to a run.
    """

    keys: Names
    paths: Names
    times: OwnTimes
    stem: Callable[[ev.Event], str]
    in_files: bool
    sender: Sender


def create(client: Any, experiment: str, start_time: int | None, tags: Mapping[str, str], name: str | None) -> Any:
    """Create a run, once."""
    with variables(ONCE):
        return client.create_run(experiment, start_time, dict(tags), name)


class Run:
    """One run.

    Args:
        client: an `MlflowClient`.
        run_id: MLflow's id of it.
        rules: the session's.
        params: those that it has, as far as that is known.
        infinite: the keys of its metrics that have had infinite values.
    """

    def __init__(
        self, client: Any, run_id: str, rules: Rules, *, params: Mapping[str, str] | None = None, infinite: Sequence[str] = ()
    ) -> None:
        self.run_id = run_id
        self._client = client
        self._rules = rules
        self._params = dict(params or {})
        self._infinite = set(infinite)
        self._stored = StoredPoints(client, run_id) if rules.in_files else None

    def log_metrics(self, points: Sequence[tuple[str, float, ev.Event]]) -> None:
        """Log (name, value, event) of each. A row that exists is skipped: by a database (``sqlalchemy_store.py``,
        ``_log_metrics_once``), and here for one in files."""
        from mlflow.entities import Metric

        metrics, infinite = [], []
        for name, value, event in points:
            key, step = self.key(name), int(event.step)
            when = self._rules.times.of(self.run_id, key, step, value, Backend.wall_time_ms(event), event.record)
            metrics.append(Metric(key, float(value), when, step))
            if math.isinf(value):
                wall_time = event.wall_time if math.isfinite(event.wall_time) else str(event.wall_time)
                row = {"key": key, "tag": name, "step": step, "timestamp": when, "wall_time": wall_time}
                infinite.append((event, {**row, "value": str(value)}))
        if infinite:
            self._keep_infinite(infinite)
        with self._stored.written(metrics) if self._stored is not None else contextlib.nullcontext(metrics) as new:
            self._rules.sender.metrics(self.run_id, new, StoredPoints(self._client, self.run_id).missing)

    def _keep_infinite(self, rows: list[tuple[ev.Event, dict[str, Any]]]) -> None:
        """List the true points of infinities, which are stored as the largest float (``sanitize_metric_value``)."""
        leaf = self._rules.stem(rows[0][0]).rpartition("/")[2]
        listing = json.dumps([row for _, row in rows], indent=1)
        self.log_file(f"infinite_values/{leaf}.json", listing.encode())
        new = {row["key"] for _, row in rows} - self._infinite
        keys = json.dumps(sorted(self._infinite | new))
        if new:
            self._rules.sender.tags(self.run_id, lambda most: {"tracelet.infinite": keys} if len(keys) <= most else {})
            self._infinite |= new

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters. They cannot change: the first value stays, a later one becomes a tag ``tracelet.param.<name>``."""
        from mlflow.exceptions import MlflowException

        known = self._params
        fitting = ((name, self._fit(f"params/{name}", text, MAX_PARAM)) for name, text in params.items())
        values = {self.key(name): text for name, text in fitting}
        try:
            self._rules.sender.params(self.run_id, {key: text for key, text in values.items() if key not in known})
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            known.update(self._client.get_run(self.run_id).data.params)  # the user, or an earlier session, was there before
            values = {self._rules.sender.key(key): text for key, text in values.items()}
            self._rules.sender.params(self.run_id, {key: text for key, text in values.items() if key not in known})
        for key, text in values.items():
            known.setdefault(key, text)
        self.set_tags({self.key(f"tracelet.param.{key}"): text for key, text in values.items() if known[key] != text})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        def fitting(most: int) -> Mapping[str, str]:
            return {key: self._fit(f"tags/{key}", text, most) for key, text in tags.items()}

        self._rules.sender.tags(self.run_id, fitting)

    def _fit(self, name: str, text: str, limit: int) -> str:
        """Return `text` within MLflow's limit; one that is cut is attached whole as a file."""
        fitting, whole = fit(name, text, limit, self._rules.paths)
        if whole is not None:
            self.log_file(whole.path, whole.data)
        return fitting

    def log_file(self, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="tracelet-") as directory:  # log_stream is younger than MLflow 3.1
            file = os.path.join(directory, name)
            with open(file, "wb") as out:
                out.write(data)
            self._rules.sender.file(self.run_id, file, folder or None)

    def copy_file(self, path: str, file: str) -> None:
        """Store a file as an artifact, whatever it is called here."""
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="tracelet-") as directory:
            refer(os.path.join(directory, name), file)
            self._rules.sender.file(self.run_id, os.path.join(directory, name), folder or None)

    def key(self, name: str) -> str:
        """Return the key of a metric, a parameter or a tag."""
        return self._rules.sender.key(self._rules.keys(name))

    def tell(self, tag: str, said: Mapping[str, str]) -> None:
        """Add something to a tag that lists the latest of its kind, as many as fit into a tag."""
        told = listed(self._client.get_run(self.run_id).data.tags.get(tag))
        told = [*(one for one in told if one != said), said]

        def latest(most: int) -> Mapping[str, str]:
            while len(json.dumps(told)) > most:
                told.pop(0)
            return {tag: json.dumps(told)}

        self._rules.sender.tags(self.run_id, latest)

    def log_input(self, event: ev.Used) -> None:
        """Log an artifact as an input, for which MLflow has datasets. One of this name and content stays as it is."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, identity = event.tag[:_MAX_DATASET], event.identity or f"artifact {event.tag} of this run"
        source = json.dumps({"uri": identity[:_MAX_SOURCE]})
        dataset = Dataset(name or "artifact", event.digest[:_MAX_DIGEST], event.tracker or "tracelet", source)
        context = InputTag("mlflow.data.context", "input")
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def end(self, status: str, end_time: int | None) -> None:
        """End the run. `set_terminated` prints a link on standard output, on servers; it is kept quiet for this call."""
        with variables({"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}):
            self._client.set_terminated(self.run_id, status, end_time)
