"""An event proto becomes the same typed events, whoever wrote it, live or years later."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.compat.proto import event_pb2, graph_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.audio import metadata as audio_metadata
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.mesh import metadata as mesh_metadata
from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.util import tensor_util
from torch.utils.tensorboard.summary import custom_scalars, hparams, mesh, scalar, tensor_proto, text

from tests.sample_events import gif, gif_frames, png, wav
from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles import add_scalars
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.writer_names import WriterNames

PIXELS = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)


class Files:
    """Event files of a session or a log directory under ``/logs``, and the decoder that reads them.

    Each record is decoded twice, the second time after all that came behind it: what is read again from an event file
    for a slow tracker is the same as what the others got.
    """

    def __init__(self, *, replay: bool = False) -> None:
        self.decoder = Decoder(WriterNames("/logs"))
        self.replay = replay
        self._next: list[int] = []
        self._decoded: list[tuple[msg.Record, list[ev.Event]]] = []

    def add(self, logdir: str = "/logs", parent: str | None = None) -> int:
        number = len(self._next)
        path = f"{logdir}/events.out.tfevents.{number}"
        self.decoder.add_source(msg.Source(number, path, logdir, parent, replay=self.replay))
        self._next.append(0)
        self.decode(number, Event(file_version="brain.Event:2", wall_time=1))
        return number

    def decode(
        self, source: int, event: Event | Summary | bytes, value: float | None = None, hint: msg.Hint | None = None
    ) -> list[ev.Event]:
        """Decode the next record of a file."""
        if isinstance(event, Summary):
            event = Event(summary=event, step=7, wall_time=12.5)
        data = event if isinstance(event, bytes) else event.SerializeToString()
        record = msg.Record(source, self._next[source], data, value, hint)
        self._next[source] += 1
        events, _ = self.decoder.decode([record])
        self._decoded.append((record, events))
        assert all(event.source == data for event in events)
        place = (self.decoder.source(source).path, record.position)
        assert all(event.record[:2] == place for event in events)
        return events

    def check(self) -> None:
        for order in (self._decoded, self._decoded[::-1]):
            for record, events in order:
                assert repr(self.decoder.decode([record])[0]) == repr(events)  # repr: NaN equals NaN


@pytest.fixture
def live() -> Any:
    files = Files()
    yield files
    files.check()


@pytest.fixture
def replayed() -> Any:
    files = Files(replay=True)
    yield files
    files.check()


def value_of(tag: str, content: Any, metadata: SummaryMetadata | None = None) -> Summary:
    """Make a tensor summary as TensorFlow 2 writes it."""
    proto = content if isinstance(content, TensorProto) else tensor_util.make_tensor_proto(content)
    return Summary(value=[Summary.Value(tag=tag, tensor=proto, metadata=metadata)])


def only(events: list[ev.Event]) -> Any:
    (event,) = events
    return event


def without(event: ev.Event, *names: str) -> dict[str, Any]:
    """Return an event's fields but for these."""
    return {name: getattr(event, name) for name in event.__struct_fields__ if name not in names}


def test_scalars_of_one_tag(live: Files) -> None:
    """A scalar is what its own bytes say, whatever came before it with the same tag in the same file."""
    numbers = {live.add(): "", live.add("/logs/train"): "train"}
    steps = [1, 2, 127, 128, 300, 2**21, 2**35, 2**63 - 1, -1, -(2**63), 0, 5]
    for tag in ("a", "", "x/y", "\x15abcd", "é" * 70, "long" * 5000):
        for step, value in zip(steps * 2, [0.1, 0.0, np.nan, np.inf, -np.inf] * 5, strict=False):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            for number, writer in numbers.items():
                for series in (None, "key"):
                    hint = msg.Series(series) if series else None
                    found = only(live.decode(number, Event(step=step, wall_time=step / 3, summary=summary), value, hint))
                    assert (found.writer, found.tag, found.step, found.wall_time) == (writer, tag, step, step / 3)
                    assert (repr(found.value), found.series) == (repr(value), series)


def test_records_that_begin_like_a_scalar(live: Files) -> None:
    """What is no bare scalar is never taken for one of the tag that came before it, nor remembered as one."""
    source = live.add()
    bare = Event(step=3, wall_time=1.5, summary=Summary(value=[Summary.Value(tag="a", simple_value=0.5)]))
    data = bare.SerializeToString()
    assert only(live.decode(source, data, 0.5)).tag == "a"
    two = Event(step=3, wall_time=1.5, summary=Summary(value=[*bare.summary.value, Summary.Value(tag="b", simple_value=1)]))
    assert [event.tag for event in live.decode(source, two, 0.5)] == ["a", "b"]
    for damaged in (data[:-1], data[:9], data[:11], b"\x09" + b"\xff" * 8 + b"\x10" + b"\xff" * 30 + b"\x15abcd"):
        assert not isinstance(only(live.decode(source, damaged, 0.5)), ev.Scalar)
    unknown = data + b"\x15abcd"  # a field of another type behind the last one, which protobuf passes over
    for _ in range(2):
        assert only(live.decode(source, unknown, 0.5)).step == 3
    assert isinstance(only(live.decode(source, unknown[:-4] + b"ab", 0.5)), ev.Blob)


