"""The MLflow backend, against a real store: what is in the SQLite file and the artifact folder afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.mlflow.reader import MLflowReader
from tests.sample_events import WALL, Maker, gif_frames, png, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.backends.mlflow.backend import MLflowBackend
from tracelet_shim.backends.mlflow.file import make_whole, put_right
from tracelet_shim.backends.mlflow.limits import ILLEGAL_KEY, config_params
from tracelet_shim.backends.mlflow.settings import absolute
from tracelet_shim.backends.shared.names import Names

_sessions = itertools.count(1)

HOSTILE = [
    "", " ", "a", "a/b", "a/", "/a", "//a", "a//b", ".", "..", "...", "..a", "../../x", "a/../b", "./a", "/etc/passwd",
    "Case", "case", "acc@1", "acc_x40_1", "acc_x5f_x40_1", "_x_", "nul\0", "line\nbreak", "a\n", "back\\slash",
    "percent%20", "plus+step", "hash#tag?", "til~de", "é", "e\u0301", "日本語", "😀", "mlflow.runName", "system/x",
    "x" * 5000, "x" * 4999 + "y",    "y/" * 400 + "z", "quote'\"`", "a:b", "\ud800", "CON", "a b ", " a",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with MLflow's database, for all tests: creating one takes seconds."""
    directory = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in MLflowReader.environment(directory).items():
            patch.setenv(name, value)
        yield directory


def opened(store: Path, *, options: dict[str, Any] | None = None, **run: Any) -> MLflowBackend:
    backend = MLflowBackend(options)
    backend.open(run_info(**{"session": f"{next(_sessions):016x}", **run}))
    return backend


def reader(store: Path, backend: MLflowBackend) -> MLflowReader:
    return MLflowReader(store, backend.handle.info.run_id)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def full(store: Path) -> tuple[MLflowReader, list[ev.Event]]:
    """A run that got one event of each type, from a thread that is not the main thread."""
    events = Maker().one_of_each()
    made: list[MLflowBackend] = []

    def work() -> None:
        tags = {"team": "a", "odd@": "", "bare": ""}
        backend = opened(store, tags=tags, notes="some *notes*", run_id="my run/1", group="job-7")
        backend.write(events)
        backend.close("finished")
        made.append(backend)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return reader(store, made[0]), events


def test_class_is_complete() -> None:
    """The class fulfils the contract, and says of every event type how it arrives."""
    assert registry.validate(MLflowBackend) is MLflowBackend
    assert MLflowBackend.joins_from_outside()


def test_each_event_type_arrives_exactly(full: tuple[MLflowReader, list[ev.Event]]) -> None:
    """One event of each type is read back as it was, with its step."""
    read, events = full
    by_kind: dict[str, Any] = {event.kind: event for event in events}
    assert read.scalars("", "s") == [(3, 0.1, WALL)]
    histogram = by_kind["histogram"]
    ((step, edges, counts),) = read.histograms("", "h")
    assert (step, tuple(edges[1:]), tuple(counts)) == (3, histogram.limits, histogram.counts)
    ((step, pixels),) = read.images("", "i")
    assert (step, png(pixels)) == (3, by_kind["image"].data)
    ((step, frames),) = read.videos("", "v")
    np.testing.assert_array_equal(frames, gif_frames(by_kind["video"].data))
    ((step, rate, samples),) = read.audio("", "a")
    assert (step, rate, len(samples)) == (3, 16000, 800)
    assert read.texts("", "t") == [(3, "**bold** é\nsecond <line>")]
    ((step, precision, recall),) = read.pr_curves("", "p")
    assert (step, tuple(precision), tuple(recall)) == (3, by_kind["pr_curve"].precision, by_kind["pr_curve"].recall)
    ((step, vertices, faces, colors),) = read.meshes("", "m")
    np.testing.assert_array_equal(vertices, by_kind["mesh"].vertices.numpy()[0])
    np.testing.assert_array_equal(faces, by_kind["mesh"].faces.numpy()[0])
    np.testing.assert_array_equal(colors, by_kind["mesh"].colors.numpy()[0])
    ((step, matrix, rows),) = read.embeddings("", "e")
    np.testing.assert_allclose(matrix, by_kind["embedding"].matrix.numpy(), rtol=1e-7)
    assert rows == [[f"p{i}", str(i % 3)] for i in range(9)]
    ((step, tensor),) = read.tensors("", "x")
    np.testing.assert_array_equal(tensor, by_kind["tensor"].value.numpy())
    assert read.graphs() == [{"input", "Net/Linear[fc]/weight", "output"}]
    layout = {"both": ["Multiline", ["train/loss", "val/loss"]], "band": ["Margin", ["m", "lo", "hi"]]}
    assert read.custom_scalars() == [{"Losses": layout}]
    assert read.params() == {"lr": "0.1", "bs": "32", "opt": "adam", "amp": "True"}
    assert read.summary_metrics() == {"acc": 0.75}
    assert [path.read_bytes() for path in read.artifacts().rglob("*run_metadata.pb")] == [by_kind["blob"].data]


