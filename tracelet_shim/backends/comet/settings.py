"""What the user and the environment say, without the SDK."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.shared.options import switched

__all__ = ["is_offline", "setting"]


def setting(name: str) -> str | None:
    """Return a setting from where the SDK takes it: the environment, then files (`comet_ml/config/config_class.py`)."""
    value = os.environ.get(f"COMET_{name.upper()}")
    if value:
        return value
    chosen = os.environ.get("COMET_INI") or os.environ.get("COMET_CONFIG") or ""
    if os.path.isdir(os.path.expanduser(chosen)):
        chosen = os.path.join(chosen, ".comet.config")
    for path in (".env", chosen, ".comet.config", "~/.comet.config"):
        try:
            with open(os.path.expanduser(path), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        found = re.search(rf"(?im)^[ \t]*(?:comet_)?{name}[ \t]*=[ \t]*[\"']?([^\"'\r\n#]+)", text)
        if found and found.group(1).strip():
            return found.group(1).strip()
    return None


def is_offline(options: Mapping[str, Any], *, default: bool) -> bool:
    """Whether archives are written.

    Args:
        options: parsed.
        default: the session's offline setting.
    """
    if "offline" in options:
        return bool(options["offline"])
    return default or switched(setting("start_online")) is False
