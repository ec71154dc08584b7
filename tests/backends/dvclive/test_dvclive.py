"""The DVCLive backend: what is in the run's directory afterwards, and what is not touched around it."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.backends.dvclive.reader import DVCLiveReader, flat, original
from tests.conftest import RunPython
from tests.sample_events import WALL, Maker, gif_frames, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.dvclive.backend import DVCLiveBackend
from tracelet_shim.backends.dvclive.files import write_yaml
from tracelet_shim.backends.dvclive.limits import PATH
from tracelet_shim.backends.dvclive.summary import nest, yaml_value
from tracelet_shim.backends.dvclive.tables import OPEN_FILES
from tracelet_shim.backends.registry import validate
from tracelet_shim.backends.shared.names import Names

HOSTILE = [
    "", " ", "a", "a/b", "a/", "/a", "//a", "a//b", ".", "..", "...", "..a", "../../x", "a/../b", "./a", "/etc/passwd",
    "Case", "case", "acc@1", "acc_x40_1", "acc_x5f_x40_1", "_x_", "nul\0", "line\nbreak", "tab\t", "a\n", "back\\slash",
    "x", "x/y", "x/y/z", "x.tsv", "x.tsv/z", "x.csv/z", "x/3.png", "x/3.png/z", "a.json/b", "step", "timestamp", "e/step",
    "e/timestamp", ".git/x", ".dvc", "dvc.yaml", "é", "e\u0301", "日本語", "😀", "x" * 5000, "x" * 4999 + "y", "y/" * 400 + "z",
    "\ud800", "a b ", " a", "${oops}", "_x73_tep",
]  # fmt: skip


def info(cwd: Path, **changes: Any) -> RunInfo:
    """Return the RunInfo of a program in `cwd`."""
    run = run_info(**changes)
    return msgspec.structs.replace(run, program=msgspec.structs.replace(run.program, cwd=str(cwd)))


def opened(cwd: Path, *, options: dict[str, Any] | None = None, **run: Any) -> DVCLiveBackend:
    backend = DVCLiveBackend(options)
    backend.open(info(cwd, **run))
    return backend


def where(backend: DVCLiveBackend) -> Path:
    return Path(backend.handle.dir)


def reader(backend: DVCLiveBackend) -> DVCLiveReader:
    return DVCLiveReader(where(backend).parent, str(where(backend)))


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[DVCLiveReader, list[ev.Event]]:
    """A run that got one event of each type, from a thread that is not the main thread."""
    cwd = tmp_path_factory.mktemp("full")
    events = Maker("train").one_of_each()
    made: list[DVCLiveBackend] = []

    def work() -> None:
        tags = {"team": "a", "bare": ""}
        backend = opened(cwd, tags=tags, notes="some *notes*", run_id="my run/1", group="job-7", config={"seed": 1})
        backend.write(events)
        backend.close("finished")
        made.append(backend)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return reader(made[0]), events


def test_contract() -> None:
    """The class is a complete backend with a word on every event type."""
    validate(DVCLiveBackend)
    assert DVCLiveBackend.borrowed() is None
    assert DVCLiveBackend.installed()


def test_every_type_arrives(full: tuple[DVCLiveReader, list[ev.Event]]) -> None:
    """One event of every type comes back with its step and its exact content."""
    read, events = full
    e = {type(event): event for event in events}
    assert read.scalars("train", "s") == [(3, 0.1, WALL)]
    ((step, edges, counts),) = read.histograms("train", "h")
    assert step == 3
    assert tuple(edges) == (e[ev.Histogram].limits[0], *e[ev.Histogram].limits)
    assert tuple(counts) == e[ev.Histogram].counts
    ((_, file),) = read.pictures("train", "i", ".png")
    assert file.name == "3.png"
    assert file.read_bytes() == e[ev.Image].data
    ((_, frames),) = read.videos("train", "v")
    assert np.array_equal(frames, gif_frames(e[ev.Video].data))
    ((_, file),) = read.media("audio", "train", "a", ".wav")
    assert file.read_bytes() == e[ev.Audio].data
    assert read.texts("train", "t") == [(3, e[ev.Text].text)]
    ((_, precision, recall),) = read.pr_curves("train", "p")
    assert (tuple(precision), tuple(recall)) == (e[ev.PRCurve].precision, e[ev.PRCurve].recall)
    ((_, vertices, faces, colors),) = read.meshes("train", "m")
    assert np.array_equal(vertices, e[ev.Mesh].vertices.numpy()[0])
    assert np.array_equal(faces, e[ev.Mesh].faces.numpy()[0])
    assert np.array_equal(colors, e[ev.Mesh].colors.numpy()[0])
    ((_, matrix, rows),) = read.embeddings("train", "e")
    assert np.array_equal(matrix.astype(np.float32), e[ev.Embedding].matrix.numpy())
    assert rows == [list(row) for row in e[ev.Embedding].metadata]
    ((_, tensor),) = read.tensors("train", "x")
    assert np.array_equal(tensor, e[ev.Tensor].value.numpy())
    assert read.graphs("train") == [{"input", "Net/Linear[fc]/weight", "output"}]
    assert read.custom_scalars("train") == [json.loads(json.dumps(e[ev.CustomScalars].layout))]
    assert read.params() == {"seed": 1, "lr": 0.1, "bs": 32, "opt": "adam", "amp": True}
    assert read.summary_metrics() == {"train/s": 0.1, "acc": 0.75}
    ((_, file),) = read.media("other", "train", "other", "")
    assert file.read_bytes() == b"\x00\x01blob"


def test_about(full: tuple[DVCLiveReader, list[ev.Event]]) -> None:
    """What DVCLive has no place for is in run.json, with the user's program and the status."""
    read, _ = full
    assert read.about() == {
        "project": "p", "exp_name": "e", "tags": {"team": "a", "bare": ""}, "notes": "some *notes*", "run_id": "my run/1",
        "group": "job-7", "config": {"seed": 1},
    }  # fmt: skip
    assert read.status() == "finished"
    assert read.json("run.json")["program"] == "/home/user/train.py"


