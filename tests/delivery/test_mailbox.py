"""What `add_*` has returned from is in the relay's hands: nothing of it is lost when the program is killed, whenever that is."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import CHEAP, LOG, cheap_runs, eventually, ledger, mlflow_runs, relays, tensorboard_steps
from tests.faults.harness import event_file_steps

pytestmark = pytest.mark.usefixtures("mlflow_store")

KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"


ENDS = (KILL, "os._exit(0)\n", "threading.Timer(0, os.abort).start(); time.sleep(60)\n")


@pytest.mark.parametrize("ends", each_change(ENDS, KILL))
def test_nothing_that_was_published_is_lost(run_python: RunPython, tmp_path: Path, ends: str) -> None:
    """A program that ends without a word right after its last scalar, before the relay has begun to look, has every one of them
    in its trackers and in its event file, and no file of the ring stays."""
    run_python(LOG + "import threading\nsession()\nw = log(5000)\n" + ends, check=False)
    eventually(lambda: mlflow_runs(tmp_path) == [("FAILED", 5000, 5000)])
    eventually(lambda: not relays(tmp_path))
    assert tensorboard_steps(tmp_path) == event_file_steps(tmp_path / "runs") == list(range(5000))
    assert not list((tmp_path / "runs/x/.tracelet").glob("*.ring"))


BEHIND = """
from tracelet_shim.bus.ring import Ring

session()
w = log(100)
Ring.put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
w.add_scalar("loss", 0.5, 100)
"""


def test_the_trackers_are_not_behind_the_event_file(run_python: RunPython, tmp_path: Path) -> None:
    """A program that is killed when an event is in its file, and not yet in the ring, has that one in its trackers too: the relay
    reads the end of the file."""
    assert run_python(LOG + BEHIND, check=False).returncode == -9
    eventually(lambda: bool(ledger(tmp_path)))
    eventually(lambda: not relays(tmp_path))
    assert mlflow_runs(tmp_path) == [("FAILED", 101, 101)]
    assert tensorboard_steps(tmp_path) == event_file_steps(tmp_path / "runs") == list(range(101))
    assert {row[2:] for row in ledger(tmp_path)} == {(101, 0, "closed")}


BOTH = """
s = session()
relay = s._bus._parts[0].bus.relay_pid
{before}
os.kill(relay, signal.SIGSTOP)
log(2000, w, 500)
w.add_hparams({{"lr": 0.1, "seed": 7}}, {{"accuracy": 0.1}}, run_name=".")
os.kill(relay, signal.SIGKILL)
"""


@pytest.mark.parametrize("before", ["w = log(500)\nassert s.flush(60)", "w = log(500)"], ids=["in the middle", "at once"])
def test_both_are_killed(run_python: RunPython, tmp_path: Path, before: str) -> None:
    """Where the relay is killed too, before it has taken anything or in the middle, one resumed delivery brings every point that
    was published, with its float64 and what only the calls knew, into the same run."""
    assert run_python(LOG + BOTH.format(before=before) + KILL, check=False).returncode == -9
    status = [sys.executable, "-m", "tracelet_shim", "status"]
    said = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "cut off" in said
    assert "to deliver what is missing: tracelet-shim replay" in said
    resume = [sys.executable, "-m", "tracelet_shim", "replay", "runs/x", "--resume"]
    done = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tensorboard_steps(tmp_path) == list(range(2500))
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        query = "SELECT step, value FROM metrics WHERE key = 'loss' ORDER BY step"
        assert db.execute(query).fetchall() == [(step, step / 7) for step in range(2500)]
        assert db.execute("SELECT key, value FROM metrics WHERE key = 'accuracy'").fetchall() == [("accuracy", 0.1)]
        assert db.execute("SELECT key, value FROM params ORDER BY key").fetchall() == [("lr", "0.1"), ("seed", "7")]
        assert db.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)
    assert not list((tmp_path / "runs/x/.tracelet").glob("*.ring"))
    done = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, tensorboard_steps(tmp_path)) == (0, list(range(2500))), done.stdout + done.stderr


def test_a_relay_is_killed_before_it_says_anything(run_python: RunPython, tmp_path: Path) -> None:
    """A relay that is killed while it starts has a successor, and its trackers do not move into the program: what is in the ring
    outlives the program all the same."""
    done = run_python(
        CHEAP + "s = session()\nos.kill(s._bus._parts[0].bus.relay_pid, signal.SIGKILL)\nw = log(500)\ntime.sleep(0.3)\n"
        "log(500, w, 500)\n" + KILL, check=False,
    )  # fmt: skip
    assert "the relay process died (it ended with exit code -9); starting it again" in done.stderr
    eventually(lambda: cheap_runs(tmp_path) == [("FAILED", 1000, 1000)])
    eventually(lambda: not relays(tmp_path))
    assert tensorboard_steps(tmp_path) == list(range(1000))


def test_without_a_ring(run_python: RunPython, tmp_path: Path) -> None:
    """Where there is no place for a ring, a thread sends everything through a pipe, to the relay that has been started."""
    run_python(
        CHEAP
        + """
from tracelet_shim.bus import mailbox

def no_ring(*args):
    raise OSError("no place")

mailbox.Ring = no_ring
s = session()
relay = s._bus._parts[0].bus.relay_pid
w = log(300)
assert s.flush(60)
assert [thread.name for thread in threading.enumerate()].count("tracelet-sender") == 1
os.kill(relay, signal.SIGKILL)
log(300, w, 300)
assert s.flush(60)
"""
    )
    assert cheap_runs(tmp_path) == [("FINISHED", 600, 600)]
    assert tensorboard_steps(tmp_path) == list(range(600))


def test_a_program_has_given_sigpipe_its_usual_meaning_back(run_python: RunPython, tmp_path: Path) -> None:
    """As programs do whose output goes through ``head``. It lives when the relay does not."""
    run_python(
        CHEAP
        + """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
s = session()
w = log(100)
relay = s._bus._parts[0].bus._process
relay._process.kill()
relay._process.wait()
relay.send(b"", None)
assert not relay.write()  # nobody reads it any more, and nobody has looked
relay.wake()
log(100, w, 100)
assert s.flush(60)
"""
    )
    assert cheap_runs(tmp_path) == [("FINISHED", 200, 200)]


def test_a_program_has_more_than_1024_files_open(run_python: RunPython, tmp_path: Path) -> None:
    """More than `select.select` can name."""
    run_python(
        CHEAP
        + """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [open(os.devnull) for _ in range(1100)]
s = session()
w = log(100)
assert s.flush(60)
assert s.status()["dvclive"].delivered == 100
"""
    )
    assert cheap_runs(tmp_path) == [("FINISHED", 100, 100)]


@pytest.mark.parametrize("gone", ["os.unlink(ring)", "shutil.rmtree(os.path.dirname(ring))"])
def test_the_rings_file_is_removed(run_python: RunPython, tmp_path: Path, gone: str) -> None:
    """By who tidies up, or by systemd, which removes what a user has in ``/dev/shm`` when he logs out. A relay's successor finds
    what is in it all the same."""
    run_python(
        CHEAP
        + f"""
import shutil
s = session()
w = log(100)
assert s.flush(60)
relay, ring = s._bus._parts[0].bus.relay_pid, s._bus._parts[0].bus._outbox.ring.path
os.kill(relay, signal.SIGSTOP)
log(100, w, 100)
{gone}
os.kill(relay, signal.SIGKILL)
log(100, w, 200)
assert s.flush(60)
""",
        env={"TRACELET_STATE_DIR": str(tmp_path / "state")},
    )
    assert tensorboard_steps(tmp_path) == list(range(300))
