"""What each tracker costs, alone: ``python -m benchmarks.relays [--steps N]``, about two minutes.

Writes ``results-relays.json``, of which ``make docs`` makes the table in docs/which-tracker.md. A quiet machine is not needed for
processor time and memory; the wall times are context.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.__main__ import about
from benchmarks.harness import ROOT, Programs, Result, say
from benchmarks.report import as_json
from tests.backends import TRACKERS

KEPT = ROOT / "benchmarks" / "results-relays.json"
ROUNDS = 3


def run(programs: Programs, *, steps: int) -> Result:
    """Measure plain TensorBoard and each tracker in turn, and keep the median of each quantity."""
    rounds = []
    for number in range(ROUNDS):
        found = {}
        for tracker in ("", *TRACKERS):
            say(f"relays, round {number + 1}: {tracker or 'plain'}")
            found[tracker] = programs.run("relay", {"tracker": tracker, "steps": steps})
        rounds.append(found)
    trackers: Result = {}
    for tracker in ("", *TRACKERS):
        results = [found[tracker] for found in rounds if "error" not in found[tracker]]
        if len(results) < ROUNDS:
            trackers[tracker or "plain"] = {"error": next(r[tracker]["error"] for r in rounds if "error" in r[tracker])}
            continue
        keys = sorted(set(results[0]) - {"launched", "ended"})
        trackers[tracker or "plain"] = {key: sorted(result[key] for result in results)[ROUNDS // 2] for key in keys}
    return {"steps": steps, "scalars": 10 * steps, "rounds": ROUNDS, "trackers": trackers}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relays", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of ten scalars each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        results = {"about": about(quick=False), **run(Programs(Path(cache)), steps=arguments.steps)}
    del results["about"]["mode"]
    KEPT.write_text(as_json(results))
    print(f"written to {KEPT}")


if __name__ == "__main__":
    main()
