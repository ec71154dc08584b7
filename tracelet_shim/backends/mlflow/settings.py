"""Where MLflow logs to, and what it reads from the environment."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.common.began import working_directory
from tracelet_shim.common.text import second_name, usable

__all__ = [
    "absolute", "is_file_store", "link", "missing_login", "named_artifacts", "prepare_relay", "readable_errors",
    "tracking_uri", "users_uri",
]  # fmt: skip

_ADVICE = re.compile(r"\(raised as a result of Query-invoked autoflush;[^)]*\)\s*")
_RELAY_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's 7 block four minutes a call; the relay retries itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


def prepare_relay() -> None:
    """Set what the user has left open, in a process of ours: never in the user's own."""
    for variable, value in _RELAY_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


def missing_login(uri: str) -> str | None:
    """Return what is wrong, if Databricks is to be logged to and there is nothing to log in with."""
    if uri.partition(":")[0] != "databricks":
        return None
    known = any(name.startswith(("DATABRICKS_", "ARM_")) for name in os.environ)  # of the unified login, Azure's too
    file = os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg"
    if known or os.path.exists(os.path.expanduser(file)):
        return None
    return (
        f"no credentials for the tracking URI {uri!r}; remedy: `databricks auth login`, or set DATABRICKS_HOST "
        "and DATABRICKS_TOKEN"
    )


def tracking_uri(given: Mapping[str, Any], cwd: str) -> str:
    """Return where to log: the option's store, else where MLflow itself would log.

    Args:
        given: the options.
        cwd: what a relative path is relative to.
    """
    return absolute(str(given.get("tracking_uri") or _default_uri(cwd)), cwd)


def users_uri() -> str:
    """Return where the user's own runs are. A relative path was resolved when MLflow opened the store, and may lead elsewhere
    by now."""
    from mlflow.tracking._tracking_service import utils

    uri = _default_uri(working_directory())
    if absolute(uri) == uri or not uri.startswith("sqlite:"):
        return absolute(uri)
    with utils._get_store().engine.connect() as connection:
        files = {name: file for _, name, file in connection.exec_driver_sql("PRAGMA database_list")}
    return f"sqlite:///{files['main']}"


def _default_uri(cwd: str) -> str:
    import mlflow

    try:
        uri = str(mlflow.get_tracking_uri())
    except UnicodeEncodeError:  # that is in the working directory, which MLflow cannot name
        return "sqlite:///mlflow.db"
    here = working_directory()
    if cwd != here and not mlflow.is_tracking_uri_set():  # what MLflow takes then is in the present one
        return uri.replace(here, cwd, 1)
    return uri


def absolute(uri: str, cwd: str | None = None) -> str:
    """Return a local store's URI with an absolute path, so that an ``os.chdir`` cannot move the store."""
    cwd = working_directory() if cwd is None else cwd
    path = uri.removeprefix("sqlite:///")
    if path != uri and path and not path.startswith(("/", ":", "file:")):
        return "sqlite:///" + os.path.join(usable(cwd), path)
    if not urlsplit(uri).scheme and is_file_store(uri):
        from mlflow.utils.file_utils import path_to_local_file_uri

        return str(path_to_local_file_uri(os.path.join(usable(cwd), uri)))
    return uri


def is_file_store(uri: str) -> bool:
    scheme = urlsplit(uri).scheme
    return scheme == "file" or (not scheme and uri not in ("databricks", "databricks-uc", "uc"))


def link(uri: str, experiment_id: str, run_id: str) -> str | None:
    """Return the run's page on a server, the command that shows a local store, or None."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        return f"{server}/#/experiments/{experiment_id}/runs/{run_id}"
    if parts.scheme == "sqlite" or is_file_store(uri):
        return f"mlflow ui --backend-store-uri {uri}"
    return None


@contextlib.contextmanager
def named_artifacts(cwd: str) -> Iterator[None]:
    """Let MLflow put the files of a database beside it where it cannot name the working directory, or the program has left it.

    Args:
        cwd: as of `tracking_uri`.
    """
    here = second_name() if cwd == working_directory() else cwd
    if here is None:
        yield
        return
    # What `mlflow server` says to its workers.
    with variables({"_MLFLOW_SERVER_ARTIFACT_ROOT": os.path.join(here, "mlruns")}, unless_set=True):
        yield


@contextlib.contextmanager
def readable_errors(uri: str) -> Iterator[None]:
    """Take two things out of errors: ``user:password@`` of the tracking URI, since MLflow quotes the whole URL in its messages;
    and SQLAlchemy's advice to MLflow's authors, which stands where one looks for what the database has said."""
    secret = urlsplit(uri).netloc.rpartition("@")[0]
    try:
        yield
    except Exception as error:
        said = _ADVICE.sub("", str(error))
        if secret and secret in said:
            said = said.replace(secret, "***")
            error.__cause__ = error.__context__ = None
        if said != str(error):
            error.args = (said,)
            if hasattr(error, "message"):
                error.message = said
        raise