# -- TensorFlow 2 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.bool_])
def test_scalars_of_tensorflow_2(live: Files, dtype: Any) -> None:
    """A tensor with the plugin ``scalars`` is a scalar, exact in its own type."""
    source = live.add()
    about = scalar_metadata.create_summary_metadata("loss", "described")
    event = only(live.decode(source, value_of("loss", np.array(0.1).astype(dtype), about)))
    assert isinstance(event, ev.Scalar)
    assert (event.tag, event.step, event.wall_time, event.series) == ("loss", 7, 12.5, None)
    assert event.value == float(np.array(0.1).astype(dtype))


def test_the_plugin_may_be_named_once(live: Files) -> None:
    """TensorFlow writes the metadata with the first value of a tag; it holds for the file and for nothing else."""
    first, second = live.add("/logs/train"), live.add("/logs/val")
    about = scalar_metadata.create_summary_metadata("a", "")
    assert only(live.decode(first, value_of("a", np.float32(1), about))).value == 1.0
    assert only(live.decode(first, value_of("a", np.float32(2)))).value == 2.0
    assert isinstance(only(live.decode(first, value_of("b", np.float32(2)))), ev.Tensor)
    assert isinstance(only(live.decode(second, value_of("a", np.float32(2)))), ev.Tensor)


def test_a_decoder_learns_plugins_from_records_that_others_decoded(live: Files) -> None:
    """A relay that continues where another died knows what the earlier records said."""
    source = live.add()
    about = scalar_metadata.create_summary_metadata("a", "")
    live.decoder.learn(source, Event(summary=value_of("a", np.float32(1), about)).SerializeToString())
    live.decoder.learn(source, b"\xff damaged")
    assert isinstance(only(live.decode(source, value_of("a", np.float32(2)))), ev.Scalar)


def test_images_of_tensorflow_2(live: Files) -> None:
    """A string tensor of width, height and pictures: each of them is an event, with its own bytes. The first has the tag."""
    source = live.add()
    about = image_metadata.create_summary_metadata("i", "", converted_to_tensor=True)
    other = 255 - PIXELS
    one = only(live.decode(source, value_of("i", [b"5", b"4", png(PIXELS)], about)))
    assert isinstance(one, ev.Image)
    assert (one.data, one.format, one.width, one.height, one.channels) == (png(PIXELS), "png", 5, 4, 3)
    summary = value_of("i", [b"5", b"4", png(PIXELS), b"no picture", gif(np.stack([PIXELS, other]), fps=10), png(other)])
    summary.value.add(tag="neighbour", simple_value=0.5)
    first, broken, video, last, neighbour = live.decode(source, summary)
    assert [(e.kind, e.tag) for e in (first, broken, video, last)] == [
        ("image", "i"), ("blob", "i/1"), ("video", "i/2"), ("image", "i/3")
    ]  # fmt: skip
    assert without(first, "record", "source") == without(one, "record", "source")
    assert (broken.data, last.data) == (b"no picture", png(other))
    assert [e.record.index for e in (first, broken, video, last, neighbour)] == [0, 2, 4, 6, 1]
    empty = only(live.decode(source, value_of("i", [b"5", b"4"])))
    assert isinstance(empty, ev.Blob)


def test_an_animated_gif_is_a_video(live: Files) -> None:
    """TensorBoard has no video: both TensorFlow programs and torch store a GIF as an image."""
    frames = np.stack([np.full((4, 6, 3), 80 * i, np.uint8) for i in range(3)])
    source = live.add()
    about = image_metadata.create_summary_metadata("v", "", converted_to_tensor=True)
    tensor = only(live.decode(source, value_of("v", [b"6", b"4", gif(frames, fps=10)], about)))
    image = Summary.Image(width=6, height=4, colorspace=3, encoded_image_string=gif(frames, fps=10))
    legacy = only(live.decode(source, Summary(value=[Summary.Value(tag="v", image=image)])))
    for event in (tensor, legacy):
        assert isinstance(event, ev.Video)
        assert (event.width, event.height, event.frames, event.fps) == (6, 4, 3, 10)
        np.testing.assert_array_equal(gif_frames(event.data), frames)


