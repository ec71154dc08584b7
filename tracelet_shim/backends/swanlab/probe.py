"""What can be known of its surroundings without the SDK."""

from __future__ import annotations

import sys

from tracelet_shim.backends.shared.probe import Probe

__all__ = ["PROBE", "own_hook"]

_OFFLINE = "(?!online|cloud).+"

PROBE = Probe(
    server=("api_host", "SWANLAB_API_HOST"),
    default="https://api.swanlab.cn",
    credentials=("SWANLAB_API_KEY",),
    files=("~/.swanlab/.netrc",),
    offline=(("mode", _OFFLINE), ("SWANLAB_MODE", _OFFLINE)),
    dotenv="SWANLAB_",
)


def own_hook() -> str | None:
    """See `Backend.own_hook`."""
    writer = getattr(sys.modules.get("torch.utils.tensorboard.writer"), "SummaryWriter", None)
    method = getattr(writer, "add_text", None)
    if not str(getattr(method, "__module__", "")).startswith("swanlab"):
        return None
    return "its sync_tensorboard_torch() is on; leave that call out (it also ends the run when a writer is closed)"
