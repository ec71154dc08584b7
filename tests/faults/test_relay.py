"""The relay process stopped, killed, and far behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.backends import TRACKERS
from tests.backends.about import about
from tests.faults.conftest import Train
from tests.faults.harness import (
    copied_steps,
    event_file_steps,
    eventually,
    fill,
    free_port,
    losses,
    resident,
)
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.connection import Connection

pytestmark = pytest.mark.usefixtures("mlflow_store")


def test_relay_is_stopped_for_a_while(train: Train, tmp_path: Path) -> None:
    """While the relay takes nothing (SIGSTOP), training logs on at its pace and within its memory budget; after SIGCONT
    every point arrives."""
    many = 200_000
    program = train(
        f"""
session = begin("tensorboard")
log(0, 100)
assert session.flush(60)
reach("first"); wait_for("stopped")
log(100, {many})
reach("logged"); wait_for("continued")
""",
        env={"TRACELET_MEMORY": "16"},
    )
    program.wait_for("first")
    os.kill(program.relay(), signal.SIGSTOP)
    program.go("stopped")
    program.wait_for("logged")  # the loop has come to its end, with a relay that stands still
    assert len(copied_steps(tmp_path)) == 100
    os.kill(program.relay(), signal.SIGCONT)
    program.go("continued")
    # 16 MB of data wait in the queue and as much on the way; 100,000 records in the queue have 400 bytes of Python objects each.
    program.end(many, memory=2 * 16e6 + 40e6)
    assert copied_steps(tmp_path) == list(range(many))


def test_relay_is_stopped_when_the_program_ends(train: Train, tmp_path: Path) -> None:
    """A relay that stands still for ever cannot keep the program from ending in time; what it had not taken comes with a resumed
    delivery."""
    program = train(
        """
session = begin("tensorboard", exit_timeout=3)
log(0, 100)
assert session.flush(60)
reach("first"); wait_for("stopped")
log(100, 500)
""",
        exit_timeout=3,
    )
    program.wait_for("first")
    os.kill(program.relay(), signal.SIGSTOP)
    program.go("stopped")
    said = program.end(500)
    assert "the relay did not answer at the end" in said
    assert "--resume" in said
    program.resume()
    assert copied_steps(tmp_path) == list(range(500))


def test_relay_is_killed_again_and_again(train: Train, tmp_path: Path) -> None:
    """A relay that is killed is started again, three times; when that is killed too, one warning says that delivery is over,
    training goes on, its memory no longer grows, and a resumed delivery brings the rest."""
    program = train(
        """
session = begin("mlflow", "tensorboard")
for life in range(4):
    log(150 * life, 150 * (life + 1))
    assert session.flush(60)
    reach(f"life{life}"); wait_for(f"killed{life}")
log(600, 700)
time.sleep(0.5)
reach("over")
log(700, 20_000)
reach("logged")
"""
    )
    for life in range(4):
        program.wait_for(f"life{life}")
        os.kill(program.relay(life), signal.SIGKILL)
        program.go(f"killed{life}")
    over = program.wait_for("over")
    assert program.wait_for("logged") - over < 5e6  # 20,000 records would be more
    said = program.end(20_000)
    assert said.count("starting it again") == 3
    assert said.count("delivery stopped") == 1
    assert f"tracelet-shim replay {tmp_path}/runs/x --resume" in said
    program.resume()
    assert copied_steps(tmp_path) == list(range(20_000))
    assert mlflow_points(tmp_path) == losses(20_000)  # from the ring, where all of it is


def test_relay_is_killed_under_all_trackers(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that is killed while nine trackers are being written to, each as far as it is, is started again; then each
    tracker has every point once, in one run."""
    readers = [about(tracker).reader for tracker in TRACKERS]
    places = {reader.backend: tmp_path / reader.backend for reader in readers}
    for reader in readers:
        places[reader.backend].mkdir()
        for name, value in reader.environment(places[reader.backend]).items():
            monkeypatch.setenv(name, value)
    program = train(
        f"""
session = begin(*{list(TRACKERS)}, project="p", exit_timeout=120)
log(0, 1)
session.wait_opened(120)
log(1, 2000)
while not any(state.delivered > 600 for state in session.status().values()):
    time.sleep(0.001)
reach("busy"); wait_for("killed")
log(2000, 3000)
""",
        exit_timeout=120,
    )
    program.wait_for("busy")
    os.kill(program.relay(), signal.SIGKILL)
    program.go("killed")
    said = program.end(3000)
    assert said.count("starting it again") == 1
    for reader in readers:
        steps = [point.step for point in reader(places[reader.backend]).scalars("", "loss")]
        assert sorted(steps) == list(range(3000)), reader.backend


