"""The environment in which tests and benchmarks run: nothing of the developer's, no network, no telemetry."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["foreign_variables", "isolated_environment"]

_FOREIGN = (
    *("TRACELET_", "MLFLOW_", "WANDB_", "AIM_", "CLEARML_", "TRAINS_", "COMET_", "DVC", "SWANLAB_", "TRACKIO_", "HF_"),
    *("GITHUB_", "GITLAB_", "CI_", "JENKINS_", "BUILDKITE", "CIRCLE", "BUILD_", "SYSTEM_", "AGENT_", "CHANGE_"),
    *("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_", "OTEL_", "GIT_", "XDG_", "PYTHONWARNINGS", "DATABRICKS_"),
)
_ALSO_FOREIGN = frozenset(
    {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    | {"TF_BUILD", "BRANCH_NAME", "TAG_NAME"}
    | {"CI", "FORCE_COLOR", "CLICOLOR_FORCE"}  # change what tools print and what SDKs switch off
)


def foreign_variables() -> list[str]:
    """Return the names of the variables, now in the environment, that steer a tracker, a launcher or us."""
    return [name for name in os.environ if name.startswith(_FOREIGN) or name in _ALSO_FOREIGN]


def isolated_environment(home: Path) -> dict[str, str]:
    """Return the variables that keep every tracker within `home`, silent, offline and without telemetry."""
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_STATE_HOME": str(home / "state"),
        "DO_NOT_TRACK": "true",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "COLUMNS": "120",
        "MPLBACKEND": "Agg",
        # -- MLflow: no telemetry; a server that is gone fails in seconds, not minutes
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # -- W&B
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DATA_DIR": str(home / "wandb-data"),
        "WANDB_CACHE_DIR": str(home / "wandb-cache"),
        "WANDB_CONFIG_DIR": str(home / "wandb-config"),
        # -- Aim
        "AIM_UI_TELEMETRY_ENABLED": "0",
        # -- ClearML; a settings file that does not exist hides the user's
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CACHE_DIR": str(home / "clearml"),
        "CLEARML_CONFIG_FILE": str(home / "no-clearml.conf"),
        "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1",
        # -- Comet
        "COMET_CONFIG": str(home / "no-comet.config"),
        "COMET_OFFLINE_DIRECTORY": str(home / "comet"),
        "COMET_START_ONLINE": "false",
        "COMET_ERROR_TRACKING_ENABLE": "false",
        "COMET_LOGGING_CONSOLE": "ERROR",
        # -- DVCLive
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-cache"),
        # -- SwanLab, Trackio and the hub under it
        "SWANLAB_MODE": "offline",
        "TRACKIO_DIR": str(home / "trackio"),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        # -- git, which trackers ask for the state of the code
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.invalid",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.invalid",
    }
