"""What is logged through a session itself: in archives, and on a server, once though answers are lost and the relay is killed."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tracelet_shim as tracelet
from tests.backends.comet.reader import CometReader
from tests.backends.comet.test_comet import opened, store  # noqa: F401
from tests.chosen import each_change
from tests.faults.conftest import Train
from tests.faults.harness import eventually
from tests.sample_events import Maker
from tests.servers.fixtures import Serve
from tests.servers.harness import Server
from tracelet_shim import events as ev
from tracelet_shim.backends.comet.compat import uploads_registrations
from tracelet_shim.backends.comet.process import OFF

HERE = Path(__file__).parents[2]


def everything(make: Maker) -> list[ev.Event]:
    model = make.model("my net", register_as="My Nets!", aliases=("prod",))
    return [
        make.table("tab", 3), make.artifact("my data", folder=True, aliases=("best",)), make.artifact("data.py"),
        msgspec.structs.replace(model, category="model"), make.tags(stage="try", label="", Name="mine"), make.tags(stage="done"),
        make.alert("odd"),
    ]  # fmt: skip


def held(reader: CometReader, kind: str, start: str = "") -> dict[str, tuple[dict[str, Any], dict[str, Any], bytes]]:
    """Return (parameters, metadata, content) of the files of a kind; each name is there once."""
    found = [each for each in reader.uploads(kind) if each[0]["fileName"].startswith(start)]
    names = [params["fileName"] for params, _, _ in found]
    assert len(names) == len(set(names)), names
    return dict(zip(names, found, strict=True))


def check_archives(reader: CometReader) -> None:
    """An archive has all of `everything`, once, as far as it can hold it."""
    tables = held(reader, "asset", "tables/tab/step=00000003_")
    (table,) = (data for name, (_, _, data) in tables.items() if name.endswith(".csv"))
    assert table.decode().splitlines()[:2] == ["n,value,te|xt,ok", "1,0.1,a|b,True"]
    (exact,) = (data for name, (_, _, data) in tables.items() if name.endswith(".json"))
    assert json.loads(exact)["data"][2] == [None, -1e300, "é", None]

    artifacts = held(reader, "asset", "artifacts/")
    assert list(artifacts) == ["artifacts/my data/sample_events.py", "artifacts/my data/launch.py", "artifacts/data.py"]
    assert artifacts["artifacts/my data/launch.py"][2] == (HERE / "launch.py").read_bytes()
    about = artifacts["artifacts/my data/launch.py"][1]
    assert (about["artifact"], about["type"], about["aliases"]) == ("my data", "dataset", ["best"])

    models = held(reader, "model-element")
    assert {name: params["groupingName"] for name, (params, _, _) in models.items()} == {
        "my net/sample_events.py": "my net", "my net/launch.py": "my net",
    }  # fmt: skip
    registered = [(m["model_name"], m["registry_name"], m["version"], m["tags"]) for m in reader.messages("register_model")]
    assert registered == [("my net", "my-nets", "1.20251009.32000125", ["prod"])] * uploads_registrations()
    others = reader.others()
    assert others["stage"] == "done"
    assert others["_x4e_ame"] == "mine"
    assert reader.archives()[-1].about["tags"] == ["label"]
    assert reader.texts("", "tracelet/alerts/odd") == [(0, "**warning: odd**\n\nloss is **NaN**")]


def test_in_an_archive(store: Path) -> None:  # noqa: F811
    backend = opened()
    backend.write(everything(Maker()))
    (beginning,) = store.glob("*.part")
    assert json.loads((beginning / "experiment.json").read_text())["tags"] == ["label"], "though the run has not ended"
    backend.close("finished")
    check_archives(CometReader(store))
    assert [path.suffix for path in store.iterdir()] == [".zip"]


def test_a_model_can_be_uploaded(store: Path) -> None:  # noqa: F811
    """`comet upload` itself takes the message that registers the model; of a version that does not, there is none, and it is
    said."""
    from comet_ml import schemas

    backend = opened()
    backend.write(everything(Maker()))
    backend.close("finished")
    registered = CometReader(store).messages("register_model")
    if hasattr(schemas, "get_register_model_msg_validator"):
        (message,) = registered
        schemas.get_register_model_msg_validator().validate(message)
    else:
        assert registered == []
        assert list(backend.take_notices()) == ["registry"]


def test_what_comes_again_is_in_the_archives_once(store: Path) -> None:  # noqa: F811
    """The last batch of a relay that was killed comes again: files, the registered model and the alert are there already."""
    first = opened(session="00000000000000aa")
    run = first.handle.id
    first.write(everything(Maker()))
    first._run.experiment.streamer.release()  # as the kill of its process does
    second = opened(session="00000000000000aa", resume=run)
    second.write(everything(Maker()))
    second.close("finished")
    reader = CometReader(store)
    assert len(reader.archives()) == 2
    for archive in reader.archives()[1:]:
        archive.about["tags"] = reader.archives()[0].about["tags"]  # the upload adds them
    check_archives(reader)


def test_a_large_file_is_not_in_memory(store: Path, tmp_path: Path) -> None:  # noqa: F811
    size = 100 << 20
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(size)
    event = Maker().artifact("large")
    event = msgspec.structs.replace(event, files=(ev.ArtifactFile("large", size, "0" * 64, str(large)),))
    backend = opened()
    tracemalloc.start()
    backend.write([event])
    backend.close("finished")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    (archive,) = store.glob("*.zip")
    assert archive.stat().st_size < 1 << 20  # zeros, packed
    os.remove(archive)


def test_samples_of_the_machine_are_where_comet_shows_them(store: Path) -> None:  # noqa: F811
    """System metrics have the names of Comet's own tab; a writer of the user's that is called like theirs has its own."""
    backend = opened()
    own, users = Maker("system", "/logs/.tracelet/system/1.tracelet-records"), Maker("system")
    backend.write([own.scalar("cpu.percent", 3.0), own.scalar("process.memory.mb", 4.0), users.scalar("cpu.percent", 5.0)])
    backend.close("finished")
    metrics = [message["metric"] for message in CometReader(store).messages("metric_msg")]
    assert [(metric["metricName"], metric["metricValue"]) for metric in metrics] == [
        ("sys.cpu.percent.avg", 3.0), ("sys.process.memory.mb", 4.0), ("system/cpu.percent", 5.0),
    ]  # fmt: skip


def test_in_an_experiment_of_the_users(store: Path, tmp_path: Path) -> None:  # noqa: F811
    """Files are kept until the SDK's own thread reads them, though ours may be gone by then."""
    import comet_ml

    theirs = comet_ml.OfflineExperiment(project_name="p", offline_directory=str(store), **OFF)
    backend = opened(resume=theirs.id, borrowed=True)
    events = []
    for event in everything(Maker()):
        if isinstance(event, ev.Artifact):
            files = []
            for file in event.files:
                copy = tmp_path / file.path.replace("/", "-")
                copy.write_bytes(Path(file.at).read_bytes())
                files.append(msgspec.structs.replace(file, at=str(copy)))
            event = msgspec.structs.replace(event, files=tuple(files))  # noqa: PLW2901
        events.append(event)
    backend.write(events)
    backend.close("finished")
    for copy in tmp_path.glob("*.py"):
        copy.unlink()
    theirs.end()
    check_archives(CometReader(store))


