"""Programs that are killed in the middle of a session's own methods: each event arrives once, files as they were at the call."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.backends.mlflow.reader import MLflowReader
from tests.conftest import RunPython
from tests.delivery.programs import eventually, relays
from tests.replay.commands import tracelet_shim

WAITS = """
import os, signal
import tracelet_shim as tracelet
BEGIN
session.log_params({"lr": 0.1})
open("a.txt", "w").write("first")
session.log_artifact("a.txt")
open("a.txt", "w").write("second")
session.set_tags({"stage": "try"})
"""
START = "session = tracelet.start_logging('mlflow', project='p', exp_name='e')"
KILL_BOTH = """
from tracelet_shim.bus.mailbox import Mailbox
pid = session._bus._parts[0].bus.relay_pid if session.has_begun else None
if pid is not None:
    os.kill(pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"


def check(directory: Path) -> None:
    reader = MLflowReader(directory)
    assert reader.params() == {"lr": "0.1"}
    assert reader.tags()["stage"] == "try"
    assert (reader.artifacts() / "artifacts" / "a.txt").read_text() == "first"
    assert not list(directory.rglob("*.tracelet-waiting"))
    assert not list(directory.rglob("*.files"))


@pytest.mark.slow
@pytest.mark.parametrize("begun", [pytest.param(True, id="begun", marks=pytest.mark.nightly), pytest.param(False, id="prepared")])
def test_both_are_killed_before_the_first_writer(run_python: RunPython, tmp_path: Path, begun: bool) -> None:
    """Whether the runs were open or, as the environment prepares a session, not yet: `status` shows it, `--resume` delivers it,
    from wherever the directory is by then, and a second one has nothing to do."""
    begin = START if begun else "session = tracelet.get_session()"
    env = {} if begun else {"TRACELET_BACKEND": "mlflow", "TRACELET_PROJECT": "p", "TRACELET_EXP_NAME": "e"}
    run_python(WAITS.replace("BEGIN", begin) + KILL_BOTH, check=False, env=env)
    assert not list(tmp_path.glob(".tracelet/ledger.db"))
    (told,) = tmp_path.glob(".tracelet/handle/*.tracelet-waiting")
    assert told.stat().st_mode & 0o777 == 0o600
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in (".tracelet", "mlflow.db", "mlruns"):
        if (tmp_path / name).exists():
            shutil.move(tmp_path / name, moved / name)
    os.chdir(moved)
    assert "cut off" in tracelet_shim("status", ".")
    uri = f"sqlite:///{moved}/mlflow.db"
    said = tracelet_shim("replay", ".", "--resume", TRACELET_MLFLOW_TRACKING_URI=uri)
    assert "0 pending" in said
    check(moved)
    with sqlite3.connect(moved / "mlflow.db") as db:
        assert [status for (status,) in db.execute("SELECT status FROM runs")] == ["FAILED"]
    assert "nothing to resume" in tracelet_shim("replay", ".", "--resume", TRACELET_MLFLOW_TRACKING_URI=uri)
    check(moved)


@pytest.mark.slow
def test_the_program_is_killed_before_its_first_writer(run_python: RunPython, tmp_path: Path) -> None:
    """The relay, which lives, delivers what waited."""
    run_python(WAITS.replace("BEGIN", START) + KILL, check=False)
    eventually(lambda: not relays(tmp_path))
    check(tmp_path)
    assert "nothing to resume" in tracelet_shim("replay", ".", "--resume")


@pytest.mark.slow
def test_a_running_program_is_left_alone(run_python: RunPython, tmp_path: Path) -> None:
    """What waits in a program that lives is not adopted; nothing but its records is left behind at the end."""
    done = run_python(
        WAITS.replace("BEGIN", START)
        + """
import subprocess, sys
from torch.utils.tensorboard import SummaryWriter
command = [os.path.dirname(sys.executable) + "/tracelet-shim", "replay", ".", "--resume"]
print(subprocess.run(command, capture_output=True, text=True).stderr)
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 0.5, 1)
"""
    )
    assert "no session was recorded" in done.stdout
    check(tmp_path)
    assert not (tmp_path / ".tracelet").exists()
