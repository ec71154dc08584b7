"""What is logged through a session itself, in the log of the real SDK, offline."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.backends.wandb.reader import WandbReader, _log_records
from tests.backends.wandb.test_wandb import directory, session  # noqa: F401
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.faults.conftest import Train
from tests.faults.harness import eventually
from tests.sample_events import WALL, Maker, run_info
from tests.servers.fixtures import Serve
from tests.servers.harness import Server
from tests.test_system_metrics import scalars
from tracelet_shim import events as ev
from tracelet_shim.backends.wandb.backend import WandbBackend
from tracelet_shim.backends.wandb.links import Target

pytestmark = pytest.mark.usefixtures("directory")


def records(place: Path, kind: str) -> list[Any]:
    """Return the records of a type in all logs."""
    logs = [log for log in sorted(place.glob("wandb/*run-*/run-*.wandb")) if not log.parent.is_symlink()]
    return [getattr(record, kind) for log in logs for record in _log_records(log) if record.WhichOneof("record_type") == kind]


def test_artifacts(tmp_path: Path) -> None:
    """Each is an Artifact of its type, with its files as they were, and its aliases; a model is one of type model."""
    make = Maker()
    data = make.artifact("my data", folder=True, aliases=("best", "v1"))
    model = msgspec.structs.replace(make.model("net"), category="model")
    session(lambda backend: backend.write([data, model, make.artifact("sample_events.py")]))
    found = records(tmp_path / "w", "artifact")
    assert [(record.name, record.type) for record in found] == [
        ("my_x20_data", "dataset"), ("net", "model"), ("sample_events.py", "dataset"),
    ]  # fmt: skip
    assert set(found[0].aliases) >= {"best", "_x76_1"}
    for record, event in zip(found, (data, model), strict=False):
        held = {entry.path: Path(entry.local_path) for entry in record.manifest.contents}
        assert sorted(held) == ["launch.py", "sample_events.py"]
        for file in event.files:
            content = held[file.path.rpartition("/")[2]].read_bytes()
            assert hashlib.sha256(content).hexdigest() == file.sha256


def odd(make: Maker) -> ev.Artifact:
    """An artifact whose name, and names of files, W&B does not take."""
    made = make.artifact("ü ä.txt", folder=True)
    names = ("a:b?.txt", "deep/x\\y\x01.txt")
    files = tuple(msgspec.structs.replace(file, path=f"ü ä.txt/{name}") for file, name in zip(made.files, names, strict=True))
    return msgspec.structs.replace(made, files=files, category="wandb-a/b")


def test_odd_names(tmp_path: Path) -> None:
    """What W&B does not take is escaped, and stands whole in the metadata; nothing is refused."""
    event = odd(Maker())
    session(lambda backend: backend.write([event]))
    (record,) = records(tmp_path / "w", "artifact")
    assert (record.name, record.type) == ("_xfc__x20__xe4_.txt", "_x77_andb-a_x2f_b")
    escaped = {"a_x3a_b?.txt": "a:b?.txt", "deep/x_x5c_y_x1_.txt": "deep/x\\y\x01.txt"}
    assert {entry.path for entry in record.manifest.contents} == set(escaped)
    assert json.loads(record.metadata) == {"tracelet": {"name": "ü ä.txt", "files": escaped}}


def test_a_table(tmp_path: Path) -> None:
    """It is a Table with each cell as it was; a long one is cut, and there as a file."""
    make = Maker()
    event = make.table("tab", 3)
    long = msgspec.structs.replace(event, tag="long", rows=event.rows * 4000)
    session(lambda backend: backend.write([event, long]))
    (run,) = WandbReader(tmp_path / "w").runs().values()
    shown = {key: value for row, _ in run.rows for key, value in row.items() if key in ("tab", "long")}
    tables = {key: json.loads((run.folders[0] / value["path"]).read_text()) for key, value in shown.items()}
    assert tables["tab"]["columns"] == list(event.columns)
    assert tables["tab"]["data"][0] == [1, 0.1, "a|b", True]
    assert tables["tab"]["data"][2] == [None, -1e300, "é", None]
    assert len(tables["long"]["data"]) == 10_000
    assert len(list(run.folders[0].glob("tables/long/*.csv"))) == 1


def test_tags_and_alerts(tmp_path: Path) -> None:
    """A tag that comes again has the new value; an alert is one of W&B's."""
    make = Maker()
    events = [make.tags(stage="try", label=""), make.tags(stage="done"), make.alert("t" * 70), make.alert("odd", level="error")]
    session(lambda backend: backend.write(events), tags={"mine": "1"})
    (run,) = WandbReader(tmp_path / "w").runs().values()
    assert set(run.record.tags) == {"mine=1", "stage=done", "label"}
    assert run.about["tags"] == {"mine": "1", "stage": "done", "label": ""}
    first, second = records(tmp_path / "w", "alert")
    assert (first.title, first.level, first.text) == ("t" * 64, "WARN", f"{'t' * 70}\n\nloss is **NaN**")
    assert (second.title, second.level, second.text) == ("odd", "ERROR", "loss is **NaN**")