def test_samples_of_a_session(train: Train, tmp_path: Path) -> None:
    """The session's own samples are told by their file from what a writer called `system` logs."""
    program = train(
        """
import glob
session = begin("comet", exit_timeout=60, strict=True, system_metrics=0.1)
with SummaryWriter("runs/x/system") as users:
    users.add_scalar("cpu.percent", 5.0, 1)
while sum(map(os.path.getsize, glob.glob("runs/x/.tracelet/system/*.tracelet-records"))) < 2000:
    time.sleep(0.05)
""",
        env={"COMET_OFFLINE_DIRECTORY": str(tmp_path / "comet")},
    )
    program.end(0)
    metrics = [message["metric"] for message in CometReader(tmp_path / "comet").messages("metric_msg")]
    names = {metric["metricName"] for metric in metrics}
    assert names >= {"sys.cpu.percent.avg", "sys.ram.percent.used", "sys.disk.free.gb", "system/cpu.percent"}
    assert [metric["metricValue"] for metric in metrics if metric["metricName"] == "system/cpu.percent"] == [5.0]


# -- on a server ------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal
session = begin("comet", exit_timeout=120, strict=True, delivery=os.environ["HOSTING"])
os.makedirs("folder/deep")

def artifact(number):
    for name in ("folder/a.txt", "folder/deep/b.txt"):
        with open(name, "w") as file:
            file.write(f"{name} {number}")
    session.log_artifact("folder", "my data", type="dataset", aliases=["best"])

