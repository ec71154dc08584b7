"""Marks in the log of a run that is offline, by which it is known how much of it is on disk.

Before 0.31, W&B's service writes a block of its log when it is full (`sdk/internal/datastore.py`, `LEVELDBLOG_BLOCK_LEN`), and
the rest at the end of the run: a kill loses up to 32 KiB. A mark is a record without content (of telemetry, whose uuid nobody
reads); one that is to be written at once is as long as a block.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelet_shim.backends.wandb.versions import interface

if TYPE_CHECKING:
    from tracelet_shim.backends.wandb.run import Run

__all__ = ["Marks"]

_log = logging.getLogger(__name__)

_BLOCK = 1 << 15
_MARK = "tracelet-mark-{};"
_FOUND = re.compile(rb"tracelet-mark-(\d+);")
_LONGEST = 40


class Marks:
    """Those in the log of one run.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        """Raises an AttributeError or the like if the installed SDK has other records."""
        from wandb.proto.wandb_internal_pb2 import Record
        from wandb.proto.wandb_telemetry_pb2 import TelemetryRecord

        self.run = run
        self._path = Path(run.folder, f"run-{run.id}.wandb")
        self._interface = interface(run.sdk)
        self._empty: Any = TelemetryRecord()
        if not isinstance(self._record("x"), Record) or not callable(self._interface._publish):
            raise TypeError("records are made in another way")
        self._put = self._found = self._read = 0

    @classmethod
    def of(cls, run: Run) -> Marks | None:
        """Return those of a run; None if the installed SDK does not do as the known versions do."""
        try:
            return cls(run)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            _log.info(
                "what is in W&B's log is known at the end of the run, since W&B (known: 0.17 to 0.27) has other records: %s",
                error,
            )
            return None

    def _record(self, uuid: str) -> Any:
        record = self._interface._make_record(telemetry=self._empty)
        record.uuid = uuid
        return record

    def put(self, *, at_once: bool) -> int:
        """Put a mark behind what the service was handed; return which.

        Args:
            at_once: it, and all before it, is to be on disk in a moment.
        """
        self._put += 1
        mark = _MARK.format(self._put)
        self._interface._publish(self._record(mark * (_BLOCK // len(mark) + 1 if at_once else 1)))
        return self._put

    def on_disk(self) -> int:
        """Return up to which mark the log is on disk."""
        try:
            with open(self._path, "rb") as file:
                file.seek(max(0, self._read - _LONGEST))
                data = file.read()
                self._read = file.tell()
        except OSError:  # not begun yet
            return self._found
        for found in _FOUND.finditer(data):
            self._found = max(self._found, int(found[1]))
        return self._found