@pytest.mark.parametrize("killed", ["relay", "service"])
def test_wandb_is_killed_with_what_it_was_handed(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    """W&B's service is a process of its own, which stores what it was handed later. What it has not stored when the relay is
    killed, or it itself, is handed over again, and every point is there once."""
    reader = about("wandb").reader
    for name, value in reader.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    program = train(
        """
session = begin("wandb", project="p", exit_timeout=60)
log(0, 300)
assert session.flush(60)
reach("first"); wait_for("stopped")
log(300, 1500)
def handed():
    state = session.status()["wandb"]
    return state.delivered + state.unconfirmed
while handed() < 700:  # a batch, and what the service's socket takes of the next
    time.sleep(0.01)
assert session.status()["wandb"].delivered == 300
reach("handed"); wait_for("killed")
log(1500, 2000)
""",
        exit_timeout=60,
    )
    program.wait_for("first")
    (service,) = (child for child in psutil.Process(program.relay()).children(recursive=True) if "wandb-core" in child.name())
    service.suspend()
    program.go("stopped")
    program.wait_for("handed")
    if killed == "relay":
        os.kill(program.relay(), signal.SIGKILL)
    service.kill()
    program.go("killed")
    said = program.end(2000)
    assert said.count("starting it again") == (killed == "relay")
    assert sorted(point.step for point in reader(tmp_path).scalars("", "loss")) == list(range(2000))


def mlflow_points(directory: Path) -> list[tuple[str, int, float]]:
    with contextlib.closing(sqlite3.connect(directory / "mlflow.db")) as db:
        assert db.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]  # as the program has said in the ring
        return db.execute("SELECT key, step, value FROM metrics ORDER BY key, step").fetchall()


def test_killed_in_the_first_moment(train: Train, tmp_path: Path) -> None:
    """Where training and relay are killed before anything was delivered, a resumed delivery knows the trackers and brings what
    the event file has."""
    program = train(
        """
tracelet.start_logging(backend="tensorboard")
reach("started"); wait_for("relay")
writer = SummaryWriter("runs/x")
log(0, 100)
writer.flush()
reach("logged"); wait_for("the end of time")
"""
    )
    program.wait_for("started")
    relay = program.relay()
    program.go("relay")
    eventually(lambda: bool(in_ledger(tmp_path, "SELECT 1 FROM sources")), pause=0.001)
    os.kill(relay, signal.SIGSTOP)
    program.wait_for("logged")
    program.process.kill()
    os.kill(relay, signal.SIGKILL)
    program.process.wait()
    program.resume()
    assert copied_steps(tmp_path) == list(range(100))


def test_relay_that_makes_a_store_is_not_killed(train: Train, tmp_path: Path) -> None:
    """Where the deadline comes while MLflow makes its database, the relay still ends that, and then itself; what is missing
    comes with a resumed delivery, into one run."""
    database = tmp_path / "new.db"  # the other one is there already
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    program = train(
        """
begin("mlflow", exit_timeout=0.1)
log(0, 20)
while not any("new.db" in name for name in os.listdir()):
    time.sleep(0.001)
""",
        env=env,
        exit_timeout=0.1,
    )
    said = program.end(20)
    assert "mlflow: 20 events were not delivered" in said
    eventually(lambda: not psutil.pid_exists(program.relay()))
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
    program.resume(env=env)
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT name, status FROM runs").fetchall() == [("e", "FINISHED")]
        assert db.execute("SELECT key, step, value FROM metrics ORDER BY step").fetchall() == losses(20)


@pytest.mark.slow
def test_many_points_for_a_dead_tracker(train: Train, tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    """150,000 points for trackers that are down (a full disk, no server) cost neither process memory beyond the budget, and all
    of them come with a resumed delivery."""
    many, first = 150_000, 40_000
    disk = small_disk("64m")
    fill(disk)
    program = train(
        f"""
begin("mlflow", "tensorboard", exit_timeout=3)
log(0, {first})
reach("first"); wait_for("seen")
log({first}, {many})
reach("logged"); wait_for("measured")
""",
        env={
            "TRACELET_MEMORY": "16",
            "TRACELET_PROJECT": tmp_path.name,
            "TRACELET_TENSORBOARD_LOGDIR": str(disk),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
        },
        exit_timeout=3,
    )
    program.wait_for("first")
    eventually(lambda: "mlflow: cannot open a run yet" in program.errors)
    eventually(lambda: records(tmp_path) == first)  # by now the relay's budget is used up
    before = resident(program.relay())
    program.go("seen")
    program.wait_for("logged")
    eventually(lambda: records(tmp_path) == many)
    assert program.relay_peak - before < 30e6
    program.go("measured")
    # What waits until the relay gets some of the processor: data, twice, and 100,000 records with their Python objects.
    said = program.end(many, memory=2 * 16e6 + 40e6)
    assert f"mlflow: {many} events were not delivered" in said
    assert f"tensorboard: {many} events were not delivered" in said
    (disk / "filler").unlink()
    program.resume("--backend", "tensorboard", env={"TRACELET_TENSORBOARD_LOGDIR": str(disk)})
    assert event_file_steps(disk) == list(range(many))


def records(directory: Path) -> int:
    """Return how many records the ledger has."""
    ((count,),) = in_ledger(directory, "SELECT records FROM sessions")
    return int(count)


def in_ledger(directory: Path, query: str) -> list[tuple[int, ...]]:
    """Return what a query finds in the ledger; nothing as long as there is none."""
    path = directory / "runs" / "x" / ".tracelet" / "ledger.db"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def test_a_relay_whose_program_is_gone_does_not_run_in_circles() -> None:
    """The end of a pipe can be read at once, for ever: whoever waits for it must not look at it again."""
    theirs, term = os.pipe(), os.pipe()
    ours, answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = Connection(theirs[0], answers.fileno(), os.getppid(), term[0])
    try:
        os.close(theirs[1])
        assert connection.receive(0) == []
        assert connection.lost
        for _ in range(3):
            connection.reply(msg.Trouble(None, "kind", "nobody hears this"))
            waker = threading.Timer(0.2, connection.wake)
            waker.start()
            connection.receive(60)
            assert connection.woken
            waker.join()
    finally:
        ours.close()
        answers.close()
        for fd in (theirs[0], *term):
            os.close(fd)
