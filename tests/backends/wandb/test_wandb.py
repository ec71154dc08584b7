"""The W&B backend, against the real SDK in offline mode: what the ``.wandb`` log and the run's files hold after."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.wandb.installed import since
from tests.backends.wandb.reader import WandbReader
from tests.sample_events import WALL, Maker, gif_frames, png, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.backends.shared.names import Names, unescape
from tracelet_shim.backends.wandb.backend import WandbBackend
from tracelet_shim.backends.wandb.limits import KEY
from tracelet_shim.backends.wandb.media import bins

HOSTILE = [
    "", " ", "a", "a/b", "a/", "/a", "//a", "a//b", ".", "..", "...", "..a", "../../x", "a/../b", "./a", "/etc/passwd",
    "Case", "case", "acc@1", "acc_x40_1", "acc_x5f_x40_1", "_x_", "nul\0", "line\nbreak", "a\n", "back\\slash", "\\",
    "a.b", "a.values", "_step", "_timestamp", "_runtime", "_wandb", "global_step", "tracelet", "p_table", "*", "a*",
    "a (image)", "é", "e\u0301", "日本語", "😀", "x" * 5000, "x" * 4999 + "y", "y/" * 400 + "z", "é" * 150, "\ud800",
    "Custom Chart Tables/a_table", "https://x/y", "[a]", "names.json", "media/images/a", "-a", "a-", "\x1b[0m",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_run_is_left() -> Iterator[None]:
    """Every test leaves W&B's process-wide state as it found it."""
    yield
    wandb = sys.modules.get("wandb")
    assert wandb is None or wandb.run is None


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in WandbReader.environment(tmp_path / "w").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "w"


def session(
    work: Callable[[WandbBackend], None], *, status: str = "finished", options: dict[str, Any] | None = None, **run: Any
) -> WandbBackend:
    """Open, work and close in a thread of its own, as a worker of the relay does; return the backend."""
    backend = WandbBackend(options)
    problems: list[BaseException] = []

    def worker() -> None:
        try:
            backend.open(run_info(**run))
            work(backend)
            backend.close(status)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join(60)
    if problems:
        raise problems[0]
    return backend


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[WandbReader, dict[str, ev.Event]]:
    """One run with an event of every type."""
    directory = tmp_path_factory.mktemp("full")
    events = Maker().one_of_each()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WandbReader.environment(directory).items():
            patch.setenv(name, value)
        session(
            lambda backend: backend.write(events), exp_name="first run", tags={"a": "", "lr": "0.1"}, notes="n\né",
            config={"model": {"depth": 3}, "bad": math.nan, "huge": 2**70},
        )  # fmt: skip
    return WandbReader(directory), {event.kind: event for event in events}


def test_it_is_a_complete_backend() -> None:
    """The registry finds the backend by its name and accepts it."""
    assert registry.find("wandb") is WandbBackend


