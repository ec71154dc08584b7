"""`SummaryWriter` under a session is the class that it was, and nothing that a program does with it is missed."""

from __future__ import annotations

import contextlib
import copy
import enum
import gc
import inspect
import os
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import numpy as np
import pytest
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter

import tracelet_shim
from tests.conftest import RunPython
from tests.intercept import native
from tracelet_shim import events as ev
from tracelet_shim import intercept
from tracelet_shim.bus import messages as msg
from tracelet_shim.session.session import Session
from tracelet_shim.testing import RecordingBackend

METHODS = [name for name, value in vars(SummaryWriter).items() if callable(value)]
FILE_METHODS = [name for name, value in vars(FileWriter).items() if callable(value)]
SHOWN = [*[("SummaryWriter", name) for name in METHODS], *[("FileWriter", name) for name in FILE_METHODS]]


class Running(NamedTuple):
    """A session with a recording backend."""

    session: Session
    backend: RecordingBackend
    root: Path

    def events(self) -> list[ev.Event]:
        """Return what has arrived, all that was called before included."""
        assert self.session.flush(60)
        return self.backend.events

    def scalars(self) -> list[tuple[str, str, int, float]]:
        """Return the scalars that have arrived: writer, tag, step, value."""
        return [(e.writer, e.tag, e.step, e.value) for e in self.events() if isinstance(e, ev.Scalar)]

    def check_positions(self) -> None:
        """Each event's record is the one at its position in its file."""
        for path in {event.record.file for event in self.events()}:
            written = native.records(Path(path))
            for event in self.backend.events:
                if event.record.file == path:
                    assert event.source == written[event.record.position]


def start(root: Path) -> Running:
    backend = RecordingBackend()
    session = tracelet_shim.start_logging(backend, delivery="thread", root=root, strict=True, quiet=True)
    return Running(session, backend, root)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A session on ``runs``. Under strict, its end fails the test if a call could not be observed."""
    yield start(tmp_path / "runs")
    tracelet_shim.stop_logging()


class Collected(NamedTuple):
    """A sink without a session behind it: what the wrappers publish."""

    sources: list[tuple[str, str, str | None]]
    records: list[msg.Record]
    problems: list[Exception]
    accelerates: bool = False

    def active_runs(self) -> intercept.ActiveRuns:
        return ()

    def writer_created(self, logdir: str, runs: intercept.ActiveRuns) -> None: ...

    def add_source(self, path: str, logdir: str, parent: str | None, runs: intercept.ActiveRuns) -> int:
        self.sources.append((path, logdir, parent))
        return len(self.sources) - 1

    def publish(self, record: msg.Record) -> None:
        self.records.append(record)

    def foreign_writer(self, producer: str, logdir: str) -> None: ...
    def nudge(self) -> None: ...

    def problem(self, error: Exception) -> None:
        self.problems.append(error)


@pytest.fixture
def collected() -> Iterator[Collected]:
    """Route interception to a list for the time of a test."""
    intercept.install()
    sink = Collected([], [], [])
    intercept.set_sink(sink)
    yield sink
    intercept.set_sink(None)


# -- the class --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), SHOWN)
def test_methods_look_as_before(collected: Collected, owner: str, name: str) -> None:
    """Signature, documentation, names and source are the native function's, on the class and on an instance."""
    shimmed = getattr(sys.modules["torch.utils.tensorboard.writer"], owner)
    before, after = getattr(getattr(native.pristine_module(), owner), name), getattr(shimmed, name)
    assert str(inspect.signature(after)) == str(inspect.signature(before))
    assert inspect.getfullargspec(after) == inspect.getfullargspec(before)
    assert (after.__doc__, after.__name__, after.__qualname__) == (before.__doc__, before.__name__, before.__qualname__)
    assert after.__module__ == "torch.utils.tensorboard.writer"
    assert (after.__defaults__, after.__kwdefaults__) == (before.__defaults__, before.__kwdefaults__)
    assert inspect.getsource(after) == inspect.getsource(before)
    assert inspect.isfunction(after)
    assert inspect.isroutine(after)
    assert callable(after)
    assert repr(after).startswith(f"<function {owner}.{name} at ")
    assert getattr(shimmed, name) == after
    assert hash(getattr(shimmed, name)) == hash(after)


def test_bound_methods_look_as_before(collected: Collected, tmp_path: Path) -> None:
    """What is got from an instance is a method of that instance."""
    writer = SummaryWriter(tmp_path)
    assert inspect.ismethod(writer.add_scalar)
    assert writer.add_scalar.__self__ is writer
    assert str(inspect.signature(writer.add_scalar)).startswith("(tag, scalar_value, global_step=None")
    assert writer.add_scalar == writer.add_scalar
    assert repr(writer.add_scalar).startswith("<bound method SummaryWriter.add_scalar of <")
    writer.close()