@pytest.mark.parametrize("labels", [True, False])
def test_audio_of_tensorflow_2(live: Files, labels: bool) -> None:
    """A string tensor of WAV files, alone or with the label that old versions put behind each: every clip is an event."""
    sounds = [wav(np.arange(number, dtype=np.int16), 8000) for number in (80, 90, 100)]
    about = audio_metadata.create_summary_metadata("a", "", audio_metadata.Encoding.Value("WAV"))
    source = live.add()
    for clips in (sounds[:1], sounds):
        content = np.array([[sound, b"label"] for sound in clips] if labels else clips, object)
        events = live.decode(source, value_of("a", content, about))
        assert [(e.kind, e.tag) for e in events] == [("audio", "a"), ("audio", "a/1"), ("audio", "a/2")][: len(clips)]
        assert [(e.data, e.sample_rate, e.channels, e.frames, e.content_type) for e in events] == [
            (sound, 8000, 1, frames, "audio/wav") for sound, frames in zip(clips, (80, 90, 100), strict=False)
        ]
        assert [e.record.index for e in events] == list(range(len(clips)))
    assert isinstance(only(live.decode(source, value_of("a", np.zeros((0, 2), object), about))), ev.Blob)


def test_histograms_of_tensorflow_2(live: Files) -> None:
    """Rows of left edge, right edge and count become limits and counts, with an empty first bucket that ends at the left."""
    buckets = np.array([[-1.0, 0.0, 2.0], [0.0, 1.0, 3.0], [1.0, 4.0, 5.0]])
    source = live.add()
    about = histogram_metadata.create_summary_metadata("h", "")
    event = only(live.decode(source, value_of("h", buckets, about)))
    assert isinstance(event, ev.Histogram)
    assert (event.limits, event.counts) == ((-1.0, 0.0, 1.0, 4.0), (0.0, 2.0, 3.0, 5.0))
    assert (event.min, event.max, event.num) == (-1.0, 4.0, 10.0)
    assert event.sum == 2 * -0.5 + 3 * 0.5 + 5 * 2.5
    empty = only(live.decode(source, value_of("h", np.zeros((0, 3)))))
    assert isinstance(empty, ev.Histogram)
    assert (empty.limits, empty.counts, empty.num) == ((), (), 0.0)


def test_texts_of_several_cells_are_one_text(live: Files) -> None:
    """TensorFlow logs tables of texts; ``/text_summary`` is torch's own, and only one of it is taken off."""
    source = live.add()
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    table = only(live.decode(source, value_of("t", [b"a", "é".encode(), b"\xff"], about)))
    assert (table.kind, table.tag, table.text) == ("text", "t", "a\n\né\n\n\ufffd")
    assert only(live.decode(source, text("x/text_summary", "y"))).tag == "x/text_summary"


def test_tables_of_texts(live: Files) -> None:
    """A text of two dimensions is a table in Markdown, whatever its cells hold; of three, one table after the other."""
    source = live.add()
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    table = only(live.decode(source, value_of("t", np.array([[b"a", b"b|c"], [b"d\n\ne", b""]], object), about)))
    assert table.text == "|  |  |\n| --- | --- |\n| a | b\\|c |\n| d<br><br>e |  |"
    cube = only(live.decode(source, value_of("t", np.array([[[b"a"], [b"b"]], [[b"c"], [b"d"]]], object), about)))
    assert cube.text == "|  |\n| --- |\n| a |\n| b |\n\n|  |\n| --- |\n| c |\n| d |"
    assert only(live.decode(source, value_of("t", np.zeros((0, 2), object), about))).text == ""


def test_a_tensor_of_scalars_is_kept_whole(live: Files) -> None:
    """What says that it is a scalar and has more numbers than one is a tensor with all of them."""
    about = scalar_metadata.create_summary_metadata("a", "")
    several = only(live.decode(live.add(), value_of("a", np.float32([1, 2, 3]), about)))
    assert isinstance(several, ev.Tensor)
    assert (several.value.numpy().tolist(), several.plugin) == ([1, 2, 3], "scalars")


# -- what torch writes ------------------------------------------------------------------------------------------------


def test_the_exact_value_wins(live: Files) -> None:
    """A live scalar has the float64 of the call; without it, the proto's float32 is what there is."""
    source = live.add()
    assert only(live.decode(source, scalar("a", 0.1), 0.1)).value == 0.1
    assert only(live.decode(source, scalar("a", 0.1))).value == struct.unpack("f", struct.pack("f", 0.1))[0]
    double = scalar("a", 0.1, new_style=True, double_precision=True)
    assert only(live.decode(source, double)).value == 0.1


def test_each_value_of_a_summary_is_an_event(live: Files) -> None:
    """In order, told apart by the index in its record."""
    summary = Summary(value=[Summary.Value(tag=f"t{i}", simple_value=i) for i in range(3)])
    events = live.decode(live.add(), summary)
    assert [(e.tag, e.value, e.record.index) for e in events] == [("t0", 0, 0), ("t1", 1, 1), ("t2", 2, 2)]  # type: ignore[attr-defined]


TYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 3), (0, 2)], ids=str)
@pytest.mark.parametrize("fill", ["zeros", "values"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_are_exact(live: Files, dtype: torch.dtype, fill: str, shape: tuple[int, ...]) -> None:
    """Every type that `add_tensor` takes, empty ones and zeros included; bfloat16 becomes float32, which holds it."""
    values = torch.arange(1, 1 + int(np.prod(shape))).reshape(shape).to(torch.float64) * (fill == "values") / 3
    tensor = (values * (1 - 2j) if dtype.is_complex else values * 3 if not dtype.is_floating_point else -values).to(dtype)
    event = only(live.decode(live.add(), tensor_proto("t", tensor)))
    assert isinstance(event, ev.Tensor)
    got = event.value.numpy()
    expected = (tensor.to(torch.float32) if dtype == torch.bfloat16 else tensor).numpy()
    assert (got.dtype, got.shape, event.plugin) == (expected.dtype, shape, "tensor")
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.0, 6e-8, 65504.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_keep_what_is_special(live: Files, dtype: torch.dtype, number: float) -> None:
    """torch stores float32 bit patterns where TensorBoard looks for 16 bits; no value is misread for the other form."""
    tensor = torch.tensor([0.0, number], dtype=dtype)
    event = only(live.decode(live.add(), tensor_proto("t", tensor)))
    np.testing.assert_array_equal(event.value.numpy(), tensor.float().numpy())
    assert np.signbit(event.value.numpy()).tolist() == np.signbit(tensor.float().numpy()).tolist()


def test_tensorflows_halves_are_read_too(live: Files) -> None:
    """Its float16 and bfloat16 are the 16 bits themselves."""
    source = live.add()
    bits = [0x3C00, 0xC000, 0]
    shape = tensor_util.make_tensor_proto(np.zeros(3, np.float32)).tensor_shape
    half = TensorProto(dtype=types_pb2.DT_HALF, half_val=bits, tensor_shape=shape)
    assert only(live.decode(source, value_of("t", half))).value.numpy().tolist() == [1, -2, 0]
    brain = TensorProto(dtype=types_pb2.DT_BFLOAT16, half_val=[0x3F80, 0xC000, 0], tensor_shape=shape)
    assert only(live.decode(source, value_of("t", brain))).value.numpy().tolist() == [1, -2, 0]


def test_tensors_of_strings_keep_their_bytes(live: Files) -> None:
    """One row of bytes a text, padded with zeros: an Array holds numbers."""
    event = only(live.decode(live.add(), value_of("t", np.array([b"ab", "é".encode(), b""], object))))
    assert isinstance(event, ev.Tensor)
    assert event.value.numpy().tolist() == [[97, 98], [0xC3, 0xA9], [0, 0]]


def test_an_unknown_plugin_leaves_a_tensor_with_its_name(live: Files) -> None:
    """Somebody's own plugin is not lost."""
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="theirs", content=b"x"))
    event = only(live.decode(live.add(), value_of("t", np.arange(3.0), about)))
    assert (event.kind, event.plugin, event.value.numpy().tolist()) == ("tensor", "theirs", [0, 1, 2])


def test_meshes_are_joined(live: Files) -> None:
    """Vertices, faces and colours are values of one summary, and one event, with the first one's index."""
    vertices, faces = torch.rand(1, 4, 3), torch.tensor([[[0, 1, 2], [1, 2, 3]]])
    colors = torch.tensor([[[0, 255, 300], [-5, 1, 2], [3, 4, 5], [6, 7, 8]]])
    source = live.add()
    event = only(live.decode(source, mesh("m/x", vertices, colors, faces, {"camera": {"fov": 75}})))
    assert isinstance(event, ev.Mesh)
    assert event.faces is not None
    assert event.colors is not None
    assert (event.tag, event.record.index, event.config) == ("m/x", 0, '{"camera": {"fov": 75}}')
    np.testing.assert_array_equal(event.vertices.numpy(), vertices.numpy())
    np.testing.assert_array_equal(event.faces.numpy(), faces.numpy())
    np.testing.assert_array_equal(event.colors.numpy(), colors.clip(0, 255).numpy())
    points = only(live.decode(source, mesh("m/x", vertices, None, None, None)))
    assert (points.faces, points.colors, points.config) == (None, None, "{}")


@pytest.mark.parametrize(("tag", "written"), [(None, "None"), (b"x", "b'x'"), ("", "")])
def test_a_mesh_with_an_odd_tag(live: Files, tag: Any, written: str) -> None:
    """The tag is the one that the event file has, as for every other kind of data."""
    event = only(live.decode(live.add(), mesh(tag, torch.rand(1, 2, 3), None, None, None)))
    assert (event.kind, event.tag) == ("mesh", written)


def test_two_meshes_of_one_name(live: Files) -> None:
    """A summary that has the vertices of a mesh twice has two meshes."""
    one, two = mesh("m", torch.zeros(1, 3, 3), None, None, None, None), mesh("m", torch.ones(1, 3, 3), None, None, None, None)
    events = live.decode(live.add(), Summary(value=[*one.value, *two.value]))
    assert [(event.kind, event.tag, event.vertices.numpy().max()) for event in events] == [("mesh", "m", 0), ("mesh", "m", 1)]


