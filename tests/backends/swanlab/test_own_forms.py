"""What is logged through a session itself: in the log and files of a run, and at the service, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.backends.swanlab.reader import SwanLabReader
from tests.backends.swanlab.test_swanlab import session, write
from tests.chosen import each_change
from tests.faults.conftest import Train
from tests.faults.harness import eventually
from tests.sample_events import Maker
from tests.servers.fixtures import Serve
from tests.servers.harness import Server

HERE = Path(__file__).parents[2]


def saved(reader: SwanLabReader, folder: str) -> dict[str, bytes]:
    """Return the saved files in a folder, by their names in it."""
    places = [log.parent / "files" for log in reader.run.logs]
    names = [name for name in reader.run.saved if name.startswith(f"{folder}/")]
    return {
        name.removeprefix(f"{folder}/"): next(each / name for each in places if (each / name).exists()).read_bytes()
        for name in names
    }


def test_on_this_machine(tmp_path: Path) -> None:
    make = Maker()
    table = make.table("tab", 3)
    large = msgspec.structs.replace(table, tag="large", columns=("a",), rows=(("x" * (11 << 20),),))
    events = [
        table, large, make.artifact("my data", folder=True, aliases=("best",)), make.artifact("data.py"),
        make.model("net", register_as="pool/net"), make.tags(stage="try", label=""), make.tags(stage="done"), make.alert("odd"),
    ]  # fmt: skip
    reader = write(tmp_path, events, tags={"mine": "1"})
    ((step, shown),) = reader.charts("table", "", "tab")
    assert step == 3
    assert shown == {
        "_swanLab": "table", "colDefs": [{"field": name} for name in ("n", "value", "te|xt", "ok")],
        "rowData": [
            {"n": 1, "value": 0.1, "te|xt": "a|b", "ok": True},
            {"n": 2**40, "value": "nan", "te|xt": 'x,"y"\n<i>', "ok": False},
            {"n": None, "value": -1e300, "te|xt": "é", "ok": None},
        ],
    }  # fmt: skip
    assert reader.charts("table", "", "large") == []
    assert {name.rpartition(".")[2] for name in saved(reader, "tables/large")} == {"csv", "json"}
    files = saved(reader, "artifacts")
    assert sorted(files) == ["data.py", "my data/launch.py", "my data/sample_events.py", "net/launch.py", "net/sample_events.py"]
    assert files["my data/launch.py"] == (HERE / "launch.py").read_bytes()
    assert reader.run.about["artifacts"] == {
        "my data": {"type": "dataset", "aliases": ["best"], "files": 2}, "data.py": {"type": "dataset", "files": 1},
        "net": {"type": "dataset", "files": 2, "model": True, "registered as": "pool/net"},
    }  # fmt: skip
    assert reader.about()["tags"] == {"mine": "1", "stage": "done", "label": ""}
    assert list(reader.run.start.tags) == ["mine=1"]
    assert [(e.step, e.value[0][1].decode()) for e in reader.entries("alert", "", "odd")] == [
        (0, "**warning: odd**\n\nloss is **NaN**")
    ]


def test_that_there_is_no_registry_is_said(tmp_path: Path) -> None:
    backend = session(tmp_path, [Maker().model("net", register_as="nets"), Maker().model("other", register_as="nets")])
    assert backend.take_notices() == {"registry": "a model is among the files of its run, but in no registry: SwanLab has none"}


def test_the_table_is_swanlabs_own(tmp_path: Path) -> None:
    """It has what `swanlab.echarts.Table` itself dumps."""
    import swanlab

    rows = ((1, "x"), (None, 2.5))
    event = msgspec.structs.replace(Maker().table("tab"), columns=("a", "b"), rows=rows)
    ((_, shown),) = write(tmp_path, [event]).charts("table", "", "tab")
    own = swanlab.echarts.Table().add(["a", "b"], [list(row) for row in rows])
    assert shown == json.loads(own.dump_options())


PROGRAM = """
import os, signal
session = begin("swanlab", exit_timeout=120, strict=True, delivery=os.environ["HOSTING"])
os.makedirs("folder")

def log_all(number):
    for i in range(120):  # more than `swanlab.save` takes
        with open(f"folder/{i}.txt", "w") as file:
            file.write(f"{i} of {number}")
    session.log_artifact("folder", f"data{number}", type="dataset", aliases=["best"])
    session.log_model("folder/7.txt", "net", register_as="net")
    session.log_table("tab", {"a": [number, 2], "b": ["x", None]}, step=number)
    session.set_tags({f"tag{number}": "x"})
    session.alert(f"odd{number}", "loss is NaN", "error")

