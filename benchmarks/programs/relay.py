"""One tracker behind a training program, or none: what its call costs, and what its relay process takes.

Config: `tracker` (or none), `steps` of ten scalars, 5 ms between. Of the relay, and of the processes that the tracker's SDK
starts, come the processor time until the run is open, that of the scalars, and the greatest memory (of what
processes have in common their proportional share, in megabytes).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.programs.common import descendants, main, processor_time, relay_pid


def memory(pid: int | None) -> float:
    """Return the proportional memory of a process and its descendants, in megabytes."""
    total = 0
    for each in [] if pid is None else [pid, *descendants(pid)]:
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has just ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def measure(config: dict[str, Any]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    session, relay, found = None, None, {}
    began = time.perf_counter()
    if config["tracker"]:
        from tracelet_shim import start_logging

        session = start_logging(backend=config["tracker"], offline=True, quiet=True, exit_timeout=120)
        states = session.wait_opened(120)
        assert config["tracker"] in states, session.status()
        relay = relay_pid()
        found["open"] = time.perf_counter() - began
    found["cpu_to_open"] = processor_time(relay)
    writer = SummaryWriter("runs/bench")
    writer.add_scalar("first", 0.0, 0)
    times, most = [], memory(relay)
    before = processor_time(relay)
    for step in range(config["steps"]):
        for tag in range(10):
            call = time.perf_counter_ns()
            writer.add_scalar(f"loss/{tag}", 0.1 * step, step)
            times.append(time.perf_counter_ns() - call)
        time.sleep(0.005)
        if step % 100 == 0:
            most = max(most, memory(relay))
    writer.flush()
    if session is not None:
        assert session.flush(120), session.status()
    found["cpu"] = processor_time(relay) - before
    found["memory"] = max(most, memory(relay))
    found["median"] = float(np.median(times)) / 1e3
    found["training"] = memory(os.getpid()) - memory(relay)
    writer.close()
    began = time.perf_counter()
    if session is not None:
        session.stop()
    found["end"] = time.perf_counter() - began
    return found


if __name__ == "__main__":
    main(measure)