def test_the_class_is_the_one_that_it_was(collected: Collected, tmp_path: Path) -> None:
    """It is patched in place: no other class, no further attributes, no proxies as instances."""
    module = sys.modules["torch.utils.tensorboard.writer"]
    pristine = native.pristine_module()
    assert module.SummaryWriter is SummaryWriter
    assert type(SummaryWriter) is type
    assert SummaryWriter.__mro__ == (SummaryWriter, object)
    assert set(vars(SummaryWriter)) == set(vars(pristine.SummaryWriter))
    assert set(vars(FileWriter)) == set(vars(pristine.FileWriter))
    writer = SummaryWriter(tmp_path)
    assert type(writer) is SummaryWriter
    assert isinstance(writer, SummaryWriter)
    assert not issubclass(SummaryWriter, FileWriter)
    untouched = pristine.SummaryWriter(tmp_path)
    assert set(vars(writer)) == set(vars(untouched))
    untouched.close()
    writer.close()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_by_reference_and_name_nothing_of_ours(collected: Collected, protocol: int) -> None:
    """A checkpoint made here is loaded where this package is not installed."""
    for value in (SummaryWriter, SummaryWriter.add_scalar, vars(SummaryWriter)["add_scalar"], FileWriter.add_event):
        data = pickle.dumps(value, protocol)
        assert b"tracelet" not in data
        assert b"wrapt" not in data
        assert pickle.loads(data) == value
    assert pickle.loads(pickle.dumps(SummaryWriter, protocol)) is SummaryWriter


def test_writers_refuse_to_be_pickled_as_before(collected: Collected, tmp_path: Path) -> None:
    """A writer has locks and threads; so has a method of it."""
    writer = SummaryWriter(tmp_path)
    for attempt in (pickle.dumps, copy.deepcopy):
        for value in (writer, writer.add_scalar):
            with pytest.raises(TypeError, match="cannot pickle"):
                attempt(value)
    writer.close()


def test_functions_are_copied_as_before(running: Running) -> None:
    """Copying a table of functions copies the table; the function in it is the same, and still observed."""
    table = copy.deepcopy({"log": SummaryWriter.add_scalar, "raw": vars(SummaryWriter)["add_scalar"]})
    assert table["log"] == SummaryWriter.add_scalar == copy.copy(SummaryWriter.add_scalar)
    writer = SummaryWriter(running.root)
    table["log"](writer, "a", 0.1)
    copy.copy(writer.add_scalar)("b", 0.1)
    writer.close()
    assert table["raw"] is vars(SummaryWriter)["add_scalar"]
    assert running.scalars() == [("", "a", 0, 0.1), ("", "b", 0, 0.1)]


@pytest.mark.parametrize("make", [
    lambda: mock.create_autospec(SummaryWriter, instance=True), lambda: mock.create_autospec(SummaryWriter)("x"),
    lambda: mock.MagicMock(spec=SummaryWriter),
])  # fmt: skip
def test_mocks_of_the_class_have_its_methods(running: Running, make: Callable[[], Any]) -> None:
    """They take what the methods take, have nothing else, and nothing of theirs is observed."""
    fake = make()
    fake.add_scalar("a", 1, global_step=2)
    fake.add_scalar.assert_called_once_with("a", 1, global_step=2)
    fake.close()
    with pytest.raises(AttributeError):
        fake.add_scalrs("a")
    assert isinstance(fake, SummaryWriter)
    assert running.events() == []


def test_autospecs_check_arguments(collected: Collected) -> None:
    """The signature they check is the native one."""
    fake = mock.create_autospec(SummaryWriter, instance=True)
    with pytest.raises(TypeError, match="scalar_value"):
        fake.add_scalar("a")
    with pytest.raises(TypeError, match="stepp"):
        fake.add_scalar("a", 1, stepp=3)


@pytest.mark.parametrize("options", [{}, {"autospec": True}], ids=["plain", "autospec"])
def test_a_patched_method_comes_back_as_it_was(running: Running, options: dict[str, Any]) -> None:
    """While it is patched nothing is written and nothing observed; afterwards both happen, once."""
    before = vars(SummaryWriter)["add_scalar"]
    writer = SummaryWriter(running.root)
    with mock.patch.object(SummaryWriter, "add_scalar", **options) as fake:
        writer.add_scalar("a", 1)
        assert fake.call_count == 1
    assert vars(SummaryWriter)["add_scalar"] is before
    writer.add_scalar("a", 0.1)
    with mock.patch.object(writer, "add_scalar", wraps=writer.add_scalar) as spy:
        writer.add_scalar("b", 0.2)
        assert spy.call_count == 1
    writer.close()
    assert running.scalars() == [("", "a", 0, 0.1), ("", "b", 0, 0.2)]


