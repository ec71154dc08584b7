"""The TensorBoard backend: what the second log directory holds."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.tensorboard.reader import TensorBoardReader, tree
from tests.conftest import RunPython
from tests.sample_events import WALL, Maker, gif_frames, run_info
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.registry import validate
from tracelet_shim.backends.tensorboard.backend import TensorBoardBackend
from tracelet_shim.backends.tensorboard.event_files import OPEN_FILES
from tracelet_shim.backends.tensorboard.projector import encode_tag
from tracelet_shim.eventfiles import tfrecord


def backend(directory: Path, **options: Any) -> TensorBoardBackend:
    return TensorBoardBackend({"logdir": str(directory), **options})


def opened(directory: Path, **run: Any) -> TensorBoardBackend:
    made = backend(directory)
    made.open(run_info(**run))
    return made


def scalar_source(tag: str, value: float, step: int, wall: float = WALL) -> bytes:
    from tensorboard.compat.proto import event_pb2, summary_pb2

    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
    return event_pb2.Event(step=step, wall_time=wall, summary=summary).SerializeToString()


def version_source() -> bytes:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(wall_time=WALL, file_version="brain.Event:2").SerializeToString()


def file_events(file: str, count: int, *, writer: str = "", version: bool = True) -> list[ev.Event]:
    """Return the events of an event file: its version, then scalars of one tag."""
    base: dict[str, Any] = {"writer": writer, "wall_time": WALL}
    made: list[ev.Event] = []
    if version:
        made.append(ev.Marker(**base, tag="", step=0, record=ev.RecordId(file, 0), source=version_source(), what="file_version"))
    for i in range(1, count + 1):
        source = scalar_source("s", i / 2, i)
        made.append(ev.Scalar(**base, tag="s", step=i, record=ev.RecordId(file, i), source=source, value=i / 2))
    return made


def framed(events: list[ev.Event]) -> bytes:
    return tfrecord.joined(event.source for event in events)


def events_of(root: Path) -> list[ev.Event]:
    """Return the records of all event files under a log directory, one event for each summary value."""
    made: list[ev.Event] = []
    for file in sorted(root.rglob("*tfevents*")):
        for position, proto in enumerate(TensorBoardReader.events_of_file(file)):
            made += [
                ev.Marker(
                    writer="",
                    tag="",
                    step=proto.step,
                    wall_time=proto.wall_time,
                    what="any",
                    record=ev.RecordId(str(file), position, index),
                    source=proto.SerializeToString(),
                )
                for index in range(max(1, len(proto.summary.value)))
            ]
    return made


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory that a program wrote with every method of SummaryWriter."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    root = tmp_path_factory.mktemp("native") / "logs"
    torch.manual_seed(0)
    with SummaryWriter(str(root)) as w:
        for step in range(5):
            w.add_scalar("train/loss", 1 / (step + 1), step)
        w.add_scalar("new", 0.1, 3, new_style=True, double_precision=True)
        w.add_scalar("nan", float("nan"), -7, walltime=1.5)
        w.add_scalars("grp/acc", {"a": 0.25, "b": 0.5}, 2)
        w.add_histogram("h", torch.randn(100), 3)
        w.add_image("i", torch.rand(3, 6, 8), 3)
        w.add_audio("a", torch.sin(torch.linspace(0, 60, 800)), 3, sample_rate=16000)
        w.add_text("t", "**é** & <b>", 3)
        w.add_pr_curve("p", torch.tensor([0, 1, 1]), torch.tensor([0.1, 0.4, 0.8]), 3, num_thresholds=11)
        colors = torch.zeros(1, 4, 3, dtype=torch.uint8)
        w.add_mesh("m", torch.rand(1, 4, 3), colors, torch.tensor([[[0, 1, 2]]]), global_step=3)
        w.add_tensor("x", torch.arange(6.0).reshape(2, 3), 3)
        w.add_graph(torch.nn.Linear(2, 1), torch.rand(1, 2))
        w.add_custom_scalars({"L": {"both": ["Multiline", ["a", "b"]], "band": ["Margin", ["m", "lo", "hi"]]}})
        w.add_hparams({"lr": 0.1, "opt": "adam"}, {"hparam/acc": 0.75})
        w.add_hparams({"lr": 0.2, "opt": "sgd"}, {"hparam/acc": 0.5})
    with SummaryWriter(str(root / "val")) as w:
        w.add_scalar("train/loss", 7.0, 1)
    return root


@pytest.fixture(scope="module")
def copy(native: Path, tmp_path_factory: pytest.TempPathFactory) -> TensorBoardReader:
    """The copy of `native`, closed as finished."""
    directory = tmp_path_factory.mktemp("copy")
    target = backend(directory)
    run = target.open(run_info(root=str(native), tags={"t": "1", "bare": ""}, notes="a note", run_id="id/1"))
    target.write(events_of(native))
    target.flush()
    target.close("finished")
    return TensorBoardReader(directory, run.run_id)


def test_contract() -> None:
    """The class satisfies the registry."""
    assert validate(TensorBoardBackend) is TensorBoardBackend


def test_files_are_identical(native: Path, copy: TensorBoardReader) -> None:
    """Every event file, those of add_scalars and add_hparams included, is copied byte for byte under its own path."""
    files = {name for name in tree(native) if "tfevents" in name}
    assert len(files) == 6  # root, val, two keys of add_scalars, two trials
    assert tree(copy.run) - files == {"run.json", _own_file(copy.run)}
    for name in files:
        assert (copy.run / name).read_bytes() == (native / name).read_bytes()


def _own_file(run: Path) -> str:
    (own,) = run.glob("*.tracelet")
    return own.name


def test_reader_sees_every_type(copy: TensorBoardReader) -> None:
    """TensorBoard's own loader finds each kind of data in the copy."""
    losses = copy.scalars("", "train/loss")
    assert [(p.step, p.value) for p in losses] == [(i, np.float32(1 / (i + 1))) for i in range(5)]
    assert [p.value for p in copy.scalars("", "new")] == [0.1]
    (point,) = copy.scalars("", "nan")
    assert (point.step, np.isnan(point.value), point.wall_time) == (-7, True, 1.5)
    assert [p.value for p in copy.scalars("", "grp/acc", "b")] == [0.5]
    assert [p.value for p in copy.scalars("val", "train/loss")] == [7.0]
    ((step, edges, counts),) = copy.histograms("", "h")
    assert (step, len(edges) - 1, counts.sum()) == (3, len(counts), 100)
    assert copy.images("", "i")[0][1].shape == (6, 8, 3)
    assert copy.audio("", "a")[0][:2] == (3, 16000)
    assert copy.texts("", "t") == [(3, "**é** & <b>")]
    assert copy.pr_curves("", "p")[0][1].shape == (11,)
    (step, points, faces, colors) = copy.meshes("", "m")[0]
    assert faces is not None
    assert colors is not None
    assert (step, points.shape, faces.shape, colors.shape) == (3, (4, 3), (1, 3), (4, 3))
    assert copy.tensors("", "x")[0][1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert any("Linear" in name for name in copy.graphs()[0])
    assert copy.custom_scalars()[0]["L"]["band"] == ["Margin", ["m", "lo", "hi"]]


def test_hparams(copy: TensorBoardReader) -> None:
    """The first add_hparams is the run's own, the second a trial."""
    assert copy.params() == {"lr": 0.1, "opt": "adam"}
    assert copy.summary_metrics() == {"hparam/acc": 0.75}
    assert copy.trials() == [({"lr": 0.2, "opt": "sgd"}, {"hparam/acc": 0.5})]


def test_about(copy: TensorBoardReader) -> None:
    """Names, tags, notes and status are kept, and tags and notes show as texts under tracelet/."""
    about = {"project": "p", "exp_name": "e", "tags": {"t": "1", "bare": ""}, "notes": "a note", "run_id": "id/1"}
    assert copy.about() == about
    assert copy.status() == "finished"
    assert copy.texts("", "tracelet/notes") == [(0, "a note")]
    assert "| t | 1 |" in copy.texts("", "tracelet/tags")[0][1]
    assert copy.run_ids() == [str(copy.run)]
    assert copy.session_status() is None


def test_config_shows_in_the_hparams_plugin(tmp_path: Path) -> None:
    """TensorBoard's hparams plugin lists config= as a session over all writers, with its status."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    config = {"lr": 0.1, "amp": True, "opt": "adam", "layers": [1, 2], "big": 2**60, "none": None}
    target = opened(tmp_path, config=config)
    target.write(file_events("/logs/val/events.out.tfevents.1", 3, writer="val"))
    target.close("failed")
    reader = TensorBoardReader(tmp_path)
    expected = {"lr": 0.1, "amp": True, "opt": "adam", "layers": "[1, 2]", "big": str(2**60), "none": "null"}
    assert reader.params() == expected
    assert reader.session_status() == 2

    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path))))
    metadata = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, metadata, [])
    assert {info.name for info in experiment.hparam_infos} == set(config)
    assert [(info.name.group, info.name.tag) for info in experiment.metric_infos] == [("val", "s")]
    (session,) = metadata
    assert session == os.path.join("p", "e")


def test_a_record_with_many_values_is_written_once(tmp_path: Path) -> None:
    """Events that share a record give one record, also when a batch ends between them."""
    events = file_events("/logs/events.out.tfevents.1", 2)
    shared = msgspec.structs.replace(events[-1], record=ev.RecordId("/logs/events.out.tfevents.1", 2, 1))
    target = opened(tmp_path)
    target.write([*events, shared])
    target.write([shared])
    assert target.written == 1
    assert (Path(target.handle) / "events.out.tfevents.1").read_bytes() == framed(events)


def test_interleaved_files_keep_their_order(tmp_path: Path) -> None:
    """Two writers that take turns have each their own records in order."""
    a, b = (file_events(f"/logs/{name}/events.out.tfevents.1", 20, writer=name) for name in "ab")
    target = opened(tmp_path)
    target.write([event for pair in zip(a, b, strict=True) for event in pair])
    for name, events in (("a", a), ("b", b)):
        assert (Path(target.handle) / name / "events.out.tfevents.1").read_bytes() == framed(events)


def test_a_file_that_was_joined_late_gets_a_version(tmp_path: Path) -> None:
    """A copy that does not begin with record 0 begins with a version, or TensorBoard would purge steps out of order."""
    events = file_events("/logs/events.out.tfevents.1", 3, version=False)
    target = opened(tmp_path)
    target.write(events)
    protos = list(TensorBoardReader(tmp_path).events(Path(target.handle)))
    assert [p.WhichOneof("what") for p in protos] == ["file_version", "summary", "summary", "summary"]


def test_crc_is_tensorboards(tmp_path: Path) -> None:
    """google_crc32c and tensorboard's own implementation give the same masked checksum."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    pytest.importorskip("google_crc32c")
    for data in (b"", b"\0", b"123456789", bytes(range(256)) * 5):
        assert tfrecord.masked_crc32c(data) == masked_crc32c(data)


def test_works_without_torch_and_google_crc32c(tmp_path: Path) -> None:
    """Neither torch nor TensorFlow is imported, and the slow checksum gives a readable file."""
    program = """
        import sys
        sys.modules["google_crc32c"] = None
        from tests.backends.tensorboard.test_tensorboard import file_events, opened
        from pathlib import Path
        target = opened(Path(sys.argv[1]), config={"lr": 1}, notes="n")
        target.write(file_events("/logs/events.out.tfevents.1", 3))
        target.close("finished")
        print(sorted({"torch", "tensorflow"} & set(sys.modules)))
    """
    out = _python(program, str(tmp_path))
    assert out.strip() == "[]"
    assert [p.value for p in TensorBoardReader(tmp_path).scalars("", "s")] == [0.5, 1.0, 1.5]


def _python(program: str, *args: str, check: bool = True) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program), *args]
    root = Path(__file__).parents[3]
    return subprocess.run(command, cwd=root, check=check, capture_output=True, text=True, timeout=60).stdout


