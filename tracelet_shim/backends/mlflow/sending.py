"""What one store is sent, in the form that its version of MLflow takes: of a server that is learnt from what it answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tracelet_shim.backends.mlflow.compat import artifacts_at, takes_colons
from tracelet_shim.backends.mlflow.limits import MAX_KEY, MAX_TAG, SURE_TAG

__all__ = ["Sender"]

_TOO_LONG = re.compile(
    r"(?is)\btag value '.*exceeded length limit of (\d+)|'tags\[\d+\]\.value' exceeds the maximum length of (\d+)"
)
"""``utils/validation.py``, `_validate_length_limit`, of MLflow 2.10; and of a later one that was told not to cut."""
_ILLEGAL_NAME = "Names may only contain"
"""The same of any version, of the name of a metric, a parameter or a tag."""
_IS_THERE = re.compile(r"(?i)unique constraint|duplicate (?:key|entry)|IntegrityError")
"""What databases say of a row that is there. MLflow 2.10 looks for it itself, but does not find NaN again, nor each of many."""


class Sender:
    """The way to one store, for all runs of a session.

    - Colons in the names of metrics, parameters and tags are taken from MLflow 2.16 on; before it they stand as ``_x3a_``.
    - Of a tag 8000 characters are kept from 2.17 on; before it 5000, beyond which 2.10 refuses, and what comes between them keeps
      the beginning and says nothing. So it is looked at what was kept of the first tag that is so long.
    - Up to 3.1 a client sends files to the server that is set for the whole process, whatever was said when it was made.

    Args:
        client: an `MlflowClient`.
        uri: of the store.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._on_server = urlsplit(uri).scheme in ("http", "https")
        self._colons = self._on_server or takes_colons()
        self._tag_limit, self._is_sure = MAX_TAG, False
        self._places: dict[str, Any] = {}

    # -- metrics, parameters, tags ------------------------------------------------------------------------------------

    def key(self, key: str) -> str:
        """Return the name that stands for a key, as far as it is known what the store takes."""
        if self._colons or ":" not in key:
            return key
        plain = key.replace(":", "_x3a_")
        if len(plain) <= MAX_KEY:
            return plain
        digest = hashlib.blake2s(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return f"{plain[: MAX_KEY - 18].rstrip('/. ')}_h{digest}"

    def metrics(self, run_id: str, metrics: Sequence[Any], missing: Callable[[Sequence[Any]], list[Any]]) -> None:
        """Log metrics. Where one is there and the store does not know it again, what `missing` returns is logged.

        Args:
            run_id: the run.
            metrics: `mlflow.entities.Metric` objects.
            missing: returns those that the store has not.
        """
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        def named(all_of_them: Sequence[Any]) -> list[Any]:
            return [Metric(self.key(one.key), one.value, one.timestamp, one.step) for one in all_of_them]

        try:
            self._batch(run_id, lambda: {"metrics": named(metrics)})
        except MlflowException as error:
            if not _IS_THERE.search(str(error)):
                raise
            self._batch(run_id, lambda: {"metrics": missing(named(metrics))})

    def params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._batch(run_id, lambda: {"params": [Param(self.key(key), text) for key, text in params.items()]})

    def tags(self, run_id: str, within: Callable[[int], Mapping[str, str]]) -> None:
        """Set tags.

        Args:
            run_id: the run.
            within: returns the tags, each no longer than that.
        """
        from mlflow.entities import RunTag

        sent: dict[str, str] = {}

        def fitting() -> Mapping[str, list[Any]]:
            sent.clear()
            sent.update({self.key(key): text for key, text in within(self._tag_limit).items()})
            return {"tags": [RunTag(key, text) for key, text in sent.items()]}

        while True:
            self._batch(run_id, fitting)
            doubted = not self._is_sure and any(len(text) > SURE_TAG for text in sent.values())
            if not doubted or self._has(run_id, sent):
                return

    def _has(self, run_id: str, tags: Mapping[str, str]) -> bool:
        """Return whether the store has kept these tags whole; how much it keeps is known then."""
        stored = self._client.get_run(run_id).data.tags
        cut = [len(has) for key, text in tags.items() if (has := stored.get(key, text)) != text and text.startswith(has)]
        self._tag_limit, self._is_sure = min([self._tag_limit, *cut]), True
        return not cut

    def _batch(self, run_id: str, made: Callable[[], Mapping[str, Sequence[Any]]]) -> None:
        from mlflow.exceptions import MlflowException

        while True:
            batch = made()
            try:
                self._client.log_batch(run_id, **batch, synchronous=True)
            except MlflowException as error:
                if not self._learns(str(error), [one.key for part in batch.values() for one in part]):
                    raise
            else:
                return

    def _learns(self, said: str, keys: Sequence[str]) -> bool:
        """Return whether something was refused because of what was not known of the store, and is now."""
        limit = _TOO_LONG.search(said)
        if limit is not None and int(limit[1] or limit[2]) < self._tag_limit:
            self._tag_limit = int(limit[1] or limit[2])
            return True
        if self._colons and _ILLEGAL_NAME in said and any(":" in key for key in keys):
            self._colons = False
            return True
        return False

    # -- files --------------------------------------------------------------------------------------------------------

    def file(self, run_id: str, file: str, folder: str | None) -> None:
        """Store a file as an artifact of a run."""
        place = self._place(run_id, lambda: self._client.get_run(run_id).info.artifact_uri)
        if place is None:
            self._client.log_artifact(run_id, file, folder)
        else:
            place.log_artifact(file, folder)

    def model_files(self, model_id: str, directory: str) -> None:
        """Store a directory as what a logged model is made of."""
        place = self._place(model_id, lambda: self._client.get_logged_model(model_id).artifact_location)
        if place is None:
            self._client.log_model_artifacts(model_id, directory)
        else:
            place.log_artifacts(directory)

    def _place(self, of: str, uri: Callable[[], str]) -> Any:
        """Return where files of a run or model go; None where the client sends them to the right server by itself."""
        import mlflow

        if not self._on_server or mlflow.get_tracking_uri() == self._uri:
            return None
        if of not in self._places:
            self._places[of] = artifacts_at(uri(), self._uri)
        return self._places[of]
