"""Small training programs for the tests of delivery, and what is read back of them.

They run in processes of their own, against the real `tensorboard` and `mlflow` backends, and are read back with
TensorBoard's own loader and with SQL. MLflow takes longer to import than all else that a program and its relay do: what is not
about it has DVCLive in its place (`CHEAP`).
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.backends.dvclive.reader import DVCLiveReader

LOG = """
import os, signal, sys, threading, time
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter

def session(**more):
    return tracelet.start_logging(backend=["mlflow", "tensorboard"], project="p", exp_name="e", **more)

def log(n, writer=None, start=0):
    writer = writer or SummaryWriter("runs/x")
    for i in range(start, start + n):
        writer.add_scalar("loss", i / 7, i)
    return writer
"""

CHEAP = LOG.replace('"mlflow"', '"dvclive"')
"""The same with a tracker that starts sooner."""


def cheap_runs(directory: Path) -> list[tuple[str, int, int]]:
    """As `mlflow_runs`, for `CHEAP`."""
    found = []
    for run_id in DVCLiveReader(directory / "dvclive").run_ids():
        reader = DVCLiveReader(directory / "dvclive", run_id)
        steps = [point.step for point in reader.scalars("", "loss")]
        found.append((reader.status().upper(), len(steps), len(set(steps))))
    return found


def mlflow_runs(directory: Path) -> list[tuple[str, int, int]]:
    """Return (status, points, distinct steps) of each MLflow run."""
    with sqlite3.connect(directory / "mlflow.db") as db:
        return db.execute(
            "SELECT r.status, COUNT(m.step), COUNT(DISTINCT m.step) FROM runs r LEFT JOIN metrics m USING (run_uuid)"
            " GROUP BY r.run_uuid ORDER BY r.start_time"
        ).fetchall()


def ledger(directory: Path) -> list[tuple[Any, ...]]:
    """Return (status, backend, delivered, failed, state) of each run that the ledger knows."""
    with sqlite3.connect(directory / "runs" / "x" / ".tracelet" / "ledger.db") as db:
        return db.execute(
            "SELECT s.status, backend, delivered, failed, state FROM runs JOIN sessions s ON s.id = session ORDER BY backend"
        ).fetchall()


def tensorboard_steps(directory: Path) -> list[int]:
    """Return the steps of ``loss`` in the copy of the event files."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    steps = []
    for path in sorted((directory / "tracelet-runs").rglob("*tfevents*")):
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            steps += [event.step for value in event.summary.value if value.tag == "loss"]
    return steps


def eventually(check: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `check` holds: a relay outlives the program that it served."""
    until = time.monotonic() + seconds
    while True:
        try:
            if check():
                return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)


def relays(directory: Path) -> list[int]:
    """Return the pids of relay processes that serve programs in `directory`, without those that are killed and, on a busy
    machine, have not come to die."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            here = (entry / "cwd").resolve() == directory.resolve()
            dies = _is_killed((entry / "status").read_text())
        except OSError:
            continue
        if b"tracelet_shim.relay" in command and here and not dies:
            found.append(int(entry.name))
    return found


def _is_killed(status: str) -> bool:
    """Return whether a process has still to take a SIGKILL, for itself or its main thread; from /proc/PID/status."""
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)
