"""The experiment and the run that are there already, or are made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.mlflow.limits import experiment_name, run_name
from tracelet_shim.backends.shared.names import Names

__all__ = ["experiment_of", "find"]


def experiment_of(client: Any, run: RunInfo, given: Mapping[str, Any]) -> str:
    """Return the id of the experiment: the call's, else what `mlflow.start_run` would take.

    Args:
        client: an `MlflowClient`.
        run: the call's.
        given: the backend's options.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import fluent
    from mlflow.tracking.default_experiment.registry import get_experiment_id

    name = run.project or ""
    if not name:
        chosen = given.get("experiment_id")
        if not chosen and not given.get("tracking_uri"):  # set_experiment is about MLflow's own store
            chosen = getattr(fluent, "_active_experiment_id", None)
        if chosen:
            return str(chosen)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
        if not name:
            return str(os.environ.get("MLFLOW_EXPERIMENT_ID") or get_experiment_id())
    name = experiment_name(name)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=given.get("artifact_location")))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have been faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise errors.BackendError(f"MLflow experiment {name!r} is deleted; mlflow experiments restore -x {found.experiment_id}")
    return str(found.experiment_id)


def find(client: Any, run: RunInfo, given: Mapping[str, Any], keys: Names) -> tuple[Any, bool]:
    """Return the run to continue, or None, and whether it is the user's own. An open that is tried again finds what the first
    try has made."""
    wanted = run.resume or (None if run.run_id else os.environ.get("MLFLOW_RUN_ID"))
    joined = False
    if wanted:
        found = client.get_run(wanted)
        if found.info.lifecycle_stage != "active":
            raise errors.BackendError(f"MLflow run {wanted} is deleted; mlflow runs restore --run-id {wanted}")
        joined = run.borrowed
    else:
        tag, value = ("run_id", keys(run.run_id)) if run.run_id else ("session", run.session)
        query = f"tags.`tracelet.{tag}` = '{value}'"
        experiment = experiment_of(client, run, given)
        runs = client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
        found = runs[0] if runs else None
    if found is not None and not joined:
        client.update_run(found.info.run_id, status="RUNNING", name=run_name(run.exp_name))
    return found, joined