def test_no_registry_offline() -> None:
    """The model is there with its aliases, and that it is not linked is said, once."""
    make, said = Maker(), []

    def log(backend: WandbBackend) -> None:
        backend.write([make.model("net", register_as="nets", aliases=("prod",)), make.model("net", register_as="nets")])
        said.append(dict(backend.take_notices()))

    session(log)
    ((kind, text),) = said[0].items()
    assert kind == "registry"
    assert text.startswith("a model is an artifact with its aliases, but not linked to wandb-registry-model/nets: W&B links")


@pytest.mark.parametrize(
    ("register_as", "registry", "target"),
    [
        ("nets", None, ("nets", "wandb-registry-model", None)), ("my nets", "team", ("my_x20_nets", "wandb-registry-team", None)),
        ("nets", "wandb-registry-team", ("nets", "wandb-registry-team", None)), ("mine/best", "team", ("best", "mine", None)),
        ("org/wandb-registry-x/nets", None, ("nets", "wandb-registry-x", "org")), ("e/p/n", None, ("n", "p", "e")),
    ],
)  # fmt: skip
def test_where_models_are_registered(register_as: str, registry: str | None, target: tuple[str, str, str | None]) -> None:
    """A plain name is one in the registry of the option; else it is a path, as W&B has them."""
    assert Target.of(register_as, registry) == target


SAMPLES = "/logs/.tracelet/system/1.host.2.x.0.tracelet-records"
NAMES = ("cpu.percent", "process.memory.mb", "gpu.0.celsius")


def samples() -> list[ev.Scalar]:
    """Three samples of three values each."""
    make = Maker("system", SAMPLES)
    return [make.scalar(tag, at + n / 8, at, WALL + at) for at in range(3) for n, tag in enumerate(NAMES)]


def held(records: list[Any]) -> list[tuple[float, str, float]]:
    """Return (time, name, value) of all samples in records of W&B's monitor."""
    values = [(record.timestamp, item) for record in records for item in record.item]
    return sorted((time.ToNanoseconds() / 1e9, item.key, json.loads(item.value_json)) for time, item in values)


EXPECTED = sorted((WALL + at, name, at + n / 8) for at in range(3) for n, name in enumerate(NAMES))


def test_system_metrics(tmp_path: Path) -> None:
    """They are samples of W&B's monitor, at their true times, each once, though some come again behind a kill; a writer that is
    called like theirs is a writer."""
    every = samples()
    writer = Maker("system", "/logs/system/events.out.tfevents.1").scalar("cpu.percent", 1.0, 1)
    session(lambda backend: backend.write([*every[:5], writer, every[5]]), resume="again")
    session(lambda backend: [backend.write(every[2:7]), backend.write(every[7:])], resume="again")
    assert held(records(tmp_path / "w", "stats")) == EXPECTED
    (run,) = WandbReader(tmp_path / "w").runs().values()
    assert [row["system/cpu.percent"] for row, _ in run.rows if "system/cpu.percent" in row] == [1.0]


def test_system_metrics_beside_the_monitor(tmp_path: Path) -> None:
    """Where the user has switched W&B's own monitor on, they are rows."""
    session(lambda backend: backend.write(samples()), options={"settings": {"x_disable_stats": False}})
    (run,) = WandbReader(tmp_path / "w").runs().values()
    assert [row["system/cpu.percent"] for row, _ in run.rows if "system/cpu.percent" in row] == [0.0, 1.0, 2.0]
    assert not [item.key for record in records(tmp_path / "w", "stats") for item in record.item if item.key in NAMES]


# -- at a server ----------------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal
import tracelet_shim as tracelet
session = tracelet.start_logging("wandb", project="own", strict=True, exit_timeout=120, delivery={hosting!r})
def model(content, **how):
    open("w.pt", "w").write(content)
    session.log_model("w.pt", "net", **how)
model("first", register_as="nets", aliases=["prod"])
session.alert("before", "the end", "error")
assert session.flush(60)
if {hosting!r} == "process":
    os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
