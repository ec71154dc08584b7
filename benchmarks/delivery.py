"""Delivery of a queue of scalars, tracker by tracker, against the tracker's SDK in a loop that does nothing else."""

from __future__ import annotations

from benchmarks.harness import Programs, Result, Spread, ratios, say
from tests.backends import TRACKERS

MOST_ROUNDS, SECONDS = 9, 6.0


def run(programs: Programs, *, quick: bool) -> Result:
    """Measure each tracker directly and through a session, in turn."""
    steps = 1_000 if quick else 10_000
    trackers = ("tensorboard", "mlflow", "wandb") if quick else TRACKERS
    found: Result = {"scalars": 10 * steps, "trackers": {}}
    for tracker in trackers:
        direct, ours, problem = [], [], ""
        for number in range(1 if quick else MOST_ROUNDS):
            if number >= 3 and sum(direct) > SECONDS:  # what is soon over is measured more often: it varies more
                break
            say(f"delivery, round {number + 1}: {tracker}")
            pair = [programs.run(program, {"tracker": tracker, "steps": steps}) for program in ("direct", "deliver")]
            if any("error" in result for result in pair):
                problem = pair[0].get("error") or pair[1]["error"]
            else:
                direct.append(pair[0]["seconds"])
                ours.append(pair[1]["seconds"])
        if direct:
            found["trackers"][tracker] = {
                "direct": Spread.of(direct), "ours": Spread.of(ours), "throughput_ratio": ratios(direct, ours),
            }  # fmt: skip
        else:
            found["trackers"][tracker] = {"error": problem}
    return found
