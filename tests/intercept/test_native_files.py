"""With the shim, programs get what they would have got without: the same files, results, errors, warnings and output.

Each example is played twice: with a copy of the module that nobody has patched, and through the shim while a session
delivers. What the session received is then compared with the file that was written.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import math
import random
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard.summary import scalar as native_scalar

import tracelet_shim
from tests.intercept import native
from tracelet_shim import events as ev
from tracelet_shim.session.session import Session
from tracelet_shim.testing import RecordingBackend


class Stage(NamedTuple):
    """A running session, and where examples may write."""

    session: Session
    received: list[ev.Event]
    root: Path
    numbers: Iterator[int]

    def __repr__(self) -> str:
        return "Stage()"  # hypothesis shows it


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One session for all examples, as a long program has it; under strict, its end fails if anything went wrong."""
    root = tmp_path_factory.mktemp("logs")
    torch.set_warn_always(True)  # else torch says most things once a process, and so to the first player only
    backend = RecordingBackend()
    session = tracelet_shim.start_logging(backend, delivery="thread", root=root, strict=True, quiet=True)
    yield Stage(session, backend.events, root, itertools.count())
    tracelet_shim.stop_logging()
    torch.set_warn_always(False)


# -- calls ------------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call of a method of one of the example's writers."""

    writer: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Make(NamedTuple):
    """An argument that each player makes for itself."""

    value: Callable[[], Any]


class Outcome(NamedTuple):
    """What a caller can see of a call. `arguments` are as they are after it."""

    result: str
    error: tuple[type[BaseException], str] | None
    warnings: list[tuple[type[Warning], str]]
    printed: str
    arguments: Any


WRITERS: list[dict[str, Any]] = [
    {"log_dir": "run"},
    {"log_dir": "run/val", "purge_step": 3, "filename_suffix": ".second", "max_queue": 1},
]
"""Made at their first call. They share nothing but the directory tree."""


def play(module: Any, base: Path, calls: list[Call]) -> tuple[list[Outcome], Any]:
    """Play the calls on writers below `base`; return what came of each, and the states of the random generators."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    writers: dict[int, Any] = {}
    outcomes = []
    for call in map(fresh, calls):
        if call.writer not in writers:
            about = WRITERS[call.writer]
            writers[call.writer] = module.SummaryWriter(**{**about, "log_dir": base / about["log_dir"]})
        printed = io.StringIO()
        result, error = None, None
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
            warnings.simplefilter("always")
            try:
                result = perform(writers[call.writer], call)
            except Exception as problem:
                error = (type(problem), str(problem).replace(str(base), "<base>"))
        said = [(w.category, str(w.message).replace(str(base), "<base>")) for w in warned]
        outcomes.append(Outcome(repr(result), error, said, printed.getvalue(), fingerprint((call.args, call.kwargs))))
    for writer in writers.values():
        writer.close()
    return outcomes, fingerprint(
        (random.getstate(), np.random.get_state(), torch.get_rng_state(), str(torch.get_default_dtype()))
    )


def fresh(call: Call) -> Call:
    """Return the call with arguments of its own."""
    args = tuple(argument.value() if isinstance(argument, Make) else copy.deepcopy(argument) for argument in call.args)
    return call._replace(args=args, kwargs=copy.deepcopy(call.kwargs))


def perform(writer: Any, call: Call) -> Any:
    """Make the call; methods with a dot are the file writer's."""
    if call.method.startswith("file_writer."):
        writer = writer._get_file_writer()
    return getattr(writer, call.method.removeprefix("file_writer."))(*call.args, **call.kwargs)


