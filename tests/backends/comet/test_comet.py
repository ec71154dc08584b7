"""The Comet backend, against the real SDK: what is in the archives, and what a server is sent."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.comet.reader import CometReader
from tests.sample_events import WALL, Maker, gif_frames, png, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends import registry
from tracelet_shim.backends.comet.backend import ILLEGAL, CometBackend
from tracelet_shim.backends.shared.names import Names

_sessions = itertools.count(1)
_NO_SERVER = {"COMET_START_ONLINE": "true", "COMET_API_KEY": "A" * 25, "COMET_URL_OVERRIDE": "http://127.0.0.1:9/clientlib/"}

HOSTILE = [
    "", " ", "a", "a/b", "a/", "/a", "//a", "a//b", ".", "..", "...", "..a", "../../x", "a/../b", "./a", "/etc/passwd",
    "Case", "case", "acc@1", "acc_x40_1", "acc_x5f_x40_1", "_x_", "nul\0", "line\nbreak", "a\n", "back\\slash", "~", "~/x",
    "percent%20", "plus+step", "hash#tag?", "é", "e\u0301", "日本語", "😀", "curr_step", "process duration", "Name",
    "x" * 5000, "x" * 4999 + "y", "y/" * 400 + "z", "quote'\"`", "a:b", "\ud800", "CON", "a b ", " a", "a.json", "a.gif",
    "auto-generated-in-the-backend", "x" * 100, "x" * 101,
]  # fmt: skip

SERVER = '''
import gzip, json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    """Takes whatever a Comet client sends; knows just enough of the answers."""
    protocol_version = "HTTP/1.1"
    got, status, gone = [], 200, False

    def log_message(self, *args): pass

    def answer(self):
        if Handler.gone:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        path = self.path.split("?")[0]
        Handler.got.append((self.path, body))
        reply = {"msg": "4.0.0", "version": "4.0.0", "assetId": "1", "assetIds": [], "s3": []}
        reply |= {"workspaceName": "w", "projectName": "p"}
        if path.endswith("/run"):
            reply = {"runId": "r", "project_id": "p", "focusUrl": "http://127.0.0.1/focus/", "lastOffset": 0}
            toggles = [{"name": "sdk_use_http_messages", "enabled": True}]
            reply |= {"ws_url": "ws://none", "featureToggles": toggles}  # before 3.42
            if Handler.status != 200:
                reply = {"msg": "invalid", "sdk_error_code": 90212, "code": 400}
        if "status-report" in path:
            reply = dict.fromkeys(("is_alive_beat_duration_millis", "gpu_monitor_interval_millis"), 10000)
        data = json.dumps(reply).encode()
        self.send_response(Handler.status if path.endswith("/run") else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer

def serve(port=0):
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

def sent(kind):
    """The values of all batches of one kind: metric or parameter."""
    bodies = [json.loads(body) for path, body in Handler.got if path.endswith("/experiment/" + kind)]
    return [value for body in bodies for value in body["values"]]
'''


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for the archives, as the environment names it."""
    directory = tmp_path / "comet"
    for name, value in CometReader.environment(directory).items():
        monkeypatch.setenv(name, value)
    return directory


def opened(*, options: dict[str, Any] | None = None, **run: Any) -> CometBackend:
    backend = CometBackend(options)
    backend.open(run_info(**{"session": f"{next(_sessions):016x}", **run}))
    return backend


