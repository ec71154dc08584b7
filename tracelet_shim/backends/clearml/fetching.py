"""Artifacts that a ClearML server gives back: of the session's own task by their name, of any by ``TASK_ID/NAME``; and models, by
``model:NAME``, ``model:NAME@TAG`` (the latest one of that) or ``model:MODEL_ID``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.backends.clearml import session
from tracelet_shim.backends.clearml.names import TaskNames
from tracelet_shim.backends.clearml.session import send_once
from tracelet_shim.backends.clearml.settings import ENVIRONMENT, is_offline
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.shared.names import file_names, unescape
from tracelet_shim.common.inside import is_inside

__all__ = ["MODEL", "cannot_fetch", "fetch"]

MODEL = "model:"
_OF_A_TASK = re.compile(r"([0-9a-f]{32})/(.+)", re.DOTALL)
_ID = re.compile(r"[0-9a-f]{32}")
_FORM = f"TASK_ID/NAME is found of any task, and {MODEL}NAME, {MODEL}NAME@TAG or {MODEL}MODEL_ID"


def cannot_fetch(options: Mapping[str, Any], run: RunInfo) -> str | None:
    """As `Backend.cannot_fetch`."""
    if run.offline or is_offline(options):
        return "an offline session of ClearML gives nothing back before it is imported"
    return None


def fetch(options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
    """As `Backend.fetch`."""
    given = {variable: str(options[option]) for option, variable in ENVIRONMENT.items() if options.get(option)}
    with contextlib.ExitStack() as undo:
        undo.enter_context(variables(given))
        session.connect(options, offline=False, undo=undo.callback)
        from clearml.backend_interface.base import InterfaceBase

        requests = session.bounded_like(InterfaceBase._get_default_session())
        if name.startswith(MODEL):
            return _model(requests, _wanted(name), name, directory)
        asked = [(run.resume, name)] if run.resume is not None else []
        if found := _OF_A_TASK.fullmatch(name):
            asked.append((found[1], found[2]))
        for task, within in asked:
            got = _of_a_task(requests, task, within, directory)
            if got is not None:
                return got
    tasks = " or ".join(f"task {task}" for task, _ in asked) or "this session"
    raise NoSuchArtifactError(f"{tasks} has no artifact {name!r}; {_FORM}")


def _of_a_task(requests: Any, task: str, name: str, directory: str) -> Fetched | None:
    """Get an artifact of a task, the files of one, or a model of its own that is called like that."""
    from clearml.backend_api.services import tasks

    found = _ask(requests, tasks.GetAllRequest(id=[task])).get("tasks") or ()
    if not found:
        return None
    key = file_names()(name)
    stored = {each["key"]: each["uri"] for each in (found[0].get("execution") or {}).get("artifacts") or ()}
    for wanted in (name, key):  # what another program has logged is called as it said
        inside = {stored_as: uri for stored_as, uri in stored.items() if stored_as.startswith(f"{wanted}/")}
        if wanted in stored:
            place = _copy(stored[wanted], directory, os.path.basename(wanted))
            return Fetched(place, f"{task}/{name}")
        if inside:
            for stored_as, uri in inside.items():
                _copy(uri, directory, f"{wanted}/{_logged_as(stored_as.removeprefix(f'{wanted}/'))}")
            return Fetched(os.path.join(directory, wanted), f"{task}/{name}")
    models = [each for each in (found[0].get("models") or {}).get("output") or () if each["name"] == TaskNames().task(name)]
    return _model(requests, {"id": [models[-1]["model"]]}, name, directory) if models else None


def _logged_as(path: str) -> str:
    """Return what a path was called when it was logged; itself if that is not how we would have written it."""
    logged = unescape(path)
    return logged if "\0" not in logged and file_names()(logged) == path else path


def _wanted(name: str) -> dict[str, Any]:
    """Return which models a name means."""
    text, at, tag = name.removeprefix(MODEL).rpartition("@")
    if _ID.fullmatch(tag) and not at:
        return {"id": [tag]}
    return {"name": f"^{re.escape(TaskNames().task(text if at else tag))}$", **({"tags": [tag]} if at else {})}


def _model(requests: Any, wanted: Mapping[str, Any], name: str, directory: str) -> Fetched:
    """Get the latest model of this kind: its file, or of a package its files."""
    from clearml.backend_api.services import models

    found = _ask(requests, models.GetAllRequest(**wanted, order_by=["-created"])).get("models") or ()
    if not found:
        raise NoSuchArtifactError(f"there is no model {name.removeprefix(MODEL)!r}; {_FORM}")
    model = found[0]
    path = _copy(model["uri"], directory, os.path.basename(model["uri"]))
    if "package" in (model.get("system_tags") or ()):
        place = os.path.join(directory, file_names()(model["name"]))
        with zipfile.ZipFile(path) as package:
            package.extractall(place)  # which leads nowhere else
        os.remove(path)
        path = place
    return Fetched(path, f"{MODEL}{model['id']}")


def _copy(uri: str, directory: str, name: str) -> str:
    """Copy what is at a URI to this name in the directory."""
    from clearml import StorageManager

    target = os.path.join(directory, *name.split("/"))
    if not is_inside(target, directory):
        raise NoSuchArtifactError(f"the artifact has a file {name!r}")
    at = StorageManager.get_local_copy(uri, extract_archive=False, force_download=True)  # a later artifact may be at its place
    if at is None:
        raise ConnectionError(f"ClearML: {uri} cannot be downloaded")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    return shutil.copyfile(at, target)


def _ask(requests: Any, request: Any) -> Mapping[str, Any]:
    return send_once(requests, request).response_data or {}
