"""Models as MLflow keeps them: logged models, which are outputs of a run, and versions of registered models.

What is made here is not made twice: each carries the place of its record as a tag, and is found by that if the event comes again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.mlflow.compat import logged_models, outputs_of
from tracelet_shim.backends.mlflow.errors import refused_as
from tracelet_shim.backends.mlflow.run import ONCE
from tracelet_shim.backends.mlflow.sending import Sender
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.common.system import refer

__all__ = ["log_model", "logged_model", "register"]

_RECORD = "tracelet.record"
_NAME = r"[/:.%'\"\x00-\x1f\x7f\ud800-\udfff]"  # ``utils/validation.py``, `_validate_logged_model_name`
_REGISTERED = r"[/:'\"\x00-\x1f\x7f\ud800-\udfff]|^\.+\Z"  # the same, `_validate_model_name`; quotes are for the search
_ALIAS = r"[^\w\-]|^[vV](?=\d+\Z)|^l(?=atest\Z)"  # the same, `_validate_model_alias_name`


def log_model(
    client: Any, sender: Sender, experiment_id: str, run_id: str, event: ev.Model, files: Mapping[str, str]
) -> str | None:
    """Make files a logged model of a run, and return its id; None if the client or the server is of MLflow 2, which has none.

    Args:
        client: an `MlflowClient`.
        sender: sends the files.
        experiment_id: of the run.
        run_id: the run.
        event: says the name.
        files: path within the model -> where the content is.
    """
    from mlflow.exceptions import MlflowException

    entities = logged_models(client)
    if entities is None:
        return None
    record = _identity(event)
    try:
        known = client.search_logged_models([experiment_id], f"tags.`{_RECORD}` = '{record}'")
        if known:
            model = known[0]
        else:
            with variables(ONCE):
                model = client.create_logged_model(experiment_id, Names(_NAME, 250)(event.tag), run_id, {_RECORD: record})
    except MlflowException as error:
        if refused_as(error) == (404, False):  # no such address
            return None
        raise
    model_id = str(model.model_id)
    if model.status != entities.LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory(prefix="tracelet-") as directory:
            for path, content in files.items():
                place = os.path.join(directory, path)
                os.makedirs(os.path.dirname(place), exist_ok=True)
                refer(place, content)
            sender.model_files(model_id, directory)
        client.finalize_logged_model(model_id, entities.LoggedModelStatus.READY)
    if model_id not in outputs_of(client.get_run(run_id)):
        with variables(ONCE):
            client.log_outputs(run_id, [entities.LoggedModelOutput(model_id, event.step)])
    return model_id


def logged_model(client: Any, run_id: str, name: str) -> str | None:
    """Return the id of the latest logged model of a name that is an output of a run; None if there is none."""
    models = [client.get_logged_model(model_id) for model_id in outputs_of(client.get_run(run_id))]
    named = [model for model in models if model.name == Names(_NAME, 250)(name)]
    return str(max(named, key=lambda model: model.creation_timestamp).model_id) if named else None


def register(client: Any, run_id: str, source: str, event: ev.Model, model_id: str | None = None) -> dict[str, str]:
    """Make a model the next version of a registered one, and give that its aliases. Return those that have another name there.

    Args:
        client: an `MlflowClient`.
        run_id: the run that has it.
        source: its URI.
        event: says the name and the aliases.
        model_id: of the logged model.
    """
    from mlflow.exceptions import MlflowException

    name, aliases = Names(_REGISTERED, 250)(event.register_as or event.tag), Names(_ALIAS, 250)
    record = _identity(event)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = [one for one in client.search_model_versions(f"name='{name}'") if one.tags.get(_RECORD) == record]
    if known:
        version = known[0]
    else:
        with variables(ONCE):
            of_model = {} if model_id is None else {"model_id": model_id}  # MLflow 2 knows none
            version = client.create_model_version(name, source, run_id, tags={_RECORD: record}, **of_model)
    renamed = {alias: aliases(alias) for alias in event.aliases}
    for alias in renamed.values():
        client.set_registered_model_alias(name, alias, version.version)
    return {alias: there for alias, there in renamed.items() if alias != there}


def _identity(event: ev.Event) -> str:
    return hashlib.blake2s(repr(event.record).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
