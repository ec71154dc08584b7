"""Artifacts that MLflow gives back: of a run (``runs:/ID/path``, or the name of one of the session's own run), of a registered
or a logged model (``models:/...``)."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.backends.mlflow import settings
from tracelet_shim.backends.mlflow.compat import version_of
from tracelet_shim.backends.mlflow.errors import refused_as
from tracelet_shim.backends.mlflow.file import path_of
from tracelet_shim.backends.mlflow.limits import artifact_paths
from tracelet_shim.backends.mlflow.models import logged_model
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.shared.names import file_names

__all__ = ["fetch"]

_ASKED = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
_MODELS, _RUNS = "models:/", "runs:/"
_FORMS = f"{_RUNS}RUN_ID/PATH and {_MODELS}NAME@ALIAS or {_MODELS}NAME/VERSION are found in any run"


def fetch(options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
    """As `Backend.fetch`."""
    if run.program.pid != os.getpid():
        settings.prepare_relay()
    uri = settings.tracking_uri(options, run.program.cwd)
    file = path_of(uri)
    if file is not None and not file.exists():  # a client would make it
        raise NoSuchArtifactError(f"there is no store {file}")
    from mlflow.exceptions import MlflowException

    try:
        with settings.readable_errors(uri), variables(_ASKED | {"MLFLOW_TRACKING_URI": uri}):
            if name.startswith(_MODELS):
                return _model(uri, name, directory)
            return _of_a_run(uri, run, name, directory)
    except MlflowException as error:
        status, _ = refused_as(error) or (0, False)
        if status == 404 or error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise NoSuchArtifactError(str(error).partition("\n")[0]) from error
        raise


def _of_a_run(uri: str, run: RunInfo, name: str, directory: str) -> Fetched:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    if not name.startswith(_RUNS):
        if run.resume is None:
            raise NoSuchArtifactError(f"no run of this session is open, in which a name alone is looked for; {_FORMS}")
        client = MlflowClient(tracking_uri=uri)
        path = f"artifacts/{artifact_paths()(name)}"
        folder = path.rpartition("/")[0]
        if path in _listed(client, uri, run.resume, folder):
            name = f"{_RUNS}{run.resume}/{path}"
        elif (model := logged_model(client, run.resume, name)) is not None:
            return _model(uri, f"{_MODELS}{model}", directory)
        else:
            raise NoSuchArtifactError(f"run {run.resume} has no artifact {name!r}; {_FORMS}")
    return Fetched(download_artifacts(artifact_uri=name, dst_path=directory, tracking_uri=uri), name)


def _listed(client: Any, uri: str, run_id: str, folder: str) -> list[str]:
    """Return the paths of what is in a folder of a run's artifacts."""
    from mlflow.exceptions import MlflowException

    try:
        return [one.path for one in client.list_artifacts(run_id, folder)]
    except MlflowException as error:
        if refused_as(error) != (404, False):
            raise
    # A client of MLflow 3 asks for the run's logged models, too, which a server of MLflow 2 has no address for.
    from mlflow.artifacts import list_artifacts

    kept = client.get_run(run_id).info.artifact_uri.rstrip("/")
    found = list_artifacts(artifact_uri=f"{kept}/{folder}", tracking_uri=uri)
    return [f"{folder}/{one.path.rpartition('/')[2]}" for one in found]


def _model(uri: str, name: str, directory: str) -> Fetched:
    """Get a model, or a file of it. An alias, a stage and ``latest`` become the version that they are now."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    first, *rest = name.removeprefix(_MODELS).split("/")
    if "@" not in first and rest:
        first, rest = f"{first}/{rest[0]}", rest[1:]
    client = MlflowClient(tracking_uri=uri, registry_uri=registry)
    exactly = "/".join(version_of(client, _MODELS + first))
    identity = "/".join([_MODELS + exactly, *rest])
    place = os.path.join(directory, file_names()(first.partition("@")[0].partition("/")[0]))
    # Before MLflow 3 it is told by the variables alone, which are set.
    told = {"registry_uri": registry} if "registry_uri" in inspect.signature(download_artifacts).parameters else {}
    path = download_artifacts(artifact_uri=identity, dst_path=place, tracking_uri=uri, **told)
    return Fetched(path, identity)
