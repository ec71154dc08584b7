"""The names under which a run stands in W&B's logs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.backends.wandb.reader import _log_records

_OF_THE_RUN = re.compile(r"(?<=_)\d+(?=_[0-9a-f]{20}\.)|(?<=-)[\w-]{6}(?= )")
"""What of a name is another for each run: a row's number, in the name of a media file (how many there are depends on how events
meet in batches), and behind the name of an artifact a checksum of its name and its run's id."""

_FILES = ("artifact", "file", "upload")


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every name in the logs of one program's runs, and in the files beside them."""
    return (_OF_THE_RUN.sub("#", key) if key.startswith(_FILES) else key for key in _store_keys(directory))


def _store_keys(directory: Path) -> Iterator[str]:
    for log in directory.glob("wandb/*run-*/run-*.wandb"):
        for record in _log_records(log):
            yield from _of_record(record.WhichOneof("record_type"), record)
        for folder, _, names in os.walk(log.parent / "files"):
            for name in names:
                yield f"file: {os.path.relpath(os.path.join(folder, name), log.parent / 'files')}"


def _of_record(kind: str | None, record: Any) -> Iterator[str]:
    if kind == "run":
        run = record.run
        yield f"run: {run.display_name} project={run.project} group={run.run_group} job_type={run.job_type} notes={run.notes}"
        yield from (f"tag: {tag}" for tag in run.tags)
        yield from _of_items("config", run.config.update)
    elif kind == "config":
        yield from _of_items("config", record.config.update)
    elif kind == "summary":
        yield from _of_items("summary", record.summary.update)
    elif kind == "history":
        yield from _of_items("history", record.history.item)
    elif kind == "metric":
        metric = record.metric
        yield f"metric: {metric.name or metric.glob_name} over {metric.step_metric}{' hidden' if metric.options.hidden else ''}"
    elif kind == "files":
        yield from (f"upload: {file.path}" for file in record.files.files)
    elif kind == "artifact":
        yield f"artifact: {record.artifact.name} {record.artifact.type}"
        yield from (f"artifact file: {record.artifact.name} {entry.path}" for entry in record.artifact.manifest.contents)
    elif kind == "exit":
        yield f"exit: {record.exit.exit_code}"


def _of_items(table: str, items: Any) -> Iterator[str]:
    for item in items:
        key = "/".join(item.nested_key) or item.key
        yield f"{table}: {'_wandb' if key.startswith('_wandb/') else key}"  # its telemetry
