"""The ClearML backend: what its offline sessions hold, and what a server gets."""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.backends.clearml.reader import ClearMLReader
from tests.conftest import RunPython
from tests.sample_events import WALL, Maker, gif_frames, png, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Program
from tracelet_shim.backends.clearml.backend import ClearMLBackend
from tracelet_shim.backends.clearml.places import Steps
from tracelet_shim.backends.clearml.session import UploadError
from tracelet_shim.backends.registry import validate

HOSTILE = [
    "", "/", "//", "a/", "/abs", "../../x", "..", "a\0b", "a\nb", " a", "a ", "x" * 5000, "x" * 4999 + "y",
    "ü/" * 400, "漢" * 300, "a", "a/a", "a/b", "a/b/c", "a_b/c", "a/b_c", "Case", "case", "acc@1", "acc_x40_1",
    "_x_", "·", " · train", "loss · train", "loss ·2", "loss · nan", "loss/nan", "Summary", "Summary/x",
    ":monitor:gpu", "$x.y", "%s{}", "\ud800", "_h0123456789abcdef",
]  # fmt: skip


Each = tuple[list[ev.Event], ClearMLReader]


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ClearMLReader.environment(tmp_path / "store").items():
        monkeypatch.setenv(name, value)


def in_thread(work: Callable[[], None]) -> None:
    """Run `work` as the relay does, not in the main thread."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def write(
    *batches: list[ev.Event], status: str = "finished", options: dict[str, Any] | None = None, **run: Any
) -> str:
    """Write one session; return the run's id."""
    ids: list[str] = []

    def session() -> None:
        backend = ClearMLBackend(options)
        ids.append(backend.open(run_info(**run)).run_id)
        for batch in batches:
            backend.write(batch)
            assert backend.written == len(batch)
        backend.close(status)

    in_thread(session)
    return ids[0]


def reader(tmp_path: Path, run_id: str | None = None) -> ClearMLReader:
    return ClearMLReader(tmp_path / "store", run_id)


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory) -> Each:
    """One session with an event of every type, under the writer on the root and under another."""
    directory = tmp_path_factory.mktemp("clearml")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ClearMLReader.environment(directory).items():
            patch.setenv(name, value)
        events = Maker().one_of_each()
        write(events, Maker("val", "/logs/val/events.2").one_of_each(), project="team/project", exp_name="run é 1")
    return events, ClearMLReader(directory)


def of(events: list[ev.Event], kind: type[Any]) -> Any:
    return next(event for event in events if isinstance(event, kind))


def test_is_valid() -> None:
    """The backend is complete, and says for every event type how it arrives."""
    assert validate(ClearMLBackend) is ClearMLBackend


def test_scalar_is_exact(each: Each) -> None:
    """A scalar keeps its float64 value, its step and its wall time, for each writer."""
    for writer in ("", "val"):
        assert each[1].scalars(writer, "s") == [(3, 0.1, WALL)]


def test_title_and_series_are_those_of_clearmls_own_bridge(each: Each) -> None:
    """A tag without a slash is title and series, and the writer stands behind the series."""
    names = {(e["metric"], e["variant"]) for e in each[1].session().events() if e["type"] == "training_stats_scalar"}
    assert {("s", "s"), ("s", "s · val"), ("Summary", "acc")} == names


def test_histogram_is_a_bar_plot_with_the_real_edges(each: Each) -> None:
    """Every bucket arrives with its edges and its count; no sample is lost."""
    sent = of(each[0], ev.Histogram)
    ((step, edges, counts),) = each[1].histograms("", "h")
    full = np.nonzero(sent.counts)[0]
    first, last = full[0], full[-1] + 1
    assert step == 3
    np.testing.assert_array_equal(counts, sent.counts[first:last])
    np.testing.assert_allclose(edges[1:], sent.limits[first:last], rtol=1e-15, atol=1e-15)
    ((_, (bars,)),) = each[1].figures("", "h", "histogram")
    assert bars["meta"]["sum_squares"] == sent.sum_squares


def test_image_is_lossless(each: Each) -> None:
    """The PNG arrives byte for byte as a debug sample at its step."""
    media = [i for i in each[1].items() if i.event["type"] == "training_debug_image"]
    (item,) = [i for i in media if (i.writer, i.tag) == ("", "i")]
    assert (item.step, each[1].file(item.event)) == (3, of(each[0], ev.Image).data)
    assert item.event["key"].endswith(".png")


def test_video_audio_and_text_are_media(each: Each) -> None:
    """GIF, WAV and text arrive unchanged at their step."""
    ((step, frames),) = each[1].videos("", "v")
    np.testing.assert_array_equal(frames, gif_frames(of(each[0], ev.Video).data))
    ((_, rate, samples),) = each[1].audio("", "a")
    assert (step, rate, len(samples)) == (3, 16000, 800)
    assert each[1].texts("", "t") == [(3, of(each[0], ev.Text).text)]


def test_pr_curve_is_a_line_plot(each: Each) -> None:
    """Precision is drawn over recall, with threshold and counts of each point."""
    sent = of(each[0], ev.PRCurve)
    ((step, precision, recall),) = each[1].pr_curves("val", "p")
    assert (step, tuple(precision), tuple(recall)) == (3, sent.precision, sent.recall)
    ((_, (line,)),) = each[1].figures("", "p", "PR curve")
    assert line["customdata"][10] == [1.0, 10.0, 10.0, 10.0, 10.0]


