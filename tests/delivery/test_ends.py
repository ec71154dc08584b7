"""How a program ends, and what is in the trackers then."""

from __future__ import annotations

import _thread
import threading
from pathlib import Path

import pytest

from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import CHEAP, LOG, cheap_runs, eventually, ledger, relays, tensorboard_steps
from tracelet_shim.session import threads_at_exit

HOSTINGS = ("process", "thread")
ENDS = {
    "falls off the end": ("", 0, "FINISHED"),
    "closes the writer": ("w.close()", 0, "FINISHED"),
    "stops": ("tracelet.stop_logging()", 0, "FINISHED"),
    "stops as failed": ("tracelet.stop_logging('failed')", 0, "FAILED"),
    "raises": ("raise ValueError('mine')", 1, "FAILED"),
    "exits with 0": ("sys.exit(0)", 0, "FINISHED"),
    "exits with 3": ("sys.exit(3)", 3, "FAILED"),
    "caught an exit": ("try:\n    sys.exit(3)\nexcept SystemExit:\n    pass\nlog(1, w, 300)", 0, "FINISHED"),
    "is interrupted": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -2, "KILLED"),
    "is terminated": ("time.sleep(1); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", -15, "KILLED"),
    "handles SIGTERM": (
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))\nos.kill(os.getpid(), signal.SIGTERM); time.sleep(5)",
        143,
        "KILLED",
    ),
}
KILLS = {"SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -9), "os._exit": ("os._exit(0)", 0)}


@pytest.mark.parametrize(
    ("end", "hosting"),
    each_change(
        [(end, hosting) for end in ENDS for hosting in HOSTINGS],
        *((end, "process") for end in ENDS),
        *((end, "thread") for end in ("raises", "is interrupted", "is terminated")),
    ),
)
def test_every_point_and_the_right_status(run_python: RunPython, tmp_path: Path, end: str, hosting: str) -> None:
    """However a program ends, its points arrive once, its run has the right status, its exit code is its own."""
    code, returncode, status = ENDS[end]
    done = run_python(CHEAP + f"session(delivery={hosting!r})\nw = log(300)\n" + code, check=False)
    assert done.returncode == returncode, done.stderr
    points = 301 if end == "caught an exit" else 300
    eventually(lambda: cheap_runs(tmp_path) == [(status, points, points)])
    eventually(lambda: all(state == "closed" for *_, state in ledger(tmp_path)))
    assert tensorboard_steps(tmp_path) == list(range(points))


REFUSING = """
import _thread
from tracelet_shim.session import threads_at_exit

threads_at_exit.REFUSES = True
start, over = _thread.start_new_thread, []

def refusing(*args):
    if over:
        raise RuntimeError("can't create new thread at interpreter shutdown")
    return start(*args)

threading._start_new_thread = _thread.start_new_thread = refusing
session(delivery="thread")
log(300)
threading._register_atexit(lambda: over.append(1))
"""
"""As Python 3.12.0 to 3.12.2 do: the interpreter starts no thread once the last line is over."""


@pytest.mark.skipif(not hasattr(threading, "_start_new_thread"), reason="3.13 has another function for it")
def test_threads_are_refused_at_the_end(run_python: RunPython, tmp_path: Path) -> None:
    """SDKs that live in the program start threads to open and close their runs: they get them, and everything arrives."""
    done = run_python(CHEAP + REFUSING)
    assert "not delivered" not in done.stderr
    assert cheap_runs(tmp_path) == [("FINISHED", 300, 300)]
    assert tensorboard_steps(tmp_path) == list(range(300))


def test_threads_that_nobody_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere nothing is touched, nor asked for what only those interpreters have: Python 3.13 has another function."""
    monkeypatch.setattr(threads_at_exit, "REFUSES", False)
    monkeypatch.delattr(threading, "_start_new_thread", raising=False)
    before = _thread.start_new_thread
    with threads_at_exit.allowed():
        assert _thread.start_new_thread is before
        assert not hasattr(threading, "_start_new_thread")


@pytest.mark.parametrize("kill", KILLS)
def test_killed_without_a_word(run_python: RunPython, tmp_path: Path, kill: str) -> None:
    """What was published a second before SIGKILL arrives, and the run is marked as failed."""
    code, returncode = KILLS[kill]
    done = run_python(CHEAP + "session()\nw = log(300)\ntime.sleep(1)\n" + code, check=False)
    assert done.returncode == returncode
    eventually(lambda: cheap_runs(tmp_path) == [("FAILED", 300, 300)])
    eventually(lambda: not relays(tmp_path))
    assert tensorboard_steps(tmp_path) == list(range(300))


def test_relay_is_killed(run_python: RunPython, tmp_path: Path) -> None:
    """A relay that is killed is started once more and goes on where it stopped: every point once, in the same run."""
    done = run_python(
        CHEAP
        + """
s = session()
w = log(300)
assert s.flush(60)
relay = s._bus._parts[0].bus.relay_pid
os.kill(relay, signal.SIGKILL)
log(300, w, 300)
assert s.flush(60), s.status()
"""
    )
    assert "starting it again" in done.stderr
    assert cheap_runs(tmp_path) == [("FINISHED", 600, 600)]
    assert tensorboard_steps(tmp_path) == list(range(600))


def test_import_at_the_end(run_python: RunPython, tmp_path: Path) -> None:
    """A tracker that is still being imported here, when nobody waits for it any more, is let finish that: the interpreter would
    make its thread exit, and where an extension module's C++ is on that thread's stack, the program would be aborted."""
    (tmp_path / "slow_sdk.py").write_text("import pathlib, time; time.sleep(3); pathlib.Path('imported').touch()")
    done = run_python(
        """
import tracelet_shim as tracelet
from tracelet_shim.testing import RecordingBackend
from torch.utils.tensorboard import SummaryWriter

class Slow(RecordingBackend):
    def open(self, run):
        import slow_sdk
        return super().open(run)

tracelet.start_logging(Slow(), delivery="thread", exit_timeout=0.2)
SummaryWriter("runs/x").add_scalar("loss", 1.0, 1)
"""
    )
    assert (tmp_path / "imported").exists()
    assert "waiting for the import of slow_sdk to end" in done.stderr


def test_interrupted_while_delivering(run_python: RunPython, tmp_path: Path) -> None:
    """Ctrl-C while the end waits for a tracker ends the program at once, with its own exit code and without a traceback; one
    line names the command for the rest, and the other trackers are complete."""
    done = run_python(
        LOG
        + """
session(exit_timeout=60)
log(300)
def interrupt():
    while tracelet.get_session():
        time.sleep(0.05)
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
""",
        env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        timeout=50,
    )
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tracelet-shim: interrupted")]
    assert line.endswith(f"tracelet-shim replay {tmp_path}/runs/x --resume")
    eventually(lambda: tensorboard_steps(tmp_path) == list(range(300)))


@pytest.mark.parametrize("hosting", HOSTINGS)
def test_terminated_again_while_delivering(run_python: RunPython, tmp_path: Path, hosting: str) -> None:
    """A second SIGTERM, as `timeout` and schedulers send one to the whole process group, does not cut the delivery short that
    the first one's handler has begun."""
    done = run_python(
        CHEAP
        + f"""
signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))
session(delivery={hosting!r})
log(20000)
def again():
    while tracelet.get_session():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=again, daemon=True).start()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)
""",
        check=False,
    )
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert cheap_runs(tmp_path) == [("KILLED", 20000, 20000)]


@pytest.mark.parametrize("hosting", HOSTINGS)
def test_terminated_again_before_the_end_is_asked_for(run_python: RunPython, tmp_path: Path, hosting: str) -> None:
    """Nor does one that comes between the first lines of the end."""
    done = run_python(
        CHEAP
        + f"""
from tracelet_shim.bus.bus import Bus

signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))
session(delivery={hosting!r}, strict=True)
log(2000)
begin_close, times = Bus.begin_close, []

def terminated(*args):
    times.append(1)
    if len(times) <= 2:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    begin_close(*args)

Bus.begin_close = terminated
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)
""",
        check=False,
    )
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert cheap_runs(tmp_path) == [("KILLED", 2000, 2000)]


def test_harmless_trouble_under_strict(run_python: RunPython) -> None:
    """Trouble that makes no event doubtful does not fail a strict program."""
    done = run_python(
        CHEAP
        + """
from tracelet_shim.bus.messages import Trouble
s = session(strict=True)
log(10)
s._replies.take(Trouble(None, "system-metrics", "no GPU can be read"))
"""
    )
    assert "warning: no GPU can be read" in done.stderr


def test_relay_cannot_start(run_python: RunPython, tmp_path: Path) -> None:
    """Without an interpreter to start a relay with, the trackers are served from a thread, and one line says so."""
    done = run_python(CHEAP + "sys.executable = ''\nsession()\nlog(300)")
    assert done.stderr.count("served from a thread") == 1
    assert cheap_runs(tmp_path) == [("FINISHED", 300, 300)]


def test_forked_child_is_inactive(run_python: RunPython, tmp_path: Path) -> None:
    """A forked child opens nothing and sends nothing, and the parent's session goes on as if it had not been."""
    run_python(
        CHEAP
        + """
s = session()
w = log(100)
child = os.fork()
if child == 0:
    assert not tracelet.get_session()
    w.add_scalar("loss", 1.0, 5000)
    time.sleep(30)  # it holds no end of the relay's pipe
    os._exit(0)
log(100, w, 100)
tracelet.stop_logging()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""
    )
    assert cheap_runs(tmp_path) == [("FINISHED", 200, 200)]


def test_spawned_child_opens_no_run(run_python: RunPython, tmp_path: Path) -> None:
    """Children that multiprocessing spawns import the script again, and inherit the environment, and open no run."""
    run_python(
        CHEAP
        + """
import multiprocessing
session()
def work(n):
    SummaryWriter("runs/child").add_scalar("other", n, n)
if __name__ == "__main__":
    w = log(100)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(work, range(4))
""",
        env={"TRACELET_BACKEND": "dvclive"},
    )
    assert cheap_runs(tmp_path) == [("FINISHED", 100, 100)]


@pytest.mark.parametrize(("ranks", "runs"), [("main", 1), ("all", 2)])
def test_ranks(run_python: RunPython, tmp_path: Path, ranks: str, runs: int) -> None:
    """Of the processes of one job, rank 0 alone logs, or each has a run of its own if all are asked for."""
    for rank in "01":
        run_python(CHEAP + f"session(ranks={ranks!r})\nlog(50)", env={"RANK": rank})
    assert len(cheap_runs(tmp_path)) == runs


def test_training_process_stays_as_it_was(run_python: RunPython) -> None:
    """In the training process there are our own small modules more, and no thread; signal handlers, excepthook and standard
    streams are what they were, and no tracker's SDK, no decoder and no database was imported."""
    done = run_python(
        """
        import signal, sys, threading
        from torch.utils.tensorboard import SummaryWriter
        import torch
        def state():
            handlers = [signal.getsignal(s) for s in signal.valid_signals()]
            return handlers, sys.excepthook, threading.excepthook, sys.stdout.write, sys.stderr.write, sys.displayhook
        def memory():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        w = SummaryWriter("runs/x")
        for i in range(1000):
            w.add_scalar("loss", i, i)
        before, modules, threads, resident = state(), set(sys.modules), set(threading.enumerate()), memory()
        import tracelet_shim
        s = tracelet_shim.start_logging(backend=["mlflow", "aim", "tensorboard"])
        for i in range(1000):
            w.add_scalar("loss", i, i)
        s.flush(60)
        assert state() == before
        assert set(threading.enumerate()) == threads
        new = {name.partition(".")[0] for name in set(sys.modules) - modules}
        print(sorted(new))
        assert new - sys.stdlib_module_names <= {"tracelet_shim", "msgspec", "wrapt", "google_crc32c"}, new
        assert not {"tracelet_shim.eventfiles.decoder", "tracelet_shim.relay", "tracelet_shim.state.database"} & set(sys.modules)
        assert memory() - resident < 20e6, memory() - resident
        """
    )
    assert done.stdout
