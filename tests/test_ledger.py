"""The state on disk: what is kept while the disk is full, and which session a job continues."""

from __future__ import annotations

import contextlib
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard.summary import hparams, scalar

from tests.delivery.programs import eventually
from tests.sample_events import run_info
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Job, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.state.cursors import moved_on
from tracelet_shim.state.index import Index
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.rows import RunRow
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


def test_cursors_are_ahead_of_the_ledger(tmp_path: Path) -> None:
    """Where a tracker stands is on disk after each batch, for a run that the ledger knows."""
    index = Index(tmp_path, "s")
    index.cursors.mark("mlflow", (7, 2, 30, 1))
    index.cursors.mark("aim", (5, 0, 5, 0))
    index.cursors.mark("mlflow", (9, 0, 40, 1))
    index.close(remove=False)
    rows = [RunRow("mlflow", "r", None, 3, 12, 0, "open", None), RunRow("aim", None, None, 0, 0, 0, "opening", None)]
    mlflow, aim = moved_on(tmp_path, "s", rows)
    assert (mlflow.cursor, mlflow.part, mlflow.delivered, mlflow.failed) == (9, 0, 40, 1)
    assert aim.cursor == 0


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


def relay_of(directory: Path, state: Path, *, restarted: bool) -> tuple[Relay, RecordingBackend]:
    """Return a relay of a session with two writers, one in the directory of the other, and its tracker."""
    backend = RecordingBackend()
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
    continued with the second path and with a trial."""

    def record(source: int, position: int, tag: str) -> msg.Record:
        return msg.Record(source, position, Event(summary=scalar(tag, 1.0)).SerializeToString(), 1.0)

    def trial(position: int, name: str, lr: float) -> msg.Record:
        summary = hparams({"lr": lr}, {})[1]
        return msg.Record(0, position, Event(summary=summary).SerializeToString(), None, msg.Trial(name, {"lr": lr}, {}, {}))

    state, left = tmp_path / "state", tmp_path / "left"
    relay, before = relay_of(tmp_path, state, restarted=False)
    eventually(lambda: relay.workers[0].opened, 20)
    relay.tick()
    relay.handle(msg.Records([record(0, 0, "train/loss"), trial(1, "one", 0.1)]))
    (cursors,) = state.glob("*.cursors")
    eventually(lambda: cursors.stat().st_size, 20)
    shutil.copytree(state, left)
    end(relay)
    relay, after = relay_of(tmp_path, left, restarted=True)
    relay.handle(msg.Continue())
    relay.handle(msg.Records([record(1, 0, "loss"), trial(2, "two", 0.2)]))
    end(relay)
    events = before.events + after.events
    assert [event.path for event in events if isinstance(event, ev.Scalar)] == ["train/loss", "train/loss~2"]
    assert [event.trial for event in events if isinstance(event, ev.HParams)] == [None, "two"]
    ledger = Ledger(left)
    session = run_info().session
    assert [(path, suffix) for path, *_, suffix in ledger.paths(session)] == [("train/loss", ""), ("train/loss", "~2")]
    assert [name for _, _, name, _ in ledger.trials(session)] == [None, "two"]
    ledger.close()
