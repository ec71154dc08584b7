"""W&B without us, for the benchmarks: its SDK's best bulk call, its own TensorBoard hook, and what arrived."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.sdk import Counts, Opened, counts


def direct() -> Opened:
    """A row for each step, with the step as a value, as W&B's own TensorBoard hook writes it."""
    import wandb

    run = wandb.init(mode="offline", settings=wandb.Settings(console="off", x_disable_stats=True))
    run.define_metric("global_step", hidden=True)
    run.define_metric("*", step_metric="global_step")

    def log(step: int, values: dict[str, float]) -> None:
        run.log({**values, "global_step": step, "_timestamp": time.time()})

    return log, run.finish


def count(directory: Path) -> Counts:
    from tests.backends.wandb.reader import _log_records

    types = {
        "image-file": "images", "images/separated": "images", "histogram": "histograms", "html-file": "texts",
        "audio-file": "audio",
    }  # fmt: skip

    def kinds() -> Iterator[str]:
        for log in directory.glob("wandb/offline-run-*/run-*.wandb"):
            for record in _log_records(log):
                if record.WhichOneof("record_type") == "history":
                    for item in record.history.item:
                        path = list(item.nested_key) or [item.key]
                        if path[-1] == "_type":
                            yield types.get(json.loads(item.value_json), "other")
                        elif "loss" in path[-1]:
                            yield "scalars"

    return counts(kinds())


def hook() -> None:
    """As its documentation says, offline."""
    import wandb

    wandb.init(project="bench", mode="offline", sync_tensorboard=True)
