"""Memory is bounded; what does not fit is read again from the event files."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams, scalar

import tracelet_shim as tracelet
from tracelet_shim import events as ev
from tracelet_shim.backends.base import UnsettledLostError
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.writer_names import WriterNames
from tracelet_shim.relay.log import Log
from tracelet_shim.state.index import Index
from tracelet_shim.testing import RecordingBackend


class SlowBackend(RecordingBackend):
    """Takes nothing before it is let go."""

    name = "slow"

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, events: Sequence[ev.Event]) -> None:
        self.go.wait(60)
        super().write(events)


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "runs" / "x")) as writer:
        yield writer
    tracelet.stop_logging()


def test_what_does_not_fit_is_read_again(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for almost nothing, every event arrives, in order, with its exact value, once the tracker goes on."""
    backend = SlowBackend()
    monkeypatch.setenv("TRACELET_MEMORY", "0.05")
    session = tracelet.start_logging(backend=backend)
    for step in range(2000):
        writer.add_scalar("loss", step / 7, step)
        if step % 100 == 0:
            writer.add_histogram("h", np.arange(step + 2.0), step)
            writer.add_scalars("group", {"a": step / 3}, step)
            writer.add_video("video", np.full((1, 2, 3, 4, 4), step % 255, np.uint8), step)
            writer.add_embedding(np.full((3, 2), float(step)), ["a", "b", "c"], global_step=step)
    until = time.monotonic() + 20
    while session._bus._parts[0].bus._channel is None and time.monotonic() < until:  # made by the sender thread
        time.sleep(0.05)
    log = session._bus._parts[0].bus._channel._relay._log
    while log.length < 2080 and time.monotonic() < until:
        time.sleep(0.05)
    assert log._kept_bytes <= 50_000
    writer.flush()
    backend.go.set()
    assert session.flush(60)
    scalars = [e for e in backend.events if isinstance(e, ev.Scalar) and e.tag == "loss"]
    assert [(e.step, e.value) for e in scalars] == [(s, s / 7) for s in range(2000)]
    series = [e for e in backend.events if isinstance(e, ev.Scalar) and e.tag == "group"]
    assert [(e.step, e.series, e.value) for e in series] == [(s, "a", s / 3) for s in range(0, 2000, 100)]
    for kind in (ev.Histogram, ev.Video, ev.Embedding):
        assert [e.step for e in backend.events if isinstance(e, kind)] == list(range(0, 2000, 100))


def test_stop_waits_for_what_only_the_queue_of_the_writer_has(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end, events that fit neither into memory nor had reached the event file arrive all the same."""
    monkeypatch.setenv("TRACELET_MEMORY", "0")
    backend = SlowBackend()
    tracelet.start_logging(backend=backend)
    for step in range(100):
        writer.add_scalar("loss", step / 7, step)
    backend.go.set()
    tracelet.stop_logging()
    assert [(e.step, e.value) for e in backend.events] == [(s, s / 7) for s in range(100)]


@pytest.mark.parametrize("what", ["cut", "replaced"])
def test_a_file_lacks_what_waits_in_it(
    writer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Where an event file is cut or replaced while records wait to be read from it, what is missing is named at the end, with
    its number and the file; nothing else comes in its place."""
    monkeypatch.setenv("TRACELET_MEMORY", "0.02")
    backend = SlowBackend()
    session = tracelet.start_logging(backend=backend)
    for step in range(1000):
        writer.add_scalar("loss", step / 7, step)
    writer.flush()
    file = Path(writer.file_writer.event_writer._file_name)
    until = time.monotonic() + 60
    while session.status()["slow"].pending < 1000 and time.monotonic() < until:
        time.sleep(0.05)
    if what == "cut":
        os.truncate(file, 10_000)  # in the middle of a record, behind which its writer goes on
    else:
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content[:10_000])
    for step in range(1000, 1100):
        writer.add_scalar("loss", step / 7, step)
    writer.flush()
    backend.go.set()
    session.stop(timeout=5)
    found = [(event.step, event.value) for event in backend.events]
    assert found == [(step, step / 7) for step, _ in found]
    steps = [step for step, _ in found]
    assert steps == list(range(len(steps)))
    assert len(steps) < 1100
    problem = f"{file} has fewer records than were logged; delivery stands there"
    assert f"slow: {1100 - len(steps)} events were not delivered ({problem})" in capsys.readouterr().err


class Forgetful(SlowBackend):
    """Keeps what it is given in memory until it is flushed. It refuses a step, so that the events round it come one by one, and
    loses its memory behind that, once."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[ev.Event] = []
        self.has_lost = False

    def unsettled(self) -> int:
        return len(self.held)

    def write(self, events: Sequence[ev.Event]) -> None:
        self.go.wait(60)
        steps = [event.step for event in events]
        if 250 in steps:
            raise ValueError("no 250")
        if 260 in steps and not self.has_lost:
            self.has_lost = True
            self.held.clear()
            raise UnsettledLostError("the memory is gone")
        self.held += events

    def flush(self) -> None:
        self.events += self.held
        self.held.clear()


def test_what_a_tracker_forgets_comes_again(writer: Any) -> None:
    """What a tracker had not stored when it lost it is written again, also while the events of a refused batch come one by one;
    only what it refuses is set aside, once."""
    backend = Forgetful()
    session = tracelet.start_logging(backend=backend)
    for step in range(600):
        writer.add_scalar("loss", step / 7, step)
    backend.go.set()
    assert not session.flush(60)  # it has not got all
    state = session.status()["slow"]
    assert backend.has_lost
    assert [event.step for event in backend.events] == [step for step in range(600) if step != 250]
    assert (state.delivered, state.failed, state.pending) == (599, 1, 0)


class Batches(SlowBackend):
    """Notes the bytes of each batch that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def write(self, events: Sequence[ev.Event]) -> None:
        self.batches.append([len(e.source) for e in events])
        super().write(events)


