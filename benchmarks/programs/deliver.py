"""The same scalars as in `direct`, through SummaryWriter and a session with one tracker.

Config: `tracker`, `steps`; each step has ten tags. The relay process is stopped until all have been logged. What is timed is
the delivery of this queue, from when the relay goes on to the end of the session, which closes the run.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from benchmarks.programs.common import main, relay_pid
from benchmarks.programs.direct import TAGS


def measure(config: dict[str, Any]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    from tracelet_shim import start_logging

    session = start_logging(backend=config["tracker"], offline=True, quiet=True, strict=True, exit_timeout=600)
    writer = SummaryWriter("runs/bench")
    for tag in TAGS:
        writer.add_scalar(tag, 0.0, 0)
    assert session.flush(120)
    time.sleep(2.0)
    relay = relay_pid()
    assert relay is not None
    os.kill(relay, signal.SIGSTOP)
    try:
        for step in range(1, config["steps"] + 1):
            for tag in TAGS:
                writer.add_scalar(tag, 0.1 * step, step)
        writer.flush()
    finally:
        os.kill(relay, signal.SIGCONT)
    began = time.perf_counter()
    session.stop()
    seconds = time.perf_counter() - began
    delivered = session.status()[config["tracker"]].delivered
    assert delivered == 10 * (config["steps"] + 1), delivered
    return {"seconds": seconds}


if __name__ == "__main__":
    main(measure)
