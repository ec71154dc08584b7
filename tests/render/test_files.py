"""What is attached to a run opens with ordinary programs, and shows what the event held."""

from __future__ import annotations

import csv
import io
import json
import math
import wave
from typing import Any

import msgspec
import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from tests.sample_events import WALL, Maker, gif_frames
from tracelet_shim import events as ev
from tracelet_shim.backends.render import files
from tracelet_shim.testing import RecordingBackend


@pytest.fixture
def make() -> Maker:
    return Maker()


def rendered(event: ev.Event) -> dict[str, bytes]:
    found = list(files.render(event))
    assert len(dict(found)) == len(found)
    return dict(found)


def only(event: ev.Event, suffix: str) -> bytes:
    found = rendered(event)
    assert list(found) == [suffix]
    return found[suffix]


def parsed(data: bytes) -> Any:
    """Parse JSON as strict parsers do: without NaN and Infinity."""

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    return json.loads(data, parse_constant=refuse)


def parse_ply(data: bytes) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return (vertices, faces, colours) of an ASCII PLY file."""
    lines = data.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format ascii 1.0"]
    end = lines.index("end_header")
    counts: dict[str, int] = {}
    properties: dict[str, list[str]] = {}
    for line in lines[2:end]:
        word, *rest = line.split()
        if word == "element":
            element = rest[0]
            counts[element] = int(rest[1])
            properties[element] = []
        else:
            assert word == "property"
            properties[element].append(rest[-1])
    body = [line.split() for line in lines[end + 1 :]]
    assert len(body) == sum(counts.values())
    rows = body[: counts["vertex"]]
    assert all(len(row) == len(properties["vertex"]) for row in rows)
    vertices = np.array([row[:3] for row in rows], np.float32).reshape(-1, 3)
    colors = np.array([row[3:] for row in rows], np.uint8) if "red" in properties["vertex"] else None
    faces = None
    if "face" in counts:
        assert all(row[0] == "3" for row in body[counts["vertex"] :])
        faces = np.array([row[1:] for row in body[counts["vertex"] :]], np.int32)
    return vertices, faces, colors


def test_every_event_type_has_a_folder_and_a_file(make: Maker) -> None:
    """No event type is without a renderer, and none renders to nothing."""
    assert set(files.FOLDERS) == {kind.kind for kind in ev.EVENT_TYPES}
    events = [*make.one_of_each(), *make.of_the_handle()]
    assert all(rendered(event) for event in events)
    assert {type(event) for event in events} == set(ev.EVENT_TYPES) - {ev.Marker}


def test_scalar(make: Maker) -> None:
    """A scalar is JSON with the exact number."""
    event = make.scalar("loss", 0.1, 3, series="a")
    assert parsed(only(event, ".json")) == {"tag": "loss/a", "step": 3, "wall_time": WALL, "value": 0.1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks(make: Maker, value: float) -> None:
    """NaN and infinities are strings, in scalars, wall times and hparams alike: any JSON parser reads the file."""
    assert parsed(only(make.scalar("loss", value, wall=value), ".json"))["value"] == str(value)
    found = parsed(only(make.hparams({"lr": value}, {"acc": value}), ".json"))
    assert (found["params"], found["metrics"]) == ({"lr": str(value)}, {"acc": str(value)})


def test_histogram(make: Maker) -> None:
    """A histogram is JSON with all buckets."""
    event = make.histogram("h")
    found = parsed(only(event, ".json"))
    assert tuple(found["limits"]) == event.limits
    assert tuple(found["counts"]) == event.counts
    assert (found["min"], found["max"], found["num"]) == (event.min, event.max, event.num)
    wild = msgspec.structs.replace(event, min=math.nan, limits=(*event.limits[:-1], math.inf))
    assert parsed(only(wild, ".json"))["limits"][-1] == "inf"


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_image(make: Maker, shape: tuple[int, ...]) -> None:
    """An image is the PNG itself, pixel for pixel."""
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(only(make.image("i", pixels=pixels), ".png")))), pixels)


def test_image_of_another_format(make: Maker) -> None:
    """A JPEG keeps its suffix."""
    assert only(msgspec.structs.replace(make.image("i"), format="jpeg"), ".jpeg")


def test_video(make: Maker) -> None:
    """A video is a GIF with all its frames."""
    event = make.video("v")
    assert gif_frames(only(event, ".gif")).shape == (event.frames, event.height, event.width, 3)


def test_audio(make: Maker) -> None:
    """Audio is a WAV file of the right rate and length; other formats keep their suffix."""
    event = make.audio("a")
    with wave.open(io.BytesIO(only(event, ".wav"))) as sound:
        assert (sound.getframerate(), sound.getnframes(), sound.getnchannels()) == (16000, 800, 1)
    assert only(msgspec.structs.replace(event, content_type="audio/mpeg"), ".mp3") == event.data


def test_text(make: Maker) -> None:
    """Text is a Markdown file in UTF-8; a lone surrogate does not break it."""
    assert only(make.text("t", "**é**\n日本"), ".md").decode() == "**é**\n日本"
    assert only(make.text("t", "a\ud800"), ".md").startswith(b"a")


def test_pr_curve(make: Maker) -> None:
    """A PR curve is a CSV table with one row a threshold, from 0 to 1."""
    event = make.pr_curve("p")
    rows = list(csv.DictReader(io.StringIO(only(event, ".csv").decode())))
    assert [float(row["threshold"]) for row in rows] == pytest.approx(np.linspace(0, 1, 11))
    for name in ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall"):
        assert tuple(float(row[name]) for row in rows) == getattr(event, name)


@pytest.mark.parametrize("faces", [True, False])
@pytest.mark.parametrize("colors", [True, False])
def test_mesh(make: Maker, faces: bool, colors: bool) -> None:
    """A mesh is a PLY file with exact vertices, and with faces and colours where it has them."""
    event = make.mesh("m", faces=faces, colors=colors)
    found = parse_ply(only(event, ".ply"))
    for array, expected in zip(found, (event.vertices, event.faces, event.colors), strict=True):
        if expected is None:
            assert array is None
        else:
            assert np.array_equal(array, expected.numpy()[0])


def test_mesh_batch(make: Maker) -> None:
    """Each mesh of a batch is a file of its own, beside the configuration; an empty batch is an empty file."""
    vertices = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    event = msgspec.structs.replace(
        make.mesh("m", faces=False, colors=False), vertices=ev.Array.of(vertices), config='{"camera": 1}'
    )
    found = rendered(event)
    assert parsed(found.pop(".config.json")) == {"camera": 1}
    assert list(found) == [".0.ply", ".1.ply", ".2.ply"]
    for data, points in zip(found.values(), vertices, strict=True):
        assert np.array_equal(parse_ply(data)[0], points)
    empty = msgspec.structs.replace(event, vertices=ev.Array.of(vertices[:0]), config="{}")
    assert len(parse_ply(only(empty, ".ply"))[0]) == 0


def test_embedding(make: Maker) -> None:
    """An embedding is what the projector loads: two tables of tab-separated values and a picture."""
    event = make.embedding()
    found = rendered(event)
    assert list(found) == [".tensors.tsv", ".metadata.tsv", ".sprite.png"]
    matrix = np.loadtxt(io.BytesIO(found[".tensors.tsv"]), delimiter="\t")
    assert np.array_equal(matrix.astype(np.float32), event.matrix.numpy())
    rows = list(csv.reader(io.StringIO(found[".metadata.tsv"].decode()), delimiter="\t"))
    assert rows == [["name", "class"], *map(list, event.metadata or ())]
    assert Image.open(io.BytesIO(found[".sprite.png"])).size == (12, 12)


def test_embedding_labels_that_would_break_the_table(make: Maker) -> None:
    """Tabs and line ends in a label become blanks, so rows and columns stay in place; a bare matrix is one file."""
    event = msgspec.structs.replace(
        make.embedding(sprite=False), matrix=ev.Array.of(np.eye(2)), metadata=(("a\tb",), ("c\r\nd",)),
        metadata_header=None,
    )  # fmt: skip
    assert rendered(event)[".metadata.tsv"].decode() == "a b\nc  d\n"
    assert only(msgspec.structs.replace(event, metadata=None), ".tensors.tsv") == b"1.0\t0.0\n0.0\t1.0\n"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4)])
def test_tensor(make: Maker, dtype: str, shape: tuple[int, ...]) -> None:
    """A tensor is an .npy file with its dtype and shape."""
    values = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    found = np.load(io.BytesIO(only(msgspec.structs.replace(make.tensor("x"), value=ev.Array.of(values)), ".npy")))
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert np.array_equal(found, values)


def test_graph(make: Maker) -> None:
    """A graph is there as text for people and as a proto for programs, both the same."""
    from tensorboard.compat.proto import graph_pb2

    found = rendered(make.graph())
    assert list(found) == [".pbtxt", ".pb"]
    graph = graph_pb2.GraphDef.FromString(found[".pb"])
    assert text_format.Parse(found[".pbtxt"].decode(), graph_pb2.GraphDef()) == graph
    assert [node.name for node in graph.node] == ["input", "Net/Linear[fc]/weight", "output"]


def test_hparams_and_custom_scalars(make: Maker) -> None:
    """Parameters and chart layouts are JSON."""
    found = parsed(only(make.hparams({"lr": 0.1, "amp": True, "n": 3, "opt": "é"}, {"acc": 0.5}, trial="t"), ".json"))
    expected = {"lr": 0.1, "amp": True, "n": 3, "opt": "é"}
    assert found == {"trial": "t", "params": expected, "metrics": {"acc": 0.5}, "domain": {}}
    layout = parsed(only(make.custom_scalars(), ".json"))
    assert layout["Losses"]["both"] == ["Multiline", ["train/loss", "val/loss"]]


def test_blob(make: Maker) -> None:
    """Bytes are kept as they are; a name from a foreign file cannot lead out of the folder."""
    event = make.blob()
    assert only(event, ".run_metadata.pb") == event.data
    ((suffix, _),) = files.render(msgspec.structs.replace(event, name="x/../../../y\0" + "z" * 500 + ".pb"))
    assert not {"/", "\0"} & set(suffix)
    assert suffix.endswith("z.pb")
    assert len(suffix) <= 100


def test_artifact_paths(make: Maker) -> None:
    """Every event has paths of its own, under the folder of its type, and the same ones when it is rendered again."""
    backend = RecordingBackend()
    pixels = np.zeros((2, 2), np.uint8)
    events = [*make.one_of_each(), *(make.image(tag, 3, pixels) for tag in ("a", "a/b", "", "../x", "a"))]
    paths = [path for event in events for path, _ in backend.files_of(event)]
    assert len(set(paths)) == len(paths)
    assert paths == [path for event in events for path, _ in RecordingBackend().files_of(event)]
    for event in events:
        for path, _ in backend.files_of(event):
            assert path.startswith(f"{files.FOLDERS[event.kind]}/")
            assert not {"", ".", ".."} & set(path.split("/"))
