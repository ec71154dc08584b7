"""The SwanLab backend, driven directly; read back from the run's own log and files."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.backends.swanlab.reader import SwanLabReader
from tests.conftest import RunPython
from tests.sample_events import WALL, Maker, gif_frames, png, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.testing import Point, Trial

pytest.importorskip("swanlab")

from tracelet_shim.backends.swanlab import backend as module
from tracelet_shim.backends.swanlab import charts, limits, trials
from tracelet_shim.backends.swanlab.backend import SwanLabBackend
from tracelet_shim.backends.swanlab.times import timestamp

ROOT = Path(__file__).parents[3]
LONG = "x" * 5000
HOSTILE = [
    "", "_x_", "../../x", "/abs", "abs", "a\0b", "a\nb", LONG, LONG + "y", "a", "a/b", "Case", "case", "é/日本",
    "acc@1", "acc_x40_1", "__swanlab__.cpu", ".", "..", "a ", " a", "a/", "/", "q'\"\\", "%", "#?;", "lone \ud800",
    "a (text)", "a (repeat 1)", "a (text) (repeat 1)", "a (more)", "a (more: step)", "a (infinity)", "tracelet",
    "a (repeat 9", "\t",
]  # fmt: skip


def session(directory: Path, *batches: list[ev.Event], status: str = "finished", **about: object) -> SwanLabBackend:
    """Write `batches` in one session, as the relay does: from a thread that is not the main one."""
    backend, failed = SwanLabBackend({"log_dir": str(directory)}), []

    def work() -> None:
        try:
            backend.open(run_info(**about))
            for batch in batches:
                backend.write(batch)
                assert backend.written == len(batch)
            backend.flush()
            if status != "killed -9":
                backend.close(status)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return backend


def write(directory: Path, *batches: list[ev.Event], status: str = "finished", **about: object) -> SwanLabReader:
    session(directory, *batches, status=status, **about)
    return SwanLabReader(directory)


@dataclass
class Written:
    reader: SwanLabReader
    events: dict[str, list[ev.Event]]  # writer -> one event of each type


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """One run with one event of each type, by two writers with the same tags."""
    events = {writer: Maker(writer, f"/logs/{writer}").one_of_each() for writer in ("", "train")}
    about = {
        "project": "a project/é", "exp_name": " run 1\n", "run_id": "my/id", "notes": "two\nlines" * 200, "group": "g",
        "tags": {"owner": "me", "baseline": "", **{f"t{i}": "" for i in range(40)}},
        "config": {"seed": 1, "nested": {"": [1, 2**70, None]}, "none": None, "inf": -math.inf, "tracelet": 3},
    }  # fmt: skip
    return Written(write(tmp_path_factory.mktemp("swanlog"), events[""], events["train"], **about), events)


@pytest.mark.parametrize("writer", ["", "train"])
def test_every_event_type_reads_back(written: Written, writer: str) -> None:
    """Each event type arrives with its step and exact content, and two writers with the same tags do not mix."""
    r, sent = written.reader, {e.kind: e for e in written.events[writer]}
    assert r.scalars(writer, "s") == [Point(3, 0.1, sent["scalar"].wall_time)]
    ((step, pixels),) = r.images(writer, "i")
    assert step == 3
    assert png(pixels) == sent["image"].data
    ((step, frames),) = r.videos(writer, "v")
    assert step == 3
    np.testing.assert_array_equal(frames, gif_frames(sent["video"].data))
    ((step, rate, samples),) = r.audio(writer, "a")
    assert (step, rate, len(samples)) == (3, 16000, 800)
    assert samples.tobytes() == sent["audio"].data[44:]
    assert r.texts(writer, "t") == [(3, sent["text"].text)]
    ((step, precision, recall),) = r.pr_curves(writer, "p")
    assert (step, tuple(precision), tuple(recall)) == (3, sent["pr_curve"].precision, sent["pr_curve"].recall)
    ((step, vertices, faces, colors),) = r.meshes(writer, "m")
    assert step == 3
    np.testing.assert_array_equal(vertices, sent["mesh"].vertices.numpy()[0])
    np.testing.assert_array_equal(faces, sent["mesh"].faces.numpy()[0])
    np.testing.assert_array_equal(colors, sent["mesh"].colors.numpy()[0])
    ((step, matrix, rows),) = r.embeddings(writer, "e")
    assert step == 3
    np.testing.assert_array_equal(matrix.astype(np.float32), sent["embedding"].matrix.numpy())
    assert rows == [list(row) for row in sent["embedding"].metadata]
    assert len(r.files("embeddings", f"{writer}/e" if writer else "e", ".sprite.png")) == 1
    ((step, tensor),) = r.tensors(writer, "x")
    np.testing.assert_array_equal(tensor, sent["tensor"].value.numpy())
    assert r.graphs(writer) == [{"input", "Net/Linear[fc]/weight", "output"}]
    (page,) = r.entries("graph", writer, "")
    assert b"<td>Net/Linear[fc]/weight</td><td>prim::Param</td>" in page.value[0][1]
    layout = sent["custom_scalars"].layout["Losses"]
    assert r.custom_scalars(writer) == [{"Losses": {title: [kind, tags] for title, (kind, tags) in layout.items()}}]
    path = f"{writer}/other" if writer else "other"
    assert r.files("other", path, ".run_metadata.pb") == [(0, b"\x00\x01blob")]


def test_charts_show_the_data(written: Written) -> None:
    """The bars of a histogram hold its mass, with the exact buckets beside them; an embedding lies on its main axes."""
    sent = {e.kind: e for e in written.events[""]}
    ((_, chart),) = written.reader.charts("histogram", "", "h")
    bars = np.array(chart["series"][0]["data"])
    assert len(bars) == len(chart["xAxis"]["data"]) == charts.BINS
    assert bars.sum() == pytest.approx(sent["histogram"].num)
    ((_, edges, counts),) = written.reader.histograms("", "h")
    assert tuple(edges[1:]) == sent["histogram"].limits
    assert tuple(counts) == sent["histogram"].counts
    ((_, chart),) = written.reader.charts("embedding", "", "e")
    points = np.array([row[:2] for row in chart["dataset"]["source"]])
    matrix = sent["embedding"].matrix.numpy()
    largest = np.linalg.svd(matrix - matrix.mean(0))[1][:2]
    np.testing.assert_allclose(np.linalg.norm(points), np.linalg.norm(largest), rtol=0.02)
    assert chart["dataset"]["source"][4][2] == "p4 · 1"


def test_the_run_says_what_the_user_said(written: Written) -> None:
    """Project, name, tags, notes, id, parameters and program are in SwanLab's own fields, and unchanged beside them."""
    r = written.reader
    about = r.about()
    assert about.pop("tags") == {"owner": "me", "baseline": "", **{f"t{i}": "" for i in range(40)}}
    assert about == {"project": "a project/é", "exp_name": " run 1\n", "notes": "two\nlines" * 200, "run_id": "my/id"}
    start = r.run.start
    assert (start.project, start.group, start.description[:9]) == ("a_x20_project_x2f__xe9_", "g", "two\nlines")
    assert (len(start.tags), start.tags[0]) == (30, "owner=me")
    given = {"seed": 1, "nested": {"": [1, str(2**70), None]}, "none": "None", "inf": "-inf", "tracelet": 3}
    assert r.params() == {**given, "lr": 0.1, "bs": 32, "opt": "adam", "amp": True}
    assert r.summary_metrics() == {"acc": 0.75}
    assert [p.value for p in r.scalars("", "acc")] == [0.75, 0.75]  # of the two writers
    assert r.status() == "finished"
    folder = r.run.logs[0].parent
    runtime = json.loads((folder / "files" / "swanlab-metadata.json").read_text())["runtime"]
    expected = {"command": "/usr/bin/python3 train.py --lr 0.1", "cwd": "/home/user", "hostname": "node-1", "pid": 4242}
    assert {k: runtime[k] for k in expected} == expected
    names = {p.name for p in (folder / "files").iterdir() if p.is_file()}
    assert names == {"config.yaml", "swanlab-metadata.json"}