def test_run_says_what_it_is(full: tuple[MLflowReader, list[ev.Event]]) -> None:
    """Project, name, labels, notes, own id, group and the user's script are all on the run, and it is finished."""
    read, _ = full
    expected = {"project": "p", "exp_name": "e", "tags": {"team": "a", "odd@": "", "bare": ""}, "notes": "some *notes*"}
    assert read.about() == {**expected, "run_id": "my run/1"}
    tags = read.tags()
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("/home/user/train.py", "LOCAL")
    assert tags["tracelet.group"] == "job-7"
    assert read.status() == "finished"


def test_drawings_are_svg_that_parses(full: tuple[MLflowReader, list[ev.Event]]) -> None:
    """Histograms and curves come with a drawing, for people: MLflow's artifact page shows SVG."""
    import xml.etree.ElementTree as ET

    drawings = list(full[0].artifacts().rglob("*.svg"))
    assert {drawing.parts[-3] for drawing in drawings} == {"histograms", "pr_curves"}
    for drawing in drawings:
        root = ET.fromstring(drawing.read_bytes())
        assert root.find("{http://www.w3.org/2000/svg}polyline") is not None


def test_scalars_keep_value_step_and_time(store: Path) -> None:
    """Any float64 at any step in any order arrives; infinities are told from the largest float, NaN stays NaN."""
    make, backend = Maker(), opened(store)
    points = [
        (5, 0.1, WALL), (1, 1e300, WALL + 1), (3, 5e-324, WALL + 2), (3, 0.2, WALL + 2), (-7, 2.0, WALL),
        (2**62, 1.0, WALL), (2**63 - 1, 1.0, WALL), (0, math.inf, WALL), (1, -math.inf, WALL),
        (2, 1.7976931348623157e308, WALL), (4, 1 / 3, 0.001),
    ]  # fmt: skip
    backend.write([make.scalar("v", value, step, wall) for step, value, wall in points])
    backend.write([make.scalar("nan", math.nan, 1), make.scalar("nan", 0.0, 1), make.scalar("when", 1.0, 0, math.nan)])
    read = reader(store, backend)
    assert read.scalars("", "v") == points
    assert [str(point.value) for point in read.scalars("", "nan")] == ["nan", "0.0"]
    assert read.scalars("", "when") == [(0, 1.0, 0.0)]
    assert json.loads(read.tags()["tracelet.infinite"]) == ["v"]


def test_equal_points_are_two_and_a_second_delivery_is_none(store: Path) -> None:
    """Calls with one value, step and millisecond are kept apart by 1 ms; the same events again add nothing."""
    make, backend = Maker(), opened(store)
    equal = [make.scalar("same", 1.0) for _ in range(50)] + [make.scalar("same", math.nan) for _ in range(3)]
    equal += [make.scalar("same", math.inf), make.scalar("same", math.inf), make.scalar("same", 1.0, 0, WALL + 0.003)]
    for _ in range(2):
        backend.write(equal)
    backend.write(equal[20:])
    found = reader(store, backend).scalars("", "same")
    assert sorted(str(point.value) for point in found) == sorted(str(event.value) for event in equal)
    times = [round((point.wall_time - WALL) * 1000) for point in found if point.value == 1.0]
    assert sorted(times) == list(range(51))


