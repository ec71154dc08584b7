"""TensorBoard code unchanged, data in every tracker.

    import tracelet_shim as tracelet
    tracelet.start_logging(backend=["mlflow", "wandb"], project="p", exp_name="e")

Importing this package imports neither torch nor any tracker; what is public is loaded when it is first used.
"""

from __future__ import annotations

import os as _os
import time as _time

TYPE_CHECKING = False  # `typing` takes longer to import than all that happens before the first use
if TYPE_CHECKING:
    from typing import Any

    from tracelet_shim.backends.base import Backend, Capability, Level
    from tracelet_shim.errors import (
        ArtifactError,
        BackendError,
        BackendUnavailableError,
        ConfigurationError,
        DeliveryError,
        EventRejectedError,
        InvalidBackendError,
        StateError,
        TraceletError,
        UnknownBackendError,
    )
    from tracelet_shim.handle.nothing import NoSession
    from tracelet_shim.session.api import get_session, start_logging, stop_logging
    from tracelet_shim.session.session import Session

__all__ = [
    "ArtifactError",
    "Backend",
    "BackendError",
    "BackendUnavailableError",
    "Capability",
    "ConfigurationError",
    "DeliveryError",
    "EventRejectedError",
    "InvalidBackendError",
    "Level",
    "NoSession",
    "Session",
    "StateError",
    "TraceletError",
    "UnknownBackendError",
    "__version__",
    "get_session",
    "start_logging",
    "stop_logging",
]

try:
    _began_at: str | None = _os.getcwd()
except OSError:  # it was deleted
    _began_at = None
_began_when = _time.time()

_HOMES = {
    "get_session": "session.api",
    "start_logging": "session.api",
    "stop_logging": "session.api",
    "Session": "session.session",
    "NoSession": "handle.nothing",
    "Backend": "backends.base",
    "Capability": "backends.base",
    "Level": "backends.base",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tracelet-shim")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


if "TRACELET_AUTOLOG" in _os.environ:
    from tracelet_shim._bootstrap import watch_arguments

    watch_arguments()


def __dir__() -> list[str]:
    return sorted(__all__)
