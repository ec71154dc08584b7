"""The variables that steer Aim, and those that keep it silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN = ("AIM_",)


def isolated(home: Path) -> dict[str, str]:
    return {"AIM_UI_TELEMETRY_ENABLED": "0"}
