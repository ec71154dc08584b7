"""Event files that are there already, into trackers."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from tests.backends.mlflow.reader import MLflowReader
from tests.delivery.programs import eventually, tensorboard_steps
from tests.replay.commands import COMMAND, environment, points, runs, started, tracelet_shim
from tests.sample_events import png, wav
from tracelet_shim.testing import conformance, program

pytestmark = pytest.mark.usefixtures("mlflow_store")

WRITE = """
import sys, time
from torch.utils.tensorboard import SummaryWriter
w = SummaryWriter("runs/x")
for i in range(40):
    w.add_scalar("loss", i / 7, i)
    if i == 20:
        v = SummaryWriter("runs/x/val")
        v.add_scalar("loss", 0.5, 3)
        v.close()
    w.flush()
    time.sleep(0.1)
w.close()
time.sleep(float(sys.argv[1]))
"""


def write(directory: str, count: int, start: int = 0) -> Path:
    """Write ``loss`` with SummaryWriter; return the event file."""
    with SummaryWriter(directory) as writer:
        for i in range(start, start + count):
            writer.add_scalar("loss", i / 7, i)
        return Path(writer.file_writer.event_writer._file_name)


def float32(count: int, start: int = 0) -> list[tuple[int, float]]:
    return [(i, float(np.float32(i / 7))) for i in range(start, start + count)]


def frame(event: Event) -> bytes:
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def test_it_gives_what_live_logging_gives(tmp_path: Path) -> None:
    """Everything that SummaryWriter can write arrives from its files as it does from the running program; scalars as float32,
    as the files have them."""
    subprocess.run([sys.executable, program.__file__, "runs/x"], env=environment(), check=True, capture_output=True)
    said = tracelet_shim("replay", "runs/x", "-b", "mlflow", "-p", "p", "--tags", "a=b", "--notes", "n", "-n", "old")
    assert "0 pending, 0 set aside" in said
    reader = MLflowReader(tmp_path)
    checks = conformance.Conformance(reader, float32=True)
    for check in conformance.CHECKS:
        if check not in ("check_video", "check_hparams", "check_sweep", "check_about") and "session" not in check:
            getattr(checks, check)()  # of videos, TensorBoard's files have nothing without moviepy; and there was no session
    params = {"lr": "0.1", "bs": "32.0", "opt": "adam", "amp": "1.0"}  # and every number among parameters is a double
    assert reader.params() == params
    assert reader.summary_metrics() == {"hp/acc": 0.75}
    assert [(trial.params["lr"], trial.metrics) for trial in reader.trials()] == [
        ("1.1", {"hp/acc": 0.875}), ("2.1", {"hp/acc": 1.0})
    ]  # fmt: skip
    about = reader.about()
    assert (about["exp_name"], about["tags"], about["notes"]) == ("old", {"a": "b"}, "n")


def test_old_logs(tmp_path: Path) -> None:
    """What TensorFlow 1 and 2 wrote is understood: many values in one summary, scalars as tensors whose plugin only the first
    names; files follow each other by the time of their creation, and the run begins when the first record was written."""
    scalars = SummaryMetadata()
    scalars.plugin_data.plugin_name = "scalars"
    old = [Event(wall_time=1e9, file_version="brain.Event:2")]
    old += [
        Event(wall_time=1e9 + i, step=i, summary=Summary(value=[
            Summary.Value(tag="loss", simple_value=i / 4), Summary.Value(tag="lr", simple_value=0.5),
        ]))
        for i in range(3)
    ]  # fmt: skip
    new = [
        Event(wall_time=1e9 + i, step=i, summary=Summary(value=[
            Summary.Value(tag="loss", tensor=make_tensor_proto(i / 4, dtype=np.float32), metadata=scalars if i == 3 else None)
        ]))
        for i in range(3, 6)
    ]  # fmt: skip
    directory = tmp_path / "old"
    directory.mkdir()
    (directory / "events.out.tfevents.1000000900.a").write_bytes(b"".join(map(frame, new)))
    (directory / "events.out.tfevents.1000000000.b").write_bytes(b"".join(map(frame, old)))
    tracelet_shim("replay", "old", "-b", "mlflow", "-p", "p")
    assert points(tmp_path / "mlflow.db") == {"old": [(i, i / 4) for i in range(6)]}
    assert points(tmp_path / "mlflow.db", "lr") == {"old": [(i, 0.5) for i in range(3)]}
    ((started_at,),) = MLflowReader(tmp_path).query("SELECT start_time FROM runs")
    assert started_at == 1_000_000_000_000


def test_damaged_files() -> None:
    """What comes before the damage is delivered, and what is in other files; the place of the damage is named."""
    whole = write("runs/whole", 100)
    cut = write("runs/cut", 100, 1000)
    flipped = write("runs/flipped", 100, 2000)
    assert whole.stat().st_size > 1000
    cut.write_bytes(cut.read_bytes()[:-5])
    data = bytearray(flipped.read_bytes())
    ends = [0]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 16 + struct.unpack_from("<Q", data, ends[-1])[0])
    data[ends[51] + 20] ^= 4
    flipped.write_bytes(data)
    said = tracelet_shim("replay", "runs", "-b", "tensorboard", code=1)
    assert f"{cut}: the last record is not complete at byte {ends[100]}" in said
    assert f"{flipped}: the checksum of a record's data is wrong at byte {ends[51]}" in said
    assert sorted(tensorboard_steps(Path.cwd())) == [*range(100), *range(1000, 1099), *range(2000, 2050)]


def test_each_directory_a_run(tmp_path: Path) -> None:
    """With --runs every sub-directory becomes a run named after it, with what is below it as writers."""
    write("runs/a", 3)
    write("runs/b/train", 4)
    write("runs/b/val", 5)
    Path("runs/empty").mkdir()
    tracelet_shim("replay", "runs", "--runs", "-b", "mlflow", "-p", "p")
    assert runs(tmp_path / "mlflow.db") == [("a", "FINISHED"), ("b", "FINISHED")]
    assert points(tmp_path / "mlflow.db") == {"a": float32(3)}
    assert points(tmp_path / "mlflow.db", "val/loss") == {"b": float32(5)}


def test_values_with_several_items(tmp_path: Path) -> None:
    """Every clip and every picture of one value of TensorFlow's is in every tracker, with its own bytes; so is every cell of a
    table of texts."""
    sounds = [wav(np.arange(number, dtype=np.int16), 8000) for number in (80, 90, 100)]
    pictures = [png(np.full((4, 5, 3), number, np.uint8)) for number in (1, 2, 3)]
    table = np.array([[b"one", b"two"], [b"three", b"four"]], object)
    values = {"audio": np.array([[sound, b""] for sound in sounds], object), "images": [b"5", b"4", *pictures], "text": table}
    summary = Summary()
    for plugin, content in values.items():
        summary.value.add(tag=plugin, tensor=make_tensor_proto(content)).metadata.plugin_data.plugin_name = plugin
    events = [Event(wall_time=1e9, file_version="brain.Event:2"), Event(wall_time=1e9, step=3, summary=summary)]
    Path("old").mkdir()
    Path("old/events.out.tfevents.1000000000.h.1.0.v2").write_bytes(b"".join(map(frame, events)))
    said = tracelet_shim("replay", "old", "-b", "dvclive,mlflow,tensorboard")
    assert said.count("7 events delivered, 0 pending, 0 set aside") == 3
    stored = list(tmp_path.glob("dvclive/**/audio/**/*.wav"))
    assert sorted(path.read_bytes() for path in stored) == sorted(sounds)
    assert sorted(path.read_bytes() for path in tmp_path.glob("dvclive/**/images/**/*.png")) == sorted(pictures)
    assert sorted(path.read_bytes() for path in tmp_path.glob("mlruns/**/audio/**/*.wav")) == sorted(sounds)
    assert sorted(path.read_bytes() for path in tmp_path.glob("mlruns/**/*.png")) == sorted(pictures)
    for (note,) in (tmp_path.glob("dvclive/**/*.md"), tmp_path.glob("mlruns/**/*.md")):
        assert note.read_text().endswith("| one | two |\n| three | four |")
    (copy,) = tmp_path.glob("tracelet-runs/**/*tfevents*")
    assert copy.read_bytes() == next(Path("old").glob("*tfevents*")).read_bytes()


SWEEP = """
import sys
from torch.utils.tensorboard import SummaryWriter
for lr in sys.argv[1:]:
    with SummaryWriter(f"sweep/lr_{lr}") as w:
        for i in range(3):
            w.add_scalar("lr", float(lr), i)
            if i:
                w.add_scalar("loss", i, i)
