"""A private way of W&B's own monitor: system metrics, which its page has on a tab of their own.

There is no public one: a row with ``system.`` keys is a row. The monitor is a part of W&B's service, which takes the same
records from the SDK (`sdk/interface/interface_shared.py`, `publish_stats`, which would put in the time of the call) and makes a
line of the run's events of each. In a run whose monitor is on, the user's among them, we could not tell whose lines have arrived:
there, and where the SDK has another way, they are rows like others.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.wandb.versions import interface, setting, writes_its_log

__all__ = ["Samples", "line_of"]

_log = logging.getLogger(__name__)

_MARK = "tracelet-line-"
_LATEST = 250_000_000_000.0  # seconds: what a protobuf's time can hold


class Samples:
    """Hands system metrics of one run to W&B's service.

    Args:
        run: the SDK's object.

    Attributes:
        line: which line of the run's events the next sample is; each has it in its record, so that a later process finds it.
    """

    def __init__(self, run: Any) -> None:
        """Raises an AttributeError or the like if the installed SDK has other records."""
        from wandb.proto.wandb_internal_pb2 import StatsRecord

        self._stats = StatsRecord
        self._interface = interface(run)
        self.line = 0
        record = self._record(1.5, {"a": math.nan})
        if record.WhichOneof("record_type") != "stats" or line_of(record) != 0 or not callable(self._interface._publish):
            raise ValueError("system metrics are encoded in another way")

    @classmethod
    def of(cls, run: Any) -> Samples | None:
        """Return the object for `run`; None if its monitor is on, if what is uploaded need not be in the log yet, or if the
        installed SDK does not do as the known versions do."""
        try:
            return cls(run) if writes_its_log() and setting(run._settings, "x_disable_stats") else None
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            _log.info("system metrics are rows, since W&B (known: 0.31) has another way for them: %s", error)
            return None

    @staticmethod
    def takes(wall_time: float) -> bool:
        """Return whether there can be a sample of this time."""
        return math.isfinite(wall_time) and 0 < wall_time < _LATEST

    def publish(self, wall_time: float, values: Mapping[str, float]) -> None:
        """Hand over a sample."""
        self._interface._publish(self._record(wall_time, values))
        self.line += 1

    def _record(self, wall_time: float, values: Mapping[str, float]) -> Any:
        stats = self._stats(stats_type=self._stats.StatsType.SYSTEM)
        stats.timestamp.FromNanoseconds(round(wall_time * 1e9))
        for key, value in values.items():
            stats.item.add(key=key, value_json=json.dumps(value))
        record = self._interface._make_record(stats=stats)
        record.uuid = f"{_MARK}{self.line}"
        return record


def line_of(record: Any) -> int | None:
    """Return the line of a record; None if it is no sample of ours."""
    return int(record.uuid.removeprefix(_MARK)) if record.uuid.startswith(_MARK) else None
