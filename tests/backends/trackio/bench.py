"""Trackio without us, for the benchmarks: its SDK's best bulk call."""

from __future__ import annotations

from benchmarks.sdk import Opened


def direct() -> Opened:
    """`log` of a dict."""
    import trackio

    run = trackio.init(project="bench", auto_log_cpu=False, auto_log_gpu=False, embed=False)

    def log(step: int, values: dict[str, float]) -> None:
        run.log(values, step=step)

    return log, trackio.finish
