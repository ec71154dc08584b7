"""What a collector takes for many sessions at once: ``python -m benchmarks.node [--sessions N] [--relays N]``.

One run: N sessions to one MLflow store through one collector, then a few with relay processes of their own, from which so
many are reckoned. Ratios are what counts; processor time and memory need no quiet machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.harness import Programs, Result, say


def run(programs: Programs, *, sessions: int, relays: int, scalars: int, seconds: float) -> Result:
    """Measure both ways, and compare."""
    config = {"scalars": scalars, "seconds": seconds}
    say(f"node: {sessions} sessions through a collector")
    together = programs.run("node", {**config, "sessions": sessions, "collector": True})
    say(f"node: {relays} sessions with relay processes")
    alone = programs.run("node", {**config, "sessions": relays, "collector": False})
    results: Result = {"sessions": sessions, "scalars": scalars, "collector": together, "relays": relays, "each": alone}
    if "error" not in together and "error" not in alone:
        results["memory_of_relays"] = alone["memory"] / relays * sessions
        results["memory_ratio"] = together["memory"] / results["memory_of_relays"]
        results["cpu_ratio"] = together["cpu_to_start"] / alone["cpu_to_start"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node", description=__doc__)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--relays", type=int, default=4)
    parser.add_argument("--scalars", type=int, default=100, help="of each session, at its start; then five a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which all go on")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        print(json.dumps(run(Programs(Path(cache)), **vars(arguments)), indent=1))


if __name__ == "__main__":
    main()