def test_the_sdk_reads_what_was_written(written: Written) -> None:
    """SwanLab's own reader, which `swanlab sync` uses, takes every record, and the steps of each key are distinct."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader = DataStoreReader()
    reader.open(written.reader.run.logs[0])
    records = [Record.FromString(data) for data in reader]
    assert (records[0].WhichOneof("record_type"), records[-1].WhichOneof("record_type")) == ("start", "finish")
    points = [(p.key, p.step) for r in records for p in (r.scalar, r.media) if p.key]
    assert len(points) == len(set(points)) == len(written.reader.run.points)


def test_scalars_are_exact(tmp_path: Path) -> None:
    """Any float64, any int64 step in any order, and any wall time of our era read back as they were."""
    make = Maker()
    steps = [5, -3, 2**62, 0, -1, -(2**63), 2**63 - 1, 7, -(2**40), 2**48, 2**48 + 1]
    values = [0.1, 1e300, 5e-324, -0.0, math.inf, -math.inf, 2.0**53 + 1, math.pi, -1e-300, math.inf, 3.0]
    walls = [1.5, 0.0, -7.25, 1e11, 1_760_000_000.123456, 3.0, 4.0, 5.0, 6.0, 7.0, 1_760_000_000.999999999]
    points = [Point(*p) for p in zip(steps, values, walls, strict=True)]
    odd = [make.scalar("nan", math.nan, i, wall=w) for i, w in enumerate([math.nan, math.inf, 1e300, -1e300])]
    series = [make.scalar("s", float(i), 1, series=key) for i, key in enumerate(["a", "", "_x_", "a/b"])]
    r = write(tmp_path, [make.scalar("s", p.value, p.step, p.wall_time) for p in points], odd + series)
    assert r.scalars("", "s") == sorted(points)
    assert math.copysign(1, {p.step: p.value for p in r.scalars("", "s")}[0]) == -1
    found = [(p.step, math.isnan(p.value), p.wall_time) for p in r.scalars("", "nan")]
    assert found == [(i, True, 0) for i in range(4)]
    assert [r.scalars("", "s", e.series) for e in series] == [[Point(1, e.value, e.wall_time)] for e in series]


def test_repeated_steps_all_arrive_in_order(tmp_path: Path) -> None:
    """Points at one step are all kept, in order: a few, hundreds, interleaved, equal ones, and those of other types."""
    make, events = Maker(), []
    events += [make.scalar("nostep", float(i % 7), 0, wall=float(i)) for i in range(600)]
    events += [make.scalar("again", float(i), i % 20) for i in range(60)]
    events += [make.scalar("equal", 1.0, 4, wall=5.0) for _ in range(30)]
    events += [make.scalar(tag, float(i), -5) for i in range(12) for tag in ("x", "y")]
    events += [make.text("t", f"{i}", 2**62) for i in range(12)]
    events += [make.image("t", 2, np.full((2, 2), i, np.uint8)) for i in range(12)]
    r = write(tmp_path, events[:333], events[333:])
    assert [p[1:] for p in r.scalars("", "nostep")] == [(float(i % 7), float(i)) for i in range(600)]
    assert [p[:2] for p in r.scalars("", "again")] == [(s, float(s + 20 * n)) for s in range(20) for n in range(3)]
    assert [p[:2] for p in r.scalars("", "equal")] == [(4, 1.0)] * 30
    for tag in ("x", "y"):
        assert [p[:2] for p in r.scalars("", tag)] == [(-5, float(i)) for i in range(12)]
    assert r.texts("", "t") == [(2**62, str(i)) for i in range(12)]
    assert [(s, pixels[0, 0]) for s, pixels in r.images("", "t")] == [(2, i) for i in range(12)]
    assert len([key for key in r.run.columns if key.startswith("nostep")]) == 1 + limits.REPEATS + 2


def test_what_is_delivered_twice_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that failed when it was flushed (disk full) and comes again makes no repeats, and nothing is lost."""
    make = Maker()
    batch = [make.scalar("s", float(i), 0) for i in range(20)] + [make.text("t", "same", 1) for _ in range(3)]
    batch.append(make.hparams({"lr": 1}, {"acc": 0.5, "loss": 0.1}))
    backend = SwanLabBackend({"log_dir": str(tmp_path)})
    backend.open(run_info())
    store = type(backend.handle._core._store)
    with monkeypatch.context() as patch:

        def full(self: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(store, "ensure_flushed", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space") as caught:
                backend.write(batch)
            assert (backend.written, backend.is_transient(caught.value)) == (0, True)
    backend.write(batch)
    assert backend.written == len(batch)
    backend.write([make.scalar("s", 20.0, 0)])
    backend.close("finished")
    r = SwanLabReader(tmp_path)
    assert [p.value for p in r.scalars("", "s")] == [float(i) for i in range(21)]
    assert (len(r.texts("", "t")), len(r.scalars("", "acc")), len(r.scalars("", "loss"))) == (3, 1, 1)


def test_what_stands_behind_a_refused_scalar_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scalar that SwanLab does not take is an error of its own; those behind it, that it took, are not stored again."""
    from swanlab.sdk.internal.core_python.metrics import BaseMetric

    make, accept = Maker(), BaseMetric.try_accept_step
    events = [make.scalar("s", float(i), i) for i in range(10)]
    backend = SwanLabBackend({"log_dir": str(tmp_path)})
    backend.open(run_info())
    monkeypatch.setattr(BaseMetric, "try_accept_step", lambda self, step: step != 7 and accept(self, step))
    with pytest.raises(errors.EventRejectedError, match="step 7"):
        backend.write(events)
    assert backend.written == 7
    with pytest.raises(errors.EventRejectedError, match="step 7"):
        backend.write(events[7:8])
    for event in events[8:]:
        backend.write([event])
    backend.write([make.scalar("s", 8.5, 8)])
    backend.close("finished")
    points = SwanLabReader(tmp_path).scalars("", "s")
    assert [p.value for p in points if p.step != 8] == [0, 1, 2, 3, 4, 5, 6, 9]
    assert [p.value for p in points if p.step == 8] == [8, 8.5]


def test_what_counts_as_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error, only events that will come again are kept in mind."""
    make, backend = Maker(), SwanLabBackend({"log_dir": str(tmp_path)})
    backend.open(run_info())
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_media", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for part in range(3):
            with pytest.raises(OSError, match="No space"):
                backend.write([*(make.scalar("loss", float(i), 100 * part + i) for i in range(50)), make.image("i", part)])
            assert backend.written == 50
    assert backend._taken == set()
    backend.close("finished")
    assert len(SwanLabReader(tmp_path).scalars("", "loss")) == 150


def test_any_order_of_points_is_placed_alike(tmp_path: Path) -> None:
    """However a stream with repeated, odd and infinite points is cut into batches, each point arrives, in one place."""
    random = np.random.default_rng(3)
    make = Maker()
    steps = [-1, 0, 1, 2, 3, 2**48, 2**48 + 1]
    values = [math.inf, -math.inf, math.nan, *map(float, range(20))]
    drawn = [(*(int(random.integers(n)) for n in (3, len(values), len(steps))), WALL + i / 4) for i in range(700)]
    events: list[ev.Event] = [make.scalar(f"k{tag}", values[v], steps[s], wall) for tag, v, s, wall in drawn]
    found = []
    for size in (1, 7, len(events)):
        batches = [events[at : at + size] for at in range(0, len(events), size)]
        r = write(tmp_path / str(size), *batches)
        found.append({tag: r.scalars("", tag) for tag in ("k0", "k1", "k2")})
    assert str(found[0]) == str(found[1]) == str(found[2])
    assert sum(map(len, found[0].values())) == len(events)


def test_resumed_run_continues_without_loss_or_doubles(tmp_path: Path) -> None:
    """A later session continues the run of its id in a further directory; what is delivered again is not doubled."""
    make = Maker()
    first = [make.scalar("s", float(i), i, wall=float(i)) for i in range(5)]
    hot = [make.scalar("hot", float(i), 0, wall=float(i)) for i in range(20)]
    texts = [make.text("t", str(i), 1) for i in range(2)]
    trial = make.hparams({"x": 1}, {"acc": 0.5}, trial="one")
    everything = [*first, *hot, *texts, make.tensor("x", 3), make.hparams({"bs": 1}, {"m": 1.0}), trial]
    old = write(tmp_path, everything, status="killed -9", run_id="r", config={"lr": 0.1})
    assert old.status() == "running"
    more = [make.scalar("hot", float(i), 0, wall=float(i)) for i in range(20, 25)]
    more += [make.scalar("s", 100.0 + i, i) for i in range(3, 7)]
    new = write(tmp_path, [*everything[10:], *more], resume="r", config={"lr": 0.2})
    assert new.run_ids() == old.run_ids() == ["r"]
    assert len(new.run.logs) == 2
    assert new.status() == "finished"
    expected = [(0, 0), (1, 1), (2, 2), (3, 3), (3, 103), (4, 4), (4, 104), (5, 105), (6, 106)]
    assert [p[:2] for p in new.scalars("", "s")] == expected
    assert [p.value for p in new.scalars("", "hot")] == [float(i) for i in range(25)]
    assert (new.texts("", "t"), len(new.tensors("", "x"))) == ([(1, "0"), (1, "1")], 1)
    assert (new.params(), new.run.about["earlier_values"]) == ({"lr": 0.2, "bs": 1}, {"lr": [0.1]})
    assert new.trials() == [Trial({"x": 1}, {"acc": 0.5})]
    child = next(run for run in new.runs.values() if run.start.job_type == "trial")
    assert [e.value for e in child.entries["acc", "scalar"]] == [0.5]


@pytest.mark.parametrize(("end", "code"), [("os.kill(os.getpid(), 9)", -9), ("sys.exit(7)", 7)])
def test_an_end_without_close_loses_nothing(end: str, code: int, tmp_path: Path, run_python: RunPython) -> None:
    """SIGKILL or exit right after `write` leaves a log with every event of it; nothing runs at exit, nothing is printed."""
    done = run_python(
        f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.sample_events import Maker, run_info
        from tracelet_shim.backends.swanlab.backend import SwanLabBackend
        backend = SwanLabBackend()
        backend.open(run_info())
        make = Maker()
        backend.write([make.scalar("s", 0.5, i) for i in range(3)] + make.one_of_each())
        {end}
        """,
        check=False,
        env={"SWANLAB_LOG_DIR": str(tmp_path / "log")},
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    r = SwanLabReader(tmp_path / "log")
    assert [p.step for p in r.scalars("", "s")] == [0, 1, 2, 3]
    assert (r.status(), r.params()["lr"], len(r.meshes("", "m"))) == ("running", 0.1, 1)


def test_hostile_tags_never_collide(tmp_path: Path) -> None:
    """Every odd tag keeps its own scalars, texts, images, charts and files, and nothing is written elsewhere."""
    make = Maker()
    events: list[ev.Event] = []
    for i, tag in enumerate(HOSTILE):
        events += [make.text(tag, f"text {i}", i), make.scalar(tag, float(i), i), make.tensor(tag, i)]
        events += [make.image(tag, i, np.full((1, 1), i, np.uint8)), make.video(tag, i), make.histogram(tag, i, 8)]
        events += [make.scalar("m", i, i, series=tag)]
        events += [Maker(tag, f"/logs/{i}").scalar("w", float(i), i)] if tag else []
    events += [make.hparams(dict.fromkeys(HOSTILE, 1), dict.fromkeys(HOSTILE, 2.0), 99), make.scalar("after", 1.0)]
    r = write(tmp_path / "log", events)
    for i, tag in enumerate(HOSTILE):
        assert [p[:2] for p in r.scalars("", tag)] == [(i, i), (99, 2)], tag
        assert [p[:2] for p in r.scalars("", "m", tag)] == [(i, i)], tag
        assert r.texts("", tag) == [(i, f"text {i}")]
        assert [(s, int(p[0, 0])) for s, p in r.images("", tag)] == [(i, i)]
        assert (len(r.videos("", tag)), len(r.histograms("", tag))) == (1, 1)
        assert [s for s, _ in r.tensors("", tag)] == [i], tag
        if tag:
            assert [p[:2] for p in r.scalars(tag, "w")] == [(i, i)]
    assert len(r.params()) == len(r.summary_metrics()) == len(HOSTILE)
    assert len(r.scalars("", "after")) == 1
    assert {p.parent for p in tmp_path.iterdir()} == {tmp_path}
    assert [p.name for p in tmp_path.iterdir() if p.name != "log"] == []


def test_keys_are_as_swanlab_wants_them() -> None:
    """No key that we make would be trimmed, cut or refused by SwanLab, whatever is appended to it."""
    from swanlab.sdk.internal.pkg import helper
    from swanlab.sdk.internal.run import fmt

    names = Names(limits.KEY, limits.MAX_KEY)
    for tag in HOSTILE:
        for end in ("", " (custom_scalars) (repeat 8)", " (more) (infinity)", " (more: step)"):
            key = names(tag) + end
            assert fmt.validate_key(key) == key
            assert not helper.is_system_key(key)


def test_sweep_trials_are_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial is a run in the parent's group with its parameters and metrics; its parts meet, even after its end."""
    monkeypatch.setattr(trials, "MAX_TRIALS", 1)
    make = Maker()
    events = [
        make.hparams({"lr": 0.1}, {}), make.hparams({}, {"acc": 0.5}, step=9), make.hparams({"lr": 0.3}, {}),
        make.hparams({"lr": 1, "x": "y" * 100_000}, {"acc": 0.6}, trial="t/1"),
        make.hparams({"lr": 2}, {}, trial="../2"), make.hparams({}, {"acc": math.nan}, trial="t/1"),
        make.hparams({}, {"acc": 0.7}, trial="../2"), make.scalar("s", 1.0),
    ]  # fmt: skip
    before = threading.active_count()
    r = write(tmp_path, events, status="failed")
    assert threading.active_count() == before
    assert (r.params(), r.run.about["earlier_values"]) == ({"lr": 0.3}, {"lr": [0.1]})
    assert (r.summary_metrics(), r.status(), len(r.run_ids())) == ({"acc": 0.5}, "failed", 1)
    assert [p[:2] for p in r.scalars("", "acc")] == [(9, 0.5)]
    one, two = r.trials()
    assert one.params["lr"] == 1
    assert one.params["x"].startswith("y" * 1000)
    assert "cut, whole text in hparams/x=" in one.params["x"]
    assert math.isnan(one.metrics["acc"])
    assert two == Trial({"lr": 2}, {"acc": 0.7})
    children = [run for run in r.runs.values() if run.start.job_type == "trial"]
    assert {run.start.name for run in children} == {"t/1", "../2"}
    assert {len(run.logs) for run in children} == {2}
    (whole,) = tmp_path.rglob("hparams/x=*.txt")
    assert whole.read_text() == "y" * 100_000


def test_odd_histograms_and_meshes(tmp_path: Path) -> None:
    """Empty, constant, open-ended and not finite histograms are charts; what is no valid 3D object becomes a file."""
    make, top = Maker(), 1.79e308
    odd = {
        "none": {"limits": (), "counts": (), "min": 0.0, "max": 0.0},
        "empty": {"limits": (0.0,), "counts": (0.0,), "min": 0.0, "max": 0.0},
        "constant": {"limits": (0.9, 1.1), "counts": (0.0, 5.0), "min": 1.0, "max": 1.0},
        "point": {"limits": (1.0, 1.0), "counts": (0.0, 5.0), "min": 1.0, "max": 1.0},
        "open": {"limits": (-1.0, 1.0, top), "counts": (1.0, 2.0, 3.0), "min": -5.0, "max": 7.0},
        "wrong extremes": {"limits": (0.0, 1.0, 2.0), "counts": (0.0, 2.0, 3.0), "min": 50.0, "max": -50.0},
        "nan": {"limits": (0.0, math.nan), "counts": (1.0, 2.0), "min": math.nan, "max": math.nan},
        "too wide": {"limits": (-top, top), "counts": (0.0, 2.0), "min": -top, "max": top},
    }
    events: list[ev.Event] = [
        ev.Histogram(**{**make._base(tag, 1), "num": 5.0, "sum": 0.0, "sum_squares": 0.0, **limits})
        for tag, limits in odd.items()
    ]
    cloud = make.mesh("cloud", 1, faces=False, colors=False)
    broken = np.tile(cloud.vertices.numpy(), (2, 1, 1))
    broken[1, 0, 0] = np.nan
    base = {field: getattr(cloud, field) for field in cloud.__struct_fields__}
    events += [cloud, make.mesh("colored", 1, faces=False), make.mesh("plain", 1, colors=False)]
    events += [ev.Mesh(**{**base, **make._base("nan", 1), "vertices": ev.Array.of(broken)})]
    events += [ev.Mesh(**{**base, **make._base("none", 1), "vertices": ev.Array.of(np.empty((0, 0, 3), np.float32))})]
    two = ev.Array.of(np.nan_to_num(broken))
    events += [ev.Mesh(**{**base, **make._base("two", 1), "vertices": two, "config": "{1}"})]
    curve = make.pr_curve("nan", 1)
    fields = {field: getattr(curve, field) for field in curve.__struct_fields__}
    events += [ev.PRCurve(**{**fields, "precision": (math.nan,) * 11})]
    events += [ev.Embedding(**make._base("inf", 1), matrix=ev.Array.of(np.full((2, 2), np.inf, np.float32)))]
    events += [ev.Embedding(**make._base("one", 1), matrix=ev.Array.of(np.arange(3.0).reshape(3, 1)))]
    r = write(tmp_path, events)
    for event, tag in zip(events, odd, strict=False):
        ((_, chart),) = r.charts("histogram", "", tag)
        if tag not in {"nan", "too wide"}:
            assert sum(chart["series"][0]["data"]) == pytest.approx(sum(event.counts))
        assert str(r.histograms("", tag)[0][2].tolist()) == str(list(event.counts))
    for tag, colors in (("cloud", None), ("colored", [9, 99, 199])):
        ((_, vertices, faces, found),) = r.meshes("", tag)
        np.testing.assert_array_equal(vertices, cloud.vertices.numpy()[0])
        assert (faces, found if colors is None else found[3].tolist()) == (None, colors)
    assert r.meshes("", "plain")[0][3] is None
    assert (r.meshes("", "nan"), len(r.files("meshes", "nan", ".1.ply"))) == ([], 1)
    assert (len(r.files("meshes", "none", ".ply")), len(r.meshes("", "two"))) == (1, 2)
    assert r.files("meshes", "two", ".config.json") == [(1, b"{1}")]
    assert np.isnan(r.pr_curves("", "nan")[0][1]).all()
    assert (len(r.embeddings("", "inf")), len(r.charts("embedding", "", "one"))) == (1, 1)


def test_large_media_are_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond SwanLab's limit for media is an ordinary file of the run, and the sweep of names goes on."""
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    make = Maker()
    image, page, chart = make.image("i", 3), make.graph(), make.histogram("h", 3)
    r = write(tmp_path, [image, page, chart, make.embedding("e"), make.text("t", step=3)])
    assert r.files("images", "i", ".png") == [(3, image.data)]
    assert (r.images("", "i"), len(r.graphs()), len(r.files("histograms", "h", ".json"))) == ([], 1, 1)
    assert len(r.texts("", "t")) == 1


def test_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    """No exception hook, signal handler, thread or active run of SwanLab's is left, nor is a hook while it runs."""
    import swanlab
    from swanlab.sdk.internal.pkg import console

    before = sys.excepthook, signal.getsignal(signal.SIGINT), threading.active_count(), console.c.quiet, sys.stdout
    backend = SwanLabBackend({"log_dir": str(tmp_path)})
    backend.open(run_info())  # here, in the main thread
    backend.write([Maker().hparams({"a": 1}, {}, trial="t")])
    during = sys.excepthook, signal.getsignal(signal.SIGINT)
    assert (during, swanlab.has_run(), dict(swanlab.config)) == (before[:2], False, {})
    backend.close("killed")
    after = sys.excepthook, signal.getsignal(signal.SIGINT), threading.active_count(), console.c.quiet, sys.stdout
    assert after == before
    assert SwanLabReader(tmp_path).status() == "killed"


def test_the_users_own_run_is_joined_and_left_open(tmp_path: Path, run_python: RunPython) -> None:
    """An active run of the user's gets our points beside his own of the same names, and goes on after our end."""
    done = run_python(
        f"""
        import sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from tests.sample_events import Maker, run_info
        from tracelet_shim.backends.swanlab.backend import SwanLabBackend
        assert SwanLabBackend.borrowed() is None
        import swanlab
        run = swanlab.init(project="mine", id="mine", config={{"user": 1}})
        assert SwanLabBackend.borrowed() == "mine"
        swanlab.log({{"s": swanlab.Text("mine"), "x": 5.0}}, step=3)
        run.log({{"x": 6.0}}, step=4)
        stop, many = threading.Event(), threading.Event()
        def log_on() -> None:  # the user's thread knows nothing of what happens to his run
            for step in range(100_000):
                swanlab.log({{"busy": 1.0}}, step=step)
                if step == 300:
                    many.set()
                if stop.wait(0.001):
                    print("busy", step + 1)
                    break
        user = threading.Thread(target=log_on)
        user.start()
        assert many.wait(60)
        backend, make = SwanLabBackend(), Maker()
        assert backend.open(run_info(resume="mine")).run_id == "mine"
        backend.write(make.one_of_each() + [make.scalar("x", 7.0, 3)])
        backend.write([make.hparams({{"a": 1}}, {{"m": 1.0}}, trial="t")])
        backend.close("failed")
        stop.set()
        user.join()
        assert swanlab.has_run() and swanlab.config["user"] == 1
        swanlab.log({{"x": 8.0}}, step=5)
        swanlab.finish()
        backend = SwanLabBackend()
        backend.open(run_info(exp_name="own"))
        run = swanlab.init(project="mine", id="second")
        swanlab.log({{"x": 9.0}}, step=5)
        backend.write([make.scalar("x", 10.0, 3)])
        backend.close("finished")
        assert swanlab.get_run() is run
        swanlab.finish()
        """,
        env={"SWANLAB_LOG_DIR": str(tmp_path / "log")},
    )
    mine = SwanLabReader(tmp_path / "log", "mine")
    assert len(mine.scalars("", "busy")) == int(re.search(r"busy (\d+)", done.stdout)[1]) > 300
    keys = [(p.key, p.step, p.value.number) for _, p in mine.run.points if p.DESCRIPTOR.name == "ScalarRecord"]
    expected = [("x", 3, 5.0), ("x", 4, 6.0), ("x (repeat 1)", 3, 7.0), ("x", 5, 8.0)]
    assert [k for k in keys if k[0][0] == "x"] == expected
    assert ("s (repeat 1)", 3, 0.1) in keys  # the user has another type under this key
    assert (mine.params()["user"], mine.params()["lr"], mine.status()) == (1, 0.1, "finished")
    assert mine.trials() == [Trial({"a": 1}, {"m": 1.0})]
    others = [run for name, run in mine.runs.items() if run.start.name == "own" or name == "second"]
    assert sorted(p.value.number for run in others for _, p in run.points) == [9.0, 10.0]


def test_a_credential_is_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online without a key is an error before anything is imported; offline, a key or a login file are not."""
    SwanLabBackend.check(offline=False, options={})  # the suite's SWANLAB_MODE is offline
    monkeypatch.delenv("SWANLAB_MODE")
    SwanLabBackend.check(offline=True, options={})
    SwanLabBackend.check(offline=False, options={"mode": "local"})
    with pytest.raises(errors.BackendUnavailableError, match="swanlab login"):
        SwanLabBackend.check(offline=False, options={})
    with pytest.raises(errors.BackendUnavailableError, match="SWANLAB_API_KEY"):
        SwanLabBackend.check(offline=False, options={"mode": "online"})
    monkeypatch.setenv("SWANLAB_API_KEY", "k")
    SwanLabBackend.check(offline=False, options={})
    monkeypatch.delenv("SWANLAB_API_KEY")
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine https://api.swanlab.cn login https://swanlab.cn password k\n")
    SwanLabBackend.check(offline=False, options={})
    with pytest.raises(errors.ConfigurationError, match="did you mean 'log_dir'"):
        SwanLabBackend({"logdir": "x"})
    with pytest.raises(errors.ConfigurationError, match="offline"):
        SwanLabBackend({"mode": "off"})
    assert registry.validate(SwanLabBackend) is SwanLabBackend


def test_odd_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SWANLAB_PROJECT, which stops the SDK, names the project; a disabled SwanLab takes all and keeps nothing."""
    monkeypatch.setenv("SWANLAB_PROJECT", "from env/1")
    r = write(tmp_path / "a", [Maker().scalar("s", 1.0)], project=None, exp_name=None)
    assert r.run.start.project == "from_x20_env_x2f_1"
    assert os.environ["SWANLAB_PROJECT"] == "from env/1"
    monkeypatch.setenv("SWANLAB_MODE", "disabled")
    session(tmp_path / "b", Maker().one_of_each())
    assert not (tmp_path / "b").exists()


class Service(BaseHTTPRequestHandler):
    """As much of SwanLab's service as an upload of scalars needs."""

    seen: list[tuple[str, str, object]] = []  # noqa: RUF012
    known: set[str] = set()  # noqa: RUF012 - ids of runs
    steps: dict[str, int] = {}  # noqa: RUF012 - key -> last step, of a run that is resumed

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = json.loads(body) if body.startswith((b"{", b"[")) else None
        self.seen.append((self.command, self.path, content))
        reply: dict[str, object] = {}
        new = False
        if self.path.endswith("/login/api_key"):
            key = self.headers.get("authorization")
            reply = {"sid": "s", "expiredAt": "2999-01-01T00:00:00.000Z", "userInfo": {"username": "u"}}
            if key != "good":
                self.send_response(401)
                self.end_headers()
                return
        elif self.command == "POST" and self.path.endswith("/experiment"):
            reply = {"cuid": content["cuid"], "name": content["name"], "slug": content["cuid"]}
            reply["createdAt"] = "2025-10-09T08:53:20.125Z"
            new = content["cuid"] not in self.known
            self.known.add(content["cuid"])
        elif self.command == "GET" and "/project/" in self.path:
            name = self.path.rpartition("/")[2]
            reply = {"cuid": "c", "name": name, "path": f"/u/{name}", "group": {"username": "u"}, "version": 1}
            reply["_count"] = {"experiments": 0}
        elif self.path.endswith("/files/prepare"):
            reply = {"urls": [f"http://{self.headers['Host']}/storage" for _ in content["files"]]}
        elif "/summaries/" in self.path:
            reply = {"scalar": [{"key": key, "step": step} for key, step in self.steps.items()], "media": []}
        data = json.dumps(reply).encode()
        self.send_response(201 if new else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


ONLINE = """
import sys, threading
sys.path.insert(0, {root!r})
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.swanlab import backend as module
module.FINISH_SECONDS = 2
backend, make = module.SwanLabBackend({{"mode": "online", "api_host": sys.argv[1]}}), Maker()
try:
    opened = backend.open(run_info(run_id="r", resume="r" if "again" in sys.argv else None))
except Exception as error:
    print(type(error).__name__, backend.is_transient(error), "secret" in str(error))
    sys.exit()
print(opened.url)
backend.write([make.scalar("s", 0.5, i) for i in (3, 3, -1)])
if "again" in sys.argv:
    backend.write([make.scalar("s", 0.5, 3)])
backend.write([make.hparams({{"a": 1}}, {{"m": 1.0}}, trial="t")])
sys.stdout.flush()
input()
try:
    backend.close("failed")
except Exception as error:
    print(error)
"""


@pytest.fixture
def service() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    for store in (Service.seen, Service.known, Service.steps):
        store.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_online(tmp_path: Path, service: ThreadingHTTPServer) -> None:
    """Points reach the service under their keys, the run ends in its state, and a trial is uploaded after it."""
    env = {**os.environ, "SWANLAB_API_KEY": "good", "SWANLAB_LOG_DIR": str(tmp_path / "log")}
    host = f"http://127.0.0.1:{service.server_port}"
    command = [sys.executable, "-c", ONLINE.format(root=str(ROOT)), host]
    done = subprocess.run(command, input="\n", env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (f"{host}/@u/p/runs/r\n", "", 0)
    metrics = [metric for *_, body in Service.seen for metric in (body or {}).get("metrics", [])]
    sent = {(m["key"], m["index"], m["data"]) for m in metrics if "index" in m}
    ours = {("s", 3, 0.5), ("s (repeat 1)", 3, 0.5), ("s (more)", 0, 0.5), ("s (more: step)", 0, -1.0), ("m", 0, 1.0)}
    assert sent == ours
    assert {m["create_time"] for m in metrics if "index" in m and m["key"] != "m"} == {"2025-10-09T08:53:20.125Z"}
    (of_trial,) = (m["create_time"] for m in metrics if m.get("key") == "m" and "index" in m)
    assert of_trial.startswith("2025-10-09T08:53:20.128")  # a trial has its own time
    experiments = [body for _, path, body in Service.seen if path.endswith("/experiment")]
    assert [(e.get("job"), e.get("cluster")) for e in experiments] == [(None, None), ("trial", "r")]
    states = [body["state"] for method, path, body in Service.seen if path.endswith("/state")]
    assert states == ["CRASHED", "FINISHED"]


def test_a_service_that_dies_is_no_hang(tmp_path: Path, service: ThreadingHTTPServer) -> None:
    """A service gone before the end: close gives up in time, names the command that uploads, and the process ends."""
    env = {**os.environ, "SWANLAB_API_KEY": "good", "SWANLAB_LOG_DIR": str(tmp_path / "log")}
    host = f"http://127.0.0.1:{service.server_port}"
    command = [sys.executable, "-c", ONLINE.format(root=str(ROOT)), host]
    running = subprocess.Popen(command, env=env, stdin=-1, stdout=-1, stderr=-1, text=True)
    try:
        assert running.stdout.readline() == f"{host}/@u/p/runs/r\n"
        service.shutdown()
        service.server_close()
        out, err = running.communicate("\n", timeout=40)
    finally:
        running.kill()
    assert "did not take it within 2 s" in out
    assert "swanlab sync --id r " in out
    assert (err, running.returncode) == ("", 0)
    r = SwanLabReader(tmp_path / "log", "r")
    assert [(p.step, p.value) for p in r.scalars("", "s")] == [(-1, 0.5), (3, 0.5), (3, 0.5)]
    assert r.trials() == [Trial({"a": 1}, {"m": 1.0})]


def test_a_resumed_run_uploads_what_was_left(tmp_path: Path, service: ThreadingHTTPServer) -> None:
    """Points that a session stored and did not upload reach the service with the next one, those it has do not again."""
    make = Maker()
    events = [make.scalar(tag, float(i), i, wall=float(i)) for tag in ("s", "t") for i in range(4)]
    write(tmp_path / "log", [*events, make.tensor("x")], status="killed -9", run_id="r")
    Service.known.add("r")
    Service.steps["t"] = 2
    env = {**os.environ, "SWANLAB_API_KEY": "good", "SWANLAB_LOG_DIR": str(tmp_path / "log")}
    command = [sys.executable, "-c", ONLINE.format(root=str(ROOT)), f"http://127.0.0.1:{service.server_port}", "again"]
    done = subprocess.run(command, input="\n", env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    metrics = [metric for *_, body in Service.seen for metric in (body or {}).get("metrics", [])]
    sent = sorted((m["key"], m["index"], m["data"]) for m in metrics if "index" in m)
    left = [("s", float(i), float(i)) for i in range(4)]
    new = [("s (more)", 0, 0.5), ("s (more: step)", 0, -1.0), *((f"s (repeat {n})", 3, 0.5) for n in (1, 2, 3))]
    assert sent == [("m", 0, 1.0), *left, *new, ("t", 3, 3.0)]
    assert any("files" in str(body) and "tensors/x/" in str(body) for *_, body in Service.seen)


def test_wrong_keys_and_dead_services_are_told_apart(service: ThreadingHTTPServer, tmp_path: Path) -> None:
    """A refused key is final; a service that does not answer is worth another try; neither shows the key."""
    env = {**os.environ, "SWANLAB_API_KEY": "secret", "SWANLAB_LOG_DIR": str(tmp_path / "log")}
    results = []
    for host in (f"http://127.0.0.1:{service.server_port}", "http://127.0.0.1:9"):
        command = [sys.executable, "-c", ONLINE.format(root=str(ROOT)), host]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)
        results.append((done.stdout, done.stderr))
    assert results == [("AuthenticationError False False\n", ""), ("ConnectionError True False\n", "")]


def test_wall_times_become_timestamps() -> None:
    """A timestamp gives the very float back, at any fraction of a second."""
    for wall in (WALL, 0.1, 1.999999999, 1_760_000_000.9999998, -0.25, 253402300798.5):
        seconds, nanos = timestamp(wall)
        assert 0 <= nanos < 10**9
        assert (seconds * 10**9 + nanos) / 10**9 == wall
    assert timestamp(math.nan) == timestamp(1e18) == (0, 0)
