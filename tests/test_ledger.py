"""The state on disk: what is kept while the disk is full, and which session a job continues."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import shutil
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams, scalar

from tests.delivery.programs import eventually
from tests.sample_events import run_info
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Job, OpenedRun, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import file_systems
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.state.index import Index
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.older import moved_on
from tracelet_shim.state.rows import Refused, RunRow
from tracelet_shim.state.session import SessionState
from tracelet_shim.testing import RecordingBackend


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let files grow to `size` bytes only; what is beyond is an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def records(start: int, stop: int) -> list[msg.Record]:
    return [msg.Record(0, i, b"data", i / 7, msg.Series(f"key{i}") if i % 3 else None) for i in range(start, stop)]


def content(index: Index) -> list[tuple[int, float | None, msg.Hint | None]]:
    return [(record.position, record.value, record.hint) for record in index.read(0, index.length)]


def expected(count: int) -> list[tuple[int, float | None, msg.Hint | None]]:
    return [(record.position, record.value, record.hint) for record in records(0, count)]


def test_index_reads_on_while_the_disk_is_full(tmp_path: Path) -> None:
    """What cannot be written is kept and can be read, `written` tells what is safe, and when there is room all of it is in the
    files, once."""
    index = Index(tmp_path, "s")
    index.append(records(0, 10))
    with largest_file(28 * 10 + 40):
        for start in (10, 20):
            with pytest.raises(OSError, match="File too large"):
                index.append(records(start, start + 10))
        assert (index.length, index.written) == (30, 10)
        assert content(index) == expected(30)
    index.append(records(30, 35))
    assert (index.length, index.written) == (35, 35)
    index.close(remove=False)
    again = Index(tmp_path, "s")
    assert content(again) == expected(35)
    again.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def kept(directory: Path, runs: tuple[str, ...], counts: list[int]) -> SessionState:
    """Return the open state of a session, with so many records, all of them counted."""
    state = SessionState(lambda kind, message: pytest.fail(f"{kind}: {message}"), lambda: (*counts, *counts, *counts), directory)
    state.open(run_info(), "/r", runs, keeps=True)
    return state


def killed(directory: Path, left: Path) -> Ledger:
    """Return the ledger as a process leaves it that is killed now."""
    shutil.copytree(directory, left)
    return Ledger(left, existing=True)


def test_what_is_written_after_a_batch_outlives_a_kill(tmp_path: Path) -> None:
    """Where a tracker stands, how many records there are and what was refused are in the ledger after each batch, together,
    before anybody closes it."""
    counts = [9]
    state = kept(tmp_path / "state", ("aim", "mlflow"), counts)
    refused = Refused("mlflow", "/e", 3, "scalar", "loss", 3, "too odd", 1.0, 0, 0)
    state.stand("mlflow", (7, 2, 30, 0), [], [], [])
    state.stand("mlflow", (9, 0, 40, 2), [refused], [], [("mlflow", 0, 1)])
    state.tell([(0, 4, "two", {"lr": 0.1})], [("a/b", "a", "b", None, "")])
    ledger = killed(tmp_path / "state", tmp_path / "left")
    (session,) = ledger.sessions()
    assert (session.events, session.records, session.counted) == (9, 9, 9)
    aim, mlflow = ledger.runs(session.id)
    assert (aim.cursor, aim.part, aim.delivered, aim.failed) == (0, 0, 0, 0)
    assert (mlflow.cursor, mlflow.part, mlflow.delivered, mlflow.failed) == (9, 0, 40, 2)
    assert ledger.count_refused(session.id) == {"mlflow": 1}
    assert ledger.trials(session.id) == [(0, 4, "two", {"lr": 0.1})]
    assert ledger.paths(session.id) == [("a/b", "a", "b", None, "")]
    ledger.close()
    state.end(True, 9, "finished", {}, cut_off=False, behind=False)
    assert {path.suffix for path in (tmp_path / "state").iterdir()} == {".db", ".index", ".hints"}


def transactions(state: SessionState) -> list[str]:
    """Return a list that gets each transaction of a session."""
    begun: list[str] = []
    assert state._ledger is not None
    state._ledger._db.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
    return begun


def test_a_tag_costs_no_transaction_of_its_own(tmp_path: Path) -> None:
    """What a batch brings of new paths is one transaction; what others have to write meanwhile goes along."""
    names = ("aim", "comet", "mlflow", "wandb")
    state = kept(tmp_path, names, [0])
    begun = transactions(state)
    state.tell([], [(f"a/{i}", "a", f"{i}", None, "") for i in range(5000)])
    assert len(begun) == 1
    with state._using:  # a transaction of somebody else's takes its time
        threads = [threading.Thread(target=state.stand, args=(name, (1, 0, 3, 0), [], [], [])) for name in names]
        for thread in threads:
            thread.start()
        eventually(lambda: len(state._changes.standings) == len(names), 20)
    for thread in threads:
        thread.join()
    assert len(begun) == 2
    assert [run.delivered for run in state.runs().values()] == [3] * len(names)
    state.end(True, 0, "finished", {}, cut_off=False, behind=False)


def test_what_cannot_be_written_now_is_written_later(tmp_path: Path) -> None:
    """While the ledger is locked by somebody else nothing of what it should have is forgotten, and a tracker waits for it only
    once."""
    said: list[str] = []
    state = SessionState(lambda kind, message: said.append(message), lambda: (2, 2, 2), tmp_path)
    state.open(run_info(), "/r", ("mlflow",), keeps=True)
    assert state._ledger is not None
    state._ledger._db.execute("PRAGMA busy_timeout = 10")
    refused = Refused("mlflow", "/e", 0, "scalar", "loss", 3, "too odd", 1.0, 0, 0)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = transactions(state)
        state.tell([], [("a/b", "a", "b", None, "")])
        state.stand("mlflow", (1, 0, 0, 1), [refused], [], [])
        state.stand("mlflow", (2, 0, 1, 1), [], [], [])
        assert len(begun) == len(said) == 1
        state.save({"mlflow": ("r", None, "open", None)})
        assert len(begun) == len(said) == 2
    state.save({"mlflow": ("r", None, "open", None)})
    ledger = killed(tmp_path, tmp_path.with_name("left"))
    (row,) = ledger.runs(run_info().session)
    assert row == RunRow("mlflow", "r", None, 2, 1, 1, "open", None, 0)
    assert ledger.paths(run_info().session) == [("a/b", "a", "b", None, "")]
    assert ledger.count_refused(run_info().session) == {"mlflow": 1}
    ledger.close()
    state.end(True, 2, "finished", {}, cut_off=False, behind=False)
    assert len(said) == 2


def test_a_session_of_an_older_version(tmp_path: Path) -> None:
    """Cursors, paths and trials that an older version kept beside the ledger, and ahead of it, are read, and taken over by
    whoever goes on."""
    first = Ledger(tmp_path)
    first.begin(run_info(), "/r", ("aim", "mlflow"))
    session = run_info().session
    rows = [RunRow("mlflow", "r", None, 3, 12, 0, "open", None), RunRow("aim", None, None, 0, 0, 0, "opening", None)]
    first.save(session, 12, 3, rows)
    first.add_trials(session, [(0, 1, None, {"lr": 0.1})])
    first.add_paths(session, [("a/b", "a", "b", None, "")])
    first._db.execute("ALTER TABLE sessions DROP COLUMN counted")
    first.close()
    marks = [("mlflow", (9, 0, 40, 1)), ("aim", (5, 0, 5, 0))]
    data = [struct.pack("<16sQQQQ", hashlib.blake2s(name.encode(), digest_size=16).digest(), *mark) for name, mark in marks]
    (tmp_path / f"{session}.cursors").write_bytes(b"".join(data))
    lines = [
        [[[0, 1, None, {"lr": 0.1}], [0, 2, "two", {"lr": 0.2}]], [["a/b", "a", "b", None, ""]]],
        [[], [["a/b", "", "a/b", None, "~2"]]],
    ]
    told = b"".join(b"\n" + json.dumps(line).encode() for line in lines)
    (tmp_path / f"{session}.decoded").write_bytes(told + b'\n[[], [["cut')
    with contextlib.closing(Ledger(tmp_path, existing=True)) as ledger:
        assert [row.counted for row in ledger.sessions()] == [None]
        aim, mlflow = moved_on(tmp_path, session, ledger.runs(session))
    assert (mlflow.cursor, mlflow.part, mlflow.delivered, mlflow.failed) == (9, 0, 40, 1)
    assert aim.cursor == 0
    state = kept(tmp_path, ("aim", "mlflow"), [3])
    assert state.known is not None
    assert (state.known.records, state.known.counted) == (3, None)
    assert [row.cursor for row in state.runs().values()] == [0, 9]
    trials, paths = state.told()
    assert trials == [(0, 1, None, {"lr": 0.1}), (0, 2, "two", {"lr": 0.2})]
    assert paths == [("a/b", "a", "b", None, ""), ("a/b", "", "a/b", None, "~2")]
    assert not [*tmp_path.glob("*.cursors"), *tmp_path.glob("*.decoded")]
    state.end(True, 3, "finished", {}, cut_off=False, behind=False)


def test_where_there_is_no_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server of files, and where nobody can tell, the ledger keeps SQLite's rollback journal, as one has that was moved
    there; it is written after each batch all the same."""
    state = kept(tmp_path / "state", ("mlflow",), [1])
    killed(tmp_path / "state", tmp_path / "moved").close()
    assert (tmp_path / "moved/ledger.db").read_bytes()[18:20] == b"\2\2"
    state.end(True, 1, "finished", {}, cut_off=False, behind=False)
    assert (tmp_path / "state/ledger.db").read_bytes()[18:20] == b"\1\1"
    monkeypatch.setattr(file_systems, "_LOCAL", frozenset())
    for name in ("moved", "new"):
        state = kept(tmp_path / name, ("mlflow",), [1])
        assert (tmp_path / name / "ledger.db").read_bytes()[18:20] == b"\1\1"
        state.stand("mlflow", (1, 0, 1, 0), [], [], [])
        ledger = killed(tmp_path / name, tmp_path / f"{name}-left")
        assert [row.cursor for row in ledger.runs(run_info().session)] == [1]
        ledger.close()
        state.end(True, 1, "finished", {}, cut_off=False, behind=False)


