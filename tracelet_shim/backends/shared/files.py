"""Files of a tracker that keeps a run as a directory: each is replaced in one step; ``run.json`` says what the tracker has no
place for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tracelet_shim.backends.run_info import RunInfo
from tracelet_shim.common.text import as_utf8

__all__ = ["RUN_FILE", "about_run", "copy", "copy_into", "give_back", "load", "replace"]

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


def give_back(
    name: str, own: str | None, folder: str, rule: Callable[[str], str], directory: str
) -> tuple[str, str] | None:
    """Copy an artifact out of a run's directory; return the copy, and the name by which it is found in any run.

    Args:
        name: what is asked for: the name of one, or that with the directory of its run in front.
        own: the directory of the run that an artifact without one is of; None if there is none.
        folder: where artifacts lie in it.
        rule: for their names.
        directory: takes the copy.
    """
    for top, within in _places(name, own):
        copied = copy_into(directory, os.path.join(top, folder, rule(within)))
        if copied is not None:
            return copied, f"{top}/{within}"
    return None


def copy_into(directory: str, source: str) -> str | None:
    """Copy a file or a directory into another one; return the copy, or None if there is nothing to copy."""
    target = os.path.join(directory, os.path.basename(source))
    if os.path.isdir(source):
        return shutil.copytree(source, target)
    return shutil.copyfile(source, target) if os.path.isfile(source) else None


def _places(name: str, own: str | None) -> Iterator[tuple[str, str]]:
    """Yield (directory of a run, name of an artifact there) that a name can mean."""
    if own is not None:
        yield own, name
    top, within = os.path.split(os.path.abspath(name))
    while within and top != os.path.dirname(top):
        if os.path.isfile(os.path.join(top, RUN_FILE)):
            yield top, within
            return
        top, folder = os.path.split(top)
        within = f"{folder}/{within}"
