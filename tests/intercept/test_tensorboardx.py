"""tensorboardX is seen as torch's writer is: programs as a user writes them, read back from the trackers' stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.graph_pb2 import GraphDef

from tests.backends.mlflow.reader import MLflowReader
from tests.backends.trackio.reader import TrackioReader
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.intercept import native
from tracelet_shim.testing import Reader

READERS: dict[str, type[Reader]] = {"mlflow": MLflowReader, "trackio": TrackioReader}


def environment(tracker: str, directory: Path) -> dict[str, str]:
    return {
        **READERS[tracker].environment(directory),
        "TRACELET_BACKEND": tracker, "TRACELET_PROJECT": "tbx", "TRACELET_STRICT": "1", "TRACELET_QUIET": "1",
    }  # fmt: skip


def points(found: Any) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in found]


SCALARS = """
from tensorboardX import SummaryWriter

writer = SummaryWriter(PLACE)
for step in range(50):
    writer.add_scalar("loss", 1 / (step + 3), step)
END
"""


@pytest.mark.parametrize("tracker", READERS)
@pytest.mark.parametrize(
    ("place", "end"),
    each_change(
        [(place, end) for place in ("logdir='runs/x'", "log_dir='runs/x'", "'runs/x'") for end in ("writer.close()", "")],
        ("logdir='runs/x'", "writer.close()"), ("log_dir='runs/x'", ""),
    ),
)  # fmt: skip
def test_scalars_arrive_once_as_they_were(run_python: RunPython, tmp_path: Path, tracker: str, place: str, end: str) -> None:
    """With the float64 that was given, whether or not the writer is closed, and by activation alone."""
    script = SCALARS.replace("PLACE", place).replace("END", end)
    assert run_python(script, env=environment(tracker, tmp_path)).stderr == ""
    assert points(READERS[tracker](tmp_path).scalars("", "loss")) == [(step, 1 / (step + 3)) for step in range(50)]
    assert len(native.events(only_file(tmp_path / "runs" / "x"))) == 51


METHODS = """
import sys
import numpy as np
from tensorboardX import SummaryWriter

random = np.random.default_rng(0)
image = random.integers(0, 256, (3, 16, 16), dtype=np.uint8)

def log(writer):
    writer.add_scalar("list", [0.25], 1)
    writer.add_scalar("array", np.array([1 / 7]), 2, walltime=12.5)
    writer.add_scalar("shown", 0.1, 3, display_name="Shown", summary_description="as shown")
    writer.add_scalars("pair", {"a": 1 / 3, "b": 2}, 4)
    with writer.use_metadata(global_step=11):
        writer.add_scalar("meta", 0.7)
    writer.add_histogram("h", np.arange(100.0), 5)
    writer.add_image("image", image, 6)
    writer.add_image_with_boxes("boxes", image, np.array([[2, 2, 9, 9]]), 7, labels=["cat"])
    writer.add_figure("figure", figure(), 8)
    writer.add_video("video", random.integers(0, 256, (3, 1, 3, 8, 8), dtype=np.uint8), 9, fps=3, dataformats="TNCHW")
    writer.add_audio("audio", np.linspace(-1, 1, 800)[:, None], 10, sample_rate=8000)
    writer.add_text("text", "hello", 12)
    writer.add_pr_curve("pr", np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.7, 0.4]), 13)
    writer.add_mesh("mesh", np.arange(12.0).reshape(1, 4, 3), global_step=14)
    writer.add_custom_scalars({"all": {"loss": ["Multiline", ["list", "array"]]}})
    writer.add_embedding(np.arange(6.0).reshape(3, 2), metadata=["a", "b", "c"], global_step=15, tag="e")
    writer.add_embedding(np.arange(4.0).reshape(2, 2), metadata=[["a", 1], ["b", 2]], metadata_header=["x", "y"], tag="two")
    writer.add_onnx_graph("model.onnx")
    writer.add_hparams({"lr": 0.1, "f": len, "on": True, "none": None}, {"acc": 1 / 9}, name="trial", global_step=16)