def in_thread(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[CometReader, list[ev.Event]]:
    """A run that got one event of each type, from a thread that is not the main thread."""
    directory = tmp_path_factory.mktemp("comet")
    events = Maker().one_of_each()

    def work() -> None:
        tags = {"team": "a", "odd@\n": "", "bare": "", "notes": "a tag"}
        backend = opened(tags=tags, notes="some *notes*", run_id="my run/1", group="job-7", config={"net": {"width": 8}})
        backend.write(events)
        assert backend.written == len(events)
        backend.flush()
        backend.close("finished")

    with pytest.MonkeyPatch.context() as patch:
        for name, value in CometReader.environment(directory).items():
            patch.setenv(name, value)
        in_thread(work)
    return CometReader(directory), events


def test_class_is_complete() -> None:
    """The class fulfils the contract, and says of every event type how it arrives."""
    assert registry.validate(CometBackend) is CometBackend
    assert not CometBackend.joins_from_outside()


def test_each_event_type_arrives_exactly(full: tuple[CometReader, list[ev.Event]]) -> None:
    """One event of each type is read back as it was, with its step."""
    read, events = full
    by_kind: dict[str, Any] = {event.kind: event for event in events}
    assert read.scalars("", "s") == [(3, 0.1, WALL)]
    ((step, edges, counts),) = read.histograms("", "h")
    assert (step, tuple(edges[1:]), tuple(counts)) == (3, by_kind["histogram"].limits, by_kind["histogram"].counts)
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
    assert read.params() == {"net|width": 8, "lr": 0.1, "bs": 32, "opt": "adam", "amp": True}
    assert read.summary_metrics() == {"acc": 0.75}
    blobs = [data for params, _, data in read.uploads("asset") if params["fileName"].endswith("run_metadata.pb")]
    assert blobs == [by_kind["blob"].data]


def test_run_says_what_it_is(full: tuple[CometReader, list[ev.Event]]) -> None:
    """Project, name, labels, notes, own id, group and the user's script are all on the run, and nothing of the relay."""
    read, _ = full
    tags = {"team": "a", "odd@\n": "", "bare": "", "notes": "a tag"}
    assert read.about() == {"project": "p", "exp_name": "e", "tags": tags, "notes": "some *notes*", "run_id": "my run/1"}
    others = read.others()
    assert (others["group"], others["tracelet.command"]) == ("job-7", "train.py --lr 0.1")
    assert [message["file_name"] for message in read.messages("file_name")] == ["/home/user/train.py"]
    assert read.status() == "finished"
    (archive,) = read.archives()
    assert {key: archive.about[key] for key in ("resume_strategy", "customer_error_reported")} == {
        "resume_strategy": "get_or_create", "customer_error_reported": False
    }  # fmt: skip
    kinds = {kind for kind, _ in archive.messages}
    assert kinds == {"log_other", "file_name", "parameter_msg", "metric_msg", "file_upload", "3d-image", "graph"}


def test_comet_gets_its_own_forms(full: tuple[CometReader, list[ev.Event]]) -> None:
    """Histogram, 3D scene and graph also arrive as what Comet draws, true to the data."""
    read, events = full
    by_kind: dict[str, Any] = {event.kind: event for event in events}
    histogram = by_kind["histogram"]
    ((step, bins),) = read.comet_histograms("", "h")
    assert (step, sum(count for *_, count in bins)) == (3, sum(histogram.counts))
    for edge in (-2.0, -0.5, 0.0, 0.3, 1.5):
        ours = sum(count for _, right, count in bins if right <= edge)
        exact = np.interp(edge, histogram.limits, np.cumsum(histogram.counts))
        assert ours == pytest.approx(exact, abs=130), edge  # one bin of 10 %
    ((step, points, boxes),) = read.scenes("", "m")
    mesh = by_kind["mesh"]
    expected = np.hstack([mesh.vertices.numpy()[0], mesh.colors.numpy()[0]]).tolist()
    assert (step, sorted(points)) == (3, sorted(expected))
    outlines = [[mesh.vertices.numpy()[0][i].tolist() for i in (a, b, c, a)] for a, b, c in mesh.faces.numpy()[0]]
    assert boxes[0]["segments"] == outlines
    assert "Net/Linear[fc]/weight" in read.messages("graph")[0]["graph"]


def test_messages_are_those_of_the_sdk(full: tuple[CometReader, list[ev.Event]], store: Path) -> None:
    """The SDK's schemas accept every message, and its own ``log_*`` methods make messages of the same form."""
    import comet_ml
    from comet_ml import schemas

    read, events = full
    validators = {
        "metric_msg": schemas.get_metric_msg_validator(), "parameter_msg": schemas.get_parameter_msg_validator(),
        "file_upload": schemas.get_upload_msg_validator(), "log_other": schemas.get_log_other_msg_validator(),
        "graph": schemas.get_graph_msg_validator(), "3d-image": schemas.get_cloud_3d_msg_validator(),
        "file_name": schemas.get_file_name_msg_validator(),
    }  # fmt: skip
    (archive,) = read.archives()
    schemas.get_experiment_file_validator().validate(archive.about)
    for kind, payload in archive.messages:
        validators[kind].validate(payload)

    by_kind: dict[str, Any] = {event.kind: event for event in events}
    sound = store.parent / "a.wav"
    sound.write_bytes(by_kind["audio"].data)
    off = {"log_code": False, "parse_args": False, "auto_output_logging": False, "log_env_details": False}
    theirs = comet_ml.OfflineExperiment(**off, log_git_metadata=False)
    theirs.log_image(io.BytesIO(by_kind["image"].data), name="i", step=3)
    theirs.log_video(io.BytesIO(by_kind["video"].data), name="v.gif", format="gif", step=3)
    theirs.log_audio(str(sound), file_name="a.wav", step=3)
    theirs.log_text("t", step=3)
    theirs.log_curve("p", x=[1, 0], y=[0, 1], step=3)
    theirs.log_histogram_3d([1, 2], name="h", step=3)
    with contextlib.suppress(NotImplementedError):  # before 3.47, an archive of the SDK's own holds none
        theirs.log_embedding([[1, 2], [3, 4]], ["a", "b"], template_filename="e.json")
    theirs.log_metric("s", 0.1, step=3)
    theirs.log_parameter("lr", 0.1)
    theirs.end()
    other = CometReader(store)
    kinds = ["visualization", "video", "audio", "text-sample", "curve", "histogram3d"]
    kinds += ["embeddings"] * bool(list(other.uploads("embeddings")))
    for kind in kinds:
        (ours,), (native,) = ([p for p, _, _ in each.uploads(kind)] for each in (read, other))
        same = ours.keys() & native.keys() - {"assetId", "imageId", "figCounter", "step"}
        assert {key: ours[key] for key in same} == {key: native[key] for key in same}
        assert native.keys() - ours.keys() <= {"sampleRate"}
        assert ours.keys() - native.keys() <= {"epoch"}
    for kind in ("metric_msg", "parameter_msg"):
        ours, native = read.messages(kind)[0], other.messages(kind)[0]
        assert ours.keys() == native.keys()
    assert read.messages("metric_msg")[0]["metric"] == other.messages("metric_msg")[0]["metric"]


def test_scalars_keep_value_step_and_time(store: Path) -> None:
    """Any float64 at any step in any order arrives, repeated ones too; NaN and infinities are Comet's own strings."""
    make, backend = Maker("train"), opened()
    points = [
        (5, 0.1, WALL), (1, 1e300, WALL + 1), (3, 5e-324, WALL + 2), (3, 0.2, WALL + 2), (3, 0.2, WALL + 2),
        (-7, 2.0, WALL), (2**62, 1.0, WALL), (2**63 - 1, 1.0, WALL), (0, math.inf, WALL), (1, -math.inf, WALL),
        (2, 1.7976931348623157e308, WALL), (4, 1 / 3, 0.001),
    ]  # fmt: skip
    backend.write([make.scalar("v", value, step, wall) for step, value, wall in points])
    backend.write([make.scalar("nan", math.nan, 1), make.scalar("when", 1.0, 0, math.nan)])
    backend.write([make.scalar("both", 1.0, series="a"), make.scalar("both", 2.0, series="b")])
    backend.close("finished")
    read = CometReader(store)
    assert read.scalars("train", "v") == points
    assert math.isnan(read.scalars("train", "nan")[0].value)
    assert read.scalars("train", "when")[0][:2] == (0, 1.0)
    assert [read.scalars("train", "both", key)[0].value for key in "ab"] == [1.0, 2.0]
    assert read.all_points() == []


def test_points_that_comet_samples_are_kept_in_a_file(store: Path) -> None:
    """Of a metric with more points than Comet keeps, a CSV has them all, in order; of others there is none."""
    make, backend = Maker(), opened()
    points = [('long, "é"\n\ud800', i, i / 7) for i in range(15_010)]
    scalars = [make.scalar(*point[::2], point[1]) for point in points]
    for i in range(0, len(scalars), 1000):
        backend.write([*scalars[i : i + 1000], make.scalar("short", 1.0, i)])
    backend.close("finished")
    read = CometReader(store)
    assert read.all_points() == points
    assert len(read.scalars("", points[0][0])) == 15_010


def test_hostile_tags_stay_apart(store: Path, tmp_path: Path) -> None:
    """Every tag is scalar, text, image, histogram and curve at once; none meets another, and nothing leaves the store."""
    make, backend = Maker(), opened()
    pixels = {tag: np.full((2, 2, 3), i, np.uint8) for i, tag in enumerate(HOSTILE)}
    for i, tag in enumerate(HOSTILE):
        backend.write([
            make.scalar(tag, float(i), 1), make.text(tag, f"text {i}"), make.image(tag, 2, pixels[tag]),
            make.histogram(tag, i, 4), make.pr_curve(tag, i), make.video(tag, i), make.tensor(tag, i),
        ])  # fmt: skip
    backend.write([make.scalar("after", 1.0)])
    backend.close("finished")
    read = CometReader(store)
    names = {message["metric"]["metricName"] for message in read.messages("metric_msg")}
    assert len(names) == len(HOSTILE) + 1
    assert max(map(len, names)) <= 100
    for i, tag in enumerate(HOSTILE):
        assert [point.value for point in read.scalars("", tag)] == [float(i)], tag
        assert read.texts("", tag) == [(0, f"text {i}")] or len(tag) > 500, tag
        ((_, found),) = read.images("", tag)
        np.testing.assert_array_equal(found, pixels[tag])
        found_all = (read.histograms, read.comet_histograms, read.pr_curves, read.videos, read.tensors)
        assert [[step for step, *_ in find("", tag)] for find in found_all] == [[i]] * 5, tag
    assert [path.name for path in tmp_path.iterdir()] == ["comet"]
    assert all(name == Path(name).name for name in zipfile.ZipFile(*store.iterdir()).namelist())


@settings(max_examples=300)
@given(st.lists(st.text(st.characters(), max_size=12) | st.text("./_x0a -:é~\n", max_size=150), unique=True, max_size=5))
def test_names_are_what_comet_takes(tags: list[str]) -> None:
    """The name of any tag is one that the SDK passes on unchanged, and different tags have different names."""
    rule = Names(ILLEGAL, 100)
    names = [rule(tag) for tag in tags]
    assert len(set(names)) == len(tags)
    assert all(0 < len(name) <= 100 and name == name.strip() == os.path.expanduser(name) for name in names)
    assert all(name.encode() for name in names)


def test_odd_events_arrive_too(store: Path) -> None:
    """What Comet's own types cannot show is in the exact files: empty, infinite and huge histograms, NaN in meshes."""
    make, backend = Maker(), opened()
    base = make.histogram("h")
    raw = {"writer": "", "wall_time": WALL, "record": base.record, "sum": 0.0, "sum_squares": 0.0}
    cases = [
        ((-1e30, 0.0, 1.79e308), (2.0, 3.0, 4.0), -1e30, 1e30), ((0.0, 1.0), (0.0, 0.0), 0.0, 0.0), ((), (), 0.0, 0.0),
        ((1e-15, 1.0), (0.4, 0.6), 1e-16, 1.0), ((1.0, math.inf), (1.0, math.nan), math.nan, math.nan),
    ]  # fmt: skip
    events: list[ev.Event] = [
        ev.Histogram(**raw, tag=f"h{i}", step=i, min=low, max=high, num=sum(counts), limits=limits, counts=counts)
        for i, (limits, counts, low, high) in enumerate(cases)
    ]
    odd = ev.Array.of(np.array([[[math.nan, 0, 0], [1, 1, 1]]] * 2, np.float32))
    events.append(ev.Mesh(**make._base("m", 1), vertices=odd, config='{"a": 1}'))
    events.append(ev.Mesh(**make._base("two", 1), vertices=ev.Array.of(np.arange(12, dtype=np.float32).reshape(2, 2, 3))))
    events.append(ev.Mesh(**make._base("none", 1), vertices=ev.Array.of(np.zeros((0, 4, 3), np.float32))))
    events.append(ev.Embedding(**make._base("e", 1), matrix=ev.Array.of(np.eye(3))))
    events.append(ev.Graph(**make._base("", 1), graph_def=b""))
    backend.write([*events, make.text("t", ""), make.image("i")])
    assert backend.written == len(events) + 2
    backend.close("finished")
    read = CometReader(store)
    totals = [sum(c for *_, c in read.comet_histograms("", f"h{i}")[0][1]) for i in (0, 3)]
    assert totals == [9, 1]
    assert len(list(read.uploads("histogram3d"))) == 2
    assert [len(list(read.files("histograms", f"h{i}", ".json"))) for i in range(5)] == [1] * 5
    assert (len(read.meshes("", "m")), read.scenes("", "m"), len(read.scenes("", "two"))) == (2, [], 2)
    assert len(list(read.files("meshes", "none", ".ply"))) == 1
    ((_, matrix, rows),) = read.embeddings("", "e")
    assert (matrix.tolist(), rows) == (np.eye(3).tolist(), None)
    assert read.texts("", "t") == [(0, "")]


# -- parameters ---------------------------------------------------------------------------------------------------------


def test_params_that_change_are_both_kept(store: Path) -> None:
    """A parameter has its latest value, and the run says what it was before."""
    make, backend = Maker(), opened(config={"lr": 0.1, "sizes": [1, 2], "none": None, "empty": {}})
    backend.write([make.hparams({"lr": 0.5, "bs": 4}, {}), make.hparams({"bs": 4, "big": 2**70}, {"m": math.inf})])
    backend.close("finished")
    read = CometReader(store)
    assert {key: str(value) for key, value in read.params().items()} == {
        "lr": "0.5", "sizes": "[1, 2]", "none": "None", "empty": "{}", "bs": "4", "big": str(2**70)
    }  # fmt: skip
    assert [value for key, value in read.others().items() if key.startswith("tracelet.earlier.")] == ["0.1"]
    assert read.summary_metrics() == {"m": math.inf}


def test_long_texts_are_cut_and_kept_whole(store: Path) -> None:
    """Parameters, notes and labels beyond Comet's 1000 characters end in a mark that names the file with all of it."""
    long = "päram " * 4000
    make, backend = Maker(), opened(notes=long, tags={"label": long}, config={"c": long})
    backend.write([make.hparams({"text": long, "odd": "a\0b\ud800", "k" * 300: 1}, {})])
    backend.close("finished")
    read = CometReader(store)
    whole = {params["fileName"]: data.decode("utf-8", "replace") for params, _, data in read.uploads("asset")}
    for shown in (read.params()["text"], read.params()["c"], read.about()["notes"], read.about()["tags"]["label"]):
        assert len(shown) <= 1000
        assert whole[shown.rpartition("whole in ")[2].rstrip("]")] == long
    assert (read.params()["odd"], read.params()["k" * 300]) == ("a\0b\\ud800", 1)


def test_trials_are_experiments_beside_the_run(store: Path) -> None:
    """Each trial is an experiment of its own while the run goes on; its parts join it, also those of a later session."""
    make, backend = Maker(), opened(run_id="sweep", config={"lr": 9})
    names = [f"trial {i} é\n" for i in range(12)]  # more than are kept open
    backend.write([make.hparams({"lr": i / 10}, {}, trial=name) for i, name in enumerate(names)])
    backend.write([make.scalar("run", 1.0), make.hparams({}, {"acc": 0.5}, 7, trial=names[0])])
    backend.close("failed")
    later = opened(run_id="sweep")
    later.write([make.hparams({}, {"acc": 0.9}, 8, trial=names[1])])
    later.close("finished")
    read = CometReader(store)
    assert read.trials()[:3] == [({"lr": 0.0}, {"acc": 0.5}), ({"lr": 0.1}, {"acc": 0.9}), ({"lr": 0.2}, {})]
    assert (len(read.trials()), read.params(), len(read.run_ids())) == (12, {"lr": 9}, 1)
    assert read.scalars("", "run") == [(0, 1.0, WALL)]
    children = [key for key in read._archives if key != read.key]
    assert [read.others(key)["Name"] for key in children] == names
    assert {read.others(key)["group"] for key in children} == {read.key}
    # One that had to be closed to make room ended before the session did.
    assert [read.others(children[i])["tracelet.status"] for i in (0, 5, 11)] == ["failed", "finished", "failed"]


# -- identity and life ----------------------------------------------------------------------------------------------------


def test_sessions_with_one_run_id_share_an_experiment(store: Path) -> None:
    """A second session with the run_id of the first has its key; each has an archive, and none is overwritten."""
    make = Maker()
    for name, status in (("first", "finished"), ("second", "killed")):
        backend = opened(run_id="it's mine@", exp_name=name, started=1e9 + len(name))
        backend.write([make.scalar("x", float(len(name)), len(name))])
        backend.close(status)
    read = CometReader(store)
    assert (len(read.run_ids()), len(read.archives())) == (1, 2)
    assert [point.value for point in read.scalars("", "x")] == [5.0, 6.0]
    assert (read.status(), read.about()["exp_name"], read.about()["run_id"]) == ("killed", "second", "it's mine@")
    assert "killed" in read.archives()[1].about["customer_error_message"]


def test_keys_are_legal_and_lasting(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run_id that is a legal key is the key; another gives one that depends on the project and the workspace."""
    legal = "Abc0123456789abc0123456789abc0123456789"
    key = {}
    for name, run, options in (
        ("legal", {"run_id": legal}, {}), ("a", {"run_id": "a"}, {}), ("a2", {"run_id": "a"}, {}),
        ("b", {"run_id": "b"}, {}), ("project", {"run_id": "a", "project": "other"}, {}),
        ("workspace", {"run_id": "a"}, {"workspace": "w"}), ("unicode", {"run_id": "ä" * 40}, {}),
        ("resume", {"resume": legal}, {}),
    ):  # fmt: skip
        backend = opened(options=options, **run)
        key[name] = backend.handle.id
        backend.close("finished")
    assert key["legal"] == key["resume"] == legal
    assert key["a"] == key["a2"]
    assert len({key[name] for name in ("legal", "a", "b", "project", "workspace", "unicode")}) == 6
    assert all(len(each) >= 32 and each.isalnum() and each.isascii() for each in key.values())
    with pytest.raises(errors.ConfigurationError, match="no experiment key"):
        opened(resume="not/a/key")
    monkeypatch.setenv("COMET_EXPERIMENT_KEY", legal.upper())
    backend = opened()
    assert backend.handle.id == legal.upper()
    backend.close("finished")


def test_open_tried_again_has_the_same_key(store: Path) -> None:
    """An open that is repeated, by another object of the session, goes on with its experiment."""
    info = run_info(session="feedfacefeedface")
    backends = [CometBackend(), CometBackend()]
    assert len({backend.open(info).run_id for backend in backends}) == 1
    for backend in backends:
        backend.close("finished")
    assert len(CometReader(store).run_ids()) == 1


def test_killed_session_loses_nothing_and_is_continued(store: Path, run_python: Any) -> None:
    """What `write` has returned for survives a kill: the next run there packs it, and `resume` goes on with it."""
    done = run_python(
        """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from tests.sample_events import Maker, run_info
        from tracelet_shim.backends.comet.backend import CometBackend
        make, backend = Maker(), CometBackend()
        print(backend.open(run_info(project="killed", tags={"label": ""})).run_id)
        backend.write([make.scalar("x", 1.0, 1), make.image("i")])
        backend.write([make.scalar("twice", 1.0, step % 200) for step in range(300)])
        backend.write([make.hparams({"lr": 1}, {}, trial="t")])
        with open(backend.handle.tmpdir + "/messages.json", "a") as file:
            file.write('{"half a li')
        sys.stdout.flush()
        os.kill(os.getpid(), 9)
        """,
        str(Path(__file__).parents[2]),
        env=dict(os.environ) | {"COMET_OFFLINE_DIRECTORY": str(store)},
        check=False,
    )
    key = done.stdout.strip()
    assert done.returncode == -9
    assert [path.suffix for path in store.iterdir()] == [".part", ".part"]
    backend = opened(resume=key)
    # The relay's last batch comes again if it was killed behind the write.
    backend.write([Maker().scalar("twice", 1.0, step % 200) for step in range(400)])
    backend.write([Maker().scalar("x", 2.0, 2)])
    backend.close("finished")
    assert {path.suffix for path in store.iterdir()} == {".zip"}
    read = CometReader(store, key)
    assert [point[:2] for point in read.scalars("", "x")] == [(1, 1.0), (2, 2.0)]
    assert [point.step for point in read.scalars("", "twice")] == [step % 200 for step in range(400)]
    assert (len(read.images("", "i")), read.status(), len(read.trials())) == (1, "finished", 1)
    assert (read.archives()[0].about["project_name"], read.about()["tags"]) == ("killed", {"label": ""})


def test_living_session_is_left_alone(store: Path) -> None:
    """A session that is still writing is not packed by another one that opens a run in the same directory."""
    first, second = opened(exp_name="first"), opened(exp_name="second")
    first.write([Maker().scalar("x", 1.0)])
    second.close("finished")
    first.write([Maker().scalar("x", 2.0)])
    first.close("finished")
    read = CometReader(store, first.handle.id)
    assert (len(read.run_ids()), [point.value for point in read.scalars("", "x")]) == (2, [1.0, 2.0])


def test_full_disk_is_an_error_and_nothing_is_half_written(store: Path, run_python: Any) -> None:
    """A write that fails leaves no trace, may be tried again, and the relay is told how far it came."""
    run_python(
        """
        import os, resource, signal, sys
        sys.path.insert(0, sys.argv[1])
        from tests.sample_events import Maker, run_info
        from tracelet_shim.backends.comet.backend import CometBackend
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        make, backend = Maker(), CometBackend()
        backend.open(run_info())
        events = [make.text("before"), *(make.scalar("x", i / 7, i) for i in range(500)), make.image("i")]
        size = os.path.getsize(backend.handle.tmpdir + "/messages.json")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, resource.RLIM_INFINITY))
        try:
            backend.write(events)
        except OSError as error:
            assert backend.is_transient(error)
            print(backend.written)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        backend.write(events[backend.written:])
        backend.close("finished")
        """,
        str(Path(__file__).parents[2]),
        env=dict(os.environ) | {"COMET_OFFLINE_DIRECTORY": str(store)},
    )
    read = CometReader(store)
    assert [point[:2] for point in read.scalars("", "x")] == [(i, i / 7) for i in range(500)]
    assert (len(read.images("", "i")), len(read.texts("", "before"))) == (1, 1)
    files = {payload["file_path"] for payload in read.messages("file_upload")}
    assert set(zipfile.ZipFile(*store.iterdir()).namelist()) == {"experiment.json", "messages.json", *files}


def test_experiment_of_the_user_is_joined_and_left_open(store: Path) -> None:
    """The user's active experiment is found, joined from another thread with its step untouched, and stays his."""
    import comet_ml

    assert CometBackend.borrowed() is None
    theirs = comet_ml.OfflineExperiment(
        project_name="his", log_code=False, parse_args=False, auto_output_logging=False, log_env_details=False
    )
    try:
        borrowed = CometBackend.borrowed()
        assert borrowed == theirs.id
        theirs.log_metric("his", 1.0, step=5)

        def work() -> None:
            backend = opened(resume=borrowed, tags={"k": "v"}, config={"ours": 2}, exp_name="not his")
            make = Maker()
            backend.write([make.scalar("x", 1.0, 70), make.image("i", 71), make.hparams({"lr": 1}, {}, trial="t")])
            backend.close("failed")

        in_thread(work)
        assert (theirs.alive, theirs.curr_step, comet_ml.get_running_experiment()) == (True, 5, theirs)
        theirs.log_metric("his", 2.0)
    finally:
        theirs.end()
        comet_ml.config.set_global_experiment(None)
    read = CometReader(store, borrowed)
    assert [point[:2] for point in read.scalars("", "his")] == [(5, 1.0), (5, 2.0)]
    assert (read.scalars("", "x"), [step for step, _ in read.images("", "i")]) == ([(70, 1.0, WALL)], [71])
    assert (read.params()["ours"], read.about()["tags"], read.about()["exp_name"]) == (2, {"k": "v"}, None)
    assert not read.archives()[0].about["customer_error_reported"]
    assert read.trials() == [({"lr": 1}, {})]