def test_sigkill_loses_nothing(tmp_path: Path) -> None:
    """What write() took is in the file when the process is killed right after."""
    program = """
        import os, signal, sys
        from tests.backends.tensorboard.test_tensorboard import file_events, opened
        from pathlib import Path
        target = opened(Path(sys.argv[1]))
        target.write(file_events("/logs/events.out.tfevents.1", 200))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    _python(program, str(tmp_path), check=False)
    reader = TensorBoardReader(tmp_path)
    assert len(reader.scalars("", "s")) == 200
    assert reader.status() == "running"


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "writers"),
    [
        ("/logs", {"/logs": "", "/logs/val": "val", "/logs/val/g_a": "val/g_a", "/b/foo": "foo", "/b/foo/k": "foo/k"}),
        (None, {"/logs": "", "/logs/grp_a": "grp_a", "/logs/val": "val", "/b/foo": "foo", "/b/foo/k": "foo/k"}),
        (None, {"/logs/train/grp_a": "train/grp_a", "/logs/train": "train", "/logs": ""}),
    ],
)
def test_places(tmp_path: Path, root: str | None, writers: dict[str, str]) -> None:
    """A file lies where it lies under the root or under its writer's name, sub-directories included."""
    target = opened(tmp_path, root=root)
    for folder, place in writers.items():
        writer = next(name for name in (place, os.path.dirname(place)) if name in ("", "val", "train", "foo"))
        target.write(file_events(f"{folder}/events.out.tfevents.1", 1, writer=writer))
        assert (Path(target.handle) / place / "events.out.tfevents.1").exists()