def test_many_scalars_in_one_write_are_chunked(store: Path) -> None:
    """More scalars than one MLflow request takes arrive in one write, in order."""
    make, backend = Maker(), opened(store)
    backend.write([make.scalar("many", i / 7, i) for i in range(2500)])
    assert backend.written == 2500
    assert [point[:2] for point in reader(store, backend).scalars("", "many")] == [(i, i / 7) for i in range(2500)]


def test_hostile_tags_stay_apart(store: Path, tmp_path: Path) -> None:
    """Every tag is a scalar, text and image at once, none meets another, and nothing leaves MLflow's directory."""
    make, backend = Maker(), opened(store)
    outside = set(store.parent.iterdir())
    pixels = {tag: np.full((2, 2, 3), i, np.uint8) for i, tag in enumerate(HOSTILE)}
    for i, tag in enumerate(HOSTILE):
        backend.write([make.scalar(tag, float(i), 1), make.text(tag, f"text {i}"), make.image(tag, 2, pixels[tag])])
    backend.write([make.scalar("after", 1.0)])
    read = reader(store, backend)
    keys = read.query("SELECT DISTINCT key FROM metrics WHERE run_uuid = ?", read.run)
    assert len(keys) == len(HOSTILE) + 1
    for i, tag in enumerate(HOSTILE):
        assert [point.value for point in read.scalars("", tag)] == [float(i)], tag
        assert read.texts("", tag) == [(0, f"text {i}")], tag
        ((_, found),) = read.images("", tag)
        np.testing.assert_array_equal(found, pixels[tag])
    assert set(store.parent.iterdir()) == outside
    assert {path.parts[0] for path in (p.relative_to(store) for p in store.rglob("*"))} == {"mlflow.db", "artifacts"}
    assert not list(tmp_path.iterdir())


@settings(max_examples=300)
@given(st.lists(st.text(st.characters(), max_size=12) | st.text("./_x0a -:é\n", max_size=300), unique=True, max_size=5))
def test_keys_are_what_mlflow_takes(tags: list[str]) -> None:
    """MLflow's own validation accepts the key of any tag, and different tags have different keys."""
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

    rule = Names(ILLEGAL_KEY, 250)
    for tag in tags:
        _validate_metric_name(rule(tag))
        _validate_length_limit("key", 250, rule(tag))
    assert len({rule(tag) for tag in tags}) == len(tags)


def test_images_lie_where_mlflow_puts_its_own(store: Path) -> None:
    """An image's files are named as `log_image` names them, hold TensorBoard's bytes, and a second delivery replaces
    them.
    """
    from mlflow import MlflowClient
    from PIL import Image

    make, backend = Maker(), opened(store)
    grey, clear = np.full((3, 400), 7, np.uint8), np.full((5, 5, 4), 9, np.uint8)
    ours = [make.image("val/x", -4, grey), make.image("val/x", 9, clear), make.image("val/x", 9, clear)]
    backend.write(ours)
    backend.write(ours)
    read = reader(store, backend)
    MlflowClient().log_image(read.run, Image.fromarray(grey), key="val/x", step=12, timestamp=5)
    files = read.image_files()
    assert [(key, step, when) for key, step, when, _ in files] == [
        ("val/x", -4, 1_760_000_000_125), *[("val/x", 9, 1_760_000_000_125)] * 2, ("val/x", 12, 5)
    ]  # fmt: skip
    assert [file.read_bytes() for *_, file in files[:3]] == [event.data for event in ours]
    assert read.tags()["mlflow.loggedImages"] == "True"
    with Image.open(str(files[0][3])[:-4] + "+compressed.webp") as thumbnail:
        assert thumbnail.size == (256, 2)


def test_picture_that_cannot_be_read_is_kept_as_a_file(store: Path) -> None:
    """Bytes that no image library reads are attached as they are, out of the image grid's way."""
    make, backend = Maker(), opened(store)
    broken = ev.Image(**make._base("broken", 1), data=b"\x89PNG but no", width=1, height=1, channels=3)
    backend.write([broken, make.image("good", 1)])
    read = reader(store, backend)
    assert len(read.image_files()) == 1
    assert [file.read_bytes() for file in (read.artifacts() / "images/broken").iterdir()] == [broken.data]