def test_histogram_statistics(full: tuple[DVCLiveReader, list[ev.Event]]) -> None:
    """A histogram's statistics stand in its first row, and it is drawn within the range of its samples."""
    read, events = full
    histogram = next(event for event in events if isinstance(event, ev.Histogram))
    ((_, rows),) = read.plots("histograms", "train", "h")
    for name in ("min", "max", "num", "sum", "sum_squares"):
        assert rows[0][name] == getattr(histogram, name)
    assert all(histogram.min <= row["bin"] <= histogram.max for row in rows)


def test_dvc_shows_it(full: tuple[DVCLiveReader, list[ev.Event]], run_python: RunPython) -> None:
    """The `dvc` command shows metrics, plots, images and charts of several metrics, outside of any repository."""
    _, events = full
    m = Maker()
    backend = opened(Path.cwd(), exp_name="dvc")
    backend.write([*events, m.scalar("val/loss", 2.0, 1), m.scalar("train/loss", math.nan, 1), m.scalar("x", 1.0)])
    backend.write([m.scalar("x/y", math.inf), m.hparams({"lr": 1}, {"acc": 0.5}, trial="t1")])
    backend.close("finished")
    script = "import sys; from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
    shown = json.loads(run_python(script, "plots", "show", "--json", "--out", "shown", cwd=where(backend)).stdout)["data"]
    assert {name: plot[0]["type"] for name, plot in shown.items()} == {
        "plots/metrics/train/s.tsv": "vega", "plots/metrics/train/loss.tsv": "vega", "plots/metrics/val/loss.tsv": "vega",
        "plots/metrics/x.tsv": "vega", "plots/metrics/x/y.tsv": "vega", "plots/images/train/i/3.png": "image",
        "plots/images/train/v/3.gif": "image", "Losses - both": "vega",
        **{name: "vega" for name in tree(where(backend)) if name.startswith("plots/custom/")},
    }  # fmt: skip
    content = shown["plots/metrics/train/s.tsv"][0]["content"]
    assert content["data"]["values"] == [{"timestamp": "1760000000125", "step": "3", "s": "0.1", "rev": "workspace"}]
    assert content["encoding"]["x"]["field"] == "step"
    chart = shown["Losses - both"][0]["content"]["data"]["values"]
    assert sorted(row["loss"] for row in chart) == ["2.0", "nan"]
    metrics = json.loads(run_python(script, "metrics", "show", "--json", cwd=where(backend)).stdout)[""]["data"]
    assert metrics["metrics.json"]["data"] == {
        "train": {"s": 0.1, "loss": "nan"}, "acc": 0.75, "val": {"loss": 2.0}, "x": 1.0, "x/y": "inf", "step": 0,
    }  # fmt: skip
    assert metrics["trials/t1/metrics.json"]["data"] == {"acc": 0.5, "step": 0}


# -- scalars ----------------------------------------------------------------------------------------------------------


def test_tables_are_those_of_dvclive(tmp_path: Path) -> None:
    """A table is byte for byte what `Live.log_metric` writes, but for the time, which is the event's."""
    from dvclive import Live

    values = [0.1, 1 / 3, 1e300, -0.0, 5e-324, math.nan, math.inf, -math.inf, 3.0]
    live = Live(str(tmp_path / "live"), save_dvc_exp=False, dvcyaml=None)
    for step, value in enumerate(values):
        live.step = step
        live.log_metric("train/loss", value, timestamp=True)
    m = Maker()
    backend = opened(tmp_path)
    backend.write([m.scalar("train/loss", value, step) for step, value in enumerate(values)])
    backend.close("finished")
    name = "plots/metrics/train/loss.tsv"
    theirs = [line.split("\t") for line in (tmp_path / "live" / name).read_text().splitlines()]
    ours = [line.split("\t") for line in (where(backend) / name).read_text().splitlines()]
    assert [line[1:] for line in ours] == [line[1:] for line in theirs]
    assert ours[0][0] == theirs[0][0] == "timestamp"
    assert {line[0] for line in ours[1:]} == {"1760000000125"}
    assert {len(line[0]) for line in theirs[1:]} == {13}