def test_mesh_is_a_3d_plot(each: Each) -> None:
    """Vertices, faces and colours of a mesh arrive exactly."""
    sent = of(each[0], ev.Mesh)
    ((step, vertices, faces, colors),) = each[1].meshes("", "m")
    assert step == 3
    np.testing.assert_array_equal(vertices, sent.vertices.numpy()[0])
    np.testing.assert_array_equal(faces, sent.faces.numpy()[0])
    np.testing.assert_array_equal(colors, sent.colors.numpy()[0])


def test_embedding_is_a_plot_and_files(each: Each) -> None:
    """The plot shows the first principal components; the files hold matrix, metadata and sprite."""
    sent = of(each[0], ev.Embedding)
    ((step, matrix, rows),) = each[1].embeddings("", "e")
    assert step == 3
    np.testing.assert_array_equal(matrix.astype(np.float32), sent.matrix.numpy())
    assert rows == [list(row) for row in sent.metadata]
    assert each[1].sprites("", "e") == [(3, sent.sprite)]
    ((_, (cloud,)),) = each[1].figures("", "e", "embedding")
    values = sent.matrix.numpy().astype(float)
    expected = np.linalg.svd(values - values.mean(0), full_matrices=False)
    shown = np.stack([cloud[axis] for axis in "xyz"], axis=1)
    np.testing.assert_allclose(np.abs(shown), np.abs(expected.U[:, :3] * expected.S[:3]), atol=1e-9)
    assert cloud["text"][1] == "p1, 1"


def test_tensor_graph_and_blob_are_files(each: Each) -> None:
    """A tensor is a file at its step; graph and blob are artifacts of the task."""
    ((step, tensor),) = each[1].tensors("", "x")
    assert step == 3
    np.testing.assert_array_equal(tensor, of(each[0], ev.Tensor).value.numpy())
    assert each[1].graphs() == [{"input", "Net/Linear[fc]/weight", "output"}]
    artifacts = each[1].artifacts()
    assert of(each[0], ev.Graph).graph_def in artifacts.values()
    assert [data for name, data in artifacts.items() if name.startswith("other/other/")] == [b"\x00\x01blob"]


def test_custom_scalars_are_a_configuration_object(each: Each) -> None:
    """The layout arrives as JSON, for each writer."""
    layout = json.loads(json.dumps(of(each[0], ev.CustomScalars).layout))
    assert each[1].custom_scalars() == each[1].custom_scalars("val") == [layout]


def test_hparams_are_parameters_and_single_values(each: Each) -> None:
    """Parameters keep their types, metrics are summary values."""
    assert each[1].params() == {"lr": 0.1, "bs": 32, "opt": "adam", "amp": True}
    assert each[1].summary_metrics() == {"acc": 0.75}


def test_zip_is_complete(each: Each) -> None:
    """Closing leaves the zip file that `Task.import_offline_session` takes, with all that the folder holds."""
    assert each[1].zip_names() == each[1].session().names()
    assert each[1].status() == "finished"


def test_files_lie_where_the_import_looks_for_them(each: Each) -> None:
    """Keys of media name the task's id as a folder, which the import replaces, and are plain ASCII."""
    session = each[1].session()
    keys = [event["key"] for event in session.events() if event.get("key")]
    assert keys
    for key in keys:
        assert f".{session.id}/metrics/" in key
        assert key.isascii()
        assert not set(key) & set(" %#?")


def test_numbers_of_all_kinds(tmp_path: Path) -> None:
    """Any float64, any step in any order, negative and up to 2**62, and NaN and infinities arrive as what they are."""
    make = Maker("train")
    values = [0.1, 1e300, 5e-324, -0.0, 2.0**53 + 2, float("nan"), float("inf"), float("-inf")]
    steps = [5, -7, 2**62, 0, 1, 2, 3, 4]
    write([make.scalar("loss", v, s, wall=1000.5 + i) for i, (v, s) in enumerate(zip(values, steps, strict=True))])
    points = reader(tmp_path).scalars("train", "loss")
    assert [p.step for p in points] == steps
    assert [repr(p.value) for p in points] == [repr(v) for v in values]
    assert [p.wall_time for p in points] == [1000.5 + i for i in range(8)]


def test_a_value_that_is_not_finite_is_no_number_in_the_log(tmp_path: Path) -> None:
    """The session is strict JSON without false zeros: the server refuses a whole batch for one NaN."""
    write([Maker().scalar("loss", float("nan"), 7)])
    (event,) = reader(tmp_path).session().events()
    assert (event["metric"], event["variant"], event["iter"], event["value"]) == ("loss · nan", "loss", 7, 1.0)


def test_invalid_wall_time_is_now(tmp_path: Path) -> None:
    """A wall time that no calendar has does not stop a scalar."""
    make = Maker()
    write([make.scalar("a", 1.0, i, wall=w) for i, w in enumerate((float("nan"), -5.0, float("inf"), 1e300))])
    assert [p.wall_time > WALL for p in reader(tmp_path).scalars("", "a")] == [True] * 4


