"""The Aim backend, driven directly; read back through Aim's own API."""

from __future__ import annotations

import gc
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.backends.aim.live import AimServer
from tests.backends.aim.reader import AimReader
from tests.sample_events import Maker, gif_frames, png, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.testing import Point, Trial

pytest.importorskip("aim")

from tracelet_shim.backends.aim.backend import AimBackend
from tracelet_shim.backends.aim.repository import find

ROOT = Path(__file__).parents[3]
LONG = "x" * 5000
HOSTILE = [
    "", "_x_", "../../x", "/abs", "abs", "a\0b", "a\nb", LONG, LONG + "y", "a", "a/b", "Case", "case", "é/日本",
    "acc@1", "acc_x40_1", "__system__cpu", ".", "..", "a ", " a", "q'\"\\", "%", "#?;", "lone \ud800",
]  # fmt: skip


def write(directory: Path, events: list[ev.Event], status: str = "finished", **about: object) -> AimReader:
    """Write `events` in one session, as the relay does: from a thread that is not the main one."""
    backend, ids, failed = AimBackend({"repo": str(directory)}), [], []

    def session() -> None:
        try:
            ids.append(backend.open(run_info(**about)).run_id)
            backend.write(events)
            backend.flush()
            backend.close(status)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=session)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return AimReader(directory, ids[0])


@pytest.fixture(scope="session")
def empty_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository; to make one takes Aim two seconds."""
    directory = tmp_path_factory.mktemp("empty")
    code = f"from aim import Repo; Repo({str(directory)!r}, init=True)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return directory


@pytest.fixture
def repo(empty_repo: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(empty_repo, tmp_path / "repo"))
    gc.collect()  # a store that a test still had a hand on is closed while its directory is there


@dataclass
class Written:
    reader: AimReader
    events: dict[str, list[ev.Event]]  # writer -> one event of each type


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """One run with one event of each type, by two writers with the same tags."""
    events = {writer: Maker(writer).one_of_each() for writer in ("", "train")}
    directory = tmp_path_factory.mktemp("aim")
    about = {
        "project": "a project/é", "exp_name": "run 1", "run_id": "my id", "notes": "two\nlines", "group": "g",
        "tags": {"owner": "me", "baseline": ""}, "config": {"seed": 1, "nested": {"": [1, 2**70]}},
    }  # fmt: skip
    return Written(write(directory, events[""] + events["train"], **about), events)


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
    np.testing.assert_array_equal(vertices, sent["mesh"].vertices.numpy()[0])
    np.testing.assert_array_equal(faces, sent["mesh"].faces.numpy()[0])
    np.testing.assert_array_equal(colors, sent["mesh"].colors.numpy()[0])
    ((step, matrix, rows),) = r.embeddings(writer, "e")
    np.testing.assert_array_equal(matrix.astype(np.float32), sent["embedding"].matrix.numpy())
    assert rows == [list(row) for row in sent["embedding"].metadata]
    assert len(r.figures(writer, "e", "embedding")[0][1]["data"][0]["z"]) == 9
    ((step, tensor),) = r.tensors(writer, "x")
    np.testing.assert_array_equal(tensor, sent["tensor"].value.numpy())
    assert r.graphs(writer) == [{"input", "Net/Linear[fc]/weight", "output"}]
    layout = sent["custom_scalars"].layout["Losses"]
    assert r.custom_scalars(writer) == [{"Losses": {title: [kind, tags] for title, (kind, tags) in layout.items()}}]
    path = f"{writer}/other" if writer else "other"
    assert r.files("other", path, ".run_metadata.pb") == [(0, b"\x00\x01blob")]


def test_histogram_keeps_its_mass_and_its_exact_buckets(written: Written) -> None:
    """The uniform bins hold as many samples below each edge as TensorBoard's; the exact buckets are stored too."""
    sent = next(e for e in written.events[""] if e.kind == "histogram")
    ((step, edges, counts),) = written.reader.histograms("", "h")
    assert (step, len(counts)) == (3, 512)
    assert (edges[0], edges[-1]) == pytest.approx((sent.min, sent.max))
    assert counts.sum() == pytest.approx(sent.num)
    below = np.interp(edges[1:-1], sent.limits, np.cumsum(sent.counts))
    np.testing.assert_allclose(np.cumsum(counts)[:-1], below, atol=1e-6)
    (exact,) = written.reader.exact_histograms("", "h")
    assert exact == {
        name: getattr(sent, name) for name in ("min", "max", "num", "sum", "sum_squares", "limits", "counts")
    }


