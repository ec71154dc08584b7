"""The variables that steer TensorBoard, and those that keep it silent, offline and within a directory."""

from __future__ import annotations

from pathlib import Path

FOREIGN: tuple[str, ...] = ()


def isolated(home: Path) -> dict[str, str]:
    return {}
