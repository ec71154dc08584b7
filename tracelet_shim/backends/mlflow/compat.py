"""What differs between MLflow 2.10 and 3.18 in the client that is installed. What differs on servers is in `sending`.

A client has a feature or not; a number says only what it needs beside it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tracelet_shim.backends.shared.versions import Need, Versions

__all__ = [
    "SERVERS", "VERSIONS", "artifacts_at", "context_tags", "let_go", "logged_models", "missing_for_databases", "outputs_of",
    "takes_colons", "version_of", "was_made_by_newer",
]  # fmt: skip

VERSIONS = Versions("2.10.0", "3.17.2", (Need("<2.16", "setuptools", "<81", "it imports pkg_resources"),))

SERVERS = ("postgresql", "mysql", "mssql")
"""Databases that are servers, as the URI of a store names them."""
_DATABASES = Versions(needs=(Need("<3.9", "sqlalchemy", "<2.1", "it imports a pool that 2.1 has not"),))
"""What is needed only where the store is a database."""

def missing_for_databases(uri: str) -> tuple[str, str] | None:
    """Return what keeps the installed MLflow from using a store that is a database, and what to do; None for any other store."""
    if uri.partition(":")[0].partition("+")[0] not in ("sqlite", *SERVERS):
        return None
    return _DATABASES.problem("mlflow", metadata.version("mlflow"))


def context_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return `tags`, and what MLflow adds to those of a run: the user, a job, a notebook; not the commit of the program that this
    process runs, which is the relay's. Before 2.16 no provider can be left out, so that is taken away again.
    """
    from mlflow.tracking.context.git_context import GitRunContext
    from mlflow.tracking.context.registry import resolve_tags
    from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

    given = dict(tags)
    if "ignore" in inspect.signature(resolve_tags).parameters:
        return {key: str(value) for key, value in resolve_tags(given, ignore=[GitRunContext]).items()}
    found = {key: str(value) for key, value in resolve_tags(given).items()}
    return {key: value for key, value in found.items() if key != MLFLOW_GIT_COMMIT or key in given}


def let_go(uri: str) -> None:
    """Close the connections to a database that MLflow keeps for a later use, under one name to 3.1, and under another since."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("_engine_map", "_db_uri_sql_alchemy_engine_map"):
        kept = getattr(SqlAlchemyStore, name, None)
        engine = kept.pop(uri, None) if isinstance(kept, dict) else None
        if engine is not None:
            engine.dispose()


def was_made_by_newer(revision: str) -> bool:
    """Return whether a database has a revision that the installed MLflow does not know; without its migrations it cannot tell."""
    from mlflow.store import db_migrations

    (folder,) = db_migrations.__path__
    known = [file.name for file in Path(folder, "versions").glob("*.py")]
    return bool(known) and not any(name.startswith(f"{revision}_") for name in known)


def logged_models(client: Any) -> Any:
    """Return the module `mlflow.entities` if it, and the client, know logged models, which are of MLflow 3; else None."""
    from mlflow import entities

    has = hasattr(entities, "LoggedModelOutput") and hasattr(client, "create_logged_model") and hasattr(client, "log_outputs")
    return entities if has else None


def outputs_of(run: Any) -> list[str]:
    """Return the ids of the logged models that are outputs of a run."""
    outputs = getattr(run, "outputs", None)
    return [str(output.model_id) for output in (outputs.model_outputs if outputs else ())]


def version_of(client: Any, uri: str) -> list[str]:
    """Return what a ``models:/`` URI names now: the name and the version of a registered model, or the id of a logged one."""
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    return [str(part) for part in get_model_name_and_version(client, uri)]


def takes_colons() -> bool:
    """Return whether stores of this machine take a colon in the name of a metric."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils import validation

    try:
        validation._validate_metric_name("a:b")
    except AttributeError:  # it is younger than all that was seen, and these take it
        return True
    except MlflowException:
        return False
    return True


def artifacts_at(uri: str, tracking_uri: str) -> Any:
    """Return the place of files that a server keeps itself, by its own address; None for any other place."""
    if not uri.startswith("mlflow-artifacts:"):
        return None
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    return get_artifact_repository(MlflowArtifactsRepository.resolve_uri(uri, tracking_uri))
