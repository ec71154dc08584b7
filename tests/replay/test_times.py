"""A run takes as long as its events, not as long as their delivery."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.backends import TRACKERS
from tests.backends.about import about
from tests.conftest import RunPython
from tests.environment import isolated_environment
from tests.replay.commands import tracelet_shim

pytestmark = pytest.mark.usefixtures("mlflow_store")

BEGIN, END = 1_560_000_000, 1_560_000_240


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_a_replayed_run_has_the_times_of_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of 2019 becomes runs of four minutes in 2019, in each tracker; its file, and its delivery, are of today."""
    from torch.utils.tensorboard import SummaryWriter

    home = tmp_path / "home"
    for name, value in isolated_environment(home).items():
        monkeypatch.setenv(name, value)
    with SummaryWriter("logs") as writer:
        for step in range(5):
            writer.add_scalar("loss", step / 7, step, walltime=BEGIN + 60 * step)
    said = tracelet_shim(
        *("replay", "logs", "--backend", ",".join(TRACKERS), "--project", "p", "--exp-name", "old", "--offline"),
        *("--timeout", "200"),
    )
    assert said.count("5 events delivered, 0 pending, 0 set aside") == len(TRACKERS)
    found = {tracker: about(tracker).times(tmp_path, home) for tracker in TRACKERS}
    assert found == dict.fromkeys(TRACKERS, (BEGIN, END))


def test_a_live_run_does_not_last_its_drain(tmp_path: Path, run_python: RunPython) -> None:
    """A run ends when its program asks for the end, however long the delivery of the rest takes."""
    script = """
import os, signal, threading, time
import tracelet_shim
from torch.utils.tensorboard import SummaryWriter
session = tracelet_shim.start_logging(backend="mlflow", exit_timeout=200)
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 1.0, 1)
assert session.flush(200)
relay = session._bus._parts[0].bus.relay_pid
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 2.0, 2)
os.kill(relay, signal.SIGSTOP)
threading.Timer(3, os.kill, (relay, signal.SIGCONT)).start()
print(time.time())
tracelet_shim.stop_logging()
print(time.time())
"""
    asked, done = map(float, run_python(script, timeout=280).stdout.split())
    ((end, points),) = rows(tmp_path / "mlflow.db", "SELECT end_time, (SELECT COUNT(*) FROM metrics) FROM runs")
    assert points == 2
    assert abs(int(end) / 1000 - asked) < abs(int(end) / 1000 - done)