@pytest.mark.parametrize(
    "first",
    ['add_hparams({"lr": 1}, {"acc": 0.1})', 'add_hparams({"lr": 1}, {}, run_name="a/b")', 'add_scalars("g/x", {"a": 1.0}, 1)'],
)
def test_what_is_below_a_writer_comes_first(run_python: RunPython, tmp_path: Path, first: str) -> None:
    """Where the first call makes a directory of its own, that and the writer's have their places all the same."""
    run_python(
        f"""
        import tracelet_shim
        from torch.utils.tensorboard import SummaryWriter
        tracelet_shim.start_logging(backend="tensorboard", project="p", exp_name="e", strict=True)
        with SummaryWriter("runs/x") as writer:
            writer.{first}
            writer.add_scalar("loss", 1.0, 1)
        """
    )

    def places(top: Path) -> list[str]:
        return sorted(str(file.parent.relative_to(top)) for file in top.rglob("*tfevents*") if ".tracelet" not in file.parts)

    assert places(tmp_path / "tracelet-runs/p/e") == places(tmp_path / "runs/x")


def test_directories_never_share_a_place(tmp_path: Path) -> None:
    """Writers whose names would fall together, or onto our own files, are kept apart."""
    target = opened(tmp_path)
    folders = ["/a/x", "/b/x", "/c/..", "/d/run.json", "/e/tracelet-files"]
    for folder in folders:
        writer = {"/b/x": "x"}.get(folder, os.path.basename(folder))
        target.write(file_events(f"{folder}/events.out.tfevents.1", 1, writer=writer))
    found = list(Path(target.handle).rglob("events.out.tfevents.1"))
    assert len(found) == len(folders)
    assert all(file.read_bytes() == framed(file_events("/a/b", 1)) for file in found)
    target.close("finished")
    assert TensorBoardReader(tmp_path).status() == "finished"


