"""What a fleet of some size needs, from the constants in ``results-fleet.json``: ``python -m benchmarks.fleet_model [--write]``.

The numbers of docs/fleet-model.md are made here (``--write``), so that text and measurement cannot drift apart;
tests/fleet/test_model.py compares them.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.fleet import KEPT
from benchmarks.harness import ROOT
from tracelet_shim.backends.wandb.opening import UPLOADS
from tracelet_shim.fleet import shipper

PAGE = ROOT / "docs" / "fleet-model.md"
BEGIN, END = "<!-- From here on made by `python -m benchmarks.fleet_model --write` -->", "<!-- end of it -->"

GATHER_SECONDS, LOOK_SECONDS = shipper._GATHER, shipper._LOOK
FILE_STREAM_SECONDS = float(UPLOADS["x_file_stream_transmit_interval"])
BUSY = 0.6
"""How much of a core is planned with: what queues up behind more of it makes everything late."""
WANDB_PROJECT_REQUESTS, WANDB_PROJECT_BYTES, WANDB_RUN_REQUESTS, WANDB_RUNS = 500, 120e6, 2, 80
"""https://docs.wandb.ai/platform/hosting/self-managed/rate-limits, "Default limits": a second; the third of a run, the others of
a project; the fourth are runs that are created."""
WANDB_BYTES = 60
"""Of a scalar in a line of W&B's file stream, about: ``{"loss": 0.123, "global_step": 12, "_runtime": ...}``."""


class Plan(NamedTuple):
    """What is asked for.

    Attributes:
        runs: that are there at a time.
        rate: scalars a second, of each.
        hours: that a run takes.
    """

    runs: int
    rate: float
    hours: float = 8.0

    @property
    def scalars(self) -> float:
        """Scalars a second, of all."""
        return self.runs * self.rate


def _median(value: Any) -> float:
    return float(value["median"] if isinstance(value, dict) else value)


