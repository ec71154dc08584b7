"""The Trackio backend, against the real SDK and a real server: what is in the database and the folders afterwards."""

from __future__ import annotations

import itertools
import json
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.trackio.live import TOKEN, TrackioServer
from tests.backends.trackio.proxy import Proxy
from tests.backends.trackio.reader import TrackioReader
from tests.conftest import RunPython
from tests.faults.harness import fill
from tests.sample_events import WALL, Maker, gif_frames, png, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.trackio.backend import TrackioBackend
from tracelet_shim.backends.trackio.names import ILLEGAL_KEY, ILLEGAL_PROJECT

_sessions = itertools.count(1)

HOSTILE = [
    "", " ", "a", "a/b", "a/", "/a", "//a", "a//b", ".", "..", "../../x", "/etc/passwd", "Case", "case", "acc@1",
    "acc_x40_1", "_x_", "nul\0", "line\nbreak", "é", "e\u0301", "日本語", "😀", "x" * 5000, "x" * 4999 + "y",
    "z" * 20_000, "z" * 20_001, "\ud800", "step", "time", "timestamp", "metrics", "run", "project", "run_id",
    "series_key", "data_type", "__step", "_", "__proto__", "_\0x", "tracelet/wall_time", "tracelet/tag",
    "tracelet/graph", "_x73_tep", "steps", "runs", "0", "_Group",
]  # fmt: skip


@pytest.fixture(scope="module")
def home() -> Path:
    """Where the SDK of this process keeps its files: it reads TRACKIO_DIR once, at import."""
    from trackio.utils import TRACKIO_DIR

    assert Path(os.environ["TRACKIO_DIR"]) == TRACKIO_DIR
    return TRACKIO_DIR.parent


def opened(*, options: dict[str, Any] | None = None, **run: Any) -> TrackioBackend:
    backend = TrackioBackend(options)
    backend.open(run_info(**{"session": f"{next(_sessions):016x}", **run}))
    return backend


def reader(home: Path, backend: TrackioBackend) -> TrackioReader:
    assert backend._main is not None
    return TrackioReader(home, backend._main.id)


