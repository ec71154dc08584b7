"""The variables that steer ClearML, and those that keep it silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN = ("CLEARML_", "TRAINS_")


def isolated(home: Path) -> dict[str, str]:
    """A settings file that does not exist hides the user's."""
    return {
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CACHE_DIR": str(home / "clearml"),
        "CLEARML_CONFIG_FILE": str(home / "no-clearml.conf"),
        "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1",
    }