def figure():
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    drawn = plt.figure(figsize=(1, 1), dpi=40)
    drawn.add_axes((0, 0, 1, 1)).plot([0, 1])
    return drawn

class Onnx:  # as much of it as tensorboardX looks at
    class load:
        def __init__(self, path):
            self.graph = self
            self.input = self.output = [self]
            self.name, self.op_type, self.attribute = "x", "Relu", []
            self.type = self.tensor_type = self.shape = self
            self.dim, self.dim_value, self.elem_type = [self], 4, 1
            self.node = [Node()]

class Node:
    input, output, op_type, attribute = ["x"], ["y"], "Relu", []

sys.modules["onnx"] = Onnx
with SummaryWriter(logdir=sys.argv[1], purge_step=1, flush_secs=1, max_queue=2, filename_suffix=".s") as writer:
    log(writer)
"""


@pytest.mark.parametrize("tracker", READERS)
def test_all_methods_arrive(run_python: RunPython, tmp_path: Path, tracker: str) -> None:
    """Each in the form that it has from torch's writer."""
    assert "warning" not in run_python(METHODS, "runs/x", env=environment(tracker, tmp_path)).stderr
    read = READERS[tracker](tmp_path)
    assert points(read.scalars("", "list")) == [(1, 0.25)]
    assert points(read.scalars("", "array")) == [(2, 1 / 7)]
    assert points(read.scalars("", "shown")) == [(3, 0.1)]
    assert points(read.scalars("", "pair", "a")) == [(4, 1 / 3)]
    assert points(read.scalars("", "pair", "b")) == [(4, 2.0)]
    assert points(read.scalars("", "meta")) == [(11, 0.7)]
    ((step, _, counts),) = read.histograms("", "h")
    assert (step, counts.sum()) == (5, 100)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8).transpose(1, 2, 0)
    ((step, seen),) = read.images("", "image")
    assert step == 6
    np.testing.assert_array_equal(seen, pixels)
    ((step, boxed),) = read.images("", "boxes")
    assert (step, boxed.shape) == (7, (16, 16, 3))
    assert (boxed != pixels).any()
    assert [(step, seen.shape[:2]) for step, seen in read.images("", "figure")] == [(8, (40, 40))]
    ((step, frames),) = read.videos("", "video")
    assert (step, len(frames)) == (9, 3)
    ((step, rate, samples),) = read.audio("", "audio")
    assert (step, rate, samples.size) == (10, 8000, 800)
    assert read.texts("", "text") == [(12, "hello")]
    assert [step for step, *_ in read.pr_curves("", "pr")] == [13]
    ((step, vertices, _, _),) = read.meshes("", "mesh")
    assert step == 14
    np.testing.assert_array_equal(vertices, np.arange(12.0).reshape(4, 3))
    assert read.custom_scalars()[0]["all"]["loss"][1] == ["list", "array"]
    ((step, matrix, rows),) = read.embeddings("", "e")
    assert (step, rows) == (15, [["a"], ["b"], ["c"]])
    np.testing.assert_array_equal(matrix, np.arange(6.0).reshape(3, 2))
    assert [(step, rows) for step, _, rows in read.embeddings("", "two")] == [(0, [["a", "1"], ["b", "2"]])]
    assert len(read.graphs()) == 1
    params = {name: str(value) for name, value in read.params().items()}
    assert (params["lr"], params["f"], params["on"].lower(), "none" in params) == ("0.1", "len", "true", False)
    assert read.summary_metrics()["acc"] == 1 / 9


def only_file(directory: Path) -> Path:
    (path,) = directory.glob("events.out.tfevents.*")
    return path


