"""What the methods of a session become, in a backend that keeps events; real trackers are in `test_trackers.py`."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import io_wrapper
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.handle.tables import table
from tracelet_shim.testing import RecordingBackend


class Keeping(RecordingBackend):
    """Reads the files of artifacts when they are delivered, as a tracker does."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def write(self, events: Any) -> None:
        for event in events:
            if isinstance(event, ev.Artifact):
                self.files |= {file.path: Path(file.at).read_bytes() for file in event.files}
        super().write(events)


Log = Callable[..., list[ev.Event]]


@pytest.fixture
def log() -> Iterator[Log]:
    """Run something with a session, and return the events that arrived."""

    def run(do: Callable[[tracelet.Session], Any], backend: RecordingBackend | None = None, **settings: Any) -> list[ev.Event]:
        backend = backend or RecordingBackend()
        with tracelet.start_logging(backend, strict=settings.pop("strict", True), quiet=True, ci=False, **settings) as session:
            do(session)
        return [event for event in backend.events if not isinstance(event, ev.Marker)]

    yield run
    tracelet.stop_logging()


def test_parameters(log: Log) -> None:
    """What holds values by name is taken; tables become names with dots, and what is neither number nor text becomes text."""

    @dataclass
    class Model:
        depth: int = 3
        sizes: list[int] = field(default_factory=lambda: [64, 64])

    def do(session: tracelet.Session) -> None:
        session.log_params({"lr": 0.1, "model": Model(), "none": None, "amp": True, "np": np.float32(0.5), 3: "x"})
        session.log_params(argparse.Namespace(batch=32, name="é"))

    first, second = log(do)
    assert isinstance(first, ev.HParams)
    assert first.params == {
        "lr": 0.1, "model.depth": 3, "model.sizes": "[64, 64]", "none": "None", "amp": True, "np": 0.5, "3": "x",
    }  # fmt: skip
    assert (first.trial, first.metrics) == (None, {})
    assert isinstance(second, ev.HParams)
    assert (second.params, second.trial) == ({"batch": 32, "name": "é"}, None)


def test_arguments_of_a_program(log: Log) -> None:
    """They are parameters, but for what is called as a secret."""
    arguments = argparse.Namespace(lr=0.1, api_key="hidden", db={"password": "hidden", "host": "h"}, sort_key="name")
    (event,) = log(lambda session: session.watch_params(arguments))
    assert isinstance(event, ev.HParams)
    assert event.params == {"lr": 0.1, "api_key": "***", "db.password": "***", "db.host": "h", "sort_key": "name"}


def test_metrics(log: Log) -> None:
    """Numbers are float64; a step that is not given is one more than the latest."""

    def do(session: tracelet.Session) -> None:
        session.log_metrics({"loss": 0.1, "odd/é": np.float64(1e300)})
        session.log_metrics({"loss": float("nan")})
        session.log_metrics({"loss": 2}, step=7)
        session.log_metrics({"loss": 1 / 3})
        session.log_metrics({}, step=99)

    points = [(event.path, event.value, event.step) for event in log(do) if isinstance(event, ev.Scalar)]
    assert points[:2] == [("loss", 0.1, 0), ("odd/é", 1e300, 0)]
    assert math.isnan(points[2][1])
    assert points[3:] == [("loss", 2.0, 7), ("loss", 1 / 3, 8)]