def test_two_sessions_share_a_ledger(tmp_path: Path) -> None:
    """The last one that ends leaves one file, without what belongs to the write-ahead log."""
    first = Ledger(tmp_path)
    first.begin(run_info(), "/r", ["mlflow"])
    second = Ledger(tmp_path)
    second.begin(run_info(session="b" * 16), "/r", ["mlflow"])
    first.will_end(run_info().session, "finished")
    second.will_end("b" * 16, "failed")
    first.close()
    second.end("b" * 16, "failed", cut_off=False, taken={})
    second.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]
    assert (tmp_path / "ledger.db").read_bytes()[18:20] == b"\1\1"
    with contextlib.closing(Ledger(tmp_path, existing=True)) as ledger:
        assert [session.status for session in ledger.sessions()] == ["failed", "finished"]


class Starts:
    """The sessions of a job, start by start."""

    def __init__(self, directory: Path) -> None:
        self.ledger = Ledger(directory)
        self.count = 0

    def begin(self, times: int, root: str, name: str = "e", job: str = "slurm:1") -> str | None:
        """Begin a session; return the one that it continues."""
        self.count += 1
        fields = {"session": f"{self.count}", "exp_name": name, "job": Job(job, times)}
        run: RunInfo = msgspec.structs.replace(run_info(), **fields)
        self.ledger.begin(run, root)
        earlier = self.ledger.earlier(run, root)
        return earlier.id if earlier else None


