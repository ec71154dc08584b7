"""What is logged through a session itself, in an offline session of the real SDK, and at a server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.backends.clearml.reader import ClearMLReader
from tests.backends.clearml.test_clearml import in_thread, reader, write
from tests.backends.clearml.test_online import backend_for
from tests.backends.clearml.test_online import write as write_online
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.faults.harness import environment
from tests.sample_events import WALL, Maker, run_info
from tests.servers.fixtures import Serve
from tests.servers.harness import Server
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.clearml.backend import ClearMLBackend

SAMPLES = "/logs/.tracelet/system/1.host.2.x.0.tracelet-records"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ClearMLReader]:
    for name, value in ClearMLReader.environment(tmp_path / "store").items():
        monkeypatch.setenv(name, value)
    return lambda: reader(tmp_path)


def test_tables_and_tags(offline: Callable[[], ClearMLReader]) -> None:
    """A table is a plot of its kind, a very large one a file; labels are tags, and tags with values properties."""
    make = Maker()
    table = make.table("tab", 3)
    large = msgspec.structs.replace(make.table("large"), rows=table.rows * 100_000)
    write([table, large, make.tags(stage="try", label=""), make.tags(stage="done")], tags={"mine": "1", "bare": ""})
    found = offline().session()
    check_table([event for event in found.events() if event["type"] == "plot"])
    assert [event for event in found.events() if event["type"] == "training_debug_image" and "large" in event["metric"]]
    assert set(found.task["tags"]) >= {"label", "bare"}
    properties = found.section("properties")
    assert (properties["stage"], properties["mine"]) == ("done", "1")


def check_table(plots: list[dict[str, Any]]) -> None:
    traces = [trace for plot in plots for trace in json.loads(plot["plot_str"])["data"]]
    (shown,) = [trace for trace in traces if trace["type"] == "table"]
    assert shown["header"]["values"] == ["n", "value", "te|xt", "ok"]
    assert shown["cells"]["values"] == [
        [1, 2**40, None], [0.1, "nan", -1e300], ["a|b", 'x,"y"\n<i>', "é"], [True, False, None],
    ]  # fmt: skip


def alerts(make: Maker) -> list[ev.Event]:
    """Three, of which two are alike at one time, and one has a text only."""
    first = make.alert("odd", level="error")
    return [first, msgspec.structs.replace(make.alert("odd", level="error"), text=first.text), make.alert("only")]


LINES = [("error", "error: odd: loss is **NaN**")] * 2 + [("warning", "warning: only: loss is **NaN**")]


def test_alerts_offline(offline: Callable[[], ClearMLReader]) -> None:
    """Each is a line of the console: once, also if its process was killed behind the write of the first two."""
    events = alerts(Maker())

    def killed() -> None:
        backend = ClearMLBackend()
        backend.open(run_info())
        backend.write(events[:2])
        backend._undo.close()

    in_thread(killed)
    write(events)
    lines = [event for event in offline().session().events() if event["type"] == "log"]
    assert [(line["level"], line["msg"]) for line in lines] == LINES
    assert {line["timestamp"] for line in lines} == {round(WALL * 1000)}


def test_models_offline(offline: Callable[[], ClearMLReader], tmp_path: Path) -> None:
    """The SDK makes no model there, so its files are artifacts; the day that it can make one, this fails."""
    write([Maker().model("net")])
    found = offline().session()
    assert {artifact["key"] for artifact in found.task["execution"]["artifacts"]} == {"net/sample_events.py", "net/launch.py"}
    assert found.task["offline_output_models"] == []
    (tmp_path / "weights.pt").write_text("w")
    program = """
from clearml import OutputModel, Task
task = Task._create(project_name="p", task_name="n", task_type=Task.TaskTypes.training)
try:
    OutputModel(task, name="net").update_weights("weights.pt", auto_delete_file=False)
except AttributeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(ClearMLReader.environment(tmp_path / "other")),
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "'DummyModel' object has no attribute 'locked'"


def test_system_metrics_offline(offline: Callable[[], ClearMLReader]) -> None:
    """They have the titles of ClearML's own; those of a writer that is called like theirs are its scalars, and so is a tag."""
    make, own = Maker("system", SAMPLES), Maker("system", "/logs/system/events.out.tfevents.1")
    other = Maker("", "/logs/events.out.tfevents.1")
    write([
        make.scalar("cpu.percent", 12.5, 1), make.scalar("gpu.0.percent", 99.0, 1), own.scalar("cpu.percent", 1.0, 1),
        other.scalar(":monitor:machine/cpu.percent", 2.0, 1),
    ])  # fmt: skip
    assert [(event["metric"], event["variant"], event["value"]) for event in offline().session().events()] == [
        (":monitor:machine", "cpu.percent", 12.5), (":monitor:gpu", "gpu.0.percent", 99.0),
        ("cpu.percent", "cpu.percent · system", 1.0), ("_x3a_monitor:machine", "cpu.percent", 2.0),
    ]  # fmt: skip


