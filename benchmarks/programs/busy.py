"""Five scalars to an MLflow whose store is not there yet, while others keep the machine busy: its SDK in the program, or ours.

Config: `ours`, `processes` (busy ones, each in a session of its own, as other users' programs are). What is timed begins when the
program has imported what both need, and ends with the run closed and everything in it. The others give up after a minute.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.programs.common import main

SCALARS = 5
SECONDS = 60
BUSY = f"import time\nend = time.monotonic() + {SECONDS}\nwhile time.monotonic() < end: pass"


def measure(config: dict[str, Any]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    program = ours if config["ours"] else direct
    others = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", BUSY], start_new_session=True) for _ in range(config["processes"])
    ]
    try:
        time.sleep(2.0)  # they have started
        began = time.perf_counter()
        program(SummaryWriter)
        seconds = time.perf_counter() - began
    finally:
        for other in others:
            other.kill()
            other.wait()
    return {"seconds": seconds}


def direct(make_writer: Callable[[str], Any]) -> None:
    """What one writes by hand to have both."""
    import mlflow

    writer = make_writer("runs/bench")
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    with mlflow.start_run():
        for step in range(SCALARS):
            writer.add_scalar("loss", 0.1 * step, step)
            mlflow.log_metric("loss", 0.1 * step, step=step)
    writer.close()


def ours(make_writer: Callable[[str], Any]) -> None:
    from tracelet_shim import start_logging

    options = {"mlflow": {"tracking_uri": "sqlite:///mlflow.db"}}
    session = start_logging(backend="mlflow", options=options, quiet=True, strict=True, exit_timeout=600)
    writer = make_writer("runs/bench")
    for step in range(SCALARS):
        writer.add_scalar("loss", 0.1 * step, step)
    writer.close()
    session.stop()


if __name__ == "__main__":
    main(measure)