def test_params_that_change_are_both_kept(store: Path) -> None:
    """MLflow's params are final: a later value is a tag, an equal one nothing, and no event is refused."""
    nested = {"lr": 0.1, "net": {"width": 8, "deep": {"x": None}}, "sizes": [1, 2]}
    make, backend = Maker(), opened(store, config=nested)
    backend.write([make.hparams({"lr": 0.5, "bs": 4}, {})])
    backend.write([make.hparams({"bs": 4, "lr": 0.1, "empty": ""}, {"m": math.inf})])
    read = reader(store, backend)
    config = {"lr": "0.1", "net/width": "8", "net/deep/x": "None", "sizes": "[1, 2]"}
    assert read.params() == {**config, "bs": "4", "empty": ""}
    assert read.tags()["tracelet.param.lr"] == "0.5"
    assert read.summary_metrics() == {"m": math.inf}


def test_params_of_others_are_met_without_error(store: Path) -> None:
    """A parameter that somebody else has set on the run meanwhile does not stop ours."""
    from mlflow import MlflowClient

    make, backend = Maker(), opened(store)
    MlflowClient().log_param(backend.handle.info.run_id, "lr", "9")
    backend.write([make.hparams({"lr": 0.5, "bs": 4}, {})])
    read = reader(store, backend)
    assert (read.params(), read.tags()["tracelet.param.lr"]) == ({"lr": "9", "bs": "4"}, "0.5")


def test_long_texts_are_cut_and_kept_whole(store: Path) -> None:
    """Parameters, notes and labels beyond MLflow's limit end in a mark that names the file with the whole text."""
    long = "päram " * 4000
    make, backend = Maker(), opened(store, notes=long, tags={"label": long})
    backend.write([make.hparams({"text": long, "nul": "a\0b\ud800"}, {})])
    read = reader(store, backend)
    for shown in (read.params()["text"], read.tags()["mlflow.note.content"], read.tags()["label"]):
        assert len(shown) <= 8000
        assert (read.artifacts() / shown.rpartition("whole in ")[2].rstrip("]")).read_text() == long
    assert read.params()["nul"] == "a\\x00b\\ud800"


def test_nested_config_never_collides() -> None:
    """Nested configuration is spread over names with slashes, unless a name is there already."""
    assert config_params({"a": {"b": 1, "c": {}}, "d": True}) == {"a/b": "1", "a/c": "{}", "d": "True"}
    assert config_params({"a": {"b": 1}, "a/b": 2}) == {"a": '{"b": 1}', "a/b": "2"}


def test_trials_are_nested_runs(store: Path) -> None:
    """Each trial is a finished nested run; its parts join it, also those that a later session of the run brings."""
    make, backend = Maker(), opened(store, run_id="sweep")
    backend.write([make.hparams({"lr": lr}, {}, trial=f"trial '{lr}' \"x\"\n") for lr in (0.1, 0.2)])
    backend.write([make.hparams({}, {"acc": 0.5}, 7, trial="trial '0.1' \"x\"\n")])
    backend.close("finished")
    later = opened(store, run_id="sweep")
    later.write([make.hparams({}, {"acc": 0.9}, 8, trial="trial '0.2' \"x\"\n")])
    read = reader(store, later)
    assert read.trials() == [({"lr": "0.1"}, {"acc": 0.5}), ({"lr": "0.2"}, {"acc": 0.9})]
    rows = "SELECT r.status, r.experiment_id FROM runs r JOIN tags t USING (run_uuid) WHERE t.value = ?"
    assert read.query(rows, read.run) == [("FINISHED", int(later.handle.info.experiment_id))] * 2


def test_sessions_with_one_run_id_share_a_run(store: Path) -> None:
    """A second session with the run_id of the first goes on with its run, which is running until it ends again."""
    make, first = Maker(), opened(store, run_id="it's \"mine\"@", config={"lr": 1})
    first.write([make.scalar("x", 1.0, 1)])
    first.close("failed")
    read = reader(store, first)
    assert read.status() == "failed"
    second = opened(store, run_id="it's \"mine\"@", config={"lr": 1}, exp_name="renamed")
    assert second.handle.info.run_id == read.run
    assert read.status() == "running"
    second.write([make.scalar("x", 2.0, 2)])
    second.close("killed")
    assert (read.status(), len(read.scalars("", "x"))) == ("killed", 2)
    assert (read.about()["run_id"], read.about()["exp_name"]) == ("it's \"mine\"@", "renamed")