def test_repeated_steps_do_not_overwrite(tmp_path: Path) -> None:
    """The server keeps one event a title, series and iteration: no two events share these, and none is lost."""
    make = Maker()
    scalars = [make.scalar("loss", float(i), 0) for i in range(5)]
    again = [make.scalar("curve", float(i), step) for i, step in enumerate([0, 1, 2, 3, 2, 3, 4])]
    images = [make.image("i", 4, np.full((2, 2), i, np.uint8)) for i in range(4)]
    plots = [make.histogram("h", 1, buckets=10) for _ in range(3)]
    write([*scalars, *again, *images, *plots])
    found = reader(tmp_path)
    assert [(p.step, p.value) for p in found.scalars("", "loss")] == [(0, float(i)) for i in range(5)]
    assert [(p.step, p.value) for p in found.scalars("", "curve")] == [(e.step, e.value) for e in again]
    assert [(step, int(pixels[0, 0])) for step, pixels in found.images("", "i")] == [(4, i) for i in range(4)]
    assert len(found.histograms("", "h")) == 3
    ids = [(e["type"], e["iter"], e["metric"], e["variant"], e.get("key")) for e in found.session().events()]
    assert len(ids) == len(set(ids)) == 19
    series = {e["variant"] for e in found.session().events() if e["metric"] == "curve"}
    assert series == {"curve", "curve ·2"}


def test_step_memory() -> None:
    """Which steps a series has had is known exactly, for steady, uneven and descending steps."""
    rng = np.random.default_rng(0)
    uneven = rng.integers(-40, 40, 300).tolist()
    for steps in (range(0, 500, 5), [*range(100), *range(50, 150)], range(50, 0, -1), uneven):
        known, truth = Steps(), set()
        for step in steps:
            assert known.add(step) == (step not in truth)
            truth.add(step)


def test_a_retried_write_takes_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed and is written again does not count as a repeated step."""

    def session() -> None:
        backend = ClearMLBackend()
        backend.open(run_info())
        make = Maker()
        batch: list[ev.Event] = [make.scalar("a", 1.0, 1), make.image("i", 1)]
        with monkeypatch.context() as patch:
            patch.setattr(backend._run, "deliver", lambda adapters: (_ for _ in ()).throw(ConnectionError("gone")))
            with pytest.raises(ConnectionError):
                backend.write(batch)
        backend.write(batch)
        backend.close("finished")

    in_thread(session)
    assert {(e["metric"], e["variant"]) for e in reader(tmp_path).session().events()} == {("a", "a"), ("i", "i")}


def test_hostile_tags_stay_apart(tmp_path: Path) -> None:
    """Tags of any kind arrive, each as a scalar, a text, an image and a histogram, and none takes another's place."""
    make = Maker()
    tags = list(dict.fromkeys(HOSTILE))
    batch: list[ev.Event] = []
    for i, tag in enumerate(tags):
        pixels = np.full((2, 2), i, np.uint8)
        batch += [make.scalar(tag, float(i)), make.text(tag, str(i)), make.image(tag, 0, pixels)]
        batch.append(make.histogram(tag, buckets=10))
    write(batch)
    found = reader(tmp_path)
    for i, tag in enumerate(tags):
        assert [p.value for p in found.scalars("", tag)] == [i], tag
        assert found.texts("", tag) == [(0, str(i))], tag
        assert [int(pixels[0, 0]) for _, pixels in found.images("", tag)] == [i], tag
        assert len(found.histograms("", tag)) == 1, tag
    assert not [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "store")]


def test_writers_and_series_never_mix(tmp_path: Path) -> None:
    """Writer, tag and key of `add_scalars` together make a series; the same path made otherwise is another one."""
    triples = [
        ("", "a/b/c", None), ("a", "b/c", None), ("a/b", "c", None), ("", "a/b", "c"), ("", "a", "b/c"),
        ("a", "b", "c"), ("train", "loss", None), ("", "train/loss", None), ("", "loss/train", None),
        ("", "loss", "train"),
        ("2", "loss", None), ("step 1", "loss", None), ("", "a/", "c"), ("·", "a", None), ("x" * 300, "a", None),
    ]  # fmt: skip
    batch: list[ev.Event] = []
    for i, (writer, tag, series) in enumerate(triples):
        batch.append(Maker(writer, f"/logs/{i}").scalar(tag, float(i), 1, series=series))
    write(batch)
    found = reader(tmp_path)
    for i, (writer, tag, series) in enumerate(triples):
        assert [p.value for p in found.scalars(writer, tag, series)] == [i], (writer, tag, series)


def test_run_is_described(tmp_path: Path) -> None:
    """Names, tags, notes, configuration, run id and group arrive, names that are too short mapped."""
    write(
        project="p", exp_name="", run_id="mine", tags={"label": "", "key": "value", "a b": "c · d"}, notes="two\nlines",
        config={"lr": 0.1, "model": {"depth": 3, "sizes": [1, 2]}, "none": None}, group="job-1",
    )  # fmt: skip
    found = reader(tmp_path)
    assert found.about() == {
        "project": "p", "exp_name": "", "tags": {"label": "", "key": "value", "a b": "c · d"}, "notes": "two\nlines",
        "run_id": "mine",
    }  # fmt: skip
    assert found.session().task["project_name"] == "p_x_"
    assert "tracelet.group:job-1" in found.session().task["tags"]
    assert found.params() == {"lr": 0.1, "model/depth": 3, "model/sizes": "[1, 2]", "none": ""}


@pytest.mark.parametrize("status", ["finished", "failed", "killed"])
def test_status(tmp_path: Path, status: str) -> None:
    """How the run ended is kept, though an offline session has no status."""
    write(status=status)
    assert reader(tmp_path).status() == status


