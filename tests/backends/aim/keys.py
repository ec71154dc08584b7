"""The names under which a run stands in Aim's store."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every name in the trees, the database and the artifact folder of one repository."""
    from aim import Repo

    for run in Repo(str(directory)).iter_runs():
        about = run.meta_run_tree.collect(resolve_objects=False)
        contexts, sequences = about.pop("contexts"), about.pop("traces")
        del about["typed_traces"]  # the same sequences by type
        yield from (f"run: {path}" for path in _paths(about))
        for index, names in sequences.items():
            context = json.dumps(contexts[index], sort_keys=True)
            for name, of_sequence in names.items():
                yield f"sequence: {name} {context} {of_sequence['dtype']}"
                yield from (f"about {of_sequence['dtype']}: {path}" for path in _paths(of_sequence))
                columns = run.series_run_trees[of_sequence["version"]].subtree((index, name))
                yield from (f"column of {of_sequence['dtype']}: {column}" for column in sorted(columns.keys()))
                for value in columns.array("val").values():
                    if hasattr(value, "storage"):
                        yield from (f"value of {of_sequence['dtype']}: {path}" for path in _paths(value.storage.collect()))
    with closing(sqlite3.connect(directory / ".aim" / "run_metadata.sqlite")) as database:
        for (name,) in database.execute("SELECT name FROM experiment"):
            yield f"experiment: {name}"
        for (name,) in database.execute("SELECT name FROM tag"):
            yield f"tag: {name}"
        for name, description in database.execute("SELECT name, description FROM run"):
            yield f"database: {name} {description}"
    artifacts = directory / ".aim" / "artifacts"
    for folder, _, names in os.walk(artifacts):
        for name in names:
            yield f"artifact: {os.path.relpath(os.path.join(folder, name), artifacts)}"


def _paths(values: Any, before: str = "") -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield f"{before}{key}"
            yield from _paths(value, f"{before}{key} > ")