def test_steps_and_repeats_are_kept(tmp_path: Path) -> None:
    """Steps of any order and size, and repeated ones, are all there in the order of the calls."""
    m = Maker("w")
    steps = [5, 1, 3, 3, 0, -2, 2**62, 3]
    backend = opened(tmp_path)
    backend.write([m.scalar("s", i + 0.1, step, wall=WALL + i) for i, step in enumerate(steps)])
    backend.write([m.scalar("g", 1.0, 3, series="a"), m.scalar("g", 2.0, 3, series="b")])
    assert reader(backend).scalars("w", "s") == [(step, i + 0.1, WALL + i) for i, step in enumerate(steps)]
    assert [p.value for key in "ab" for p in reader(backend).scalars("w", "g", key)] == [1.0, 2.0]


@pytest.mark.parametrize("wall", [math.nan, math.inf, -5.0, 1e30])
def test_odd_wall_times(tmp_path: Path, wall: float) -> None:
    """A wall time that is no time is written as 0, and the point is kept."""
    backend = opened(tmp_path)
    backend.write([Maker().scalar("s", 0.5, 1, wall=wall)])
    assert reader(backend).scalars("", "s") == [(1, 0.5, 0.0)]


def test_summary_has_the_latest_values(tmp_path: Path) -> None:
    """metrics.json has each metric's latest value; a hyperparameter metric of the same name counts as one of them."""
    m = Maker()
    backend = opened(tmp_path)
    backend.write([m.hparams({"a": 1}, {"hp_metric": -1.0, "nan": math.nan}), m.scalar("hp_metric", 0.5, 9)])
    backend.flush()
    found = json.loads((where(backend) / "metrics.json").read_text())
    assert found == {"hp_metric": 0.5, "nan": "nan", "step": 9}


@given(st.dictionaries(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), st.integers()))
def test_nested_summaries_keep_every_key(summary: dict[str, int]) -> None:
    """Metrics whose names are prefixes of others all stay in the nested summary."""
    assert flat(nest(summary)) == summary


# -- names ------------------------------------------------------------------------------------------------------------


def test_hostile_tags(tmp_path: Path) -> None:
    """Tags of any characters and length arrive in every form, apart from each other and within the run's directory."""
    m = Maker()
    backend = opened(tmp_path, options={"dir": "in/run", "report": "html"})
    events: list[ev.Event] = []
    for i, tag in enumerate(HOSTILE):
        events += [m.scalar(tag, i + 0.5, 3), m.image(tag, 3, np.full((2, 2, 3), i, np.uint8)), m.text(tag, str(i), 3)]
        events += [m.histogram(tag, 3, buckets=2 * i + 4), m.video(tag, 3), m.pr_curve(tag, 3)]
    for event in events:
        backend.write([event])
    backend.close("finished")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["run"]
    read = reader(backend)
    for i, tag in enumerate(HOSTILE):
        assert read.scalars("", tag) == [(3, i + 0.5, WALL)], tag[:60]
        assert [pixels[0, 0, 0] for _, pixels in read.images("", tag)] == [i], tag[:60]
        assert read.texts("", tag) == [(3, str(i))], tag[:60]
        assert [len(counts) for _, _, counts in read.histograms("", tag)] == [2 * (i + 2)], tag[:60]
        assert len(read.videos("", tag)) == len(read.pr_curves("", tag)) == 1, tag[:60]
    assert (where(backend) / "report.html").stat().st_size > 10_000
    summary = read.summary_metrics()
    assert {tag: summary[tag] for tag in HOSTILE} == {tag: i + 0.5 for i, tag in enumerate(HOSTILE)}


_PARTS = ["a", "3", ".", "..", "step", ".tsv", ".png", ".json", "/", "//", "_x2e_", "é", "\0"]
_TAGS = st.lists(st.sampled_from(_PARTS), max_size=9).map("".join)


@settings(max_examples=300)
@given(st.lists(_TAGS | st.text(max_size=20), unique=True))
def test_no_name_takes_the_place_of_another(tags: list[str]) -> None:
    """Of any tags, no table or image is where another's folder must be, and none is outside."""
    names = Names(PATH, 180)
    made = [names(tag) for tag in tags]
    assert [original(name) for name in made] == tags
    files = {f"{name}.tsv" for name in made} | {f"{name}/3.png" for name in made}
    assert len(files) == 2 * len(tags)
    folders = {file.rsplit("/", i)[0] for file in files for i in range(1, file.count("/") + 1)}
    assert not files & folders
    assert all(part and not part.startswith(".") for file in files for part in file.split("/"))


