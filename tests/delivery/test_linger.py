"""What a relay does when its program has waited for `exit_timeout` and is gone."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import gated
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import eventually, relays, tensorboard_steps
from tests.replay.commands import started, tracelet_shim

LOG = """
import os, signal, sys, time
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter

def log(n, start=0):
    writer = SummaryWriter("runs/x")
    for step in range(start, start + n):
        writer.add_scalar("loss", step / 7, step)
    writer.close()
"""

OPENED = "assert tracelet.get_session().wait_opened(100)\n"
"""So that the relay is there when the end asks it, on a slow machine too."""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the variables for a copy of the event files that takes nothing until ``gate`` is there, which is waited for with a
    program that ends at once; the relay then has its usual time."""
    env = gated.install(tmp_path / "site", gated.TENSORBOARD)
    yield {**env, "TRACELET_EXIT_TIMEOUT": "2", "TRACELET_LINGER": "300"}
    (tmp_path / "gate").touch()
    eventually(lambda: not relays(tmp_path))


def state_of(logdir: str = "runs/x") -> tuple[str, Any]:
    """Return what `tracelet-shim status` says of the only session and its only run."""
    (session,) = json.loads(tracelet_shim("status", logdir, "--json"))
    (run,) = session["runs"]
    return session["status"], (run["state"], run["delivered"], run["pending"], session["not_recorded"], session["resume"])


def test_the_relay_goes_on(run_python: RunPython, tmp_path: Path, gate: dict[str, str]) -> None:
    """A program ends when it has waited for `exit_timeout`, and says what is not there yet, that the relay goes on, and where to
    see that; the relay delivers the rest, ends the run, and leaves a ledger that says so, and nothing else."""
    done = run_python(LOG + "log(100)\n" + OPENED, env=gate)
    lines = [line.removeprefix("tracelet-shim: ") for line in done.stderr.splitlines()]
    assert lines[-3:] == [
        "warning: gated: 100 events are not there yet",
        f"the relay goes on by itself, for up to 300 s; how far it is: tracelet-shim status {tmp_path}/runs/x",
        f"what is missing after that: tracelet-shim replay {tmp_path}/runs/x --resume",
    ]
    status, (state, delivered, pending, *_) = state_of()
    assert (status, state, delivered, pending) == ("running", "open", 0, 100)
    assert "is still running" in tracelet_shim("replay", "runs/x", "--resume", code=2, **gate)
    (tmp_path / "gate").touch()
    eventually(lambda: not relays(tmp_path))
    assert tensorboard_steps(tmp_path) == list(range(100))
    assert state_of() == ("finished", ("closed", 100, 0, 0, None))
    assert [path.name for path in (tmp_path / "runs/x/.tracelet").iterdir()] == ["ledger.db"]
    assert "everything has been delivered" in tracelet_shim("replay", "runs/x", "--resume", **gate)


def test_a_program_that_waits_for_nothing(run_python: RunPython, tmp_path: Path) -> None:
    """Where the time is over before the relay is there, it still comes, delivers everything and ends the run. If it does that
    while the program goes, nothing is said to be missing."""
    env = {"TRACELET_BACKEND": "tensorboard", "TRACELET_EXIT_TIMEOUT": "0", "TRACELET_LINGER": "300"}
    done = run_python(LOG + "log(100)", env=env)
    goes_on = "the relay goes on by itself, for up to 300 s; how far it is: tracelet-shim status" in done.stderr
    assert goes_on is ("warning" in done.stderr), done.stderr
    eventually(lambda: not relays(tmp_path))
    assert tensorboard_steps(tmp_path) == list(range(100))
    assert state_of() == ("finished", ("closed", 100, 0, 0, None))


def test_a_relay_that_somebody_has_stopped(run_python: RunPython, tmp_path: Path) -> None:
    """A relay that stands still does not go on, and nobody says so: it is ended, and a resumed delivery brings the rest."""
    code = """
session = tracelet.start_logging()
log(50)
assert session.flush(100)
os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGSTOP)
log(50, 50)
"""
    env = {"TRACELET_BACKEND": "tensorboard", "TRACELET_EXIT_TIMEOUT": "0.5", "TRACELET_LINGER": "300"}
    done = run_python(LOG + code, env=env)
    assert "the relay did not answer at the end" in done.stderr
    assert "goes on" not in done.stderr
    assert not relays(tmp_path)
    tracelet_shim("replay", "runs/x", "--resume", **env)
    assert tensorboard_steps(tmp_path) == list(range(100))
    assert state_of() == ("finished", ("closed", 100, 0, 0, None))


def test_strict_does_not_wait_for_it(run_python: RunPython, tmp_path: Path, gate: dict[str, str]) -> None:
    """A strict program has exit code 3 if something is not there after `exit_timeout`; the relay goes on all the same."""
    done = run_python(LOG + "log(100)\n" + OPENED, env={**gate, "TRACELET_STRICT": "1"}, check=False)
    assert done.returncode == 3
    assert "error: not everything was delivered (gated: 100); the relay goes on by itself, for up to 300 s" in done.stderr
    (tmp_path / "gate").touch()
    eventually(lambda: not relays(tmp_path))
    assert state_of() == ("finished", ("closed", 100, 0, 0, None))