def model(number):
    with open("net.pt", "w") as file:
        file.write(f"net {number}")
    session.log_model("net.pt", f"net{number}", register_as="My Nets!", aliases=["prod"])

def others(number):
    session.log_table("tab", {"a": [1, 2], "b": ["x", None]}, step=number)
    session.set_tags({"stage": str(number), f"label{number}": ""})
    session.alert(f"odd{number}", "loss is NaN", "error")

logged, kinds = 0, {"artifact": artifact, "model": model, "others": others}
while not os.path.exists("end"):
    for kind, log_one in kinds.items():
        if os.path.exists(f"{kind}{logged}"):
            log_one(logged)
            reach(f"logged{logged}")
            logged += 1
    if os.path.exists(f"kill{logged}"):
        os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
        os.rename(f"kill{logged}", f"killed{logged}")
    session.log_metrics({"beat": 1.0})  # what is logged next finds that there is no relay
    time.sleep(0.1)
"""
FAULTS = [
    ("artifact", "/write/artifacts/upsert$"), ("artifact", "/asset/upload$"), ("artifact", "/write/artifacts/state$"),
    ("model", "/asset/upload$"), ("model", "/item/create$"),
    ("others", "/asset/upload$"), ("others", "/add-tags-to-experiment$"), ("others", "/write/experiment/log-other$"),
]  # fmt: skip
KILLED = (1, 4, 5)
"""Where the relay is killed as well: it is started again three times."""


@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_on_a_server(train: Train, serve: Serve, hosting: str) -> None:
    """Each is there once, though one request of each kind was done and its answer lost, and the relay killed in that moment."""
    server = serve("comet")
    program = train(PROGRAM, env={**server.env, "HOSTING": hosting}, exit_timeout=120)
    program.wait_for("begun")
    for number, (kind, paths) in enumerate(FAULTS):
        seen = len(server.requests(paths, "lost"))
        server.misbehave("lost", paths)
        program.go(f"{kind}{number}")
        program.wait_for(f"logged{number}")
        server.wait_for_requests(seen + 1, paths, "lost")
        if hosting == "process" and number in KILLED:
            program.go(f"kill{number + 1}")
            eventually((program.directory / f"killed{number + 1}").exists)
        server.recover()
        eventually(lambda number=number: is_there(server, number))
    program.go("end")
    assert "not delivered" not in program.end(0)
    check_server(server)
    titles = [told["title"] for told in server.state["notifications"] if told["title"].startswith("odd")]
    assert len(titles) == len(set(titles))
    if hosting == "thread":  # else nobody knows whether the relay that was killed had notified
        assert titles == ["odd5", "odd6", "odd7"]
    server.check_understood()


def is_there(server: Server, number: int) -> bool:
    kind = FAULTS[number][0]
    if kind == "artifact":
        return [v["state"] for a in server.state["artifacts"].values() for v in a["versions"]][number:] == ["CLOSED"]
    if kind == "model":
        return any(version["model"] == f"net{number}" for versions in server.state["registry"].values() for version in versions)
    assets = [asset["name"] for asset in server.run()["assets"]]
    return assets.count("auto-generated-in-the-backend") == number - 4


def check_server(server: Server) -> None:
    numbers = {kind: [n for n, (each, _) in enumerate(FAULTS) if each == kind] for kind, _ in FAULTS}
    state, run, files = server.state, server.run(), server.directory / "files"
    (name, artifact), = state["artifacts"].items()  # fmt: skip
    assert (name, artifact["type"]) == ("standin/my data", "dataset")
    for number, version in zip(numbers["artifact"], artifact["versions"], strict=True):
        content = {asset["name"]: (files / asset["file"]).read_text() for asset in version["assets"]}
        assert content == {"a.txt": f"folder/a.txt {number}", "deep/b.txt": f"folder/deep/b.txt {number}"}
        assert len(version["assets"]) == 2
        assert version["state"] == "CLOSED"
    assert [version["version"] for version in artifact["versions"]] == ["1.0.0", "2.0.0", "3.0.0"]
    assert [version["alias"] for version in artifact["versions"]] == [[], [], ["best", "Latest"]]

    (name, versions), = state["registry"].items()  # fmt: skip
    assert name == "standin/my-nets"
    assert [(v["version"], v["model"], v["tags"]) for v in versions] == [
        (f"{i}.0.0", f"net{number}", ["prod"]) for i, number in enumerate(numbers["model"], 1)
    ]
    models = [asset for asset in run["assets"] if asset["type"] == "model-element"]
    assert [(asset["model"], (files / asset["file"]).read_text()) for asset in models] == [
        (f"net{number}", f"net {number}") for number in numbers["model"]
    ]

    tables = [asset for asset in run["assets"] if asset["name"].startswith("tables/tab/") and asset["name"].endswith(".csv")]
    assert [int(asset["step"]) for asset in tables] == numbers["others"]
    assert {(files / asset["file"]).read_text() for asset in tables} == {"a,b\n1,x\n2,\n"}
    assert (run["others"]["stage"], run["tags"]) == ("7", ["label5", "label6", "label7"])
    texts = [asset for asset in run["assets"] if asset["type"] == "text-sample"]
    assert [(files / asset["file"]).read_text() for asset in texts] == [
        f"**error: odd{number}**\n\nloss is NaN" for number in numbers["others"]
    ]


def test_a_notification(train: Train, serve: Serve) -> None:
    """Comet is asked to notify, once, with all of the alert, and again only where it says no."""
    server = serve("comet")
    server.misbehave("429", "/notification/experiment$", count=2)
    code = 'session = begin("comet", exit_timeout=60, strict=True)\nsession.alert("odd", "loss is NaN", "error")\n'
    assert "not delivered" not in train(code, env=server.env).end(0)
    told, _ = server.state["notifications"]  # and the SDK's own, of the end
    (key,) = server.state["experiments"]
    assert told == {"title": "odd", "status": "error", "experiment_key": key, "additional_data": {"text": "loss is NaN"}}



@pytest.mark.slow
def test_what_the_server_does_not_do(train: Train, serve: Serve) -> None:
    """Where it makes no version, registers nothing and notifies nobody, all is in its other form, which is said, as no error."""
    server = serve("comet")
    (server.directory / "no-plan").touch()
    program = train(
        """
