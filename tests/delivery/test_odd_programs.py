"""Programs as they are: odd values, odd paths, workers of multiprocessing, handlers of their own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tracelet_shim as tracelet
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import LOG, eventually, tensorboard_steps
from tests.environment import warnings
from tracelet_shim import events as ev
from tracelet_shim.backends.base import OpenedRun, RunInfo
from tracelet_shim.session import owner
from tracelet_shim.testing import RecordingBackend

pytestmark = pytest.mark.usefixtures("mlflow_store")

TENSORBOARD = LOG.replace('backend=["mlflow", "tensorboard"]', 'backend=["tensorboard"]')


def statuses(directory: Path) -> list[str]:
    with sqlite3.connect(next(directory.glob("runs/*/.tracelet/ledger.db"))) as db:
        return [status for (status,) in db.execute("SELECT status FROM sessions")]


def test_users_sigterm_handler_stays(run_python: RunPython, tmp_path: Path) -> None:
    """A SIGTERM handler that the program sets after the start works during the session, after its relay was killed, and
    after its end."""
    done = run_python(
        TENSORBOARD
        + """
s = session()
calls = []
signal.signal(signal.SIGTERM, lambda *a: calls.append(1))
w = log(10)
s.flush(30)
os.kill(os.getpid(), signal.SIGTERM)
os.kill(s._bus._parts[0].bus.relay_pid, signal.SIGKILL)
time.sleep(1)
log(10, w, 10)
s.flush(30)
os.kill(os.getpid(), signal.SIGTERM)
tracelet.stop_logging()
os.kill(os.getpid(), signal.SIGTERM)
print(len(calls))
"""
    )
    assert done.stdout.strip() == "3"
    assert tensorboard_steps(tmp_path) == list(range(20))


def test_values_that_no_message_can_hold(run_python: RunPython, tmp_path: Path) -> None:
    """numpy scalars, huge integers, complex numbers, paths and a Path on sys.path neither stop delivery nor the program."""
    done = run_python(
        TENSORBOARD
        + """
import argparse, pathlib
import numpy as np
sys.path.append(pathlib.Path("somewhere"))
sys.argv.append(os.fsdecode(b"\\xff"))
config = {"lr": np.float64(0.1), "seed": 2**100, "z": 1j, "path": pathlib.Path("x"), "n": np.int64(3)}
s = session(config=config, options={"tensorboard": {"logdir": pathlib.Path("out")}})
log(20)
assert s.flush(30), s.status()
tracelet.stop_logging()
s = session(config=argparse.Namespace(lr=0.1))
assert s.settings.config == {"lr": 0.1}
print(s.status())
"""
    )
    assert "delivery stopped" not in done.stderr
    assert "served from a thread" not in done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_only_the_workers_write(run_python: RunPython, tmp_path: Path, method: str) -> None:
    """Under the environment, a program whose multiprocessing worker is the one that writes has its run, finished."""
    run_python(
        f"""
        import multiprocessing
        from torch.utils.tensorboard import SummaryWriter
        def train():
            w = SummaryWriter("runs/x")
            for i in range(50):
                w.add_scalar("loss", i / 7, i)
        if __name__ == "__main__":
            worker = multiprocessing.get_context({method!r}).Process(target=train)
            worker.start()
            worker.join()
            assert worker.exitcode == 0
        """,
        env={"TRACELET_BACKEND": "tensorboard"},
    )
    eventually(lambda: tensorboard_steps(tmp_path) == list(range(50)))
    assert statuses(tmp_path) == ["finished"]


def test_failure_on_the_way_out(run_python: RunPython, tmp_path: Path) -> None:
    """A program that logs in a finally block, on its way out of sys.exit(1), has failed."""
    done = run_python(TENSORBOARD + "session()\ntry:\n    sys.exit(1)\nfinally:\n    log(5)", check=False)
    assert done.returncode == 1
    assert statuses(tmp_path) == ["failed"]


def test_a_submitted_job_is_nobodys_child(run_python: RunPython, tmp_path: Path) -> None:
    """A job that inherits the environment of a session on another machine has a run of its own."""
    run_python(
        'from torch.utils.tensorboard import SummaryWriter\nw = SummaryWriter("runs/x")\nw.add_scalar("loss", 1.0, 0)',
        env={"TRACELET_BACKEND": "tensorboard", owner.VARIABLE: "login-node:4242"},
    )
    assert tensorboard_steps(tmp_path) == [0]


def test_nothing_of_a_session_is_seen_in_the_process(run_python: RunPython) -> None:
    """Test suites of frameworks take variables and threads that are left for leaks."""
    run_python(
        TENSORBOARD
        + """
