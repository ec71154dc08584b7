"""Signal handlers that log in the middle of a call that logs."""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from tests.intercept import native
from tracelet_shim import intercept
from tracelet_shim.bus import messages as msg


class Sink:
    """Keeps what the wrappers publish."""

    accelerates = True

    def __init__(self) -> None:
        self.records: list[msg.Record] = []
        self.problems: list[Exception] = []

    def active_runs(self) -> intercept.ActiveRuns:
        return ()

    def writer_created(self, logdir: str, runs: intercept.ActiveRuns) -> None: ...

    def add_source(self, path: str, logdir: str, parent: str | None, runs: intercept.ActiveRuns) -> int:
        return 0

    def publish(self, record: msg.Record) -> None:
        self.records.append(record)

    def foreign_writer(self, producer: str, logdir: str) -> None: ...
    def nudge(self) -> None: ...

    def problem(self, error: Exception) -> None:
        self.problems.append(error)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Route interception to a list for the time of a test."""
    intercept.install()
    found = Sink()
    intercept.set_sink(found)
    yield found
    intercept.set_sink(None)


def interrupted(call: Callable[[], object], lines: set[int], handler: Callable[[], object]) -> int:
    """Call something, and a handler before some lines of our code, where Python may run one; return how often."""
    line = count = 0
    done: set[int] = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal line, count
        if "/tracelet_shim/" not in frame.f_code.co_filename:
            return None
        # Python runs handlers where something is called, and where a loop begins again: not between a test and an assignment.
        line += linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "source.busy = False"
        if line in lines - done:
            done.add(line)
            count += 1
            sys.settrace(None)
            handler()
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def log(writer: SummaryWriter, kind: str, step: int) -> None:
    if kind == "text":
        writer.add_text("a", "text", step)
    else:
        writer.add_scalar("a", 0.5 if kind == "scalar" else 1 << 60, step)


@pytest.mark.parametrize("distance", [0, 1, 4, 9])
@pytest.mark.parametrize("kind", ["scalar", "number", "text"])
def test_a_handler_logs_in_the_middle_of_a_call(sink: Sink, tmp_path: Path, kind: str, distance: int) -> None:
    """Wherever a handler comes that logs to the same writer, also for a second time, what was logged is published once, each as
    the record that stands at its position in the event file."""
    writer = SummaryWriter(tmp_path / "runs")
    writer.add_scalar("first", 0.5, 0)
    for line in range(1, 1000):
        sink.records.clear()
        before = len(native.records(native.only_event_file(tmp_path / "runs")))

        def handler(before: int = before, line: int = line) -> None:
            writer.add_scalar("handler", 0.1, line)
            published = [record.position for record in sink.records]  # if it ended the program now, the rest would be read
            assert published == list(range(before, before + len(published)))

        count = interrupted(functools.partial(log, writer, kind, line), {line, line + distance}, handler)
        found = native.records(native.only_event_file(tmp_path / "runs"))
        assert [record.position for record in sink.records] == list(range(before, len(found)))
        assert [record.value for record in sink.records].count(0.1) == count
        places = {record.position: record.data for record in sink.records}
        assert len(sink.records) == len(places) == 1 + count, line
        assert {position: found[position] for position in places} == places, line
        if not count:
            break
    assert line > 20
    assert not sink.problems
    writer.close()


CALLS: dict[str, Callable[[SummaryWriter], object]] = {
    "a scalar": lambda writer: writer.add_scalar("a", torch.tensor(0.5), 1),
    "scalars": lambda writer: writer.add_scalars("a", {"x": 0.5, "y": 0.25}, 1),
    "hyperparameters": lambda writer: writer.add_hparams({"lr": 0.5}, {"m": 0.25}, run_name="r"),
    "an image": lambda writer: writer.add_image("a", np.zeros((3, 2, 2), np.uint8), 1),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_handlers_events_are_its_own(sink: Sink, tmp_path: Path, what: str) -> None:
    """What a handler logs in the middle of any call has its own value and is no part of that call."""
    writer = SummaryWriter(tmp_path / "runs")

    def handler() -> None:
        writer.add_scalar("handler", 0.1, 1)
        writer.add_text("handler", "text", 1)

    for line in range(1, 1000):
        sink.records.clear()
        if not interrupted(functools.partial(CALLS[what], writer), {line}, handler):
            break
        mine = [(record.value, record.hint) for record in sink.records if b"handler" in (record.data or b"")]
        assert [hint for _, hint in mine] == [None, None], line
        assert mine[0][0] == 0.1, line
    assert line > 20
    writer.close()