def fingerprint(value: Any) -> Any:
    """Return something that compares equal only for the same bits: NaN to NaN, -0.0 not to 0.0."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().reshape(-1).contiguous()
        known = flat.numel() > 0 and not flat.is_meta
        data = flat.view(torch.uint8).numpy().tobytes() if known else b""
        return ("tensor", str(value.dtype), tuple(value.shape), value.requires_grad, value._version, data)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, Event):
        return ("event", value.step, value.file_version)  # add_event puts the wall time into it
    if isinstance(value, Mapping):
        return ("dict", [(fingerprint(k), fingerprint(v)) for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [fingerprint(item) for item in value])
    if isinstance(value, torch.nn.Module):
        return ("model", repr(value), value.training, fingerprint(list(value.state_dict().values())))
    return (type(value).__name__, struct.pack("<d", value) if type(value) is float else repr(value))


# -- arguments --------------------------------------------------------------------------------------------------------

HOSTILE = [
    "", "a", "loss", "Loss", "train/loss", "a/b/c", "../..", "/etc/passwd", "a\\b", "a\nb", "nul\0", "é/ß", "日本", "%2f",
    "x" * 2000, "_hparams_/experiment", "a/text_summary", " ", ".",
]  # fmt: skip
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64, *(getattr(torch, name) for name in ("uint16", "uint64") if hasattr(torch, name)),
]  # fmt: skip



def mostly(usual: st.SearchStrategy[Any], *rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what the native code takes, so that calls come through; now and then what it may refuse."""
    return st.sampled_from(range(12)).flatmap(lambda number: st.one_of(*rare) if number == 11 else usual)


names = st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=8)
tags = mostly(names, st.sampled_from([None, b"bytes", b"\xff", "\ud800lone", 5]))
steps = mostly(
    st.none() | st.integers(-3, 100) | st.sampled_from([0, -1, 1.7, True, "14", " 3 ", 2**63 - 1, -(2**63), Decimal("2.5")])
    | st.sampled_from([torch.tensor(7), torch.tensor([8]), torch.tensor(2.9), np.int64(9), np.array(10)]),
    st.sampled_from([2**63, math.nan, math.inf, [1], "x", b"14", np.array([1, 2])]),
)  # fmt: skip
walltimes = mostly(
    st.none() | st.sampled_from([0, -5.5, 12.25, math.nan, -math.inf, True, torch.tensor(12.5), np.float32(3.25)]),
    st.sampled_from(["1.0", 10**400, [1.0]]),
)


@st.composite
def arrays(draw: st.DrawFn, shapes: list[tuple[int, ...]], dtypes: list[torch.dtype] | None = None) -> Any:
    """Draw a tensor or an array: any dtype, NaN and infinities, gradients, views that are not contiguous."""
    dtype = draw(mostly(st.sampled_from((dtypes or DTYPES)[:2]), st.sampled_from(dtypes or DTYPES)))
    shape = draw(mostly(st.just(shapes[0]), st.sampled_from(shapes)))
    values = np.random.default_rng(draw(st.integers(0, 5))).random(shape)
    if draw(st.booleans()):
        values = values * draw(st.sampled_from([-3, 0, 100, 255, 1e30]))
    if values.size and draw(st.integers(0, 3)) == 0:
        values.reshape(-1)[-1] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    with np.errstate(all="ignore"):
        tensor = torch.as_tensor(values).to(dtype)
    if draw(st.booleans()) and tensor.ndim > 1:
        tensor = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if dtype.is_floating_point and draw(st.integers(0, 3)) == 0:
        return tensor.requires_grad_()
    return tensor.numpy() if dtype != torch.bfloat16 and draw(st.booleans()) else tensor


numbers = st.one_of(
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.1, 1e300, 1e-300, -0.0, math.nan, math.inf, 2**53 + 1, 16777217, True, False]),
    st.sampled_from(["1.5", " 2 ", "nan", b"1.5", Decimal("0.1"), Fraction(1, 3), np.float32(0.1), np.longdouble(0.1)]),
    st.sampled_from([np.float16(0.1), np.int8(-3), np.bool_(True), np.str_("2.5"), np.array("3.5"), np.array([1.25])]),
    arrays([(), (1,), (1, 1)]),
)
odd_numbers = st.sampled_from(
    [None, "x", b"\xff", 1 + 2j, [1.0], (1,), {}, 10**400, np.array([1, 2]), torch.ones(3), np.array(1j), torch.zeros(0)]
) | st.sampled_from([np.datetime64("2020-01-01"), np.timedelta64(5, "s"), object, np.array([Decimal(2)], object)])
scalars = mostly(numbers, odd_numbers)
fitting = names.filter(lambda name: "\0" not in name and len(name) < 200)
"""Part of a file name."""