model("second", register_as="nets", aliases=["prod", "best"])
model("second", register_as="own/portfolio")
model("third", register_as="wandb-registry-nowhere/nets")
session.log_artifact("w.pt", "data", aliases=["mine"])
session.log_table("tab", [[n, n / 7] for n in range(10_001)])
session.set_tags({{"stage": "try", "label": ""}})
session.set_summary({{"best": 0.9}})
"""


def contents(server: Server, artifact: str, name: str = "w.pt") -> str:
    return (server.directory / "files" / "artifacts" / artifact / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_the_whole_way(run_python: RunPython, serve: Serve, hosting: str) -> None:
    """A program's calls arrive once, whichever process hosts the tracker, and though a relay is killed meanwhile; what no
    registry takes is said once, and is no error."""
    server = serve("wandb")
    env = {name: value for name, value in server.env.items() if value is not None}
    done = run_python(PROGRAM.format(hosting=hosting), env={**env, "WANDB_MODE": "online"})
    assert done.stderr.count("not linked to wandb-registry-nowhere/nets: W&B's server answers 404") == 1
    state, run = server.state, server.run()
    models = {number: made for number, made in state["artifacts"].items() if made["name"] == "net"}
    assert [(made["type"], made["state"]) for made in models.values()] == [("model", "COMMITTED")] * 3
    assert [contents(server, number) for number in models] == ["first", "second", "third"]
    first, second, _ = models
    assert state["links"] == {
        "org-entity/wandb-registry-model/nets": {"versions": [first, second], "aliases": {"prod": second, "best": second}},
        "standin/own/portfolio": {"versions": [second], "aliases": {}},
    }
    (data,) = [made for made in state["artifacts"].values() if made["name"] == "data"]
    assert (data["type"], data["aliases"]) == ("artifact", ["latest", "mine"])
    assert [alert["title"] for alert in state["alerts"]] == ["before"]
    assert set(run["tags"]) == {"stage=try", "label"}
    rows = [json.loads(line) for line in run["history"].values()]
    assert [row["best"] for row in rows if "best" in row] == [0.9]
    (shown,) = [row["tab"] for row in rows if "tab" in row]
    assert shown["nrows"] == 10_000
    whole = [name for name in run["files"] if name.startswith("tables/tab/")]
    assert sorted(Path(name).suffix for name in whole) == [".csv", ".json"]
    (csv,) = [name for name in whole if name.endswith(".csv")]
    key = next(iter(state["runs"]))
    assert len((server.directory / "files" / "runs" / key / csv).read_text().splitlines()) == 10_002
    server.check_understood()


def test_a_link_that_passes_later(train: Train, serve: Serve) -> None:
    """The server answers nothing but errors for a while: the model is pending, and then it is linked, once."""
    server = serve("wandb")
    code = """
session = begin("wandb", exit_timeout=120, strict=True)
log(0, 10)
reach("first"); wait_for("ill")
open("w.pt", "w").write("weights")
session.log_model("w.pt", "net", register_as="nets", aliases=["prod"])
reach("second"); wait_for("well")
"""
    program = train(code, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(10)
    server.misbehave("500", "^/graphql", body="html")
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(3, "^/graphql", "500")
    assert server.state["links"] == {}
    server.recover()
    program.go("well")
    said = program.end(10)
    assert "not linked" not in said
    (linked,) = server.state["links"].values()
    (model,) = server.state["artifacts"]
    assert linked == {"versions": [model], "aliases": {"prod": model}}
    server.check_understood()


USING = """
import pathlib
import tracelet_shim as tracelet
session = tracelet.start_logging("wandb", project="own", strict=True, exit_timeout=120, delivery={hosting!r})
for content in ("first", "second"):
    pathlib.Path("my data.txt").write_text(content)
    session.log_artifact("my data.txt", aliases=[content])
    session.log_model("my data.txt", "net", register_as="nets", aliases=[content])
assert session.flush(60)
names = ("my data.txt", "my_x20_data.txt:v0", "own/net:first", "standin/own/net", "org/wandb-registry-model/nets:first")
for name in names:
    path = session.use_artifact(name, from_="wandb")
    print(name, "=", *((f.name, f.read_text()) for f in ([path] if path.is_file() else sorted(path.iterdir()))))
assert session.use_artifact("my data.txt").read_text() == "second"
pathlib.Path("ü ä").mkdir()
for name in ("a:b?.txt", "x\\\\y"):
    pathlib.Path("ü ä", name).write_text(name)
