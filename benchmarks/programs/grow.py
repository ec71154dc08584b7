"""Resident memory of a training process and its relay while scalars are logged.

Config: `trackers`; `scalars`; `share`, after so many the trackers are waited for; `images`, 256x256 of noise, logged after
the scalars; `stalled`, add a tracker that takes nothing. Sizes in the result are megabytes, the growth since the first events.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.programs.common import main, relay_pid, resident

ENTRY_POINT = "[tracelet_shim.backends]\nstalled = benchmarks.programs.stalled:StalledBackend\n"


def install_stalled() -> None:
    """Make the stalled tracker known, here and in the relay, as an installed package would be."""
    about = Path("packages", "stalled-1.0.dist-info")
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stalled\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINT)
    sys.path.append(os.path.abspath("packages"))


def measure(config: dict[str, Any]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    session = None
    trackers = list(config["trackers"])
    if config.get("stalled"):
        install_stalled()
        trackers.append("stalled")
    if trackers:
        from tracelet_shim import start_logging

        session = start_logging(backend=trackers, offline=True, quiet=True, exit_timeout=5 if config.get("stalled") else 600)
        session.wait_opened(60)
    relay = relay_pid()
    writer = SummaryWriter("runs/bench")
    image = np.random.default_rng(7).integers(0, 255, (3, 256, 256), np.uint8)
    for step in range(5_000):
        writer.add_scalar("loss", 0.5, step)
    writer.add_image("image", image)
    writer.flush()
    time.sleep(1.0)
    if session is not None and not config.get("stalled"):
        assert session.flush(60)
    before = {pid: resident(pid) for pid in (os.getpid(), relay) if pid is not None}
    peak = dict(before)

    def look() -> None:
        for pid in before:
            peak[pid] = max(peak[pid], resident(pid))

    for step in range(config["scalars"]):
        writer.add_scalar("loss", 0.1 * step, step)
        if step % 10_000 == 0:
            look()
        if session is not None and (step + 1) % config.get("share", 10**9) == 0:
            assert session.flush(600)
    for step in range(config.get("images", 0)):
        writer.add_image("image", image, step)
        look()
    writer.flush()
    for _ in range(20):
        time.sleep(0.1)
        look()
    after = {pid: resident(pid) for pid in before}
    writer.close()
    if session is not None:
        session.stop()
    results = {}
    for name, pid in (("training", os.getpid()), ("relay", relay)):
        if pid is not None:
            results[name] = {"left": (after[pid] - before[pid]) / 1e6, "peak": (peak[pid] - before[pid]) / 1e6}
    return results


if __name__ == "__main__":
    main(measure)