def test_odd_histograms(repo: Path) -> None:
    """Empty, constant, open-ended and not finite histograms arrive, with their mass, or as a file."""
    whole, make = Maker().histogram("x"), Maker()
    top = 1.79e308
    odd = {
        "empty": {"limits": (0.0,), "counts": (0.0,), "min": 0.0, "max": 0.0},
        "constant": {"limits": (0.9, 1.1), "counts": (0.0, 5.0), "min": 1.0, "max": 1.0},
        "point": {"limits": (1.0, 1.0), "counts": (0.0, 5.0), "min": 1.0, "max": 1.0},
        "open": {"limits": (-1.0, 1.0, top), "counts": (1.0, 2.0, 3.0), "min": -5.0, "max": 7.0},
        "wrong extremes": {"limits": (0.0, 1.0, 2.0), "counts": (0.0, 2.0, 3.0), "min": 50.0, "max": -50.0},
        "uniform": {"limits": (0.0, 1.0, 2.0), "counts": (0.0, 2.0, 3.0), "min": 0.0, "max": 2.0},
        "nan": {"limits": (0.0, math.nan), "counts": (1.0, 2.0), "min": math.nan, "max": math.nan},
        "too wide": {"limits": (-top, top), "counts": (0.0, 2.0), "min": -top, "max": top},
    }
    events = [
        ev.Histogram(**{**make._base(tag, 1), "num": 5.0, "sum": 0.0, "sum_squares": 0.0, **o})
        for tag, o in odd.items()
    ]
    r = write(repo, [whole, *events])
    for tag, event in zip(odd, events, strict=True):
        found = r.histograms("", tag)
        if tag in {"nan", "too wide"}:
            assert (len(found), len(r.files("histograms", tag, ".json"))) == (0, 1)
        else:
            ((_, edges, counts),) = found
            assert counts.sum() == pytest.approx(sum(event.counts))
            assert (np.diff(edges) > 0).all()
    ((_, edges, counts),) = r.histograms("", "uniform")
    assert (edges.tolist(), counts.tolist()) == ([0.0, 1.0, 2.0], [2.0, 3.0])


def test_the_run_says_what_the_user_said(written: Written) -> None:
    """Project, name, tags, notes, id and parameters are in Aim's own fields, whatever characters they hold."""
    r = written.reader
    assert r.about() == {
        "project": "a project/é", "exp_name": "run 1", "run_id": "my id", "notes": "two\nlines",
        "tags": {"owner": "me", "baseline": ""},
    }  # fmt: skip
    assert r.run["group"] == "g"
    expected = {"seed": 1, "nested": {"_x_": [1, str(2**70)]}, "lr": 0.1, "bs": 32, "opt": "adam", "amp": True}
    assert r.params() == expected
    assert r.summary_metrics() == {"acc": 0.75}
    assert r.records("metric", "", "acc", type="hparams")[0][:2] == (3, 0.75)
    assert r.status() == "finished"