"""


def metrics(top: str) -> set[str]:
    """Return the names of the metrics of all runs that DVCLive has, each behind its run."""
    return {str(path.relative_to(top)).replace("plots/metrics/", "") for path in Path(top).rglob("plots/metrics/**/*.tsv")}


@pytest.mark.parametrize("above", ["", "same process", "other process"])
def test_a_directory_named_like_a_tag_is_no_series(above: str) -> None:
    """Of a sweep whose directories begin with one of their tags, each metric keeps its name, alone or beside a writer above it;
    no name of a directory outside of the log directory becomes a part of one."""
    own = 'with SummaryWriter("sweep") as w:\n    w.add_scalar("best", 1.0, 0)\n' if above else ""
    head, loop = SWEEP.split("for lr", 1)
    program = f"{head}{own}for lr{loop}" if above != "other process" else f"{SWEEP}"
    if above == "other process":
        subprocess.run([sys.executable, "-c", head + own], env=environment(), check=True)
    subprocess.run([sys.executable, "-c", program, "0.1", "0.01"], env=environment(), check=True)
    tracelet_shim("replay", "sweep", "--runs", "-b", "dvclive", "-p", "runs")
    expected = {f"lr_{lr}/{tag}.tsv" for lr in ("0.1", "0.01") for tag in ("lr", "loss")}
    assert metrics("dvclive/runs") - {"sweep/best.tsv"} == expected
    tracelet_shim("replay", "sweep", "-b", "dvclive", "-p", "whole")
    assert metrics("dvclive/whole") - {"sweep/best.tsv"} == {f"sweep/{name}" for name in expected}
    if above == "":  # and where nothing but the tag is there
        subprocess.run([sys.executable, "-c", SWEEP.replace("if i:", "if False:"), "7"], env=environment(), check=True)
        tracelet_shim("replay", "sweep/lr_7", "-b", "dvclive", "-p", "one")
        assert metrics("dvclive/one") == {"lr_7/lr.tsv"}


def test_the_series_of_add_scalars() -> None:
    """They are found again, with keys that have a slash, of writers in writers' directories, and of a program that was started
    twice."""
    program = """
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter("runs/x") as w, SummaryWriter("runs/x/val", filename_suffix=".v2") as v:
    for i in range(3):
        w.add_scalars("a/b", {"one": i, "two/three": i, "two": i}, i)
        v.add_scalars("loss", {"k": i}, i)
        w.add_scalar("a", i, i)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=environment(), check=True)
    tracelet_shim("replay", "runs/x", "-b", "dvclive")
    names = {name.split("/", 2)[2] for name in metrics("dvclive")}
    assert names == {"a.tsv", "a/b/one.tsv", "a/b/two.tsv", "a/b/two/three.tsv", "val/loss/k.tsv"}