def test_sessions_of_one_directory_are_continued_in_their_order(tmp_path: Path) -> None:
    """Two sessions in one log directory, preempted in the second: the next start's first continues the first, its second the
    second; also if the start between did not come so far."""
    starts = Starts(tmp_path)
    assert [starts.begin(0, "/r"), starts.begin(0, "/r")] == [None, None]
    assert starts.begin(1, "/r") == "1"
    assert [starts.begin(2, "/r"), starts.begin(2, "/r"), starts.begin(2, "/r")] == ["3", "2", None]


def test_folds_do_not_meet(tmp_path: Path) -> None:
    """A job of several sessions with directories of their own, preempted in the first: the others have runs of their own."""
    starts = Starts(tmp_path)
    starts.begin(0, "/fold0")
    assert [starts.begin(1, f"/fold{fold}") for fold in range(3)] == ["1", None, None]


def test_new_directory_at_each_start(tmp_path: Path) -> None:
    """The only session of a start is continued whatever its directory; not under another name, and not of another job."""
    starts = Starts(tmp_path)
    starts.begin(0, "/a")
    assert starts.begin(1, "/b") == "1"
    assert starts.begin(2, "/c") == "2"
    assert starts.begin(3, "/d", name="other") is None
    assert starts.begin(3, "/c", job="slurm:2") is None