def test_changed_parameters_keep_both_values(tmp_path: Path) -> None:
    """A parameter that changes has its latest value, and the former ones beside it."""
    make = Maker()
    first = make.hparams({"lr": 0.1, "a/b": 1, "": "e"}, {"acc": 0.1})
    run = write([first], [make.hparams({"lr": 0.2}, {"acc": float("nan")})])
    write([make.hparams({"lr": 0.3, "a/b": 1}, {})], resume=run)
    found = reader(tmp_path)
    assert found.params() == {"lr": 0.3, "a/b": 1, "": "e"}
    assert sorted(found.session().section("hparams (earlier)").items()) == [("lr ·1", "0.1"), ("lr ·2", "0.2")]
    assert str(found.summary_metrics()["acc"]) == "nan"


def test_a_huge_parameter_is_cut_and_attached(tmp_path: Path) -> None:
    """A text beyond the limit ends in a marker that names the artifact with all of it."""
    text = "é" * 20_000
    write([Maker().hparams({"prompt": text}, {})])
    value = reader(tmp_path).params()["prompt"]
    path = value.rpartition(" ")[2].rstrip(")")
    assert len(value) < 9_000
    assert reader(tmp_path).artifacts()[path].decode() == text


def test_trials_are_child_tasks(tmp_path: Path) -> None:
    """Each trial is a task of its own below the run, put together from its parts, and found again after a restart."""
    make = Maker()
    first: list[ev.Event] = [
        make.hparams({"lr": 0.1}, {"acc": 0.1}, trial="t/1"), make.hparams({"lr": 0.2}, {}, trial="t/2"),
    ]  # fmt: skip
    run = write(first, status="killed")
    later = make.hparams({"lr": 0.3}, {"acc": 1.0}, trial="t/3")
    write([make.hparams({}, {"acc": 0.5}, trial="t/2")], [later], resume=run)
    found = reader(tmp_path)
    assert found.run_ids() == [run]
    trials = sorted(found.trials(), key=lambda t: t.params["lr"])
    assert trials == [({"lr": 0.1}, {"acc": 0.1}), ({"lr": 0.2}, {"acc": 0.5}), ({"lr": 0.3}, {"acc": 1.0})]
    assert found.params() == {}
    assert {json.loads(p.read_text())["project_name"] for p in tmp_path.rglob("task.json")} == {"p_x_"}
    assert len(list((tmp_path / "store" / "offline").glob("*.zip"))) == 4


def test_a_trial_that_had_to_be_closed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many trials there are, few tasks are open at a time, and later parts of a trial find its own."""
    monkeypatch.setattr("tracelet_shim.backends.clearml.backend._OPEN_TRIALS", 1)
    make = Maker()
    first = [make.hparams({"lr": 0.1 * i}, {}, trial=f"t{i}") for i in range(1, 4)]
    write([*first, *(make.hparams({}, {"acc": float(i)}, trial=f"t{i}") for i in range(1, 4))])
    trials = sorted(reader(tmp_path).trials(), key=lambda t: t.params["lr"])
    assert [metrics for _, metrics in trials] == [{"acc": 1.0}, {"acc": 2.0}, {"acc": 3.0}]
    assert len(list((tmp_path / "store" / "offline").glob("*.zip"))) == 4


def test_resume_continues_a_session_that_was_killed_while_writing(tmp_path: Path) -> None:
    """The run of an earlier session goes on, and half a line that a killed process left spoils nothing."""
    make = Maker()
    run = write([make.scalar("a", 1.0, 1), make.image("i", 1)])
    log = tmp_path / "store" / "offline" / run / "metrics.jsonl"
    with log.open("a") as stream:
        stream.write('[{"timestamp": 17')
    assert write([make.scalar("a", 2.0, 2), make.image("i", 2)], resume=run) == run
    found = reader(tmp_path)
    assert [p.value for p in found.scalars("", "a")] == [1.0, 2.0]
    assert [step for step, _ in found.images("", "i")] == [1, 2]
    assert reader(tmp_path).zip_names() == found.session().names()


def test_a_batch_that_was_written_already_is_not_there_twice(tmp_path: Path) -> None:
    """A batch comes again if its process was killed behind the write: what the log has of it is not written again."""
    make = Maker()
    batch = [make.scalar("a", 0.5, step, WALL + step) for step in range(600)] + [make.image("i", 1), make.histogram("h", 1)]
    run = write([make.scalar("a", 0.5, 1000)], batch[:400], [batch[600]])
    assert write(batch, [make.scalar("a", 0.5, 2000)], resume=run) == run
    found = reader(tmp_path)
    assert [p.step for p in found.scalars("", "a")] == [1000, *range(600), 2000]
    assert len(found.images("", "i")) == len(found.histograms("", "h")) == 1


def test_what_a_run_has_is_not_overwritten_when_it_is_continued(tmp_path: Path) -> None:
    """Steps that a run has had already and that a later session of it logs again, with other values, are kept beside the first
    ones: the first time and the second, of every kind of data, in the batch that could come again and in later ones."""
    make = Maker()

    def session(number: int) -> None:
        def at(event: ev.Event) -> ev.Event:
            return msgspec.structs.replace(event, wall_time=WALL + number)

        late = [make.scalar("curve", 10.0 * number + step, step, WALL + 100 * number + step) for step in (0, 6, 7)]
        batch: list[ev.Event] = [
            *(make.scalar("curve", 10.0 * number + step, step, WALL + 100 * number + step) for step in range(1, 6)),
            at(make.histogram("h", 1, buckets=10)), at(make.image("i", 4, np.full((2, 2), number, np.uint8))),
            at(ev.Tensor(**make._base("x", 2), value=ev.Array.of(np.full(2, number)))),
            make.scalar("bad", float("nan"), 3, WALL + number),
        ]  # fmt: skip
        write(batch, late, run_id="mine", session=f"{number}" * 16)

    for number in range(4):
        session(number)
    found = reader(tmp_path)
    expected = [(step, 10.0 * n + step, WALL + 100 * n + step) for n in range(4) for step in (*range(1, 6), 0, 6, 7)]
    assert found.scalars("", "curve") == expected
    assert len(found.scalars("", "bad")) == 4
    assert len(found.histograms("", "h")) == 4
    assert [int(pixels[0, 0]) for _, pixels in found.images("", "i")] == [0, 1, 2, 3]
    assert [value.tolist() for _, value in found.tensors("", "x")] == [[n, n] for n in range(4)]
    places = [(e["type"], e["iter"], e["metric"], e["variant"]) for e in found.session().events()]
    assert len(places) == len(set(places))


def test_points_of_two_files_at_one_position(tmp_path: Path) -> None:
    """What repeats a step for the third time is told from others by its position in its event file: in two files of a writer, and
    in two sessions, that may be the same."""
    one, two = Maker("", "/logs/events.1"), Maker("", "/logs/events.2")
    write([make.scalar("a", float(i), 0, WALL + i) for i in range(5) for make in (one, two)], run_id="mine")
    three = Maker("", "/logs/events.3")
    write([three.scalar("a", 9.0, 0, WALL + 9) for _ in range(4)], run_id="mine", session="2" * 16)
    found = reader(tmp_path)
    assert [p.value for p in found.scalars("", "a")] == [*(float(i) for i in range(5) for _ in range(2)), *[9.0] * 4]
    places = [(e["iter"], e["metric"], e["variant"]) for e in found.session().events()]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("written", [1, 9, 14])
def test_a_batch_of_all_kinds_comes_again(tmp_path: Path, written: int) -> None:
    """However much of a batch had been written, each event of it is there once, whatever its kind."""
    batch = Maker().one_of_each()
    whole = write(batch, run_id="whole")
    run = write(batch[:written], run_id="again")
    write(batch, run_id="again")

    def kept(run_id: str) -> list[tuple[str, ...]]:
        return sorted((e["type"], e["metric"], e["variant"], str(e["iter"])) for e in reader(tmp_path, run_id).session().events())

    assert kept(run) == kept(whole)
    assert reader(tmp_path, run).artifacts().keys() == reader(tmp_path, whole).artifacts().keys()


def test_run_id_finds_the_run_again(tmp_path: Path) -> None:
    """Two sessions with one run id are one task, by the chosen id or by ClearML's own; another id is another task."""
    make = Maker()
    first = write([make.scalar("a", 1.0, 1)], run_id="my run")
    assert write([make.scalar("a", 2.0, 2)], run_id="my run") == first
    assert write([make.scalar("a", 3.0, 3)], run_id=first) == first
    assert write(run_id="other") != first
    assert len(reader(tmp_path, first).scalars("", "a")) == 3


