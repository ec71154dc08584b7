"""Costs of the training process: calls, processor time, wall time, against plain TensorBoard."""

from __future__ import annotations

from benchmarks.harness import FOUR, Programs, Result, Spread, ratios, say
from tests.backends import TRACKERS

VARIANTS = {"plain": (), "1": ("tensorboard",), "4": FOUR, "9": TRACKERS}
"""How many trackers -> which."""
FULL = {
    "scalars_in_groups": 200, "scalars": 2000, "images": 200, "histograms": 200, "audio": 100, "figures": 20, "mixed": 500,
}  # fmt: skip
QUICK = {
    "scalars_in_groups": 100, "scalars": 200, "images": 30, "histograms": 30, "audio": 15, "figures": 4, "mixed": 60,
}  # fmt: skip


def run(programs: Programs, *, quick: bool) -> Result:
    """Measure all variants in turn, again and again."""
    sizes = QUICK if quick else FULL
    variants = {name: VARIANTS[name] for name in (("plain", "9") if quick else VARIANTS)}
    rounds: list[dict[str, Result]] = []
    for number in range(1 if quick else 3):
        found = {}
        for name, trackers in variants.items():
            say(f"training, round {number + 1}: {name}")
            found[name] = programs.run("train", {"trackers": trackers, "sizes": sizes})
        if not any("error" in result for result in found.values()):  # else there is nothing to compare with
            rounds.append(found)
    if not rounds:
        return {"error": "no round came through"}
    return {
        "workloads": {name: _compare(rounds, name) for name in sizes}, "session": _session(rounds),
        "threads": {
            variant: {key: Spread.of(found[variant][key] for found in rounds) for key in ("threads", "our_threads")}
            for variant in rounds[0]
        },
    }  # fmt: skip


def _compare(rounds: list[dict[str, Result]], workload: str) -> Result:
    compared: Result = {"calls": rounds[0]["plain"][workload]["number"]}
    plain = [found["plain"][workload] for found in rounds]
    for variant in rounds[0]:
        ours = [found[variant][workload] for found in rounds]
        entry: Result = {key: Spread.of(r["calls"][key] for r in ours) for key in ("median", "mean", "p99")}
        entry |= {key: Spread.of(r[key] for r in ours) for key in ("cpu", "wall", "relay_cpu", "ring")}
        if variant != "plain":
            entry["above"] = Spread.of(a["calls"]["median"] - b["calls"]["median"] for a, b in zip(ours, plain, strict=True))
            for key in ("median", "p99"):
                entry[f"{key}_ratio"] = ratios((r["calls"][key] for r in ours), (r["calls"][key] for r in plain))
            for key in ("cpu", "wall"):
                entry[f"{key}_ratio"] = ratios((r[key] for r in ours), (r[key] for r in plain))
        compared[variant] = entry
    return compared


def _session(rounds: list[dict[str, Result]]) -> Result:
    """What a session costs besides: to start it and to end it."""
    return {
        variant: {key: Spread.of(found[variant][key] for found in rounds) for key in ("start_cpu", "end_cpu", "end_wall")}
        for variant in rounds[0]
        if variant != "plain"
    }
