"""The variables that steer MLflow, and those that keep it silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN = ("MLFLOW_", "DATABRICKS_")


def isolated(home: Path) -> dict[str, str]:
    """No telemetry; and a server that is gone fails in seconds, not minutes."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
