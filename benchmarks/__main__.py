"""Measure everything side by side: ``make bench``, or ``python -m benchmarks [--quick] [--only SECTION] [--docs]``.

Writes ``results.json``, ``results.md`` and ``results.svg``, and prints the tables.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from benchmarks import delivery, ends, memory, peers, report, startup, training
from benchmarks.harness import ROOT, Programs, Result
from tests.backends import TRACKERS
from tracelet_shim.backends import registry

SECTIONS: dict[str, Callable[..., Result]] = {
    "training": training.run,
    "delivery": delivery.run,
    "ends": ends.run,
    "memory": memory.run,
    "startup": startup.run,
    "peers": peers.run,
}


def about(*, quick: bool) -> Result:
    """Return what the numbers depend on; nothing that tells whose machine it was."""
    packages = ["tracelet-shim", "torch", *(registry.find(name).distribution for name in TRACKERS)]
    return {
        "date": time.strftime("%Y-%m-%d"), "mode": "quick" if quick else "full", "python": platform.python_version(),
        "system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller sizes: about five minutes")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="only this section; may be repeated")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="where the results are written")
    parser.add_argument("--docs", action="store_true", help="keep the result in benchmarks/ and renew docs/performance.md")
    arguments = parser.parse_args()
    output: Path = arguments.output.resolve()
    cache = output / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    results: Result = {"about": about(quick=arguments.quick)}
    for name in arguments.only or SECTIONS:
        results[name] = SECTIONS[name](Programs(cache), quick=arguments.quick)
        results["about"]["minutes"] = round((time.monotonic() - began) / 60, 1)
        (output / "results.json").write_text(report.as_json(results))
    text = report.tables(results)
    (output / "results.md").write_text(text)
    report.plot(results, output / "results.svg")
    print(text)
    print(f"written to {output}")
    if arguments.docs:
        report.keep(results)


if __name__ == "__main__":
    main()
