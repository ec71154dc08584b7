"""One training program under a tracker's own TensorBoard hook, under ours, or under neither.

Config: `hook` (plain, theirs, ours), `tracker`, `groups` of ten scalars with 5 ms between. What arrived is counted by
the process around it when it has ended: some hooks deliver at exit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.backends import part


def train(config: dict[str, Any]) -> dict[str, Any]:
    bench = part(config["tracker"], "bench") if config["hook"] == "theirs" else None
    if hasattr(bench, "hook_first"):
        import_module(bench.hook_first)
    from torch.utils.tensorboard import SummaryWriter

    from benchmarks.programs.train import Calls

    if bench:
        bench.hook()
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
        groups, rare = config["groups"], (config["groups"] + 9) // 10
        measured["sent"] = {"scalars": 10 * groups, "images": rare, "histograms": rare, "texts": rare, "audio": rare}
        measured["arrived"] = part(config["tracker"], "bench").count(Path.cwd())
    result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
