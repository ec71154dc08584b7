"""The points that a run has, for a store that does not know them again.

A store in files takes each as often as it gets it, and databases of MLflow 2.10 stumble over some of those that they have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tracelet_shim.backends.mlflow.times import LARGEST

__all__ = ["StoredPoints"]


class StoredPoints:
    """The points that a run had before, or may have got from a write that failed. The files of a metric are read when it is first
    written to.

    Args:
        client: an `MlflowClient`.
        run_id: the run.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._had: dict[str, set[tuple[int, int, str]]] = {}

    @contextlib.contextmanager
    def written(self, metrics: Sequence[Any]) -> Iterator[list[Any]]:
        """Yield those that the store has not, and are to be written now."""
        try:
            yield self.missing(metrics)
        except BaseException:  # some of them may be there
            self._had.clear()
            raise

    def missing(self, metrics: Sequence[Any]) -> list[Any]:
        """Return those that the store had not when it was first asked about the metric."""
        return [metric for metric in metrics if _point(metric) not in self._of(metric.key)]

    def _of(self, key: str) -> set[tuple[int, int, str]]:
        if key not in self._had:
            self._had[key] = {_point(metric) for metric in self._client.get_metric_history(self._run_id, key)}
        return self._had[key]


def _point(metric: Any) -> tuple[int, int, str]:
    return metric.timestamp, metric.step, repr(min(max(float(metric.value), -LARGEST), LARGEST))
