"""TensorBoard's own `EventFileWriter` and `tensorboard.summary.Writer`, used by a program without torch's class before them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.backends.mlflow.reader import MLflowReader
from tests.backends.trackio.reader import TrackioReader
from tests.conftest import RunPython
from tests.intercept import native
from tracelet_shim.testing import Reader

READERS: dict[str, type[Reader]] = {"mlflow": MLflowReader, "trackio": TrackioReader}


def environment(tracker: str, directory: Path) -> dict[str, str]:
    return {
        **READERS[tracker].environment(directory),
        "TRACELET_BACKEND": tracker, "TRACELET_PROJECT": "events", "TRACELET_STRICT": "1", "TRACELET_QUIET": "1",
    }  # fmt: skip


def points(found: Any) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in found]


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


EXPECTED = [(step, float32(step / 7)) for step in range(30)]

WRITER = """
import sys
from tensorboard.summary import Writer
writer = Writer(sys.argv[1])
for step in range(30):
    writer.add_scalar("loss", step / 7, step, description="a loss")
writer.flush()
writer.close()
"""

EVENTS = """
import sys, time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter(sys.argv[1], filename_suffix=".mine")
for step in range(30):
    value = Summary.Value(tag="loss", simple_value=step / 7)
    writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))
writer.close()
"""


@pytest.mark.parametrize("tracker", READERS)
@pytest.mark.parametrize("script", [WRITER, EVENTS], ids=["Writer", "EventFileWriter"])
def test_what_is_written_directly_arrives_once(run_python: RunPython, tmp_path: Path, tracker: str, script: str) -> None:
    """By activation alone, with the float32 that there is."""
    assert run_python(script, "runs/x", env=environment(tracker, tmp_path)).stderr == ""
    assert points(READERS[tracker](tmp_path).scalars("", "loss")) == EXPECTED
    assert len(native.events(native.only_event_file(tmp_path / "runs" / "x"))) == 31


@pytest.mark.parametrize("accelerate", ["1", "0"])
@pytest.mark.parametrize("script", [WRITER, EVENTS], ids=["Writer", "EventFileWriter"])
def test_files_are_native(run_python: RunPython, tmp_path: Path, script: str, accelerate: str) -> None:
    """Byte for byte, where the clock is the same."""
    still = "import time\ntime.time = lambda: 1_700_000_000.0\n" + script
    run_python(still, "without", env={"TRACELET_BACKEND": None})
    run_python(still, "with", env={**environment("mlflow", tmp_path), "TRACELET_ACCELERATE": accelerate})
    without, with_us = (native.only_event_file(tmp_path / place) for place in ("without", "with"))
    assert with_us.read_bytes() == without.read_bytes()


def test_nothing_is_counted_twice(run_python: RunPython, tmp_path: Path) -> None:
    """Torch's writer writes through the same class: before and after a close, in the files of `add_scalars` and `add_hparams`,
    and in a `FileWriter` alone; beside it, in the same process, those that are used directly."""
    run_python(
        """
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary import Writer
        from torch.utils.tensorboard import FileWriter, SummaryWriter

        direct = Writer("runs/all/val")
        with SummaryWriter("runs/all/train", purge_step=0) as writer:
            for step in range(10):
                writer.add_scalar("loss", step / 7, step)
                direct.add_scalar("loss", step / 7, step)
            writer.add_scalars("pair", {"a": 1 / 3}, 4)
            writer.close()
            writer.add_scalar("loss", 10 / 7, 10)
            writer.add_hparams({"lr": 0.1}, {"acc": 1 / 9}, run_name="trial")
        file = FileWriter("runs/all/test")
        file.add_summary(Summary(value=[Summary.Value(tag="loss", simple_value=0.5)]), 3)
        file.close()
        direct.close()
        """,
        env=environment("mlflow", tmp_path),
    )
    read = MLflowReader(tmp_path)
    assert points(read.scalars("train", "loss")) == [(step, step / 7) for step in range(11)]
    assert points(read.scalars("train", "pair", "a")) == [(4, 1 / 3)]
    assert points(read.scalars("val", "loss")) == EXPECTED[:10]
    assert points(read.scalars("test", "loss")) == [(3, 0.5)]
    assert read.summary_metrics()["acc"] == 1 / 9


def test_a_writer_that_was_there_before_the_session(run_python: RunPython, tmp_path: Path) -> None:
    """What it logs from then on arrives, and nothing of what torch's writer of that time logs comes twice."""
    run_python(
        """
        import tracelet_shim
        from tensorboard.summary import Writer
        from torch.utils.tensorboard import SummaryWriter
        direct, writer = Writer("runs/x/val"), SummaryWriter("runs/x/train")
        for step in range(20):
            if step == 8:
                session = tracelet_shim.start_logging("mlflow", quiet=True, strict=True)
            direct.add_scalar("loss", step / 7, step)
            writer.add_scalar("loss", step / 7, step)
        assert session.flush()
        assert session.status()["mlflow"].delivered == 24, session.status()
        direct.close()
        writer.close()
        """,
        env=MLflowReader.environment(tmp_path),
    )
    read = MLflowReader(tmp_path)
    assert points(read.scalars("val", "loss")) == EXPECTED[8:20]
    assert points(read.scalars("train", "loss")) == [(step, step / 7) for step in range(8, 20)]


def test_a_signal_handler_writes_directly(run_python: RunPython, tmp_path: Path) -> None:
    """In the middle of a call of another writer, whose value is not taken for its own."""
    run_python(
        """
        import signal
        from tensorboard.summary import Writer
        from torch.utils.tensorboard import SummaryWriter

        direct, writer = Writer("runs/x/val"), SummaryWriter("runs/x/train")

        signal.signal(signal.SIGUSR1, lambda *_: direct.add_scalar("beat", 2.0, 1))
        import numpy as np
        class Array(np.ndarray):
            def __array_finalize__(self, other):
                pass
            def squeeze(self):
                signal.raise_signal(signal.SIGUSR1)
                return np.asarray(self).squeeze()
        writer.add_scalar("loss", np.array(0.75).view(Array), 3)
        direct.close()
        writer.close()
        """,
        env=environment("mlflow", tmp_path),
    )
    read = MLflowReader(tmp_path)
    assert points(read.scalars("train", "loss")) == [(3, 0.75)]
    assert {point.value for point in read.scalars("val", "beat")} == {2.0}