def test_resume_of_an_unknown_run_is_an_error() -> None:
    """A session that is not there is named, not made anew."""
    with pytest.raises(errors.BackendError, match="offline-00"):
        write(resume="offline-00")


def test_the_users_program_is_recorded(tmp_path: Path, run_python: RunPython) -> None:
    """Script, working directory, git commit and diff are those of the user's program."""
    repository = tmp_path / "repo"
    (repository / "src").mkdir(parents=True)
    script = repository / "src" / "train.py"
    script.write_text("print(1)\n")
    run_python(
        """
        import subprocess
        for c in ("init -q", "add .", "commit -qm x", "remote add origin https://u:pw@host/team/nets.git"):
            subprocess.run(["git", *c.split()], check=True)
        """,
        cwd=repository,
    )
    script.write_text("print(2)\n")
    program = Program(
        script=str(script), module=None, argv=("src/train.py", "--lr", "0.1 x"), cwd=str(repository),
        executable="/usr/bin/python3.12", pid=1, host="h",
    )  # fmt: skip
    write(program=program, project=None, exp_name=None, options={"store_diff": True})
    task = reader(tmp_path).session().task
    assert (task["project_name"], task["name"]) == ("nets", "train")
    stored = task["script"]
    assert (stored["entry_point"], stored["working_dir"], stored["binary"]) == ("src/train.py", ".", "python3.12")
    assert stored["repository"] == "https://host/team/nets.git"
    assert "print(2)" in stored["diff"]
    assert len(stored["version_num"]) == 40
    assert "\nnumpy==" in stored["requirements"]["pip"]
    assert reader(tmp_path).session().section("properties")["tracelet.command"] == "src/train.py --lr '0.1 x'"


def test_a_module_or_no_script_at_all(tmp_path: Path) -> None:
    """``python -m`` is recorded as such, and a program without a file does no harm."""
    base = {"cwd": str(tmp_path), "executable": "python", "pid": 1, "host": "h"}
    module = Program(script=None, module="pkg.train", argv=("x.py", "-v"), **base)
    one = write(program=module, options={"packages": "false"})
    two = write(program=Program(script=None, module=None, argv=("-c",), **base), session="2" * 16)
    assert reader(tmp_path, one).session().task["script"]["entry_point"] == "-m pkg.train -v"
    assert "requirements" not in reader(tmp_path, one).session().task["script"]
    assert reader(tmp_path, two).session().task["script"]["entry_point"] == "-c"


