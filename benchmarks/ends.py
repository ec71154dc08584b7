"""How programs end: killed, and on a machine that is busy with other work."""

from __future__ import annotations

import os

from benchmarks.harness import Programs, Result, Spread, ratios, say

KILLED = {"at once": {"scalars": 5_000, "pause": 0.0}, "paced": {"scalars": 300, "pause": 0.01}}
TRACKERS = ("tensorboard", "mlflow")
BUSY_PROCESSES = 8
"""For each processor."""


def run(programs: Programs, *, quick: bool) -> Result:
    """Measure plain and ours, the SDK and ours, in turn."""
    busy = _busy(programs, 1 if quick else 2, (2 if quick else BUSY_PROCESSES) * (os.cpu_count() or 1))
    return {"killed": _killed(programs, 1 if quick else 3), "busy": busy}


def _killed(programs: Programs, rounds: int) -> Result:
    found: Result = {}
    for name, config in KILLED.items():
        results: dict[str, list[Result]] = {}
        for number in range(rounds):
            for tracker in (None, *TRACKERS):
                say(f"killed, round {number + 1}: {name}, {tracker or 'plain'}")
                results.setdefault(tracker or "plain", []).append(programs.run("killed", {"tracker": tracker, **config}))
        found[name] = {
            "scalars": config["scalars"],
            "runs": {
                variant: {key: Spread.of(result[key] for result in kept) for key in ("file", "tracker") if key in kept[0]}
                for variant, each in results.items()
                if (kept := [result for result in each if "error" not in result])
            },
        }
    return found


def _busy(programs: Programs, rounds: int, processes: int) -> Result:
    direct, ours = [], []
    for number in range(rounds):
        pair = []
        for is_ours in (False, True):
            say(f"busy, round {number + 1}: {'ours' if is_ours else 'directly'}")
            pair.append(programs.run("busy", {"ours": is_ours, "processes": processes}))
        problem = next((result["error"] for result in pair if "error" in result), None)
        if problem is not None:
            return {"error": problem}
        direct.append(pair[0]["seconds"])
        ours.append(pair[1]["seconds"])
    return {"processes": processes, "direct": Spread.of(direct), "ours": Spread.of(ours), "ratio": ratios(ours, direct)}