def test_crashed_session_is_continued_and_ended(store: Path) -> None:
    """`resume` with the id of a run that a session of ours left running goes on with it, and ends it."""
    crashed = opened(store)
    resumed = opened(store, resume=crashed.handle.info.run_id)
    resumed.close("finished")
    assert reader(store, crashed).status() == "finished"


def test_open_tried_again_makes_no_second_run(store: Path) -> None:
    """An open that is repeated, by the same object or another of the session, finds the run that is there."""
    info = run_info(session="feedfacefeedface")
    backends = [MLflowBackend(), MLflowBackend()]
    assert len({backend.open(info).run_id for backend in (*backends, *backends)}) == 1


def test_active_run_of_the_user_is_joined_and_left_open(store: Path) -> None:
    """The run that the user has active is found, joined from another thread, and still his and running afterwards."""
    import mlflow

    assert MLflowBackend.borrowed() is None
    with mlflow.start_run(run_name="his own") as run:
        borrowed = MLflowBackend.borrowed()
        assert borrowed == run.info.run_id
        mlflow.log_param("his", 1)

        def work() -> None:
            backend = opened(store, resume=borrowed, borrowed=True, tags={"k": "v"}, config={"ours": 2})
            backend.write([Maker().scalar("x", 1.0)])
            backend.close("failed")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        read = MLflowReader(store, borrowed)
        assert read.status() == "running"
        mlflow.log_metric("his", 2.0)
    assert (read.status(), read.about()["exp_name"]) == ("finished", "his own")
    assert read.params() == {"his": "1", "ours": "2"}
    assert read.tags()["mlflow.source.name"] != "/home/user/train.py"
    assert read.scalars("", "x") == [(0, 1.0, WALL)]


def test_running_run_of_another_process_is_not_ended(store: Path) -> None:
    """From the relay's process, a running run that no session has opened is joined by its id and left running."""
    from mlflow import MlflowClient

    run_id = MlflowClient().create_run("0").info.run_id
    backend = opened(store, resume=run_id, borrowed=True)
    backend.close("finished")
    assert MLflowReader(store, run_id).status() == "running"


def test_mlflow_variables_choose_experiment_and_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the call names no project, MLflow's own variables count: the experiment's name or id, and the run's id."""
    from mlflow import MlflowClient

    client = MlflowClient()
    assert opened(store, project=None).handle.info.experiment_id == "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    named = opened(store, project=None)
    assert reader(store, named).about()["project"] == "from the environment"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment("by id"))
    assert reader(store, opened(store, project=None)).about()["project"] == "by id"
    option = {"experiment_id": named.handle.info.experiment_id}
    assert reader(store, opened(store, project=None, options=option)).about()["project"] == "from the environment"
    monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run("0").info.run_id)
    continued = opened(store, project=None, exp_name=None)
    assert continued.handle.info.run_id == os.environ["MLFLOW_RUN_ID"]
    continued.close("finished")
    assert reader(store, continued).status() == "finished"


def test_options_place_the_run(store: Path, tmp_path: Path) -> None:
    """Options choose where an experiment's files lie and of which run ours is part; relative stores become absolute."""
    parent = opened(store)
    options = {"artifact_location": str(tmp_path / "files"), "parent_run_id": parent.handle.info.run_id}
    child = opened(store, project="placed", options=options)
    child.write([Maker().text("t")])
    read = reader(store, child)
    assert read.tags()["mlflow.parentRunId"] == parent.handle.info.run_id
    assert (read.artifacts().is_relative_to(tmp_path / "files"), len(read.texts("", "t"))) == (True, 1)
    assert absolute("sqlite:///x/y.db") == f"sqlite:///{tmp_path}/x/y.db"
    assert absolute("mlruns") == (tmp_path / "mlruns").as_uri()
    for uri in ("sqlite:////x.db", "http://host:5000", "databricks", "sqlite://", "sqlite:///:memory:"):
        assert absolute(uri) == uri


