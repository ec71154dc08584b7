"""ClearML without us, for the benchmarks: its SDK's best bulk call, its own TensorBoard hook, and what arrived."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.sdk import SUFFIXES, Counts, Opened, counts


def direct() -> Opened:
    """`report_scalar`, reported from a thread: the default, a process, takes forty times as long."""
    from clearml import Task

    Task._report_subprocess_enabled = False
    task = Task.init(
        "bench", "direct", reuse_last_task_id=False, auto_connect_frameworks=False, auto_connect_arg_parser=False,
        auto_resource_monitoring=False, auto_connect_streams=False,
    )  # fmt: skip
    logger = task.get_logger()

    def log(step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            title, _, series = tag.partition("/")
            logger.report_scalar(title, series, value, step)

    return log, task.close


def count(_directory: Path) -> Counts:
    def kinds() -> Iterator[str]:
        for log in Path(os.environ["CLEARML_CACHE_DIR"]).glob("offline/offline-*/metrics.jsonl"):
            for line in log.read_text().splitlines():
                for event in json.loads(line):
                    if event["type"] == "training_stats_scalar" and "loss" in event["metric"]:
                        yield "scalars"
                    elif event["type"] == "plot":
                        yield "histograms"
                    elif event["type"] == "training_debug_image":
                        yield SUFFIXES.get(event["key"].rpartition(".")[2], "other")

    return counts(kinds())


def hook() -> None:
    """As its documentation says, offline."""
    from clearml import Task

    Task.init("bench", "peer", reuse_last_task_id=False)