session = begin("comet", exit_timeout=60, strict=True)
with open("net.pt", "w") as file:
    file.write("net")
for number in range(2):
    session.log_artifact("net.pt", f"data{number}")
    session.log_model("net.pt", f"net{number}", register_as="nets")
    session.alert(f"odd{number}", "text")
""",
        env=server.env,
    )
    said = program.end(0)
    for text in ("are assets of the experiment, without versions", "is in no registry", "whether you were notified"):
        assert said.count(f"{text}: Comet: 403 ") == 1, said
    assert server.state["artifacts"] == server.state["registry"] == {}
    kinds = {asset["name"]: asset["type"] for asset in server.run()["assets"] if "net.pt" in asset["name"]}
    assert kinds == {
        "artifacts/data0/net.pt": None, "artifacts/data1/net.pt": None, "net0/net.pt": "model-element",
        "net1/net.pt": "model-element",
    }  # fmt: skip
    assert [asset["type"] for asset in server.run()["assets"]].count("text-sample") == 2


LOGGED = """
session = begin("comet", exit_timeout=60, strict=True)
for number in range(2):
    with open("a.txt", "w") as file:
        file.write(str(number))
    session.log_artifact("a.txt")
os.makedirs("folder/deep")
for name in ("folder/a.txt", "folder/deep/b.txt"):
    with open(name, "w") as file:
        file.write(name)