def test_database_of_another_version_is_refused_for_good(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that needs a migration is left alone, and MLflow's advice reaches the user."""
    copy = tmp_path / "old.db"
    copy.write_bytes((store / "mlflow.db").read_bytes())
    connection = sqlite3.connect(copy)
    connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    connection.commit()
    connection.close()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # it waits, in case another process is at work on it
    backend = MLflowBackend({"tracking_uri": f"sqlite:///{copy}"})
    with pytest.raises(errors.BackendError, match="mlflow db upgrade") as caught:
        backend.open(run_info())
    assert not backend.is_transient(caught.value)


def test_odd_names_are_mapped(store: Path) -> None:
    """Project and run names of any text and length are taken; the whole run name is on the run."""
    backend = opened(store, project="odd\n'\"" + "p" * 600, exp_name="n\0ame" * 200, tags={"mlflow.runName": "other"})
    about = reader(store, backend).about()
    assert about["exp_name"].replace("\\x00", "\0") == "n\0ame" * 200
    assert about["project"].startswith("odd\n'\"ppp")


def test_deleted_experiment_is_named_with_the_remedy(store: Path) -> None:
    """A project whose experiment was deleted in MLflow is refused with the command that restores it."""
    from mlflow import MlflowClient

    client = MlflowClient()
    client.delete_experiment(client.create_experiment("gone"))
    backend = MLflowBackend()
    with pytest.raises(errors.BackendError, match="mlflow experiments restore") as caught:
        backend.open(run_info(project="gone"))
    assert not backend.is_transient(caught.value)


def test_commit_of_the_users_script_is_recorded(store: Path, tmp_path: Path) -> None:
    """The git commit on the run is that of the user's script, not of this package."""
    script = tmp_path / "train.py"
    script.write_text("")
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True)
    program = msgspec.structs.replace(run_info().program, script=str(script))
    tags = reader(store, opened(store, program=program)).tags()
    assert (tags["mlflow.source.name"], tags["mlflow.source.git.commit"]) == (str(script), head.strip())


def test_file_store_takes_tags_that_are_folders_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the old file store, where a key is a file, ``a`` and ``a/b`` can both be logged."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    make, backend = Maker(), MLflowBackend({"tracking_uri": str(tmp_path / "runs")})
    backend.open(run_info())
    backend.write([make.scalar("a", 1.0), make.scalar("a/b", 2.0), make.hparams({"c": 1, "c/d": 2}, {})])
    backend.close("finished")
    (metrics,) = (tmp_path / "runs").glob("*/*/metrics")
    assert {path.name: path.read_text().split()[1] for path in metrics.iterdir()} == {"a": "1.0", "a_x2f_b": "2.0"}


def test_server_that_is_gone_is_transient_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening fails within seconds, counts as transient, and the password in the URI is in no message."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = MLflowBackend({"tracking_uri": f"http://user:s3cret@127.0.0.1:{port}"})
    began = time.monotonic()
    with pytest.raises(Exception, match="127") as caught:
        backend.open(run_info())
    assert time.monotonic() - began < 30
    assert backend.is_transient(caught.value)
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__} {caught.value.__context__} {backend!r}"