def call(
    method: str, required: Mapping[str, st.SearchStrategy[Any]], optional: Mapping[str, st.SearchStrategy[Any]] | None = None
) -> st.SearchStrategy[Call]:
    """Calls of a method, the required arguments by position or by name, the others by name or not at all."""

    @st.composite
    def build(draw: st.DrawFn) -> Call:
        values = [(name, draw(strategy)) for name, strategy in required.items()]
        by_position = draw(st.sampled_from([len(values), 0, 1]))
        kwargs = dict(values[by_position:])
        for name, strategy in (optional or {}).items():
            if draw(st.booleans()):
                kwargs[name] = draw(strategy)
        return Call(draw(st.sampled_from([0, 0, 1])), method, tuple(value for _, value in values[:by_position]), kwargs)

    return build()


timing = {"global_step": steps, "walltime": walltimes}
images = arrays([(3, 4, 5), (1, 4, 5), (4, 5), (4, 5, 3), (2, 3, 4, 5), (4, 3, 5), (0, 4, 5)])
formats = st.sampled_from(["HWC", "HW", "WH", "NHWC", "chw", "CC", "", "XYZ"])
some_tags = mostly(st.lists(names, min_size=3, max_size=3), st.lists(names, max_size=2), st.just("abc"))
params = mostly(
    st.sampled_from([True, 1, -7, 0.1, math.nan, "adam", "", None, 2**70, np.str_("sgd"), np.float64(0.5), "日本"]),
    st.sampled_from([torch.tensor([1.5, 2.5]), torch.tensor(3), [1], {}, np.float32(1), b"x", "\ud800"]),
)

