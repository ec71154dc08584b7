"""Artifacts that Aim gives back: of the session's own run by their name, of any by ``HASH/NAME``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tracelet_shim.backends.aim.repository import find
from tracelet_shim.backends.aim.versions import artifacts_uri
from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.backends.shared.files import copy_into
from tracelet_shim.backends.shared.names import file_names

__all__ = ["fetch"]

_OF_A_RUN = re.compile(r"([0-9a-f]{24})/(.+)", re.DOTALL)
_FORM = "one of another run is found as RUN_HASH/NAME"


def fetch(options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
    """As `Backend.fetch`."""
    where = find(run.program.cwd, str(options.get("repo") or ""))
    if "://" not in where and not os.path.isdir(os.path.join(where, ".aim")):  # `Repo` would make it
        raise NoSuchArtifactError(f"there is no repository in {where}")
    from aim import Repo

    repo = Repo(where)
    asked = [(run.resume, name)] if run.resume is not None else []
    if found := _OF_A_RUN.fullmatch(name):
        asked.append((found[1], found[2]))
    for run_hash, within in asked:
        native = repo.get_run(run_hash)
        if native is None:
            continue
        path = _get(native, f"artifacts/{file_names()(within)}", directory)
        if path is not None:
            return Fetched(path, f"{run_hash}/{within}")
    of_runs = " or ".join(f"run {run_hash}" for run_hash, _ in asked) or "this session"
    raise NoSuchArtifactError(f"{of_runs} has no artifact {name!r}; {_FORM}")


def _get(native: Any, wanted: str, directory: str) -> str | None:
    """Get an artifact of a run. Readers of a run that goes on see an older state of it, so files of this machine
    are looked for where they lie."""
    place = urlsplit(artifacts_uri(native) or "")
    if place.scheme == "file":
        return copy_into(directory, os.path.join(place.path, wanted))
    return _download(dict(native.artifacts), wanted, directory)


def _download(artifacts: Mapping[str, Any], wanted: str, directory: str) -> str | None:
    """Download the files that make up an artifact: the one of its name, or those below that."""
    place = os.path.join(directory, wanted.rpartition("/")[2])
    below = f"{wanted}/"
    done = False
    for key, artifact in artifacts.items():
        if key == wanted:
            artifact.download(directory)
            return place
        parts = key.removeprefix(below).split("/")
        if key.startswith(below) and ".." not in parts:
            artifact.download(os.path.join(place, *parts[:-1]))
            done = True
    return place if done else None
