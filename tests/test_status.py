"""`tracelet-shim status`, as a user runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.replay.commands import tracelet_shim
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.rows import Changes, Refused

PROGRAM = """
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
tracelet.start_logging(backend="tensorboard", project="p", exp_name="e")
with SummaryWriter("runs/a/b") as writer:
    for i in range(10):
        writer.add_scalar("loss", i, i)
"""


@pytest.mark.usefixtures("mlflow_store")
def test_a_session_that_went_well(run_python: RunPython, tmp_path: Path) -> None:
    """A session two levels below ./runs is found; its run, its link and its counts are shown, and nothing is to be done."""
    run_python(PROGRAM)
    said = tracelet_shim("status")
    assert "p/e finished" in said
    assert f"tensorboard --logdir {tmp_path}/tracelet-runs/p/e" in said
    assert "--resume" not in said
    ((session),) = json.loads(tracelet_shim("status", "--json", "runs/a/b"))
    assert (session["root"], session["status"], session["resume"]) == (str(tmp_path / "runs/a/b"), "finished", None)
    (run,) = session["runs"]
    assert (run["backend"], run["state"], run["delivered"], run["pending"]) == ("tensorboard", "closed", 10, 0)


@pytest.mark.usefixtures("mlflow_store")
def test_events_set_aside_and_pending(run_python: RunPython, tmp_path: Path) -> None:
    """What a tracker refused is listed with its message; what it has not got, with the command that delivers it; in a state
    directory of its own the command says where."""
    state = tmp_path / "state"
    run_python(PROGRAM, env={"TRACELET_STATE_DIR": str(state)})
    ledger = Ledger(state)
    (session,) = ledger.sessions()
    (row,) = ledger.runs(session.id)
    ledger.save(session.id, session.events, session.records, [row._replace(delivered=8, failed=1, state="failed", error="gone")])
    refused = Refused("tensorboard", "/file", 7, "scalar", "train/loss", 3, "too odd", time.time())
    ledger.commit(session.id, Changes(refused=[refused]))
    ledger.close()
    said = tracelet_shim("status", TRACELET_STATE_DIR=str(state))
    assert "set aside by tensorboard: scalar 'train/loss' at step 3 (/file, record 7): too odd" in said
    assert "tensorboard: gone" in said
    assert f"TRACELET_STATE_DIR={state} tracelet-shim replay {tmp_path}/runs/a/b --resume {session.id}" in said
    (found,) = json.loads(tracelet_shim("status", "--json", TRACELET_STATE_DIR=str(state)))
    assert found["set_aside"][0]["message"] == "too odd"
    assert found["runs"][0]["set_aside"] == 1


def test_nothing_there() -> None:
    """Where no session was recorded, that is said, and nothing is made."""
    assert "no sessions found" in tracelet_shim("status")
    assert json.loads(tracelet_shim("status", "--json")) == []
    assert not list(Path.cwd().iterdir())


def test_a_ledger_that_cannot_be_read() -> None:
    """A damaged ledger is named, and the exit code says so."""
    Path("runs/.tracelet").mkdir(parents=True)
    Path("runs/.tracelet/ledger.db").write_text("no database, but long enough to look like one" * 100)
    assert "cannot read the ledger" in tracelet_shim("status", code=1)