def test_meshes_beside_other_values(live: Files) -> None:
    """Merged summaries hold several meshes, parts without vertices, and scalars: each stays what it is, in order."""
    two = [mesh(name, torch.rand(1, 3, 3), None, torch.tensor([[[0, 1, 2]]]), None) for name in ("a", "b")]
    summary = Summary(value=[Summary.Value(tag="s", simple_value=1), *two[0].value, *two[1].value[1:]])
    events = live.decode(live.add(), summary)
    assert [(e.kind, e.tag, e.record.index) for e in events] == [("scalar", "s", 0), ("mesh", "a", 1), ("tensor", "b", 3)]


def test_a_mesh_with_colours_that_are_no_numbers(live: Files, recwarn: pytest.WarningsRecorder) -> None:
    """NaN becomes some colour, without a warning, which would end the decoding thread where warnings are errors."""
    event = only(live.decode(live.add(), mesh("m", torch.rand(1, 2, 3), torch.full((1, 2, 3), float("nan")), None, None)))
    assert event.colors.shape == (1, 2, 3)
    assert list(recwarn) == []


def test_custom_scalars(live: Files) -> None:
    """The layout comes back as it was given; two categories of one name are one."""
    layout = {"A": {"m": ["Multiline", ["a", "b/.*"]], "n": ["Margin", ["v", "lo", "hi"]]}, "": {"": ["Multiline", []]}}
    source = live.add()
    event = only(live.decode(source, custom_scalars(layout)))
    assert isinstance(event, ev.CustomScalars)
    assert event.layout == {name: {t: (kind, tags) for t, (kind, tags) in c.items()} for name, c in layout.items()}
    lines = layout_pb2.MultilineChartContent(tag=["x"])
    charts = [layout_pb2.Chart(title=title, multiline=lines) for title in ("one", "two")]
    proto = layout_pb2.Layout(category=[layout_pb2.Category(title="A", chart=[chart]) for chart in charts])
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"))
    joined = only(live.decode(source, value_of("custom_scalars__config__", [proto.SerializeToString()], about)))
    assert joined.layout == {"A": {"one": ("Multiline", ["x"]), "two": ("Multiline", ["x"])}}


def test_graphs_and_what_else_is_in_event_files(live: Files) -> None:
    """Graphs, run metadata, meta graphs and log messages are kept; book-keeping is marked as such."""
    graph = graph_pb2.GraphDef(node=[{"name": "n", "op": "Relu"}]).SerializeToString()
    tagged = event_pb2.TaggedRunMetadata(tag="step1", run_metadata=b"meta")
    source = live.add()
    kinds = []
    for event in (
        Event(graph_def=graph), Event(tagged_run_metadata=tagged), Event(meta_graph_def=b"mg"),
        Event(log_message=event_pb2.LogMessage(message="hello")), Event(session_log=event_pb2.SessionLog(status=1)),
        Event(summary=Summary()), Event(step=3),
    ):  # fmt: skip
        made = only(live.decode(source, event))
        payload = {"graph_def", "data", "text", "what"} & set(made.__struct_fields__)
        kinds.append((made.kind, made.tag, getattr(made, payload.pop())))
    assert kinds == [
        ("graph", "", graph), ("blob", "step1", b"meta"), ("blob", "meta_graph", b"mg"), ("text", "log_message", "hello"),
        ("marker", "", "session_log"), ("marker", "", "empty"), ("marker", "", "empty"),
    ]  # fmt: skip


def test_reading_again_does_not_lose_the_place(replayed: Files) -> None:
    """While a file that `add_hparams` made is being decoded, a slow tracker has its begin read again: the metrics behind that are
    metrics all the same."""
    replayed.add()
    trial = replayed.add("/logs/1234")
    metrics = {"acc": 0.5, "f1": 0.25, "loss": 1.0}
    for part in hparams({"lr": 0.1}, metrics):
        replayed.decode(trial, part)
    found = []
    for tag, value in metrics.items():
        found += replayed.decode(trial, scalar(tag, value))
        replayed.check()
    assert [event.metrics for event in found] == [{tag: value} for tag, value in metrics.items()]  # type: ignore[attr-defined]


# -- damage -----------------------------------------------------------------------------------------------------------


def test_what_is_no_event_is_kept_as_bytes(live: Files) -> None:
    """A record that cannot be parsed is a blob; the next one is read as ever."""
    source = live.add()
    broken = only(live.decode(source, b"\xff\xff\xffnonsense"))
    assert (broken.kind, broken.data, broken.name) == ("blob", b"\xff\xff\xffnonsense", "damaged_event.pb")
    assert only(live.decode(source, scalar("a", 1))).value == 1


def plugin(name: str, content: bytes = b"") -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=name, content=content))