def test_a_plain_reader_in_another_process_finds_the_run(written: Written) -> None:
    """`Repo(path).iter_runs()` and a query list the closed run at once, without `aim up` or a reindex before."""
    code = f"""
from aim import Repo
repo = Repo({str(written.reader.directory)!r})
print([r.hash for r in repo.iter_runs()])
print([m.name for r in repo.query_metrics("metric.name == 's'").iter_runs() for m in r])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.strip() == f"['{written.reader.run_id}']\n['s', 's']"


def test_scalars_are_exact(repo: Path) -> None:
    """Any float64, any int64 step in any order, and any wall time read back as they were."""
    make = Maker()
    steps = [5, -3, 2**62, 0, -1, -(2**63), 2**63 - 1, 7, -(2**40)]
    values = [0.1, 1e300, 5e-324, -0.0, math.inf, -math.inf, 2.0**53 + 1, math.pi, -1e-300]
    walls = [1.5, 0.0, -7.25, 1e12, 1_760_000_000.123456, 3.0, 4.0, 5.0, 6.0]
    points = [Point(*p) for p in zip(steps, values, walls, strict=True)]
    odd = make.scalar("nan", math.nan, 1, wall=math.nan)
    series = [make.scalar("s", float(i), 1, series=key) for i, key in enumerate(["a", "", "_x_", "a/b"])]
    r = write(repo, [make.scalar("s", p.value, p.step, p.wall_time) for p in points] + [odd, *series])
    assert r.scalars("", "s") == sorted(points)
    ((step, value, wall),) = r.scalars("", "nan")
    assert (step, math.isnan(value), math.isnan(wall)) == (1, True, True)
    assert [r.scalars("", "s", e.series) for e in series] == [[Point(1, e.value, e.wall_time)] for e in series]


def test_repeated_steps_all_arrive_in_order(repo: Path) -> None:
    """Points at one step are all kept, in order: a few, many, interleaved, equal, and of other types."""
    make, events = Maker(), []
    events += [make.scalar("nostep", float(i % 7), 0, wall=float(i)) for i in range(600)]
    events += [make.scalar("again", float(i), i % 20) for i in range(60)]
    events += [make.scalar("equal", 1.0, 4, wall=5.0) for _ in range(30)]
    events += [make.scalar(tag, float(i), -5, wall=float(i)) for i in range(12) for tag in ("x", "y")]
    events += [make.text("t", f"{i}", 2**62) for i in range(12)]
    events += [make.scalar("huge", float(i), 2**60 + i) for i in range(12)]
    events += [make.image("t", 2, np.full((2, 2), i, np.uint8)) for i in range(3)]
    r = write(repo, events)
    assert [p[1:] for p in r.scalars("", "nostep")] == [(float(i % 7), float(i)) for i in range(600)]
    assert [p[:2] for p in r.scalars("", "again")] == [(s, float(s + 20 * n)) for s in range(20) for n in range(3)]
    assert [p[:2] for p in r.scalars("", "equal")] == [(4, 1.0)] * 30
    assert (
        [p[:2] for p in r.scalars("", "x")]
        == [p[:2] for p in r.scalars("", "y")]
        == [(-5, float(i)) for i in range(12)]
    )
    assert r.texts("", "t") == [(2**62, str(i)) for i in range(12)]
    assert [p[:2] for p in r.scalars("", "huge")] == [(2**60 + i, float(i)) for i in range(12)]
    assert [(s, pixels[0, 0]) for s, pixels in r.images("", "t")] == [(2, i) for i in range(3)]
    contexts = {
        i["context"].get("repeat") for i in r.run.collect_sequence_info(("metric",), skip_last_value=True)["metric"]
    }
    assert contexts == {None, *range(1, 9), "more"}


def test_aim_shows_late_repeats_at_their_step(repo: Path) -> None:
    """What Aim itself shows of a program that logs many points at each of few steps: all of them, at those steps, also as a
    sample, and after the run was continued."""
    make = Maker()
    events = [make.scalar("loss", float(i), 2048 * (1 + i // 30), wall=float(i)) for i in range(90)]
    write(repo, events[:50], run_id="r")
    read = write(repo, events[45:], run_id="r")
    from aim.storage.context import Context

    metrics = [read.run.get_metric("loss", Context({"repeat": n} if n else {})) for n in [*range(9), "more"]]
    shown: Counter[tuple[float, int]] = Counter()
    for metric in metrics:
        steps, (values, _, _) = metric.data.items_list()
        shown.update(zip(values, steps, strict=True))
    assert shown == Counter((e.value, e.step) for e in events)
    steps, (values,) = metrics[-1].data.view(["val"]).sample(20).items_list()
    assert all(step == events[int(value)].step for value, step in zip(values, steps, strict=True))
    assert metrics[-1].last_step() == 3 * 2048 == read.run.meta_run_tree["traces", metrics[-1].context.idx, "loss", "last_step"]


def test_resumed_run_continues_without_loss_or_doubles(repo: Path) -> None:
    """A later session with the same run_id goes on in the same run; what is delivered twice is there once."""
    make = Maker()
    first = [make.scalar("s", float(i), i, wall=float(i)) for i in range(5)]
    below = [make.scalar("below", float(i), i, wall=float(i)) for i in (-9, -3, -6)]
    hot = [make.scalar("hot", float(i), 0, wall=float(i)) for i in range(20)]
    texts = [make.text("t", str(i), 1) for i in range(2)]
    image, tensor = make.image("i", 3), make.tensor("x", 3)
    old = write(repo, [*first, *below, *hot, *texts, image, tensor], "killed", run_id="r", config={"lr": 0.1})
    assert old.status() == "killed"
    again = [replace_value(e, 100 + e.value, wall=50.0) for e in [*first[2:], *below]]
    more = [make.scalar("hot", float(i), 0, wall=float(i)) for i in range(20, 25)]
    resent = [*first[3:], below[1], *hot[-3:], texts[1], image, tensor]
    new = write(repo, [*resent, *again, *more], run_id="r", config={"lr": 0.2}, tags={"k": "v"})
    assert new.run_ids() == [old.run_id] == [new.run_id]
    assert new.status() == "finished"
    assert [p[:2] for p in new.scalars("", "s")] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (2, 102),
        (3, 3),
        (3, 103),
        (4, 4),
        (4, 104),
    ]
    assert [p[:2] for p in new.scalars("", "below")] == [(-9, -9), (-9, 91), (-6, -6), (-6, 94), (-3, -3), (-3, 97)]
    assert [p.value for p in new.scalars("", "hot")] == [float(i) for i in range(25)]
    assert (new.texts("", "t"), len(new.images("", "i")), len(new.tensors("", "x"))) == ([(1, "0"), (1, "1")], 1, 1)
    assert (new.params(), new.extra["earlier_hparams"]) == ({"lr": 0.2}, {"lr": [0.1]})


def test_points_that_a_server_has_not_acknowledged_come_again(repo: Path) -> None:
    """After a time-out nobody knows what of a batch is stored: all of it comes again, and each point is there once, whatever its
    place among the repeats of its step."""
    make, backend = Maker(), AimBackend({"repo": str(repo)})
    run_id = backend.open(run_info()).run_id
    events = [make.scalar("hot", float(i), 0, wall=float(i)) for i in range(12)]
    backend.write(events)
    backend._run.expect_again()
    backend.write([*events, make.scalar("hot", 12.0, 0, wall=12.0)])
    backend.close("finished")
    assert [p.value for p in AimReader(repo, run_id).scalars("", "hot")] == [float(i) for i in range(13)]


def replace_value(event: ev.Scalar, value: float, wall: float) -> ev.Scalar:
    record = ev.RecordId("/logs/events.out.tfevents.2", event.record.position)
    return ev.Scalar(writer="", tag=event.tag, step=event.step, wall_time=wall, record=record, value=value)


def test_resume_by_the_runs_own_hash(repo: Path) -> None:
    """`resume` and a run_id that is an Aim hash continue that very run, other runs of the repository aside."""
    make = Maker()
    write(repo, [make.scalar("s", 0.0, 0)], run_id="other")
    one = write(repo, [make.scalar("s", 1.0, 1)])
    write(repo, [make.scalar("s", 2.0, 2)], resume=one.run_id)
    r = write(repo, [make.scalar("s", 3.0, 3)], run_id=one.run_id)
    assert len(r.run_ids()) == 2
    assert [p.value for p in r.scalars("", "s")] == [1.0, 2.0, 3.0]


def test_hostile_tags_never_collide(tmp_path: Path, repo: Path) -> None:
    """Every odd tag keeps its own scalars, texts, images, histograms and files, and nothing is written elsewhere."""
    make = Maker()
    events: list[ev.Event] = []
    for i, tag in enumerate(HOSTILE):
        events += [
            make.scalar(tag, float(i), i),
            make.text(tag, f"text {i}", i),
            make.histogram(tag, i),
            make.tensor(tag, i),
        ]
        events += [
            make.image(tag, i, np.full((1, 1), i, np.uint8)),
            make.video(tag, i),
            make.scalar("m", i, i, series=tag),
        ]
        events += [Maker(tag).scalar("w", float(i), i)] if tag else []
    events += [make.hparams(dict.fromkeys(HOSTILE, 1), dict.fromkeys(HOSTILE, 2.0)), make.scalar("after", 1.0)]
    r = write(repo, events)
    for i, tag in enumerate(HOSTILE):
        assert [p[:2] for p in r.scalars("", tag)] == [(i, i)], tag
        assert [p[:2] for p in r.scalars("", "m", tag)] == [(i, i)], tag
        assert r.texts("", tag) == [(i, f"text {i}")]
        assert [(s, int(p[0, 0])) for s, p in r.images("", tag)] == [(i, i)]
        assert (len(r.videos("", tag)), len(r.histograms("", tag))) == (1, 1)
        assert [s for s, _ in r.tensors("", tag)] == [i], tag
        if tag:
            assert [p[:2] for p in r.scalars(tag, "w")] == [(i, i)]
    assert len(r.params()) == len(r.summary_metrics()) == len(HOSTILE)
    assert len(r.scalars("", "after")) == 1
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and repo / ".aim" not in p.parents]
    assert outside == []


def test_sweep_trials_are_runs_of_their_own(repo: Path) -> None:
    """Each trial is an Aim run with its parameters and metrics; its parts meet, the parent's stay apart."""
    make = Maker()
    events = [
        make.hparams({"lr": 0.1}, {}), make.hparams({}, {"acc": 0.5}, step=9), make.hparams({"lr": 0.3}, {}),
        make.hparams({"lr": 1, "x": "y" * 100_000}, {"acc": 0.6}, trial="t/1"),
        make.hparams({"lr": 2}, {}, trial="../2"), make.hparams({}, {"acc": math.nan}, trial="t/1"),
        make.hparams({}, {"acc": 0.7}, trial="../2"), make.scalar("s", 1.0),
    ]  # fmt: skip
    r = write(repo, events, "failed")
    assert (r.params(), r.extra["earlier_hparams"]) == ({"lr": 0.3}, {"lr": [0.1]})
    assert (r.summary_metrics(), r.status(), len(r.run_ids())) == ({"acc": 0.5}, "failed", 1)
    one, two = r.trials()
    assert one.params == {"lr": 1, "x": "y" * 100_000}
    assert math.isnan(one.metrics["acc"])
    assert two == Trial({"lr": 2}, {"acc": 0.7})
    children = [run for run in r.runs if run.get("parent")]
    assert {(c.active, c.experiment, "trial" in c.tags) for c in children} == {(False, "p", True)}
    assert {c.name for c in children} == {"e/t/1", "e/../2"}
    by_name = {c.name: c for c in children}
    points = r.records("metric", "", "acc", by_name["e/t/1"], type="hparams")
    assert len(points) == 2