def test_special_shapes(tmp_path: Path) -> None:
    """Point clouds, batches, unbounded buckets, alpha, empty and large data arrive; as files where no plot can."""
    make = Maker()
    base = make._base("edge", 1)
    limits = (-1e12, 0.0, 1.7976931348623157e308)
    edges = ev.Histogram(
        **base, min=-2.0, max=3.0, num=3, sum=0.0, sum_squares=9.0, limits=limits, counts=(0, 1, 2)
    )  # fmt: skip
    no = float("nan")
    base = make._base("nan", 1)
    nan = ev.Histogram(**base, min=no, max=no, num=0, sum=0, sum_squares=0, limits=(no,), counts=(0,))
    cloud = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    batch = ev.Mesh(**make._base("cloud", 1), vertices=ev.Array.of(cloud), config='{"a": 1}')
    large = ev.Mesh(**make._base("large", 1), vertices=ev.Array.of(np.zeros((1, 400_000, 3), np.float32)))
    rgba = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    one = ev.Embedding(**make._base("one", 1), matrix=ev.Array.of(np.ones((1, 2))))
    none = ev.Embedding(**make._base("none", 1), matrix=ev.Array.of(np.ones((0, 2))))
    write([edges, nan, batch, large, make.image("rgba", 1, rgba), one, none])
    found = reader(tmp_path)
    ((_, bounds, counts),) = found.histograms("", "edge")
    assert (bounds.tolist(), counts.tolist()) == ([-1e12, 0.0, 3.0], [1, 2])
    assert [i.part for i in found.items() if i.tag == "nan"] == ["json"]
    assert [(v.tolist(), f) for _, v, f, _ in found.meshes("", "cloud")] == [(c.tolist(), None) for c in cloud]
    assert [i.part for i in found.items() if i.tag == "large"] == ["ply"]
    np.testing.assert_array_equal(found.images("", "rgba")[0][1], rgba)
    assert found.embeddings("", "one")[0][1].tolist() == [[1.0, 1.0]]
    assert found.figures("", "none", "embedding")[0][1][0]["x"] == []


def test_long_names_of_run_and_project(tmp_path: Path) -> None:
    """Names that are longer than a file system allows do not stop a picture."""
    picture = Maker().image("i", 1, np.zeros((2, 2), np.uint8))
    write([picture], project="漢" * 100 + "/" + "p" * 3000, exp_name="é" * 5000)
    assert len(reader(tmp_path).images("", "i")) == 1
    assert reader(tmp_path).about()["exp_name"] == "é" * 5000


def test_check_names_the_missing_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Online, credentials or a settings file are needed; offline nothing is."""
    ClearMLBackend.check(offline=False, options={})  # CLEARML_OFFLINE_MODE is set
    monkeypatch.delenv("CLEARML_OFFLINE_MODE")
    ClearMLBackend.check(offline=True, options={})
    with pytest.raises(errors.BackendUnavailableError, match="CLEARML_API_ACCESS_KEY"):
        ClearMLBackend.check(offline=False, options={})
    ClearMLBackend.check(offline=False, options={"access_key": "a", "secret_key": "b"})
    ClearMLBackend.check(offline=False, options={"offline": "true"})
    (tmp_path / "my.conf").touch()
    ClearMLBackend.check(offline=False, options={"config_file": str(tmp_path / "my.conf")})
    monkeypatch.setenv("CLEARML_AUTH_TOKEN", "t")
    ClearMLBackend.check(offline=False, options={})


def test_unknown_task_type_is_named() -> None:
    """An option's impossible value is an error that lists the possible ones."""
    with pytest.raises(errors.ConfigurationError, match="training"):
        write(options={"task_type": "cooking"})


def test_options_steer_a_session(tmp_path: Path) -> None:
    """Folder and type of the task are options; the environment is as before when it is over."""
    write(options={"cache_dir": str(tmp_path / "elsewhere"), "task_type": "testing"})
    assert ClearMLReader(tmp_path / "elsewhere").session().task["type"] == "testing"
    assert not (tmp_path / "store").exists()


def test_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that failed half-way is undone, is transient, and can be repeated."""
    from clearml.backend_interface.metrics import Metrics

    real = Metrics._do_write_events

    def half(self: Any, *args: Any) -> None:
        Path(self._offline_log_filename).open("a").write('[{"half')  # noqa: SIM115 - as the SDK would leave it
        raise OSError(28, "No space left on device")

    def session() -> None:
        backend = ClearMLBackend()
        backend.open(run_info())
        make = Maker()
        backend.write([make.scalar("a", 1.0, 1)])
        point = make.scalar("a", 2.0, 2)
        monkeypatch.setattr(Metrics, "_do_write_events", half)
        with pytest.raises(OSError, match="No space") as caught:
            backend.write([point])
        assert backend.is_transient(caught.value)
        monkeypatch.setattr(Metrics, "_do_write_events", real)
        backend.write([point])
        backend.close("finished")

    in_thread(session)
    assert [p.value for p in reader(tmp_path).scalars("", "a")] == [1.0, 2.0]


THREAD_MODE = """
    import builtins, os, signal, sys, threading
    sys.path.insert(0, {root!r})
    from tests.sample_events import Maker, run_info
    from tracelet_shim.backends.clearml.backend import ClearMLBackend

    def state():
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        import atexit
        return [sys.excepthook, sys.stdout.write, sys.stderr.write, os.fork, os._exit, builtins.__import__, handlers,
                dict(os.environ)]

    os.environ.pop("CLEARML_OFFLINE_MODE")
    before = state()
    def session():
        backend = ClearMLBackend()
        backend.open(run_info(offline=True))
        assert state() == before
        backend.write(Maker().one_of_each())
        import subprocess
        command = ["ps", "--ppid", str(os.getpid()), "-o", "comm="]
        children = subprocess.run(command, capture_output=True, text=True).stdout
        assert children.split() == ["ps"], children
        backend.close("finished")
    thread = threading.Thread(target=session)
    thread.start()
    thread.join()
    assert state() == before
    assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
    from clearml.backend_interface.base import InterfaceBase
    assert not InterfaceBase._offline_mode
    assert InterfaceBase._default_session is None