DAMAGED: dict[str, Callable[[], Summary]] = {
    "image": lambda: Summary(value=[Summary.Value(tag="x", image=Summary.Image(encoded_image_string=b"no png"))]),
    "no value": lambda: Summary(value=[Summary.Value(tag="x")]),
    "images": lambda: value_of("x", [b"1", b"1"], plugin("images")),
    "audio": lambda: value_of("x", [b"no wav"], plugin("audio")),
    "scalars of text": lambda: value_of("x", [b"text"], plugin("scalars")),
    "scalars without values": lambda: value_of("x", np.zeros(0, np.float32), plugin("scalars")),
    "histograms": lambda: value_of("x", np.zeros(4), plugin("histograms")),
    "several histograms": lambda: value_of("x", np.zeros((2, 4, 3)), plugin("histograms")),
    "text": lambda: value_of("x", np.zeros(4), plugin("text")),
    "layouts": lambda: value_of("x", [b"", b""], plugin("custom_scalars")),
    "lying shape": lambda: value_of("x", tensor_pb2.TensorProto(
        dtype=types_pb2.DT_FLOAT, float_val=[1], tensor_shape=tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1 << 20)] * 2))),
    "pr_curves": lambda: value_of("x", np.zeros((5, 3)), plugin("pr_curves")),
    "custom_scalars": lambda: value_of("x", [b"\xff\xff"], plugin("custom_scalars")),
    "hparams": lambda: Summary(value=[Summary.Value(tag="x", metadata=plugin("hparams", b"\xff\xff"))]),
    "shape": lambda: value_of("x", tensor_pb2.TensorProto(
        dtype=types_pb2.DT_HALF, half_val=[1 << 20, 2, 3], tensor_shape=tensor_util.make_tensor_proto(np.zeros(2)).tensor_shape)),
    "type": lambda: value_of("x", TensorProto(dtype=types_pb2.DT_RESOURCE)),
}  # fmt: skip


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED.keys())
def test_values_that_break_their_own_layout_are_kept_as_bytes(live: Files, make: Callable[[], Summary]) -> None:
    """The value is a blob that holds it whole, and its neighbours in the summary are not harmed."""
    summary = make()
    summary.value.add(tag="neighbour", simple_value=0.5)
    broken, neighbour = live.decode(live.add(), summary)
    assert isinstance(broken, ev.Blob)
    assert (broken.tag, broken.record.index) == ("x", 0)
    assert Summary.Value.FromString(broken.data) == summary.value[0]
    assert isinstance(neighbour, ev.Scalar)
    assert (neighbour.value, neighbour.record.index) == (0.5, 1)


@pytest.mark.parametrize("content", [
    b"\xff\xff", mesh_metadata.create_summary_metadata("x", "", MeshPluginData.VERTEX, 1, [1, 2, 3]).plugin_data.content,
], ids=["metadata", "vertices"])  # fmt: skip
def test_a_mesh_that_is_none_is_a_tensor(live: Files, content: bytes) -> None:
    """With the plugin's name; its neighbours in the summary are not harmed, and delivery goes on."""
    summary = value_of("x", [b"text"], plugin("mesh", content))
    summary.value.add(tag="neighbour", simple_value=0.5)
    broken, neighbour = live.decode(live.add(), summary)
    assert isinstance(broken, ev.Tensor)
    assert (broken.tag, broken.plugin, broken.value.data) == ("x", "mesh", b"text")
    assert (neighbour.kind, neighbour.tag, neighbour.record.index) == ("scalar", "neighbour", 1)


def test_a_video_hint_that_makes_no_picture_leaves_the_value(live: Files) -> None:
    """Frames of no size or number cannot be a GIF; the record is a blob then. Any rate makes one."""
    source = live.add()
    for shape in ((0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 4, 0)):
        hint = msg.Frames(ev.Array.of(np.zeros(shape, np.uint8)), 4.0)
        assert only(live.decode(source, Summary(value=[Summary.Value(tag="v")]), None, hint)).kind == "blob"
    for fps in (4.0, 0.0, -1.0, 1e9):
        hint = msg.Frames(ev.Array.of(np.zeros((2, 4, 4, 3), np.uint8)), fps)
        assert only(live.decode(source, Summary(value=[Summary.Value(tag="v")]), None, hint)).kind == "video"


def test_an_embedding_arrives_without_pictures_that_cannot_be_drawn(live: Files) -> None:
    """The points are worth more than their pictures."""
    images = ev.Array.of(np.zeros((2, 3, 3, 5), np.uint8))
    hint = msg.Embedded("e", 3, 12.5, ev.Array.of(np.ones((2, 2))), [["a"], ["b"]], None, images)
    source = live.add()
    event = only(live.decoder.decode([msg.Record(source, 0, None, None, hint)])[0])
    assert isinstance(event, ev.Embedding)
    assert (event.tag, event.step, event.metadata, event.sprite) == ("e", 3, (("a",), ("b",)), None)


# -- replay -----------------------------------------------------------------------------------------------------------