session.log_artifact("folder", "my data", aliases=["best"])
"""
USED = """
import json
session = begin("comet", exit_timeout=60, strict=True, delivery=os.environ["HOSTING"])
found = {}
for name in ("a.txt", "a.txt:1.0.0", "my data", "my data:best", "standin/my data:1.0.0"):
    path = session.use_artifact(name)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    found[name] = {str(each.relative_to(path.parent)): each.read_text() for each in files}
for name in ("nothing", "my data:worst", "elsewhere/my data"):
    try:
        session.use_artifact(name)
    except tracelet.ArtifactError as error:
        found[name] = str(error)
with open("found.json", "w") as file:
    json.dump(found, file)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "thread"))
def test_an_artifact_is_used(train: Train, serve: Serve, hosting: str) -> None:
    """What one run has logged another one gets, by its name, its version or alias; Comet knows which has used it."""
    server = serve("comet")
    train(LOGGED, env=server.env).end(0)
    directory = server.directory / "other"
    directory.mkdir()
    said = train(USED, env={**server.env, "HOSTING": hosting}, directory=directory).end(0, memory=100e6)
    assert "not delivered" not in said
    found = json.loads((directory / "found.json").read_text())
    assert found["a.txt"] == {"a.txt": "1"}
    assert found["a.txt:1.0.0"] == {"a.txt": "0"}
    data = {"my data/a.txt": "folder/a.txt", "my data/deep/b.txt": "folder/deep/b.txt"}
    assert found["my data"] == found["my data:best"] == found["standin/my data:1.0.0"] == data
    for name in ("nothing", "my data:worst", "elsewhere/my data"):
        assert "Comet has no artifact" in found[name]
    first, second = server.state["experiments"]
    for artifact in server.state["artifacts"].values():
        assert [version.get("used by") for version in artifact["versions"]] == [[second]] * len(artifact["versions"])
    told = [asset for asset in server.state["experiments"][second]["assets"] if asset["name"].startswith("used/")]
    assert len(told) == 5
    assert not [asset for asset in server.state["experiments"][first]["assets"] if asset["name"].startswith("used/")]
    server.check_understood()


def test_what_was_used_is_gone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that somebody has deleted meanwhile is no input of the experiment, which is said; what it was is there."""
    server = serve("comet")
    for name, value in server.env.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    backend = opened()
    backend.write([Maker().used("gone", "comet", "standin/gone:1.0.0"), Maker().used("mine", "mlflow")])
    backend.close("finished")
    assert list(backend.take_notices()) == ["lineage"]
    assert len([asset for asset in server.run()["assets"] if asset["name"].startswith("used/")]) == 2


def test_an_archive_gives_nothing_back(store: Path) -> None:  # noqa: F811
    with tracelet.start_logging("comet", root=str(store), quiet=True) as session, pytest.raises(tracelet.ArtifactError) as caught:
        session.use_artifact("data")
    assert "an archive gives nothing back" in str(caught.value)
