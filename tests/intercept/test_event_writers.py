"""The writers that stand in for TensorBoard's own: each record is in the file when the call returns."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim
from tests.conftest import RunPython
from tests.intercept import native
from tracelet_shim.intercept import _accelerate
from tracelet_shim.testing import RecordingBackend


@pytest.fixture(autouse=True)
def _session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRACELET_STATE_DIR", str(tmp_path / "state"))  # not in a directory that a test removes
    tracelet_shim.start_logging(RecordingBackend(), delivery="thread", quiet=True, strict=True)
    yield
    tracelet_shim.stop_logging()


def steps(path: Path) -> list[int]:
    return [event.step for event in native.events(path) if event.summary.value]


def own_writer(writer: Any) -> Any:
    return writer.file_writer.event_writer._async_writer


def test_a_record_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    """Without flush or close, and without a thread of ours or of TensorBoard's."""
    threads = threading.enumerate()
    writer = SummaryWriter("runs")
    file = native.only_event_file(tmp_path / "runs")
    for step in range(100):
        writer.add_scalar("loss", step, step)
        if step % 9 == 0:
            assert steps(file) == list(range(step + 1))
    assert {thread.name for thread in set(threading.enumerate()) - set(threads)} <= {"tracelet-sender", "tracelet-recording"}
    writer.close()


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """As natively; it is looked for when the writer is flushed, and once a second. Where its directory is gone, the next call has
    the error."""
    writer = SummaryWriter("runs")
    writer.add_scalar("loss", 0, 0)
    native.only_event_file(tmp_path / "runs").unlink()
    writer.flush()
    writer.add_scalar("loss", 1, 1)
    assert steps(native.only_event_file(tmp_path / "runs")) == [1]
    shutil.rmtree(tmp_path / "runs")
    writer.flush()
    writer.add_scalar("loss", 2, 2)
    with pytest.raises(FileNotFoundError):
        writer.add_scalar("loss", 3, 3)


def test_a_program_closes_descriptors_that_it_does_not_know(run_python: RunPython, tmp_path: Path) -> None:
    """And opens files of its own in their places. Its events go on into the event file, and nothing into those, which
    stay open."""
    run_python(
        """
        import os
        import tracelet_shim
        from torch.utils.tensorboard import SummaryWriter

        tracelet_shim.start_logging("tensorboard")
        writer = SummaryWriter("runs")
        for step in range(10):
            writer.add_scalar("loss", step, step)
        os.closerange(3, 1024)
        files = [open(f"{number}.txt", "wb", 0) for number in range(20)]
        for step in range(10, 20):
            writer.add_scalar("loss", step, step)
        writer.flush()
        writer.add_scalar("loss", 20, 20)
        writer.close()
        for file in files:
            assert os.fstat(file.fileno()).st_size == 0, file.name
        """
    )
    assert steps(native.only_event_file(tmp_path / "runs")) == list(range(21))


def test_many_files_hold_few_descriptors(tmp_path: Path) -> None:
    """With a hundred writers, some of which are never closed, each record is in its file, and no more than some descriptors are
    held; a writer that is gone holds none."""
    before = len(os.listdir("/proc/self/fd"))
    writers = [SummaryWriter(f"runs/{number}") for number in range(100)]
    for step in range(3):
        for writer in writers:
            writer.add_scalar("loss", step, step)
    for number in range(100):
        assert steps(native.only_event_file(tmp_path / "runs" / str(number))) == [0, 1, 2]
    assert len(os.listdir("/proc/self/fd")) - before <= _accelerate._MOST_OPEN + 5
    for writer in writers[::2]:
        writer.close()
    del writer, writers
    assert len(os.listdir("/proc/self/fd")) - before <= 5


def test_a_slow_file_system_is_written_to_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file may be on a server, a call does not wait for it; the record is on its way at once."""
    monkeypatch.setattr(_accelerate, "is_local", lambda path: False)
    writer = SummaryWriter("runs")
    go = threading.Event()
    written = own_writer(writer)._file.write
    monkeypatch.setattr(own_writer(writer)._file, "write", lambda data: (go.wait(60), written(data)))
    for step in range(100):
        writer.add_scalar("loss", step, step)
    assert steps(native.only_event_file(tmp_path / "runs")) == []
    go.set()
    writer.flush()
    assert steps(native.only_event_file(tmp_path / "runs")) == list(range(100))
    writer.close()


def test_a_full_disk_is_the_next_calls_error(tmp_path: Path) -> None:
    """What the disk does not take is an error of the next call, as natively, and of no other."""
    writer = SummaryWriter("runs")
    os.symlink("/dev/full", tmp_path / "full")
    own = own_writer(writer)
    own._path, own._look_at = str(tmp_path / "full"), 0.0
    writer.add_scalar("loss", 0, 0)
    with pytest.raises(OSError, match="No space left"):
        writer.add_scalar("loss", 1, 1)