def write_trial(files: Files, source: int, params: dict[str, Any], metrics: dict[str, float]) -> list[ev.Event]:
    """Write what `add_hparams` writes; return what is not book-keeping."""
    events = [event for proto in hparams(params, metrics) for event in files.decode(source, proto)]
    for name, value in metrics.items():
        events += files.decode(source, scalar(name, value))
    return [event for event in events if not isinstance(event, ev.Marker)]


@pytest.mark.parametrize(("directory", "name"), [
    ("/logs/x/1712345.6", "1712345.6"), ("/logs/x/a/b", "a/b"), ("/logs/x", "x"),
])  # fmt: skip
def test_the_directories_of_add_hparams_belong_to_their_writer(replayed: Files, directory: str, name: str) -> None:
    """Whatever `run_name` was, ``a/b`` and ``.`` included: the event file of a writer is above it, or beside it."""
    main, first, second = replayed.add("/logs/x"), replayed.add("/logs/x/earlier"), replayed.add(directory)
    replayed.decode(main, scalar("loss", 0.5))
    own = write_trial(replayed, first, {"lr": 0.5}, {})
    parts = write_trial(replayed, second, {"lr": 0.25, "opt": "adam", "n": 2, "flag": True}, {"acc": 0.75, "loss": 2.0})
    assert [(e.writer, e.kind, e.trial) for e in own] == [("x", "hparams", None)]  # type: ignore[attr-defined]
    assert all(isinstance(e, ev.HParams) and (e.writer, e.trial) == ("x", name) for e in parts)
    assert [e.params for e in parts if e.params] == [{"lr": 0.25, "opt": "adam", "n": 2.0, "flag": 1.0}]  # type: ignore[attr-defined]
    assert [e.metrics for e in parts if e.metrics] == [{"acc": 0.75}, {"loss": 2.0}]  # type: ignore[attr-defined]
    assert [e.tag for e in parts[1:]] == ["acc", "loss"]


def test_trials_within_trials_directories(replayed: Files) -> None:
    """A trial ``a/b`` beside a trial ``a`` belongs to the writer above both."""
    replayed.add("/logs")
    outer, inner = replayed.add("/logs/a"), replayed.add("/logs/a/b")
    assert [e.writer for e in write_trial(replayed, outer, {"lr": 1.0}, {"m": 1.0})] == ["", ""]
    assert [(e.writer, e.trial) for e in write_trial(replayed, inner, {"lr": 2.0}, {})] == [("", "a/b")]  # type: ignore[attr-defined]


def test_only_the_scalars_behind_the_frame_are_metrics(replayed: Files) -> None:
    """A scalar of another name, or a later one, is the program's own."""
    replayed.add("/logs")
    source = replayed.add("/logs/trial")
    for proto in hparams({"lr": 1.0}, {"m": 1.0, "n": 1.0}):
        replayed.decode(source, proto)
    kinds = [only(replayed.decode(source, scalar(tag, 0.5))).kind for tag in ("m", "other", "n")]
    assert kinds == ["hparams", "scalar", "scalar"]


def test_hparams_at_the_head_of_a_main_file_stay_there(replayed: Files) -> None:
    """Lightning writes them into its only file, first of all: its scalars keep their writer, and are scalars."""
    source = replayed.add("/logs/version_0")
    parts = write_trial(replayed, source, {"lr": 0.5}, {"hp_metric": 0.5})
    assert [(e.kind, e.writer) for e in parts] == [("hparams", "version_0"), ("scalar", "version_0")]
    assert only(replayed.decode(source, scalar("loss", 1.0))).writer == "version_0"


def test_live_hparams_take_the_dicts_of_the_call(live: Files) -> None:
    """The proto has floats for integers and booleans, and no metrics; the first call is the session's own."""
    main = live.add("/logs")
    first, second = live.add("/logs/1", "/logs"), live.add("/logs/2", "/logs")
    live.decode(main, scalar("loss", 1))
    for source, number in ((first, 1), (second, 2)):
        frame = hparams({"n": number, "flag": True}, {"m": 0.1})
        hint = msg.Trial(str(number), {"n": number, "flag": True}, {"m": 0.1}, {"n": [1, 2]})
        assert only(live.decode(source, frame[0], None, msg.Nested())).kind == "marker"
        event = only(live.decode(source, frame[1], None, hint))
        assert (event.writer, event.params, event.metrics, event.domain) == ("", hint.params, hint.metrics, hint.domain)
        assert event.params["flag"] is True
        assert event.trial == (None if number == 1 else "2")
        assert only(live.decode(source, frame[2], None, msg.Nested())).kind == "marker"
        assert only(live.decode(source, scalar("m", 0.1), 0.1, msg.Nested())).kind == "marker"


def test_the_same_parameters_again_are_the_same_trial(live: Files) -> None:
    """Programs call `add_hparams` again with the final metrics."""
    trials = []
    for number, params in enumerate([{"lr": 1.0}, {"lr": 1.0}, {"lr": 2.0}, {"lr": 3.0}]):
        source = live.add(f"/logs/{number}", "/logs")
        trials.append(only(live.decode(source, hparams(params, {})[1], None, msg.Trial("t", params, {}, {}))).trial)
    assert trials == [None, None, "t", "t-2"]