def tree(directory: Path) -> dict[str, Any]:
    """Return all that is under a directory but what a session keeps there, with the bytes of each record; the time of a name or
    event is taken out."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in directory.rglob("*") if ".tracelet" not in path.parts):
        name = re.sub(r"tfevents\.\d+\.", "tfevents.TIME.", str(path.relative_to(directory)))
        if path.is_file() and "tfevents" in name:
            events = native.events(path)
            for event in events:
                event.wall_time = 0 if event.wall_time > 1e9 else event.wall_time
                if event.graph_def:  # its attributes are a map, whose order is by chance
                    event.graph_def = GraphDef.FromString(event.graph_def).SerializeToString(deterministic=True)
            found[name] = [event.SerializeToString(deterministic=True) for event in events]
        else:
            found[name] = path.read_bytes() if path.is_file() else "directory"
    return found


@pytest.mark.parametrize("accelerate", ["1", "0"])
def test_files_are_native(run_python: RunPython, tmp_path: Path, accelerate: str) -> None:
    """All methods leave the same files, records and output as without us."""
    script = METHODS.replace('"f": len, "on": True, ', "")  # the order of several is by chance, natively
    without = run_python(script, "without", env={"TRACELET_BACKEND": None})
    env = {**environment("mlflow", tmp_path), "TRACELET_ACCELERATE": accelerate}
    with_us = run_python(script, "with", env=env)
    assert with_us.stdout == without.stdout
    assert with_us.stderr == without.stderr
    assert len(tree(tmp_path / "without")) > 10
    assert tree(tmp_path / "with") == tree(tmp_path / "without")


BY_THE_CLOCK = """
import sys, time
from tensorboardX import SummaryWriter
time.time = lambda: 1_700_000_000.0
with SummaryWriter(sys.argv[1]) as w:
    for step in range(30):
        w.add_scalar("loss", step / 7, step)
