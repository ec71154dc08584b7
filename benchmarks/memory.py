"""Resident memory: what a million scalars leave, and what a tracker costs that takes nothing."""

from __future__ import annotations

from benchmarks.harness import Programs, Result, say

BUDGET = 32.0  # megabytes
BOUNDED = ("stalled scalars", "stalled images", "trackio")
"""The programs that have this budget; Trackio's, since its batches are the largest."""
SHARE = 100_000
"""Scalars after which the trackers are waited for."""


def run(programs: Programs, *, quick: bool) -> Result:
    """Measure; sizes are in megabytes."""
    scalars = 30_000 if quick else 1_000_000
    found: Result = {"scalars": scalars, "budget": BUDGET, "bounded": BOUNDED, "runs": {}}
    ours = {"scalars": scalars, "trackers": ["tensorboard"]}
    stalled = {**ours, "trackers": ["tensorboard"], "stalled": True}
    configs: dict[str, Result] = {
        "plain": {**ours, "trackers": []},
        "waited": {**ours, "share": SHARE},
        "at once": ours,
        "stalled scalars": stalled,
        "stalled images": {**stalled, "scalars": 0, "images": 400},
        "trackio": {**ours, "trackers": ["trackio"]},
    }
    for name in ("waited", "stalled scalars") if quick else configs:
        say(f"memory: {name}")
        budget = {"TRACELET_MEMORY": str(BUDGET)} if name in BOUNDED else {}
        result = programs.run("grow", configs[name], **budget)
        found["runs"][name] = {key: result[key] for key in ("error", "training", "relay") if key in result}
    return found