def test_every_way_to_call_is_observed(running: Running) -> None:
    """Through the class, with `self` by name, as a method made by hand, or on an object that is no SummaryWriter."""
    writer = SummaryWriter(running.root)
    SummaryWriter.add_scalar(writer, "class", 0.1, 1)
    SummaryWriter.add_scalar(self=writer, tag="by name", scalar_value=0.5, global_step=2)
    types.MethodType(SummaryWriter.add_scalar, writer)("method", 0.1, 3)
    duck = types.SimpleNamespace(_get_file_writer=writer._get_file_writer, _check_caffe2_blob=lambda _: False)  # until torch 2.1
    SummaryWriter.add_scalar(duck, "0.25", 0.5, 4)
    SummaryWriter.close(self=writer)
    assert running.scalars() == [("", "class", 1, 0.1), ("", "by name", 2, 0.5), ("", "method", 3, 0.1), ("", "0.25", 4, 0.5)]


def test_initialisers_take_self_by_name(running: Running) -> None:
    """``FileWriter.__init__(self=...)`` and `SummaryWriter`'s work as natively."""
    file_writer = FileWriter.__new__(FileWriter)
    FileWriter.__init__(self=file_writer, log_dir=str(running.root))
    file_writer.add_event(Event(summary=Summary(value=[Summary.Value(tag="a", simple_value=1)])), 1)
    file_writer.close()
    writer = SummaryWriter.__new__(SummaryWriter)
    SummaryWriter.__init__(self=writer, log_dir=str(running.root))
    writer.add_scalar("b", 2)
    writer.close()
    assert running.scalars() == [("", "a", 1, 1.0), ("", "b", 0, 2.0)]


def test_missing_arguments_are_told_as_before(collected: Collected, tmp_path: Path) -> None:
    """The message is the native one, `self` included."""
    messages = []
    for module in (native.pristine_module(), sys.modules["torch.utils.tensorboard.writer"]):
        writer = module.SummaryWriter(tmp_path)
        for wrong in (module.SummaryWriter.add_scalar, writer.add_scalar, writer.add_hparams, module.FileWriter.add_event):
            with pytest.raises(TypeError) as caught:
                wrong()
            messages.append(str(caught.value))
        with pytest.raises(TypeError) as caught:
            writer.add_scalar("a", 1, stepp=3)
        messages.append(str(caught.value))
        writer.close()
    assert messages[:5] == messages[5:]


# -- subclasses -------------------------------------------------------------------------------------------------------


def test_subclasses_may_override_and_call_super(running: Running) -> None:
    """What reaches the base class is observed, with the values that reach it."""

    class Doubling(SummaryWriter):
        def add_scalar(self, tag: str, scalar_value: float, *args: Any, **kwargs: Any) -> None:
            super().add_scalar(f"twice/{tag}", scalar_value * 2, *args, **kwargs)

        def add_image(self, tag: str, *args: Any, **kwargs: Any) -> None:
            if tag != "hidden":
                super().add_image(tag, *args, **kwargs)

    writer = Doubling(running.root)
    writer.add_scalar("a", 0.1, global_step=4)
    writer.add_image("hidden", np.zeros((3, 2, 2)))
    writer.add_image("shown", np.zeros((3, 2, 2)))
    writer.close()
    assert running.scalars() == [("", "twice/a", 4, 0.2)]
    assert [(event.kind, event.tag) for event in running.events()] == [("scalar", "twice/a"), ("image", "shown")]


def test_a_subclass_of_the_same_name_is_a_subclass(running: Running) -> None:
    """Programs call theirs `SummaryWriter`, too."""
    made = type("SummaryWriter", (SummaryWriter,), {})
    writer = made(running.root)
    writer.add_scalars("m", {"a": 0.1})
    writer.close()
    (event,) = running.events()
    assert isinstance(event, ev.Scalar)
    assert (event.tag, event.series, event.value) == ("m", "a", 0.1)


def test_calling_super_twice_is_two_events(running: Running) -> None:
    """As in the event file. The initialiser called twice makes two files, and no second name."""

    class Twice(SummaryWriter):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            super().__init__(*args)

        def add_scalar(self, *args: Any) -> None:
            super().add_scalar(*args)
            super().add_scalar(*args)

    writer = Twice(running.root / "x")
    writer.add_scalar("a", 0.1, 1)
    writer.close()
    assert running.scalars() == [("x", "a", 1, 0.1)] * 2
    running.check_positions()


def test_a_subclass_that_does_not_initialise_its_base_fails_as_before(running: Running) -> None:
    """Data methods raise what they raise natively, and the session does not mind."""
    errors = []
    for module in (native.pristine_module(), sys.modules["torch.utils.tensorboard.writer"]):
        made = type("Bare", (module.SummaryWriter,), {"__init__": lambda self: None})()
        for call in (lambda: made.add_scalar("a", 1), lambda: made.add_hparams({}, {}), made.flush, made.close):  # noqa: B023
            with pytest.raises(AttributeError) as caught:
                call()
            errors.append(str(caught.value))
    assert errors[:4] == errors[4:]
    assert running.events() == []