# -- at a server ----------------------------------------------------------------------------------------------------------------


def everything(make: Maker) -> list[ev.Event]:
    return [
        make.table("tab", 3), make.artifact("data", folder=True), make.model("net", register_as="nets", aliases=("prod", "é")),
        make.model("net"), make.tags(stage="try", label=""), make.hparams({"lr": 0.1}, {"best": 0.9}), *alerts(make),
        Maker("system", SAMPLES).scalar("cpu.percent", 12.5, 7),
    ]  # fmt: skip


def check_everything(server: Server) -> None:
    """Check that the server has it, once, by what it keeps and by what the SDK then reads."""
    state, task = server.state, server.run()
    events = list(state["events"][task["id"]].values())
    check_table([event for event in events if event["type"] == "plot"])
    lines = [event for event in events if event["type"] == "log"]
    assert [(line["level"], line["msg"]) for line in lines] == LINES
    scalars = {(e["metric"], e["variant"], e["iter"]): e["value"] for e in events if e["type"] == "training_stats_scalar"}
    assert scalars == {("Summary", "best", -(2**31)): 0.9, (":monitor:machine", "cpu.percent", 7): 12.5}
    assert set(task["tags"]) >= {"label"}
    assert task["hyperparams"]["properties"]["stage"]["value"] == "try"
    assert sorted(artifact["key"] for artifact in task["execution"]["artifacts"]) == ["data/launch.py", "data/sample_events.py"]
    registered, plain = state["models"].values()
    assert (registered["name"], registered["tags"], registered["task"]) == ("nets", ["prod", "é"], task["id"])
    assert (plain["name"], plain["tags"], plain["task"]) == ("net", [], task["id"])
    assert [item["model"] for item in task["models"]["output"]] == [registered["id"], plain["id"]]
    assert len({registered["uri"], plain["uri"]}) == 2
    assert state["changed"] == 0
    server.check_understood()


def test_each_is_there_once(serve: Serve, tmp_path: Path) -> None:
    """Also if it comes again, since the process was killed behind the write; and the SDK gives back what it was."""
    server = serve("clearml")
    events = everything(Maker())
    run_id = write_online(server, events, end=False)
    assert write_online(server, events, resume=run_id) == run_id
    check_everything(server)
    program = f"""
import json
from clearml import Task
task = Task.get_task({run_id!r})
print(json.dumps([task.artifacts["data/launch.py"].get_local_copy(), task.models["output"]["nets"].get_local_copy()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True,
        env=environment({**server.env, "CLEARML_CACHE_DIR": str(tmp_path / "cache")}),
    )  # fmt: skip
    file, folder = map(Path, json.loads(done.stdout.splitlines()[-1]))
    here = Path(__file__).parents[2]
    assert file.read_bytes() == (here / "launch.py").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"sample_events.py", "launch.py"}
    assert (folder / "sample_events.py").read_bytes() == (here / "sample_events.py").read_bytes()


@pytest.mark.parametrize("lost", [r"models\.create$", r"tasks\.add_or_update_model$", r"events\.add_batch$", "^/$"])
def test_answers_are_lost(serve: Serve, lost: str) -> None:
    """The server has done what it was asked, and its answer is lost: what is tried again is there once."""
    server = serve("clearml")
    make = Maker()
    tries = [make.model("net"), make.alert("odd"), make.model("file.pt")]
    one_file = msgspec.structs.replace(tries[2], files=(msgspec.structs.replace(tries[2].files[0], path="file.pt"),))
    passing: list[bool] = []

    def session() -> None:
        backend = backend_for(server)
        backend.open(run_info())
        try:
            for event in (*tries[:2], one_file):
                server.misbehave("lost", lost, count=1)
                for _ in range(2):
                    try:
                        backend.write([event])
                    except (errors.BackendError, OSError) as error:
                        passing.append(backend.is_transient(error))
                    else:
                        break
                server.recover()
        finally:
            backend.close("finished")

    in_thread(session)
    assert passing
    assert all(passing)
    state = server.state
    assert [model["name"] for model in state["models"].values()] == ["net", "file.pt"]
    assert [event["msg"] for event in state["events"][server.run()["id"]].values()] == ["warning: odd: loss is **NaN**"]
    package, single = (model["uri"].removeprefix(f"{server.base}/") for model in state["models"].values())
    with zipfile.ZipFile(server.directory / "files" / package) as archive:
        assert hashlib.sha256(archive.read("launch.py")).hexdigest() == tries[0].files[1].sha256
    assert hashlib.sha256((server.directory / "files" / single).read_bytes()).hexdigest() == one_file.files[0].sha256
    server.check_understood()


PROGRAM = """
import os, signal
import tracelet_shim as tracelet
session = tracelet.start_logging("clearml", project="own forms", strict=True, exit_timeout=60, delivery={hosting!r})
open("w.pt", "w").write("first")
session.log_model("w.pt", "net", register_as="nets", aliases=["prod"])
session.alert("before", "the end", "error")
assert session.flush(60)
if {hosting!r} == "process":
    os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
