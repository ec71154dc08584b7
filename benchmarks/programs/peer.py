"""One training program under a tracker's own TensorBoard hook, under ours, or under neither.

Config: `hook` (plain, theirs, ours), `tracker`, `groups` of ten scalars with 5 ms between. What arrived is counted by
another process, `benchmarks.programs.count`, when this one has ended: some hooks deliver at exit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def hook(tracker: str) -> None:
    """Switch a tracker's hook on, as its documentation says, offline."""
    if tracker == "wandb":
        import wandb

        wandb.init(project="bench", mode="offline", sync_tensorboard=True)
    elif tracker == "mlflow":
        import mlflow

        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        mlflow.pytorch.autolog(log_every_n_step=1)
        mlflow.start_run()  # else each scalar makes a run
    elif tracker == "clearml":
        from clearml import Task

        Task.init("bench", "peer", reuse_last_task_id=False)
    elif tracker == "comet":
        import comet_ml

        comet_ml.start(
            online=False, project_name="bench",
            experiment_config=comet_ml.ExperimentConfig(
                offline_directory="comet", auto_metric_logging=True, auto_histogram_tensorboard_logging=True,
            ),
        )  # fmt: skip
    else:
        import swanlab

        swanlab.sync_tensorboard_torch()
        swanlab.init(project="bench", mode="offline", log_dir="swanlog")


def train(config: dict[str, Any]) -> dict[str, Any]:
    if config["tracker"] == "comet" and config["hook"] == "theirs":
        import comet_ml  # noqa: F401 - its hook wants to be imported before torch
    from torch.utils.tensorboard import SummaryWriter

    from benchmarks.programs.train import Calls

    if config["hook"] == "theirs":
        hook(config["tracker"])
    elif config["hook"] == "ours":
        from tracelet_shim import start_logging

        start_logging(backend=config["tracker"], offline=True, quiet=True, exit_timeout=600).wait_opened(120)
    writer = SummaryWriter("runs/bench")
    rng = np.random.default_rng(7)
    image, samples = rng.random((3, 64, 64), np.float32), rng.normal(size=1000)
    sound = np.sin(np.linspace(0, 600, 8000)).astype(np.float32)[None]
    calls = Calls()
    began = time.monotonic()
    for step in range(config["groups"]):
        for tag in range(10):
            calls(writer.add_scalar, f"loss/{tag}", 0.1 * step, step)
        time.sleep(0.005)
        if step % 10 == 0:
            writer.add_image("image", image, step)
            writer.add_histogram("histogram", samples, step)
            writer.add_text("text", f"step {step}", step)
            writer.add_audio("audio", sound, step, sample_rate=8000)
    writer.close()
    return {"calls": calls.summary(), "began": began}


def main() -> None:
    """Train in a process of its own, which ends as programs end; then count."""
    config = json.loads(sys.argv[1])
    result = Path(sys.argv[2])
    if config.get("inner"):
        result.write_text(json.dumps(train(config)))
        return
    command = [sys.executable, "-m", "benchmarks.programs.peer", json.dumps({**config, "inner": True}), str(result)]
    subprocess.run(command, check=True, timeout=600)
    measured = {**json.loads(result.read_text()), "ended": time.monotonic()}
    if config["hook"] != "plain":
        from benchmarks.programs.count import COUNTERS

        groups, rare = config["groups"], (config["groups"] + 9) // 10
        measured["sent"] = {"scalars": 10 * groups, "images": rare, "histograms": rare, "texts": rare, "audio": rare}
        measured["arrived"] = COUNTERS[config["tracker"]](Path.cwd())
    result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