def test_a_subclass_that_writes_nowhere_is_left_alone(running: Running) -> None:
    """Null writers override every method and never call `super`."""

    class Null(SummaryWriter):
        def __init__(self) -> None:
            """No file."""

        def add_scalar(self, *args: Any, **kwargs: Any) -> None:
            """Nothing."""

        close = flush = add_scalar

    with contextlib.closing(Null()) as writer:
        writer.add_scalar("a", 1)
        writer.flush()
    assert running.events() == []


def test_methods_may_be_shadowed_on_the_instance(running: Running) -> None:
    """A function put in the place of a method of one writer, with the old method inside."""
    writer = SummaryWriter(running.root)
    original = writer.add_scalar
    writer.add_scalar = lambda tag, value, step=None: original("seen/" + tag, value, step)  # type: ignore[method-assign]
    writer.add_scalar("a", 0.1, 2)
    writer.add_hparams({"lr": 0.1}, {"m": 0.3})
    del writer.add_scalar
    writer.add_scalar("b", 0.2)
    writer.close()
    assert running.scalars() == [("", "seen/a", 2, 0.1), ("", "b", 0, 0.2)]


# -- where events come from -------------------------------------------------------------------------------------------


def test_aliases_made_before_and_after_the_start_are_observed(run_python: RunPython) -> None:
    """The class is patched in place, so it does not matter when and under what name a program imported it."""
    done = run_python("""
        from torch.utils.tensorboard import SummaryWriter as SW
        import torch.utils.tensorboard as before
        early = SW("runs/x")
        early.add_scalar("early", 0.1, 1)
        import tracelet_shim
        from tracelet_shim.testing import RecordingBackend
        backend = RecordingBackend()
        tracelet_shim.start_logging(backend, delivery="thread", strict=True)
        from torch.utils.tensorboard import SummaryWriter as Later
        from torch.utils.tensorboard.writer import SummaryWriter as Inner
        for number, made in enumerate((SW, before.SummaryWriter, Later, Inner)):
            writer = made("runs/x")
            writer.add_scalar("a", 0.1, number)
            writer.close()
        early.add_scalar("late", 0.2, 2)
        early.close()
        tracelet_shim.stop_logging()
        print([(e.writer, e.tag, e.step, e.value, e.record.position) for e in backend.events])
    """)
    assert eval(done.stdout) == [*[("", "a", number, 0.1, 1) for number in range(4)], ("", "late", 2, 0.2, 2)]


def test_writers_from_before_the_start_continue_at_their_position(tmp_path: Path) -> None:
    """What was written before is not forwarded, and counts all the same: positions are those of the file."""
    writer = SummaryWriter(tmp_path / "runs", purge_step=5)
    for step in range(25):
        writer.add_scalar("before", step, step)
    running = start(tmp_path / "runs")
    for step in range(15):
        writer.add_scalar("after", step / 10, step)
    writer.add_scalars("m", {"new": 0.1})
    writer.close()
    assert running.scalars() == [*[("", "after", step, step / 10) for step in range(15)], ("", "m", 0, 0.1)]
    assert [event.record.position for event in running.events()] == [*range(28, 43), 1]
    running.check_positions()
    tracelet_shim.stop_logging()


def test_file_writers_alone_are_observed(running: Running) -> None:
    """Protos that reach a `FileWriter` past the methods of `SummaryWriter` arrive like any other."""
    alone = FileWriter(str(running.root / "alone"))
    summary = Summary(value=[Summary.Value(tag="a", simple_value=1.5), Summary.Value(tag="b", simple_value=2.5)])
    alone.add_summary(summary, 3)
    alone.close()
    writer = SummaryWriter(running.root)
    writer.file_writer.add_summary(summary=summary, global_step="4", walltime=12.5)
    event = Event(summary=summary, step=5)
    writer._get_file_writer().add_event(event)
    event.summary.value[0].simple_value = 99
    event.step = 99
    summary.value[1].tag = "changed"
    writer.close()
    assert running.scalars() == [
        (name, tag, step, value)
        for name, step in (("alone", 3), ("", 4), ("", 5)) for tag, value in (("a", 1.5), ("b", 2.5))
    ]  # fmt: skip
    assert [(event.record.index, event.wall_time) for event in running.events()][2:4] == [(0, 12.5), (1, 12.5)]
    running.check_positions()


def test_hparams_written_past_add_hparams_arrive(running: Running) -> None:
    """Lightning, CleanRL and Stable-Baselines3 write the three protos through the file writer."""
    from torch.utils.tensorboard.summary import hparams

    writer = SummaryWriter(running.root)
    writer.add_scalar("hp_metric", -1, 0)
    for proto in hparams({"lr": 0.1, "opt": "adam", "n": 3}, {"hp_metric": -1}):
        writer._get_file_writer().add_summary(proto)
    writer.add_scalar("hp_metric", 0.7, 1)
    writer.close()
    assert running.scalars() == [("", "hp_metric", 0, -1.0), ("", "hp_metric", 1, 0.7)]
    (event,) = (event for event in running.events() if isinstance(event, ev.HParams))
    assert (event.params, event.metrics, event.trial) == ({"lr": 0.1, "opt": "adam", "n": 3.0}, {}, None)


