"""A loop that does nothing but hand scalars to one tracker, by the best bulk call of its SDK.

Config: `tracker`, `steps`; each step has ten tags. What is timed begins with the run open and ends with the run closed: most
SDKs return before they have done the work. The call of each is in `tests/backends/<tracker>/bench.py`.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.programs.common import main
from tests.backends import part

TAGS = [f"loss/{tag}" for tag in range(10)]


def measure(config: dict[str, Any]) -> dict[str, Any]:
    log, close = part(config["tracker"], "bench").direct()
    log(0, dict.fromkeys(TAGS, 0.0))
    time.sleep(2.0)
    began = time.perf_counter()
    for step in range(1, config["steps"] + 1):
        log(step, dict.fromkeys(TAGS, 0.1 * step))
    looped = time.perf_counter()
    close()
    return {"loop": looped - began, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main(measure)