def test_a_run_of_the_same_name_gets_its_own_directory(tmp_path: Path) -> None:
    """Two sessions with one exp_name are two runs."""
    first = opened(tmp_path, session="a" * 16)
    second = opened(tmp_path, session="b" * 16)
    assert first.handle != second.handle
    assert len(TensorBoardReader(tmp_path).run_ids()) == 2


def test_run_id_continues_the_run(tmp_path: Path) -> None:
    """A later session with the same run_id writes into the same run, and keeps what it does not say anew."""
    first = opened(tmp_path, session="a" * 16, run_id="r", notes="n", config={"lr": 1})
    first.write(file_events("/logs/events.out.tfevents.1", 2))
    first.close("failed")
    second = opened(tmp_path, session="b" * 16, run_id="r", exp_name="other", tags={"k": "v"})
    second.write(file_events("/logs/events.out.tfevents.2", 3))
    reader = TensorBoardReader(tmp_path)
    assert reader.status() == "running"
    second.close("finished")
    assert second.handle == first.handle
    assert len(reader.scalars("", "s")) == 5
    assert reader.about() == {"project": "p", "exp_name": "other", "tags": {"k": "v"}, "notes": "n", "run_id": "r"}
    assert (reader.status(), reader.session_status(), reader.params()) == ("finished", 1, {"lr": 1})


