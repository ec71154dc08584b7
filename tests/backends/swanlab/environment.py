"""The variables that steer SwanLab, and those that keep it silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN = ("SWANLAB_",)


def isolated(home: Path) -> dict[str, str]:
    return {"SWANLAB_MODE": "offline"}