def in_thread(work: Callable[[], Any]) -> Any:
    """Run `work` as the relay does, in a thread that is not the main thread; return its result."""
    results: queue.Queue[Any] = queue.Queue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:
            results.put((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = results.get_nowait()
    if error is not None:
        raise error
    return result


changed = msgspec.structs.replace


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def check_all(read: TrackioReader, events: list[ev.Event]) -> None:
    """Compare a run that got `Maker.one_of_each` with what it got."""
    by_kind: dict[str, Any] = {event.kind: event for event in events}
    assert read.scalars("", "s") == [(3, 0.1, WALL)]
    histogram = by_kind["histogram"]
    ((step, edges, counts),) = read.histograms("", "h")
    assert (step, tuple(edges[1:]), tuple(counts)) == (3, histogram.limits, histogram.counts)
    ((step, pixels),) = read.images("", "i")
    assert (step, png(pixels)) == (3, by_kind["image"].data)
    ((step, frames),) = read.videos("", "v")
    assert step == 3
    np.testing.assert_array_equal(frames, gif_frames(by_kind["video"].data))
    ((step, rate, samples),) = read.audio("", "a")
    assert (step, rate, len(samples)) == (3, 16000, 800)
    ((_, file),) = read.media("audio", "a")
    assert file.read_bytes() == by_kind["audio"].data
    assert read.texts("", "t") == [(3, "**bold** é\nsecond <line>")]
    ((step, precision, recall),) = read.pr_curves("", "p")
    assert (step, tuple(precision), tuple(recall)) == (3, by_kind["pr_curve"].precision, by_kind["pr_curve"].recall)
    ((step, vertices, faces, colors),) = read.meshes("", "m")
    assert step == 3
    np.testing.assert_array_equal(vertices, by_kind["mesh"].vertices.numpy()[0])
    np.testing.assert_array_equal(faces, by_kind["mesh"].faces.numpy()[0])
    np.testing.assert_array_equal(colors, by_kind["mesh"].colors.numpy()[0])
    ((step, matrix, rows),) = read.embeddings("", "e")
    assert step == 3
    np.testing.assert_array_equal(matrix.astype(np.float32), by_kind["embedding"].matrix.numpy())
    assert rows == [[f"p{i}", str(i % 3)] for i in range(9)]
    ((step, tensor),) = read.tensors("", "x")
    assert step == 3
    np.testing.assert_array_equal(tensor, by_kind["tensor"].value.numpy())
    assert read.graphs() == [{"input", "Net/Linear[fc]/weight", "output"}]
    layout = {"both": ["Multiline", ["train/loss", "val/loss"]], "band": ["Margin", ["m", "lo", "hi"]]}
    assert read.custom_scalars() == [{"Losses": layout}]
    assert read.params() == {"lr": 0.1, "bs": 32, "opt": "adam", "amp": True}
    assert read.summary_metrics() == {"acc": 0.75}
    assert read.scalars("", "acc") == [(3, 0.75, WALL)]
    ((metadata, contents),) = read.artifacts("blob")
    assert (list(contents.values()), metadata["tag"]) == ([by_kind["blob"].data], "other")


@pytest.fixture(scope="module")
def full(home: Path) -> tuple[TrackioReader, list[ev.Event]]:
    """A run that got one event of each type, from a thread that is not the main thread."""
    events = Maker().one_of_each()

    def work() -> TrackioBackend:
        tags = {"team": "a", "odd@/": "", "bare": ""}
        backend = opened(project="full", tags=tags, notes="some *notes*", run_id="my run/1", group="job-7")
        backend.write(events)
        backend.flush()
        backend.close("finished")
        return backend

    return reader(home, in_thread(work)), events


def test_class_is_complete() -> None:
    """The class fulfils the contract, and says of every event type how it arrives."""
    assert registry.validate(TrackioBackend) is TrackioBackend


def test_importing_the_backend_imports_no_sdk(run_python: RunPython) -> None:
    """The module, `check` and `borrowed` work without the SDK being imported."""
    run_python(
        """
        import sys
        from tracelet_shim.backends.trackio.backend import TrackioBackend
        TrackioBackend.check(offline=False, options={})
        assert TrackioBackend.borrowed() is None
        assert not {"trackio", "huggingface_hub", "httpx", "numpy.random"} & set(sys.modules), "imported"
        """
    )


def test_each_event_type_arrives_exactly(full: tuple[TrackioReader, list[ev.Event]]) -> None:
    """One event of each type is read back as it was, with its step."""
    check_all(*full)


def test_run_says_what_it_is(full: tuple[TrackioReader, list[ev.Event]]) -> None:
    """Project, name, labels, notes, own id and group are on the run, and it is finished."""
    read, _ = full
    expected = {"exp_name": "e", "tags": {"team": "a", "odd@/": "", "bare": ""}, "notes": "some *notes*"}
    assert read.about() == {"project": "full", "run_id": "my run/1", **expected}
    assert read.config()["_Group"] == "job-7"
    assert read.status() == "finished"


def test_values_have_the_form_that_the_sdk_gives_them(home: Path, full: tuple[TrackioReader, list[ev.Event]]) -> None:
    """Every typed value has the fields that `Run.log` itself writes for this type, so the dashboard knows it."""
    import trackio
    from trackio.run import Run

    read, _ = full
    root = home / "trackio" / "media"
    files = {kind: root / read.typed(kind, name)[0][1]["file_path"] for kind, name in
             (("image", "i"), ("audio", "a"), ("object3d", "m"), ("html", "p"))}  # fmt: skip
    run = Run(url=None, project="native", client=None, name="native", run_id="native")
    values = {
        "h": trackio.Histogram(np_histogram=(np.array([1, 2]), np.array([0.0, 1.0, 2.0]))),
        "t": trackio.Markdown("x"),
        "i": trackio.Image(files["image"]),
        "a": trackio.Audio(files["audio"]),
        "m": trackio.Object3D(files["object3d"]),
        "p": trackio.Html(files["html"]),
        "e": trackio.Table(columns=["a"], data=[[1]]),
    }
    run.log(values, step=3)
    run.finish()
    ((_, _, native, _),) = TrackioReader(home, "native").rows()
    for kind, name in (("histogram", "h"), ("markdown", "t"), ("image", "i"), ("audio", "a"), ("object3d", "m"),
                       ("html", "p"), ("table", "e")):  # fmt: skip
        ours = read.typed(kind, name)[0][1]
        assert native[name].keys() <= ours.keys(), kind
        extra = {"min", "max", "num", "sum", "sum_squares", "limits", "counts"} if kind == "histogram" else set()
        assert ours.keys() - native[name].keys() == extra
    assert native["m"]["kind"] == read.typed("object3d", "m")[0][1]["kind"] == "mesh"


def test_the_sdk_itself_reads_the_run(full: tuple[TrackioReader, list[ev.Event]]) -> None:
    """What the dashboard asks its server for has the run, its config and metrics, on the pages they belong to."""
    from trackio import server

    read, _ = full
    runs = server.get_runs_for_project("full")
    assert [(run["id"], run["name"]) for run in runs] == [(read.run, "e")]
    summary = server.get_run_summary("full", run_id=read.run)
    assert summary["config"]["lr"] == 0.1
    assert {"s", "acc", "h"} <= set(summary["metrics"])
    tabs = server.get_tab_availability("full")
    assert {tab for tab, there in tabs.items() if there} == {"metrics", "media", "reports", "artifacts"}
    logs = server.get_logs("full", run_id=read.run)
    assert [log["s"] for log in logs if "s" in log] == [0.1]
    made = {artifact["name"] for artifact in server.get_run_artifacts("full", run_id=read.run)["output"]}
    assert {"tracelet-tensor-x", "tracelet-embedding-e", "tracelet-blob-other"} <= made


def test_files_are_downloaded_by_name(full: tuple[TrackioReader, list[ev.Event]], tmp_path: Path) -> None:
    """`use_artifact(...).download()` gives the files under names that say tag and step."""
    from trackio.run import Run

    _, events = full
    run = Run(url=None, project="full", client=None, name="consumer")
    run.use_artifact("tracelet-tensor-x").download(tmp_path / "got")
    (file,) = (tmp_path / "got").rglob("*.npy")
    assert file.parent == tmp_path / "got" / "tensors" / "x"
    assert file.name.startswith("step=00000003_")
    np.testing.assert_array_equal(np.load(file), next(e for e in events if isinstance(e, ev.Tensor)).value.numpy())
    run.finish()


def test_pages_show_curve_and_graph(full: tuple[TrackioReader, list[ev.Event]]) -> None:
    """The curve is drawn through its points, and the graph lists its nodes, as HTML that parses and runs nothing."""
    import xml.etree.ElementTree as ET

    read, _ = full
    ((step, file),) = read.media("html", "p")
    curve = file.read_text()
    assert step == 3
    svg = ET.fromstring(curve[curve.index("<svg") : curve.index("</svg>") + 6])
    (line,) = [element for element in svg if element.tag.endswith("polyline")]
    assert len(line.attrib["points"].split()) == 11
    ((_, file),) = read.media("html", "tracelet/graph")
    assert "<td>Net/Linear[fc]/weight</td><td>prim::Param</td>" in file.read_text()


def test_scalars_are_exact(home: Path) -> None:
    """Any float64 at any step, repeated and out of order, arrives in order with its own time to the microsecond."""
    make, backend = Maker(), opened(project="scalars")
    values = [0.1, 1e300, -0.0, 5e-324, 1 / 3, 1.7976931348623157e308, 1e-300, 3.0, 123456789.12345679]
    steps = [5, 3, 3, 0, -7, 2**62, -(2**62), 2**53 + 1, 3]
    events = [make.scalar("x", v, s, WALL + i / 7) for i, (v, s) in enumerate(zip(values, steps, strict=True))]
    special = [make.scalar("n", v, i) for i, v in enumerate([math.nan, math.inf, -math.inf])]
    backend.write([*events, *special])
    read = reader(home, backend)
    found = read.scalars("", "x")
    assert [(p.step, p.value, math.copysign(1, p.value)) for p in found] == [
        (s, v, math.copysign(1, v)) for s, v in zip(steps, values, strict=True)
    ]
    assert all(abs(p.wall_time - e.wall_time) <= 1e-6 for p, e in zip(found, events, strict=True))
    assert str([p.value for p in read.scalars("", "n")]) == "[nan, inf, -inf]"


def metric_rows(read: TrackioReader) -> list[list[str]]:
    return [list(row.values) for row in read.rows() if row.values]


def test_scalars_of_one_step_share_a_row(home: Path) -> None:
    """What follows each other with one step is one row, each value with its own time to 2 ms; all else begins a new one."""
    make, other, backend, long = Maker(), Maker(file="/other"), opened(project="rows"), "long" * 5000
    events = [
        make.scalar("a", 1.0, 1, WALL), make.scalar("b", math.nan, 1, WALL + 0.001), make.scalar(long, 2.0, 1, WALL + 0.0019),
        make.scalar("c", 3.0, 1, WALL + 1 / 3),  # has its own time
        make.scalar("a", 4.0, 1, WALL + 0.4), make.scalar("a", 5.0, 1, WALL + 0.4),  # repeated
        make.scalar("b", 6.0, 2, WALL + 0.4),  # another step
        make.scalar("c", 7.0, 2, WALL + 0.3),  # older
        make.scalar("d", 7.5, 2, WALL + 60.5),  # much younger
        make.scalar("c", 8.0, 2, math.nan), make.scalar("d", 8.5, 2, math.nan),  # no time
        make.text("t", "x", 3), make.scalar("e", 9.0, 3), make.scalar("f", 10.0, 3), make.image("i", 3),
        make.histogram("his", 3), make.pr_curve("pr", 3), make.scalar("g", 11.0, 3),
        other.scalar("h", 12.0, 3),  # of another event file
    ]  # fmt: skip
    backend.write(events)
    read = reader(home, backend)
    assert metric_rows(read) == [
        ["a", "b", long, "c"], ["a"], ["a"], ["b"], ["c"], ["d"], ["c"], ["d"], ["t", "e", "f", "i", "his"],
        ["pr"], ["pr"], ["g", "h"],
    ]  # fmt: skip
    for tag in ("a", "b", long, "c", "d", "e", "f", "g", "h"):
        sent = [event for event in events if isinstance(event, ev.Scalar) and event.tag == tag]
        found = read.scalars("", tag)
        assert str([(p.step, p.value) for p in found]) == str([(e.step, e.value) for e in sent])
        assert all(math.isnan(p.wall_time) or abs(p.wall_time - e.wall_time) < 0.0021 for p, e in zip(found, sent, strict=True))


def test_batches_are_large_only_for_scalars(home: Path) -> None:
    """After scalars the next batch may be large; after anything else, whose data may be, it is not."""
    make, backend = Maker(), opened(project="batches")
    small = backend.batch_events
    sizes = []
    for event in (make.scalar("x", 1.0), make.image("i"), make.scalar("x", 2.0)):
        backend.write([event])
        sizes.append(backend.batch_events > small)
    assert sizes == [True, False, True]


def stream(file: str, seed: int) -> list[ev.Scalar]:
    """Return scalars whose steps, keys and times make rows of all lengths; some records have several values."""
    random = np.random.default_rng(seed)
    events, position, wall = [], 1, WALL
    while len(events) < 60:
        step, tag = int(random.integers(3)), int(random.integers(3))
        for _ in range(int(random.integers(1, 6))):
            for index in range(int(random.integers(1, 4))):
                event = Maker().scalar(f"k{tag}", float(len(events)), step, wall)
                events.append(changed(event, record=ev.RecordId(file, position, index)))
                tag = (tag + 1) % 5
                wall += float(random.choice([1e-5, 1e-3]))
            position += int(random.choice([1, 1, 1, 2]))
    return events


def cut(events: list[ev.Scalar], random: np.random.Generator) -> Iterator[list[ev.Scalar]]:
    while events:
        size = int(random.integers(1, 25))
        yield events[:size]
        events = events[size:]


def assert_once(read: TrackioReader, events: list[ev.Scalar]) -> None:
    """Compare all scalars of a run with `events`, each of which has a value of its own."""
    found = {tag: [(p.step, p.value) for p in read.scalars("", tag)] for tag in {event.tag for event in events}}
    assert sorted(value for points in found.values() for _, value in points) == [event.value for event in events]
    assert all((event.step, event.value) in found[event.tag] for event in events)


@pytest.mark.parametrize("seed", range(6))
def test_batches_that_come_again_are_cut_elsewhere(home: Path, seed: int) -> None:
    """A relay that is killed, whose successors begin at earlier batches and cut others, leaves each value once."""
    random = np.random.default_rng(seed)
    one, two = stream("/one", seed), stream("/two", seed + 100)
    events = [*one[:40], *two[:30], *one[40:], *two[30:]]
    events = [changed(event, value=float(i)) for i, event in enumerate(events)]
    begin, end = 0, 0
    while end < len(events):
        backend = opened(project="killed", run_id=f"killed {seed}")
        starts = [at := begin]
        end = min(len(events), end + int(random.integers(20, 60)))
        for batch in cut(events[begin:end], random):
            backend.write(batch)
            starts.append(at := at + len(batch))
        begin = starts[int(random.integers(len(starts)))]  # what the ledger says is older than what is stored
    assert_once(reader(home, backend), events)
    assert len(metric_rows(reader(home, backend))) < 0.8 * len(events)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_all_kinds_that_come_again_are_cut_elsewhere(home: Path, seed: int) -> None:
    """As above, of values of all kinds: a picture that was alone in its row is not put into another one, nor the other way."""
    random, make, other = np.random.default_rng(seed), Maker(), Maker(file="/other")
    events: list[ev.Event] = []
    for step in range(8):
        own: list[ev.Event]
        own = [make.scalar("loss", step / 3, step), make.image("picture", step), make.text("note", f"at {step}", step)]
        own += [other.scalar("other", step / 5, step), make.histogram("weights", step, 5)]
        own += [make.pr_curve("pr", step)] if step % 3 == 0 else []
        own += [make.audio("tone", step), make.scalar("rate", step / 7, step), other.scalar("more", step / 9, step)]
        events += [changed(event, wall_time=WALL + step + at / 10) for at, event in enumerate(own)]
    begin, end = 0, 0
    while end < len(events):
        backend = opened(project="kinds", run_id=f"kinds {seed}")
        end = min(len(events), begin + int(random.integers(6, 16)))
        size = int(random.integers(1, 9))
        for start in range(begin, end, size):
            backend.write(events[start : min(start + size, end)])
        begin = max(end - int(random.integers(5)), 0) if end < len(events) else end
    read = reader(home, backend)
    found = sorted((name, row.step) for row in read.rows() for name in row.values)
    assert found == sorted((e.tag, e.step) for e in events for _ in range(1 + isinstance(e, ev.PRCurve)))
    for event in events:
        if isinstance(event, ev.Scalar):
            (point,) = (p for p in read.scalars("", event.tag) if p.step == event.step)
            assert (point.value, point.wall_time) == (event.value, pytest.approx(event.wall_time, abs=0.0021))


def test_a_step_is_a_row(home: Path) -> None:
    """A training loop whose calls of one step are far apart has as many rows as steps, as with Trackio's own `log`; what the
    dashboard smooths, row by row, has no gap, and exact times are kept."""
    make, other, backend = Maker(), Maker(file="/other"), opened(project="steps")
    for start in range(0, 30, 10):
        events: list[ev.Event] = []
        for step in range(start, start + 10):
            events.append(make.scalar("train/loss", 1 / (step + 1), step, WALL + step))
            media = [make.image("samples", step), make.histogram("weights", step, 9)] if step % 5 == 0 else []
            events += [changed(event, wall_time=WALL + step + 0.1) for event in media]
            events += [make.scalar("train/accuracy", step / 30, step, WALL + step + 0.25)]
            events += [other.scalar("val/loss", 1 / (step + 2), step, WALL + step + 0.7)] if step % 10 == 9 else []
        backend.write(events)
    read = reader(home, backend)
    rows = list(read.rows())
    assert [row.step for row in rows] == list(range(30))
    assert all({"train/loss", "train/accuracy"} <= row.values.keys() for row in rows)
    assert [p.wall_time for p in read.scalars("", "train/accuracy")] == [WALL + step + 0.25 for step in range(30)]
    backend.close("finished")  # writes the config again
    from trackio import server

    summary = server.get_run_summary("steps", run_id=read.run)
    assert (summary["num_logs"], summary["last_step"], summary["config"]["tracelet/status"]) == (30, 29, "finished")


def test_write_that_failed_after_it_was_stored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose writing raised, although they were stored, are not stored again when the events come one by one."""
    from trackio.sqlite_storage import SQLiteStorage

    store = SQLiteStorage.bulk_log

    def fail(*args: Any, **kwargs: Any) -> None:
        store(*args, **kwargs)
        raise ValueError("said no")

    events = stream("/events", 7)
    backend = opened(project="failed")
    monkeypatch.setattr(SQLiteStorage, "bulk_log", fail)
    with pytest.raises(ValueError, match="said no"):
        backend.write(events[:40])
    assert backend.written == 0
    monkeypatch.undo()
    for event in events:
        backend.write([event])
    assert_once(reader(home, backend), events)


def test_run_that_has_a_row_for_each_scalar_is_continued(home: Path) -> None:
    """What an earlier version, or a run that began as fragments, has stored row by row is recognised."""
    events = stream("/events", 8)
    first = opened(project="single", run_id="single")
    assert first._store is not None
    first._store.shares_rows = False
    first.write(events[:30])
    assert len(metric_rows(reader(home, first))) == 30
    again = opened(project="single", run_id="single")
    again.write(events[5:50])
    again.write(events[50:])
    assert_once(reader(home, again), events)


def test_deleted_project_is_made_again(home: Path) -> None:
    """A project that the user deletes while a continued run writes to it is there again, with what comes then."""
    make = Maker()
    opened(project="deleted", run_id="r").write([make.scalar("x", 1.0, 1)])
    backend = opened(project="deleted", run_id="r")
    for file in (home / "trackio").glob("deleted.db*"):
        file.unlink()
    backend.write([make.scalar("x", 2.0, 2)])
    assert [p.value for p in reader(home, backend).scalars("", "x")] == [2.0]


def test_odd_wall_times_are_kept(home: Path) -> None:
    """A time that no date can express is kept beside the value; others, before 1970 too, are in the time column."""
    make, backend = Maker(), opened(project="times")
    walls = [math.nan, math.inf, -math.inf, 1e18, -1e18, -5.5, 0.0, 253402300799.0]
    backend.write([make.scalar("x", 1.0, i, wall) for i, wall in enumerate(walls)])
    assert str([p.wall_time for p in reader(home, backend).scalars("", "x")]) == str(walls)


def test_hostile_tags_stay_apart(home: Path) -> None:
    """Tags of any characters and length, reserved names included, arrive under their own names, of each kind."""
    make, backend = Maker(), opened(project="hostile")
    before, events = tree(home), []
    for i, tag in enumerate(HOSTILE):
        events += [make.scalar(tag, float(i), i), make.text(tag, f"text {i}"), make.image(tag, i)]
        events += [make.tensor(tag, i), make.histogram(tag, i, buckets=4)]
    backend.write([*events, make.scalar("last", 1.0)])
    read = reader(home, backend)
    for i, tag in enumerate(HOSTILE):
        assert [(p.step, p.value) for p in read.scalars("", tag)] == [(i, float(i))], tag[:40]
        assert read.texts("", tag) == [(0, f"text {i}")]
        assert [step for step, _ in read.images("", tag)] == [i]
        assert [step for step, _, _ in read.histograms("", tag)] == [i]
        kept = tag.encode("utf-8", "backslashreplace").decode()
        assert [step for step, _ in read.tensors("", kept)] == [i]
    assert len(read.scalars("", "last")) == 1
    allowed = ("trackio/media/hostile/e/", "trackio/artifacts/hostile/blobs/", "trackio/hostile.")
    assert all(path.startswith(allowed) for path in tree(home) - before)


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12)), unique=True))
@settings(max_examples=200)
def test_keys_are_injective_and_never_reserved(tags: list[str]) -> None:
    """No two tags get one key, and no key is one that Trackio renames or overwrites."""
    from trackio.utils import RESERVED_KEYS

    names = Names(ILLEGAL_KEY, 10_000)
    keys = [names(tag) for tag in tags]
    assert len(set(keys)) == len(tags)
    assert not {key for key in keys if key in RESERVED_KEYS or key.startswith(("__", "tracelet/"))}


_WORDS = [
    "system", "_system", "configs", "_traces", "_artifacts", "artifact_versions", "_artifact_aliases", "registry-",
    "_run_artifact_links", "a", "b c", "@", ".", "/", "é", "_x40_", "_",
]  # fmt: skip
_PROJECTS = st.lists(st.one_of(st.sampled_from(_WORDS), st.text(max_size=3)), max_size=4).map("".join)


@given(st.lists(_PROJECTS, unique=True))
@settings(max_examples=300)
def test_project_names_are_injective_and_accepted(projects: list[str]) -> None:
    """Every project name becomes one that Trackio takes as it is, and no two become one."""
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import canonical_project_name

    names = Names(ILLEGAL_PROJECT, 180, empty="default", in_bytes=True)
    mapped = [names(project) for project in projects if project not in ("", "default")]
    assert len(set(mapped)) == len(mapped)
    for project in mapped:
        SQLiteStorage.validate_project_name(project)
        assert canonical_project_name(project) == project


@pytest.mark.parametrize("name", ["../../evil", "..", "/abs", "nul\0", "x" * 500, "é" * 200, " ", "\ud800", "a\\b"])
def test_run_names_stay_inside(home: Path, name: str) -> None:
    """A run name is a folder in Trackio: one that leads out of it is mapped, and kept whole in the config."""
    make, backend = Maker(), opened(project="names", exp_name=name)
    before = tree(home)
    backend.write([make.image("i", 1), make.scalar("s", 1.0), make.tensor("t")])
    read = reader(home, backend)
    assert len(read.images("", "i")) == len(read.scalars("", "s")) == len(read.tensors("", "t")) == 1
    assert read.about()["exp_name"] == name.encode("utf-8", "backslashreplace").decode()
    allowed = ("trackio/media/names/", "trackio/artifacts/names/", "trackio/names.")
    assert all(path.startswith(allowed) for path in tree(home) - before)
    assert not Path("/abs").exists()


def test_repeated_delivery_counts_once(home: Path) -> None:
    """Writing the same events again, in other batches or in a later session on the run, changes nothing."""
    events = Maker().one_of_each()
    backend = opened(project="again", run_id="again")
    backend.write(events)
    read = reader(home, backend)
    rows, files = list(read.rows()), tree(home)
    for event in events:
        backend.write([event])
    backend.close("killed")
    later = opened(project="again", run_id="again")
    later.write(events[5:])
    assert list(read.rows()) == rows
    assert tree(home) == files
    assert len(read.artifacts("tensor")) == 1
    check_all(read, events)


def test_one_event_file_in_two_runs(home: Path) -> None:
    """The same event file delivered to two runs of a project is whole in both."""
    events = Maker().one_of_each()
    for _ in range(2):
        backend = opened(project="twice")
        backend.write(events)
        check_all(reader(home, backend), events)


def test_resume_continues_the_run(home: Path) -> None:
    """A run is found again by its id, under the name it had, with its config; the new status replaces the old."""
    first = opened(project="resume", exp_name="first", config={"lr": 0.1, "nan": math.nan}, run_id="r@1")
    first.write([Maker(file="/a").scalar("x", 1.0, 1), Maker(file="/b").hparams({"opt": "sgd"}, {"m": 2.0})])
    first.close("failed")
    read = reader(home, first)
    assert read.status() == "failed"
    for again in ({"run_id": "r@1"}, {"resume": read.run}):
        backend = opened(project="resume", exp_name="second", config={"lr": 0.1, "nan": math.nan}, **again)
        backend.write([Maker(file=str(again)).scalar("x", 2.0, 2)])
        assert reader(home, backend).run == read.run
        assert read.status() == "running"
    backend.close("killed")
    assert read.status() == "killed"
    assert read.name() == "first"
    assert [p.value for p in read.scalars("", "x")] == [1.0, 2.0, 2.0]
    assert read.params() == {"lr": 0.1, "nan": "NaN", "opt": "sgd"}
    assert not [key for key in read.config() if "later" in key]


def test_a_run_exists_before_its_first_event(home: Path) -> None:
    """A run without events is there with its config, and one that gets its config late has it."""
    backend = opened(project="empty", config={"a": {"b": [1, None]}})
    read = reader(home, backend)
    assert (read.status(), read.params()) == ("running", {"a": {"b": [1, None]}})
    assert (read.run in read.run_ids(), [row.values for row in read.rows()]) == (True, [{}])
    backend.write([Maker().scalar("x", 1.0)])
    backend.write([Maker(file="/late").hparams({"late": 1}, {})])
    assert read.params() == {"a": {"b": [1, None]}, "late": 1}
    assert [row.values for row in read.rows() if row.values] == [{"x": 1.0}]


def test_odd_parameters_are_kept(home: Path) -> None:
    """Reserved and empty names, huge strings, integers beyond 64 bits and NaN are kept; a change is listed beside."""
    make, backend = Maker(), opened(project="params")
    params = {
        "_hidden": 1, "": 2, "tracelet/status": "mine", "tracelet/param/x": 3, "tracelet/param/": 4, "é\0": 5,
        "long": "y" * 100_000, "nan": math.nan, "big": 2**70, "lone\ud800": "\ud800",
    }  # fmt: skip
    backend.write([make.hparams(params, {"nan": math.nan, "step": 1.0}, 4)])
    read = reader(home, backend)
    found = read.params()
    expected = {**params, "nan": "NaN", "big": str(2**70), "lone\\ud800": "\\ud800"}
    del expected["lone\ud800"]
    assert found == expected
    assert str(read.summary_metrics()) == "{'nan': nan, 'step': 1.0}"
    assert read.scalars("", "step") == [(4, 1.0, WALL)]
    assert read.status() == "running"
    for lr in (0.1, 0.2, 0.2, 0.1):
        backend.write([make.hparams({"lr": lr}, {})])
    assert (read.params()["lr"], read.config()["tracelet/later/lr"]) == (0.1, [0.2, 0.1])


def test_domains_are_kept(home: Path) -> None:
    """The allowed values of a parameter are in the config."""
    backend = opened(project="domains")
    backend.write([changed(Maker().hparams({"lr": 0.1}, {}), domain={"lr": [0.1, 0.2]})])
    assert reader(home, backend).config()["tracelet/domains"] == {"lr": [0.1, 0.2]}


def test_trials_are_runs_of_one_group(home: Path) -> None:
    """A trial is a finished run of its own in its parent's group; its parts may come apart, and in later sessions."""
    make, backend = Maker(), opened(project="sweep", exp_name="parent", run_id="sweep")
    backend.write([make.hparams({"lr": 0.1}, {"acc": 0.5}), make.hparams({"lr": 1.0}, {}, trial="one/1")])
    backend.write([make.hparams({}, {"acc": 0.75}, 2, trial="one/1")])
    backend.write([make.hparams({"lr": 2.0}, {"acc": 1.0}, trial="two")])
    backend.close("finished")
    later = opened(project="sweep", run_id="sweep")
    later.write([Maker(file="/later").hparams({}, {"f1": 0.25}, trial="one/1")])
    read = reader(home, later)
    assert len(read.query("SELECT DISTINCT run_id FROM metrics")) == 3
    assert read.run in read.run_ids()
    assert read.trials() == [({"lr": 1.0}, {"acc": 0.75, "f1": 0.25}), ({"lr": 2.0}, {"acc": 1.0})]
    assert (read.params(), read.summary_metrics()) == ({"lr": 0.1}, {"acc": 0.5})
    runs = {row[0]: json.loads(row[1]) for row in read.query("SELECT run_name, config FROM configs")}
    assert {name: config["_Group"] for name, config in runs.items()} == dict.fromkeys(runs, "parent")
    assert {config["tracelet/status"] for name, config in runs.items() if name != "parent"} == {"finished"}
    child = next(config["tracelet/trial"] for name, config in runs.items() if name == "parent-one_x2f_1")
    assert child == "one/1"


def test_histograms_keep_every_bucket(home: Path) -> None:
    """The buckets stay as they are. What is drawn has bins of one width, from the smallest sample to the largest."""
    made = Maker().histogram("x", buckets=2)
    cases = {
        "left": changed(made, min=-2.0, max=3.0, limits=(0.0, 3.0), counts=(2.0, 4.0)),
        "right": changed(made, min=0.0, max=9.0, limits=(0.0, 1.0, 1.7e308), counts=(0.0, 2.0, 4.0)),
        "none": changed(made, limits=(), counts=()),
        "nan": changed(made, min=math.nan, max=math.nan, limits=(1.0, 2.0), counts=(0.0, 0.0)),
    }
    events = [changed(case, tag=name, record=ev.RecordId("/h", i)) for i, (name, case) in enumerate(cases.items())]
    backend = opened(project="histograms")
    backend.write(events)
    read = reader(home, backend)
    for name, case in cases.items():
        ((_, edges, counts),) = read.histograms("", name)
        assert (tuple(edges[1:]), tuple(counts)) == (case.limits, case.counts)
        ((_, edges, counts),) = read.drawn("", name)
        assert np.allclose(np.diff(edges), (edges[-1] - edges[0]) / len(counts) if len(counts) else 0)
        assert counts.sum() == pytest.approx(sum(case.counts))
        if sum(case.counts):
            assert (edges[0], edges[-1]) == (case.min, case.max)
    ((_, value),) = read.typed("histogram", "right")
    assert value["sum_squares"] == made.sum_squares


def test_histograms_are_drawn_as_they_are_distributed(home: Path) -> None:
    """TensorBoard's buckets are narrow around zero; the dashboard draws counts, and must not show a hole there."""
    limits = [float(10.0**power) for power in np.arange(-12, 2, 0.05)]
    limits = [-x for x in reversed(limits)] + limits
    counts, _ = np.histogram(np.random.default_rng(7).normal(size=20_000), [-1e20, *limits])
    event = changed(Maker().histogram("x"), min=-4.0, max=4.0, limits=tuple(limits), counts=tuple(map(float, counts)))
    backend = opened(project="drawn")
    backend.write([event])
    ((_, edges, shown),) = reader(home, backend).drawn("", "x")
    middle = shown[np.abs((edges[1:] + edges[:-1]) / 2) < 0.3]
    assert middle.min() > 0.8 * shown.max()


def test_meshes_of_every_kind(home: Path) -> None:
    """Each of a batch is an object; a cloud has no faces; one that the viewer would refuse is a file."""
    make, backend = Maker(), opened(project="meshes")
    cloud = make.mesh("cloud", faces=False, colors=False)
    whole = make.mesh("whole")
    vertices = np.concatenate([whole.vertices.numpy(), whole.vertices.numpy() + 1])

    def variant(tag: str, vertices: np.ndarray, **changes: Any) -> ev.Mesh:
        record = ev.RecordId(tag, 1)
        return changed(whole, tag=tag, record=record, vertices=ev.Array.of(vertices), **changes)

    batch = variant("batch", vertices, faces=None, colors=None, config='{"camera": 1}')
    broken = variant("broken", np.full((1, 4, 3), np.nan, np.float32))
    empty = variant("empty", np.zeros((0, 0, 3), np.float32), faces=None, colors=None)
    backend.write([cloud, whole, batch, broken, empty])
    read = reader(home, backend)
    assert [value["kind"] for _, value in read.typed("object3d", "cloud")] == ["point_cloud"]
    found = read.meshes("", "batch")
    np.testing.assert_array_equal(np.stack([v for _, v, _, _ in found]), vertices)
    assert [value["caption"] for _, value in read.typed("object3d", "batch")] == ["1 of 2", "2 of 2"]
    ((_, contents),) = read.attached("mesh", "batch", ".config.json")
    assert contents[".config.json"] == b'{"camera": 1}'
    assert read.typed("object3d", "broken") == read.typed("object3d", "empty") == []
    assert [np.isnan(v).all() for _, v, _, _ in read.meshes("", "broken")] == [True]
    assert len(read.attached("mesh", "empty", ".ply")) == 1


def test_large_embeddings_show_their_head(home: Path) -> None:
    """The table of a large embedding is bounded; the files have all of it."""
    matrix = np.random.default_rng(0).normal(size=(3000, 50)).astype(np.float32)
    backend = opened(project="embeddings")
    event = changed(Maker().embedding("e"), matrix=ev.Array.of(matrix), metadata=None, metadata_header=None)
    backend.write([event])
    read = reader(home, backend)
    ((_, table),) = read.typed("table", "e")
    assert len(table["_value"]) == 400
    assert list(table["_value"][0]) == [f"d{i}" for i in range(50)]
    ((_, whole, rows),) = read.embeddings("", "e")
    assert (whole.shape, rows) == (matrix.shape, None)


def test_what_came_before_a_failure_is_stored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error, the events before it are in the database and counted; trying the rest again completes the run."""
    make, backend = Maker(), opened(project="failure")
    events: list[ev.Event] = [make.scalar("x", 1.0), make.text("t"), make.image("i", 5), make.scalar("x", 2.0)]
    folder = home / "trackio" / "media" / "failure" / "e"
    folder.mkdir(parents=True)
    (folder / "5").write_bytes(b"in the way")
    with pytest.raises(OSError, match="exists"):
        backend.write(events)
    assert backend.written == 2
    read = reader(home, backend)
    assert (len(read.scalars("", "x")), len(read.texts("", "t")), read.images("", "i")) == (1, 1, [])
    (folder / "5").unlink()
    backend.write(events[backend.written :])
    assert (len(read.scalars("", "x")), len(read.images("", "i"))) == (2, 1)


def test_handle_is_a_run_that_the_user_can_log_to(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`handle` is a real Run: what it logs is in the run, and neither its end nor its config undoes ours."""
    backend = opened(project="handle", config={"lr": 0.1})
    backend.handle.log({"mine": 1.5}, step=9)
    backend.write([Maker().hparams({"late": 1}, {})])
    backend.close("finished")
    read = reader(home, backend)
    assert [(p.step, p.value) for p in read.scalars("", "mine")] == [(9, 1.5)]
    assert (read.params(), read.status()) == ({"lr": 0.1, "late": 1}, "finished")
    assert capsys.readouterr().out == ""


def test_joins_the_users_run(home: Path) -> None:
    """A run that the user has open is found and joined, gets our data and config beside his own, and stays open."""
    import trackio
    from trackio import context_vars

    user = trackio.init("mine", name="../user", config={"his": 1}, auto_log_cpu=False, auto_log_gpu=False, embed=False)
    try:
        trackio.log({"before": 0.5}, step=1)  # its config is now in the queue
        found = TrackioBackend.borrowed()
        assert found == user.id

        def work() -> TrackioBackend:
            backend = opened(project="other", exp_name="other", resume=found, config={"ours": 2}, tags={"a": "b"})
            backend.write(Maker().one_of_each())
            user.config["his later"] = 3
            backend.write([Maker(file="/b").hparams({"child": 1}, {"m": 1.0}, trial="one")])
            backend.write([Maker(file="/c").hparams({"opt": "sgd"}, {"acc": 1.0})])
            backend.close("failed")
            return backend

        backend = in_thread(work)
        assert backend.handle is user
        trackio.log({"later": 2.5}, step=7)
        assert context_vars.current_run.get() is user
    finally:
        trackio.finish()
        context_vars.current_run.set(None)
    read = TrackioReader(home, found)
    assert read.database.stem == "mine"
    assert [(p.step, p.value) for p in read.scalars("", "later")] == [(7, 2.5)]
    assert [p.value for p in read.scalars("", "s")] == [0.1]
    assert len(read.images("", "i")) == len(read.tensors("", "x")) == 1
    params = {"his": 1, "ours": 2, "lr": 0.1, "bs": 32, "opt": "adam", "amp": True}
    assert read.params() == {**params, "his later": 3}
    assert read.trials() == [({"child": 1}, {"m": 1.0})]
    config = read.config()
    assert (config["tracelet/metrics"], config["tracelet/later/opt"]) == ({"acc": 1.0}, ["sgd"])
    assert config["tracelet/tag/a"] == "b"
    assert "tracelet/status" not in config
    assert TrackioBackend.borrowed() is None


def test_network_file_systems_get_fragments(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In JSONL mode rows go to the inbox, and the dashboard's own import makes the whole run of them."""
    from trackio import fragments

    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    events = Maker().one_of_each()
    backend = opened(project="fragments", run_id="fragments")
    backend.write(events)
    backend.close("finished")
    assert len(list((home / "trackio" / "inbox").rglob("*.jsonl"))) == 3
    fragments.import_inbox_dir()
    read = reader(home, backend)
    check_all(read, events)
    assert read.status() == "finished"


def test_quiet_without_threads_and_without_network(run_python: RunPython, tmp_path: Path) -> None:
    """A run with a Hub token, and a Hub that never answers, opens at once: nothing asks it, prints, or runs on."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        script = """
            import sys, threading, time
            sys.path.insert(0, sys.argv[1])
            from tests.sample_events import Maker, run_info
            from tracelet_shim.backends.trackio.backend import TrackioBackend
            hook, threads = sys.excepthook, set(threading.enumerate())
            started = time.monotonic()
            backend = TrackioBackend()
            print(backend.open(run_info()).url, file=sys.stderr)
            backend.write(Maker().one_of_each())
            assert set(threading.enumerate()) == threads, threading.enumerate()
            assert backend.handle.id == "00112233aabbccdd"
            backend.close("finished")
            assert time.monotonic() - started < 20
            assert sys.excepthook is hook
            assert set(threading.enumerate()) == threads, threading.enumerate()
            """
        done = run_python(
            script,
            str(Path(__file__).parents[3]),
            env={
                **TrackioReader.environment(tmp_path),
                "HF_HUB_OFFLINE": None,
                "HF_TOKEN": "hf_secret",
                "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            },
        )
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"TRACKIO_DIR={tmp_path}/trackio trackio show --project p"]
    check_all(TrackioReader(tmp_path), Maker().one_of_each())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


# -- a self-hosted server ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackioServer]:
    server = TrackioServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.close()


def test_server_gets_everything(server: TrackioServer, home: Path) -> None:
    """A self-hosted server gets one event of each type, with its time; nothing is written on this machine."""
    before = tree(home / "trackio")
    events = Maker().one_of_each()

    def work() -> str:
        backend = TrackioBackend({"server_url": server.url})
        info = run_info(project="remote project", exp_name="a/b", run_id="remote", tags={"t": "1"}, group="g")
        opened_run = backend.open(info)
        backend.write(events)
        backend.write(events)
        backend.close("failed")
        assert opened_run.url == f"http://127.0.0.1:{server.gate.port}/?project=remote_x20_project"
        return opened_run.run_id

    read = TrackioReader(server.store, in_thread(work))
    check_all(read, events)
    assert read.status() == "failed"
    expected = {"project": "remote project", "exp_name": "a/b", "tags": {"t": "1"}, "notes": None}
    assert read.about() == {**expected, "run_id": "remote"}
    assert tree(home / "trackio") == before


def test_server_from_the_environment(server: TrackioServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACKIO_SERVER_URL and TRACKIO_WRITE_TOKEN are enough; hostile tags, odd values and trials arrive there, too."""
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"http://127.0.0.1:{server.gate.port}")
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", TOKEN)
    TrackioBackend.check(offline=False, options={})
    make, backend = Maker(), opened(project="env", run_id="env")
    together = [make.scalar(tag, 1.0, 5) for tag in ("one", "two", "three")]
    for batch in (together[:2], together):
        backend.write(batch)
    assert metric_rows(TrackioReader(server.store, "env")) == [["one"], ["two"], ["three"]]
    steps = [2**62, -(2**62), 0, 7]
    backend.write([make.scalar(tag, float(i), i) for i, tag in enumerate(HOSTILE)])
    backend.write([make.scalar("odd", v, s, w) for s, v, w in zip(
        steps, [math.nan, math.inf, 1e300, -math.inf], [math.nan, -5.5, 1e18, WALL], strict=True)])  # fmt: skip
    backend.write([make.hparams({"lr": 1.0}, {"acc": 0.5}, trial="one")])
    again = opened(project="env", run_id="env")
    again.write([Maker(file="/later").hparams({}, {"f1": 0.25}, trial="one"), make.image("../../x", 1)])
    again.close("finished")
    read = TrackioReader(server.store, "env")
    for i, tag in enumerate(HOSTILE):
        assert [(p.step, p.value) for p in read.scalars("", tag)] == [(i, float(i))], tag[:40]
    assert str([(p.step, p.value, p.wall_time) for p in read.scalars("", "odd")]) == str(
        list(zip(steps, [math.nan, math.inf, 1e300, -math.inf], [math.nan, -5.5, 1e18, WALL], strict=True))
    )
    assert read.trials() == [({"lr": 1.0}, {"acc": 0.5, "f1": 0.25})]
    assert len(read.images("", "../../x")) == 1


def test_offline_does_not_use_the_server(server: TrackioServer, home: Path) -> None:
    """``offline=True`` keeps the run on this machine, whatever server was named."""
    backend = opened(options={"server_url": server.url}, project="local", offline=True)
    backend.write([Maker().scalar("x", 1.0)])
    assert len(reader(home, backend).scalars("", "x")) == 1


def test_wrong_token_is_an_error_without_the_token(server: TrackioServer) -> None:
    """A server that refuses the token is an error that does not pass, and does not show it."""
    backend = TrackioBackend({"server_url": f"http://127.0.0.1:{server.gate.port}/?write_token=wrong-secret"})
    with pytest.raises(Exception, match="400") as caught:
        backend.open(run_info())
    assert not backend.is_transient(caught.value)
    assert "wrong-secret" not in f"{caught.value!r} {backend!r}"


def test_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """While the server is gone, writes fail as transient; when it is back, trying again completes the run, once."""
    server = TrackioServer(tmp_path)
    try:
        server.start()
        backend = opened(options={"server_url": server.url}, project="outage", run_id="outage")
        events = Maker().one_of_each()
        backend.write(events[:3])
        server.kill()
        for batch in (events[3:], events[:1]):
            started = time.monotonic()
            with pytest.raises(Exception, match=r".") as caught:
                backend.write(batch)
            assert backend.is_transient(caught.value)
            assert time.monotonic() - started < 10
        with pytest.raises(ConnectionError) as refused:
            opened(options={"server_url": server.url})
        assert backend.is_transient(refused.value)
        server.start()
        backend.write(events[2:])
        backend.close("finished")
        check_all(TrackioReader(tmp_path, "outage"), events)
    finally:
        server.close()


def test_a_server_says_yes_and_stores_nothing(small_disk: Callable[[str], Path]) -> None:
    """A server whose disk is full puts rows into its memory, says yes, and drops them. They are not taken for delivered, nor is a
    config; when there is room again, both are there, once."""
    server = TrackioServer(small_disk("4m"))
    try:
        server.start()
        backend = opened(options={"server_url": server.base, "write_token": TOKEN}, project="full", run_id="full")
        make = Maker()
        points = [make.scalar("x", float(n), n) for n in range(400)]
        backend.write(points[:100])
        fill(server.store)
        with pytest.raises(Exception, match=r"stored nothing|disk") as caught:
            backend.write(points[100:])
        assert (backend.is_transient(caught.value), backend.written) == (True, 0)
        (server.store / "filler").unlink()
        backend.write(points[100:])
        fill(server.store)
        with pytest.raises(Exception, match=r"stored nothing|disk"):
            backend.write([make.hparams({"note": "x" * 100_000}, {})])
        (server.store / "filler").unlink()
        backend.write([make.hparams({"note": "x" * 100_000}, {})])
        backend.close("finished")
    finally:
        server.close()
    read = TrackioReader(server.store, "full")
    assert [p.step for p in read.scalars("", "x")] == list(range(400))
    assert read.params()["note"] == "x" * 100_000


def test_a_server_is_started_again_between_two_requests(tmp_path: Path) -> None:
    """A server that was started again has forgotten an upload, and may have another token: nothing of that is the events' fault,
    and all is there, once, when it is well."""
    server = TrackioServer(tmp_path)
    try:
        server.start()
        backend = opened(options={"server_url": server.base, "write_token": TOKEN}, project="again", run_id="again")
        make = Maker()
        picture, points = make.image("i", 1), [make.scalar("x", float(n), n) for n in range(10)]
        client = backend._store._client._client
        upload = client._upload_file

        def upload_before_a_restart(file: dict[str, Any]) -> dict[str, Any]:
            client._upload_file = upload
            uploaded: dict[str, Any] = upload(file)
            server.kill()
            server.start()
            return uploaded

        client._upload_file = upload_before_a_restart
        with pytest.raises(ConnectionError, match="behind an upload") as caught:
            backend.write([picture])
        assert (backend.is_transient(caught.value), backend.written) == (True, 0)
        backend.write([picture])
        server.kill()
        server.token = "another"
        server.start()
        with pytest.raises(errors.BackendError, match="does not accept the token") as refused:
            backend.write(points)
        assert (backend.is_transient(refused.value), backend.written) == (True, 0)
        assert TOKEN not in str(refused.value)
        server.kill()
        server.token = TOKEN
        server.start()
        backend.write(points)
        backend.close("finished")
    finally:
        server.close()
    read = TrackioReader(server.store, "again")
    assert [p.step for p in read.scalars("", "x")] == list(range(10))
    assert [step for step, _ in read.images("", "i")] == [1]


@pytest.fixture
def proxy(server: TrackioServer) -> Iterator[Proxy]:
    proxy = Proxy(server.url)
    yield proxy
    proxy.stop()


def test_a_proxy_answers_in_place_of_the_server(server: TrackioServer, proxy: Proxy) -> None:
    """A page of a proxy's, whatever its status, says nothing of the events: they are sent again, and are there once."""
    backend = opened(
        options={"server_url": proxy.url, "write_token": TOKEN}, project="proxy", run_id="proxy"
    )
    make = Maker()
    events: list[ev.Event] = []
    for status in (200, 302, 403, 408, 425, 429, 500, 502, 503, 504):
        batch: list[ev.Event] = [make.scalar("x", 1.0, status), *([make.image("i", status)] if status in (200, 503) else [])]
        proxy.status, proxy.answered = status, 0
        with pytest.raises(Exception, match=r".") as caught:
            backend.write(batch)
        assert (backend.is_transient(caught.value), backend.written, proxy.answered > 0) == (True, 0, True), status
        proxy.status = None
        backend.write(batch)
        backend.write(batch)
        events += batch
    backend.close("finished")
    read = TrackioReader(server.store, "proxy")
    assert [p.step for p in read.scalars("", "x")] == [event.step for event in events if isinstance(event, ev.Scalar)]
    assert [step for step, _ in read.images("", "i")] == [200, 503]


def test_a_proxy_that_never_lets_an_event_through(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that may pass is believed after a minute without one good answer, and doubted anew after one."""
    now = 0.0
    token = {"write_token": TOKEN}
    backend = opened(options={"server_url": proxy.url, **token}, project="proxy", run_id="refused")
    monkeypatch.setattr(backend._patience, "_clock", lambda: now)
    make = Maker()

    def passes() -> bool:
        with pytest.raises(Exception, match="403") as caught:
            backend.write([make.scalar("x", 1.0)])
        return backend.is_transient(caught.value)

    proxy.status = 403
    found = [passes()]
    now = 59.0
    found.append(passes())
    proxy.status = None
    backend.write([make.scalar("x", 2.0)])
    proxy.status = 403
    now = 70.0
    found.append(passes())
    now = 131.0
    found.append(passes())
    assert found == [True, True, True, False]


@pytest.mark.parametrize("status", [200, 502])
def test_a_proxy_answers_while_a_run_is_opened(proxy: Proxy, status: int) -> None:
    """A server that is not up yet, behind a proxy that is, is tried again."""
    backend = TrackioBackend({"server_url": proxy.url, "write_token": TOKEN})
    proxy.status = status
    with pytest.raises(Exception, match=r".") as caught:
        backend.open(run_info(project="opening", run_id=f"opening {status}"))
    assert backend.is_transient(caught.value)
    proxy.status = None
    backend.open(run_info(project="opening", run_id=f"opening {status}"))
    backend.write([Maker().scalar("x", 1.0)])
    backend.close("finished")


def test_check_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server without a token and a Space without a login are found at once, and only where they would be used."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    server = {"server_url": "http://127.0.0.1:1"}
    with pytest.raises(errors.BackendUnavailableError, match="TRACKIO_WRITE_TOKEN"):
        TrackioBackend.check(offline=False, options=server)
    with pytest.raises(errors.ConfigurationError, match="http"):
        TrackioBackend.check(offline=False, options={"server_url": "localhost:7860"})
    with pytest.raises(errors.BackendUnavailableError, match="HF_TOKEN"):
        TrackioBackend.check(offline=False, options={"space_id": "me/space"})
    with pytest.raises(errors.ConfigurationError, match="server_url"):
        TrackioBackend({"server-url": "x"})
    TrackioBackend.check(offline=True, options=server)
    TrackioBackend.check(offline=False, options={**server, "write_token": "t"})
    monkeypatch.setenv("HF_TOKEN", "t")
    TrackioBackend.check(offline=False, options={"space_id": "me/space"})


def test_space_without_network_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Space that cannot be reached is tried again later, not given up."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    backend = TrackioBackend({"space_id": "me/space"})
    with pytest.raises(Exception, match=r".") as caught:
        backend.open(run_info())
    assert backend.is_transient(caught.value)
    assert "hf_secret" not in str(caught.value)