def test_hostile_names_stay_inside(tmp_path: Path) -> None:
    """Any project and exp_name gives a directory of its own, two levels below logdir."""
    odd = ["..", ".", "", "/abs", "../../x", "a/b", "a", "a_x2f_b", "nul\0", "new\nline", "é", " "]
    names = [*odd, "x" * 5000, "x" * 4999]
    for i, name in enumerate(names):
        made = opened(tmp_path / "runs", project=name, exp_name=name, session=f"{i:016x}")
        assert Path(made.handle).parent.parent == tmp_path / "runs"
        made.close("finished")
    assert len(TensorBoardReader(tmp_path / "runs").run_ids()) == len(names)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_default_directory(tmp_path: Path) -> None:
    """Without logdir the copy lies under the program's directory, and beside the root where that is this directory."""
    program = msgspec.structs.replace(run_info().program, cwd=str(tmp_path / "work"))
    plain = TensorBoardBackend({})
    assert plain.open(run_info(program=program)).run_id == str(tmp_path / "work" / "tracelet-runs" / "p" / "e")
    beside = TensorBoardBackend({})
    run = beside.open(run_info(program=program, root=str(tmp_path / "work"), project=None, exp_name=None))
    assert run.run_id == str(tmp_path / "tracelet-runs" / "default" / "00112233aabbccdd")


@pytest.mark.parametrize("root", ["runs", "runs/p", "runs/p/e", "runs/p/e/deeper"])
def test_a_copy_within_the_original_is_refused(tmp_path: Path, root: str) -> None:
    """A logdir that would put the copy into the original, or round it, is an error that names both; nothing is made."""
    with pytest.raises(errors.ConfigurationError, match="must not lie in each other"):
        opened(tmp_path / "runs", root=str(tmp_path / root))
    assert not (tmp_path / "runs").exists()


def test_a_file_is_never_copied_onto_itself(tmp_path: Path) -> None:
    """Where the root was not known at open, a writer on the copy's own directory is copied to another place."""
    target = opened(tmp_path)
    source = Path(target.handle) / "events.out.tfevents.1"
    events = file_events(str(source), 2)
    source.write_bytes(framed(events))
    target.write(events)
    assert source.read_bytes() == framed(events)
    assert len(list(tmp_path.rglob("events.out.tfevents.1"))) == 2


# -- faults -----------------------------------------------------------------------------------------------------------


def test_redelivery_after_a_crash_writes_nothing_twice(tmp_path: Path) -> None:
    """A session that continues a run skips what the copy has, mends its torn end, and goes on."""
    file = "/logs/events.out.tfevents.1"
    events = file_events(file, 50)
    first = opened(tmp_path, session="a" * 16)
    first.write(events[:30])
    copy = Path(first.handle) / "events.out.tfevents.1"
    with copy.open("ab") as torn:
        torn.write(framed(events[30:31])[:-3])
    second = backend(tmp_path)
    second.open(run_info(session="b" * 16, resume=first.handle))
    second.write(events[10:25])  # the ledger is behind the copy
    second.write(events[25:40])
    second.write(events[40:])
    assert copy.read_bytes() == framed(events)


@pytest.mark.parametrize("garbage", [b"", b"\0" * 4096, b"\xff" * 40])
def test_garbage_at_the_end_is_overwritten(tmp_path: Path, garbage: bytes) -> None:
    """What a power failure left behind the last whole record does not hide later records."""
    events = file_events("/logs/events.out.tfevents.1", 30)
    first = opened(tmp_path)
    first.write(events[:5])
    copy = Path(first.handle) / "events.out.tfevents.1"
    copy.write_bytes(copy.read_bytes() + garbage)
    second = backend(tmp_path)
    second.open(run_info(resume=first.handle))
    second.write(events[5:])
    assert len(TensorBoardReader(tmp_path).scalars("", "s")) == 30


