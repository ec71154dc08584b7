"""The variables that steer Comet, and those that keep it silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN = ("COMET_",)


def isolated(home: Path) -> dict[str, str]:
    return {
        "COMET_CONFIG": str(home / "no-comet.config"),
        "COMET_OFFLINE_DIRECTORY": str(home / "comet"),
        "COMET_START_ONLINE": "false",
        "COMET_ERROR_TRACKING_ENABLE": "false",
        "COMET_LOGGING_CONSOLE": "ERROR",
    }