def test_scalar(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """A scalar arrives with its float64 value, step and wall time."""
    assert full[0].scalars("", "s") == [(3, 0.1, WALL)]


def test_histogram_keeps_its_mass(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """A histogram of 700 buckets arrives as at most 512, with every sample in place."""
    event = full[1]["histogram"]
    ((step, edges, counts),) = full[0].histograms("", "h")
    assert step == 3
    assert 256 < len(counts) <= 512
    assert counts.sum() == sum(event.counts)
    whole = np.interp(edges, event.limits, np.cumsum(event.counts))
    assert np.array_equal(np.diff(whole), counts)


def test_image_is_byte_identical(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """An image arrives as the very file that TensorBoard encoded."""
    reader, events = full
    ((step, pixels),) = reader.images("", "i")
    ((_, value, folder),) = list(reader.media("", "i", "image", "image-file"))
    assert (step, pixels.shape) == (3, (12, 16, 3))
    assert (folder / value["path"]).read_bytes() == events["image"].data


def test_video(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """A video arrives as a playable GIF with all frames."""
    ((step, frames),) = full[0].videos("", "v")
    assert step == 3
    assert np.array_equal(frames, gif_frames(full[1]["video"].data))


def test_audio(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """Audio arrives as a WAV file with rate and samples."""
    ((step, rate, samples),) = full[0].audio("", "a")
    assert (step, rate, len(samples)) == (3, 16000, 800)
    assert samples.max() > 7000


def test_text(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """Text arrives unchanged, markup and all."""
    assert full[0].texts("", "t") == [(3, full[1]["text"].text)]


def test_pr_curve_is_a_chart(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """A PR curve arrives as a table with all columns, which a line chart in the config shows."""
    reader, events = full
    ((step, precision, recall),) = reader.pr_curves("", "p")
    assert step == 3
    assert precision.tolist() == list(events["pr_curve"].precision)
    assert recall.tolist() == list(events["pr_curve"].recall)
    panel = reader.run().charts["p"]["panel_config"]
    assert panel["panelDefId"] == "wandb/line/v0"
    assert panel["fieldSettings"] == {"x": "recall", "y": "precision"}


def test_mesh(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """A mesh arrives as a 3D object with points, faces and colours."""
    event = full[1]["mesh"]
    ((step, points, faces, colors),) = full[0].meshes("", "m")
    assert step == 3
    assert np.array_equal(points, event.vertices.numpy()[0])
    assert np.array_equal(faces, event.faces.numpy()[0])
    assert np.array_equal(colors, event.colors.numpy()[0])


def test_embedding(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """An embedding arrives as a table: labels, one column a dimension, label pictures as cells."""
    reader, events = full
    event = events["embedding"]
    ((step, matrix, rows),) = reader.embeddings("", "e")
    assert step == 3
    assert np.array_equal(matrix.astype(np.float32), event.matrix.numpy())
    assert rows == [list(row) for row in event.metadata]
    ((_, value, folder),) = list(reader.media("", "e", "embedding", "table-file"))
    assert list(reader.table(value, folder)) == ["image", "name", "class", "d0", "d1", "d2", "d3", "d4"]
    assert len(list(reader.directory.glob("**/staging/**/*"))) >= 1


def test_tensor(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """A tensor arrives as a NumPy file of the same type, shape and values."""
    ((step, array),) = full[0].tensors("", "x")
    assert step == 3
    assert array.dtype == np.float64
    assert np.array_equal(array, full[1]["tensor"].value.numpy())


def test_graph_custom_scalars_and_blob(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """Graph, layout and unknown records are files of the run, and listed as such for the upload."""
    reader, events = full
    assert reader.graphs() == [{"input", "Net/Linear[fc]/weight", "output"}]
    layout = events["custom_scalars"].layout
    assert reader.custom_scalars() == [json.loads(json.dumps(layout))]
    ((_, blob),) = reader.attached("other", "other", ".run_metadata.pb")
    assert blob.read_bytes() == events["blob"].data
    uploads = reader.run().uploads
    assert {path.split("/")[0] for path in uploads} >= {"graphs", "custom_scalars", "other", "tensors", "media"}


def test_hparams(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """Parameters are in the config, beside the user's config=; metrics are a point and the run's summary."""
    reader = full[0]
    assert reader.params() == {
        "model": {"depth": 3}, "bad": "nan", "huge": str(2**70), "lr": 0.1, "bs": 32, "opt": "adam", "amp": True,
    }  # fmt: skip
    assert reader.summary_metrics()["acc"] == 0.75
    assert reader.scalars("", "acc") == [(3, 0.75, WALL)]


def test_about(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """Project, name, tags and notes are W&B's own fields; status follows the exit code."""
    reader = full[0]
    about = reader.about()
    assert about == {
        "project": "p", "exp_name": "first run", "notes": "n\né", "tags": {"a": "", "lr": "0.1"},
        "run_id": reader.run_ids()[0],
    }  # fmt: skip
    assert list(reader.run().record.tags) == ["a", "lr=0.1"]
    assert reader.status() == "finished"


def test_the_program_is_the_users(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """Script, arguments, interpreter and host are those of the training program."""
    environment = full[0].run().environment
    assert environment["program"] == "/home/user/train.py"
    assert environment["code_path"] == "train.py"
    assert list(environment["args"]) == ["--lr", "0.1"]
    assert environment["executable"] == "/usr/bin/python3"
    assert environment["host"] == "node-1"
    assert "git" not in environment


def test_global_step_is_the_x_axis(full: tuple[WandbReader, dict[str, ev.Event]]) -> None:
    """Every metric is charted over global_step, which is itself hidden."""
    metrics = full[0].run().metrics
    assert any(m.name == "global_step" and m.options.hidden for m in metrics)
    assert any(m.glob_name == "*" and m.step_metric == "global_step" for m in metrics)


def test_rows(directory: Path) -> None:
    """Scalars of one step and wall time share a row; any order, repeat, sign and size of steps and values arrives."""
    m = Maker()
    points = [
        (1.5, 5, WALL), (math.nan, 5, WALL), (math.inf, 2, WALL), (-math.inf, -7, WALL + 1), (1e300, 2**62, WALL + 1),
        (5e-324, 2**62, WALL + 2), (-0.0, 0, WALL + 1e-3), (0.1, 0, -5.5), (1 / 3, 0, 0.0),
    ]  # fmt: skip

    def work(backend: WandbBackend) -> None:
        backend.write([m.scalar("s", *point) for point in points])
        assert backend.written == len(points)
        backend.write([m.scalar(f"k{i}", i, 9, WALL + i * 1e-4) for i in range(10)])
        backend.write([m.scalar("nan", 1.0, 1, math.nan), m.scalar("inf", 1.0, 1, math.inf)])

    session(work)
    reader = WandbReader(directory)
    found = reader.scalars("", "s")
    assert [(p.step, p.wall_time) for p in found] == [(step, wall) for _, step, wall in points]
    assert np.array_equal([p.value for p in found], [value for value, _, _ in points], equal_nan=True)
    assert len([row for row, _ in reader.run().rows if "k0" in row or "k9" in row]) == 1
    assert [reader.scalars("", f"k{i}")[0].value for i in range(10)] == list(range(10))
    assert reader.scalars("", "nan")[0].value == reader.scalars("", "inf")[0].value == 1.0


@pytest.mark.skipif(not since("0.21"), reason="rows are logged one by one before 0.21")
def test_rows_are_those_of_run_log(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are handed over together become the same rows, steps and summary as with a `Run.log` for each."""
    m = Maker()
    numbers = [0.1, 1 / 3, math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e300, 1e22, 1e16, 123456789.123456789, 2.0**62]
    events: list[ev.Event] = [m.scalar(f"n{i}", number, -i, WALL + i) for i, number in enumerate(numbers)]
    events += [m.scalar(f"a/{i % 5}", 0.1 * i, i // 5, WALL + i // 5) for i in range(50)]
    events += [m.histogram("h", 1), m.image("i", 1), m.scalar('é."b*', 1.0, 2**62, math.nan)]
    events += [m.scalar('é."b*', 2.0, 3, WALL), m.image("i", 2)]
    found = []
    for together in (True, False):
        if not together:
            monkeypatch.setattr("tracelet_shim.backends.wandb.fast.Rows.of", lambda _: None)
        backend = session(lambda backend: backend.write(events), session=f"{together:016x}")
        assert (backend._run.fast is not None) is together
        run = WandbReader(directory, backend.handle.id).run()
        rows = [{key: value for key, value in row.items() if key != "_runtime"} for row, _ in run.rows]
        del rows[-3]["_timestamp"]  # a wall time of NaN: W&B's own clock
        summary = {key: value for key, value in run.summary.items() if key not in ("_runtime", "_wandb")}
        found.append([json.dumps(row, sort_keys=True) for row in [*rows, summary]])
    assert len(found[0]) == 12 + 10 + 5 + 1
    assert found[0] == found[1]


def test_a_run_that_the_user_has_finished(directory: Path) -> None:
    """Scalars for a run that the user has ended by hand are an error, and are not counted as written."""
    backend = WandbBackend()
    backend.open(run_info())
    backend.handle.finish()
    with pytest.raises(Exception, match="is finished"):
        backend.write([Maker().scalar("s", 1.0, 1)])
    assert backend.written == 0


def test_a_version_with_other_rows(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the installed SDK encodes a row in another way than the known one, each goes through `Run.log`."""
    from wandb.sdk.interface.interface import InterfaceBase

    publish = InterfaceBase.publish_partial_history

    def another_way(self: Any, *given: Any, **fields: Any) -> None:
        publish(self, *({**each, "version": 2} if isinstance(each, dict) else each for each in given), **fields)

    monkeypatch.setattr(InterfaceBase, "publish_partial_history", another_way)
    backend = session(lambda backend: backend.write([Maker().scalar("s", 0.1 * i, i) for i in range(3)]))
    assert backend._run.fast is None
    assert [(row["s"], row["version"]) for row, _ in WandbReader(directory).run().rows] == [(0.1 * i, 2) for i in range(3)]


def test_hostile_tags(directory: Path) -> None:
    """No two tags collide, none leaves the run's directory, and W&B's service survives all of them, as any type."""
    m = Maker()
    kinds = [m.scalar, m.image, m.text, m.histogram, m.tensor, m.pr_curve, m.audio]

    def work(backend: WandbBackend) -> None:
        for step, tag in enumerate(HOSTILE):
            for make in kinds:
                event = make(tag, float(step), step) if make == m.scalar else make(tag, step=step)
                backend.write([event])

    before = {path for path in directory.parent.rglob("*") if directory not in path.parents}
    session(work)
    reader = WandbReader(directory)
    for step, tag in enumerate(HOSTILE):
        assert reader.scalars("", tag) == [(step, float(step), WALL)], tag[:20]
        assert [s for s, _ in reader.images("", tag)] == [step], tag[:20]
        assert [s for s, _ in reader.texts("", tag)] == [step], tag[:20]
        assert [s for s, *_ in reader.histograms("", tag)] == [step], tag[:20]
        assert [s for s, *_ in reader.pr_curves("", tag)] == [step], tag[:20]
        assert [s for s, *_ in reader.audio("", tag)] == [step], tag[:20]
        if len(tag.encode("utf-8", "surrogatepass")) < 100:
            assert [s for s, _ in reader.tensors("", tag)] == [step], tag[:20]
    assert len([file for folder in reader.run().folders for file in folder.rglob("*.npy")]) == len(HOSTILE)
    assert {path for path in directory.parent.rglob("*") if directory not in path.parents} == before


@given(st.text(max_size=40), st.text(max_size=40))
def test_keys_are_reversible(one: str, other: str) -> None:
    """The key gives the tag back, never is one of W&B's own, and differs for different tags."""
    names = Names(KEY, 1000)
    assert unescape(names(one)) == one
    assert (names(one) == names(other)) == (one == other)
    assert names(one) not in {"", "_step", "_runtime", "_timestamp", "_wandb", "global_step"}
    assert not names(one).endswith(("_table", " (image)"))
    assert not set(names(one).split("/")) & {"", ".", ".."}
    assert "\\" not in names(one)


def test_one_tag_of_several_types(directory: Path) -> None:
    """Under one tag, each type has a key of its own; the first has the plain one."""
    m = Maker("train")
    events = [m.image("x", 1), m.scalar("x", 2.0, 1), m.text("x", "t", 1), m.image("x", 2)]
    session(lambda backend: backend.write(events))
    reader = WandbReader(directory)
    keys = {key for row, _ in reader.run().rows for key in row if not key.startswith("_")}
    assert keys == {"train/x", "train/x (scalar)", "train/x (text)", "global_step"}
    assert [step for step, _ in reader.images("train", "x")] == [1, 2]
    assert reader.scalars("train", "x") == [(1, 2.0, WALL)]


def test_writers_and_series(directory: Path) -> None:
    """The same tag of two writers, and the keys of add_scalars, are metrics of their own."""
    one, two = Maker("train"), Maker("val")
    events = [one.scalar("loss", 1.0), two.scalar("loss", 2.0), one.scalar("g", 3.0, series="k")]
    session(lambda backend: backend.write(events))
    reader = WandbReader(directory)
    assert reader.scalars("train", "loss")[0].value == 1.0
    assert reader.scalars("val", "loss")[0].value == 2.0
    assert reader.scalars("train", "g", "k")[0].value == 3.0


def test_odd_media(directory: Path) -> None:
    """Point clouds, batches of meshes, embeddings without labels, texts with control characters: nothing is dropped."""
    m = Maker()
    batch = m.mesh("batch", 1)
    vertices = np.repeat(batch.vertices.numpy(), 2, axis=0)
    faces = np.repeat(batch.faces.numpy(), 2, axis=0)
    broken = msgspec.structs.replace(m.image("broken", 1), data=b"no image")
    odd = "a\r\nb\0c\ud800</pre>&amp;"
    clash = msgspec.structs.replace(m.embedding("clash", 1), metadata_header=("d0", "image"))
    events = [
        m.mesh("cloud", 1, faces=False), m.mesh("plain", 1, faces=False, colors=False), m.text("odd", odd, 1),
        msgspec.structs.replace(
            batch, vertices=ev.Array.of(vertices), faces=ev.Array.of(faces), colors=None, config='{"camera": 1}'
        ),
        msgspec.structs.replace(m.embedding("bare", 1), metadata=None, metadata_header=None, sprite=None),
        msgspec.structs.replace(m.embedding("one", 1, sprite=False), metadata=(("x",),) * 9, metadata_header=None),
        clash, broken,
    ]  # fmt: skip
    session(lambda backend: backend.write(events))
    reader = WandbReader(directory)
    ((_, points, no_faces, colors),) = reader.meshes("", "cloud")
    assert np.array_equal(points, events[0].vertices.numpy()[0])
    assert no_faces is None
    assert np.array_equal(colors, events[0].colors.numpy()[0])
    assert reader.meshes("", "plain")[0][3] is None
    assert len(reader.meshes("", "batch")) == 2
    assert len(reader.attached("meshes", "batch", ".config.json")) == 1
    assert reader.texts("", "odd") == [(1, "a\r\nb\ufffdc\ufffd</pre>&amp;")]
    assert reader.attached("text", "odd", ".md")[0][1].read_bytes() == odd.encode("utf-8", "surrogatepass")
    assert reader.embeddings("", "bare")[0][2] is None
    assert reader.embeddings("", "one")[0][2] == [["x"]] * 9
    assert reader.embeddings("", "clash")[0][1].shape == (9, 5)
    assert reader.attached("images", "broken", ".png")[0][1].read_bytes() == b"no image"


def test_large_embedding(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding too large for a table is shown in part, and attached whole."""
    monkeypatch.setattr("tracelet_shim.backends.wandb.media.MAX_CELLS", 20)
    session(lambda backend: backend.write([Maker().embedding("e", 1)]))
    reader = WandbReader(directory)
    assert reader.embeddings("", "e")[0][1].shape == (4, 5)
    ((_, whole),) = reader.attached("embeddings", "e", ".tensors.tsv")
    assert len(whole.read_text().splitlines()) == 9


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(1e-3, 10)), min_size=1, max_size=1500),
    st.floats(-100, 100),
    st.booleans(),
)
def test_bins_lose_no_sample(buckets: list[tuple[int, float]], left: float, open_end: bool) -> None:
    """However many buckets there are, at most 512 are left, with the same total and ascending finite edges."""
    limits = [left + width for width in itertools.accumulate(width for _, width in buckets)]
    top = limits[-1]
    if open_end:
        limits[-1] = 1.7976931348623157e308
    counts = tuple(float(count) for count, _ in buckets)
    event = ev.Histogram(
        writer="", tag="h", step=0, wall_time=0.0, record=ev.RecordId("f", 1), min=left, max=top, num=sum(counts),
        sum=0.0, sum_squares=0.0, limits=tuple(limits), counts=counts,
    )  # fmt: skip
    binned, edges = bins(event)
    assert 1 <= len(binned) <= 512
    assert len(edges) == len(binned) + 1
    assert binned.sum() == sum(counts)
    assert (np.diff(edges) >= 0).all()
    assert edges[0] >= left
    if sum(counts):
        assert edges[-1] <= top


def test_hparams_that_change(directory: Path) -> None:
    """A parameter that changes has its last value in the config, and the earlier ones beside it."""
    m = Maker()
    domain = msgspec.structs.replace(m.hparams({"lr": 0.1, "-x": 1, "x": 2}, {}), domain={"lr": [0.1, 0.2]})

    def work(backend: WandbBackend) -> None:
        backend.write([domain, m.hparams({"lr": 0.2, "_wandb": "mine", "tracelet/x": 1}, {"m": math.nan})])

    session(work, config={"lr": 0.3})
    reader = WandbReader(directory)
    assert reader.params() == {"lr": 0.2, "-x": 1, "x": 2, "_wandb": "mine", "tracelet/x": 1}
    assert reader.run().about["earlier_values"] == {"lr": [0.3, 0.1]}
    assert reader.run().about["domain"] == {"lr": [0.1, 0.2]}
    assert math.isnan(reader.summary_metrics()["m"])


def test_huge_parameter(directory: Path) -> None:
    """A text beyond the limit is cut with a marker, and whole in a file that the marker names."""
    text = "ü" * 200_000
    session(lambda backend: backend.write([Maker().hparams({"prompt": text}, {})]))
    reader = WandbReader(directory)
    cut = reader.params()["prompt"]
    assert len(cut) < 101_000
    path = cut.rsplit("whole text in ", 1)[1].rstrip(")")
    assert (reader.run().folders[0] / path).read_text() == text


def test_trials(directory: Path) -> None:
    """Each trial of a sweep is a run in the group of the session's run, parts that come later included."""
    m = Maker()

    def work(backend: WandbBackend) -> None:
        for i in range(11):  # more than are kept open at a time
            backend.write([m.hparams({"lr": i / 10, "i": i}, {}, trial=f"t/{i}")])
        for i in range(11):
            backend.write([m.hparams({}, {"acc": i / 2}, step=7, trial=f"t/{i}")])
        backend.write([m.scalar("s", 1.0)])

    session(work, status="failed")
    reader = WandbReader(directory)
    (parent,) = reader.run_ids()
    trials = sorted(reader.trials(), key=lambda trial: trial.params["i"])
    assert [trial.params for trial in trials] == [{"lr": i / 10, "i": i} for i in range(11)]
    assert [trial.metrics for trial in trials] == [{"acc": i / 2} for i in range(11)]
    children = [run for run_id, run in reader.runs().items() if run_id != parent]
    assert {(run.record.run_group, run.record.job_type, run.exit_code) for run in children} == {(parent, "trial", 0)}
    assert {run.record.display_name for run in children} == {f"t/{i}" for i in range(11)}
    assert reader.status() == "failed"
    assert reader.params() == {}


@pytest.mark.parametrize("status", ["finished", "failed", "killed"])
def test_status(directory: Path, status: str) -> None:
    """The way a run ended is in W&B's exit code and in the config."""
    session(lambda backend: None, status=status)
    reader = WandbReader(directory)
    assert reader.status() == status
    assert reader.run().about["status"] == status


def test_run_id_resumes(directory: Path) -> None:
    """Sessions with one run id are one run; so is a session that resumes by W&B's id, and illegal ids are mapped."""
    m = Maker()
    ids = []

    def log(backend: WandbBackend) -> None:
        ids.append(backend.handle.id)
        backend.write([m.scalar("s", 1.0, len(ids))])

    session(log, run_id="my run/1", exp_name="x" * 300, project="a/b:c")
    session(log, run_id="my run/1")
    session(log, resume=ids[0])
    reader = WandbReader(directory)
    assert reader.run_ids() == [ids[0]]
    assert [point.step for point in reader.scalars("", "s")] == [1, 2, 3]
    about = reader.about()
    assert about["run_id"] == "my run/1"


def test_what_comes_again_is_known_behind_a_session_that_wrote_nothing(directory: Path) -> None:
    """Of two killed sessions the second may have had no time to write: what the first one has comes again all the same."""
    ids = []
    event = Maker().scalar("s", 1.0, 1)

    def log(backend: WandbBackend) -> None:
        ids.append(backend.handle.id)
        backend.write([event])

    session(log)
    session(lambda backend: None, resume=ids[0])
    session(log, resume=ids[0])
    assert [point.step for point in WandbReader(directory).scalars("", "s")] == [1]


def test_illegal_names_are_mapped(directory: Path) -> None:
    """A project, name or tag that W&B refuses is mapped, and kept as it was given."""
    tags = {"t" * 100: "", "k": "v" * 100, "\n": "x"}
    names = {"project": "a/b:c" * 50, "exp_name": "n" * 300, "group": "g"}
    session(lambda backend: None, tags=tags, options={"job_type": "j"}, **names)
    reader = WandbReader(directory)
    about = reader.about()
    assert about["project"] == "a/b:c" * 50
    assert about["exp_name"] == "n" * 300
    assert about["tags"] == tags
    record = reader.run().record
    assert len(record.project) <= 128
    assert all(1 <= len(tag) <= 64 for tag in record.tags)
    assert (record.run_group, record.job_type) == ("g", "j")


def test_environment_and_options(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an option W&B's own variables count; options win; options come as text, too."""
    monkeypatch.setenv("WANDB_PROJECT", "from-env")
    monkeypatch.setenv("WANDB_RUN_GROUP", "env-group")
    monkeypatch.setenv("WANDB_RUN_ID", "env-id")
    session(lambda backend: None, project=None, exp_name=None)
    reader = WandbReader(directory)
    record = reader.run().record
    assert (record.project, record.run_group, record.run_id) == ("from-env", "env-group", "env-id")
    other = tmp_path / "other"
    other.mkdir()
    options = {"dir": str(other), "entity": "team", "settings": '{"run_notes": "by settings"}'}
    session(lambda backend: None, project="mine", options=options)
    record = WandbReader(other).run().record
    assert (record.project, record.entity, record.notes) == ("mine", "team", "by settings")


def test_offline_without_the_variable(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`offline` alone keeps W&B off the network: no key is needed, the run is a local one."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    session(lambda backend: backend.write([Maker().scalar("s", 1.0)]), offline=True)
    assert WandbReader(directory).scalars("", "s")[0].value == 1.0
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_disabled(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has switched W&B off gets no run, no file and no error."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    events = Maker().one_of_each()
    backend = session(lambda backend: (backend.write(events), backend.flush()))
    assert backend.written == len(events)
    assert not list(directory.glob("wandb/*run*"))


@pytest.mark.parametrize("source", ["variable", "netrc", "settings", "option", "offline", "mode"])
def test_check_finds_credentials(
    source: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key in any place where W&B looks, or no need for one, passes the check; else it names the remedy."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(errors.BackendUnavailableError, match="wandb login"):
        WandbBackend.check(offline=False, options={})
    options: dict[str, Any] = {}
    if source == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    elif source == "netrc":
        (tmp_path / "netrc").write_text("machine wandb.example.com login user password secret\n")
        options["base_url"] = "https://wandb.example.com/"
    elif source == "settings":
        (directory / "settings").write_text("[default]\napi_key = secret\n")
    elif source == "option":
        options["settings"] = {"api_key": "secret"}
    elif source == "mode":
        (directory / "settings").write_text("[default]\nmode = offline\n")
    WandbBackend.check(offline=source == "offline", options=options)


def test_open_never_prompts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, opening an online run fails at once and for good, instead of asking on the terminal."""
    monkeypatch.delenv("WANDB_MODE")
    backend = WandbBackend()
    with pytest.raises(errors.BackendUnavailableError) as caught:
        backend.open(run_info())
    assert not backend.is_transient(caught.value)


def test_options_are_checked() -> None:
    """An unknown option, mode or malformed settings are refused before anything is opened."""
    for options in ({"projekt": "x"}, {"mode": "ofline"}, {"settings": "{"}, {"settings": "[1]"}):
        with pytest.raises(errors.ConfigurationError):
            WandbBackend(options)


PROLOGUE = """
import sys, time, threading, os, signal
from pathlib import Path
from tests.backends.wandb.reader import WandbReader
from tests.sample_events import WALL, Maker, run_info
from tracelet_shim.backends.wandb.backend import WandbBackend
directory = Path(sys.argv[1])
os.environ.update(WandbReader.environment(directory))
m = Maker()
"""


def program(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own. (What it says goes to files: W&B's service would hold pipes open, and up to 0.17 it
    ends when the program is gone, which it is not before somebody has waited for it.)"""
    root = Path(__file__).parents[3]
    directory.mkdir(parents=True, exist_ok=True)
    said, complained = directory / "program.out", directory / "program.err"
    with open(said, "w") as out, open(complained, "w") as err:
        done = subprocess.run(
            [sys.executable, "-c", PROLOGUE + text, str(directory)], stdout=out, stderr=err, text=True, timeout=100, cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)}, check=False,
        )  # fmt: skip
    return subprocess.CompletedProcess(done.args, done.returncode, said.read_text(), complained.read_text())


def test_kill_leaves_the_data(directory: Path) -> None:
    """After a flush, a SIGKILL takes nothing; the run has no exit record, and a later session continues it."""
    done = program(
        directory,
        """
backend = WandbBackend()
backend.open(run_info())
backend.write([*(m.scalar("s", float(i), i, WALL + i) for i in range(500)), m.image("i", 3)])
backend.flush()
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    time.sleep(0.5)
    reader = WandbReader(directory)
    assert reader.status() == "running"
    assert len(reader.scalars("", "s")) == 500
    assert len(reader.images("", "i")) == 1


def test_kill_in_the_middle_of_a_batch(directory: Path) -> None:
    """What a killed process had of a batch is not there twice after the whole batch has come again; points that are equal
    by themselves stay."""
    opened = """
import math
backend = WandbBackend()
print(backend.open(run_info(resume=RESUME)).run_id, flush=True)
values = [math.nan, math.inf, 1e300, *map(float, range(4000))]
events = [m.scalar("twice", 0.5, 1, WALL), m.scalar("twice", 0.5, 1, WALL)]
events += [m.scalar("s", value, step, WALL + step) for step, value in enumerate(values)]
events += [m.hparams({"lr": 0.1}, {"acc": 0.5}), m.histogram("h", 1), m.image("i", 1)]
"""
    killed = "backend.write(events[:1505] + events[-3:])\nbackend.flush()\nos.kill(os.getpid(), signal.SIGKILL)"
    done = program(directory, "RESUME = None" + opened + killed)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = f"RESUME = {done.stdout.strip()!r}" + opened
    done = program(directory, resumed + "backend.write(events)\nbackend.close('finished')")
    assert done.returncode == 0, done.stderr
    reader = WandbReader(directory)
    assert [point.step for point in reader.scalars("", "s")] == list(range(4003))
    assert [point.value for point in reader.scalars("", "twice")] == [0.5, 0.5]
    assert len(reader.histograms("", "h")) == len(reader.images("", "i")) == len(reader.scalars("", "acc")) == 1


def test_the_service_may_die(directory: Path) -> None:
    """When W&B's service process dies, the write is retried into a new one, which continues the run."""
    done = program(
        directory,
        """
backend = WandbBackend()
backend.open(run_info())
backend.write([m.scalar("s", 0.0, 0)])
backend.flush()
from tracelet_shim.backends.wandb.library import service_process
service = service_process(backend._opener._service)
service.kill()
service.wait()
events = [m.scalar("s", 1.0, 1), m.image("i", 1)]
try:
    backend.write(events)
except Exception as error:
    assert backend.is_transient(error), error
    backend.write(events[backend.written:])
else:
    raise SystemExit("the loss went unnoticed")
backend.close("finished")
""",
    )
    assert done.returncode == 0, done.stderr
    reader = WandbReader(directory)
    assert [point.step for point in reader.scalars("", "s")] == [0, 1]
    assert len(reader.images("", "i")) == 1
    assert reader.status() == "finished"


@pytest.mark.skipif(not since("0.21"), reason="rows are logged one by one before 0.21")
@pytest.mark.parametrize("at", [0, 4, 9])
def test_rows_that_are_not_taken(directory: Path, at: int) -> None:
    """When the service is lost while a batch is handed over, none of it counts as written, and all is there once later."""
    done = program(
        directory,
        f"at = {at}"
        """
backend = WandbBackend()
backend.open(run_info())
client = backend._run.fast._client
publish, writer, handed = client.publish, client._writer, []
async def failing(request):
    if len(handed) == at:
        time.sleep(0.5)  # W&B's service has stored what it has got
        raise ConnectionResetError
    handed.append(request)
    await publish(request)
client.publish = failing
events = [m.scalar(f"a{i % 3}", float(i), i // 3, WALL + i // 3) for i in range(30)]
try:
    backend.write(events)
except ConnectionResetError:
    assert (backend.written, client._writer) == (0, writer)
    backend.write(events)
else:
    raise SystemExit("the loss went unnoticed")
backend.close("finished")
""",
    )
    assert done.returncode == 0, done.stderr
    reader = WandbReader(directory)
    assert [[p.value for p in reader.scalars("", f"a{i}")] for i in range(3)] == [
        [float(v) for v in range(i, 30, 3)] for i in range(3)
    ]


@pytest.mark.parametrize(
    ("text", "transient"),
    [("HTTP 408", True), ("status 425", True), ("429 Too Many", True), ("503 x", True), ("403 no", False), ("404 x", False)],
)
def test_answers_pass_as_they_do_for_other_trackers(text: str, transient: bool) -> None:
    """Whether an answer that W&B's SDK tells of may be another one later is read from the table that all trackers share."""
    from wandb.errors import CommError

    assert WandbBackend().is_transient(CommError(text)) is transient


def test_a_dead_server_can_be_retried(directory: Path) -> None:
    """A server that does not answer is a passing problem, and a second attempt with the same run id is not refused."""
    done = program(
        directory,
        f"SAYS = {'refused' if since('0.24') else 'timed out'!r}"
        """
os.environ.update(WANDB_MODE="online", WANDB_API_KEY="k" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
backend = WandbBackend({"settings": {"init_timeout": 1.0}})
for attempt in range(2):
    try:
        backend.open(run_info(run_id="same"))
    except Exception as error:
        assert backend.is_transient(error), repr(error)
        assert SAYS in str(error), repr(error)
        assert "k" * 40 not in str(error)
""",
    )
    assert done.returncode == 0, done.stderr


def test_it_leaves_the_users_process_alone(directory: Path) -> None:
    """In the training process nothing of Python is replaced, standard output stays clean, and the user's own runs,
    before and after, are his."""
    done = program(
        directory,
        f"REINIT = {'finish_previous' if since('0.19.10') else True!r}"
        """
hooks = (sys.excepthook, sys.exit, sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), list(sys.argv))
backend = WandbBackend()
info = run_info(exp_name="ours")
import msgspec
info = msgspec.structs.replace(info, program=msgspec.structs.replace(info.program, pid=os.getpid()))
backend.open(info)
assert hooks == (sys.excepthook, sys.exit, sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), list(sys.argv))
import wandb
assert wandb.run is None and WandbBackend.borrowed() is None
os.environ["WANDB_PROJECT"] = "set-later"
mine = wandb.init(settings={"silent": True, "console": "off"})
assert mine.id != backend.handle.id and wandb.run is mine and mine.project == "set-later", mine.project
assert WandbBackend.borrowed() == mine.id
mine.log({"x": 1}, step=5)
backend.write([m.scalar("s", 1.0, 1), m.hparams({"lr": 1}, {"acc": 2.0}, trial="t")])
assert wandb.run is mine
wandb.finish()
backend.write([m.scalar("s", 2.0, 2)])
again = wandb.init(reinit=REINIT, settings={"silent": True, "console": "off"})
backend.write([m.scalar("s", 3.0, 3)])
again.finish()
backend.close("finished")
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    reader = WandbReader(directory)
    ours = next(run_id for run_id, run in reader.runs().items() if run.record.display_name == "ours")
    reader.run_id = ours
    assert [point.step for point in reader.scalars("", "s")] == [1, 2, 3]
    assert len(reader.trials()) == 1
    assert reader.run().about["status"] == "finished"


def test_join(directory: Path) -> None:
    """A run that the user has active is joined: our rows are among his, and it stays open after our close."""
    done = program(
        directory,
        """
import wandb
mine = wandb.init(project="user", settings={"silent": True, "console": "off"})
mine.log({"own": 1})
backend = WandbBackend()
opened = backend.open(run_info(resume=WandbBackend.borrowed(), config={"c": 1}))
assert opened.run_id == mine.id and backend.handle is mine
backend.write([m.scalar("s", 1.0, 100), m.image("i", 5), m.hparams({"lr": 1}, {"acc": 2.0}, trial="t")])
mine.log({"own": 2})
backend.flush()
backend.close("failed")
assert wandb.run is mine
mine.log({"own": 3})
mine.finish()
""",
    )
    assert done.returncode == 0, done.stderr
    reader = WandbReader(directory)
    assert reader.scalars("", "s") == [(100, 1.0, WALL)]
    assert len(reader.images("", "i")) == 1
    own = [row for row, _ in reader.run().rows if "own" in row]
    assert [row["own"] for row in own] == [1, 2, 3]
    assert not any("global_step" in row for row in own)
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in reader.run().metrics}
    assert (axes["s"], "*" in axes) == ("global_step", False)
    assert (reader.about()["project"], reader.status(), reader.params()) == ("user", "finished", {"c": 1})
    assert len(reader.trials()) == 1


def test_sixteen_bit_image(directory: Path) -> None:
    """A 16-bit grey image keeps its depth, since its file is not encoded anew."""
    pixels = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)
    event = msgspec.structs.replace(Maker().image("deep", 1), data=png(pixels), width=10, height=6, channels=1)
    session(lambda backend: backend.write([event]))
    assert np.array_equal(WandbReader(directory).images("", "deep")[0][1], pixels)


def test_what_ends_a_run_is_found_in_older_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.19 has no `wandb.Run`: what the user ends there waits for what was logged, as elsewhere."""
    import wandb

    monkeypatch.delattr(wandb, "Run")
    found = [(ending.owner.__name__, ending.function) for ending in WandbBackend.ends()]
    assert found == [("Run", "_finish"), ("wandb", "teardown")]