"""


def test_the_training_process_is_left_as_it_was(run_python: RunPython, pytestconfig: pytest.Config) -> None:
    """Hosted in the training process, no handler, stream, environment variable, thread or child process is added."""
    done = run_python(THREAD_MODE.format(root=str(pytestconfig.rootpath)))
    assert done.stdout == ""


BORROW = """
    import sys
    sys.path.insert(0, {root!r})
    from clearml import Task
    from tests.sample_events import Maker, run_info
    from tracelet_shim.backends.clearml.backend import ClearMLBackend

    beside = ClearMLBackend()
    beside.open(run_info(exp_name="ours"))  # the user's Task.init still works beside it
    Task._report_subprocess_enabled = False
    task = Task.init("user", "theirs", reuse_last_task_id=False, auto_connect_frameworks=False)
    task.set_initial_iteration(1000)
    beside.write([Maker().scalar("a", 1.0, 1)])
    beside.close("finished")

    assert ClearMLBackend.borrowed() == task.id
    joined = ClearMLBackend()
    assert joined.open(run_info(resume=task.id, tags={{"x": ""}})).run_id == task.id
    joined.write(Maker().one_of_each())
    joined.close("failed")
    assert Task.current_task() is task
    task.get_logger().report_scalar("mine", "mine", 0.5, 1)
    task.close()
    assert ClearMLBackend.borrowed() is None
    print("id", task.id)
"""


def test_a_borrowed_task_is_joined(run_python: RunPython, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The user's active task gets the events at their own steps, and goes on afterwards; ours is a task beside it."""
    done = run_python(BORROW.format(root=str(pytestconfig.rootpath)))
    run = done.stdout.split("id ")[-1].strip()
    found = reader(tmp_path, run)
    assert found.scalars("", "s") == [(3, 0.1, WALL)]
    assert [p.value for p in found.scalars("", "mine")] == [0.5]
    assert found.session().task["name"] == "theirs"
    assert found.status() == "running"
    (other,) = set(found.run_ids()) - {run}
    assert reader(tmp_path, other).session().task["name"] == "ours"