def test_the_directories_of_add_scalars_are_series(replayed: Files) -> None:
    """``<logdir>/<main_tag with / as _>_<key>`` with the tag ``main_tag``, of a file that `add_scalars` has made; any other
    directory is a writer of its own."""
    replayed.add("/logs/x")
    for directory, parent, tag, expected in (
        ("/logs/x/loss_train", "/logs/x", "loss", ("x", "train")),
        ("/logs/x/a_b_val", "/logs/x", "a/b", ("x", "val")),
        ("/logs/x/a_b/val", "/logs/x", "a", ("x", "b/val")),
        ("/logs/x/loss_train", None, "loss", ("x/loss_train", None)),
        ("/logs/x/loss_", "/logs/x", "loss", ("x/loss_", None)),
        ("/logs/x/other", "/logs/x", "loss", ("x/other", None)),
        ("/logs/x/loss_train", "/logs/x", "other", ("x/loss_train", None)),
    ):
        event = only(replayed.decode(replayed.add(directory, parent), scalar(tag, 0.5)))
        assert (event.writer, event.series) == expected
        assert (event.tag, event.value) == (tag, 0.5)


def test_live_series_need_no_such_directory(live: Files) -> None:
    """A live writer on ``loss_train`` is a writer; the key of `add_scalars` comes with the record."""
    own = only(live.decode(live.add("/logs/loss_train"), scalar("loss", 0.5)))
    assert (own.writer, own.series) == ("loss_train", None)
    series = only(live.decode(live.add("/logs/loss_val", "/logs"), scalar("loss", 0.5), 0.5, msg.Series("val")))
    assert (series.writer, series.series, series.path) == ("", "val", "loss/val")


def test_a_replay_gives_what_the_live_session_got(tmp_path: Path) -> None:
    """A log directory of torch's own, read back: the same events, but for what the protos have lost."""
    from torch.utils.tensorboard import SummaryWriter

    from tests.intercept import native

    writer = SummaryWriter(tmp_path)
    writer.add_scalar("s", 0.5, 1)
    writer.add_scalars("m/n", {"train": 0.25, "val": 0.75}, 2)
    writer.add_image("i", PIXELS, dataformats="HWC")
    writer.add_text("t", "text")
    writer.add_hparams({"lr": 0.5}, {"acc": 1.0})
    writer.add_hparams({"lr": 0.25}, {"acc": 2.0}, run_name="second")
    writer.close()
    decoder = Decoder(WriterNames(str(tmp_path)))
    paths = native.event_files(tmp_path)
    files: dict[str, list[str]] = {}
    for path in paths:
        files.setdefault(str(path.parent), []).append(str(path))
    for number, path in enumerate(paths):
        home = add_scalars.home(str(path), files, str(tmp_path))
        decoder.add_source(msg.Source(number, str(path), str(path.parent), home, replay=True))
    events = [
        event
        for number, path in enumerate(paths)
        for position, data in enumerate(native.records(path))
        for event in decoder.decode([msg.Record(number, position, data)])[0]
        if not isinstance(event, ev.Marker)
    ]
    assert {event.writer for event in events} == {""}
    scalars = sorted((e.tag, e.series or "", e.step, e.value) for e in events if isinstance(e, ev.Scalar))
    assert scalars == [("m/n", "train", 2, 0.25), ("m/n", "val", 2, 0.75), ("s", "", 1, 0.5)]
    trials = {(e.trial, *e.params.items(), *e.metrics.items()) for e in events if isinstance(e, ev.HParams)}
    assert trials == {(None, ("lr", 0.5)), (None, ("acc", 1.0)), ("second", ("lr", 0.25)), ("second", ("acc", 2.0))}
    assert [e.kind for e in events if e.kind not in ("scalar", "hparams")] == ["image", "text"]


# -- paths ------------------------------------------------------------------------------------------------------------


def test_what_joins_to_one_path_is_told_apart(live: Files) -> None:
    """The root's ``train/loss``, the writer ``train``'s ``loss`` and the series ``loss`` of ``train``: the first is plain."""
    root, train, series = live.add("/logs"), live.add("/logs/train"), live.add("/logs/train_loss", "/logs")
    first = only(live.decode(train, scalar("loss", 1)))
    second = only(live.decode(root, scalar("train/loss", 2)))
    third = only(live.decode(series, scalar("train", 3), 3.0, msg.Series("loss")))
    again = only(live.decode(root, scalar("train/loss", 4)))
    assert [e.path for e in (first, second, third, again)] == ["train/loss", "train/loss~2", "train/loss~3", "train/loss~2"]
    assert without(second, "value", "wall_time", "record", "source") == without(again, "value", "wall_time", "record", "source")