def test_own_run_and_experiment_of_the_user_do_not_meet(store: Path) -> None:
    """A user's experiment in the same process neither ends ours nor is ended by it, and each gets its own data."""
    import comet_ml

    off = {"log_code": False, "parse_args": False, "auto_output_logging": False, "log_env_details": False}
    first = comet_ml.OfflineExperiment(**off)
    ours = opened()
    assert first.alive
    second = comet_ml.OfflineExperiment(**off)  # ends the first: the SDK's rule for the user's own
    second.log_metric("x", 5.0, step=1)
    ours.write([Maker().scalar("x", 1.0)])
    second.end()
    comet_ml.config.set_global_experiment(None)
    ours.write([Maker().scalar("x", 2.0)])
    ours.handle.log_metric("by hand", 3.0, step=1)  # session.native["comet"]
    ours.close("finished")
    read = CometReader(store, ours.handle.id)
    assert [point.value for point in read.scalars("", "x")] == [1.0, 2.0]
    assert [point.value for point in read.scalars("", "by hand")] == [3.0]
    assert [point.value for point in CometReader(store, second.id).scalars("", "x")] == [5.0]


def test_ended_experiment_is_told(store: Path) -> None:
    """Events for an experiment that somebody has ended are an error, not lost; what it had is kept."""
    backend = opened()
    backend.write([Maker().scalar("x", 1.0)])
    backend.handle.end()
    with pytest.raises(errors.BackendError, match="has been ended"):
        backend.write([Maker().scalar("x", 2.0)])
    backend.close("finished")
    assert [path.suffix for path in store.iterdir()] == [".zip"]
    assert [point.value for point in CometReader(store).scalars("", "x")] == [1.0]


