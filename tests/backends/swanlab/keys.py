"""The names under which a run stands in SwanLab's logs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from swanlab.proto.swanlab.metric.column.v1.column_pb2 import ColumnType
from swanlab.proto.swanlab.run.v1.run_pb2 import RunState
from swanlab.proto.swanlab.save.v1.save_pb2 import SaveType

from tests.backends.swanlab.reader import _log_records


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every name in the logs of one program's runs, and in the files beside them."""
    for log in directory.glob("run-*/run-*.swanlab"):
        for record in _log_records(log):
            yield from _of_record(record.WhichOneof("record_type"), record)
        config = yaml.safe_load((log.parent / "files" / "config.yaml").read_text())
        yield from _of_config("config", {name: entry["value"] for name, entry in config.items()})
        for folder, _, names in os.walk(log.parent):
            for name in names:
                if Path(folder) != log.parent and "debug" not in folder:  # the SDK's own log, named for the day
                    yield f"file: {os.path.relpath(os.path.join(folder, name), log.parent)}"


def _of_record(kind: str | None, record: Any) -> Iterator[str]:
    if kind == "start":
        run = record.start
        yield f"run: {run.name} project={run.project} group={run.group} job_type={run.job_type} notes={run.description}"
        yield from (f"tag: {tag}" for tag in run.tags)
    elif kind == "finish":
        yield f"finish: {RunState.Name(record.finish.state)}"
    elif kind == "column":
        yield f"column: {record.column.column_key} {ColumnType.Name(record.column.column_type)}"
    elif kind == "media":
        names = " ".join(item.filename + f" {item.caption}".rstrip() for item in record.media.value.items)
        yield f"media: {record.media.key} {names}"
    elif kind == "save":
        yield f"save: {SaveType.Name(record.save.type)} {record.save.name}"


def _of_config(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _of_config(f"{name}/{key}", each)
    else:
        yield name