def test_texts_pictures_tables_tags_alerts(log: Log) -> None:
    """Each arrives as it was given."""
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)

    def do(session: tracelet.Session) -> None:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        session.log_text("note", "**bold** é", 3)
        session.log_image("array", pixels, 1)
        session.log_image("tensor", np.moveaxis(pixels, 2, 0) / 255)
        session.log_image("pillow", Image.fromarray(pixels[..., 0]))
        figure = plt.figure(figsize=(1, 1), dpi=50)
        session.log_figure("figure", figure)
        session.log_table("tab", [{"a": 1, "b": "x"}, {"a": float("inf")}], step=4)
        session.set_tags({"stage": "try", "n": 3})
        session.set_tags(["label"])
        session.set_summary({"best": np.float32(0.5)})
        session.alert("odd", "loss is NaN", "warning")

    text, array, tensor, pillow, figure, tab, tags, labels, summary, alert = log(do)
    assert (text.path, text.text, text.step) == ("note", "**bold** é", 3)
    for event in (array, tensor):
        assert np.array_equal(np.asarray(Image.open(__import__("io").BytesIO(event.data))), pixels), event.tag
    assert (array.step, array.channels, pillow.channels, figure.figure, figure.width) == (1, 3, 1, True, 50)
    assert (tab.columns, tab.rows, tab.step) == (("a", "b"), ((1, "x"), (math.inf, None)), 4)
    assert (tags.tags, labels.tags) == ({"stage": "try", "n": "3"}, {"label": ""})
    assert (summary.metrics, summary.params) == ({"best": 0.5}, {})
    assert (alert.tag, alert.text, alert.level) == ("odd", "loss is NaN", "warning")