def test_what_a_database_says_is_not_said_of_the_data(store: Path) -> None:
    """Of most errors of its database MLflow says that the request was bad. A connection, a transaction or a pool that failed
    passes; what a database does not take stays refused."""
    import psycopg2.errors as pg
    from mlflow.exceptions import MlflowException, RestException
    from mlflow.protos import databricks_pb2 as code
    from sqlalchemy import exc

    def from_server(error: Exception) -> Exception:
        made = MlflowException(str(error), code.BAD_REQUEST)
        return RestException(json.loads(made.serialize_as_json()))

    sql, values = "INSERT INTO metrics", {"key": "forbidden"}
    passing = [
        exc.InterfaceError(sql, values, pg.InterfaceError("connection already closed")),
        exc.DatabaseError(sql, values, pg.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq")),
        exc.InternalError(sql, values, pg.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")),
        exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00", code="3o7r"),
        exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back.", code="8s2b"),
        exc.ProgrammingError(sql, values, pg.InsufficientPrivilege("permission denied for table metrics")),
    ]
    lasting = [
        exc.DataError(sql, values, pg.NumericValueOutOfRange("bigint out of range")),
        exc.IntegrityError(sql, values, pg.UniqueViolation("duplicate key")),
        exc.ProgrammingError(sql, values, pg.UndefinedTable('relation "metrics" does not exist')),
    ]
    backend = opened(store)
    assert [backend.is_transient(from_server(error)) for error in passing] == [True] * 6
    assert [backend.is_transient(from_server(error)) for error in lasting] == [False] * 3
    backend.close("finished")


def test_a_refusal_in_json_is_doubted_too(store: Path) -> None:
    """While a run is written, "no" to who asks may pass in whatever form it comes; when a run is opened it is believed."""
    own = [json.dumps({"error_code": code, "message": "no"}) for code in ("PERMISSION_DENIED", "UNAUTHENTICATED")]
    gateways = [json.dumps({"message": "Forbidden"}), json.dumps({"detail": "Unauthorized"})]
    answers = [answered(403, text) for text in own + gateways]
    backend = MLflowBackend()
    assert [backend.is_transient(answer) for answer in answers] == [False] * 4
    backend = opened(store)
    assert [backend.is_transient(answer) for answer in answers] == [True] * 4
    backend.close("finished")


def test_errors_are_told_apart() -> None:
    """A locked database and a server error may pass; what MLflow refuses, it will refuse again."""
    import requests
    from mlflow.exceptions import MlflowException, RestException
    from mlflow.protos import databricks_pb2 as code
    from sqlalchemy.exc import OperationalError

    backend, response = MLflowBackend(), requests.Response()
    response.status_code = 503
    assert backend.is_transient(MlflowException("locked", code.TEMPORARILY_UNAVAILABLE))
    assert backend.is_transient(RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow"}))
    assert backend.is_transient(requests.HTTPError(response=response))
    assert backend.is_transient(requests.ConnectionError("reset"))
    assert backend.is_transient(sqlite3.OperationalError("database is locked"))
    assert backend.is_transient(OperationalError("", {}, sqlite3.OperationalError("database is locked")))
    assert backend.is_transient(OperationalError("", {}, RuntimeError("the server closed the connection")))
    assert not backend.is_transient(OperationalError("", {}, sqlite3.OperationalError("no such table: runs")))
    for status in (403, 404, 413):
        response.status_code = status
        assert not backend.is_transient(requests.HTTPError(response=response))
    assert not backend.is_transient(MlflowException("bad key", code.INVALID_PARAMETER_VALUE))
    assert not backend.is_transient(errors.EventRejectedError("never"))


def answered(status: int, text: str) -> Exception:
    """Return what MLflow makes of an answer."""
    import requests
    from mlflow.exceptions import MlflowException
    from mlflow.utils.rest_utils import verify_rest_response

    response = requests.Response()
    response.status_code, response._content = status, text.encode()
    with pytest.raises(MlflowException) as caught:
        verify_rest_response(response, "/api/2.0/mlflow/runs/log-batch")
    return caught.value


def test_a_proxys_answer_is_not_mlflows(store: Path) -> None:
    """What something before the server refuses may pass while a run is written, but not when it is opened; what the server itself
    refuses stays refused."""
    page = "<html>no</html>"
    own = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "failed with error code 403 != 200"})
    backend = MLflowBackend()
    assert [backend.is_transient(answered(status, page)) for status in (401, 403, 404, 407, 413)] == [False] * 5
    assert [backend.is_transient(answered(status, page)) for status in (408, 425, 429, 500, 501, 502, 504)] == [True] * 7
    backend = opened(store)
    assert [backend.is_transient(answered(status, page)) for status in (401, 403, 404, 407, 500)] == [True] * 5
    assert not backend.is_transient(answered(413, page))
    assert not backend.is_transient(answered(400, own))
    backend.close("finished")


PROGRAM = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.mlflow.backend import MLflowBackend

def work():
    backend = MLflowBackend()
    backend.open(run_info(session=sys.argv[2], run_id="shared"))
    backend.write([Maker().scalar("x", float(sys.argv[2]), 1)])
    backend.close("finished")

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def run_program(directory: Path, session: str) -> subprocess.Popen[str]:
    ours = ("MLFLOW", "_MLFLOW", "PYTEST")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home = {"HOME": str(directory), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[3]), session],
        cwd=directory, env={**clean, **home}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_first_users_of_a_new_store_do_not_meet(tmp_path: Path) -> None:
    """With nothing configured, processes that start together make ./mlflow.db, share a run and print nothing."""
    started = [run_program(tmp_path, str(i)) for i in range(3)]
    outputs = [process.communicate(timeout=120) for process in started]
    assert (outputs, [process.returncode for process in started]) == ([("", "")] * 3, [0, 0, 0])
    read = MLflowReader(tmp_path)
    assert sorted(point.value for point in read.scalars("", "x")) == [0.0, 1.0, 2.0]


