"""The gateway: what programs without a network write under a directory that it sees too."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import environment, eventually

WRITE = """
import sys
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter(sys.argv[1]) as writer:
    for step in range(int(sys.argv[2]), int(sys.argv[3])):
        writer.add_scalar("loss", step / 7, step)
"""


def write(directory: Path, name: str, start: int, stop: int) -> None:
    """Log with the writer alone, as a compute node without anything of ours would."""
    env = environment({"TRACELET_DISABLED": "1"})
    command = [sys.executable, "-c", WRITE, str(directory / "shared" / name), str(start), str(stop)]
    subprocess.run(command, env=env, check=True, capture_output=True)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "shared").mkdir()
    (tmp_path / "login").mkdir()
    command = [
        sys.executable, "-m", "tracelet_shim", "collect", "--follow", str(tmp_path / "shared"), "--backend", "mlflow",
        "--quiet", "1", "--processes", "2", "--idle", "15",
    ]  # fmt: skip
    with open(tmp_path / "login.log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path / "login", env=environment({}), stderr=log)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def points(tmp_path: Path) -> dict[str, list[int]]:
    """Return the steps of ``loss`` by run, as MLflow's store has them."""
    path = tmp_path / "login" / "mlflow.db"
    if not path.exists():
        return {}
    query = "SELECT r.name, m.step FROM metrics m JOIN runs r USING (run_uuid) WHERE m.key = 'loss' ORDER BY m.step"
    found: dict[str, list[int]] = {}
    db = sqlite3.connect(path)
    try:
        for name, step in db.execute(query):
            found.setdefault(name, []).append(step)
    except sqlite3.OperationalError:  # the store is being made
        return {}
    finally:
        db.close()
    return found


def test_each_run_under_a_directory_is_delivered_once(gateway: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Runs that are there, that come later, and that grow after a rest are runs of MLflow's, each point once."""
    write(tmp_path, "first", 0, 50)
    write(tmp_path, "second", 0, 60)
    eventually(lambda: points(tmp_path) == {"first": [*range(50)], "second": [*range(60)]}, 120, pause=0.5)
    write(tmp_path, "first", 50, 90)
    write(tmp_path, "third", 0, 10)
    expected = {"first": [*range(90)], "second": [*range(60)], "third": [*range(10)]}
    eventually(lambda: points(tmp_path) == expected, 120, pause=0.5)
    assert gateway.wait(120) == 0
    assert points(tmp_path) == expected
