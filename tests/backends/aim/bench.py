"""Aim without us, for the benchmarks: its SDK's best bulk call."""

from __future__ import annotations

from benchmarks.sdk import Opened


def direct() -> Opened:
    """`track` of a dict: a call for each value costs as much."""
    from aim import Repo, Run

    run = Run(repo=Repo.from_path("aim", init=True), system_tracking_interval=None, capture_terminal_logs=False)

    def log(step: int, values: dict[str, float]) -> None:
        run.track(values, step=step)

    return log, run.close
