"""What can be known of its surroundings without the SDK."""

from __future__ import annotations

import sys
from typing import Any

from tracelet_shim.backends.shared.probe import ON, Probe, Switch

__all__ = ["PROBE", "own_hook"]

_SETTINGS = ("~/.config/wandb/settings", "wandb/settings")
_OFFLINE = "offline|disabled|dryrun"

PROBE = Probe(
    server=("base_url", "WANDB_BASE_URL"),
    default="https://api.wandb.ai",
    stored=(_SETTINGS, r"(?m)^\s*base_url\s*=\s*(\S+)"),
    credentials=("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"),
    files=("~/.netrc", "~/_netrc"),
    hooks=(Switch("WANDB_SYNC_TENSORBOARD", ON, "unset WANDB_SYNC_TENSORBOARD"),),
    hook_files=(_SETTINGS, r"(?im)^\s*(sync_tensorboard)\s*=\s*(1|true)"),
    offline=(("mode", _OFFLINE), ("WANDB_MODE", _OFFLINE)),
)


def own_hook() -> str | None:
    """See `Backend.own_hook`."""
    patched: Any = getattr(sys.modules.get("wandb"), "patched", {})
    if not patched.get("tensorboard"):
        return None
    return "its sync_tensorboard is on; leave sync_tensorboard=True out of wandb.init, or call wandb.tensorboard.unpatch()"