def test_our_own_copies_are_left_out() -> None:
    """State directories and copies that the tensorboard backend has made are no training logs."""
    write("runs/x", 5)
    tracelet_shim("replay", "runs/x", "-b", "tensorboard", "--option", "tensorboard.logdir=runs/copies")
    said = tracelet_shim("replay", "runs", "-b", "tensorboard")
    assert "tensorboard: 5 events delivered" in said


def test_bars_on_a_terminal() -> None:
    """On a terminal there is a bar for reading and one for each tracker, and what is said stands above them."""
    write("runs/x", 20_000)
    outer, inner = pty.openpty()
    command = [COMMAND, "replay", "runs/x", "-b", "tensorboard"]
    env = environment(TERM="xterm", COLUMNS="100")
    with subprocess.Popen(command, env=env, stdin=inner, stdout=inner, stderr=inner, close_fds=True) as process:
        os.close(inner)
        said = b""
        with contextlib.suppress(OSError):  # the other end was closed
            while data := os.read(outer, 65536):
                said += data
        assert process.wait(60) == 0
    os.close(outer)
    text = said.decode()
    assert "reading" in text
    assert "100%" in text
    assert "tensorboard: 20000 events delivered" in text


@pytest.mark.parametrize("end", ["idle", "SIGTERM"])
def test_follow(end: str) -> None:
    """Files that grow and directories that appear are delivered as they come, until nothing comes or a signal does; the run is
    closed in good order, and --resume delivers what comes afterwards."""
    idle = ["--idle", "4"] if end == "idle" else []
    script = Path("write.py")
    script.write_text(WRITE)
    with subprocess.Popen([sys.executable, str(script), "0"], env=environment()) as writer:
        eventually(lambda: Path("runs/x").is_dir())
        with started("replay", "runs/x", "-b", "tensorboard", "--follow", *idle) as process:
            assert writer.wait(60) == 0
            if end == "SIGTERM":
                eventually(lambda: sorted(tensorboard_steps(Path.cwd())) == sorted([*range(40), 3]))
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, Path("output.txt").read_text()
    assert sorted(tensorboard_steps(Path.cwd())) == sorted([*range(40), 3])
    write("runs/x", 2, 500)
    time.sleep(0.1)
    assert "43 events delivered" in tracelet_shim("replay", "runs/x", "--resume")
    assert sorted(tensorboard_steps(Path.cwd())) == sorted([*range(40), 3, 500, 501])
    assert "nothing to resume" in tracelet_shim("replay", "runs/x", "--resume")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["nowhere"], "is no directory"),
        ([".", "--resume"], "no session was recorded"),
        ([".", "-b", "mlfow"], "did you mean 'mlflow'"),
        ([".", "--option", "mlflow"], "TRACKER.KEY=VALUE"),
        ([".", "--option", "mlflow.colour=red"], "has no option 'colour'"),
        ([".", "--runs", "--follow"], "--runs goes with none of"),
        ([".", "--resume", "--project", "p"], "continues a session as it was started"),
    ],
)
def test_what_cannot_be_right(args: list[str], problem: str) -> None:
    """A wrong argument is refused at once, with the remedy."""
    assert problem in tracelet_shim("replay", *args, code=2)