def test_the_parts_of_add_hparams_are_one_event(running: Running) -> None:
    """Its writer and scalars inside are no writer and no scalars of the program's."""
    writer = SummaryWriter(running.root / "x")
    writer.add_hparams({"lr": 0.1}, {"acc": 0.3, "loss": 2})
    step = {"global_step": 7} if "global_step" in inspect.signature(SummaryWriter.add_hparams).parameters else {}  # not in 2.1
    writer.add_hparams({"lr": 0.2}, {"acc": 0.4}, run_name="second", **step)
    writer.add_scalar("a", 1)
    writer.close()
    first, second, scalar = running.events()
    assert isinstance(first, ev.HParams)
    assert isinstance(second, ev.HParams)
    assert (first.writer, first.params, first.metrics, first.trial) == ("x", {"lr": 0.1}, {"acc": 0.3, "loss": 2}, None)
    assert (second.params, second.metrics, second.trial) == ({"lr": 0.2}, {"acc": 0.4}, "second")
    assert second.step == step.get("global_step", 0)
    assert (scalar.kind, scalar.writer) == ("scalar", "x")


class Split(str, enum.Enum):
    """As programs name their series: its members are texts with a hash of their own."""

    TRAIN = "train"
    VAL = "val"


def test_keys_and_parameters_may_be_members_of_an_enum(running: Running) -> None:
    """They are the texts that TensorBoard makes of them, and carry their exact values."""
    writer = SummaryWriter(running.root)
    writer.add_scalars("loss", {Split.TRAIN: 0.1, Split.VAL: 0.2})
    writer.add_hparams({"split": Split.VAL, "np": np.str_("x")}, {})
    writer.close()
    train, val, hparams = running.events()
    assert isinstance(train, ev.Scalar)
    assert isinstance(val, ev.Scalar)
    assert isinstance(hparams, ev.HParams)
    assert [(e.series, e.value) for e in (train, val)] == [("train", 0.1), ("val", 0.2)]
    assert hparams.params == {"split": "val", "np": "x"}
    assert {type(value) for value in hparams.params.values()} == {str}


def test_every_record_can_be_sent_to_another_process(collected: Collected, tmp_path: Path) -> None:
    """Hints are plain to the type, and integers fit into 64 bits: one that did not would end delivery for good."""
    writer = SummaryWriter(tmp_path / "runs")
    writer.add_hparams(
        {"big": 2**70, "negative": -(2**63) - 1, "enum": Split.VAL, "np": np.str_("a"), "f": np.float64(0.1), "b": True},
        {"huge": 2**70, "np": np.float32(0.5)},
        {"np": [np.str_("a"), np.str_("b")], "big": [2**80]},
    )
    writer.add_scalars("m", {Split.TRAIN: np.int64(3)})
    for step in (2**70, "final", None, torch.tensor(3), 1.7):
        writer.add_embedding(np.ones((2, 2)), [np.str_("a"), np.int64(3)], global_step=step, tag=np.str_("e"))
    writer.add_video("v", np.zeros((1, 2, 3, 4, 4), np.uint8), fps=np.int64(3))  # type: ignore[arg-type]
    writer.close()
    assert collected.problems == []
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(collected.records), type=list[msg.Record])
    trial = next(record.hint for record in decoded if isinstance(record.hint, msg.Trial))
    assert trial.params == {"big": 2.0**70, "negative": -(2.0**63), "enum": "val", "np": "a", "f": 0.1, "b": True}
    assert trial.metrics == {"huge": 2.0**70, "np": 0.5}
    assert trial.domain == {"np": ["a", "b"], "big": [2.0**80]}
    assert [record.hint.step for record in decoded if isinstance(record.hint, msg.Embedded)] == [0, 0, 0, 3, 1]


def test_metrics_that_are_refused_leave_the_parameters(collected: Collected, tmp_path: Path) -> None:
    """`add_hparams` writes its frame before it looks at the metrics: what it wrote is observed with what was good."""
    writer = SummaryWriter(tmp_path / "runs")
    for bad in (torch.ones(2), np.ones(3), None, [1], 1j, 10**400, "x", object()):
        with pytest.raises((AssertionError, NotImplementedError, TypeError, ValueError, OverflowError, ImportError)):
            writer.add_hparams({"lr": 0.1}, {"good": 0.1, "bad": bad})
    writer.close()
    trials = [record.hint for record in collected.records if isinstance(record.hint, msg.Trial)]
    assert [(trial.params, trial.metrics) for trial in trials] == [({"lr": 0.1}, {"good": 0.1})] * 8
    assert collected.problems == []


