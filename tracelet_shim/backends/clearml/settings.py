"""What the user and the environment say, without the SDK."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.shared.options import switched

__all__ = ["ENVIRONMENT", "environment_variable", "has_credentials", "is_offline"]

ENVIRONMENT = {
    "api_host": "CLEARML_API_HOST", "web_host": "CLEARML_WEB_HOST", "files_host": "CLEARML_FILES_HOST",
    "config_file": "CLEARML_CONFIG_FILE", "cache_dir": "CLEARML_CACHE_DIR",
}  # fmt: skip
"""Options that the SDK takes from variables only."""


def environment_variable(name: str) -> str | None:
    """Return the SDK's environment variable, under its present or its old name."""
    return os.environ.get(f"CLEARML_{name}") or os.environ.get(f"TRAINS_{name}")


def is_offline(options: Mapping[str, Any]) -> bool:
    """Whether an option or the environment keeps the tracker away from its server.

    Args:
        options: parsed.
    """
    if "offline" in options:
        return bool(options["offline"])
    said = environment_variable("OFFLINE_MODE")
    return bool(said) and switched(said) is not False  # any other text is true for `safe_text_to_bool` of the SDK


def has_credentials(options: Mapping[str, Any]) -> bool:
    """Whether there are keys, a token, or a configuration file that may have them."""
    if environment_variable("AUTH_TOKEN"):
        return True
    if all(options.get(f"{key}_key") or environment_variable(f"API_{key.upper()}_KEY") for key in ("access", "secret")):
        return True
    chosen = options.get("config_file") or environment_variable("CONFIG_FILE")
    candidates = [chosen] if chosen else ["~/clearml.conf", "~/trains.conf"]
    return any(os.path.isfile(os.path.expanduser(os.path.expandvars(str(path)))) for path in candidates)