class Model:
    """The constants, and what follows from them.

    Args:
        results: of `benchmarks.fleet`.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        redis = results["redis"]
        self.paced, self.at_once = redis["paced"], redis["at_once"]
        self.stores = results["throughput"]
        self.sessions = results["sessions"]
        self.training = results["training"]

    # What lies in an entry of its own costs more than what is in a large one: in between, the number of entries counts.

    def of_scalar(self, what: str, plan: Plan) -> float:
        """Return what a scalar takes in Redis (`what`) at this pace, between the two that were measured."""
        paced_rate = 50.0
        entry = (self.paced[what] - self.at_once[what]) * paced_rate * GATHER_SECONDS
        a_batch = max(1.0, plan.rate * GATHER_SECONDS)
        return float(self.at_once[what] + max(0.0, entry) / a_batch)

    def redis_cores(self, plan: Plan) -> float:
        return plan.scalars * self.of_scalar("cpu", plan) / 1e6

    def redis_instances(self, plan: Plan) -> int:
        return math.ceil(self.redis_cores(plan) / BUSY)

    def commands(self, plan: Plan) -> float:
        return plan.runs * (1 / max(GATHER_SECONDS, 1 / plan.rate) + 3 / LOOK_SECONDS)

    def memory(self, plan: Plan, seconds: float) -> float:
        """Return the bytes in Redis when the trackers are so many seconds behind."""
        return plan.scalars * seconds * self.of_scalar("memory", plan) + plan.runs * float(self.at_once["session"])

    def collector_cores(self, plan: Plan, tracker: str) -> float:
        return plan.scalars / 1000 * _median(self.stores[tracker]["1"]["collectors_cpu"]) / 1000

    def server_cores(self, plan: Plan, tracker: str) -> float:
        return plan.scalars / 1000 * _median(self.stores[tracker]["1"]["server_cpu"]) / 1000

    def session_memory(self) -> float:
        """Return the megabytes that one more open session takes in a host."""
        return float((self.sessions["memory"] - self.sessions["idle_memory"]) / self.sessions["sessions"])


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"


def _count(number: float) -> str:
    return f"{math.ceil(number):,}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def measured(model: Model) -> list[str]:
    """The constants."""
    row = model.stores["mlflow"]["1"]
    rows: list[list[str]] = [
        ["a scalar in Redis: memory", f"{model.at_once['memory']:.0f} bytes", f"{model.paced['memory']:.0f} bytes"],
        ["network to Redis", f"{model.at_once['network']:.0f} bytes", f"{model.paced['network']:.0f} bytes"],
        ["log of Redis (AOF)", f"{model.at_once['log']:.0f} bytes", f"{model.paced['log']:.0f} bytes"],
        ["processor time of Redis", f"{model.at_once['cpu']:.1f} µs", f"{model.paced['cpu']:.1f} µs"],
    ]
    lines = _table(["", "appended at once", "at 50 a second"], rows)
    lines += [f"A session takes {_bytes(model.at_once['session'])} in Redis beside its records.", ""]
    rows = []
    for tracker, found in model.stores.items():
        one, ratio = found["1"], found["ratio"]
        rows.append([
            tracker, f"{_median(one['rate']):,.0f}", f"{_median(found['2']['rate']):,.0f}",
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})", f"{_median(one['collectors_cpu']):.0f} ms",
            f"{_median(one['server_cpu']):.0f} ms" if _median(one["server_cpu"]) else "none",
        ])  # fmt: skip
    head = ["store", "scalars a second, one collector", "two", "ratio", "collector's processor time for 1,000", "server's"]
    lines += _table(head, rows)
    times = _median(row["server_cpu"]) / _median(row["collectors_cpu"])
    lines += [
        "Two collectors are two processes on these cores, which others used as well: what is between one and two is what was",
        f"left. MLflow's server and PostgreSQL take {times:.1f} times the processor time of the collector, on the same",
        "cores: there the store is the limit, not the number of collectors.", "",
    ]  # fmt: skip
    training, ratio, idle = model.training, model.training["median_ratio"], model.sessions["idle_memory"]
    call = {name: _median(training[name]["median"]) for name in ("plain", "process", "redis")}
    relay = {name: _median(training[name]["relay_memory"]) for name in ("process", "redis")}
    spread = f"{ratio['median']:.2f}, {ratio['low']:.2f} to {ratio['high']:.2f}"
    many, open_ = model.sessions["sessions"], model.sessions["memory"]
    sentences = [
        f"On the thread that trains a scalar takes {call['redis']:.1f} µs through Redis, {call['process']:.1f} µs through a",
        f"relay process (ratio {spread}), and {call['plain']:.1f} µs without us. The forwarder has",
        f"{relay['redis']:.0f} MB, a relay with MLflow {relay['process']:.0f} MB.", "",
        f"A collector with one host has {idle:.0f} MB, and with {many} open sessions to MLflow {open_:.0f} MB:",
        f"{1000 * model.session_memory():.0f} kB each. To open a run, and write its first 101 points, takes",
        f"{model.sessions['cpu']:.0f} ms of processor time; a session that says nothing takes",
        f"{model.sessions['quiet_cpu']:.2f} ms a second. While it delivers, a collector has up to",
        f"{_median(row['memory']):.0f} MB.", "",
    ]  # fmt: skip
    lines += sentences
    return lines


def needed(model: Model, plans: list[Plan]) -> list[str]:
    """What each plan needs."""
    head = ["", *(f"{plan.runs:,} runs, {plan.rate:g} a second" for plan in plans)]

    def row(name: str, values: list[str]) -> list[str]:
        return [name, *values]

    rows = [
        row("scalars a second", [_count(plan.scalars) for plan in plans]),
        row("commands a second to Redis", [_count(model.commands(plan)) for plan in plans]),
        row("into Redis", [f"{8 * plan.scalars * model.of_scalar('network', plan) / 1e9:.2f} Gbit/s" for plan in plans]),
        row("written to its log", [f"{_bytes(plan.scalars * model.of_scalar('log', plan))}/s" for plan in plans]),
        row("cores of Redis", [f"{model.redis_cores(plan):.1f}" for plan in plans]),
        row("Redis instances (one core each)", [_count(model.redis_instances(plan)) for plan in plans]),
        row("memory: trackers 5 s behind", [_bytes(model.memory(plan, 5)) for plan in plans]),
        row("memory: a tracker away for 10 minutes", [_bytes(model.memory(plan, 600)) for plan in plans]),
        row("memory of the hosts for open sessions", [_bytes(1e6 * model.session_memory() * plan.runs) for plan in plans]),
    ]
    for tracker in model.stores:
        cores = [_count(model.collector_cores(plan, tracker) / BUSY) for plan in plans]
        rows.append(row(f"cores of collectors, {tracker}", cores))
    rows += [
        row("cores of MLflow's server and PostgreSQL", [_count(model.server_cores(plan, "mlflow") / BUSY) for plan in plans]),
        row("rows of MLflow's metrics a day", [f"{86_400 * plan.scalars / 1e9:.2f} thousand million" for plan in plans]),
        row("points of a run", [_count(plan.rate * 3600 * plan.hours) for plan in plans]),
        row("W&B: requests a second", [_count(plan.runs / max(FILE_STREAM_SECONDS, 1 / plan.rate)) for plan in plans]),
        row("W&B: projects for that", [_count(_projects(plan)) for plan in plans]),
    ]
    return _table(head, rows)


def _projects(plan: Plan) -> float:
    """Return how many projects of W&B its limits ask for."""
    by_requests = plan.runs / FILE_STREAM_SECONDS / WANDB_PROJECT_REQUESTS
    return max(1.0, by_requests, plan.scalars * WANDB_BYTES / WANDB_PROJECT_BYTES)


PLANS = [Plan(10_000, 50), Plan(10_000, 1), Plan(1_000, 50), Plan(200, 50)]


def text() -> str:
    """Return what stands between the marks in the page."""
    results = msgspec.json.decode(KEPT.read_bytes())
    model, about = Model(results), results["about"]
    lines = [
        BEGIN, "", "## Measured", "",
        f"On {about['cpus']} cores of a shared machine (Python {about['python']}, {about['date']}); PostgreSQL, MLflow's server,",
        "Redis and the collectors on the same ones. Ratios and processor time count; rates are those of this machine.", "",
        *measured(model), "## What follows", "", *needed(model, PLANS), END,
    ]  # fmt: skip
    return "\n".join(lines)


def renewed(page: str) -> str:
    """Return the page with the numbers of today."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: text(), page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_model", description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/fleet-model.md")
    if parser.parse_args().write:
        Path(PAGE).write_text(renewed(PAGE.read_text()))
    else:
        print(text())


if __name__ == "__main__":
    main()