def test_process_is_left_as_it_was(store: Path, run_python: Any) -> None:
    """No exception hook, signal handler, environment variable, import hook, thread, output or file is left behind."""
    done = run_python(
        """
        import os, signal, sys, threading
        sys.path.insert(0, sys.argv[1])
        from tests.sample_events import Maker, run_info
        from tracelet_shim.backends.comet.backend import CometBackend
        for name in ("COMET_ERROR_TRACKING_ENABLE", "COMET_LOGGING_CONSOLE"):
            os.environ.pop(name, None)
        def state():
            handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
            finders = [f for f in sys.meta_path if "comet" in repr(f).lower()]
            return sys.excepthook, handlers, dict(os.environ), finders, sys.stdout, sys.stderr
        import torch
        make, backend, before = Maker(), CometBackend(), state()
        def work():
            backend.open(run_info())
            backend.write(make.one_of_each())
            backend.write([make.hparams({}, {}, trial="t")])
            assert state() == before
            backend.close("failed")
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join()
        assert state() == before
        assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
        assert "sentry_sdk" not in sys.modules or not sys.modules["sentry_sdk"].is_initialized()
        """,
        str(Path(__file__).parents[2]),
        env=dict(os.environ) | {"COMET_OFFLINE_DIRECTORY": str(store), "TMPDIR": str(store.parent)},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert {path.name for path in store.parent.iterdir()} <= {"comet", "script.py"}


def test_directory_is_the_options_or_comets_default(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives lie where the option says, else COMET_OFFLINE_DIRECTORY, else in .cometml-runs; the link is a command."""
    monkeypatch.setenv("COMET_START_EXPERIMENT_NAME", "from the environment")
    monkeypatch.setenv("COMET_PROJECT_NAME", "their project")
    backend = CometBackend({"offline_directory": str(tmp_path / "a b"), "offline": "true"})
    url = backend.open(run_info(exp_name=None, project=None)).url
    backend.close("finished")
    (archive,) = (tmp_path / "a b").iterdir()
    assert url == f"comet upload '{archive}'"
    about = CometReader(tmp_path / "a b").about()
    assert (about["exp_name"], about["project"]) == ("from the environment", "their project")
    monkeypatch.delenv("COMET_OFFLINE_DIRECTORY")
    opened(offline=True).close("finished")
    assert len(list((tmp_path / ".cometml-runs").glob("*.zip"))) == 1
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        opened(options={"offline_directory": tmp_path / "file"})


# -- online ---------------------------------------------------------------------------------------------------------------


def test_missing_key_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online needs an API key: from an option, the environment or a configuration file; offline needs none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "no"))
    CometBackend.check(offline=False, options={})  # COMET_START_ONLINE=false, of all tests
    monkeypatch.delenv("COMET_START_ONLINE")
    with pytest.raises(errors.BackendUnavailableError, match=r"COMET_API_KEY.*comet login.*COMET_START_ONLINE=false"):
        CometBackend.check(offline=False, options={})
    CometBackend.check(offline=True, options={})
    CometBackend.check(offline=False, options={"api_key": "k"})
    CometBackend.check(offline=False, options={"offline": "1"})
    with pytest.raises(errors.BackendUnavailableError):
        CometBackend.check(offline=True, options={"offline": "false"})
    (tmp_path / ".comet.config").write_text("[comet]\nproject_name = p\napi_key=abc\n")
    CometBackend.check(offline=False, options={})
    (tmp_path / ".comet.config").write_text("[comet]\n# api_key=abc\nstart_online = False\n")
    CometBackend.check(offline=False, options={})
    monkeypatch.setenv("COMET_API_KEY", "k")
    CometBackend.check(offline=False, options={})


def test_server_gets_everything(store: Path, run_python: Any) -> None:
    """Online, a finished write has been taken by the server; and the SDK's own upload takes our archive."""
    done = run_python(
        SERVER
        + """
import os, sys, time
sys.path.insert(0, sys.argv[1])
server = serve()
os.environ["COMET_URL_OVERRIDE"] = f"http://127.0.0.1:{server.server_port}/clientlib/"
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.comet.backend import CometBackend

make, backend = Maker(), CometBackend({"offline": False})
link = backend.open(run_info(run_id="r", config={"c": 1}, tags={"label": ""})).url
assert link == "http://127.0.0.1/focus/" + backend.handle.id, link
backend.write([*make.one_of_each(), *(make.scalar("x", i / 7, i) for i in range(1000)), make.hparams({"lr": 1}, {}, trial="t")])
points = [(m["metricName"], m["step"], m["metricValue"]) for m in sent("metric")]
assert [p[1:] for p in points if p[0] == "x"] == [(i, i / 7) for i in range(1000)]
assert {m["timestamp"] for m in sent("metric")} == {1760000000125}
assert {m["parameterName"] for m in sent("parameter")} == {"c", "lr", "bs", "opt", "amp"}, sent("parameter")
def uploads():
    return [path for path, _ in Handler.got if "/upload?" in path]
assert len(uploads()) == 20, len(uploads())
backend.flush()
backend.close("failed")
said = [json.loads(body) for path, body in Handler.got if path.endswith("update-status")]
assert [s["error"] for s in said] == ["the program failed"] * 2, said
assert not any("process duration" in m["metricName"] for m in sent("metric"))

Handler.got.clear()
backend = CometBackend({"offline": True})
command = backend.open(run_info(run_id="s")).url
backend.write([*Maker().one_of_each(), *(make.scalar("x", i / 7, i) for i in range(1000))])
backend.close("finished")
from comet_ml.offline import main_upload
main_upload([command.split()[-1]], force_upload=False)
assert [(m["step"], m["metricValue"]) for m in sent("metric") if m["metricName"] == "x"] == [(i, i / 7) for i in range(1000)]
assert len(uploads()) == 19, len(uploads())
""",
        str(Path(__file__).parents[2]),
        env={**dict(os.environ), **_NO_SERVER, "COMET_OFFLINE_DIRECTORY": str(store)},
    )
    assert done.stdout == ""


def test_lost_connection_holds_events_back(store: Path, run_python: Any) -> None:
    """Without a server, writes fail as transient and take nothing; all arrives once it is back, and the run is
    not ended before."""
    run_python(
        SERVER
        + """
import os, sys, time
sys.path.insert(0, sys.argv[1])
server = serve()
port = server.server_port
os.environ["COMET_URL_OVERRIDE"] = f"http://127.0.0.1:{port}/clientlib/"
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.comet.backend import CometBackend

make, backend = Maker(), CometBackend()
backend.open(run_info())
backend.write([make.scalar("x", 0.0, 0)])
server.shutdown()
server.server_close()
Handler.gone = True
step, failed = 1, 0
begin = time.monotonic()
while step < 6:
    try:
        backend.write([make.scalar("x", float(step), step)])
    except Exception as error:
        assert backend.is_transient(error), repr(error)
        assert backend.written == 0
        failed += 1
        if failed == 2:
            Handler.gone, server = False, serve(port)
        time.sleep(0.5)
    else:
        step += 1
    assert time.monotonic() - begin < 60
backend.close("finished")
assert failed >= 2
found = [(m["step"], m["metricValue"]) for m in sent("metric")]
assert sorted(found) == [(i, float(i)) for i in range(6)], found

backend = CometBackend()
key = backend.open(run_info(session="0123456789abcdef")).run_id
backend.flush()
server.shutdown()
server.server_close()
Handler.gone = True
for attempt in (lambda: backend.write([make.scalar("x", 6.0, 6)]), lambda: backend.close("finished")):
    try:
        attempt()
    except Exception as error:
        assert backend.is_transient(error), repr(error)
    else:
        raise AssertionError("it went well without a server")
""",
        str(Path(__file__).parents[2]),
        env={**dict(os.environ), **_NO_SERVER, "COMET_OFFLINE_DIRECTORY": str(store)},
    )


def test_no_server_and_no_access_fail_soon(store: Path, run_python: Any) -> None:
    """A server that is not there is a transient error within seconds; a refused key is final, and never shown."""
    code = (
        SERVER
        + """
import logging, os, sys, time
sys.path.insert(0, sys.argv[1])
from tests.sample_events import run_info
from tracelet_shim.backends.comet.backend import CometBackend

def attempt(**options):
    backend, begin = CometBackend(options), time.monotonic()
    try:
        backend.open(run_info())
    except Exception as error:
        assert time.monotonic() - begin < 10
        assert "S3CRET" not in repr(error) and "S3CRET" not in str(error.__cause__)
        return backend.is_transient(error), type(error).__name__
if sys.argv[2] == "refused":
    server = serve()
    Handler.status = 400
    os.environ["COMET_URL_OVERRIDE"] = f"http://127.0.0.1:{server.server_port}/clientlib/"
print(attempt(api_key="S3CRET" * 4))
"""
    )
    environment = {**dict(os.environ), **_NO_SERVER, "COMET_OFFLINE_DIRECTORY": str(store)}
    root = str(Path(__file__).parents[2])
    transient, refused = (run_python(code, root, what, env=environment) for what in ("gone", "refused"))
    print(transient.stderr, refused.stderr, file=sys.stderr)
    assert transient.stdout.startswith("(True")
    assert refused.stdout.startswith("(False")
    for done in (transient, refused):
        assert "S3CRET" not in done.stdout + done.stderr
