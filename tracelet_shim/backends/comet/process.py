"""Keeping the SDK off the user's process, and off our experiments.

One experiment a process. Creating a second one ends the first, because the SDK looks at a global (`comet_ml.config`).
Ours are kept out of that global: trials of a sweep live beside the run, a user's own experiment is not ended by ours,
and neither the SDK's exception hook nor its automatic loggers touch ours.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from tracelet_shim.backends.shared.environment import variables

__all__ = ["OFF", "active", "discreet", "import_sdk", "sdk_alone", "sdk_settings"]

OFF: dict[str, Any] = {
    "log_code": False, "log_graph": False, "auto_param_logging": False, "auto_metric_logging": False,
    "parse_args": False, "auto_output_logging": False, "log_env_details": False, "log_env_gpu": False,
    "log_env_cpu": False, "log_env_host": False, "log_env_network": False, "log_env_disk": False,
    "log_git_metadata": False, "log_git_patch": False, "auto_log_co2": False, "display_summary_level": 0,
}  # fmt: skip
"""All that the SDK would log by itself: it would be about the relay, or a second time."""
_ENVIRONMENT = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # no import hooks on torch, TensorBoard, ...
    "COMET_ERROR_TRACKING_ENABLE": "false",  # Sentry
    "COMET_LOGGING_CONSOLE": "ERROR",
    # Instead of half a minute of retries, one or three hours at the end: the relay has retries of its own.
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_CONNECT": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_READ": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_STATUS": "1",
    "COMET_HTTP_SESSION_RETRY_TOTAL": "0",  # a request that is sent again blindly may have arrived
    "COMET_TIMEOUT_HTTP": "20",
    "COMET_TIMEOUT_CLEANING": "60",
    "COMET_TIMEOUT_UPLOAD": "120",
    "COMET_TIMEOUT_FILE_UPLOAD": "60",
}
"""Variables of the SDK that the user has not set: it reads them when it is imported, and when it makes an experiment."""

_hidden: list[Any] = []
"""The user's experiment, or None, while it is hidden: another thread may ask for it then."""


def active() -> Any:
    """Return the experiment that the user has active in this process, or None."""
    running = getattr(sys.modules.get("comet_ml.config"), "get_running_experiment", None)
    hidden = list(_hidden)
    experiment = hidden[0] if hidden else running() if running is not None else None
    return experiment if experiment is not None and experiment.alive and not experiment.ended else None


def import_sdk(*, of_training: bool) -> None:
    """Import the SDK, and leave the process as it was.

    Args:
        of_training: the process is the training's: its terminal is not for the traceback of a failed heartbeat. What becomes of
            events is raised, and told by us.
    """
    if "comet_ml" in sys.modules:
        return
    hook = sys.excepthook
    with variables({**_ENVIRONMENT, **({"COMET_LOGGING_CONSOLE": "CRITICAL"} if of_training else {})}, unless_set=True):
        import comet_ml  # noqa: F401
    sys.excepthook = hook


def sdk_settings() -> contextlib.AbstractContextManager[None]:
    """Set what of the SDK's variables the user has not set."""
    return variables(_ENVIRONMENT, unless_set=True)


@contextlib.contextmanager
def sdk_alone() -> Iterator[None]:
    """Hide the process's experiment from the SDK while another one is made, and that one afterwards."""
    from comet_ml.config import get_global_experiment, set_global_experiment

    before = get_global_experiment()
    _hidden.append(before)
    set_global_experiment(None)
    try:
        with sdk_settings():
            yield
    finally:
        set_global_experiment(before)
        _hidden.remove(before)


class _Discreet(logging.Filter):
    """Strikes a secret out of what the SDK logs, and notes the errors that it logs instead of raising them."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret
        self.errors: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self.errors.append(error)
            if self._secret and self._secret in f"{error!r}{error}":
                record.exc_info = record.exc_text = None
        text = record.getMessage()
        if self._secret and self._secret in text:
            record.msg, record.args = text.replace(self._secret, "***"), ()
        return True


@contextlib.contextmanager
def discreet(secret: str) -> Iterator[list[BaseException]]:
    """Keep a secret out of the SDK's log: before 3.50, it writes a key there that the server does not know.

    Args:
        secret: the API key.

    Yields:
        The errors that it logs meanwhile.
    """
    noting = _Discreet(secret)
    handlers = list(logging.getLogger("comet_ml").handlers)
    for handler in handlers:
        handler.addFilter(noting)
    try:
        yield noting.errors
    finally:
        for handler in handlers:
            handler.removeFilter(noting)
