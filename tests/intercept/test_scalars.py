"""`add_scalar` as it is nearly always called: byte for byte what the native way makes, and the native way for whatever is not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard import writer as writer_module

import tracelet_shim
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.intercept import native
from tracelet_shim.intercept import _scalar
from tracelet_shim.testing import RecordingBackend

WHEN = 1_700_000_000.123456


@pytest.fixture(scope="module")
def session() -> Iterator[RecordingBackend]:
    backend = RecordingBackend()
    tracelet_shim.start_logging(backend, delivery="thread", quiet=True, strict=True)
    yield backend
    tracelet_shim.stop_logging()


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Return how many events have been put together by hand."""
    with SummaryWriter("before") as writer:  # once, the installed protobuf is compared
        writer.add_scalar("a", 0.5, 0)
        writer.add_scalar("a", 0.5, 1)
    made: list[bytes] = []
    encoded = _scalar.encoded

    def counted(*args: Any) -> bytes:
        made.append(encoded(*args))
        return made[-1]

    monkeypatch.setattr(_scalar, "encoded", counted)
    return lambda: len(made)


numbers = itertools.count()
tags = (
    st.text(max_size=300) | st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["", "a/b", "\ud800", "nul\0"])
)
values = st.floats() | st.integers() | st.floats(width=32) | st.sampled_from([3.4028234663852886e38, 3.4e38, 1e39, -0.0, True])
steps = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 70_000) | st.sampled_from([2**63, True, 1.7])


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(tags, values, steps, st.sampled_from(["position", "name", "both by name"]))
@example("loss", 0.1, 0, "position")
@example("loss", 1e-46, 127, "name")
@example("", -0.0, 128, "position")
@example("x" * 127, 1, 16383, "position")
@example("x" * 128, 1, 16384, "position")
@example("loss", 0.5, 2097151, "position")
@example("loss", 0.5, 2097152, "position")
def test_bytes_are_native(
    session: RecordingBackend, tmp_path_factory: pytest.TempPathFactory, tag: str, value: Any, step: Any, how: str
) -> None:
    """Whatever scalar is logged, the file has the bytes that it natively has, and errors are native."""
    base = tmp_path_factory.getbasetemp() / str(next(numbers))
    made = []
    for name, module in (("pure", native.pristine_module()), ("shim", writer_module)):
        with mock.patch.object(time, "time", return_value=WHEN), module.SummaryWriter(str(base / name)) as writer:
            writer.add_scalar("first", 1.0, 1)
            try:
                if how == "position":
                    writer.add_scalar(tag, value, step)
                elif how == "name":
                    writer.add_scalar(tag, value, global_step=step)
                else:
                    writer.add_scalar(tag=tag, scalar_value=value, global_step=step)
            except Exception as error:
                made.append((type(error), str(error)))
        made.append(native.records(native.only_event_file(base / name)))
    half = len(made) // 2
    assert made[:half] == made[half:]


def test_the_usual_calls_are_put_together_by_hand(session: RecordingBackend, by_hand: Callable[[], int]) -> None:
    """All but the first call of a file, which makes it known."""
    with SummaryWriter("usual") as writer:
        writer.add_scalar("a", 0.5, 0)
        writer.add_scalar("a", 0.1, 1)
        writer.add_scalar("a", 0.1)
        writer.add_scalar("b", 7, global_step=-1)
    assert by_hand() == 3
    assert tracelet_shim.get_session().flush(60)  # type: ignore[union-attr]
    found = [(e.tag, e.value, e.step) for e in session.events if "/usual/" in e.record.file]  # type: ignore[union-attr]
    assert found == [("a", 0.5, 0), ("a", 0.1, 1), ("a", 0.1, 0), ("b", 7.0, -1)]


class Mine(SummaryWriter):
    """A subclass."""


