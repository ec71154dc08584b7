"""What earlier logs of a run have: a run that is continued does not write it again.

The log (`wandb/sdk/internal/datastore.py`) has blocks of 32 KiB with pieces of records in them: checksum, length, kind (1 whole,
2 first, 3 middle, 4 last).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.rows import WALL_TOLERANCE
from tracelet_shim.backends.shared.seen import Seen
from tracelet_shim.backends.wandb.samples import line_of

__all__ = ["Found", "There", "end_of_logs", "logs_of", "remove_begun"]

TAIL = 32 << 20
"""Bytes at the end of an earlier log that are looked through: as much as what is unsettled may take."""

_BLOCK, _LOG_HEADER, _PIECE = 1 << 15, 7, struct.Struct("<IHB")

_SAMPLE = "\0"
"""What the keys of system metrics begin with here; those of rows cannot."""
_Name = tuple[str, int, str]
Ask = Callable[[int, int], Iterable[Mapping[str, Any]]]


class Found(NamedTuple):
    """What an earlier log has of a value.

    Attributes:
        folder: where that log's files are.
        files: those of the value.
        artifacts: in which it is; the ids that the SDK has given them.
    """

    folder: Path
    files: Sequence[str] = ()
    artifacts: Sequence[str] = ()


_A_NUMBER = Found(Path())


class There:
    """Values that earlier logs have. The wall time of a value there is that of its row.

    Args:
        values: ((key, step, identity), wall time) of each.
        media: by key and step, what belongs to it; media never share both and the wall time.
        events: so many of the events that come may be there.
    """

    def __init__(
        self,
        values: Iterable[tuple[_Name, float]] = (),
        media: Mapping[tuple[str, int], list[tuple[float, Found]]] | None = None,
        events: int = 0,
    ) -> None:
        self._left = events
        self._media = dict(media or {})
        self._seen = Seen(values, within=WALL_TOLERANCE)

    def __bool__(self) -> bool:
        return bool(self._seen)

    def take(self, key: str, event: ev.Event, value: Any) -> Found | None:
        """Return what an earlier log has of this value, which is then told off; None if it has not got it."""
        if not self._seen.take((key, event.step, _identity(value)), event.wall_time):
            return None
        media = self._media.get((key, event.step), [])
        return min(media, key=lambda each: abs(each[0] - event.wall_time), default=(0.0, _A_NUMBER))[1]

    def take_sample(self, key: str, value: float, when: float) -> bool:
        """Return whether an earlier log has this value of a sample of the system metrics, which is then told off."""
        return self._seen.take((f"{_SAMPLE}{key}", 0, _identity(value)), when)

    def passed(self, events: int) -> None:
        """So many events have been written."""
        self._left -= events
        if self._left <= 0:
            self._seen.clear()
            self._media.clear()


def _identity(value: Any) -> str:
    """Return what tells two values of one key and step apart: a number; media never share key, step and wall time."""
    return repr(float(value)) if isinstance(value, (int, float)) else ""


def end_of_logs(
    folder: str, run_id: str, there: int | None, most: int, samples_there: int = 0, *, ask: Ask | None = None
) -> There:
    """Return what is there of the end of a run.

    Offline, where `there` is None, that is what the last log before this one has that has any rows; online, what all of them have
    of the rows that the server has. Where two have a row of one step, the earlier one's never arrived.

    Args:
        folder: of the log that is being written.
        run_id: the run's.
        there: W&B's step (``_step``) behind that of the last row that the server has.
        most: so many values may come again.
        samples_there: how many samples of the system metrics the server has.
        ask: returns the server's rows, from one step up to another; of rows that it has and no log here: what a service has
            uploaded and not written to disk (before 0.31).

    Raises:
        ConnectionError: of `ask`.
    """
    logs = logs_of(folder, run_id)
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    samples: dict[int, Any] = {}
    for log in logs if there is not None else reversed(logs):
        if (found or samples) and there is None:  # one before it may have nothing: a try to go on that was killed, too
            break
        rows, own_samples = _read(log)
        samples.update((line, stats) for line, stats in own_samples if there is None or line < samples_there)
        for place, row in enumerate(rows):
            at = int(row.get("_step", place))
            if there is None or at < there:
                found.pop(at, None)
                found[at] = log.parent / "files", row
    if ask is not None and there is not None and logs:
        missing = [at for at in range(max(0, there - most), there) if at not in found]
        for asked in ask(missing[0], missing[-1] + 1) if missing else ():
            found.setdefault(int(asked["_step"]), (logs[-1].parent / "files", _with_parts(asked)))
        found = {at: found[at] for at in sorted(found)}
    media: dict[tuple[str, int], list[tuple[float, Found]]] = {}
    values: deque[tuple[_Name, float]] = deque(maxlen=most)
    for files, row in found.values():
        step: Any = row.pop("global_step", None)
        when = float(row.pop("_timestamp", math.nan))
        for key, value in row.items():
            if isinstance(step, int) and not key.startswith("_"):
                values.append(((key, step, _identity(_number(value))), when))
                if isinstance(value, _Parts):
                    media.setdefault((key, step), []).append((when, Found(files, value.files, value.artifacts)))
    for stats in samples.values():
        when = stats.timestamp.ToNanoseconds() / 1e9
        values.extend(((f"{_SAMPLE}{item.key}", 0, _identity(_number(json.loads(item.value_json)))), when) for item in stats.item)
    return There(values, media, most)


def logs_of(folder: str, run_id: str) -> list[Path]:
    """Return the logs of a run on this machine, oldest first, without the one in `folder`."""
    own = os.path.join(folder, f"run-{run_id}.wandb")
    logs = [log for log in Path(folder).parent.glob(f"*run-*-{run_id}/run-{run_id}.wandb") if str(log) != own]
    return sorted(logs, key=lambda log: (log.parent.name.removeprefix("offline-"), log.stat().st_mtime_ns))  # when it was begun


class _Parts:
    """A value that is no number: the files and artifacts that it names."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.artifacts: list[str] = []

    def add(self, field: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, each in value.items():
                self.add(name, each)
        elif isinstance(value, list):
            for each in value:
                self.add("", each)
        elif field == "path" and isinstance(value, str):
            self.files.append(value)
        elif field == "artifact_path" and (match := re.match(r"wandb-client-artifact://([^/]+)/", str(value))):
            self.artifacts.append(match[1])


def _row_of(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:  # a picture has an item for each of its fields
        key, value = item.nested_key[0] if item.nested_key else item.key, json.loads(item.value_json)
        if len(item.nested_key) > 1 or isinstance(value, (dict, list)):
            parts = row.setdefault(key, _Parts())
            parts.add(item.nested_key[-1] if len(item.nested_key) > 1 else "", value)
        else:
            row[key] = value
    return row


def _with_parts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the server's as `_row_of` has one of a log."""
    made: dict[str, Any] = {}
    for key, value in row.items():
        made[key] = value
        if isinstance(value, (dict, list)):
            made[key] = parts = _Parts()
            parts.add("", value)
    return made


def _number(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _read(log: Path) -> tuple[list[dict[str, Any]], list[tuple[int, Any]]]:
    """Return the rows at the end of a log, and the samples, with their lines."""
    rows, samples = [], []
    for record in _records(log):
        if record.HasField("history"):
            rows.append(_row_of(record.history))
        elif record.HasField("stats") and (line := line_of(record)) is not None:
            samples.append((line, record.stats))
    return rows, samples


def _records(log: Path) -> Iterator[Any]:
    """Yield the records at the end of a log, as far as they are whole."""
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
            yield parsed


def remove_begun(folder: str, run_id: str) -> None:
    """Remove what a process has left that was killed while it opened this run: directories whose log has no record. (Their names
    begin with the time: a later one is that of a process that is about to open it now.)"""
    begun = Path(folder).name.removeprefix("offline-")
    for other in Path(folder).parent.glob(f"*run-*-{run_id}"):
        earlier = other.name.removeprefix("offline-") < begun
        if earlier and all(log.stat().st_size <= _LOG_HEADER for log in other.glob("*.wandb")):
            shutil.rmtree(other, ignore_errors=True)