import threading
before = dict(os.environ), threading.enumerate()
s = session()
w = log(50)
assert (dict(os.environ), threading.enumerate()) == before
assert s.flush(60)
w.close()
assert (dict(os.environ), threading.enumerate()) == before
"""
    )


CHILD = """
import subprocess, sys
child = [sys.executable, "-c", '''
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter("runs/child") as w:
    w.add_scalar("other", 1.0, 1)
open("done", "w").close()
''']
session()
log(20)
"""
WAYS = {
    "own environment": 'subprocess.run(child, check=True, env={**os.environ, "OTHER": "1"})',
    "orphan": """subprocess.run(["sh", "-c", '"$@" &', "sh", *child], check=True)""",
    "child of a fork": "if os.fork() == 0:\n    subprocess.run(child, check=True)\n    os._exit(0)",
}


@pytest.mark.parametrize("way", WAYS)
def test_children_open_no_run(run_python: RunPython, tmp_path: Path, way: str) -> None:
    """Not those that are given an environment either, nor those that lose their parent, as long as the session is open."""
    program = TENSORBOARD + CHILD + WAYS[way] + '\nwhile not os.path.exists("done"):\n    time.sleep(0.05)'
    run_python(program, env={"TRACELET_BACKEND": "tensorboard"})
    assert tensorboard_steps(tmp_path) == list(range(20))
    assert not (tmp_path / "runs" / "child" / ".tracelet").exists()


class FlakyBackend(RecordingBackend):
    """Loses its connection when it is to flush and close, twice each."""

    name = "flaky"

    def __init__(self) -> None:
        super().__init__()
        self.losses = {"flush": 2, "close": 2}

    def flush(self) -> None:
        self._lose("flush")

    def close(self, status: str) -> None:
        self._lose("close")
        super().close(status)

    def _lose(self, what: str) -> None:
        if self.losses[what]:
            self.losses[what] -= 1
            raise ConnectionError("gone")


def test_flush_and_close_are_tried_again(tmp_path: Path) -> None:
    """A connection that is lost while a run is flushed or closed costs neither the flush nor the run's status."""
    from torch.utils.tensorboard import SummaryWriter

    backend = FlakyBackend()
    session = tracelet.start_logging(backend=backend)
    with SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert session.flush(30)
    assert backend.losses["flush"] == 0
    tracelet.stop_logging()
    assert backend.status == "finished"
    assert session.status()["flaky"].state == "closed"


class BusyBackend(RecordingBackend):
    """While it writes, more is logged."""

    name = "busy"

    def __init__(self) -> None:
        super().__init__()
        self.more: Callable[[], None] = lambda: None

    def write(self, events: Sequence[ev.Event]) -> None:
        super().write(events)
        self.more()


@pytest.mark.parametrize("others_flush", [False, True])
def test_flush_while_more_is_logged_all_the_time(tmp_path: Path, others_flush: bool) -> None:
    """A flush waits for what was logged before it, not for a moment in which nothing else waits, nor for a later flush."""
    from torch.utils.tensorboard import SummaryWriter

    backend = BusyBackend()
    session = tracelet.start_logging(backend=backend)
    with SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalar("loss", 1.0, 0)
        eventually(lambda: backend.events, 20)
        relay: Any = session._bus._parts[0].bus._channel._relay

        def more() -> None:
            there = relay._log.length
            writer.add_scalar("loss", 1.0, there)
            if others_flush:
                session.flush(0.01)
                eventually(lambda: relay._flushes and relay._flushes[-1][1] > there, 20)
            else:
                eventually(lambda: relay._log.length > there, 20)

        backend.more = more
        writer.add_scalar("loss", 2.0, 1)
        try:
            assert session.flush(20)
        finally:
            backend.more = lambda: None
        assert 2.0 in [event.value for event in backend.events if isinstance(event, ev.Scalar)]
    tracelet.stop_logging()


