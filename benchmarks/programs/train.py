"""A training program: with plain TensorBoard (no trackers), or with these trackers behind it.

Config: `trackers`, `sizes` (workload -> how many). Of each workload come the times of its calls, the processor time, the wall
time, and the bytes a call that go into the ring. Before each, everything earlier has been delivered. At the end, threads are
counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from benchmarks.programs.common import cpu, main, processor_time, relay_pid


class Calls:
    """Times calls."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        before = time.perf_counter_ns()
        function(*args, **kwargs)
        self.times.append(time.perf_counter_ns() - before)

    def summary(self) -> dict[str, float]:
        """Return microseconds a call."""
        times = np.array(self.times) / 1e3
        return {"median": float(np.median(times)), "mean": float(times.mean()), "p99": float(np.percentile(times, 99))}


class Workloads:
    """One method for each workload; `timed` calls a method of the writer and takes the time.

    Args:
        writer: a SummaryWriter.
        timed: called as ``timed(function, *args)``.
    """

    def __init__(self, writer: Any, timed: Calls) -> None:
        rng = np.random.default_rng(7)
        self.writer = writer
        self.timed = timed
        self.step = count()
        self.image = rng.random((3, 64, 64), np.float32)
        self.samples = rng.normal(size=1000)
        self.sound = np.sin(np.linspace(0, 2000, 22050)).astype(np.float32)[None]

    def scalars_in_groups(self, groups: int) -> None:
        for _ in range(groups):
            step = next(self.step)
            for tag in range(10):
                self.timed(self.writer.add_scalar, f"loss/{tag}", 0.1 * step, step)
            time.sleep(0.005)

    def scalars(self, steps: int) -> None:
        for _ in range(steps):
            step = next(self.step)
            for tag in range(10):
                self.timed(self.writer.add_scalar, f"loss/{tag}", 0.1 * step, step)

    def images(self, number: int) -> None:
        for _ in range(number):
            self.timed(self.writer.add_image, "image", self.image, next(self.step))

    def histograms(self, number: int) -> None:
        for _ in range(number):
            self.timed(self.writer.add_histogram, "histogram", self.samples, next(self.step))

    def audio(self, number: int) -> None:
        for _ in range(number):
            self.timed(self.writer.add_audio, "sound", self.sound, next(self.step), sample_rate=22050)

    def figures(self, number: int) -> None:
        from matplotlib.figure import Figure

        figure = Figure((3, 2))
        figure.subplots().plot(self.samples[:50])
        for _ in range(number):
            self.timed(self.writer.add_figure, "figure", figure, next(self.step), close=False)

    def mixed(self, steps: int) -> None:
        """Steps of 10 ms; the work of the step is a sleep, so that all processor time is that of logging."""
        for _ in range(steps):
            step = next(self.step)
            time.sleep(0.01)
            for tag in range(20):
                self.timed(self.writer.add_scalar, f"loss/{tag}", 0.1 * step, step)
            if step % 50 == 0:
                self.writer.add_image("image", self.image, step)
                for layer in range(5):
                    self.writer.add_histogram(f"weights/{layer}", self.samples, step)


def measure(config: dict[str, Any]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    before_start = cpu()
    session = None
    if config["trackers"]:
        from tracelet_shim import start_logging

        session = start_logging(backend=config["trackers"], offline=True, quiet=True, exit_timeout=600)
        session.wait_opened(120)
        states = session.status()
        assert all(state.state == "open" for state in states.values()), states
    relay = relay_pid()
    writer = SummaryWriter("runs/bench")
    writer.add_scalar("first", 0.0, 0)
    results: dict[str, Any] = {"start_cpu": cpu() - before_start}

    def settle() -> None:
        writer.flush()
        if session is not None:
            assert session.flush(600)

    def written() -> int:
        """Return how many bytes have gone into the ring."""
        return session._bus._parts[0].bus._outbox.ring.written if session is not None else 0

    for name, number in config["sizes"].items():
        settle()
        time.sleep(0.2)
        timed = Calls()
        workloads = Workloads(writer, timed)
        written_before = written()
        cpu_before, relay_before, began = cpu(), processor_time(relay), time.perf_counter()
        getattr(workloads, name)(number)
        writer.flush()
        wall = time.perf_counter() - began
        settle()  # what is done at later calls is ours too
        results[name] = {
            "calls": timed.summary(), "number": len(timed.times), "wall": wall, "cpu": cpu() - cpu_before,
            "relay_cpu": processor_time(relay) - relay_before, "ring": (written() - written_before) / len(timed.times),
        }  # fmt: skip
    results["threads"] = len(os.listdir("/proc/self/task"))
    results["our_threads"] = sum(thread.name.startswith("tracelet") for thread in threading.enumerate())
    before_end, began = cpu(), time.perf_counter()
    writer.close()
    if session is not None:
        session.stop()
    results["end_cpu"], results["end_wall"] = cpu() - before_end, time.perf_counter() - began
    return results


if __name__ == "__main__":
    main(measure)
