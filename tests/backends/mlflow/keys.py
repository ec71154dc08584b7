"""The names under which a run stands in MLflow's store."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every name in the database and in the artifact folder of one program's runs."""
    with closing(sqlite3.connect(directory / "mlflow.db")) as database:
        for table in ("metrics", "params", "tags"):
            for (key,) in database.execute(f"SELECT DISTINCT key FROM {table}"):
                yield f"{table}: {key}"
        for name, status in database.execute("SELECT name, status FROM logged_models"):
            yield f"logged model: {name} {status}"
        for name, alias, version in database.execute("SELECT name, alias, version FROM registered_model_aliases"):
            yield f"registered model: {name}@{alias} {version}"
        for name, lifecycle in database.execute("SELECT name, status FROM runs"):
            yield f"run: {name} {lifecycle}"
        for (name,) in database.execute("SELECT name FROM experiments"):
            yield f"experiment: {name}"
    for folder, _, names in os.walk(directory / "artifacts"):
        for name in names:
            yield f"artifact: {os.path.relpath(os.path.join(folder, name), directory / 'artifacts')}"
