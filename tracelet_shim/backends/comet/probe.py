"""What can be known of its surroundings without the SDK."""

from __future__ import annotations

import sys

from tracelet_shim.backends.shared.probe import OFF, ON, Probe, Switch

__all__ = ["PROBE", "own_hook"]

_CONFIGURATION = ("$COMET_CONFIG", ".comet.config", "~/.comet.config")

PROBE = Probe(
    server=("COMET_URL_OVERRIDE",),
    default="https://www.comet.com",
    stored=((".env", *_CONFIGURATION), r"""(?im)^\s*(?:comet_)?url_override\s*=\s*["']?([^"'\s]+)"""),
    credentials=("COMET_API_KEY",),
    files=_CONFIGURATION,
    hooks=(Switch("COMET_AUTO_LOG_METRICS", ON, "unset COMET_AUTO_LOG_METRICS"),),
    offline=(("offline", ON), ("COMET_START_ONLINE", OFF)),
    dotenv="COMET_",
    import_hook="comet_ml.monkey_patching.CometModuleFinder",
)


def own_hook() -> str | None:
    """See `Backend.own_hook`."""
    comet = sys.modules.get("comet_ml")
    experiment = comet.get_global_experiment() if comet is not None and hasattr(comet, "get_global_experiment") else None
    if experiment is None or not getattr(experiment, "auto_metric_logging", False):
        return None
    return "its auto-logging is on; use auto_metric_logging=False, or COMET_DISABLE_AUTO_LOGGING=1"