def test_figures_keep_numbers_that_json_has_not(repo: Path) -> None:
    """A curve, a point cloud or an embedding with NaN becomes a figure with a gap, and a file with the data."""
    make = Maker()
    curve = make.pr_curve("p", 1)
    cloud = make.mesh("m", 1, faces=False, colors=False)
    vertices = np.tile(cloud.vertices.numpy(), (2, 1, 1))
    vertices[1, 0, 0] = np.nan
    matrix = np.full((2, 2), np.inf, np.float32)
    broken = [
        ev.PRCurve(**{**{f: getattr(curve, f) for f in curve.__struct_fields__}, "precision": (math.nan,) * 11}),
        ev.Mesh(**{**{f: getattr(cloud, f) for f in cloud.__struct_fields__}, "vertices": ev.Array.of(vertices)}),
        ev.Embedding(**make._base("e", 1), matrix=ev.Array.of(matrix)),
        ev.Embedding(**make._base("none", 1), matrix=ev.Array.of(np.empty((0, 4), np.float32))),
    ]
    r = write(repo, broken)
    assert [r.figures("", t, k)[0][0] for t, k in (("p", "pr_curve"), ("m", "mesh"), ("e", "embedding"))] == [1, 1, 1]
    assert len(r.meshes("", "m")) == 2
    assert len(r.files("pr_curves", "p", ".csv")) == len(r.files("meshes", "m", ".1.ply")) == 1
    np.testing.assert_array_equal(r.embeddings("", "e")[0][1], matrix)


