"""What says that everything has been delivered has seen it: damaged state, lost records, refused events, several sessions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from tests.conftest import RunPython
from tests.delivery.programs import LOG, eventually, relays, tensorboard_steps
from tests.replay.commands import environment, points, tracelet_shim
from tests.sample_events import run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import UnsettledLostError
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.relay import progress
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.testing import RecordingBackend

STATE = Path("runs/x/.tracelet")
AWAY = {"TRACELET_TENSORBOARD_LOGDIR": "/proc/nowhere"}
"""A tracker that is not there yet."""


def logged(count: int, directory: str = "runs/x") -> Path:
    """Write an event file, as a program that knew nothing of us; return it."""
    with SummaryWriter(directory) as writer:
        for step in range(count):
            writer.add_scalar("loss", step / 7, step)
        return Path(writer.file_writer.event_writer._file_name)


def cut(file: Path, records: int) -> None:
    """Leave only the first records of an event file."""
    data = []
    with open(file, "rb") as opened:
        for _, each in zip(range(records), tfrecord.records(opened), strict=False):
            data.append(each)
    file.write_bytes(tfrecord.joined(data))


def empty(path: Path) -> None:
    path.touch()


def without_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")


def no_database(path: Path) -> None:
    path.write_text("no database, but long enough to look like one" * 100)


def torn(path: Path) -> None:
    ledger = Ledger(path.parent)
    ledger.begin(run_info(), "/r", ["tensorboard"])
    ledger.close()
    os.truncate(path, path.stat().st_size // 2 + 100)


@pytest.mark.parametrize("damage", [empty, without_tables, no_database, torn], ids=lambda damage: damage.__name__)
def test_a_ledger_that_tells_nothing(damage: object) -> None:
    """An empty, half-made or torn ledger is named by --resume and by the status, with the command that delivers the event files
    into a new run; and that works."""
    logged(5)
    STATE.mkdir()
    path = STATE / "ledger.db"
    damage(path)  # type: ignore[operator]
    before = path.read_bytes()
    for command in (["replay", "runs/x", "--resume"], ["status", "runs/x"]):
        said = tracelet_shim(*command, code=2 if command[0] == "replay" else 1)
        assert str(path) in said
        assert f"tracelet-shim replay {Path.cwd()}/runs/x --backend NAMES" in said
        assert "everything" not in said
        assert "no sessions found" not in said
    assert path.read_bytes() == before
    assert "5 events delivered" in tracelet_shim("replay", "runs/x", "--backend", "tensorboard")
    assert tensorboard_steps(Path.cwd()) == list(range(5))


def test_a_ledger_has_its_session_from_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the process that makes a ledger is killed, the file is not there, or has the session and its trackers."""
    seen: list[str] = []
    link = os.link

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def watched(source: Path, target: Path) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        link(source, target)
        ledger = Ledger(tmp_path, existing=True)
        ((session),) = ledger.sessions()
        assert [run.backend for run in ledger.runs(session.id)] == ["aim", "mlflow"]
        ledger.close()

    monkeypatch.setattr(os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        Ledger(tmp_path).begin(run_info(), "/r", ["mlflow", "aim"])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "link", watched)
    ledger = Ledger(tmp_path)
    assert ledger.begin(run_info(), "/r", ["mlflow", "aim"]) is None
    known = ledger.begin(run_info(), "/r", ["mlflow", "aim"])
    assert known is not None
    ledger.close()
    assert "ledger.db" not in seen
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]


