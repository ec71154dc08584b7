"""Trials: each a nested run, ended at once, so that a crash leaves none running for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.mlflow.limits import run_name
from tracelet_shim.backends.mlflow.run import Rules, Run, create

__all__ = ["Trials"]


class Trials:
    """The trials of one run.

    Args:
        client: an `MlflowClient`.
        parent: the `mlflow.entities.Run`.
        rules: the session's.
        source: the tags that say what ran.
    """

    def __init__(self, client: Any, parent: Any, rules: Rules, source: Mapping[str, str]) -> None:
        self._client = client
        self._parent = parent
        self._rules = rules
        self._source = source
        self._ids: dict[str, str] | None = None  # None: to be asked of the store
        self._runs: dict[str, Run] = {}

    def run_of(self, trial: str, start_time: int | None) -> Run:
        """Return the trial's nested run; one that an earlier session or try has made is found again."""
        run_id = self._id_of(trial, start_time)
        if run_id not in self._runs:
            self._runs[run_id] = Run(self._client, run_id, self._rules)
        return self._runs[run_id]

    def _id_of(self, trial: str, start_time: int | None) -> str:
        key = self._rules.keys(trial)
        if self._ids is None:
            self._ids = self._stored()
        if key not in self._ids:
            info = self._parent.info
            tags = {**self._source, "mlflow.parentRunId": info.run_id, "tracelet.trial": key}
            ids, self._ids = self._ids, None  # after a failure, look whether it was made all the same
            made = create(self._client, info.experiment_id, start_time, tags, run_name(trial) or key)
            ids[key] = made.info.run_id
            self._ids = ids
        return self._ids[key]

    def _stored(self) -> dict[str, str]:
        """Return key -> run id of the trials that the store has."""
        info = self._parent.info
        query, token = f"tags.`mlflow.parentRunId` = '{info.run_id}'", None
        ids: dict[str, str] = {}
        while True:
            page = self._client.search_runs([info.experiment_id], query, page_token=token)
            for child in page:
                ids.setdefault(child.data.tags.get("tracelet.trial", ""), child.info.run_id)
            token = page.token
            if not token:
                return ids