CALLS = st.one_of(
    call("add_scalar", {"tag": tags, "scalar_value": scalars}, {
        **timing, "new_style": st.booleans(), "double_precision": st.booleans()}),
    call("add_scalar", {"tag": names, "scalar_value": numbers}, {"global_step": st.integers(0, 9)}),
    call("add_scalars", {
        "main_tag": mostly(fitting, st.sampled_from([None, b"x"])),
        "tag_scalar_dict": mostly(
            st.dictionaries(fitting | st.sampled_from(["/../../up", "a/b"]), mostly(numbers, scalars), max_size=3), st.none())},
        timing),
    call("add_histogram", {"tag": tags, "values": arrays([(7,), (2, 3), (1,), (), (0,)]) | scalars}, {
        **timing, "max_bins": st.sampled_from([None, 3, 0]),
        "bins": mostly(st.sampled_from(["tensorflow", "auto", "fd", 5, [0.0, 0.5, 1.0]]), st.sampled_from(["x", None]))}),
    call("add_histogram_raw", {
        "tag": tags, "min": mostly(st.floats(), scalars), "max": st.floats(), "num": mostly(st.integers(0, 9), numbers),
        "sum": st.floats(), "sum_squares": mostly(st.floats(), scalars),
        "bucket_limits": st.just([1.0, 2.0]) | arrays([(2,)]), "bucket_counts": st.just([3, 4]) | arrays([(2,), (3,)])},
        timing),
    call("add_image", {"tag": tags, "img_tensor": mostly(arrays([(3, 4, 5), (1, 4, 5)]), images)},
         {**timing, "dataformats": mostly(st.just("CHW"), formats)}),
    call("add_images", {"tag": tags, "img_tensor": mostly(arrays([(2, 3, 4, 5), (3, 1, 2, 2)]), images)},
         {**timing, "dataformats": mostly(st.just("NCHW"), formats)}),
    call("add_image_with_boxes", {
        "tag": tags, "img_tensor": arrays([(3, 12, 12), (12, 12)]),
        "box_tensor": st.just(torch.tensor([[1.0, 1.0, 9.0, 9.0], [0.0, 2.0, 3.0, 11.0]])) | arrays([(2, 4), (0, 4), (3,)])},
        {**timing, "labels": st.sampled_from([None, "a", ["a", "b"]]), "rescale": st.sampled_from([1, 2, 0]),
         "dataformats": mostly(st.just("CHW"), formats)}),
    call("add_video", {"tag": tags, "vid_tensor": arrays([(1, 2, 3, 4, 5), (3, 1, 3, 2, 2), (1, 0, 3, 4, 4), (2, 3, 4)])},
         {**timing, "fps": st.sampled_from([4, 0.5, 0, math.nan, torch.tensor(3)])}),
    call("add_audio", {"tag": tags, "snd_tensor": arrays([(1, 9), (9,), (2, 9), (0,)])},
         {**timing, "sample_rate": mostly(st.sampled_from([44100, 8000]), st.sampled_from([0, "x"]))}),
    call("add_text", {"tag": tags, "text_string": mostly(names, st.sampled_from([None, b"x", "\ud800"]))}, timing),
    call("add_embedding", {"mat": arrays([(4, 3), (4, 1), (0, 3), (4,)])}, {
        "metadata": mostly(st.sampled_from([None, list("abcd"), [["a", 1]] * 4, [1.5, None, "é", "\t"]]), st.just(["a"])),
        "metadata_header": st.sampled_from([None, None, ["name", "n"], ["one"]]),
        "label_img": st.none() | arrays([(4, 3, 2, 2), (4, 1, 2, 3), (2, 3, 2, 2)], [torch.float32, torch.uint8]),
        "global_step": st.sampled_from([None, 0, 3, -1, 1.7, "final", 2**70, torch.tensor(2)]), "tag": fitting}),
    call("add_pr_curve", {
        "tag": tags, "labels": arrays([(6,)], [torch.bool, torch.int64]), "predictions": arrays([(6,), (5,)])},
        {**timing, "num_thresholds": st.sampled_from([127, 5, 500, 1]), "weights": st.none() | arrays([(6,)])}),
    call("add_pr_curve_raw", {
        "tag": tags, **{name: mostly(st.just([1.0, 2.0, 0.5]), arrays([(3,), (2,)])) for name in (
            "true_positive_counts", "false_positive_counts", "true_negative_counts", "false_negative_counts",
            "precision", "recall")}}, {**timing, "num_thresholds": st.just(3)}),
    call("add_mesh", {"tag": tags, "vertices": arrays([(1, 4, 3), (4, 3)])}, {
        **timing, "colors": st.none() | arrays([(1, 4, 3)]), "faces": st.none() | arrays([(1, 2, 3)], [torch.int32]),
        "config_dict": mostly(st.sampled_from([None, {"material": {"cls": "PointsMaterial"}}]), st.just({"x": object}))}),
    call("add_hparams", {
        "hparam_dict": mostly(st.dictionaries(names, params, max_size=4), st.none()),
        "metric_dict": st.dictionaries(names, scalars, max_size=3)},
        {"global_step": steps, "hparam_domain_discrete": mostly(st.sampled_from([None, {}]), st.just({"a": ["x"]}))}).flatmap(
            lambda made: st.sampled_from(["trial", ".", "a/b", "../beside", "é"]).map(
                lambda run_name: made._replace(kwargs={**made.kwargs, "run_name": run_name}))),
    call("add_tensor", {"tag": tags, "tensor": mostly(arrays([(2, 3), (), (0,), (1,)]).map(torch.as_tensor), scalars)}, timing),
    call("add_custom_scalars", {"layout": st.sampled_from([
        {}, {"A": {"x": ["Multiline", ["a", "b"]], "y": ["Margin", ["a", "b", "c"]]}}, {"A": {"y": ["Margin", ["a"]]}}, None,
        {"": {"": ["?", []]}}])}),
    call("add_custom_scalars_multilinechart", {"tags": some_tags}, {"category": tags, "title": names}),
    call("add_custom_scalars_marginchart", {"tags": some_tags}, {"category": names, "title": tags}),
    call("file_writer.add_summary", {"summary": st.builds(native_scalar, names, st.floats())}, timing),
    call("file_writer.add_event", {"event": mostly(st.just(Event(step=4, file_version="x")), st.none())},
         {"step": steps, "walltime": walltimes}),
    call("flush", {}),
    call("close", {}),
    call("get_logdir", {}).map(lambda made: made._replace(method="file_writer.flush")),
)  # fmt: skip


# -- the property -----------------------------------------------------------------------------------------------------


def compare(stage: Stage, calls: list[Call]) -> tuple[list[Outcome], Path]:
    """Play calls both ways and compare; return what came of them and where the shim wrote."""
    import torch.utils.tensorboard.writer as shimmed_module

    base = stage.root / str(next(stage.numbers))
    since = time.time() - 1
    pure, pure_state = play(native.pristine_module(), base / "pure" / "deep" / "er", calls)
    shim, shim_state = play(shimmed_module, base / "shim" / "deep" / "er", calls)
    until = time.time() + 1
    for made, without, with_shim in zip(calls, pure, shim, strict=True):
        assert with_shim == without, made
    assert shim_state == pure_state
    assert native.tree(base / "shim", since, until) == native.tree(base / "pure", since, until)
    assert stage.session.flush(60)
    assert stage.session._replies.troubles == []
    return shim, base / "shim"