def test_the_ledger_of_another_session_came_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sessions that make the ledger of a directory at once, both are in it; also without hard links."""
    link = os.link

    def later(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        other = Ledger(tmp_path)
        other.begin(run_info(session="b" * 16), "/r", ["aim"])
        other.close()
        link(source, target)

    monkeypatch.setattr(os, "link", later)
    ledger = Ledger(tmp_path)
    assert ledger.begin(run_info(), "/r", ["mlflow"]) is None
    assert {session.id: [run.backend for run in ledger.runs(session.id)] for session in ledger.sessions()} == {
        "b" * 16: ["aim"], run_info().session: ["mlflow"]
    }  # fmt: skip
    ledger.close()


def test_a_session_without_trackers(run_python: RunPython, tmp_path: Path) -> None:
    """Of a session that 0.1 had entered when it was killed, and not its trackers yet, that is said; they can be named."""
    run_python(LOG + "s = tracelet.start_logging(backend='tensorboard', project='p', exp_name='e')\nlog(20).close()\n")
    shutil.rmtree("tracelet-runs")
    with contextlib.closing(sqlite3.connect(STATE / "ledger.db")) as db, db:
        for table in ("runs", "sources", "writers"):
            db.execute(f"DELETE FROM {table}")
        db.execute("UPDATE sessions SET ended = NULL, status = NULL, events = 0, records = 0")
    said = tracelet_shim("replay", "runs/x", "--resume", code=2)
    assert "was killed before its trackers were noted" in said
    ((session),) = json.loads(tracelet_shim("status", "--json"))
    assert (session["runs"], session["resume"]) == (
        [], f"tracelet-shim replay {tmp_path}/runs/x --resume {session['session']} --backend NAMES"
    )  # fmt: skip
    assert "20 events delivered" in tracelet_shim("replay", "runs/x", "--resume", "--backend", "tensorboard")
    assert tensorboard_steps(tmp_path) == list(range(20))
    assert "everything has been delivered" in tracelet_shim("replay", "runs/x", "--resume")


def test_a_state_that_cannot_be_written(run_python: RunPython, tmp_path: Path) -> None:
    """Where the ledger is locked, or its disk is read only, a session is not continued: its events would go into a new run."""
    run_python(LOG + "tracelet.start_logging(backend='tensorboard', exit_timeout=1)\nlog(5).close()\n", env=AWAY)
    with contextlib.closing(sqlite3.connect(STATE / "ledger.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        said = tracelet_shim("replay", "runs/x", "--resume", code=2)
    assert "was not continued" in said
    assert "database is locked" in said
    assert not list(tmp_path.glob("tracelet-runs"))
    assert "5 events delivered" in tracelet_shim("replay", "runs/x", "--resume")


# -- several sessions -------------------------------------------------------------------------------------------------


def test_all_sessions_are_continued(run_python: RunPython, tmp_path: Path) -> None:
    """Of several sessions in one log directory, all that are not complete are continued, the oldest first; one that is still
    running is named, and does not keep the others back; one whose files are gone neither."""
    begin = "s = tracelet.start_logging(backend='tensorboard', project='p', exp_name={!r}, exit_timeout=1)\n"
    program = "".join(begin.format(name) + f"log({count}).close()\ns.stop()\n" for name, count in (("one", 3), ("two", 4)))
    run_python(LOG + program, env=AWAY)
    run_python(LOG + begin.format("three") + "log(5).close()\n", env=AWAY)
    (gone,) = (file for file in Path("runs/x").glob("*tfevents*") if tfrecord.count_records(str(file)) == 5)
    gone.rename("elsewhere")  # of the second, with four points and the version
    script = tmp_path / "script.py"
    script.write_text(LOG + begin.format("four") + "w = log(6)\nw.flush()\nassert s.flush(60)\nopen('up', 'w')\ntime.sleep(100)")
    with subprocess.Popen([sys.executable, str(script)], env=environment(), stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: Path("up").exists())
            said = tracelet_shim("replay", "runs/x", "--resume", code=2)
        finally:
            process.kill()
    lines = [line.split(": ", 1)[1] for line in said.splitlines() if "delivered" in line or "error" in line]
    assert lines[0] == "tensorboard: 3 events delivered, 0 pending, 0 set aside"
    assert "none of its event files is there" in lines[1]
    assert lines[2] == "tensorboard: 5 events delivered, 0 pending, 0 set aside"
    assert "is still running" in lines[3]
    assert len(lines) == 4
    eventually(lambda: not relays(tmp_path))
    Path("elsewhere").rename(gone)
    assert "4 events delivered" in tracelet_shim("replay", "runs/x", "--resume")
    assert sorted(tensorboard_steps(tmp_path)) == sorted([*range(3), *range(4), *range(5), *range(6)])
    assert sorted(path.name for path in Path("tracelet-runs/p").iterdir()) == ["four", "one", "three", "two"]
    assert "everything has been delivered" in tracelet_shim("replay", "runs/x", "--resume")


def test_a_state_directory_without_sessions_of_this_log_directory(run_python: RunPython, tmp_path: Path) -> None:
    """In a state directory that many log directories share, a log directory without a session is not one that is complete."""
    state = str(tmp_path / "state")
    run_python(LOG + "tracelet.start_logging(backend='tensorboard')\nlog(5).close()\n", env={"TRACELET_STATE_DIR": state})
    logged(5, "runs/other")
    said = tracelet_shim("replay", "runs/other", "--resume", code=2, TRACELET_STATE_DIR=state)
    assert f"{state} has sessions, but none of {tmp_path}/runs/other" in said


def test_only_the_tracker_that_was_named(run_python: RunPython, tmp_path: Path) -> None:
    """That a tracker has everything is said of that tracker, while another one lacks something."""
    run_python(LOG + "session(exit_timeout=100)\nlog(5).close()\n", env=AWAY)
    said = tracelet_shim("replay", "runs/x", "--resume", "--backend", "mlflow")
    assert f"nothing to resume in {tmp_path}/runs/x for mlflow" in said
    assert "5 events delivered" in tracelet_shim("replay", "runs/x", "--resume")


def test_program_and_log_directory_have_moved(tmp_path: Path) -> None:
    """A session that was killed is continued where its directories have been moved to: in the store that moved with them, in the
    same run, from another place."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    kill = "w.flush()\nassert s.flush(100)\nrelay = s._bus._parts[0].bus.relay_pid\nos.kill(relay, 19)\n"
    kill += "log(10, w, 30)\nw.flush()\nos.kill(relay, 9)\nos.kill(os.getpid(), 9)"
    (old / "script.py").write_text(
        LOG + "s = tracelet.start_logging(backend='mlflow', project='p', exp_name='e')\nw = log(30)\n" + kill
    )
    program = [sys.executable, "script.py"]
    done = subprocess.run(program, cwd=old, env=environment(), capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    eventually(lambda: not relays(old))
    old.rename(new)
    assert "40 events delivered" in tracelet_shim("replay", "new/runs/x", "--resume")
    assert [step for step, _ in points(new / "mlflow.db")["e"]] == list(range(40))
    assert not old.exists()
    assert not (tmp_path / "mlflow.db").exists()


# -- records that are lost --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mlflow_store")
def test_an_event_file_has_lost_records(run_python: RunPython, tmp_path: Path) -> None:
    """What a tracker has not got, and the event file does not have any more, is lost: counted for that tracker and named with
    its file, also afterwards, in the status and in what `run` says."""
    run_python(LOG + "session(exit_timeout=100)\nw = log(300)\nlog(10, SummaryWriter('runs/x/val'))\nw.close()", env=AWAY)
    (file,) = Path("runs/x").glob("*tfevents*")
    (other,) = Path("runs/x/val").glob("*tfevents*")
    cut(file, 101)  # the first is the version
    other.unlink()
    said = tracelet_shim("replay", "runs/x", "--resume", code=2)
    counts = "tensorboard: 100 events delivered, 0 pending, 0 set aside, 210 lost"
    assert counts in said
    for _ in range(2):
        assert f"tensorboard: 200 events are lost: {tmp_path}/{file} has fewer records" in said
        assert f"tensorboard: 10 events are lost: {tmp_path}/{other} has fewer records" in said
        assert counts in said
        assert "everything" not in said
        assert "mlflow" not in said.replace("mlflow: sqlite", "")
        said = tracelet_shim("replay", "runs/x", "--resume", code=2)
    assert tensorboard_steps(tmp_path) == list(range(100))
    assert len(points(tmp_path / "mlflow.db")["e"]) == 300
    ((session),) = json.loads(tracelet_shim("status", "--json"))
    found = {row["backend"]: (row["delivered"], row["pending"], row["set_aside"], row["lost"]) for row in session["runs"]}
    assert found == {"mlflow": (310, 0, 0, 0), "tensorboard": (100, 0, 0, 210)}
    assert {row["file"]: row["events"] for row in session["lost"]} == {f"{tmp_path}/{file}": 200, f"{tmp_path}/{other}": 10}
    assert f"lost for tensorboard: 200 events: {tmp_path}/{file}" in tracelet_shim("status")


@pytest.mark.parametrize("within", [False, True], ids=["between records", "within a record"])
def test_a_file_was_cut_under_its_program(run_python: RunPython, tmp_path: Path, within: bool) -> None:
    """Where the event file was cut while the program wrote to it, which goes on there, be it behind half a record, a resumed
    delivery brings what is before that, and says how much is lost; nothing behind it is taken for something else."""
    done = run_python(
        LOG
        + "s = tracelet.start_logging(backend='tensorboard', exit_timeout=3)\nw = log(1000)\nw.flush()\n"
        "from tracelet_shim.eventfiles.tfrecord import checked_records\n"
        "with open(w.file_writer.event_writer._file_name, 'rb+') as file:\n"
        f"    file.truncate([offset for offset, _ in checked_records(file)][100] + {7 * within})\n"
        "log(500, w, 1000)\nw.close()",
        env=AWAY,
    )
    assert "tensorboard: 1500 events were not delivered" in done.stderr
    (file,) = Path("runs/x").glob("*tfevents*")
    assert file.stat().st_size > 10_000
    said = tracelet_shim("replay", "runs/x", "--resume", code=2)
    assert "100 events delivered, 0 pending, 0 set aside, 1400 lost" in said
    assert f"1400 events are lost: {tmp_path}/{file}" in said
    assert tensorboard_steps(tmp_path) == list(range(100))


@pytest.mark.usefixtures("mlflow_store")
def test_an_index_that_is_gone(run_python: RunPython, tmp_path: Path) -> None:
    """Without its index, or with one that is too short, a session that ended tells no longer what was delivered: that is said."""
    run_python(LOG + "tracelet.start_logging(backend='tensorboard', exit_timeout=1)\nlog(50).close()", env=AWAY)
    (index,) = STATE.glob("*.index")
    content = index.read_bytes()
    for left in (content[: 28 * 20], b"", None):
        index.write_bytes(left) if left is not None else index.unlink()
        said = tracelet_shim("replay", "runs/x", "--resume", code=2)
        assert "has lost its index" in said
        assert "--backend NAMES" in said
    index.write_bytes(content)
    assert "50 events delivered" in tracelet_shim("replay", "runs/x", "--resume")


# -- events that were refused -----------------------------------------------------------------------------------------

REFUSED = """
import sqlite3
def deleted(is_deleted):
    with sqlite3.connect("mlflow.db") as db:
        db.execute("UPDATE runs SET lifecycle_stage = ?", ("deleted" if is_deleted else "active",))
s = tracelet.start_logging(backend="mlflow", project="p", exp_name="e")
w = log(20)
assert s.flush(100)
deleted(True)
log(30, w, 20)
assert not s.flush(100)  # something has been refused
deleted(False)
log(10, w, 50)
"""


@pytest.mark.usefixtures("mlflow_store")
def test_refused_events_are_offered_again(run_python: RunPython, tmp_path: Path) -> None:
    """What a tracker refused is named at the end, in the status and by --resume, with the command that offers it again; what is
    taken then is in the same run, with its exact value; where the run cannot be opened, all of it stays set aside."""
    command = f"tracelet-shim replay {tmp_path}/runs/x --resume --retry-refused"
    done = run_python(LOG + REFUSED)
    assert "30 events were not delivered" in done.stderr
    assert command in done.stderr
    said = tracelet_shim("replay", "runs/x", "--resume", code=2)
    assert "30 events delivered, 0 pending, 30 set aside" in said
    assert f"30 events were refused by mlflow and are set aside; to offer them again: {command}" in said
    assert "everything" not in said
    ((session),) = json.loads(tracelet_shim("status", "--json"))
    assert session["resume"] == command.replace("--retry", f"{session['session']} --retry")
    before = points(tmp_path / "mlflow.db")["e"]
    with contextlib.closing(sqlite3.connect(STATE / "ledger.db")) as db, db:  # the run cannot be opened: nothing is offered
        ((run_id,),) = db.execute("SELECT run_id FROM runs").fetchall()
        db.execute("UPDATE runs SET run_id = 'ffff'")
    tracelet_shim("replay", "runs/x", "--resume", "--retry-refused", "--timeout", "3", code=2)
    with contextlib.closing(sqlite3.connect(STATE / "ledger.db")) as db, db:
        assert db.execute("SELECT COUNT(*) FROM set_aside").fetchall() == [(30,)]
        db.execute("UPDATE runs SET run_id = ?", (run_id,))
    assert points(tmp_path / "mlflow.db")["e"] == before
    assert "60 events delivered, 0 pending, 0 set aside" in tracelet_shim("replay", "runs/x", "--resume", "--retry-refused")
    assert sorted(points(tmp_path / "mlflow.db")["e"]) == [(step, step / 7) for step in range(60)]
    assert "everything has been delivered" in tracelet_shim("replay", "runs/x", "--resume", "--retry-refused")
    assert not list(STATE.glob("*.index"))


class Choosy(RecordingBackend):
    """Refuses events of these steps, and once forgets what it has not stored."""

    name = "choosy"
    batch_events = 7

    def __init__(self, refused: set[int], forgets: int | None = None) -> None:
        super().__init__()
        self.refused, self.forgets = refused, forgets
        self.held: list[ev.Event] = []

    def write(self, events: Sequence[ev.Event]) -> None:
        if self.forgets is not None and any(event.step == self.forgets for event in events):
            self.forgets = None
            self.held.clear()
            raise UnsettledLostError("the memory is gone")
        self.written = 0
        for event in events:
            if event.step in self.refused and event.tag != "c":
                raise errors.EventRejectedError("not this one")
            self.held.append(event)
            self.written += 1

    def unsettled(self) -> int:
        return len(self.held)

    def flush(self) -> None:
        self.events += self.held
        self.held.clear()


def offer(tmp_path: Path, backend: Choosy, *, restarted: bool, records: list[msg.Record] | None = None) -> msg.BackendState:
    """Serve a session, or offer what it set aside again; return where the tracker stands."""
    relay = Relay(lambda _: None, {"choosy": backend}, complete=True, retry_refused=restarted)
    run = run_info(root=str(tmp_path / "runs"), what_ran=())
    relay.handle(msg.Open(run, [msg.BackendSpec("choosy", "", {})], 10**6, str(tmp_path / "runs"), restarted=restarted))
    relay.handle(msg.Source(0, str(tmp_path / "runs" / "events"), str(tmp_path / "runs")))
    relay.handle(msg.Continue() if restarted else msg.Records(records or []))
    relay.handle(msg.Close("finished", 20.0))
    eventually(lambda: relay.tick() or relay.closed, 30)  # type: ignore[func-returns-value]
    return relay.states()["choosy"]


@pytest.mark.parametrize("most", [3, 10_000])
def test_each_value_that_was_refused_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Of records with several values those that were refused are offered again, whether they are kept with the tracker's
    message or only counted with their place; what is forgotten before it is stored is offered once more; nothing comes twice."""
    monkeypatch.setattr(progress, "_MOST_REFUSED", most)
    (tmp_path / "runs").mkdir()
    file = tmp_path / "runs" / "events"
    data = [
        Event(step=step, wall_time=1e9, summary=Summary(value=[Summary.Value(tag=tag, simple_value=step) for tag in "abc"]))
        for step in range(100)
    ]
    file.write_bytes(tfrecord.joined(event.SerializeToString() for event in data))
    with open(file, "rb") as opened:
        records = [msg.Record(0, position, each) for position, each in enumerate(tfrecord.records(opened))]
    refused = {*range(5, 9), 40, 42, 99}
    first = Choosy(refused)
    state = offer(tmp_path, first, restarted=False, records=records)
    assert (state.delivered, state.pending, state.failed) == (300 - 14, 0, 14)
    again = Choosy({42}, forgets=99)
    state = offer(tmp_path, again, restarted=True)
    assert (state.delivered, state.pending, state.failed) == (298, 0, 2)
    last = Choosy(set())
    state = offer(tmp_path, last, restarted=True)
    assert (state.delivered, state.pending, state.failed) == (300, 0, 0)
    got = [[(event.step, event.tag) for event in backend.events] for backend in (first, again, last)]
    assert got[1] == [(step, tag) for step in sorted(refused - {42}) for tag in "ab"]
    assert got[2] == [(42, "a"), (42, "b")]
    assert sorted(got[0] + got[1] + got[2]) == [(step, tag) for step in range(100) for tag in "abc"]
    assert not list((tmp_path / "runs" / ".tracelet").glob("*.index"))


@pytest.mark.usefixtures("mlflow_store")
def test_the_ledger_of_an_older_version(run_python: RunPython, tmp_path: Path) -> None:
    """A ledger of 0.1, whose refused events have no numbers, is read as it is, and its refused events are offered again as long
    as there is the index."""
    run_python(LOG + REFUSED)
    with contextlib.closing(sqlite3.connect(STATE / "ledger.db")) as db, db:
        columns = "session, backend, path, position, kind, tag, step, message, at"
        db.execute("DROP TABLE lost")
        db.execute(f"CREATE TABLE old AS SELECT {columns} FROM set_aside")
        db.execute("DROP TABLE set_aside")
        db.execute("ALTER TABLE old RENAME TO set_aside")
    before = (STATE / "ledger.db").read_bytes()
    assert "and 25 more set aside" in tracelet_shim("status")
    assert "30 events were refused by mlflow" in tracelet_shim("replay", "runs/x", "--resume", code=2)
    assert (STATE / "ledger.db").read_bytes() == before
    assert "60 events delivered, 0 pending, 0 set aside" in tracelet_shim("replay", "runs/x", "--resume", "--retry-refused")
    assert sorted(points(tmp_path / "mlflow.db")["e"]) == [(step, step / 7) for step in range(60)]


def test_retry_needs_resume() -> None:
    """--retry-refused alone would be a replay into a new run."""
    assert "--retry-refused goes with --resume" in tracelet_shim("replay", ".", "--retry-refused", code=2)


# -- nothing to read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--runs"], ["--follow", "--idle", "0.5"], ["--resume", "--runs"], ["--resume"]])
def test_a_directory_without_event_files(options: list[str]) -> None:
    """It is named, with exit code 2, and no run is opened."""
    Path("runs/x/logs").mkdir(parents=True)
    Path("runs/x/logs/events.out.tfevents.0000000001.host").touch()  # of a writer that was killed before its first flush
    said = tracelet_shim("replay", "runs/x", "-b", "tensorboard", *options, code=2)
    assert f"{Path.cwd()}/runs/x" in said
    assert "delivered" not in said
    assert [path.name for path in Path.cwd().iterdir()] == ["runs"]


def test_followed_from_before_its_beginning() -> None:
    """A directory that is followed before anything is in it opens its run with the first event file."""
    Path("runs/x").mkdir(parents=True)
    command = [sys.executable, "-m", "tracelet_shim", "replay", "runs/x", "-b", "tensorboard", "--follow", "--idle", "3"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1)
        assert not Path("tracelet-runs").exists()
        logged(5)
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
    assert tensorboard_steps(Path.cwd()) == list(range(5))


def test_one_sub_directory_without_anything() -> None:
    """With --runs, a sub-directory whose event file is empty is named, and the others are delivered."""
    for name in "ac":
        logged(5, f"sweep/{name}")
    Path("sweep/b").mkdir()
    Path("sweep/b/events.out.tfevents.0000000001.host").touch()
    said = tracelet_shim("replay", "sweep", "-b", "tensorboard", "--runs", "-p", "p", code=2)
    assert f"error: {Path.cwd()}/sweep/b has no event files with anything in them" in said
    assert sorted(path.name for path in Path("tracelet-runs/p").iterdir()) == ["a", "c"]


@pytest.mark.parametrize("missing", [("tensorboard",), ("tensorboard", "torch", "google.protobuf")])
def test_without_tensorboard(run_python: RunPython, tmp_path: Path, missing: tuple[str, ...]) -> None:
    """Where only a tracker is installed, what cannot be read is said in one line with the remedy; the status needs nothing."""
    run_python(LOG + "w = session(exit_timeout=1) and log(5)\nw.close()", env=AWAY)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing!r}))")
    for arguments in (["runs/x", "-b", "mlflow"], ["runs/x", "--resume"], [".", "-b", "mlflow", "--runs"]):
        said = tracelet_shim("replay", *arguments, code=2, PYTHONPATH=str(site))
        (line,) = (line for line in said.splitlines() if not line.startswith("tracelet-shim: -- "))
        assert line.startswith("tracelet-shim: error: event files cannot be read without tensorboard")
        assert line.endswith("remedy: pip install tensorboard")
    assert f"tracelet-shim replay {tmp_path}/runs/x --resume" in tracelet_shim("status", PYTHONPATH=str(site))
    assert "tensorboard" in tracelet_shim("doctor", code=1, PYTHONPATH=str(site))