def test_the_default_repository_is_aims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an option the nearest .aim upwards of the working directory is taken, else one is made there."""
    deep = tmp_path / "one" / "two"
    deep.mkdir(parents=True)
    (tmp_path / "alone").mkdir()
    (tmp_path / "one" / ".aim").mkdir()
    monkeypatch.setenv("__AIM_REPO_NAME__", ".aim")
    program = run_info().program
    for cwd, expected in ((deep, tmp_path / "one"), (tmp_path / "alone", tmp_path / "alone")):
        info = run_info(
            program=type(program)(**{f: getattr(program, f) for f in program.__struct_fields__} | {"cwd": str(cwd)})
        )
        assert find(info.program.cwd, "") == str(expected)
        assert find(info.program.cwd, "sub") == str(cwd / "sub")
        assert find(info.program.cwd, "aim://host:1") == "aim://host:1"


def test_files_go_where_the_user_says(empty_repo: Path, tmp_path: Path, repo: Path) -> None:
    """`artifacts_uri` names the place of files; a repository path that Aim would cut keeps them inside the run."""
    make = Maker()
    backend = AimBackend({"repo": str(repo), "artifacts_uri": f"file://{tmp_path}/files"})
    run_id = backend.open(run_info()).run_id
    backend.write([make.tensor("x", 3)])
    backend.close("finished")
    assert [p.suffix for p in (tmp_path / "files" / run_id).rglob("*.*")] == [".npy"]
    ((name, artifact),) = AimReader(repo, run_id).run.artifacts.items()
    assert (artifact.path, artifact.uri) == (name, f"file://{tmp_path}/files/{run_id}/{name}")
    odd = write(Path(shutil.copytree(empty_repo, tmp_path / "a#b")), [make.tensor("x", 3), make.custom_scalars()])
    assert len(odd.run.artifacts) == 0
    assert len(odd.run.collect_sequence_info(("texts",), skip_last_value=True)["texts"]) == 2
    assert not (tmp_path / "a").exists()


PROGRAM = """
import os, shutil, sys
sys.path.insert(0, {root!r})
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.aim.backend import AimBackend
repo, what = sys.argv[1:]
backend = AimBackend({{"repo": repo}})
backend.open(run_info(run_id="r" if what != "many" else None, session=f"{{os.getpid():016x}}"))
backend.write(Maker(str(os.getpid())).one_of_each())
backend.write([Maker().scalar("s", 1.0, 1)])
if what == "kill":
    os.kill(os.getpid(), 9)
