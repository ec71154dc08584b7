"""What can be known of its surroundings without the SDK."""

from __future__ import annotations

import sys

from tracelet_shim.backends.shared.probe import Probe, Switch

__all__ = ["PROBE", "own_hook"]

PROBE = Probe(
    server=("tracking_uri", "MLFLOW_TRACKING_URI"),
    credentials=("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    files=("~/.mlflow/credentials",),
    hooks=(Switch("DATABRICKS_RUNTIME_VERSION", ".+", "Databricks switches autologging on; mlflow.autolog(disable=True)"),),
)


def own_hook() -> str | None:
    """See `Backend.own_hook`."""
    utils = sys.modules.get("mlflow.utils.autologging_utils")
    if utils is None or "mlflow.pytorch" not in sys.modules or utils.autologging_is_disabled("pytorch"):
        return None
    return "mlflow.pytorch.autolog is on and logs SummaryWriter's scalars; use mlflow.pytorch.autolog(disable=True)"
