"""The trackers' own TensorBoard hooks: with one of them on, a tracker gets everything twice.

Looked for in modules that the program has imported; nothing is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["active_hook"]


def active_hook(backend: str) -> str | None:
    """Return how to switch off this tracker's own TensorBoard hook, or None if it is not on in this process."""
    check = _CHECKS.get(backend)
    return check() if check is not None else None


def _wandb() -> str | None:
    patched: Any = getattr(sys.modules.get("wandb"), "patched", {})
    if not patched.get("tensorboard"):
        return None
    return "its sync_tensorboard is on; leave sync_tensorboard=True out of wandb.init, or call wandb.tensorboard.unpatch()"


def _mlflow() -> str | None:
    utils = sys.modules.get("mlflow.utils.autologging_utils")
    if utils is None or "mlflow.pytorch" not in sys.modules or utils.autologging_is_disabled("pytorch"):
        return None
    return "mlflow.pytorch.autolog is on and logs SummaryWriter's scalars; use mlflow.pytorch.autolog(disable=True)"


def _clearml() -> str | None:
    bind = sys.modules.get("clearml.binding.frameworks.tensorflow_bind")
    writer = sys.modules.get("torch.utils.tensorboard.writer")
    if bind is None or not hasattr(getattr(writer, "FileWriter", None), "clearml"):
        return None
    return "its TensorBoard binding is on; use Task.init(..., auto_connect_frameworks={'tensorboard': False})"


def _comet() -> str | None:
    comet = sys.modules.get("comet_ml")
    experiment = comet.get_global_experiment() if comet is not None and hasattr(comet, "get_global_experiment") else None
    if experiment is None or not getattr(experiment, "auto_metric_logging", False):
        return None
    return "its auto-logging is on; use auto_metric_logging=False, or COMET_DISABLE_AUTO_LOGGING=1"


def _swanlab() -> str | None:
    writer = getattr(sys.modules.get("torch.utils.tensorboard.writer"), "SummaryWriter", None)
    method = getattr(writer, "add_text", None)
    if not str(getattr(method, "__module__", "")).startswith("swanlab"):
        return None
    return "its sync_tensorboard_torch() is on; leave that call out (it also ends the run when a writer is closed)"


_CHECKS: dict[str, Callable[[], str | None]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "clearml": _clearml,
    "comet": _comet,
    "swanlab": _swanlab,
}