class Odd:
    """Ways to call that are not usual; each is given a writer that has had its first call."""

    @staticmethod
    def walltime(writer: Any) -> None:
        writer.add_scalar("a", 0.1, 1, 5.0)

    @staticmethod
    def new_style(writer: Any) -> None:
        writer.add_scalar("a", 0.1, new_style=True)

    @staticmethod
    def tensor(writer: Any) -> None:
        writer.add_scalar("a", torch.tensor(0.1), 1)

    @staticmethod
    def numpy_step(writer: Any) -> None:
        writer.add_scalar("a", 0.1, np.int64(1))

    @staticmethod
    def summary_replaced(writer: Any) -> None:
        with mock.patch.object(writer_module, "scalar", wraps=writer_module.scalar) as replaced:
            writer.add_scalar("a", 0.1, 1)
        assert replaced.called

    @staticmethod
    def add_summary_replaced(writer: Any) -> None:
        with mock.patch.object(writer_module.FileWriter, "add_summary") as replaced:
            writer.add_scalar("a", 0.1, 1)
        assert replaced.called

    @staticmethod
    def add_event_replaced(writer: Any) -> None:
        with mock.patch.object(writer_module.FileWriter, "add_event") as replaced:
            writer.add_scalar("a", 0.1, 1)
        assert replaced.called

    @staticmethod
    def event_writer_replaced(writer: Any) -> None:
        with mock.patch.object(EventFileWriter, "add_event") as replaced:
            writer.add_scalar("a", 0.1, 1)
        assert replaced.called

    @staticmethod
    def instances_own(writer: Any) -> None:
        writer.file_writer.add_summary = mock.Mock()
        writer.add_scalar("a", 0.1, 1)
        assert writer.file_writer.add_summary.called

    @staticmethod
    def get_replaced(writer: Any) -> None:
        writer._get_file_writer = mock.Mock(wraps=writer._get_file_writer)
        writer.add_scalar("a", 0.1, 1)
        assert writer._get_file_writer.called

    @staticmethod
    def closed(writer: Any) -> None:
        writer.close()
        writer.add_scalar("a", 0.1, 1)


ODD = {name: each.__func__ for name, each in vars(Odd).items() if isinstance(each, staticmethod)}


@pytest.mark.parametrize("name", ODD)
def test_whatever_is_not_usual_goes_the_native_way(session: RecordingBackend, by_hand: Callable[[], int], name: str) -> None:
    """And whoever has put something of his own into that way is asked."""
    with SummaryWriter(f"odd-{name}") as writer:
        writer.add_scalar("a", 0.5, 0)
        ODD[name](writer)
    assert by_hand() == 0


def test_a_subclass_goes_the_native_way(session: RecordingBackend, by_hand: Callable[[], int], tmp_path: Path) -> None:
    """It may have put anything in its place."""
    with Mine("mine") as writer:
        for step in range(3):
            writer.add_scalar("a", 0.5, step)
    assert by_hand() == 0
    assert len(native.records(native.only_event_file(tmp_path / "mine"))) == 4


_PATCHES = """
import sys
import tracelet_shim
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter, writer as module

owner = {"scalar": module, "add_summary": module.FileWriter, "add_event": module.FileWriter, "_get_file_writer": SummaryWriter,
         "write": EventFileWriter, "add_scalar": SummaryWriter}[sys.argv[1]]
name = "add_event" if sys.argv[1] == "write" else sys.argv[1]
seen = 0

def patch():
    native = getattr(owner, name)

    def patched(*args, **kwargs):
        global seen
        seen += 1
        return native(*args, **kwargs)

    setattr(owner, name, patched)

if sys.argv[2] == "before":
    patch()
tracelet_shim.start_logging("tensorboard", quiet=True)
if sys.argv[2] == "after":
    patch()
with SummaryWriter("runs") as writer:
    seen = 0
    for step in range(10):
        writer.add_scalar("loss", 0.5, step)
    print(seen)
tracelet_shim.stop_logging()
"""


PATCHED = ("scalar", "add_summary", "add_event", "_get_file_writer", "write", "add_scalar")


@pytest.mark.parametrize(
    ("what", "when"),
    each_change(
        [(what, when) for what in PATCHED for when in ("before", "after")],
        *((what, ("before", "after")[number % 2]) for number, what in enumerate(PATCHED)),
    ),
)
def test_who_has_patched_the_native_way_before_the_first_call_sees_all_of_it(run_python: RunPython, what: str, when: str) -> None:
    """As autologging and ClearML do it, with plain functions, when the program begins."""
    assert int(run_python(_PATCHES, what, when).stdout) >= 10
