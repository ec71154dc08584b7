"""MLflow's registry of models."""

from __future__ import annotations

import hashlib
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.names import Names

__all__ = ["register"]

_RECORD = "tracelet.record"
_ILLEGAL = r"[/:'\"\x00-\x1f\x7f\ud800-\udfff]|^\.+\Z"  # `_validate_model_name`; quotes are for the search
_ALIAS = r"[^\w\-]|^[vV](?=\d+\Z)|^l(?=atest\Z)"  # the same, `_validate_model_alias_name`


def register(client: Any, run_id: str, path: str, event: ev.Model) -> None:
    """Make an artifact the next version of a registered model, and give that its aliases. If the event comes again, the version
    is found by a tag.

    Args:
        client: an `MlflowClient`.
        run_id: the run that has the artifact.
        path: where it is among the run's.
        event: says the name and the aliases.
    """
    from mlflow.exceptions import MlflowException

    name, aliases = Names(_ILLEGAL, 250)(event.register_as or event.tag), Names(_ALIAS, 250)
    record = hashlib.blake2s(repr(event.record).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = [one for one in client.search_model_versions(f"name='{name}'") if one.tags.get(_RECORD) == record]
    version = known[0] if known else client.create_model_version(name, f"runs:/{run_id}/{path}", run_id, tags={_RECORD: record})
    for alias in event.aliases:
        client.set_registered_model_alias(name, aliases(alias), version.version)