def version(database: Path) -> str | None:
    """Return how far a database is made; None if there is none, or it is locked."""
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0.05)) as connection:
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return None


def test_kill_while_the_database_is_made_leaves_none(tmp_path: Path) -> None:
    """A process that is killed in the middle of MLflow's migrations leaves no mlflow.db; the next one makes it, and clears up."""
    killed = run_program(tmp_path, "1")
    seen: set[str] = set()
    while len(seen) < 5 and killed.poll() is None:
        seen |= {v for file in (*tmp_path.glob(".mlflow.db.new-*"), *tmp_path.glob("mlflow.db")) if (v := version(file))}
    killed.kill()
    killed.communicate()
    assert len(seen) >= 5  # of some forty: it was killed in the middle
    assert not (tmp_path / "mlflow.db").exists()
    assert any(file.name.startswith(".mlflow.db") for file in tmp_path.iterdir())

    after = run_program(tmp_path, "2")
    assert (after.communicate(timeout=120), after.returncode) == (("", ""), 0)
    assert [point.value for point in MLflowReader(tmp_path).scalars("", "x")] == [2.0]
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".mlflow.db")]


def half_made(path: Path, whole: Path) -> None:
    """Make what a process leaves that was killed in the last of MLflow's migrations, a while ago."""
    shutil.copyfile(whole, path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs", "experiment_tags", "experiments"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE alembic_version SET version_num = '75868b020152'")
    os.utime(path, (1e9, 1e9))


def test_half_made_database_is_moved_aside_and_made_anew(store: Path, tmp_path: Path) -> None:
    """What a killed MLflow has left half made, and nobody has open, is kept under another name; the run is in a new file."""
    opened(store).close("finished")
    path = tmp_path / "half.db"
    half_made(path, store / "mlflow.db")
    before = path.read_bytes()
    backend = opened(store, options={"tracking_uri": f"sqlite:///{path}"})
    backend.write([Maker().scalar("x", 1.0, 1)])
    backend.close("finished")
    (aside,) = tmp_path.glob("half.db.half-made-*")
    assert aside.read_bytes() == before
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT key, value FROM metrics").fetchall() == [("x", 1.0)]


def test_database_that_may_be_somebodys_is_not_moved(store: Path, tmp_path: Path) -> None:
    """A half-made file that another process has open, that has just changed, or in which something is, stays where it is."""
    backend = opened(store)
    backend.close("finished")
    path = tmp_path / "half.db"
    half_made(path, store / "mlflow.db")
    with open(path, "rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        assert not put_right(path)
        holder.kill()
    os.utime(path)
    assert not put_right(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO experiments (experiment_id, name) VALUES (7, 'mine')")
    os.utime(path, (1e9, 1e9))
    assert not put_right(path)
    assert [file.name for file in tmp_path.iterdir()] == ["half.db"]


def test_database_that_another_has_made_meanwhile_is_kept(tmp_path: Path) -> None:
    """A database that appears while ours is being made is not replaced by ours."""
    path = tmp_path / "m.db"

    def make(uri: str) -> None:
        sqlite3.connect(uri.removeprefix("sqlite:///")).close()
        path.write_text("theirs")

    make_whole(path, f"sqlite:///{path}", make, alone=True)
    assert path.read_text() == "theirs"
    assert [file.name for file in tmp_path.iterdir()] == ["m.db"]