class Slow(RecordingBackend):
    """Opens its run when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def open(self, run: RunInfo) -> OpenedRun:
        self.go.wait(60)
        return super().open(run)


def relay_of(
    directory: Path, state: Path, *, restarted: bool, backend: RecordingBackend | None = None
) -> tuple[Relay, RecordingBackend]:
    """Return a relay of a session with two writers, one in the directory of the other, and its tracker."""
    backend = backend or RecordingBackend()
    relay = Relay(lambda _: None, {"recording": backend}, state=state)
    run = msgspec.structs.replace(run_info(), root=str(directory), what_ran=())
    spec = msg.BackendSpec("recording", "", {})
    relay.handle(msg.Open(run, [spec], 10**8, str(directory), restarted=restarted))
    for number, logdir in enumerate((directory, directory / "train")):
        relay.handle(msg.Source(number, str(logdir / "events"), str(logdir)))
    return relay, backend


def end(relay: Relay) -> None:
    relay.handle(msg.Close("finished", 20))
    eventually(lambda: relay.tick() or relay.closed, 20)


def test_what_was_told_apart_outlives_a_kill(tmp_path: Path) -> None:
    """A relay that is killed in the moment in which a tracker has the first of two equal paths, and the run's own parameters, is
    continued in the same run, with the second path and with a trial."""

    def record(source: int, position: int, tag: str) -> msg.Record:
        return msg.Record(source, position, Event(summary=scalar(tag, 1.0)).SerializeToString(), 1.0)

    def trial(position: int, name: str, lr: float) -> msg.Record:
        summary = hparams({"lr": lr}, {})[1]
        return msg.Record(0, position, Event(summary=summary).SerializeToString(), None, msg.Trial(name, {"lr": lr}, {}, {}))

    state, left = tmp_path / "state", tmp_path / "left"
    relay, before = relay_of(tmp_path, state, restarted=False, backend=Slow())
    assert isinstance(before, Slow)
    before.go.set()
    eventually(lambda: relay.workers[0].opened, 20)
    relay.handle(msg.Records([record(0, 0, "train/loss"), trial(1, "one", 0.1)]))
    eventually(lambda: relay._state.runs()["recording"].cursor == 2, 20)
    shutil.copytree(state, left)
    end(relay)
    relay, after = relay_of(tmp_path, left, restarted=True)
    relay.handle(msg.Continue())
    relay.handle(msg.Records([record(1, 0, "loss"), trial(2, "two", 0.2)]))
    end(relay)
    assert after.run is not None
    assert after.run.resume == run_info().session
    events = before.events + after.events
    assert [event.path for event in events if isinstance(event, ev.Scalar)] == ["train/loss", "train/loss~2"]
    assert [event.trial for event in events if isinstance(event, ev.HParams)] == [None, "two"]
    ledger = Ledger(left)
    session = run_info().session
    assert [(path, suffix) for path, *_, suffix in ledger.paths(session)] == [("train/loss", ""), ("train/loss", "~2")]
    assert [name for _, _, name, _ in ledger.trials(session)] == [None, "two"]
    ledger.close()


def test_events_are_counted_exactly_after_a_kill(tmp_path: Path) -> None:
    """Records that no tracker has come to when the relay is killed are counted by what is in them as soon as one gets there."""
    values = [Summary.Value(tag=tag, simple_value=1.0) for tag in "abc"]
    data = [Event(step=step, summary=Summary(value=values)).SerializeToString() for step in range(10)]
    (tmp_path / "events").write_bytes(tfrecord.joined(data))
    state, left = tmp_path / "state", tmp_path / "left"
    relay, slow = relay_of(tmp_path, state, restarted=False, backend=Slow())
    assert isinstance(slow, Slow)
    relay.handle(msg.Records([msg.Record(0, position, each) for position, each in enumerate(data)]))
    relay._save()
    ledger = killed(state, left)
    assert [(row.events, row.records, row.counted) for row in ledger.sessions()] == [(10, 10, 0)]
    ledger.close()
    slow.go.set()
    end(relay)
    relay, after = relay_of(tmp_path, left, restarted=True)
    relay.handle(msg.Continue())
    eventually(lambda: relay.states()["recording"].delivered == 30, 20)
    assert relay._log.events == 30
    end(relay)
    assert len(after.events) == 30
    ledger = Ledger(left, existing=True)
    assert [(row.events, row.records, row.counted) for row in ledger.sessions()] == [(30, 10, 10)]
    ledger.close()
