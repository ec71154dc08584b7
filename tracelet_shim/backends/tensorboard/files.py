"""Files beside the event files, each replaced in one step."""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["EXTRA_FILES", "RUN_FILE", "load", "replace"]

RUN_FILE = "run.json"
EXTRA_FILES = "tracelet-files"


def load(directory: str) -> dict[str, Any]:
    """Return the run.json of a directory, empty if there is none."""
    try:
        with open(os.path.join(directory, RUN_FILE), encoding="utf-8") as file:
            about = json.load(file)
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def replace(path: str, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)