def test_repeated_images(tmp_path: Path) -> None:
    """Images of one tag and step are all kept, equal ones included; the first has the name that viewers look for."""
    m = Maker()
    same = np.zeros((2, 2, 3), np.uint8)
    backend = opened(tmp_path)
    backend.write([m.image("i", step, same + more) for step, more in ((3, 0), (3, 0), (3, 1), (-4, 0))] + [m.video("i", 3)])
    found = reader(backend).images("", "i")
    assert sorted((step, int(pixels[0, 0, 0])) for step, pixels in found if step == 3) == [(3, 0), (3, 0), (3, 1)]
    assert {"-4.png", "3.png", "3.gif"} <= {path.name for path in (where(backend) / "plots/images/i").iterdir()}


def test_other_image_formats(tmp_path: Path) -> None:
    """A JPEG is an image plot; a format that DVC does not draw becomes a file."""
    jpeg = msgspec.structs.replace(Maker().image("j"), format="jpeg")
    webp = msgspec.structs.replace(Maker().image("w"), format="webp", data=b"RIFF")
    backend = opened(tmp_path)
    backend.write([jpeg, webp])
    assert reader(backend).pictures("", "j", ".jpeg")[0][1].read_bytes() == jpeg.data
    assert reader(backend).media("images", "", "w", ".webp")[0][1].read_bytes() == b"RIFF"


@pytest.mark.parametrize(
    ("limits", "counts"),
    [((), ()), ((1.0, math.inf), (2.0, 3.0)), ((0.0, 1.7976931348623157e308), (1.0, 1.0)), ((math.nan,), (1.0,))],
)
def test_odd_histograms(tmp_path: Path, limits: tuple[float, ...], counts: tuple[float, ...]) -> None:
    """Histograms without buckets or with edges that are no numbers are kept, and leave valid JSON."""
    nan = math.nan
    odd = msgspec.structs.replace(Maker().histogram("h"), limits=limits, counts=counts, min=nan, max=math.inf)
    backend = opened(tmp_path)
    backend.write([odd])
    (file,) = where(backend).rglob("step=*.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(file.read_text(), parse_constant=refuse)
    assert [len(found) for _, _, found in reader(backend).histograms("", "h")] == [len(counts)] * bool(counts)


# -- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_that_change(tmp_path: Path) -> None:
    """params.yaml has the latest value of a parameter, the files of each add_hparams have all, with their domains."""
    m = Maker()
    first = msgspec.structs.replace(m.hparams({"lr": 0.1, "bs": 1}, {}, 1), domain={"lr": [0.1, 0.2]})
    backend = opened(tmp_path, config={"bs": 7})
    backend.write([first, m.hparams({"lr": 0.2}, {"acc": math.inf}, 2)])
    backend.close("finished")
    assert reader(backend).params() == {"lr": 0.2, "bs": 1}
    kept = [json.loads(file.read_text()) for _, file in reader(backend).files("media/hparams", first.path, ".json")]
    assert [each["params"] for each in kept] == [{"lr": 0.1, "bs": 1}, {"lr": 0.2}]
    assert kept[0]["domain"] == {"lr": [0.1, 0.2]}
    assert kept[1]["metrics"] == {"acc": "inf"}


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.text())
    )
)
def test_parameters_come_back(params: dict[str, Any]) -> None:
    """Values of every kind and texts of any characters come back from params.yaml, save for Unicode's line breaks."""
    plain = yaml_value(params)
    write_yaml("params.yaml", plain)
    assert YAML(typ="safe").load(Path("params.yaml").read_text(encoding="utf-8")) == plain
    if not any(char in str(params) for char in ("\\x85", "\\u2028", "\\u2029")):
        assert plain == params


def test_odd_parameters(tmp_path: Path) -> None:
    """What YAML cannot hold does not harm the other parameters; a huge text is cut, and whole beside it."""
    huge = "word " * 50_000
    backend = opened(tmp_path, config={"none": None, "nested": {"a": [1, {"b": 2}]}, "np": np.float64(0.5), "path": Path("x")})
    backend.write([Maker().hparams({"huge": huge, "lone": "\ud800", "nan": math.nan, "int": 10**30}, {})])
    params = reader(backend).params()
    assert math.isnan(params.pop("nan"))
    assert params.pop("huge").startswith(huge[:20_000] + " ... (cut; 250000 characters")
    assert params == {
        "none": None, "nested": {"a": [1, {"b": 2}]}, "np": 0.5, "path": "x", "lone": "\\ud800", "int": 10**30,
    }  # fmt: skip
    (file,) = (where(backend) / "media/hparams").rglob("*.json")
    assert json.loads(file.read_text())["params"]["huge"] == huge