def test_large_events_come_in_small_batches(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker is given no more at once than a small part of the memory, whether events waited there or in their files: what
    it has in hand cannot be dropped."""
    monkeypatch.setenv("TRACELET_MEMORY", "2")
    backend = Batches()
    session = tracelet.start_logging(backend=backend)
    noise = np.random.default_rng(0).integers(0, 255, (40, 3, 100, 100), dtype=np.uint8)  # some 30 kB each
    for step in range(40):
        writer.add_image("noise", noise[step], step)
        for _ in range(20):
            writer.add_scalar("loss", step / 7, step)
    writer.flush()
    backend.go.set()
    assert session.flush(60)
    assert len(backend.events) == 40 * 21
    for batch in backend.batches:
        assert sum(batch[:-1]) < 2_000_000 / 64


def log_of(directory: Path, source: Path, records: int, *, complete: bool) -> Log:
    """Return a log that has to read all its records, scalars, from an event file."""
    decoder = Decoder(WriterNames(str(directory)))
    decoder.add_source(msg.Source(0, str(source), str(directory)))
    log = Log(decoder, complete=complete)
    log.memory = 1e9
    index = Index(None, "s")
    index.append([msg.Record(0, position, None, position / 7) for position in range(records)])
    log.open(index, 0)
    return log


@pytest.mark.parametrize("complete", [False, True])
def test_an_error_within_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool) -> None:
    """After a read that failed in the middle of a record, each is read again, at its own place."""
    file = tmp_path / "events"
    about = [Summary(value=[Summary.Value(tag="x" * 6000, simple_value=i / 7)]) for i in range(50)]
    file.write_bytes(tfrecord.joined(Event(step=i, summary=s).SerializeToString() for i, s in enumerate(about)))
    log = log_of(tmp_path, file, 50, complete=complete)
    reads = 0

    class Failing(io.FileIO):
        """A file, the fourth read of which fails."""

        def readinto(self, buffer: Any) -> Any:
            nonlocal reads
            reads += 1
            if reads == 4:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    with monkeypatch.context() as patch:
        patch.setattr(tfrecord, "open_regular", lambda path, *_: io.BufferedReader(Failing(path, "rb")))
        first = log.read(0, 50)
        assert first.stop < 50
        second = log.read(first.stop, 50)
    assert (first.start, second.start, second.stop) == (0, first.stop, 50)
    assert [event.step for event in first.events + second.events] == list(range(50))
    assert first.lost == second.lost == 0
    log.close(remove=True)


def test_review_passes_over_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Where an event file is there and cannot be read, its records are counted as one event each."""
    log = log_of(tmp_path, tmp_path, 3, complete=True)  # a directory
    assert log.review() == [0, 1, 2, 3]
    log.close(remove=True)


@pytest.mark.parametrize("memory", [0, 1e9])
def test_what_memory_there_is_changes_no_event(tmp_path: Path, memory: float) -> None:
    """What a replayed record says depends on the event files that are known when it comes, not on when a tracker gets there."""
    summaries = [*hparams({"lr": 0.1}, {"acc": 0.5}), scalar("acc", 0.5)]
    data = [event.SerializeToString() for event in (Event(file_version="2"), *(Event(summary=s) for s in summaries))]
    (tmp_path / "x").mkdir()
    files = [tmp_path / "x" / "events", tmp_path / "events"]
    for file in files:
        file.write_bytes(tfrecord.joined(data))
    log = Log(Decoder(WriterNames(str(tmp_path))), complete=True)
    log.memory = memory
    log.open(Index(None, "s"), 0)
    log.add_cursor(lambda: 0)
    log.add_source(msg.Source(0, str(files[0]), str(files[0].parent), replay=True))
    log.append([msg.Record(0, position, each) for position, each in enumerate(data)])
    log.add_source(msg.Source(1, str(files[1]), str(files[1].parent), replay=True))
    for _ in range(2):
        found: list[ev.Event] = []
        number = 0
        while number < log.length:
            batch = log.read(number, 10)
            found += batch.events
            number = batch.stop
        assert [(event.kind, event.writer) for event in found[1:]] == [
            ("marker", "x"), ("hparams", "x"), ("marker", "x"), ("scalar", "x"),
        ]  # fmt: skip
    log.close(remove=True)


def test_values_of_one_summary_share_its_bytes(tmp_path: Path) -> None:
    """A summary of a thousand values takes its bytes in memory once."""
    log = Log(Decoder(WriterNames(str(tmp_path))))
    log.memory = 1e7
    log.add_cursor(lambda: 0)
    log.add_source(msg.Source(0, str(tmp_path / "events"), str(tmp_path)))
    many = Summary(value=[Summary.Value(tag=f"layer{i}/gradient", simple_value=i) for i in range(1000)])
    log.append([msg.Record(0, 0, Event(summary=many).SerializeToString())])
    assert len(log.read(0, 10).events) == 1000
    assert not log.spilled