@pytest.mark.timeout(600)
@settings(max_examples=70, suppress_health_check=list(HealthCheck))
@given(st.lists(CALLS, min_size=1, max_size=14))
@example([Call(0, "add_scalar", ("t", torch.tensor(0.1, dtype=torch.bfloat16)), {})])
@example([Call(0, "add_hparams", ({"seed": 2**70, "o": np.str_("x")}, {"m": torch.ones(2)}), {"run_name": "trial"})])
@example([Call(0, "add_hparams", ({"lr": 0.1}, {"huge": 10**400}), {"run_name": "trial"})])
@example([
    Call(1, "add_scalars", ("main", {"a": 1, "b": None, "c": 2}), {}), Call(1, "close", (), {}),
    Call(1, "add_scalar", ("t", 1), {}), Call(1, "close", (), {}), Call(1, "close", (), {}),
])  # fmt: skip
@example([Call(0, "add_embedding", (torch.ones(2, 2),), {"label_img": torch.full((2, 3, 2, 2), 2, dtype=torch.uint8)})])
@example([Call(0, "add_video", ("v", torch.full((1, 2, 3, 4, 4), math.nan)), {})])
def test_files_results_errors_and_random_state_are_native(stage: Stage, calls: list[Call]) -> None:
    """Whatever is called with whatever, nothing that a program can see changes, and what was written is received."""
    outcomes, base = compare(stage, calls)
    received = [event for event in stage.received if Path(event.record.file).is_relative_to(base)]
    check_records(received, base)
    check_values(received, calls, outcomes)


def figure(color: str = "red") -> Any:
    """Make a small figure, registered with pyplot as usual."""
    import matplotlib.pyplot as plt

    drawn = plt.figure(figsize=(1, 1), dpi=40)
    drawn.add_axes((0, 0, 1, 1)).plot([0, 1], [0, 1], color=color)
    return drawn


def test_figures_are_native(stage: Stage) -> None:
    """A figure, a list of them, and one that is not to be closed: drawn once, closed as natively, received as images."""
    import matplotlib.pyplot as plt

    outcomes, base = compare(stage, [
        Call(0, "add_figure", ("one", Make(figure)), {"global_step": 3}),
        Call(0, "add_figure", ("two", Make(lambda: [figure(), figure("blue")])), {"walltime": 5.5}),
        Call(0, "add_figure", ("open", Make(lambda: figure("green"))), {"close": False}),
        Call(0, "add_figure", ("none", None), {}),
    ])  # fmt: skip
    assert [outcome.error is None for outcome in outcomes] == [True, True, True, False]
    assert len(plt.get_fignums()) == 2  # one of each player
    plt.close("all")
    received = [event for event in stage.received if Path(event.record.file).is_relative_to(base)]
    assert [(e.kind, e.tag, e.step, e.figure) for e in received if isinstance(e, ev.Image)] == [
        ("image", "one", 3, True), ("image", "two", 0, True), ("image", "open", 0, True),
    ]  # fmt: skip
    check_records(received, base)