def test_trials(tmp_path: Path) -> None:
    """Each trial is a directory of its own with parameters and metrics, whatever its name and however many its parts."""
    m = Maker()
    names = ["1", "logs/2", "..", "", "x" * 400, "x" * 400 + "y"]
    backend = opened(tmp_path)
    backend.write([m.hparams({"lr": float(i)}, {}, trial=name) for i, name in enumerate(names)])
    backend.write([m.hparams({}, {"hp/acc": i / 8, "hp": 1.0}, 5, trial=name) for i, name in enumerate(names)])
    backend.close("failed")
    expected = [({"lr": float(i)}, {"hp/acc": i / 8, "hp": 1.0}) for i in range(len(names))]
    assert sorted(reader(backend).trials(), key=lambda trial: trial.params["lr"]) == expected
    kept = [json.loads(path.read_text()) for path in (where(backend) / "trials").glob("*/run.json")]
    assert sorted(each["trial"] for each in kept) == sorted(names)
    assert reader(backend).params() == {}
    assert reader(backend).status() == "failed"
    assert reader(backend).run_ids() == [str(where(backend))]


# -- directories ------------------------------------------------------------------------------------------------------


def test_no_run_takes_the_place_of_another(tmp_path: Path) -> None:
    """A second run of the same name gets a directory of its own, and the first stays as it was."""
    first = opened(tmp_path, session="1" * 16)
    first.write(Maker().one_of_each())
    first.close("finished")
    before = tree(where(first))
    second = opened(tmp_path, session="2" * 16)
    second.write([Maker().scalar("s", 9.0)])
    second.close("finished")
    assert where(first) == tmp_path / "dvclive/p/e"
    assert where(second) == tmp_path / f"dvclive/p/e-{'2' * 16}"
    assert tree(where(first)) == before


@pytest.mark.parametrize(
    ("names", "place"),
    [
        ({}, "dvclive/p/e"),
        ({"project": None, "exp_name": None}, "dvclive/default/00112233aabbccdd"),
        ({"project": "../..", "exp_name": "a/b"}, "dvclive/_x2e__x2e__x2f__x2e__x2e_/a_x2f_b"),
        ({"exp_name": None, "run_id": "id"}, "dvclive/p/id"),
    ],
)
def test_default_directory(tmp_path: Path, names: dict[str, Any], place: str) -> None:
    """The directory is named by project and run, below the program's directory; names of any kind stay inside."""
    assert where(opened(tmp_path, **names)) == tmp_path / place


def test_a_named_directory_is_overwritten(tmp_path: Path) -> None:
    """A directory that the user names holds the latest run alone, and files that are no run's stay."""
    first = opened(tmp_path, options={"dir": "here"}, session="1" * 16)
    first.write([*Maker().one_of_each(), Maker().hparams({"a": 1}, {}, trial="t")])
    first.close("finished")
    (tmp_path / "here/mine.txt").write_text("mine")
    second = opened(tmp_path, options={"dir": "here"}, session="2" * 16, exp_name="second")
    second.write([Maker().scalar("other", 1.0)])
    second.close("finished")
    assert sorted(tree(tmp_path)) == [
        "here/dvc.yaml", "here/metrics.json", "here/mine.txt", "here/names.json", "here/plots/metrics/other.tsv",
        "here/run.json",
    ]  # fmt: skip
    assert reader(second).about()["exp_name"] == "second"


