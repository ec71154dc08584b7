"""Sessions of one tracker, one after the other: through Redis, or with a relay process of their own.

Config: `delivery` (the address of a Redis, "process", or none for plain TensorBoard), `tracker`, `sessions`, `steps` of ten
scalars each, `pause` between steps in seconds, `exit_timeout`. Of the last session come the times of its calls, and what its
relay (of a fleet: its forwarder) takes: memory in megabytes, of what processes have in common their share, and processor time.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from benchmarks.programs.common import cpu, main, processor_time, relay_pid
from benchmarks.programs.relay import memory


def measure(config: dict[str, Any]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    from tracelet_shim import start_logging

    found: dict[str, Any] = {}
    for number in range(config["sessions"]):
        session, relay = None, None
        if config["delivery"] is not None:
            session = start_logging(
                backend=config["tracker"], delivery=config["delivery"], exp_name=f"bench-{number}", quiet=True,
                exit_timeout=config["exit_timeout"],
            )  # fmt: skip
            if config["delivery"] == "process":
                session.wait_opened(120)
            while config["sessions"] == 1 and relay is None:  # of several, those of earlier ones are still there
                relay = relay_pid()
        writer = SummaryWriter(f"runs/{os.getpid()}-{number}")
        writer.add_scalar("first", 0.0, 0)
        times = []
        before, own = processor_time(relay), cpu()
        for step in range(config["steps"]):
            for tag in range(10):
                call = time.perf_counter_ns()
                writer.add_scalar(f"loss/{tag}", 0.1 * step, step)
                times.append(time.perf_counter_ns() - call)
            if config["pause"]:
                time.sleep(config["pause"])
        found = {
            "median": float(np.median(times)) / 1e3, "p99": float(np.percentile(times, 99)) / 1e3,
            "cpu": 1e6 * (cpu() - own) / len(times), "relay_memory": memory(relay),
            "relay_cpu": 1e6 * (processor_time(relay) - before) / len(times),
        }  # fmt: skip
        writer.close()
        if session is not None:
            session.stop()
    return found


if __name__ == "__main__":
    main(measure)
