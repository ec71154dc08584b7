"""Models on the server: what `clearml.OutputModel` makes, but with each request waited for, and once.

The SDK makes an empty model, uploads in a thread, and then gives the model the place of its file. Here the file comes first, and
the model has it from its first moment on. By the folder of that file a model is found again. Of several files it has one, a
package, as of `OutputModel.update_weights_package`.

Offline there is none: `OutputModel.update_weights` ends in an AttributeError (``DummyModel`` has no ``locked``, clearml 2.1), and
what it would leave in the session is a path on this machine, where `Task.import_offline_session` on another finds nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Sequence

from tracelet_shim import events as ev
from tracelet_shim.backends.clearml.names import file_name
from tracelet_shim.backends.clearml.run import RunTask
from tracelet_shim.backends.clearml.session import send_once

__all__ = ["connect", "log_model"]

_FOLDER = "models"


def log_model(run: RunTask, event: ev.Model, name: str, tags: Sequence[str]) -> None:
    """Make a model of the task.

    Args:
        run: the task.
        event: the model.
        name: what it is called.
        tags: its tags.
    """
    from clearml.backend_api.services import models

    record = f"{event.record.file}\0{event.record.position}\0{event.record.index}"
    digest = hashlib.blake2s(record.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    folder = f"{file_name(event.tag)}.{digest}"
    model = _find(run, folder)
    if model is None:
        url, package = _upload(run, event, folder)
        request = models.CreateRequest(
            uri=url, name=name, tags=list(tags), system_tags=["package"] if package else [], labels={}, task=run.task.id,
            project=run.task.project, comment=f"Created by task id: {run.task.id}",
        )  # fmt: skip
        model = str(send_once(run.session, request).response_data["id"])
    connect(run, model, name, "output")


def connect(run: RunTask, model: str, name: str, kind: str) -> None:
    """List a model, by its id, among those that the task has made (``output``) or used (``input``)."""
    from clearml.backend_api.services import tasks

    add = getattr(tasks, "AddOrUpdateModelRequest", None)
    if add is not None:  # since version 2.13 of the API
        send_once(run.session, add(task=run.task.id, name=name, type=kind, model=model))


def _find(run: RunTask, folder: str) -> str | None:
    """Return the id of the model whose file is in this folder: a process before this one may have made it, and died."""
    from clearml.backend_api.services import models

    request = models.GetAllRequest(task=[run.task.id], only_fields=["id", "uri"])
    found = (send_once(run.session, request).response_data or {}).get("models") or ()
    return next((str(model["id"]) for model in found if f"/{folder}/" in str(model.get("uri"))), None)


def _upload(run: RunTask, event: ev.Model, folder: str) -> tuple[str, bool]:
    """Upload its file, or one with all of them; return the URL, and whether that is so."""
    first, name = event.files[0], event.files[0].path.removeprefix(f"{event.tag}/")
    if len(event.files) == 1 and "/" not in name:
        return run.upload(_FOLDER, f"{folder}/{file_name(name)}", first.at), False
    with tempfile.NamedTemporaryFile(prefix="tracelet-", suffix=".zip") as package:
        with zipfile.ZipFile(package, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for file in event.files:
                archive.write(file.at, file.path.removeprefix(f"{event.tag}/"))
        package.flush()
        return run.upload(_FOLDER, f"{folder}/model_package.zip", package.name), True
