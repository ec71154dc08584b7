"""Files of a tracker that keeps a run as a directory: each is replaced in one step; ``run.json`` says what the tracker has no
place for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.run_info import RunInfo
from tracelet_shim.common.text import as_utf8

__all__ = ["RUN_FILE", "about_run", "copy", "load", "replace"]

RUN_FILE = "run.json"


def about_run(run: RunInfo, before: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Return what run.json says of a run that begins, or goes on.

    Args:
        run: the call's.
        before: what it says already, of a run that is continued: what is not given anew stays.
        given: what this tracker says besides; None for what was not given.
    """
    given |= {
        "exp_name": run.exp_name, "project": run.project, "run_id": run.run_id, "group": run.group,
        "tags": run.tags or None, "notes": run.notes, "config": run.config or None,
    }  # fmt: skip
    return {
        **before,
        **{key: value for key, value in given.items() if value is not None or key not in before},
        "status": "running",
        "sessions": [*(s for s in before.get("sessions", []) if s != run.session), run.session],
        "logdir": run.root and as_utf8(run.root),
        "program": run.program.readable().script or run.program.module,
        "started": before.get("started", run.started),
        "ended": None,
    }


def load(directory: str, name: str = RUN_FILE) -> dict[str, Any]:
    """Return a JSON file of ours; empty if there is none, or half of one."""
    try:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def copy(file: str, path: str) -> None:
    """As `replace`, with the content of another file, which is not read into memory."""
    temporary = f"{path}.{os.getpid()}.tmp"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copyfile(file, temporary)
    os.replace(temporary, path)


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, and the directory that it is in, so that a reader sees the old content or the new, never half of it."""
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)
