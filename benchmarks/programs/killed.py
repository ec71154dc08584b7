"""A program that is killed (SIGKILL) right after its last scalar, and what is left of them.

Config: `tracker` (None for plain TensorBoard), `scalars`, `pause` (seconds between two). Counted are the scalars in its own event
file, and those in the tracker when the relay has ended; nobody flushes, and nobody resumes the delivery.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.programs.common import main, relay_pid
from tests.backends import part


def train(config: dict[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    if config["tracker"]:
        from tracelet_shim import start_logging

        start_logging(backend=config["tracker"], offline=True, quiet=True)
    writer = SummaryWriter("runs/bench")
    Path("relay").write_text(str(relay_pid() or ""))
    for step in range(config["scalars"]):
        writer.add_scalar("loss", 0.1 * step, step)
        if config["pause"]:
            time.sleep(config["pause"])
    os.kill(os.getpid(), signal.SIGKILL)


def measure(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("inner"):
        train(config)
    inner = [sys.executable, "-m", "benchmarks.programs.killed", json.dumps({**config, "inner": True}), "unused"]
    assert subprocess.run(inner, check=False, timeout=600).returncode == -signal.SIGKILL
    relay = Path("relay").read_text()
    while relay and lives(relay):
        time.sleep(0.1)
    kept = {"file": in_event_files()}
    if config["tracker"]:
        kept["tracker"] = part(config["tracker"], "bench").count(Path.cwd())["scalars"]
    return kept


def lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def in_event_files() -> int:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    records = (raw for path in Path("runs").rglob("*tfevents*") for raw in RawEventFileLoader(str(path)).Load())
    return sum(value.tag == "loss" for raw in records for value in Event.FromString(raw).summary.value)


if __name__ == "__main__":
    main(measure)