def test_an_artifact_is_what_it_was_at_the_call(log: Log, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Files and directories are kept as they were, and are gone from our state when everything has arrived. Of a directory, what
    is no file is left out, which is said."""
    (tmp_path / "last.pt").write_bytes(b"first")
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "big.bin").write_bytes(b"\0" * 3_000_000)
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "last.pt")
    os.mkfifo(tmp_path / "data" / "fifo")
    (tmp_path / "data" / "latest").symlink_to(tmp_path / "gone")
    (tmp_path / "data" / "other").symlink_to(tmp_path)
    backend = Keeping()

    def do(session: tracelet.Session) -> None:
        session.log_artifact("last.pt")
        SummaryWriter("runs/x").close()
        session.log_artifact(tmp_path / "data", "set", type="dataset", aliases=["best"])
        (tmp_path / "last.pt").write_bytes(b"second, longer")  # into the same file
        session.log_model("last.pt", "net", register_as="nets", aliases=("prod",))
        assert list((tmp_path / "runs" / "x" / ".tracelet" / "handle").glob("*.files/*"))

    file, folder, model = log(do, backend)
    assert backend.files == {
        "last.pt": b"first", "set/a.txt": b"a", "set/link": b"first", "set/deep/big.bin": b"\0" * 3_000_000,
        "net/last.pt": b"second, longer",
    }  # fmt: skip
    assert f"leaves out {tmp_path}/data/other, and 2 more" in capfd.readouterr().err
    assert type(file) is type(folder) is ev.Artifact
    assert (folder.tag, folder.category, folder.aliases) == ("set", "dataset", ("best",))
    assert isinstance(model, ev.Model)
    assert (model.register_as, model.aliases) == ("nets", ("prod",))
    assert not list((tmp_path / "runs" / "x" / ".tracelet" / "handle").glob("*.files*"))
    assert not (tmp_path / ".tracelet").exists(), "where it waited for the first writer"


def test_what_describes_a_run_waits_for_its_root(log: Log, tmp_path: Path) -> None:
    """Parameters that are logged before the first writer change no name; they are delivered first. TensorBoard, whatever it looks
    at, finds the user's runs."""

    def do(session: tracelet.Session) -> None:
        session.log_params({"lr": 0.1})
        with SummaryWriter("runs/x/train") as writer:
            writer.add_scalar("loss", 0.5, 1)
            session.log_metrics({"acc": 0.5}, step=1)
        with SummaryWriter("runs/x/val") as writer:
            writer.add_scalar("loss", 0.6, 1)

    events = log(do)
    assert [event.path for event in events] == ["log_params", "train/loss", "acc", "val/loss"]
    found = {os.path.relpath(path, tmp_path) for path in io_wrapper.GetLogdirSubdirectories(str(tmp_path))}
    assert found == {"runs/x/train", "runs/x/val"}


@pytest.mark.parametrize("flush", [False, True])
def test_a_program_without_a_writer(log: Log, tmp_path: Path, flush: bool) -> None:
    """Its root is the working directory; what describes the run does not wait beyond a flush, and the end."""

    def do(session: tracelet.Session) -> None:
        session.log_params({"lr": 0.1})
        if flush:
            assert session.flush(60)
            assert session.status()["recording"].delivered == 1

    assert [event.path for event in log(do)] == ["log_params"]
    assert (tmp_path / ".tracelet" / "ledger.db").exists()


def test_metrics_do_not_wait(log: Log) -> None:
    """A program that logs metrics before it has a writer has the working directory as its root, as one without a writer."""

    def do(session: tracelet.Session) -> None:
        session.log_metrics({"acc": 0.5})
        with SummaryWriter("runs/x") as writer:
            writer.add_scalar("loss", 0.5, 1)

    assert [event.path for event in log(do)] == ["acc", "runs/x/loss"]


def test_what_cannot_be_taken(log: Log, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It raises nothing, is said once a kind, and fails strict; the rest arrives."""

    def do(session: tracelet.Session) -> None:
        session.log_artifact("nowhere.pt")
        session.log_artifact("nowhere-either.pt")
        os.mkfifo("fifo")
        session.log_artifact("fifo")
        session.log_params(3)
        session.log_metrics({"loss": "high"})
        session.log_image("i", np.zeros((2, 2, 2, 2)))
        session.log_table("t", [[1, 2], [3]])
        session.log_metrics({"loss": 0.5})

    with pytest.raises(errors.DeliveryError):
        log(do)
    said = capfd.readouterr().err
    for text in (
        "log_artifact() could not be taken", "no regular file", "log_params()", "log_metrics()", "log_image()",
        "int '3' holds no values by name",
    ):  # fmt: skip
        assert text in said, text
    assert "nowhere-either" not in said
    rest = log(lambda session: (session.log_params(3), session.log_metrics({"a": 1})), strict=False)
    assert [event.path for event in rest] == ["a"]


def test_what_is_taken_for_something_else(log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    """A level that is none, a step that is no whole number: nothing is lost, and it is said. The last step that there is can be
    logged again."""

    def do(session: tracelet.Session) -> None:
        for level in ("WARN", "Error", "critical", "loud", "info"):
            session.alert(level, level=level)  # type: ignore[arg-type]
        session.log_metrics({"a": 1}, step=2.5)  # type: ignore[arg-type]
        session.log_metrics({"a": 2}, step=2**63 - 1)
        session.log_metrics({"a": 3})
        session.log_metrics({"a": 4}, step=2**63)
        session.log_text("t", "x", step=np.int64(3))
        session.log_metrics({"a": 5}, step=np.float32(4))

    events = log(do, strict=False)
    assert [event.level for event in events if isinstance(event, ev.Alert)] == ["warning", "error", "error", "warning", "info"]
    last = 2**63 - 1
    assert [(e.value, e.step) for e in events if isinstance(e, ev.Scalar)] == [(1, 2), (2, last), (3, last), (5, 4)]
    assert [event.step for event in events if isinstance(event, ev.Text)] == [3]
    said = capfd.readouterr().err
    for text in ("level 'WARN' is none of", "step 2.5 is no whole number; it counts as 2", f"step {2**63} has more than 64 bits"):
        assert text in said, text


def test_the_name_of_a_file(log: Log, tmp_path: Path) -> None:
    """One that ends as the file does is the file's; any other is that of a directory with the file in it."""
    (tmp_path / "tmp1.json").write_text("{}")

    def do(session: tracelet.Session) -> None:
        for name in ("config.json", "deep/config.json", "config", "tmp1.json", "a.b/tmp1.json"):
            session.log_artifact("tmp1.json", name)
        assert session.use_artifact("config.json").read_text() == "{}"

    paths = [event.files[0].path for event in log(do) if isinstance(event, ev.Artifact)]
    assert paths == ["config.json", "deep/config.json", "config/tmp1.json", "tmp1.json", "a.b/tmp1.json"]


def test_what_is_no_number_is_left_out(log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    """The numbers beside it are logged; a table within gives names with dots."""

    def do(session: tracelet.Session) -> None:
        session.log_metrics({"bad": "high", "good": 1, "sub": {"a": np.float32(2), "none": None}}, step=3)
        session.set_summary({"when": "epoch 3", "best": 0.5})
        session.set_summary({"all": "bad"})

    events = log(do, strict=False)
    summary = events.pop()
    assert isinstance(summary, ev.HParams)
    assert summary.metrics == {"best": 0.5}
    assert {(event.tag, event.value, event.step) for event in events if isinstance(event, ev.Scalar)} == {
        ("good", 1, 3), ("sub.a", 2, 3),
    }  # fmt: skip
    said = capfd.readouterr().err
    assert "log_metrics() leaves out 'bad', str 'high', which is no number" in said
    assert "set_summary() leaves out 'when', str 'epoch 3'" in said


def test_many_threads(log: Log) -> None:
    """Nothing is lost or doubled, whatever comes at a time."""

    def do(session: tracelet.Session) -> None:
        def several(number: int) -> None:
            for i in range(50):
                session.log_metrics({f"t{number}": i}, step=i)

        threads = [threading.Thread(target=several, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    events = log(do)
    assert len({event.record for event in events}) == len(events) == 200
    assert all([e.value for e in events if e.tag == f"t{n}"] == list(range(50)) for n in range(4))


def test_no_session() -> None:
    """Where there is none, everything is taken and nothing happens; neither torch, numpy nor a tracker is imported for it."""
    program = """
import sys, tracelet_shim as tracelet
session = tracelet.get_session()
session.log_params(3); session.log_metrics({"a": "b"}); session.log_artifact("nowhere"); session.log_table("t", 3)
session.log_model("x"); session.set_tags(None); session.set_summary(1); session.alert("x"); session.log_text("a", "b")
assert session.flush() and session.status() == {} and not session and not session.active and session.urls == {}
print(sorted(set(sys.modules) & {"torch", "numpy", "msgspec", "tensorboard", "mlflow", "wrapt"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_tables() -> None:
    """Data frames, columns and rows are the same table."""
    import pandas as pd

    columns, rows = ("a", "b"), ((1, "x"), (2, "y"))
    by_column = {"a": [1, 2], "b": ("x", "y")}
    for data in (pd.DataFrame(by_column), by_column, [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]):
        found = table(data)
        assert (found.columns, found.rows) == (columns, rows), type(data)
    found = table([[1, "x"], [2, "y"]], ["a", "b"])
    assert (found.columns, found.rows) == (columns, rows)
    assert table([[1, 2]]).columns == ("0", "1")
    assert table([[1, 2]], ["a", "a"]).columns == ("a", "a-2")
    assert table({"a": [1], "b": [2]}, ["b"]).rows == ((2,),)
    assert table([], ["a"]).rows == ()
    assert table([[np.float32(0.5), [1, 2], None, True]]).rows == ((0.5, "[1, 2]", None, True),)
    frame = pd.DataFrame(by_column, index=["r1", "r2"])  # an index that says something is a part of the table
    assert table(frame) == table({"index": ["r1", "r2"], **by_column})
    assert table(frame.rename_axis("row")) == table({"row": ["r1", "r2"], **by_column})
    assert table(frame.rename_axis("a")).columns == ("a", "a-2", "b")
    assert table(frame, ["b"]) == table({"b": by_column["b"]})
    assert table(pd.DataFrame(by_column)[1:]) == table({"index": [1], "a": [2], "b": ["y"]})
    assert table(frame.set_index("a", append=True)) == table({"level_0": ["r1", "r2"], **by_column})
    assert table(pd.DataFrame(by_column).groupby("b").sum()) == table({"b": ["x", "y"], "a": [1, 2]})
    for wrong in ("text", 3, {"a": [1], "b": []}):
        with pytest.raises((TypeError, ValueError)):
            table(wrong)