def test_a_full_disk_is_transient_and_leaves_no_trace(tmp_path: Path) -> None:
    """A write that breaks off in the middle counts as not written, and is repeated in full when there is room."""
    events = file_events("/logs/events.out.tfevents.1", 300)
    target = opened(tmp_path)
    target.write(events[:10])
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            target.write(events[10:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.is_transient(error.value)
    assert target.written == 0
    target.write(events[10:])
    assert (Path(target.handle) / "events.out.tfevents.1").read_bytes() == framed(events)


def test_open_files_are_bounded(tmp_path: Path) -> None:
    """A thousand writers take a bounded number of file descriptors, and files closed on the way go on."""
    before = len(os.listdir("/proc/self/fd"))
    target = opened(tmp_path)
    files = [file_events(f"/logs/w{i}/events.out.tfevents.1", 2, writer=f"w{i}") for i in range(1000)]
    for part in range(3):
        target.write([events[part] for events in files])
    assert len(os.listdir("/proc/self/fd")) - before <= OPEN_FILES
    for i in (0, 500, 999):
        assert (Path(target.handle) / f"w{i}" / "events.out.tfevents.1").read_bytes() == framed(files[i])
    target.close("finished")
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("options", [{"flush_secs": "soon"}, {"flush_secs": -1}, {"logdir": "s3://bucket/x"}, {"log_dir": "x"}])
def test_bad_options(options: dict[str, Any]) -> None:
    """An option that cannot be right is an error at once."""
    with pytest.raises(errors.ConfigurationError):
        TensorBoardBackend(options)


def test_flush_secs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flush_secs, given as text as the environment has it, forces the copy to disk so often."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    often, seldom = backend(tmp_path, flush_secs="0"), backend(tmp_path)
    for target in (often, seldom):
        target.open(run_info())
        target.write(file_events("/logs/events.out.tfevents.1", 2))
    assert len(synced) == 1


# -- what is no record ------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_torch(tmp_path: Path) -> None:
    """The projector's files and its configuration equal what add_embedding writes, for two in one directory."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    matrix = torch.rand(4, 3)
    rows = [["a", "1"], ["b", "2"], ["c", "3"], ["d", "4"]]
    with SummaryWriter(str(tmp_path / "native")) as w:
        w.add_embedding(matrix, rows, global_step=3, tag="e/1%\\", metadata_header=["name", "class"])
        w.add_embedding(matrix, label_img=torch.rand(4, 3, 5, 7), global_step=12)
    sprite = (tmp_path / "native/00012/default/sprite.png").read_bytes()
    make = Maker(file="/logs/events.out.tfevents.1")
    event = msgspec.structs.replace(make.embedding("e/1%\\", 3, sprite=False), matrix=ev.Array.of(matrix.numpy()))
    first = msgspec.structs.replace(event, metadata=tuple(map(tuple, rows)), metadata_header=("name", "class"))
    second = msgspec.structs.replace(
        make.embedding("default", 12), matrix=first.matrix, metadata=None, metadata_header=None, sprite=sprite,
        sprite_size=(7, 5),
    )  # fmt: skip
    target = opened(tmp_path / "copy")
    target.write([first, second, first])
    native, copied = tmp_path / "native", Path(target.handle)
    files = {name for name in tree(native) if "tfevents" not in name}
    assert tree(copied) == {*files, "run.json"}
    for name in files - {"projector_config.pbtxt"}:
        assert (copied / name).read_bytes() == (native / name).read_bytes()
    assert sorted(_blocks(copied)) == sorted(_blocks(native))
    reader = TensorBoardReader(tmp_path / "copy")
    ((step, read, metadata),) = reader.embeddings("", "e/1%\\")
    assert (step, metadata) == (3, rows)
    assert np.array_equal(read.astype(np.float32), matrix.numpy())


def _blocks(folder: Path) -> list[list[str]]:
    """Return the lines of each embedding in a projector configuration."""
    return [block.split() for block in (folder / "projector_config.pbtxt").read_text().split("embeddings {")]


@settings(max_examples=200, deadline=None)
@given(st.sets(st.text(st.characters(), max_size=300), min_size=2, max_size=5))
def test_embedding_directories(tags: set[str]) -> None:
    """The directory of an embedding is one safe path component, different for each tag."""
    names = {encode_tag(tag) for tag in tags}
    assert len(names) == len(tags)
    for name in names:
        assert name not in ("", ".", "..")
        assert not {"/", "\\", "\0", "\n"} & set(name)
        assert len(name.encode()) <= 255


def test_hostile_embedding_tags(tmp_path: Path) -> None:
    """Embeddings under hostile tags are all there, none outside the run's directory."""
    odd = ["", "..", "../../x", "/abs", "nul\0", "line\nbreak", "a", "a/b", "%2f", "\ud800", "é"]
    tags = [*odd, "x" * 5000, "x" * 5001]
    target = opened(tmp_path / "runs")
    make = Maker(file="/logs/events.out.tfevents.1")
    target.write([make.embedding(tag, 1) for tag in tags])
    found = list(Path(target.handle).rglob("tensors.tsv"))
    assert len(found) == len(tags)
    assert all(len(path.relative_to(target.handle).parts) == 3 for path in found)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    reader = TensorBoardReader(tmp_path / "runs")
    assert all(len(reader.embeddings("", tag)) == 1 for tag in tags if tag != "\ud800")


def samples_shown(run: Path) -> dict[str, list[int]]:
    """Return tag -> steps of the images that TensorBoard shows: it is asked by its own loader."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    multiplexer = EventMultiplexer().AddRun(str(run), "run")
    multiplexer.Reload()
    tags = multiplexer.PluginRunToTagToContent("images").get("run", {})
    return {tag: [event.step for event in multiplexer.Tensors("run", tag)] for tag in tags}


def test_video_that_tensorboard_wrote_empty(tmp_path: Path) -> None:
    """An empty video record is followed by the GIF under the same tag, step and time, and TensorBoard shows it; a full
    one is left alone."""
    from tensorboard.compat.proto import event_pb2, summary_pb2

    make = Maker(file="/logs/events.out.tfevents.1")
    event = make.video("v", 3)
    empty = event_pb2.Event(step=3, wall_time=WALL, summary=summary_pb2.Summary(value=[{"tag": "v"}]))
    full = event_pb2.Event(
        step=4, wall_time=WALL,
        summary=summary_pb2.Summary(value=[{"tag": "v", "image": {"encoded_image_string": event.data}}]),
    )  # fmt: skip
    videos = [
        msgspec.structs.replace(event, source=empty.SerializeToString()),
        msgspec.structs.replace(make.video("v", 4), source=full.SerializeToString(), step=4),
    ]
    target = opened(tmp_path)
    target.write(videos)
    reader = TensorBoardReader(tmp_path)
    found = reader.videos("", "v")
    assert [step for step, _ in found] == [3, 4]
    assert all(np.array_equal(frames, gif_frames(event.data)) for _, frames in found)
    times = [proto.wall_time for proto in reader.events(Path(target.handle)) if proto.summary.value]
    assert times == [WALL] * 4
    assert samples_shown(Path(target.handle)) == {"v": [3, 4]}

    again = backend(tmp_path)
    again.open(run_info(resume=target.handle))
    again.write(videos)
    assert len(reader.videos("", "v")) == 2


def test_events_without_a_record_become_files(tmp_path: Path) -> None:
    """No event type is dropped, even if an event carries no record. The embedding has files of its own, and the parameters are
    those of the run."""
    target = opened(tmp_path)
    events = Maker().one_of_each()
    target.write(events)
    assert target.written == len(events)
    kept = {path.split("/")[1] for path in tree(Path(target.handle)) if path.startswith("tracelet-files/")}
    assert len(kept) == len(events) - 2
    about = json.loads((Path(target.handle) / "run.json").read_text())
    assert (about["status"], about["config"]) == ("running", {"lr": 0.1, "bs": 32, "opt": "adam", "amp": True})
