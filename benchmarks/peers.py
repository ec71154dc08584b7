"""The trackers' own TensorBoard hooks, and ours, under the same program."""

from __future__ import annotations

from benchmarks.harness import Programs, Result, Spread, ratios, say
from tests.backends import TRACKERS, part

PEERS = tuple(tracker for tracker in TRACKERS if hasattr(part(tracker, "bench"), "hook"))


def run(programs: Programs, *, quick: bool) -> Result:
    """Measure plain TensorBoard, each hook, and ours with the same tracker, in turn."""
    groups = 40 if quick else 100
    trackers = ("wandb",) if quick else PEERS
    variants = [("plain", ""), *((hook, tracker) for tracker in trackers for hook in ("theirs", "ours"))]
    runs: dict[tuple[str, str], list[Result]] = {variant: [] for variant in variants}
    for number in range(1 if quick else 2):
        for hook, tracker in variants:
            say(f"peers, round {number + 1}: {hook} {tracker}")
            runs[hook, tracker].append(programs.run("peer", {"hook": hook, "tracker": tracker, "groups": groups}))
    plain = [result for result in runs["plain", ""] if "error" not in result]
    found: Result = {"plain": _summary(plain), "trackers": {}}
    for tracker in trackers:
        found["trackers"][tracker] = {}
        for hook in ("theirs", "ours"):
            results = [result for result in runs[hook, tracker] if "error" not in result]
            entry = _summary(results) if results else {"error": runs[hook, tracker][0]["error"]}
            if len(results) == len(plain):
                entry["median_ratio"] = ratios((r["calls"]["median"] for r in results), (r["calls"]["median"] for r in plain))
            found["trackers"][tracker][hook] = entry
    return found


def _summary(results: list[Result]) -> Result:
    summary: Result = {key: Spread.of(result["calls"][key] for result in results) for key in ("median", "mean", "p99")}
    summary["wall"] = Spread.of(result["ended"] - result["began"] for result in results)
    if "arrived" in results[0]:
        kinds = results[0]["sent"]
        summary["arrived"] = {
            kind: Spread.of(min(result["arrived"][kind] / number, 2.0) for result in results) for kind, number in kinds.items()
        }
    return summary
