"""What is logged through a session itself, in the real store: of this machine, and of a server."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.backends.trackio.live import TrackioServer
from tests.backends.trackio.reader import TrackioReader
from tests.backends.trackio.test_trackio import home  # noqa: F401 - a fixture
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.sample_events import WALL, Maker, run_info
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Fetched, NoSuchArtifactError
from tracelet_shim.backends.trackio.backend import TrackioBackend

SAMPLES = "/logs/.tracelet/system/1.host.2.x.0.tracelet-records"
Place = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module", params=["here", "server"])
def place(
    request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory  # noqa: F811
) -> Iterator[Place]:
    """Return where the store is, and the options for it."""
    if request.param == "here":
        yield home, {}
        return
    server = TrackioServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server.store, {"server_url": server.url}
    server.close()


def test_each_is_there_once(place: Place) -> None:
    """Tables, artifacts, models, tags and alerts are there, also if they come twice."""
    directory, options = place
    backend = TrackioBackend(options)
    backend.open(run_info(session="00000000000000aa", project="own-forms", tags={"stage": "first"}))
    make = Maker()
    table, data = make.table("tab", 3), make.artifact("my data", folder=True, aliases=("best",))
    events = [table, data, make.model("net"), make.tags(stage="done"), make.alert("odd")]
    backend.write(events)
    backend.write(events[:2] + events[4:])
    backend.close("finished")

    reader = TrackioReader(directory, "00000000000000aa")
    (row,) = [stored["tab"] for text in reader.query("SELECT metrics FROM metrics") if "tab" in (stored := json.loads(text[0]))]
    assert row["_type"] == "trackio.table"
    assert row["_value"][0] == {"n": 1, "value": 0.1, "te|xt": "a|b", "ok": True}
    assert len(reader.artifacts("table")) == 1
    sql = (
        "SELECT a.name, a.type, v.manifest FROM artifact_versions v JOIN artifacts a ON a.id = v.artifact_id"
        " WHERE a.type = 'dataset' ORDER BY v.id"
    )
    found = reader.query(sql)
    assert [(name, kind) for name, kind, _ in found] == [("my_x20_data", "dataset"), ("net", "dataset")]
    held = {entry["path"]: entry["digest"] for entry in json.loads(found[0][2])}
    assert held == {file.path.removeprefix("my data/"): file.sha256 for file in data.files}
    contents = dict(reader.artifacts("dataset")[0][1])
    assert contents["launch.py"] == Path(data.files[1].at).read_bytes()
    assert reader.query("SELECT alias FROM artifact_aliases WHERE alias != 'latest'") == [("best",)]
    assert reader.config()["tracelet/tag/stage"] == "done"
    assert reader.query("SELECT title, text, level FROM alerts") == [("odd", "loss is **NaN**", "warn")]


# -- the registry ---------------------------------------------------------------------------------------------------------------


def model(make: Maker, register_as: str, *aliases: str, files: int = 2) -> ev.Model:
    made = make.model("net", register_as=register_as, aliases=aliases)
    return msgspec.structs.replace(made, category="model", files=made.files[:files])


def links(directory: Path, registry: str) -> list[tuple[str, int, str, str, int]]:
    """Return (collection, version, source's project, artifact, version) of all links in a registry."""
    with sqlite3.connect(directory / "trackio" / f"registry-{registry}.db") as db:
        return db.execute(
            "SELECT c.name, l.collection_version, l.source_project, l.source_artifact, l.source_version FROM collection_links l"
            " JOIN collections c ON c.id = l.collection_id ORDER BY c.name, l.collection_version"
        ).fetchall()


def aliases(directory: Path, registry: str) -> dict[str, int]:
    """Return the version of each alias."""
    with sqlite3.connect(directory / "trackio" / f"registry-{registry}.db") as db:
        return dict(db.execute(
            "SELECT a.alias, l.collection_version FROM collection_aliases a JOIN collection_links l ON l.id = a.link_id"
        ).fetchall())  # fmt: skip


def test_models_are_linked(home: Path) -> None:  # noqa: F811
    """Into the registry of the option, or that which is named; once each, with aliases that move; and Trackio resolves them. Into
    one that does not exist nothing is linked, which is said, and the files are there."""
    import trackio

    trackio.Api().create_registry("models")
    trackio.Api().create_registry("other")
    make = Maker()
    first, second = model(make, "my nets", "prod"), model(make, "my nets", "prod", "é", files=1)
    named, nowhere = model(make, "registry-other/nets"), model(make, "nowhere/nets")
    backend = TrackioBackend()
    backend.open(run_info(session="00000000000000ab", project="linked"))
    backend.write([first, second])
    assert backend.take_notices() == {}
    backend.write([named, nowhere])
    ((kind, said),) = backend.take_notices().items()
    assert kind == "registry"
    assert "Registry 'nowhere' does not exist. Create it first with trackio.Api().create_registry('nowhere')" in said
    backend.write([second, named, nowhere])
    assert backend.take_notices() == {}, "once"
    backend.close("finished")
    assert links(home, "models") == [("my_x20_nets", 0, "linked", "net", 0), ("my_x20_nets", 1, "linked", "net", 1)]
    assert aliases(home, "models") == {"prod": 1, "_xe9_": 1, "latest": 1}
    assert links(home, "other") == [("nets", 0, "linked", "net", 0)]
    assert not (home / "trackio" / "registry-nowhere.db").exists()
    reader = TrackioReader(home, "00000000000000ab")
    assert [len(files) for _, files in reader.artifacts("model")] == [2, 1]


def test_a_server_has_no_registry(tmp_path: Path) -> None:
    """That is said once, and the files are there."""
    server = TrackioServer(tmp_path)
    server.start()
    try:
        backend = TrackioBackend({"server_url": server.url})
        backend.open(run_info(session="00000000000000ac", project="served"))
        make = Maker()
        backend.write([model(make, "nets"), model(make, "nets", files=1)])
        assert list(backend.take_notices()) == ["registry"]
        backend.close("finished")
        assert [len(files) for _, files in TrackioReader(server.store, "00000000000000ac").artifacts("model")] == [2, 1]
    finally:
        server.close()


# -- the system's page ----------------------------------------------------------------------------------------------------------


def samples(file: str = SAMPLES) -> list[ev.Scalar]:
    """Three samples of four values each."""
    make = Maker("system", file)
    tags = ("cpu.percent", "process.memory.mb", "gpu.0.percent", "gpu.0.memory.mb")
    return [make.scalar(tag, at + n / 8, at, WALL + at) for at in range(3) for n, tag in enumerate(tags)]


NAMES = ("cpu/percent", "process/memory.mb", "gpu/0/percent", "gpu/0/memory.mb")


def test_system_metrics(place: Place) -> None:
    """They are on the page for them, each once, however their batches are cut when they come again, and at their true times; a
    writer that is called like theirs is a writer."""
    directory, options = place
    about: dict[str, Any] = {"session": "00000000000000ad", "project": "sampled"}
    backend = TrackioBackend(options)
    backend.open(run_info(**about))
    every = samples()
    backend.write([*every[:6], Maker("system", "/logs/system/events.out.tfevents.1").scalar("cpu.percent", 1.0, 1)])
    again = TrackioBackend(options)  # the first one's process was killed
    again.open(run_info(**about))
    again.write(every[2:9])
    again.write(every[9:])
    again.close("finished")
    reader = TrackioReader(directory, "00000000000000ad")
    rows = reader.query("SELECT timestamp, metrics FROM system_metrics ORDER BY id")
    points = [(when[17:19], name, value) for when, metrics in rows for name, value in json.loads(metrics).items()]
    assert sorted(points) == sorted((f"{20 + at}", name, at + n / 8) for at in range(3) for n, name in enumerate(NAMES))
    assert len(rows) == (12 if options else 5)
    scalars = [json.loads(text) for (text,) in reader.query("SELECT metrics FROM metrics")]
    assert [row["system/cpu.percent"] for row in scalars if "system/cpu.percent" in row] == [1.0]


PROGRAM = """
import os, signal, time, sqlite3, sys
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
import trackio
trackio.Api().create_registry("models")

def wait(samples):
    # until Trackio has so many; counted, not timed
    count = 0
    while count < samples:
        time.sleep(0.05)
        with sqlite3.connect(os.environ["TRACKIO_DIR"] + "/sampled.db") as db:
            if db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'system_metrics'").fetchone()[0]:
                count = db.execute("SELECT COUNT(*) FROM system_metrics").fetchone()[0]

session = tracelet.start_logging("trackio", project="sampled", strict=True, system_metrics=0.1, delivery={hosting!r})
writer = SummaryWriter("runs/x")
writer.add_scalar("loss", 0.5, 1)
open("w.pt", "w").write("first")
session.log_model("w.pt", "net", register_as="nets", aliases=["prod"])
assert session.flush(60)
wait(3)
if {hosting!r} == "process":
    os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
open("w.pt", "w").write("second")
session.log_model("w.pt", "net", register_as="nets", aliases=["prod"])
session.log_model("w.pt", "net", register_as="nowhere/nets")
writer.add_scalar("loss", 0.5, 2)
assert session.flush(60)
wait(8)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_the_whole_way(run_python: RunPython, tmp_path: Path, hosting: str) -> None:
    """Models and samples arrive once, whichever process hosts the tracker, and though a relay is killed meanwhile; what no
    registry takes is said once, and is no error."""
    done = run_python(PROGRAM.format(hosting=hosting), env=TrackioReader.environment(tmp_path))
    assert done.stderr.count("a model is an artifact, but in no registry: Registry 'nowhere' does not exist") == 1
    assert links(tmp_path, "models") == [("nets", 0, "sampled", "net", 0), ("nets", 1, "sampled", "net", 1)]
    assert aliases(tmp_path, "models") == {"prod": 1, "latest": 1}
    reader = TrackioReader(tmp_path)
    rows = reader.query("SELECT timestamp, metrics FROM system_metrics ORDER BY id")
    points = [(when, name) for when, metrics in rows for name in json.loads(metrics)]
    assert len(points) == len(set(points))
    assert {name for _, name in points} >= {"cpu/percent", "memory/percent", "process/memory.mb"}
    keys = {key for (text,) in reader.query("SELECT metrics FROM metrics") for key in json.loads(text)}
    assert keys == {"loss"}


# -- artifacts that it gives back -----------------------------------------------------------------------------------------------


def ask(directory: Path, name: str, options: dict[str, Any], project: str = "given") -> Fetched:
    """Ask as `Session.use_artifact` does."""
    directory.mkdir()
    program = msgspec.structs.replace(run_info().program, pid=os.getpid())
    return TrackioBackend.fetch(options, run_info(project=project, program=program), name, str(directory))


def test_artifacts_are_given_back(place: Place, tmp_path: Path) -> None:
    """By the name that they were logged by, or Trackio's; the run that used one has it as an input, once; and of what another
    tracker gave, its config says so."""
    directory, options = place
    make = Maker()
    data, file = make.artifact("my data", folder=True, aliases=("best",)), make.artifact("last.py")
    second = msgspec.structs.replace(data, files=data.files[:1], record=make.artifact("x").record, aliases=())
    backend = TrackioBackend(options)
    backend.open(run_info(session="00000000000000ae", project="given"))
    backend.write([data, file, second])
    got = ask(tmp_path / "1", "my data", options)
    assert got.identity == "given/my_x20_data:v1"
    assert [path.name for path in Path(got.path).iterdir()] == ["sample_events.py"]
    for number, name in enumerate(("my_x20_data:best", "given/my_x20_data:v0", "given/my_x20_data:best"), 2):
        old = ask(tmp_path / str(number), name, options, "given" if number == 2 else "elsewhere")
        assert old.identity == "given/my_x20_data:v0"
        assert (Path(old.path) / "launch.py").read_bytes() == Path(data.files[1].at).read_bytes()
    alone = ask(tmp_path / "file", "last.py", options)
    assert Path(alone.path).read_bytes() == Path(file.files[0].at).read_bytes()
    odd = make.artifact("ü ä", folder=True)
    names = ("a:b?.txt", "x\\y\x01.txt")
    files = tuple(msgspec.structs.replace(file, path=f"ü ä/{name}") for file, name in zip(odd.files, names, strict=True))
    backend.write([msgspec.structs.replace(odd, files=files)])
    restored = ask(tmp_path / "odd", "ü ä", options)
    assert {path.name: path.read_bytes() for path in Path(restored.path).iterdir()} == {
        name: Path(file.at).read_bytes() for name, file in zip(names, files, strict=True)
    }
    for number, name in enumerate(("nothing", "my data:v9", "my_x20_data:v9", "nowhere/my_x20_data", "../../etc/passwd"), 10):
        with pytest.raises(NoSuchArtifactError, match="there is no artifact"):
            ask(tmp_path / str(number), name, options)

    own = msgspec.structs.replace(make.used("last.py", tracker="", identity=""), digest=file.files[0].sha256)
    changed = make.used("last.py", tracker="", identity="")
    uses = [make.used("my data", tracker="trackio", identity=old.identity), own, make.used("else", tracker="mlflow"), changed]
    backend.write(uses)
    backend.write(uses)
    backend.close("finished")
    reader = TrackioReader(directory, "00000000000000ae")
    sql = (
        "SELECT a.name, v.version FROM run_artifact_links l JOIN artifact_versions v ON v.id = l.artifact_version_id"
        " JOIN artifacts a ON a.id = v.artifact_id WHERE l.direction = 'input' AND l.run_id = '00000000000000ae' ORDER BY a.name"
    )
    assert reader.query(sql) == [("last.py", 0), ("my_x20_data", 0)]
    config = reader.config()
    assert config["tracelet/used/else"]["from"] == "mlflow"
    assert config["tracelet/used/last.py"]["sha256"] == "0" * 64


def test_a_registered_model_is_given_back(home: Path, tmp_path: Path) -> None:  # noqa: F811
    """By its place in the registry, with an alias or a version."""
    import trackio

    trackio.Api().create_registry("given")
    make = Maker()
    backend = TrackioBackend({"registry": "given"})
    backend.open(run_info(session="00000000000000af", project="registered"))
    backend.write([model(make, "nets", "prod"), model(make, "nets", files=1)])
    backend.close("finished")
    for number, (name, version) in enumerate((("nets", 1), ("nets:prod", 0), ("nets:v0", 0))):
        got = ask(tmp_path / str(number), f"registry-given/{name}", {})
        assert got.identity == f"registered/net:v{version}"
        assert len(list(Path(got.path).iterdir())) == 2 - version
    with pytest.raises(NoSuchArtifactError):
        ask(tmp_path / "none", "registry-given/nets:other", {})
