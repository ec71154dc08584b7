"""What earlier logs of a run have: a run that is continued does not write it again.

The log (`wandb/sdk/internal/datastore.py`) has blocks of 32 KiB with pieces of records in them: checksum, length, kind (1 whole,
2 first, 3 middle, 4 last).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.rows import WALL_TOLERANCE
from tracelet_shim.backends.shared.seen import Seen

__all__ = ["There", "end_of_logs", "remove_begun"]

TAIL = 32 << 20
"""Bytes at the end of an earlier log that are looked through: as much as what is unsettled may take."""

_BLOCK, _LOG_HEADER, _PIECE = 1 << 15, 7, struct.Struct("<IHB")

_Name = tuple[str, int, str]


class There:
    """Values that earlier logs have. The wall time of a value there is that of its row.

    Args:
        values: ((key, step, identity), wall time) of each.
        events: so many of the events that come may be there.
    """

    def __init__(self, values: Iterable[tuple[_Name, float]] = (), events: int = 0) -> None:
        self._left = events
        self._seen = Seen(values, within=WALL_TOLERANCE)

    def __bool__(self) -> bool:
        return bool(self._seen)

    def take(self, key: str, event: ev.Event, value: Any) -> bool:
        """True if an earlier log has this value, which is then told off."""
        return self._seen.take((key, event.step, _identity(value)), event.wall_time)

    def passed(self, events: int) -> None:
        """So many events have been written."""
        self._left -= events
        if self._left <= 0:
            self._seen.clear()


def _identity(value: Any) -> str:
    """Return what tells two values of one key and step apart: a number; media never share key, step and wall time."""
    return repr(float(value)) if isinstance(value, (int, float)) else ""


def end_of_logs(folder: str, run_id: str, lines: int | None, most: int) -> There:
    """Return what is there of the end of a run.

    Offline, where `lines` is None, that is what the last log before this one has that has any rows; online, what all of them have
    of the rows that the server has (the row ``_step`` of a log is the server's line of that number). Where two have a row of one
    number, the earlier one's never arrived.

    Args:
        folder: of the log that is being written.
        run_id: the run's.
        lines: the number of rows that the server has.
        most: so many values may come again.
    """
    logs = logs_of(folder, run_id)
    found: dict[int, dict[str, Any]] = {}
    for log in logs if lines is not None else reversed(logs):
        if found and lines is None:  # one before it may have nothing: a try to go on that was killed, too
            break
        for place, row in enumerate(map(_row_of, _histories(log))):
            at = int(row.get("_step", place))
            if lines is None or at < lines:
                found.pop(at, None)
                found[at] = row
    values: deque[tuple[_Name, float]] = deque(maxlen=most)
    for row in found.values():
        step: Any = row.pop("global_step", None)
        when = float(row.pop("_timestamp", math.nan))
        for key, value in row.items():
            if isinstance(step, int) and not key.startswith("_"):
                number = float(value) if value in ("NaN", "Infinity", "-Infinity") else value
                values.append(((key, step, _identity(number)), when))
    return There(values, most)


def logs_of(folder: str, run_id: str) -> list[Path]:
    """Return the logs of a run on this machine, oldest first, without the one in `folder`."""
    own = os.path.join(folder, f"run-{run_id}.wandb")
    logs = [log for log in Path(folder).parent.glob(f"*run-*-{run_id}/run-{run_id}.wandb") if str(log) != own]
    return sorted(logs, key=lambda log: log.stat().st_mtime_ns)


def _row_of(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:  # a picture has an item for each of its fields
        part_of = len(item.nested_key) > 1
        row[item.nested_key[0] if item.nested_key else item.key] = None if part_of else json.loads(item.value_json)
    return row


def _histories(log: Path) -> Iterator[Any]:
    """Yield the rows at the end of a log, as far as they are whole."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    with open(log, "rb") as file:
        start = max(0, log.stat().st_size - TAIL) // _BLOCK * _BLOCK
        file.seek(start)
        data = file.read()
    at, record = 0 if start else _LOG_HEADER, b""
    whole = start == 0  # else the first pieces may belong to a record that began before
    while at + _PIECE.size <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < _PIECE.size:
            at += room
            continue
        _, size, kind = _PIECE.unpack_from(data, at)
        piece = data[at + _PIECE.size : at + _PIECE.size + size]
        if kind not in (1, 2, 3, 4) or len(piece) < size:
            return
        at += _PIECE.size + size
        whole = whole or kind in (1, 2)
        record = piece if kind in (1, 2) else record + piece
        if kind in (1, 4) and whole:
            try:
                parsed = wandb_internal_pb2.Record.FromString(record)
            except DecodeError:
                return
            if parsed.HasField("history"):
                yield parsed.history


def remove_begun(folder: str, run_id: str) -> None:
    """Remove what a process has left that was killed while it opened this run: directories whose log has no record."""
    for other in Path(folder).parent.glob(f"*run-*-{run_id}"):
        if str(other) != folder and all(log.stat().st_size <= _LOG_HEADER for log in other.glob("*.wandb")):
            shutil.rmtree(other, ignore_errors=True)
