"""The names under which a run stands in Trackio's store."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every name in the databases and the folders beside them."""
    home = directory / "trackio"
    for file in home.glob("*.db"):
        yield f"project: {file.stem}"
        with closing(sqlite3.connect(file)) as database:
            yield from _database_keys(database)
    for where, _, names in os.walk(home / "media"):
        for name in names:
            yield f"file: {os.path.relpath(os.path.join(where, name), home)}"
    for where, folders, _ in os.walk(home / "artifacts"):
        folders[:] = [name for name in folders if len(name) > 2]  # what follows is a digest of the content
        yield f"folder: {os.path.relpath(where, home)}"


def _database_keys(database: sqlite3.Connection) -> Iterator[str]:
    for name, metrics in database.execute("SELECT run_name, metrics FROM metrics"):
        yield f"run: {name}"
        values = json.loads(metrics)
        values.pop("tracelet/wall_times", None)  # what shares a row, and has another time, is a matter of their times
        for key, value in values.items():
            yield f"key: {key}"
            if isinstance(value, dict):
                yield from (f"of a {value['_type']}: {path}" for path in _paths(value))
    for name, config in database.execute("SELECT run_name, config FROM configs"):
        yield from (f"config of {name}: {path}" for path in _paths(json.loads(config)))
    sql = "SELECT a.name, a.type, v.manifest, v.metadata FROM artifact_versions v JOIN artifacts a ON a.id = v.artifact_id"
    for name, kind, manifest, metadata in database.execute(sql):
        yield f"artifact: {kind} {name} {' | '.join(json.loads(metadata))}"
        yield from (f"of artifact {name}: {entry['path']}" for entry in json.loads(manifest))
    for name, direction in database.execute("SELECT run_name, direction FROM run_artifact_links"):
        yield f"artifacts of {name}: {direction}"


def _paths(value: Any, before: str = "") -> Iterator[str]:
    """Yield the keys in nested JSON; the items of a list have one name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{before}{key}"
            yield from _paths(inner, f"{before}{key} > ")
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{before}[] > ")