def test_sprites_are_the_native_pictures(running: Running) -> None:
    """Label images of bytes are clipped, not wrapped round, when TensorBoard multiplies them by 255; so are ours."""
    import io

    from PIL import Image

    writer = SummaryWriter(running.root)
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2) % 3
    writer.add_embedding(torch.ones(4, 2), label_img=images, tag="bytes")
    writer.add_embedding(torch.ones(4, 2), label_img=images / 3, tag="floats")
    writer.close()
    for event in running.events():
        assert isinstance(event, ev.Embedding)
        assert event.sprite is not None
        with Image.open(io.BytesIO(event.sprite)) as ours, Image.open(running.root / "00000" / event.tag / "sprite.png") as its:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(its))


# -- values -----------------------------------------------------------------------------------------------------------


def test_values_are_those_at_call_time(running: Running) -> None:
    """Programs log a view of a buffer, and write into the buffer in the next line."""
    writer = SummaryWriter(running.root)
    weights, pixels = torch.full((4,), 0.5), np.zeros((3, 2, 2), np.uint8)
    values, params, frames = {"a": 0.1}, {"lr": 0.1}, np.zeros((1, 2, 3, 4, 4), np.uint8)
    metrics, points, rows = {"m": 0.3}, torch.ones(2, 2), [["a"], ["b"]]
    writer.add_scalar("s", weights[0], 1)
    writer.add_histogram("h", weights)
    writer.add_image("i", pixels)
    writer.add_scalars("m", values)
    writer.add_video("v", frames)
    writer.add_tensor("t", weights)
    writer.add_embedding(points, rows, metadata_header=["name"])
    writer.add_hparams(params, metrics)
    weights.fill_(9)
    pixels.fill(255)
    frames.fill(255)
    points.fill_(7)
    rows[0][0] = "changed"
    values["a"] = params["lr"] = metrics["m"] = 9
    writer.close()
    s, h, i, m, v, t, e, p = running.events()
    assert (s.value, h.min, m.value, p.params, p.metrics) == (0.5, 0.5, 0.1, {"lr": 0.1}, {"m": 0.3})  # type: ignore[attr-defined]
    assert t.value.numpy().tolist() == [0.5] * 4  # type: ignore[attr-defined]
    assert (e.matrix.numpy().tolist(), e.metadata) == ([[1, 1], [1, 1]], (("a",), ("b",)))  # type: ignore[attr-defined]
    from tests.sample_events import gif_frames

    assert gif_frames(v.data).max() == 0  # type: ignore[attr-defined]
    assert native.events(native.only_event_file(running.root))[3].summary.value[0].image.encoded_image_string == i.data  # type: ignore[attr-defined]


def test_nothing_of_the_programs_is_kept_alive(running: Running) -> None:
    """Writers, tensors, arrays, figures, models and dicts can be collected while the session runs."""
    import matplotlib.pyplot as plt

    class Dict(dict):  # type: ignore[type-arg]
        """A dict that can be referred to weakly; `add_hparams` wants exactly dict."""

    def log() -> list[weakref.ref[Any]]:
        writer = SummaryWriter(running.root)
        model, figure = torch.nn.Linear(3, 2), plt.figure(figsize=(1, 1), dpi=20)
        tensor, array, values = torch.ones(1, 2, 3, 4, 4), np.ones((3, 3)), Dict(a=torch.tensor(1.0))
        writer.add_graph(model, torch.ones(1, 3))
        writer.add_figure("f", figure)
        writer.add_video("v", tensor)
        writer.add_embedding(array)
        writer.add_histogram("h", model.weight)
        writer.add_scalars("s", values)
        with pytest.raises(AssertionError):
            writer.add_scalar("bad", tensor)
        with pytest.raises(AssertionError):
            writer.add_scalars("bad", Dict(a=tensor))
        writer.close()
        kept = (writer, writer.default_bins, model, model.weight, figure, tensor, array, values, values["a"])
        return [weakref.ref(value) for value in kept if type(value) is not list]

    references = log()
    gc.collect()
    assert [reference() for reference in references] == [None] * 8
    assert len(running.events()) == 7


# -- many -------------------------------------------------------------------------------------------------------------


