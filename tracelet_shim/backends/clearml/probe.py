"""What can be known of its surroundings without the SDK."""

from __future__ import annotations

import sys

from tracelet_shim.backends.shared.probe import ON, Probe, Switch

__all__ = ["PROBE", "own_hook"]

_CONFIGURATION = ("$CLEARML_CONFIG_FILE", "~/clearml.conf")

PROBE = Probe(
    server=("api_host", "CLEARML_API_HOST"),
    default="https://api.clear.ml",
    stored=(_CONFIGURATION, r"""(?m)^[^#\n]*\bapi_server\s*[:=]\s*["']?([^"'\s#]+)"""),
    credentials=("CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY", "CLEARML_AUTH_TOKEN"),
    files=_CONFIGURATION,
    hooks=(Switch("CLEARML_TASK_ID", ".+", "give the script's Task.init auto_connect_frameworks={'tensorboard': False}"),),
    offline=(("offline", ON), ("CLEARML_OFFLINE_MODE", ON)),
)


def own_hook() -> str | None:
    """See `Backend.own_hook`."""
    bind = sys.modules.get("clearml.binding.frameworks.tensorflow_bind")
    writer = sys.modules.get("torch.utils.tensorboard.writer")
    if bind is None or not hasattr(getattr(writer, "FileWriter", None), "clearml"):
        return None
    return "its TensorBoard binding is on; use Task.init(..., auto_connect_frameworks={'tensorboard': False})"
