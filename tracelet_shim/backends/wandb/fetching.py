"""Artifacts that W&B's server gives back: ``[[entity/]project/]name[:v3 or alias]``, and of a registry
``[organization/]wandb-registry-<name>/<collection>[:v3 or alias]``; the latest where no version is named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.wandb import limits
from tracelet_shim.backends.wandb.process import restart_service, undisturbed, unread_settings
from tracelet_shim.backends.wandb.settings import is_offline
from tracelet_shim.common.inside import is_inside

__all__ = ["cannot_fetch", "fetch"]

_PATH = re.compile(r"(?:[^/:]+/){0,2}[\w.\-]+(?::[^/:]+)?")
_FORM = "an artifact is found as [[ENTITY/]PROJECT/]NAME[:v3 or ALIAS]"
_SECONDS = 30


def cannot_fetch(options: Mapping[str, Any], run: RunInfo) -> str | None:
    """As `Backend.cannot_fetch`."""
    return "W&B gives no artifact back offline" if is_offline(options, offline=run.offline) else None


def fetch(options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
    """As `Backend.fetch`."""
    import wandb

    here = run.program.pid == os.getpid()
    if not here:
        os.environ.pop("WANDB_SERVICE", None)  # the training process's
    given = {"entity": options.get("entity"), "base_url": options.get("base_url")}
    given["project"] = limits.project(run.project) if run.project else None
    try:
        with undisturbed(), unread_settings(), variables({"WANDB_SILENT": "true"}):
            api = wandb.Api({key: value for key, value in given.items() if value}, timeout=_SECONDS)
            artifact = _find(api, name, given["project"])
            collection = artifact.name.partition(":")[0]
            identity = f"{artifact.entity}/{artifact.project}/{collection}:{artifact.version}"
            place = artifact.download(os.path.join(directory, collection), skip_cache=True)
            about = (artifact.metadata or {}).get("tracelet") or {}
            whole = {path: str((about.get("files") or {}).get(path, path)) for path in artifact.manifest.entries}
    finally:
        if not here:
            restart_service()
    for path, true in whole.items():
        if path != true and is_inside(os.path.join(place, true), place):
            os.renames(os.path.join(place, path), os.path.join(place, true))
    if list(whole.values()) == [about.get("name", name)]:  # a file
        place = os.path.join(place, *whole.values())
    return Fetched(place, identity)


def _find(api: Any, name: str, project: str | None) -> Any:
    from wandb.errors import CommError

    for path in _meant(name):
        try:
            return api.artifact(path)
        except (CommError, ValueError) as error:
            if "not found" not in str(error):
                raise
    where = f" in the project {project!r}" if project else ""
    raise NoSuchArtifactError(f"there is no artifact {name!r}{where}; {_FORM}")


def _meant(name: str) -> Iterator[str]:
    """Yield what a name can mean: what an artifact was logged by, and W&B's own path."""
    logged = f"{limits.artifact(name)}:latest"
    yield logged
    if _PATH.fullmatch(name):
        path = name if ":" in name else f"{name}:latest"
        if path != logged:
            yield path