if what in ("delete", "leave"):
    if what == "delete":
        shutil.rmtree(repo)
    sys.exit(7)
backend.close("finished")
shutil.rmtree(repo) if what == "delete after" else None
"""


def start(repo: Path, what: str) -> subprocess.Popen[str]:
    code = PROGRAM.format(root=str(ROOT))
    return subprocess.Popen([sys.executable, "-c", code, str(repo), what], stdout=-1, stderr=-1, text=True)


def test_processes_that_make_the_repository_at_once(tmp_path: Path) -> None:
    """Two processes that find no repository end up with one, with a run of each, and print nothing."""
    running = [start(tmp_path, "many") for _ in range(2)]
    assert [p.communicate(timeout=120) for p in running] == [("", "")] * 2
    assert [p.returncode for p in running] == [0, 0]
    assert len(AimReader(tmp_path).run_ids()) == 2


def test_the_process_ends(empty_repo: Path, tmp_path: Path) -> None:
    """No hang at exit: with the repository deleted under an open run, after its close, or with the run left open."""
    expected = {"delete": 7, "delete after": 0, "leave": 7}
    running = {what: start(Path(shutil.copytree(empty_repo, tmp_path / what)), what) for what in expected}
    try:
        assert {what: process.wait(60) for what, process in running.items()} == expected
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_an_aim_server_gets_everything_and_may_die(tmp_path: Path) -> None:
    """Over aim:// all points arrive, files as texts; what is too long for the server is refused alone; a dead server is an error
    worth a retry and never a hang."""
    from aim import Repo
    from aim.sdk.index_manager import RepoIndexManager

    server = AimServer(tmp_path)
    make, address = Maker(), {"repo": server.env["TRACELET_AIM_REPO"]}
    points = [make.scalar("s", float(i), 0, wall=float(i)) for i in range(12)]
    try:
        server.start()
        backend = AimBackend(address)
        run_id = backend.open(run_info(run_id="r")).run_id
        backend.write([*make.one_of_each(), *points])
        big = make.text("big", "x" * 17_000_000, 1)
        with pytest.raises(errors.EventRejectedError, match="no message of 17") as refused:
            backend.write([make.scalar("before", 1.0, 1), big, make.scalar("after", 1.0, 1)])
        assert (backend.is_transient(refused.value), backend.written) == (False, 1)
        backend.write([make.scalar("after", 1.0, 1)])
        cut = [make.scalar("cut", float(i), i) for i in range(30)]
        server.misbehave("lost")
        with pytest.raises(Exception, match=r"aborted|reset|close"):
            backend.write(cut)
        server.recover()
        for batch in (cut[:10], cut[10:25], cut[25:]):  # otherwise than before
            backend.write(batch)
            assert backend.written == len(batch)
        backend.close("finished")
        backend = AimBackend(address)
        assert backend.open(run_info(run_id="r")).run_id == run_id
        backend.write([*points[6:], make.scalar("s", 12.0, 0, wall=12.0)])
        server.kill()
        for _ in range(2):
            with pytest.raises(Exception, match=r"aborted|reset|refused|close|Broken pipe") as caught:
                backend.write([make.scalar("late", 1.0, 1)])
            assert (backend.is_transient(caught.value), backend.written) == (True, 0)
        with pytest.raises(Exception, match=r"aborted|reset|refused|close|Broken pipe") as ended:
            backend.close("finished")
        assert backend.is_transient(ended.value)
    finally:
        server.close()
    store = Repo(str(tmp_path))
    RepoIndexManager(store).index(run_id)
    r = AimReader(tmp_path, run_id)
    assert [p.value for p in r.scalars("", "s")][:13] == [*map(float, range(13))]
    assert [len(r.scalars("", tag)) for tag in ("before", "after", "cut")] == [1, 1, 30]
    assert len(r.images("", "i")) == len(r.pr_curves("", "p")) == 1
    texts = r.run.collect_sequence_info(("texts",), skip_last_value=True)["texts"]
    assert sum(t["context"] == {"type": "file"} for t in texts) == 8


def test_what_a_killed_process_wrote_is_kept(repo: Path) -> None:
    """After SIGKILL the next session with the same run_id gets past the stale lock and finds every point."""
    running = start(repo, "kill")
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL
    r = write(repo, [Maker().scalar("s", 1.0, 1), Maker().scalar("s", 2.0, 2)], run_id="r")
    assert [p[:2] for p in r.scalars("", "s")] == [(1, 1.0), (2, 2.0)]
    assert r.texts(str(running.pid), "t")


def stored(directory: Path, run_id: str) -> dict[bytes, bytes]:
    """Return all keys and values of a run's two stores, save those that hold the time, the session or the directory."""
    from aim.storage.rockscontainer import RocksContainer

    found = {}
    for part in ("meta", "seqs"):
        store = RocksContainer(str(directory / ".aim" / part / "chunks" / run_id), read_only=True)
        found |= {key: bytes(value) for key, value in store.items()}
        store.close()
    other = (b"\xfeattrs\xfe", b"\xfeend_time\xfe", b"\xfeartifacts_uri\xfe")
    return {key: value for key, value in found.items() if not any(name in key for name in other)}