open("w.pt", "w").write("second")
session.log_model("w.pt", "net")
session.log_table("tab", {{"a": [1, 2]}})
session.log_artifact("w.pt")
session.set_summary({{"best": 0.9}})
session.alert("behind", level="info")
"""


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_the_whole_way(run_python: RunPython, serve: Serve, hosting: str) -> None:
    """A program's calls arrive once, whichever process hosts the tracker, and whichever relay is killed meanwhile."""
    server = serve("clearml")
    env = {name: value for name, value in server.env.items() if value is not None}
    run_python(PROGRAM.format(hosting=hosting), env={**env, "CLEARML_OFFLINE_MODE": ""})
    state, task = server.state, server.run()
    models = list(state["models"].values())
    assert [(model["name"], model["tags"]) for model in models] == [("nets", ["prod"]), ("net", [])]
    contents = [(server.directory / "files" / model["uri"].removeprefix(f"{server.base}/")).read_text() for model in models]
    assert contents == ["first", "second"]
    events = list(state["events"][task["id"]].values())
    assert [event["msg"] for event in events if event["type"] == "log"] == ["error: before: the end", "info: behind"]
    assert len([event for event in events if event["type"] == "plot"]) == 1
    assert [(e["variant"], e["value"]) for e in events if e.get("metric") == "Summary"] == [("best", 0.9)]
    assert [a["key"] for a in task["execution"]["artifacts"] if not a["key"].startswith("code/")] == ["w.pt"]
    server.check_understood()


USING = """
import os
import tracelet_shim as tracelet
session = tracelet.start_logging("clearml", project="own forms", strict=True, exit_timeout=60, delivery={hosting!r})
os.makedirs("d/deep")
for content in ("first", "second"):
    open("w.pt", "w").write(content)
    open("d/deep/a b.txt", "w").write(content)
    open("d/x:ü?.txt", "w").write(content)
    session.log_artifact("w.pt")
    session.log_artifact("d", "my data")
    session.log_model("w.pt", "net", register_as="nets", aliases=[content])
    session.log_model("d", "folder")
assert session.flush(60)
task = session.run_ids["clearml"]
for name in ("w.pt", "my data", f"{{task}}/w.pt", "model:nets", "model:nets@first", "folder"):
    path = session.use_artifact(name, from_="clearml")
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    print(name, "=", path.name, *((str(p.relative_to(path)), p.read_text()) for p in found))
for name in ("nothing", "model:nets@third", "0" * 32 + "/w.pt", "model:" + "0" * 32):
    try:
        session.use_artifact(name, from_="clearml")
    except tracelet.ArtifactError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "thread"))
def test_artifacts_are_given_back(run_python: RunPython, serve: Serve, tmp_path: Path, hosting: str) -> None:
    """By the name that they were logged by, in this task or another, and models by name, tag or id; what was used stands in the
    task, and models are its inputs."""
    server = serve("clearml")
    env = {name: value for name, value in server.env.items() if value is not None}
    env |= {"CLEARML_OFFLINE_MODE": "", "CLEARML_CACHE_DIR": str(tmp_path / "cache")}
    done = run_python(USING.format(hosting=hosting), env=env)
    state, task = server.state, server.run()
    assert [line for line in done.stdout.splitlines() if " = " in line] == [
        "w.pt = w.pt ('.', 'second')", "my data = my data ('deep/a b.txt', 'second') ('x:ü?.txt', 'second')",
        f"{task['id']}/w.pt = w.pt ('.', 'second')", "model:nets = w.pt ('.', 'second')",
        "model:nets@first = w.pt ('.', 'first')", "folder = folder ('deep/a b.txt', 'second') ('x:ü?.txt', 'second')",
    ]  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith("use_artifact")]
    assert [line.count("has no artifact") + line.count("there is no model") for line in said] == [1] * 4
    models = {(model["name"], *model["tags"]): number for number, model in state["models"].items()}
    inputs = {item["name"]: item["model"] for item in task["models"]["input"]}
    assert inputs["nets"] == models["nets", "second"]
    assert inputs["nets@first"] == models["nets", "first"]
    properties = task["hyperparams"]["properties"]
    assert properties["tracelet.used/w.pt"]["value"].startswith(f"clearml: {task['id']}/w.pt (sha256 ")
    server.check_understood()


def test_nothing_is_given_back_offline() -> None:
    """The reason is said without asking anybody."""
    reason = ClearMLBackend.cannot_fetch({"offline": True}, run_info())
    assert reason == "an offline session of ClearML gives nothing back before it is imported"
    assert ClearMLBackend.cannot_fetch({"offline": False}, run_info()) is None
