"""What arrived of the scalars of event files, by readers that share nothing with the package: TensorBoard's own, and SQL."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

__all__ = ["Points", "in_event_files", "in_mlflow", "in_trackio", "params_in_mlflow"]

Points = Counter[tuple[int, bytes]]
"""How often there is a (step, value as float32). Names are left out: each tracker has rules of its own for them."""


def _point(step: int, value: float) -> tuple[int, bytes]:
    try:
        return step, struct.pack("<f", value)
    except OverflowError:
        return step, struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def in_event_files(directory: Path) -> Points:
    """Return the scalars of all event files below a directory; those of sessions themselves are in other files."""
    return Counter(_scalars(directory))


def _scalars(directory: Path) -> Iterator[tuple[int, bytes]]:
    for path in sorted(directory.rglob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load() if path.is_file() and ".tracelet" not in path.parts else ():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    yield _point(event.step, float(make_ndarray(value.tensor).item()))


def in_mlflow(database: Path) -> Points:
    """Return the metrics of an SQLite store, without those of the machine."""
    rows = _rows(database, "SELECT step, value, is_nan, key FROM metrics WHERE key NOT LIKE 'system/%'")
    return Counter(_point(step, float("nan") if is_nan else value) for step, value, is_nan, _ in rows)


def params_in_mlflow(database: Path) -> dict[str, str]:
    """Return the parameters of all runs."""
    return dict(_rows(database, "SELECT key, value FROM params"))


def in_trackio(directory: Path) -> Points:
    """Return the numbers of all projects: a row has those of a step, with what is ours under ``tracelet/``."""
    found: Points = Counter()
    for path in sorted(directory.glob("*.db")):
        for step, row in _rows(path, "SELECT step, metrics FROM metrics"):
            for name, value in json.loads(row).items():
                if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
                    value = float(value)  # noqa: PLW2901
                if isinstance(value, (int, float)) and not name.startswith("tracelet/"):
                    found[_point(step, float(value))] += 1
    return found


def _rows(path: Path, query: str) -> list[tuple]:  # type: ignore[type-arg]
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