session.log_artifact("ü ä")
pathlib.Path("c:d").write_text("alone")
session.log_artifact("c:d")
assert session.flush(60)
print([(f.name, f.read_text()) for f in sorted(session.use_artifact("ü ä", from_="wandb").iterdir())])
print(session.use_artifact("c:d", from_="wandb").read_text())
try:
    session.use_artifact("nothing", from_="wandb")
except tracelet.ArtifactError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_artifacts_are_given_back(run_python: RunPython, serve: Serve, hosting: str) -> None:
    """By the name that they were logged by, or W&B's path, also of a registry; and they are inputs of the run, once each."""
    server = serve("wandb")
    env = {name: value for name, value in server.env.items() if value is not None}
    done = run_python(USING.format(hosting=hosting), env={**env, "WANDB_MODE": "online"})
    assert [line for line in done.stdout.splitlines() if " = " in line] == [
        "my data.txt = ('my data.txt', 'second')", "my_x20_data.txt:v0 = ('my data.txt', 'first')",
        "own/net:first = ('my data.txt', 'first')", "standin/own/net = ('my data.txt', 'second')",
        "org/wandb-registry-model/nets:first = ('my data.txt', 'first')",
    ]  # fmt: skip
    assert "there is no artifact 'nothing' in the project 'own'" in done.stdout
    assert done.stdout.splitlines()[5:7] == [str([("a:b?.txt", "a:b?.txt"), ("x\\y", "x\\y")]), "alone"]
    state, run = server.state, server.run()
    named = {(made["name"], alias): number for number, made in state["artifacts"].items() for alias in made["aliases"]}
    numbers = {key: number for key, number in named.items() if key[1] != "latest"}
    used = [numbers[name, content] for name in ("my_x20_data.txt", "net") for content in ("first", "second")]
    others = [number for number, made in state["artifacts"].items() if made["name"] in ("_xfc__x20__xe4_", "c_x3a_d")]
    assert sorted(run["used"]) == sorted(used + others)
    about = {key.removeprefix("tracelet/used/"): each["value"] for key, each in run["config"].items() if "tracelet/used/" in key}
    assert about["standin/own/net"]["identity"] == "standin/own/net:v1"
    assert about["org/wandb-registry-model/nets:first"]["identity"] == "org-entity/wandb-registry-model/nets:v0"
    assert (about["my data.txt"]["from"], about["my_x20_data.txt:v0"]["from"]) == ("", "wandb")
    server.check_understood()


def test_nothing_is_given_back_offline() -> None:
    """The reason is said without asking anybody."""
    assert WandbBackend.cannot_fetch({"mode": "offline"}, run_info()) == "W&B gives no artifact back offline"


MEASURED = """
session = begin("wandb", exit_timeout=120, strict=True, system_metrics=0.1)
log(0, 10)
reach("first"); wait_for("then")
log(10, 20)
reach("second"); wait_for("end")
"""


def sampled(server: Server) -> list[tuple[float, str]]:
    """Return (time, name) of all system metrics that the server has of the run."""
    lines = [json.loads(line) for line in server.run()["events"].values()]
    return [(line["_timestamp"], key) for line in lines for key in line if key.startswith("system.")]


@pytest.mark.parametrize("late", [False, True])
def test_samples_behind_a_kill(train: Train, serve: Serve, late: bool) -> None:
    """The relay is killed with samples on their way, which its successor has again: each is there once, all of those that were
    written down are there, and none in the rows; also where the server counts some seconds late."""
    server = serve("wandb")
    if late:
        (server.directory / "late").write_text("3")
    program = train(MEASURED, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(10)
    eventually(lambda: len(sampled(server)) >= 20, 60)
    server.misbehave("hang")
    server.wait_for_requests(1, fault="hang")
    for pid in program.relays:
        os.kill(pid, signal.SIGKILL)
    server.recover()
    program.go("then")
    program.wait_for("second")
    before = len(sampled(server))
    eventually(lambda: len(sampled(server)) >= before + 20, 120)
    program.go("end")
    said = program.end(20)
    assert "not delivered" not in said
    found = sampled(server)
    assert len(found) == len(set(found))
    written = [tag for tag, _ in scalars(program.directory / "runs" / "x" / ".tracelet" / "system")]
    assert Counter(name.removeprefix("system.") for _, name in found) == Counter(written)
    assert server.run()["overwritten"] == 0
    assert {key for row in map(json.loads, server.run()["history"].values()) for key in row if key.startswith("system")} == set()
    server.check_understood()