def test_a_named_directory_with_foreign_folders(tmp_path: Path) -> None:
    """Folders of the user that happen to be called like ours are not removed with a run that is not ours."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media/film.mp4").write_text("mine")
    (tmp_path / "metrics.json").write_text("{}")
    opened(tmp_path, options={"dir": "."})
    assert (tmp_path / "media/film.mp4").read_text() == "mine"


def test_a_run_in_progress_is_not_overwritten(tmp_path: Path) -> None:
    """Two programs at work at the same time with the same named directory get one each."""
    own = msgspec.structs.replace(info(tmp_path).program, pid=os.getpid(), host=socket.gethostname())
    first = opened(tmp_path, options={"dir": "here"}, session="1" * 16, program=own)
    first.close("finished")
    first = opened(tmp_path, options={"dir": "here"}, session="2" * 16)
    run = msgspec.structs.replace(info(tmp_path, session="3" * 16), program=msgspec.structs.replace(own, cwd=str(tmp_path)))
    busy = DVCLiveBackend({"dir": "here"})
    busy.open(run)
    assert where(busy) == tmp_path / "here"
    other = opened(tmp_path, options={"dir": "here"}, session="4" * 16)
    assert where(other) == tmp_path / f"here-{'4' * 16}"


def test_run_id_continues_the_run(tmp_path: Path) -> None:
    """Sessions with one run_id are one run, under any name: everything is kept, also rows that are equal."""
    m = Maker()
    for session in ("1" * 16, "2" * 16):
        backend = opened(tmp_path, run_id="mine", session=session, exp_name=f"name-{session[0]}", config={session[0]: 1})
        backend.write([m.scalar("s", 0.5, 1), m.image("i", 1), m.text("t", "x", 1)])
        backend.close("finished")
    read = DVCLiveReader(tmp_path)
    assert [p.value for p in read.scalars("", "s")] == [0.5, 0.5]
    assert len(read.images("", "i")) == len(read.texts("", "t")) == 2
    assert read.params() == {"1": 1, "2": 1}
    assert read.about()["exp_name"] == "name-2"
    assert read.json("run.json")["sessions"] == ["1" * 16, "2" * 16]


def test_dvclive_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVCLIVE_RESUME continues what is in the directory, also a run that DVCLive itself began without times."""
    from dvclive import Live

    live = Live(str(tmp_path / "here"), save_dvc_exp=False, dvcyaml=None)
    live.log_metric("s", 0.25)
    live.log_params({"old": 1})
    live.end()
    monkeypatch.setenv("DVCLIVE_RESUME", "true")
    backend = opened(tmp_path, options={"dir": "here"}, config={"new": 2})
    backend.write([Maker().scalar("s", 0.5, 1)])
    backend.close("finished")
    assert (tmp_path / "here/plots/metrics/s.tsv").read_text() == "step\ts\n0\t0.25\n1\t0.5\n"
    assert reader(backend).params() == {"old": 1, "new": 2}