"""


def test_files_are_the_same_byte_for_byte(run_python: RunPython, tmp_path: Path) -> None:
    """Where even the clock is the same."""
    run_python(BY_THE_CLOCK, "without", env={"TRACELET_BACKEND": None})
    run_python(BY_THE_CLOCK, "with", env=environment("mlflow", tmp_path))
    assert only_file(tmp_path / "with").read_bytes() == only_file(tmp_path / "without").read_bytes()
    assert points(MLflowReader(tmp_path).scalars("", "loss")) == [(step, step / 7) for step in range(30)]


def test_both_writers_in_one_process(run_python: RunPython, tmp_path: Path) -> None:
    """Two writers of one run, whichever of the two modules comes first."""
    run_python(
        """
        from tensorboardX import SummaryWriter as X
        x = X("runs/all/train")
        x.add_scalar("loss", 0.1, 1)
        from torch.utils.tensorboard import SummaryWriter
        torch = SummaryWriter("runs/all/val")
        for step in range(2, 20):
            x.add_scalar("loss", 0.1 * step, step)
            torch.add_scalar("loss", 0.3 * step, step)
        x.close()
        torch.close()
        """,
        env=environment("mlflow", tmp_path),
    )
    read = MLflowReader(tmp_path)
    assert points(read.scalars("train", "loss")) == [(1, 0.1), *((step, 0.1 * step) for step in range(2, 20))]
    assert points(read.scalars("val", "loss")) == [(step, 0.3 * step) for step in range(2, 20)]


def test_a_global_writer_has_what_other_processes_log(run_python: RunPython, tmp_path: Path) -> None:
    """A pool's processes put their events into the queue of the parent's writer: they arrive once, as the file has them."""
    run_python(
        """
        import multiprocessing as mp
        from tensorboardX import GlobalSummaryWriter

        mp.set_start_method("fork")
        writer = GlobalSummaryWriter("runs/x")

        def train(x):
            writer.add_scalar("pool", x / 2)

        with mp.Pool(2) as pool:
            pool.map(train, range(20))
            pool.close()
            pool.join()
        for x in range(5):
            writer.add_scalar("own", x / 3)
        writer.add_text("text", "hello")
        writer.close()
        """,
        env=environment("mlflow", tmp_path),
    )
    read = MLflowReader(tmp_path)
    in_file = [
        (event.step, value.simple_value)
        for event in native.events(only_file(tmp_path / "runs" / "x"))
        for value in event.summary.value
        if value.tag == "pool"
    ]
    assert sorted(value for _, value in in_file) == [x / 2 for x in range(20)]
    assert sorted(points(read.scalars("", "pool"))) == sorted(in_file)
    assert points(read.scalars("", "own")) == [(x, x / 3) for x in range(5)]
    assert read.texts("", "text") == [(0, "hello")]


def test_a_writer_that_does_not_write_leaves_no_run(run_python: RunPython, tmp_path: Path) -> None:
    """``write_to_disk=False`` is how a program keeps its other ranks from logging."""
    run_python(
        """
        from tensorboardX import SummaryWriter
        with SummaryWriter("runs/x", write_to_disk=False) as writer:
            writer.add_scalar("loss", 1.0, 0)
            writer.add_scalars("pair", {"a": 1.0}, 0)
        """,
        env=environment("mlflow", tmp_path),
    )
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "runs").exists()


def test_a_writer_that_was_there_before_the_session(run_python: RunPython, tmp_path: Path) -> None:
    """What it logs from then on arrives, at its place in the file; what `flush` and `stop_logging` are called for, all of it."""
    run_python(
        """
        import tracelet_shim
        from tensorboardX import SummaryWriter
        writer = SummaryWriter("runs/x")
        for step in range(8):
            writer.add_scalar("loss", step / 3, step)
        session = tracelet_shim.start_logging("mlflow", quiet=True, strict=True)
        for step in range(8, 40):
            writer.add_scalar("loss", step / 3, step)
        assert session.flush()
        assert session.status()["mlflow"].delivered == 32, session.status()
        writer.add_scalar("loss", 40 / 3, 40)
        tracelet_shim.stop_logging()
        writer.add_scalar("loss", 0.0, 41)
        writer.close()
        """,
        env=MLflowReader.environment(tmp_path),
    )
    assert points(MLflowReader(tmp_path).scalars("", "loss")) == [(step, step / 3) for step in range(8, 41)]
    assert len(native.events(only_file(tmp_path / "runs" / "x"))) == 43


def test_two_writers_of_one_second_share_a_file_name(run_python: RunPython, tmp_path: Path) -> None:
    """The second writes over the file of the first, natively; the trackers have what both have logged."""
    run_python(
        """
        import time
        time.time = lambda: 1_700_000_000.0
        from tensorboardX import SummaryWriter
        for epoch in range(3):
            with SummaryWriter("runs/x") as writer:
                writer.add_scalar("loss", epoch / 3, epoch)
        """,
        env=environment("mlflow", tmp_path),
    )
    assert points(MLflowReader(tmp_path).scalars("", "loss")) == [(epoch, epoch / 3) for epoch in range(3)]
    assert len(native.events(only_file(tmp_path / "runs" / "x"))) == 2


def test_nothing_is_loaded_of_it_by_us(run_python: RunPython, tmp_path: Path) -> None:
    """A program that uses torch's writer, or starts a session, has no tensorboardX."""
    done = run_python(
        """
        import sys
        from torch.utils.tensorboard import SummaryWriter
        with SummaryWriter("runs/x") as writer:
            writer.add_scalar("loss", 1.0, 0)
        print(sorted(name for name in sys.modules if name.startswith("tensorboardX")))
        """,
        env=environment("mlflow", tmp_path),
    )
    assert done.stdout == "[]\n"


@pytest.mark.cold
def test_one_that_was_imported_past_us_is_named(run_python: RunPython, tmp_path: Path) -> None:
    """By a program that has thrown all our hooks out: the end says whose writers nothing was seen of, and how to deliver it."""
    done = run_python(
        """
        import sys
        sys.meta_path = [finder for finder in sys.meta_path if "tracelet" not in type(finder).__module__]
        sys.path_hooks[:] = [hook for hook in sys.path_hooks if "tracelet" not in type(hook).__module__]
        from tensorboardX import SummaryWriter
        with SummaryWriter("runs/x") as writer:
            writer.add_scalar("loss", 1.0, 0)
        """,
        env=environment("mlflow", tmp_path),
        check=False,
    )
    assert "nothing of tensorboardX reaches mlflow in this process (it was imported past us" in done.stderr
    assert "tracelet-shim replay LOGDIR --backend mlflow" in done.stderr
    assert done.returncode == 3
