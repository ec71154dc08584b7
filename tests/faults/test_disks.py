"""Full disks, and a state directory that cannot be made."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.environment import warnings
from tests.faults.conftest import Train
from tests.faults.harness import copied_steps, event_file_steps, eventually, fill

pytestmark = pytest.mark.usefixtures("mlflow_store")


def mlflow_steps(directory: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(directory / "mlflow.db")) as db:
        return [step for (step,) in db.execute("SELECT step FROM metrics ORDER BY step, timestamp")]


def test_trackers_disk_is_full(train: Train, tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    """When the disk of a tracker's store is full, only that tracker waits, and goes on where it stopped when there is space
    again: nothing torn, nothing twice."""
    disk = small_disk("1m")
    program = train(
        """
session = begin("tensorboard", "mlflow")
log(0, 300)
assert session.flush(60)
reach("first"); wait_for("full")
log(300, 5000)
reach("second"); wait_for("space")
log(5000, 5100)
""",
        env={"TRACELET_TENSORBOARD_LOGDIR": str(disk / "copies")},
    )
    program.wait_for("first")
    fill(disk)
    program.go("full")
    program.wait_for("second")
    eventually(lambda: "No space left on device" in program.errors)
    eventually(lambda: len(mlflow_steps(tmp_path)) == 5000)
    assert len(event_file_steps(disk)) < 5000
    (disk / "filler").unlink()
    program.go("space")
    program.end(5100)
    assert event_file_steps(disk) == list(range(5100))
    assert mlflow_steps(tmp_path) == list(range(5100))


def test_disk_stays_full(train: Train, tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    """A disk that stays full until the end is named with what is missing; delivery can be resumed when there is space."""
    disk = small_disk("1m")
    program = train(
        """
session = begin("tensorboard", exit_timeout=4)
log(0, 300)
assert session.flush(60)
reach("first"); wait_for("full")
log(300, 5000)
""",
        env={"TRACELET_TENSORBOARD_LOGDIR": str(disk / "copies")},
        exit_timeout=4,
    )
    program.wait_for("first")
    fill(disk)
    program.go("full")
    said = program.end(5000)
    assert "events were not delivered" in said
    assert "[Errno 28] No space left on device" in said
    assert "--resume" in said
    (disk / "filler").unlink()
    program.resume(env={"TRACELET_TENSORBOARD_LOGDIR": str(disk / "copies")})
    assert event_file_steps(disk) == list(range(5000))


def test_disk_of_the_state_is_full(train: Train, tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    """When the disk with ledger and index is full, delivery goes on, and one warning of each says what that means."""
    disk = small_disk("256k")
    program = train(
        """
session = begin("tensorboard")
log(0, 300)
assert session.flush(60)
reach("first"); wait_for("full")
log(300, 5000)
assert session.flush(60)
log(5000, 5100)
""",
        env={"TRACELET_STATE_DIR": str(disk / "state")},
    )
    program.wait_for("first")
    fill(disk)
    program.go("full")
    said = program.end(5100)
    assert said.count("cannot write the index") == 1
    assert said.count("cannot write the ledger") == said.count("database or disk is full") == 1
    assert copied_steps(tmp_path) == list(range(5100))


@pytest.mark.parametrize("ledger", [True, False], ids=["ledger can be written", "nothing can be written"])
def test_index_is_cut_short(train: Train, small_disk: Callable[[str], Path], ledger: bool) -> None:
    """What could not be entered in the index any more, and then was not delivered, is found again in the event files."""
    disk = small_disk("512k")
    variables = {"TRACELET_TENSORBOARD_LOGDIR": str(disk / "copies")}
    if not ledger:
        variables["TRACELET_STATE_DIR"] = str(disk / "state")
    program = train(
        """
from tracelet_shim.state import index
append = index.Index.append

def full(self, records):
    if self.length >= 302:
        raise OSError(28, "No space left on device")
    append(self, records)

index.Index.append = full
session = begin("tensorboard", delivery="thread", exit_timeout=4)
log(0, 300)
assert session.flush(60)
reach("first"); wait_for("full")
log(300, 2000)
""",
        env=variables,
        exit_timeout=4,
    )
    program.wait_for("first")
    fill(disk)
    program.go("full")
    assert "cannot write the index" in program.end(2000)
    assert event_file_steps(disk) != list(range(2000))
    (disk / "filler").unlink()
    printed = program.resume(env=variables)
    assert event_file_steps(disk) == list(range(2000)), printed


def test_state_directory_cannot_be_made(train: Train, tmp_path: Path) -> None:
    """Where no state can be kept, everything is delivered all the same, with one warning."""
    (tmp_path / "state").write_text("in the way")
    program = train(
        'begin("tensorboard", "mlflow")\nlog(0, 500)\n', env={"TRACELET_STATE_DIR": str(tmp_path / "state")}
    )
    said = program.end(500)
    assert len(warnings(said)) == 1
    assert "no state can be kept" in said
    assert copied_steps(tmp_path) == list(range(500))
    assert mlflow_steps(tmp_path) == list(range(500))
    assert os.listdir(tmp_path / "runs" / "x") == [
        name for name in os.listdir(tmp_path / "runs" / "x") if "tfevents" in name
    ]


def test_relay_dies_where_no_state_can_be_kept(train: Train, tmp_path: Path) -> None:
    """Without state, a relay that is killed has a successor all the same, and what is logged after that arrives."""
    (tmp_path / "state").write_text("in the way")
    program = train(
        """
session = begin("tensorboard", run_id="mine")
log(0, 300)
assert session.flush(60)
reach("first"); wait_for("killed")
for start in range(300, 5000, 100):
    log(start, start + 100)
    time.sleep(0.02)
""",
        env={"TRACELET_STATE_DIR": str(tmp_path / "state")},
    )
    program.wait_for("first")
    os.kill(program.relay(), 9)
    program.go("killed")
    program.end(5000)
    assert copied_steps(tmp_path) == list(range(5000))
