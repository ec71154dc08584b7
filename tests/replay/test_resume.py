"""Sessions that were cut off, or whose tracker was away: continued into the same runs, with nothing twice."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.delivery.programs import LOG, eventually, relays, tensorboard_steps
from tests.replay.commands import environment, points, runs, tracelet_shim
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.testing import RecordingBackend

pytestmark = pytest.mark.usefixtures("mlflow_store")

KILL_BOTH = """
relay = s._bus._parts[0].bus.relay_pid
os.kill(relay, signal.SIGSTOP)
{}
os.kill(relay, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


KILL_AT_END = """
import sqlite3, threading
def kill():
    with sqlite3.connect("runs/ending/.tracelet/ledger.db") as db:
        while db.execute("SELECT status FROM sessions").fetchall() != [("finished",)]:
            time.sleep(0.1)
    os.kill(s._bus._parts[0].bus.relay_pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
s = session()
w = log(40)
w.close()
assert not s.flush(2)
threading.Thread(target=kill, daemon=True).start()
s.stop()
"""


def test_training_and_relay_are_killed(run_python: RunPython, tmp_path: Path) -> None:
    """After SIGKILL of both, --resume puts every point into the same run, once, with its exact value: what the relay had not
    taken, what a writer that the ledger does not know wrote, to the last call, and keys of add_scalars."""
    done = run_python(
        LOG
        + "s = session()\nw = log(300)\nw.add_scalars('group', {'a': 1 / 3}, 1)\nw.flush()\nassert s.flush(60)"
        + KILL_BOTH.format(
            "log(100, w, 300)\nw.add_scalars('group', {'a': 2.5, 'b': 0.5}, 2)\n"
            "v = SummaryWriter('runs/x/val')\nlog(20, v)\n"
            "for writer in (w, v, *w.all_writers.values()): writer.flush()\n"
            "v.add_scalar('loss', 1.0, 999)"
        ),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    eventually(lambda: not relays(tmp_path))
    (tmp_path / "runs/x/events.out.tfevents.1000000000.elsewhere.1.0").write_bytes(b"not of this session")
    database = tmp_path / "mlflow.db"
    assert runs(database) == [("e", "RUNNING")]
    said = tracelet_shim("replay", "runs/x", "--resume")
    assert "set aside" in said
    assert runs(database) == [("e", "FAILED")]
    found = points(database)["e"]
    assert [step for step, _ in found] == list(range(400))
    assert [value for _, value in found] == [i / 7 for i in range(400)]
    assert [step for step, _ in points(database, "val/loss")["e"]] == [*range(20), 999]
    assert points(database, "group/a")["e"] == [(1, 1 / 3), (2, 2.5)]
    assert points(database, "group/b")["e"] == [(2, 0.5)]
    assert sorted(tensorboard_steps(tmp_path)) == sorted([*range(400), *range(20), 999])
    assert not list((tmp_path / "runs/x/.tracelet").glob("*.index"))
    assert "nothing to resume" in tracelet_shim("replay", "runs/x", "--resume")
    assert len(points(database)["e"]) == 400


def test_a_session_that_runs_is_refused(run_python: RunPython, tmp_path: Path) -> None:
    """While the training process, or a relay that outlives it, delivers, nobody else does."""
    script = tmp_path / "script.py"
    session = "s = tracelet.start_logging(backend='tensorboard')\nw = log(10)\nw.flush()\nassert s.flush(60)\n"
    script.write_text(LOG + session + "open('up', 'w')\ntime.sleep(100)")
    with subprocess.Popen([sys.executable, str(script)], env=environment(), stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: Path("up").exists())
            assert "is still running" in tracelet_shim("replay", "runs/x", "--resume", code=2)
        finally:
            process.kill()
    eventually(lambda: not relays(tmp_path))
    assert "nothing to resume" in tracelet_shim("replay", "runs/x", "--resume")


def test_a_tracker_that_was_away(tmp_path: Path) -> None:
    """What a dead server did not get is named at the end, and in the status, with the command that delivers it when the server
    is back: every value exactly, into runs as the program would have opened them; of a session that was killed, to the last
    call; of one that was killed while it waited at its end, as finished; and a replay is a session like any other."""
    port = _free_port()
    env = environment(MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    script = tmp_path / "script.py"

    def program(name: str, text: str) -> str:
        script.write_text(LOG.replace('["mlflow", "tensorboard"]', '"mlflow"').replace("runs/x", f"runs/{name}") + text)
        done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.stderr

    warning = program("left", "session(exit_timeout=4, tags={'a': 'b'})\nw = log(300)\nw.close()")
    kill = KILL_BOTH.format("w.flush()\nlog(7, w, 100)")
    program("killed", f"s = session()\nw = log(100)\nw.flush()\nlog(9, w, 200)\ntime.sleep(3){kill}")
    program("ending", KILL_AT_END)
    program("bare", "log(50).close()")
    assert "cut off" in tracelet_shim("status", "runs/ending")
    replayed = tracelet_shim("replay", "runs/bare", "-b", "mlflow", "-p", "p", "--timeout", "2", code=2, **env)
    status = tracelet_shim("status", **env)
    assert "300 events were not delivered" in warning
    for said in (warning, status):
        assert f"tracelet-shim replay {tmp_path}/runs/left --resume" in said
    assert f"tracelet-shim replay {tmp_path}/runs/bare --resume" in replayed
    (file,) = (tmp_path / "runs/left").glob("*tfevents*")
    file.rename("elsewhere")  # as when a file system is not mounted: nothing must be given up for that
    assert "none of its event files is there" in tracelet_shim("replay", "runs/left", "--resume", code=2, **env)
    Path("elsewhere").rename(file)
    with _server(tmp_path, port):
        for name in ("left", "killed", "ending", "bare"):
            assert "0 pending, 0 set aside" in tracelet_shim("replay", f"runs/{name}", "--resume", **env)
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as db:
        sql = (
            "SELECT r.status, m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) LEFT JOIN tags t ON t.run_uuid ="
            " m.run_uuid AND t.key = 'a' AND t.value = 'b' WHERE r.name = 'e' AND (t.value IS NULL) = ? ORDER BY m.rowid"
        )
        left, killed = (db.execute(sql, (absent,)).fetchall() for absent in (0, 1))
    assert left == [("FINISHED", i, i / 7) for i in range(300)]
    assert killed[:116] == [("FAILED", i, i / 7) for i in [*range(100), *range(200, 209), *range(100, 107)]]
    assert killed[116:] == [("FINISHED", i, i / 7) for i in range(40)]  # it had come to its end
    assert [step for step, _ in points(database)["bare"]] == list(range(50))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class _server:  # noqa: N801 - used like a function
    """A real ``mlflow server``; its database is ``mlflow.db``."""

    def __init__(self, directory: Path, port: int) -> None:
        command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db", "--artifacts-destination", str(directory / "files")]
        self._port = port
        self._process = subprocess.Popen(
            [sys.executable, *command, *stores], cwd=directory, env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> None:
        until = time.monotonic() + 100
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2).close()
                return
            except OSError:
                assert time.monotonic() < until
                assert self._process.poll() is None
                time.sleep(0.3)

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class HalfBackend(RecordingBackend):
    """Takes `budget` events, then its connection is gone."""

    name = "half"

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = budget

    def write(self, events: Sequence[ev.Event]) -> None:
        taken = events[: max(0, self.budget)]
        self.budget -= len(taken)
        self.events.extend(taken)
        self.written = len(taken)
        if len(taken) < len(events):
            raise ConnectionError("gone")


def test_a_batch_that_was_taken_in_part(tmp_path: Path) -> None:
    """A tracker that breaks off in the middle of a batch, and in the middle of a record, gets the rest and nothing twice."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "runs"))
    for step in range(5):
        values = [Summary.Value(tag=tag, simple_value=step) for tag in "abc"]
        writer.file_writer.add_event(Event(step=step, wall_time=1e9, summary=Summary(value=values)), step)
    path = writer.file_writer.event_writer._file_name
    writer.close()
    program = Program(script=None, module=None, argv=("x",), cwd=str(tmp_path), executable=sys.executable, pid=1, host="h")
    run = RunInfo(session="5" * 16, program=program, started=1e9)
    spec = msg.BackendSpec("half", "", {})
    source = msg.Source(0, path, str(tmp_path / "runs"))
    with open(path, "rb") as file:
        records = [msg.Record(0, position, data) for position, data in enumerate(tfrecord.records(file)) if position]
    got: list[ev.Event] = []
    for budget, restarted in ((7, False), (4, True), (100, True)):
        backend = HalfBackend(budget)
        relay = Relay(lambda reply: None, {"half": backend}, complete=True)
        relay.handle(msg.Open(run, [spec], 10**6, str(tmp_path / "runs"), restarted=restarted))
        relay.handle(source)
        relay.handle(msg.Continue() if restarted else msg.Records(records))
        relay.handle(msg.Close("finished", 1.0))
        until = time.monotonic() + 20
        while not relay.closed and time.monotonic() < until:
            relay.tick()
            time.sleep(0.02)
        got += backend.events
        (state,) = relay.states().values()
        assert (state.delivered, state.pending) == (len(got), 15 - len(got))
    assert [(event.step, event.tag) for event in got] == [(step, tag) for step in range(5) for tag in "abc"]