def test_threads_on_one_writer_lose_nothing(running: Running) -> None:
    """Positions are those of the file, each thread's points are in its order, and the exact values belong to them."""
    writer = SummaryWriter(running.root)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(number: int) -> None:
        for step in range(150):
            writer.add_scalar(f"t{number}", number + step / 1000, step)
            if step % 50 == 0:
                writer.add_scalars("all", {f"k{number}": number + 0.1}, step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    writer.close()
    scalars = [event for event in running.events() if isinstance(event, ev.Scalar)]
    for number in range(4):
        points = [(e.step, e.value) for e in scalars if e.tag == f"t{number}"]
        assert points == [(step, number + step / 1000) for step in range(150)]
        assert [e.value for e in scalars if e.series == f"k{number}"] == [number + 0.1] * 3
    main = [e.record.position for e in scalars if e.series is None]
    assert main == list(range(1, 601))
    running.check_positions()


def test_a_thousand_writers(running: Running) -> None:
    """One for each epoch on the same directory, as some programs do: no file stays open, none is mixed up."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        writer = SummaryWriter(running.root / "x", filename_suffix=f".{number}")
        writer.add_scalar("a", number / 10, number)
        writer.close()
    assert running.scalars() == [("x", "a", number, number / 10) for number in range(1000)]
    assert len({event.record.file for event in running.events()}) == 1000
    assert all(event.record.file.endswith(f".{event.step}") for event in running.events())
    assert len(os.listdir("/proc/self/fd")) < before + 50


def test_a_writer_reopens_after_close(running: Running) -> None:
    """A call after `close` opens a new file, with positions of its own."""
    writer = SummaryWriter(running.root)
    for number in range(3):
        writer.add_scalar("a", number)
        writer.close()
        writer.close()
    records = [event.record for event in running.events()]
    assert [record.position for record in records] == [1, 1, 1]
    assert len({record.file for record in records}) == 3


def test_a_program_may_change_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative log directory is the one where the writer was made, not where the first call was."""
    backend = RecordingBackend()
    session = tracelet_shim.start_logging(backend, delivery="thread", strict=True, quiet=True)
    writer = SummaryWriter("runs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.add_scalar("a", 0.1)
    writer.add_embedding(np.ones((2, 2)))
    writer.close()
    assert session.flush(60)
    scalar, embedding = backend.events
    assert (scalar.writer, embedding.writer) == ("", "")
    assert scalar.record.file == str(native.only_event_file(tmp_path / "runs"))
    assert embedding.record.file == str(tmp_path / "elsewhere" / "runs" / "projector_config.pbtxt")
    assert Path(embedding.record.file).is_file()
    tracelet_shim.stop_logging()


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_the_module_may_be_hidden_or_replaced_later(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites put None or a mock into `sys.modules`, and a writer that they hold goes on."""
    writer = SummaryWriter(running.root)
    for number, stand_in in enumerate((None, mock.MagicMock(), types.ModuleType("torch.utils.tensorboard"))):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)  # type: ignore[arg-type]
        writer.add_scalar("a", 0.1, number)
        writer.add_video("v", np.zeros((1, 2, 3, 4, 4), np.uint8), number)
        writer.add_embedding(np.ones((2, 2)), global_step=number)
        writer.add_hparams({"lr": 0.1}, {"m": 0.1})
    writer.close()
    assert [event.kind for event in running.events()] == ["scalar", "video", "embedding", "hparams"] * 3


def test_sessions_do_not_mix(tmp_path: Path) -> None:
    """A second session gets nothing of the first; writers of the first go on in the second; nothing goes nowhere."""
    writer = SummaryWriter(tmp_path / "runs")
    first = start(tmp_path / "runs")
    wrapped = vars(SummaryWriter)["add_scalar"]
    writer.add_scalar("first", 0.1)
    tracelet_shim.stop_logging()
    writer.add_scalar("between", 0.2)
    second = start(tmp_path / "runs")
    writer.add_scalar("second", 0.3)
    tracelet_shim.stop_logging()
    third = start(tmp_path / "runs")
    writer.add_scalar("third", 0.4)
    assert third.session.flush(60)
    tracelet_shim.stop_logging()
    writer.add_scalar("after", 0.5)
    SummaryWriter(tmp_path / "runs" / "new").close()
    writer.close()
    got = [[(e.tag, e.value, e.record.position) for e in r.backend.events] for r in (first, second, third)]  # type: ignore[attr-defined]
    assert got == [[("first", 0.1, 1)], [("second", 0.3, 3)], [("third", 0.4, 4)]]
    assert vars(SummaryWriter)["add_scalar"] is wrapped
    assert type(wrapped.__wrapped__) is types.FunctionType
    tags = [event.summary.value[0].tag for event in native.events(native.only_event_file(tmp_path / "runs"))[1:]]
    assert tags == ["first", "between", "second", "third", "after"]


def test_a_forked_child_is_inactive(run_python: RunPython) -> None:
    """It writes its own event files natively; the parent's session gets what the parent logs."""
    done = run_python("""
        import os, sys, warnings
        import tracelet_shim
        from tracelet_shim.testing import RecordingBackend
        from torch.utils.tensorboard import SummaryWriter
        backend = RecordingBackend()
        session = tracelet_shim.start_logging(backend, delivery="thread", strict=True, root="runs")
        writer = SummaryWriter("runs/parent")
        writer.add_scalar("a", 0.1, 0)
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            ok = not tracelet_shim.get_session() and not session.active
            own = SummaryWriter("runs/child")
            own.add_scalar("child", 0.2, 1)
            own.add_hparams({"lr": 0.1}, {"m": 1})
            own.close()
            tracelet_shim.stop_logging()
            os._exit(0 if ok else 1)
        print(os.waitpid(child, 0)[1])
        writer.add_scalar("a", 0.3, 1)
        writer.close()
        tracelet_shim.stop_logging()
        print([(e.writer, e.tag, e.value) for e in backend.events])
        print(sum(files != [] for _, _, files in os.walk("runs/child")))
    """)
    assert done.stdout.splitlines() == ["0", "[('parent', 'a', 0.1), ('parent', 'a', 0.3)]", "2"]


class Failing(NamedTuple):
    """A sink whose every part is broken, but for the one that takes reports."""

    problems: list[Exception]
    accelerates: bool = False

    def active_runs(self) -> intercept.ActiveRuns:
        return ()

    def writer_created(self, logdir: str, runs: intercept.ActiveRuns) -> None:
        raise OSError("created")

    def add_source(self, path: str, logdir: str, parent: str | None, runs: intercept.ActiveRuns) -> int:
        raise MemoryError("source")

    def publish(self, record: msg.Record) -> None:
        raise RuntimeError("publish")

    def foreign_writer(self, producer: str, logdir: str) -> None: ...
    def nudge(self) -> None: ...

    def problem(self, error: Exception) -> None:
        self.problems.append(error)


def test_an_error_of_ours_never_reaches_the_program(tmp_path: Path) -> None:
    """Every call does what it does natively, and each failure is reported to the session."""
    intercept.install()
    sink = Failing([])
    intercept.set_sink(sink)
    try:
        writer = SummaryWriter(tmp_path / "runs")
        writer.add_scalar("a", 0.5)
        writer.add_scalars("m", {"k": 1})
        writer.add_embedding(np.ones((2, 2)))
        writer.close()
    finally:
        intercept.set_sink(None)
    assert [type(error) for error in sink.problems] == [OSError, MemoryError, MemoryError, MemoryError]
    written = native.events(native.only_event_file(tmp_path / "runs"))
    assert [event.summary.value[0].tag for event in written[1:]] == ["a"]


def test_a_hint_that_fails_leaves_the_event(collected: Collected, tmp_path: Path) -> None:
    """A mapping that gives its values once is enough for TensorBoard, and not for us: the file's value arrives."""

    class Once(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: str) -> float:
            raise RuntimeError("only items()")

    writer = SummaryWriter(tmp_path / "runs")
    writer.add_scalars("m", Once(a=0.5))
    writer.add_video("v", np.zeros((1, 2, 3, 4, 4), np.uint8), fps=None)  # type: ignore[arg-type]
    writer.close()
    assert [type(error) for error in collected.problems] == [RuntimeError, TypeError]
    assert [(record.hint, record.value) for record in collected.records] == [(None, None)] * 2
    assert [Event.FromString(record.data or b"").summary.value[0].tag for record in collected.records] == ["m", "v"]


def test_a_call_on_a_closed_file_writer_is_the_programs_error(tmp_path: Path) -> None:
    """A file writer from before the session that is closed raises its own error, and nothing is reported as ours."""
    file_writer = FileWriter(str(tmp_path / "runs"))
    file_writer.close()
    running = start(tmp_path / "runs")
    with pytest.raises(OSError, match="Writer is closed"):
        file_writer.add_summary(Summary())
    assert running.session._replies.troubles == []
    tracelet_shim.stop_logging()


# -- imports ----------------------------------------------------------------------------------------------------------

IMPORTED = """
import sys, sysconfig
def foreign():
    "Top-level modules that are neither the standard library's nor ours."
    names = {name.partition(".")[0] for name in sys.modules}
    return sorted(names - sys.stdlib_module_names - {"__main__", "tracelet_shim", "_distutils_hack", "sitecustomize"})
before = foreign()
"""


def test_importing_the_package_imports_nothing_else(run_python: RunPython) -> None:
    """No torch, no numpy, no tracker, nothing outside the standard library, until something is used."""
    done = run_python(IMPORTED + "import tracelet_shim\nprint(sorted(set(foreign()) - set(before)))\n")
    assert done.stdout == "[]\n"


@pytest.mark.cold
def test_activation_imports_no_torch(run_python: RunPython) -> None:
    """torch comes when the program imports it, and is patched then; SDKs are the relay's."""
    done = run_python(IMPORTED + """
import tracelet_shim
session = tracelet_shim.start_logging("tensorboard", delivery="process", options={"tensorboard": {"logdir": "out"}})
print(sorted({"torch", "mlflow", "wandb", "aim", "clearml", "comet_ml", "matplotlib"} & set(foreign())))
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter("runs/x")
writer.add_scalar("a", 0.1)
writer.close()
print(session.flush(60), session.status()["tensorboard"].delivered)
tracelet_shim.stop_logging()
""")
    assert done.stdout.splitlines()[-2:] == ["[]", "True 1"]