class Api(http.server.BaseHTTPRequestHandler):
    """As much of a ClearML server as it takes to see what the SDK sends: it keeps tasks, events and files."""

    tasks: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]
    files: list[bytes]
    refuse: dict[str, int]  # endpoint -> HTTP status

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        endpoint = self.path.split("?")[0].rpartition("/")[2]
        if self.headers.get("Content-Type", "").startswith("multipart/"):  # clearml before 2.0 has the folder in the form only
            endpoint = "files"
        if endpoint in self.refuse:
            self._answer({}, self.refuse[endpoint])
        elif endpoint == "files":
            self.files.append(body)
            self._answer({})
        elif endpoint == "events.add_batch":
            sent = [json.loads(line, parse_constant=pytest.fail) for line in body.splitlines()]
            self.events.extend(sent)
            self._answer({"added": len(sent), "errors": 0})
        else:
            self._answer(self._call(endpoint, json.loads(body or b"{}")))

    def do_GET(self) -> None:
        self.do_POST()

    def _call(self, endpoint: str, request: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks.get(request.get("task", ""), {})
        if endpoint == "auth.login":
            parts = ({"alg": "HS256"}, {"exp": time.time() + 9e5, "api_version": "2.30", "server_version": "1.0"})
            coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
            return {"token": ".".join([*coded, "c2ln"])}
        if endpoint == "tasks.create":
            made = f"{len(self.tasks):032x}"
            self.tasks[made] = {**request, "id": made, "status": "created", "execution": {"artifacts": []}}
            return {"id": made}
        if endpoint == "tasks.get_by_id":
            return {"task": task}
        if endpoint == "tasks.get_all":
            wanted = set(request.get("tags") or ())
            return {"tasks": [t for t in self.tasks.values() if wanted <= set(t.get("tags") or ())]}
        if endpoint == "tasks.edit":
            task.update({key: value for key, value in request.items() if key not in {"task", "force"}})
        if endpoint == "tasks.edit_hyper_params":
            for item in request["hyperparams"]:
                task.setdefault("hyperparams", {}).setdefault(item["section"], {})[item["name"]] = item
        if endpoint == "tasks.add_or_update_artifacts":
            task["execution"]["artifacts"] += request["artifacts"]
        if endpoint in {"tasks.started", "tasks.completed", "tasks.failed", "tasks.stopped"}:
            task["status"] = endpoint.removeprefix("tasks.").replace("started", "in_progress")
        projects = {"projects.create": {"id": "p1"}, "projects.get_by_id": {"project": {"id": "p1", "name": "p"}}}
        return projects.get(endpoint, {"updated": 1, "projects": []})

    def _answer(self, data: dict[str, Any], code: int = 200) -> None:
        body = json.dumps({"meta": {"result_code": code, "result_msg": "as told"}, "data": data}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[tuple[type[Api], dict[str, Any]]]:
    """A server on this machine, and the options that lead to it."""
    kept = type("Kept", (Api,), {"tasks": {}, "events": [], "files": [], "refuse": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kept) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{listening.server_address[1]}"
        hosts = {"api_host": host, "web_host": host, "files_host": f"{host}/files"}
        yield kept, {"offline": "false", "access_key": "AK", "secret_key": "hidden", **hosts}
        listening.shutdown()


def test_a_server_gets_everything(server: tuple[type[Api], dict[str, Any]]) -> None:
    """Online, events, files, artifacts, parameters, child tasks and the status reach the server."""
    api, options = server
    make = Maker()
    batch = [*make.one_of_each(), make.hparams({"lr": 1.0}, {"acc": 0.5}, trial="t"), make.scalar("a", float("nan"), 1)]
    write(batch, options=options, run_id="mine", status="failed")
    main, child = api.tasks.values()
    assert [t["status"] for t in (main, child)] == ["failed", "failed"]
    assert child["parent"] == main["id"]
    assert [t["hyperparams"]["hparams"]["lr"]["value"] for t in (main, child)] == ["0.1", "1.0"]
    assert len(main["execution"]["artifacts"]) == 3
    assert (len(api.events), len(api.files)) == (1 + 4 + 4 + 4 + 3, 4 + 4 + 3)
    assert write([make.scalar("a", 1.0, 2)], options=options, run_id="mine") == main["id"]
    assert main["status"] == "completed"
    assert api.events[-1]["task"] == main["id"]


def test_what_a_server_refuses_is_not_lost_in_silence(server: tuple[type[Api], dict[str, Any]]) -> None:
    """A refused event or file is an error, transient if the server is at fault, and can be written again."""
    api, options = server

    def session() -> None:
        backend = ClearMLBackend(options)
        backend.open(run_info())
        make = Maker()
        for event in (make.scalar("a", 1.0, 1), make.histogram("h", 1), make.image("i", 1), make.graph()):
            endpoint = "files" if isinstance(event, (ev.Image, ev.Graph)) else "events.add_batch"
            for code, transient in ((500, True), (400, False)):
                api.refuse[endpoint] = code
                with pytest.raises(errors.BackendError, match=str(code)) as caught:
                    backend.write([event])
                assert backend.is_transient(caught.value) is transient
                assert backend.written == 0
            api.refuse.clear()
            backend.write([event])
        backend.close("killed")

    in_thread(session)
    assert [e["metric"] for e in api.events] == ["a", "h · histogram", "i"]
    assert len(api.files) == 3
    assert next(iter(api.tasks.values()))["status"] == "stopped"


def test_a_server_that_goes_away_is_a_transient_error(server: tuple[type[Api], dict[str, Any]]) -> None:
    """Whatever is asked of a server that has gone fails soon; the SDK alone would repeat it without end."""
    api, options = server

    def session() -> None:
        backend = ClearMLBackend(options)
        backend.open(run_info())
        make = Maker()
        api.refuse = dict.fromkeys(("events.add_batch", "tasks.create", "tasks.edit", "tasks.get_by_id"), 503)
        late = [make.scalar("a", 1.0, 1), make.hparams({"x": 1}, {}), make.hparams({"x": 1}, {}, trial="t")]
        for event in late:
            with pytest.raises(Exception, match="503") as caught:
                backend.write([event])
            assert backend.is_transient(caught.value)
        api.refuse = {}
        backend.write(late)
        backend.close("finished")

    in_thread(session)
    assert len(api.tasks) == 2
    assert len(api.events) == 1


class CloudError(Exception):
    """What the SDKs of clouds raise: botocore, google.api_core, azure.core."""

    def __init__(self, **about: object) -> None:
        super().__init__("SlowDown")
        self.__dict__.update(about)


@pytest.mark.parametrize(("cause", "transient"), [
    (CloudError(response={"ResponseMetadata": {"HTTPStatusCode": 503}}), True), (CloudError(status_code=429), True),
    (CloudError(response={"ResponseMetadata": {"HTTPStatusCode": 404}}), False), (CloudError(code=500), True),
    (CloudError(code=400), False), (CloudError(), True), (ValueError("Failed uploading object a to b (504): html"), True),
    (ValueError("Failed uploading object a to b (413): too large"), False),
])  # fmt: skip
def test_an_upload_that_fails(cause: Exception, transient: bool) -> None:
    """What a bucket of any cloud says is measured as what the server says; an error without a number is doubted for a while."""
    backend = ClearMLBackend()
    backend._opened = True
    assert backend.is_transient(UploadError(cause)) is transient


def test_a_server_that_is_away_is_a_transient_error() -> None:
    """Without a server, opening fails at once and can be tried again; the SDK alone would block for minutes."""
    host = "http://127.0.0.1:9"
    backend = ClearMLBackend({"api_host": host, "access_key": "AK", "secret_key": "hidden", "offline": "false"})
    for _ in range(2):
        with pytest.raises(ConnectionError, match=host) as caught:
            backend.open(run_info())
        assert backend.is_transient(caught.value)
        assert "hidden" not in repr(caught.value)


def test_a_session_can_be_read_from_its_zip_alone(tmp_path: Path) -> None:
    """The zip file by itself holds the run."""
    run = write([Maker().image("i", 1, np.zeros((2, 2), np.uint8))])
    shutil.rmtree(tmp_path / "store" / "offline" / run)
    assert len(reader(tmp_path).images("", "i")) == 1
    assert png(np.zeros((2, 2), np.uint8)) == reader(tmp_path).file(reader(tmp_path).session().events()[0])