def test_dvclive_test_mode_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVCLIVE_TEST, under which DVCLive throws data away, changes nothing."""
    monkeypatch.setenv("DVCLIVE_TEST", "1")
    backend = opened(tmp_path)
    backend.write([Maker().scalar("s", 0.5)])
    assert len(DVCLiveReader(tmp_path).scalars("", "s")) == 1


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_redelivery_writes_nothing_twice(tmp_path: Path) -> None:
    """Of a run that is continued after a crash, events that come again are not doubled, and new ones are added."""
    m = Maker()
    old: list[ev.Event] = [m.scalar(tag, i / 7, i // 2) for i in range(20) for tag in ("a", "b")]
    old += [*m.one_of_each(), m.image("i", 3), m.hparams({"x": 1}, {"y": 2.0}, trial="t")]
    new: list[ev.Event] = [m.scalar("a", 0.5, 99), m.scalar("a", 0.5, 99), m.scalar("c", 1.0)]
    new += [m.image("i", 3, np.zeros((2, 2, 3), np.uint8)), m.text("t", "new", 3)]
    whole = opened(tmp_path / "whole")
    whole.write([*old, *new])
    whole.close("finished")
    crashed = opened(tmp_path / "crashed")
    crashed.write(old)
    again = opened(tmp_path / "crashed", resume=str(where(crashed)))
    again.write(old[7:])
    again.write(new)
    again.close("finished")
    found, expected = tree(where(again)), tree(where(whole))
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} <= {"run.json", "metrics.json"}
    assert json.loads(found["metrics.json"]) == json.loads(expected["metrics.json"])


def test_a_torn_row_is_replaced(tmp_path: Path) -> None:
    """Half a row and half a summary, from a machine that went down, do not spoil the run that goes on."""
    m = Maker()
    events = [m.scalar("s", i / 7, i) for i in range(4)]
    crashed = opened(tmp_path, config={"a": 1})
    crashed.write(events)
    crashed.flush()
    table = where(crashed) / "plots/metrics/s.tsv"
    whole = table.read_bytes()
    table.write_bytes(whole[:-5])
    (where(crashed) / "metrics.json").write_text('{"s": 0.')
    again = opened(tmp_path, resume=str(where(crashed)))
    assert json.loads((where(again) / "metrics.json").read_text())["s"] == 2 / 7
    again.write(events[2:])
    again.close("finished")
    assert table.read_bytes() == whole
    assert reader(again).params() == {"a": 1}
    assert (where(again) / "metrics.json.broken").exists()


def test_sigkill_loses_nothing(tmp_path: Path) -> None:
    """What `write` has returned from is on disk, and the summary is made good when the run is continued."""
    program = """
        import os, signal
        from tests.backends.dvclive.test_dvclive import Maker, Path, opened
        backend = opened(Path.cwd())
        m = Maker()
        for i in range(300):
            backend.write([m.scalar(f"s{i % 3}", i / 7, i)])
        print(backend.handle.dir, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = opened(tmp_path, resume=done.stdout.strip())
    assert sum(len(reader(again).scalars("", f"s{i}")) for i in range(3)) == 300
    assert reader(again).summary_metrics() == {"s0": 297 / 7, "s1": 298 / 7, "s2": 299 / 7}
    assert reader(again).status() == "running"


def test_a_full_disk_is_transient_and_leaves_no_trace(tmp_path: Path) -> None:
    """Scalars that break off in the middle are taken back from every table, and are written in full when there is room."""
    m = Maker()
    events = [m.scalar(tag, i / 7, i) for i in range(120) for tag in ("a", "b", "c" if i % 2 else "a")]
    target = opened(tmp_path)
    target.write(events[:10])
    before = tree(where(target) / "plots")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            target.write(events[10:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.is_transient(error.value)
    assert target.written == 0
    assert {name: data for name, data in tree(where(target) / "plots").items() if data} == before
    target.write(events[10:])
    for tag in "abc":
        expected = [(e.step, e.value) for e in events if e.tag == tag]
        assert [(p.step, p.value) for p in reader(target).scalars("", tag)] == expected


def test_open_files_are_bounded(tmp_path: Path) -> None:
    """A thousand tags take a bounded number of file descriptors, and tables closed on the way go on."""
    before = len(os.listdir("/proc/self/fd"))
    target = opened(tmp_path)
    for part in range(3):
        target.write([Maker().scalar(f"w{i}", part + 0.5, part) for i in range(1000)])
    assert len(os.listdir("/proc/self/fd")) - before <= OPEN_FILES
    assert all(len(reader(target).scalars("", f"w{i}")) == 3 for i in (0, 500))
    target.close("finished")
    assert len(os.listdir("/proc/self/fd")) <= before


# -- Git, DVC, Studio -------------------------------------------------------------------------------------------------


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(params=["no commit", "commit", "dvc"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    git("init", "-q")
    if request.param != "no commit":
        (tmp_path / "code.py").write_text("x")
        git("add", "code.py")
        git("commit", "-qm", "first")
        (tmp_path / "code.py").write_text("changed")
    if request.param == "dvc":
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
        git("commit", "-qm", "dvc")
    return tmp_path


def state() -> tuple[list[str], str, str, str]:
    refs = git("for-each-ref")
    return git("status", "--porcelain").splitlines(), git("diff", "--cached"), git("ls-files", "-s"), refs


def test_a_repository_is_left_alone(repository: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Git repository, only the run's directory is new: no `dvc init`, nothing staged, no commit, no word, no network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        monkeypatch.setenv("DVC_STUDIO_TOKEN", "secret")
        monkeypatch.setenv("DVC_STUDIO_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("DVC_STUDIO_REPO_URL", "git@example.invalid:a/b.git")
        status, *rest = state()
        backend = opened(repository)
        backend.write(Maker().one_of_each())
        backend.flush()
        backend.close("finished")
        with pytest.raises(TimeoutError):
            server.accept()
    status_after, *rest_after = state()
    assert rest_after == rest
    assert status_after == [*status, "?? dvclive/"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("repository", ["commit"], indirect=True)
def test_save_dvc_exp(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With save_dvc_exp each run becomes a DVC experiment, of the same directory, with its name and notes; no stdout."""
    for name in ("a b/c", "second"):
        backend = opened(repository, options={"save_dvc_exp": "true"}, exp_name=name, notes="why", session=name[:1] * 16)
        backend.write([*Maker("train").one_of_each(), Maker().hparams({"name": name}, {}, trial=None)])
        backend.close("finished")
        assert where(backend) == repository / "dvclive"
    refs = [line.split() for line in git("for-each-ref", "refs/exps").splitlines() if "exec" not in line]
    assert [ref.rpartition("/")[2] for _, _, ref in refs] == ["a_x20_b_x2f_c", "second"]
    for (revision, _, _), name in zip(refs, ("a b/c", "second"), strict=True):
        assert f"name: {name}" in git("show", f"{revision}:dvclive/params.yaml")
        assert '"status": "finished"' in git("show", f"{revision}:dvclive/run.json")
        assert git("log", "-1", "--format=%s", revision).strip() == "why"
    assert json.loads((repository / "dvclive/run.json").read_text())["experiment"] == {"name": "second", "rev": refs[1][0]}
    assert git("diff", "--cached") == ""
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("repository", ["commit"], indirect=True)
def test_an_unsaved_run_is_not_overwritten(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under save_dvc_exp, a run that crashed before it was saved stays, and the next one goes elsewhere."""
    crashed = opened(repository, options={"save_dvc_exp": True}, session="1" * 16)
    crashed.write([Maker().scalar("s", 1.0)])
    later = opened(repository, options={"save_dvc_exp": True}, session="2" * 16)
    assert where(crashed) == repository / "dvclive"
    assert where(later) == repository / "dvclive/p/e"
    assert len(reader(crashed).scalars("", "s")) == 1
    assert "left alone" in caplog.text


@pytest.mark.parametrize("repository", ["no commit"], indirect=True)
def test_save_dvc_exp_without_a_commit(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where DVC cannot save an experiment, the run is complete all the same, nothing is staged, and a warning says it."""
    backend = opened(repository, options={"save_dvc_exp": True})
    backend.write([Maker().scalar("s", 1.0)])
    backend.close("finished")
    assert len(reader(backend).scalars("", "s")) == 1
    assert git("status", "--porcelain") == "?? dvclive/\n"
    assert "no DVC experiment will be saved" in caplog.text


def test_a_shared_dvcyaml_keeps_the_others(tmp_path: Path) -> None:
    """In a dvc.yaml that the user names, other entries and comments stay, whatever their names, and ours come once."""
    shared = tmp_path / "dvc.yaml"
    shared.write_text("# mine\nstages:\n  a: {cmd: b}\nmetrics:\n- old/here/metrics.json  # other\n- here/gone.json\n")
    for session in "12":
        backend = opened(tmp_path, options={"dir": "here", "dvcyaml": "dvc.yaml"}, session=session * 16, config={"a": 1})
        backend.write([Maker().scalar("s", 1.0), Maker().image("i")])
        backend.close("finished")
    assert "# mine" in shared.read_text()
    assert "# other" in shared.read_text()
    assert YAML(typ="safe").load(shared.read_text()) == {
        "stages": {"a": {"cmd": "b"}},
        "metrics": ["old/here/metrics.json", "here/metrics.json"],
        "params": ["here/params.yaml"],
        "plots": [{"here/plots/metrics": {"x": "step"}}, "here/plots/images"],
    }
    assert not (tmp_path / "here/dvc.yaml").exists()


def test_without_dvcyaml(tmp_path: Path) -> None:
    """dvcyaml=false leaves no dvc.yaml anywhere."""
    backend = opened(tmp_path, options={"dvcyaml": "false"})
    backend.write([Maker().scalar("s", 1.0), Maker().hparams({"a": 1}, {}, trial="t")])
    backend.close("finished")
    assert not list(tmp_path.rglob("dvc.yaml"))


@pytest.mark.parametrize(
    "options",
    [
        {"dri": "x"}, {"dir": "s3://bucket/x"}, {"dir": "a\0"}, {"save_dvc_exp": "perhaps"}, {"dvcyaml": "other.yaml"},
        {"report": "notebook"},
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any]) -> None:
    """Options that cannot be right are refused at once."""
    with pytest.raises(errors.ConfigurationError):
        DVCLiveBackend(options)


# -- the process ------------------------------------------------------------------------------------------------------


def test_the_process_is_undisturbed(run_python: RunPython) -> None:
    """Opening a run changes no stream, hook, handler, thread or exit function, prints nothing, and leaves no file beside."""
    done = run_python(
        """
        import atexit, logging, os, signal, sys, threading
        from pathlib import Path
        exits = []
        register, unregister = atexit.register, atexit.unregister
        atexit.register = lambda f, *a, **k: (exits.append(f), register(f, *a, **k))[1]
        atexit.unregister = lambda f: (exits.remove(f) if f in exits else None, unregister(f))[1]
        def state():
            return (sys.stdout, sys.stderr, sys.excepthook, threading.excepthook, signal.getsignal(signal.SIGINT),
                    signal.getsignal(signal.SIGTERM), threading.enumerate(), list(logging.root.handlers),
                    logging.getLogger("asyncio").level, dict(os.environ), os.getcwd(), list(exits))
        import certifi; certifi.where()  # has an exit function of its own
        from tests.backends.dvclive.test_dvclive import Maker, opened
        before = state()
        backend = opened(Path.cwd())
        backend.write(Maker().one_of_each())
        backend.flush()
        backend.close("finished")
        assert state() == before, (state(), before)
        """,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_the_handle_is_live(tmp_path: Path) -> None:
    """What the user logs through the native object stays in the summary and in the parameters."""
    backend = opened(tmp_path)
    backend.handle.log_metric("mine", 0.5)
    backend.handle.log_params({"p": 1})
    backend.write([Maker().scalar("s", 1.0, 4), Maker().hparams({"q": 2}, {})])
    backend.close("killed")
    assert reader(backend).summary_metrics() == {"mine": 0.5, "s": 1.0}
    assert reader(backend).params() == {"p": 1, "q": 2}
    assert reader(backend).status() == "killed"


def test_errors() -> None:
    """A busy system may recover, a name that the file system does not take will not."""
    backend = DVCLiveBackend()
    assert backend.is_transient(OSError(28, "No space left on device"))
    assert not backend.is_transient(OSError(36, "File name too long"))
    assert not backend.is_transient(errors.EventRejectedError("x"))
    backend.close("failed")  # never opened


def test_summary_files_are_written_seldom(tmp_path: Path) -> None:
    """metrics.json is not rewritten for every batch, but always at a flush."""
    backend = opened(tmp_path)
    backend.write([Maker().scalar("s", 1.0)])
    assert not (where(backend) / "metrics.json").exists()
    backend.flush()
    assert (where(backend) / "metrics.json").exists()