class Net(torch.nn.Module):
    """Has a dropout, so that tracing it draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(x))


def test_graphs_are_native(stage: Stage) -> None:
    """A traced model gives one graph, and leaves the model as natively; one that cannot be traced fails as natively."""
    outcomes, base = compare(stage, [
        Call(0, "add_graph", (Make(Net), torch.ones(2, 3)), {}),
        Call(0, "add_graph", (Make(Net),), {"input_to_model": torch.ones(5, 5)}),
        Call(0, "add_graph", (None,), {}),
        Call(0, "add_scalar", ("after", 1.5), {}),
    ])  # fmt: skip
    assert [outcome.error is None for outcome in outcomes] == [True, False, False, True]
    received = [event for event in stage.received if Path(event.record.file).is_relative_to(base)]
    assert [(event.kind, event.record.position) for event in received] == [("graph", 1), ("blob", 2), ("scalar", 3)]
    graph = received[0]
    assert isinstance(graph, ev.Graph)
    assert graph.graph_def == native.events(native.only_event_file(base / "deep" / "er" / "run"))[1].graph_def
    assert b"Linear" in graph.graph_def


def test_onnx_graphs_are_native(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """`add_onnx_graph` fails as natively without onnx; with it, here in the part that torch uses, it gives a graph."""
    outcomes, base = compare(stage, [Call(0, "add_onnx_graph", ("model.onnx",), {})])
    assert outcomes[0].error == (ModuleNotFoundError, "No module named 'onnx'")
    assert [event for event in stage.received if Path(event.record.file).is_relative_to(base)] == []
    side = SimpleNamespace(dim=[SimpleNamespace(dim_value=4)])
    end = SimpleNamespace(name="x", type=SimpleNamespace(tensor_type=SimpleNamespace(shape=side, elem_type=1)))
    node = SimpleNamespace(attribute=[], output=["y"], op_type="Relu", input=["x"])
    graph = SimpleNamespace(input=[end], output=[], node=[node])
    onnx = SimpleNamespace(load=lambda path: SimpleNamespace(graph=graph))
    monkeypatch.setitem(sys.modules, "onnx", onnx)  # type: ignore[arg-type]
    outcomes, base = compare(stage, [Call(0, "add_onnx_graph", ("model.onnx",), {})])
    assert (outcomes[0].error, outcomes[0].printed) == (None, "x\ny\n")
    received = [event for event in stage.received if Path(event.record.file).is_relative_to(base)]
    assert [event.kind for event in received] == ["graph"]


def test_meta_tensors_draw_the_native_number(stage: Stage) -> None:
    """TensorBoard logs a random number for them; that one is received, and no further one is drawn."""
    value = torch.empty((), device="meta")
    _, base = compare(stage, [
        Call(0, "add_scalar", ("meta", value), {}), Call(0, "add_scalars", ("m", {"k": value}), {}),
        Call(0, "add_hparams", ({"lr": 0.1}, {"m": value}), {"run_name": "trial"}), Call(0, "add_scalar", ("x", 1), {}),
    ])  # fmt: skip
    received = [event for event in stage.received if Path(event.record.file).is_relative_to(base)]
    written = [native.events(Path(e.record.file))[e.record.position].summary.value[0] for e in received]
    assert [e.kind for e in received] == ["scalar", "scalar", "hparams", "scalar"]
    drawn = [(e.value, value.simple_value) for e, value in zip(received, written, strict=True) if isinstance(e, ev.Scalar)]
    assert all(here == there for here, there in drawn)


def check_records(received: list[ev.Event], base: Path) -> None:
    """Each value in an event file is received once, with the file's tag, step and wall time, in the file's order."""
    by_file: dict[str, list[ev.Event]] = {}
    for event in received:
        if not isinstance(event, ev.Embedding):
            by_file.setdefault(event.record.file, []).append(event)
    expected_files = {}
    for path in native.event_files(base):
        written = native.events(path)
        nested = len(written) > 1 and written[1].summary.value and is_experiment(written[1].summary.value[0])
        expected = [
            (position, index, value.tag, event.step, struct.pack("<d", event.wall_time))
            for position, event in enumerate(written)
            for index, value in enumerate(event.summary.value)
            if not is_frame(value) and (not nested or position == 2) and is_first_of_mesh(event, index)
        ]
        if expected:
            expected_files[str(path)] = expected
    assert set(by_file) == set(expected_files)
    for path, events in by_file.items():
        assert [
            (e.record.position, e.record.index, native_tag(e), e.step, struct.pack("<d", e.wall_time)) for e in events
        ] == expected_files[path]
        for event in events:
            value = native.events(Path(path))[event.record.position].summary.value[event.record.index]
            assert event.source == native.records(Path(path))[event.record.position]
            if value.WhichOneof("value") == "simple_value":
                assert isinstance(event, ev.Scalar)


def is_experiment(value: Any) -> bool:
    """True for what `add_hparams` writes first."""
    return value.metadata.plugin_data.plugin_name == "hparams" and value.tag == "_hparams_/experiment"


def is_frame(value: Any) -> bool:
    """True for the parts of an `add_hparams` that carry no parameters."""
    return value.metadata.plugin_data.plugin_name == "hparams" and value.tag != "_hparams_/session_start_info"


def is_first_of_mesh(event: Event, index: int) -> bool:
    """False for the faces and colours of a mesh, which is received as one event."""
    return index == 0 or event.summary.value[index].metadata.plugin_data.plugin_name != "mesh"


def native_tag(event: ev.Event) -> str:
    """Return the tag as the file has it."""
    if isinstance(event, ev.Text):
        return event.tag + "/text_summary"
    return event.tag + "_VERTEX" if isinstance(event, ev.Mesh) else event.tag


def check_values(received: list[ev.Event], calls: list[Call], outcomes: list[Outcome]) -> None:
    """Scalars, parameters and embeddings are received as the Python values that they were, in the order of the calls."""
    expected_scalars: list[tuple[str | None, bytes]] = []
    expected_params = []
    expected_matrices = []
    for made, outcome in zip(calls, outcomes, strict=True):
        if made.method == "add_scalar" and outcome.error is None:
            expected_scalars.append((None, bits(argument(made, 1, "scalar_value"))))
        elif made.method == "add_scalars":
            values = argument(made, 1, "tag_scalar_dict")
            written = [writes(made, value) for value in (values or {}).values()]
            good = itertools.islice((values or {}).items(), [*written, False].index(False))  # it stops at the first refused
            expected_scalars += [(key, bits(value)) for key, value in good]
        elif made.method == "file_writer.add_summary" and outcome.error is None:
            expected_scalars.append((None, bits(argument(made, 0, "summary").value[0].simple_value)))
        elif made.method == "add_hparams" and outcome.error is None:
            metrics = argument(made, 1, "metric_dict")
            given_params = argument(made, 0, "hparam_dict")
            expected_params.append((
                {key: plain(value) for key, value in given_params.items() if value is not None},
                {key: bits(value) for key, value in metrics.items()},
            ))  # fmt: skip
        elif made.method == "add_embedding" and outcome.error is None:
            expected_matrices.append(matrix(argument(made, 0, "mat")))
    assert [(e.series, bits(e.value)) for e in received if isinstance(e, ev.Scalar)] == expected_scalars
    hparams = [e for e in received if isinstance(e, ev.HParams)]
    whole = [({k: plain(v) for k, v in e.params.items()}, {k: bits(v) for k, v in e.metrics.items()}) for e in hparams]
    assert len(whole) >= len(expected_params)
    assert all(parts in whole for parts in expected_params)
    assert [fingerprint(e.matrix.numpy()) for e in received if isinstance(e, ev.Embedding)] == expected_matrices


def argument(made: Call, index: int, name: str) -> Any:
    """Return an argument, however it was passed."""
    return made.args[index] if len(made.args) > index else made.kwargs[name]


def bits(value: Any) -> bytes:
    """Return a number as the eight bytes of a float64. All NaNs are one."""
    if isinstance(value, torch.Tensor):
        number = value.detach().to(torch.float64).reshape(-1)[0].item()
    elif isinstance(value, (np.ndarray, np.generic)):
        number = float(np.asarray(value).astype(np.float64).reshape(-1)[0])
    else:
        number = float(value)
    return b"nan" if math.isnan(number) else struct.pack("<d", number)


def plain(value: Any) -> Any:
    """Return a parameter so that it compares by type and bits."""
    if isinstance(value, torch.Tensor):
        value = float(value.reshape(-1)[0])
    if isinstance(value, int) and abs(value) > 2**63:
        value = float(value)
    if isinstance(value, float):
        return bits(value)
    return (type(value).__name__, value) if type(value) in (bool, int) else str(value)


def matrix(value: Any) -> Any:
    """Return an embedding's matrix as TensorBoard takes it: bfloat16 as float16."""
    if isinstance(value, torch.Tensor):
        value = (value.to(torch.float16) if value.dtype == torch.bfloat16 else value).detach().numpy()
    return fingerprint(value)


def writes(made: Call, value: Any) -> bool:
    """True if the native code accepts a value of `add_scalars`, with the call's tag, step and wall time."""
    try:
        tag = argument(made, 0, "main_tag")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            event = Event(summary=native_scalar(tag, value))
            tag.replace("/", "_")
            if made.kwargs.get("walltime") is not None:
                event.wall_time = made.kwargs["walltime"]
            if made.kwargs.get("global_step") is not None:
                event.step = int(made.kwargs["global_step"])
    except Exception:
        return False
    return True