@pytest.mark.parametrize("linger", ["0", "1"])
def test_it_is_over_after_linger(run_python: RunPython, tmp_path: Path, gate: dict[str, str], linger: str) -> None:
    """After `linger` the relay ends as well; the ledger has what is missing, and a resumed delivery brings it."""
    done = run_python(LOG + "log(100)\n" + OPENED, env={**gate, "TRACELET_LINGER": linger})
    assert ("goes on by itself, for up to 1 s" in done.stderr) == (linger == "1")
    assert ("100 events were not delivered" in done.stderr) == (linger == "0")
    eventually(lambda: not relays(tmp_path))
    status, (state, delivered, pending, not_recorded, resume) = state_of()
    assert (status, state, delivered, pending, not_recorded) == ("finished", "abandoned", 0, 100, 0)
    (tmp_path / "gate").touch()
    tracelet_shim(*resume.split()[1:], **gate)
    assert tensorboard_steps(tmp_path) == list(range(100))
    assert state_of() == ("finished", ("closed", 100, 0, 0, None))


def test_a_program_that_stops_and_goes_on(run_python: RunPython, tmp_path: Path, gate: dict[str, str]) -> None:
    """Where `stop_logging` has waited long enough, the program goes on, with another session beside the relay of the first."""
    code = """
tracelet.start_logging(exp_name="first")
log(100)
tracelet.stop_logging(timeout=0.2)
tracelet.start_logging(exp_name="second")
log(50, 100)
open("gate", "w").close()
tracelet.stop_logging(timeout=100)
"""
    done = run_python(LOG + code, env=gate)
    assert "gated: 100 events are not there yet" in done.stderr
    eventually(lambda: not relays(tmp_path))
    assert tensorboard_steps(tmp_path) == list(range(150))
    found = json.loads(tracelet_shim("status", "runs/x", "--json"))
    assert [(about["exp_name"], about["status"], about["resume"]) for about in found] == [
        ("second", "finished", None), ("first", "finished", None),
    ]  # fmt: skip


def test_the_training_process_is_killed_while_it_waits(run_python: RunPython, tmp_path: Path, gate: dict[str, str]) -> None:
    """A program that is killed while its end waits leaves the relay the same time as one that ends by itself."""
    code = """
import threading
def kill():
    while tracelet.get_session():
        time.sleep(0.01)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
log(100)
"""
    done = run_python(LOG + code, env={**gate, "TRACELET_EXIT_TIMEOUT": "100"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(relays(tmp_path)) == 1
    (tmp_path / "gate").touch()
    eventually(lambda: not relays(tmp_path))
    assert state_of() == ("finished", ("closed", 100, 0, 0, None))
    assert tensorboard_steps(tmp_path) == list(range(100))


@pytest.mark.parametrize("strict", each_change(("run", "program", "neither"), "run"))
def test_run_waits_for_it(tmp_path: Path, gate: dict[str, str], strict: str) -> None:
    """`tracelet-shim run` waits for a relay that goes on, and then says what arrived; strict, wherever it was asked for, has
    nothing to find fault with, and the page of the CI job has the end of it."""
    page = tmp_path / "summary.md"
    job = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(page)}
    Path("script.py").write_text(LOG + f"tracelet.start_logging(strict={strict == 'program'} or None)\nlog(100)\n")
    options = ["--strict"] if strict == "run" else []
    with started("run", *options, "--", sys.executable, "script.py", **gate, **job) as process:
        eventually(lambda: "the relay goes on by itself" in Path("output.txt").read_text())
        eventually(lambda: "waiting for what a program has left" in Path("output.txt").read_text())
        assert process.poll() is None
        (tmp_path / "gate").touch()
        assert process.wait(100) == 0
        said = Path("output.txt").read_text()
    assert not relays(tmp_path)
    assert "for up to 300 s, and tracelet-shim run waits for it" in said
    assert re.search(r"  gated: 100 delivered, 0 pending, 0 set aside: ", said)
    assert "| 100 | 0 | 0 | closed |" in page.read_text()
    assert page.read_text().count("| gated |") == 1
    assert tensorboard_steps(tmp_path) == list(range(100))


@pytest.mark.parametrize("strict", each_change(("run", "program", "neither"), "program"))
def test_run_waits_no_longer_than_that(tmp_path: Path, gate: dict[str, str], strict: str) -> None:
    """If something is missing even then, `tracelet-shim run` names it, and fails where anybody asked for strict."""
    Path("script.py").write_text(LOG + f"tracelet.start_logging(strict={strict == 'program'} or None)\nlog(100)\n" + OPENED)
    options = ["--strict"] if strict == "run" else []
    command = ["run", "--linger", "1", *options, "--", sys.executable, "script.py"]
    said = tracelet_shim(*command, code=0 if strict == "neither" else 3, **gate)
    assert not relays(tmp_path)
    assert "  gated (abandoned): 0 delivered, 100 pending, 0 set aside: " in said
    assert ("error: not everything was delivered" in said) == (strict != "neither")


def test_trackers_in_the_training_process_do_not_linger(run_python: RunPython, tmp_path: Path, gate: dict[str, str]) -> None:
    """What lives in the training process ends with it, and nobody says anything else."""
    done = run_python(LOG + "log(100)", env={**gate, "TRACELET_DELIVERY": "thread"})
    assert "goes on" not in done.stderr
    assert "gated: 100 events were not delivered" in done.stderr
    assert f"to deliver it: tracelet-shim replay {tmp_path}/runs/x --resume" in done.stderr