@pytest.mark.parametrize("delivery", each_change(("process", "thread"), "process"))
def test_a_directory_whose_name_is_no_utf8(run_python: RunPython, tmp_path: Path, delivery: str) -> None:
    """In such a working directory, and so in such a log directory, every tracker gets everything, the ledger is complete, and
    the command that is shown delivers what is missing."""
    here = tmp_path / os.fsdecode(b"caf\xe9")
    here.mkdir()
    environment = {
        "TRACELET_BACKEND": "tensorboard,dvclive,mlflow", "TRACELET_PROJECT": "p", "TRACELET_EXP_NAME": "e",
        "TRACELET_DELIVERY": delivery, "TRACELET_TENSORBOARD_LOGDIR": str(tmp_path / "tracelet-runs"),
        "TRACELET_EXIT_TIMEOUT": "200",
    }  # fmt: skip
    program = """
        import sys
        from torch.utils.tensorboard import SummaryWriter
        with SummaryWriter(sys.argv[1]) as w, SummaryWriter(sys.argv[1] + "/val") as v:
            for i in range(20):
                w.add_scalar("loss", i / 7, i)
                v.add_scalar("loss", i / 7, 100 + i)
            w.add_text("note", "hello", 1)
        """
    done = run_python(program, "runs/x", env=environment, cwd=here, timeout=250)
    assert warnings(done.stderr) == []
    steps = [*range(20), *range(100, 120)]
    assert sorted(tensorboard_steps(tmp_path)) == steps
    with sqlite3.connect(here / "mlflow.db") as db:
        assert [step for (step,) in db.execute("SELECT step FROM metrics ORDER BY step")] == steps
    (note,) = here.glob("mlruns/*/*/artifacts/**/*.md")
    assert note.read_text() == "hello"
    files = sorted((here / "dvclive/p/e/plots/metrics").rglob("*.tsv"))
    assert sorted(int(line.split()[1]) for file in files for line in file.read_text().splitlines()[1:]) == steps
    assert statuses(here) == ["finished"]

    server = {"TRACELET_BACKEND": "mlflow", "TRACELET_EXIT_TIMEOUT": "10", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = run_python(program, "runs/y", env={**environment, **server}, cwd=here)
    (command,) = [line.partition("deliver it: ")[2] for line in done.stderr.splitlines() if "to deliver it: " in line]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    replay = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=200
    )
    assert "mlflow: 41 events delivered, 0 pending" in replay.stderr
    assert replay.returncode == 0
    with sqlite3.connect(here / "mlflow.db") as db:
        assert [step for (step,) in db.execute("SELECT step FROM metrics ORDER BY step")] == sorted(steps * 2)


class ClosedBackend(RecordingBackend):
    """Opens no run."""

    name = "closed"

    def open(self, run: RunInfo) -> OpenedRun:
        raise ValueError("no")


def test_what_was_not_delivered_is_counted_in_events(tmp_path: Path) -> None:
    """A tracker that opens no run lacks as many events as it would have got: an `add_hparams` is one, of several records."""
    from torch.utils.tensorboard import SummaryWriter

    session = tracelet.start_logging(backend=ClosedBackend())
    with SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_hparams({"lr": 0.1}, {"acc": 0.5, "loss": 0.25})
        writer.add_scalars("group", {"a": 1.0, "b": 2.0}, 1)
    tracelet.stop_logging()
    assert session.status()["closed"].pending == 3


class StuckBackend(RecordingBackend):
    """Opens no run before it is let go."""

    name = "stuck"

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def open(self, run: RunInfo) -> OpenedRun:
        self.go.wait(60)
        return super().open(run)


def test_an_event_file_that_is_gone_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that fitted into no memory and whose file was deleted are counted as failed; later ones arrive."""
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setenv("TRACELET_MEMORY", "0.01")
    backend = StuckBackend()
    session = tracelet.start_logging(backend=backend)
    with SummaryWriter(str(tmp_path / "x")) as writer:
        for step in range(3000):
            writer.add_scalar("loss", 1.0, step)
    eventually(lambda: session._bus._parts[0].bus._channel is not None, 20)  # made by the sender thread
    log: Any = session._bus._parts[0].bus._channel._relay._log
    eventually(lambda: log.length == 3000, 20)
    for file in (tmp_path / "x").glob("*tfevents*"):
        file.unlink()
    backend.go.set()
    with SummaryWriter(str(tmp_path / "y")) as writer:
        writer.add_scalar("last", 1.0, 0)
    tracelet.stop_logging()
    assert [e.tag for e in backend.events][-1] == "last"
    state = session.status()["stuck"]
    assert state.delivered + state.failed == 3001
    assert state.failed > 0