logged = 0
while not os.path.exists("end"):
    if os.path.exists(f"go{logged}"):
        log_all(logged)
        reach(f"logged{logged}")
        logged += 1
    if os.path.exists(f"kill{logged}"):
        os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
        os.rename(f"kill{logged}", f"killed{logged}")
    session.log_metrics({"beat": 1.0})  # what is logged next finds that there is no relay
    time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "thread"))
def test_offline_from_a_program(train: Train, tmp_path: Path, hosting: str) -> None:
    """All is there once, though the relay is killed behind it."""
    program = train(PROGRAM, env={"HOSTING": hosting, "SWANLAB_MODE": "offline"}, exit_timeout=120)
    for number in range(2):
        program.go(f"go{number}")
        program.wait_for(f"logged{number}")
        if hosting == "process":
            program.go(f"kill{number + 1}")
            eventually((program.directory / f"killed{number + 1}").exists)
    program.go("end")
    assert "not delivered" not in program.end(0)
    reader = SwanLabReader(tmp_path / "swanlog")
    assert [step for step, _ in reader.charts("table", "", "tab")] == [0, 1]
    assert [len(reader.entries("alert", "", f"odd{number}")) for number in range(2)] == [1, 1]
    files = saved(reader, "artifacts")
    assert {name: data.decode() for name, data in files.items() if name != "net/7.txt"} == {
        f"data{number}/{i}.txt": f"{i} of {number}" for number in range(2) for i in range(120)
    }
    assert files["net/7.txt"] == b"7 of 1", "the later one"
    assert set(reader.run.about["artifacts"]) == {"data0", "data1", "net"}
    assert reader.about()["tags"] == {"tag0": "x", "tag1": "x"}


FAULTS = ["/house/metrics$", "/files/complete$", "/profile$"]


@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_on_a_server(train: Train, serve: Serve, hosting: str) -> None:
    """Each is there once, with its files, though one request of each kind was done and its answer lost, and the relay killed in
    that moment."""
    server = serve("swanlab")
    program = train(PROGRAM, env={**server.env, "HOSTING": hosting}, exit_timeout=120)
    program.wait_for("begun")
    for number, paths in enumerate(FAULTS):
        seen = len(server.requests(paths, "lost"))
        server.misbehave("lost", paths)
        program.go(f"go{number}")
        program.wait_for(f"logged{number}")
        server.wait_for_requests(seen + 1, paths, "lost")
        if hosting == "process":
            program.go(f"kill{number + 1}")
            eventually((program.directory / f"killed{number + 1}").exists)
        server.recover()
        eventually(lambda number=number: is_there(server, number))
    program.go("end")
    assert "not delivered" not in program.end(0)
    run, files = server.run(), server.directory / "files"
    tables = {int(step): names for step, names in run["media"]["tab (table)"].items()}
    shown = {step: json.loads((files / run["cuid"] / name).read_text())["rowData"][0] for step, (name,) in tables.items()}
    assert shown == {number: {"a": number, "b": "x"} for number in range(3)}
    assert {key for key in run["media"] if "(alert)" in key} == {f"odd{number} (alert)" for number in range(3)}
    assert set(run["saved"].values()) == {"UPLOADED"}
    names = [name for name in run["saved"] if name.startswith("artifacts/data")]
    held = {name: (files / run["cuid"] / "saved" / name).read_text() for name in names}
    assert held == {f"artifacts/data{number}/{i}.txt": f"{i} of {number}" for number in range(3) for i in range(120)}
    about = config(server)["tracelet"]
    assert about["tags"] == {f"tag{number}": "x" for number in range(3)}
    assert about["artifacts"]["net"] == {"model": True, "registered as": "net", "files": 1, "type": "model"}
    assert server.state["changed"] == 0
    server.check_understood()


def config(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.run()["profile"].get("config", {})
    return {key: entry["value"] for key, entry in found.items()}


def is_there(server: Server, number: int) -> bool:
    if not server.run()["saved"]:
        return False
    names = [name for name in server.run()["saved"] if name.startswith(f"artifacts/data{number}/")]
    tags = config(server).get("tracelet", {}).get("tags") or {}
    return len(names) == 120 and f"tag{number}" in tags and f"odd{number} (alert)" in server.run()["media"]