def test_appended_points_are_those_of_aim(empty_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that are appended by the batch leave exactly the keys and values that Aim's own tracker would have left."""
    make = Maker()
    events: list[ev.Event] = [make.scalar(f"a{i % 4}", math.sin(i), i // 4, wall=0.1 * i) for i in range(400)]
    values = [0.5, math.nan, -math.inf, math.inf, -0.0, 5e-324, 1e300, 2.0**53 + 1, math.nan, 0.1]
    steps = [-9, -1, 0, 5, 2**31, 2**40, 2**40 + 1, 2**53 + 1, 2**62, 2**63 - 1]
    events += [make.scalar("odd", *point, wall=math.nan) for point in zip(values, steps, strict=True)]
    events += [make.scalar("mixed", float(i), step) for i, step in enumerate([3, 4, 9, 9, 10, 5, 4, 11, 12, 12, 13, -1, 14])]
    events += [make.scalar("series", float(i), i, series=key) for i in range(5) for key in ("x", "", "é")]
    events += [Maker("train").scalar("a0", float(-i), i) for i in range(5)]
    events += [make.histogram("a0", 1), make.text("a0", "t", 1), *(make.scalar("a0", float(i), 200 + i) for i in range(3))]
    found = []
    for together in (True, False):
        if not together:
            monkeypatch.setattr("tracelet_shim.backends.aim.fast.Ends.of", lambda _: None)
        directory = Path(shutil.copytree(empty_repo, tmp_path / str(together)))
        half = len(events) // 2
        for part in (events[:half], events[half - 20 :]):  # the second session knows what comes again
            reader = write(directory, part, run_id="0123456789abcdef01234567")
        assert len(reader.scalars("", "odd")) == len(values)
        found.append(stored(directory, reader.run_id))
    assert len(found[0]) > 4 * 450
    assert found[0] == found[1]


def test_a_version_that_stores_in_another_way(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the installed Aim writes a point in another way than the known one, its own tracker writes each."""
    from aim.sdk.tracker import RunTracker

    add = RunTracker._add_value

    def another_way(self: RunTracker, info: object, value: object, step: int, *rest: object) -> None:
        add(self, info, value, step, *rest)
        self.meta_run_tree["points"] = step

    monkeypatch.setattr(RunTracker, "_add_value", another_way)
    backend = AimBackend({"repo": str(repo)})
    backend.open(run_info())
    assert backend._run.ends is None
    backend.write([Maker().scalar("s", float(i), i) for i in range(3)])
    assert backend.handle.meta_run_tree["points"] == 2
    backend.close("finished")
    assert [p[:2] for p in AimReader(repo).scalars("", "s")] == [(0, 0.0), (1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("broken", ["meta", "seqs"])
def test_a_store_that_fails_for_a_while(repo: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """After an error of either store, `written` counts what is there; the rest is there once after a second attempt."""
    from aimrocks.errors import RocksIOError

    make, backend = Maker(), AimBackend({"repo": str(repo)})
    run_id = backend.open(run_info()).run_id
    events = [make.scalar("s", float(i), step) for i, step in enumerate([0, 1, 2, 3, 2, 4, 5, 6])]
    backend.write(events[:1])
    assert backend._run.ends is not None
    store = backend._run.ends._about if broken == "meta" else backend._run.ends._series
    commit, seen = store.commit, []

    class Failing:
        """The store, of which the second commit fails; Aim's classes take no attributes."""

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def commit(self, batch: object) -> None:
            seen.append(batch)
            if len(seen) == 2:
                raise RocksIOError("no space")
            commit(batch)

    with monkeypatch.context() as patch:
        patch.setattr(backend._run.ends, "_about" if broken == "meta" else "_series", Failing())
        with pytest.raises(RocksIOError) as caught:
            backend.write(events[1:])
        assert (backend.is_transient(caught.value), backend.written) == (True, 4)
        backend.write(events[1 + backend.written :])
    backend.close("finished")
    r = AimReader(repo, run_id)
    assert [p[:2] for p in r.scalars("", "s")] == [(0, 0), (1, 1), (2, 2), (2, 4), (3, 3), (4, 5), (5, 6), (6, 7)]
    assert sorted(i["values"]["last_step"] for i in r.run.collect_sequence_info("metric")["metric"]) == [2, 6]


def test_an_error_between_points_that_are_appended(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that were taken and not stored, because a later one of the batch failed, are there once after a second attempt."""
    make, backend = Maker(), AimBackend({"repo": str(repo)})
    run_id = backend.open(run_info()).run_id
    backend.write([make.scalar("loss", 0.0, 0)])
    batch = [*(make.scalar("loss", float(i), i) for i in range(1, 6)), make.scalar("new", 1.0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(backend._run.points, "index", lambda context: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            backend.write(batch)
    backend.write(batch[backend.written :])
    backend.close("finished")
    r = AimReader(repo, run_id)
    assert [p[:2] for p in r.scalars("", "loss")] == [(i, float(i)) for i in range(6)]
    assert [p[:2] for p in r.scalars("", "new")] == [(1, 1.0)]


def test_the_user_tracks_while_a_batch_is_made(repo: Path) -> None:
    """What the user puts behind the end of a sequence is neither set back nor written over by what follows."""
    make, backend = Maker(), AimBackend({"repo": str(repo)})
    run_id = backend.open(run_info()).run_id
    backend.write([make.scalar("loss", 0.0, 0)])
    assert backend._run.ends is not None
    sequence = backend._sequence(make.scalar("loss", 0.0, 0))
    assert backend._run.ends.append(sequence, 1.0, 1, 1.0)
    backend.handle.track(99.0, name="loss", step=7)
    assert not backend._run.ends.append(sequence, 7.0, 7, 7.0)
    backend._run.ends.commit()
    backend.write([make.scalar("loss", 7.0, 7), make.scalar("loss", 8.0, 8)])
    backend.close("finished")
    assert [p[:2] for p in AimReader(repo, run_id).scalars("", "loss")] == [(0, 0), (1, 1), (7, 99), (7, 7), (8, 8)]


def test_appended_points_outlive_the_process(repo: Path) -> None:
    """A SIGKILL right after `write` takes no point of it, and the next session continues each sequence."""
    code = """
import os, signal, sys
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.aim.backend import AimBackend
make, backend = Maker(), AimBackend({"repo": sys.argv[1]})
backend.open(run_info(run_id="r"))
assert backend._run.ends is not None
backend.write([make.scalar(f"s{i % 3}", float(i), i // 3, wall=float(i)) for i in range(3000)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(repo)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    make = Maker()
    r = write(repo, [make.scalar(f"s{i % 3}", float(i), i // 3, wall=float(i)) for i in range(2700, 3300)], run_id="r")
    for tag in range(3):
        assert r.scalars("", f"s{tag}") == [Point(i // 3, float(i), float(i)) for i in range(tag, 3300, 3)]


def test_a_run_that_another_process_holds_is_tried_again(repo: Path) -> None:
    """Opening a run that is still open raises an error that is worth a retry; the owner is not disturbed."""
    owner, other = (AimBackend({"repo": str(repo)}) for _ in range(2))
    run_id = owner.open(run_info(run_id="r")).run_id
    with pytest.raises(Exception) as caught:
        other.open(run_info(resume=run_id))
    assert other.is_transient(caught.value)
    owner.write([Maker().scalar("s", 1.0, 1)])
    owner.close("finished")
    assert other.open(run_info(resume=run_id)).run_id == run_id
    other.write([Maker().scalar("s", 2.0, 2)])
    other.close("finished")
    assert [p.value for p in AimReader(repo).scalars("", "s")] == [1.0, 2.0]


def test_nothing_of_the_process_is_replaced(repo: Path) -> None:
    """Standard output, signal handlers and excepthook stay the user's while a run is open; nothing stays behind."""
    from aim.ext.cleanup import AutoClean

    def state() -> tuple[object, ...]:
        return sys.stdout, sys.stdout.write, sys.excepthook, signal.getsignal(signal.SIGTERM), os.environ.copy()

    before, cleaned = state(), len(AutoClean._finalizers)
    backend = AimBackend({"repo": str(repo)})
    backend.open(run_info())
    backend.write(Maker().one_of_each())
    assert state() == before
    backend.close("finished")
    backend.close("finished")
    assert len(AutoClean._finalizers) <= cleaned


def test_it_keeps_the_contract() -> None:
    """The backend is registered, complete, and refuses an option that it does not have."""
    assert registry.validate(AimBackend) is AimBackend
    assert not AimBackend.joins_from_outside()
    assert AimBackend.borrowed() is None
    with pytest.raises(Exception, match="did you mean 'repo'"):
        AimBackend({"rep": "x"})
