"""What is logged through a session itself: in the run's directory, as DVC reads it, and nothing in the user's repository."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.backends.dvclive.reader import DVCLiveReader
from tests.backends.dvclive.test_dvclive import opened, reader, where
from tests.chosen import each_change
from tests.faults.conftest import Train, train  # noqa: F401
from tests.faults.harness import eventually
from tests.sample_events import Maker
from tracelet_shim import events as ev

HERE = Path(__file__).parents[2]


def everything(make: Maker) -> list[ev.Event]:
    data = make.artifact("my data", folder=True, aliases=("best", "v1"))
    return [
        make.table("tab", 2), make.table("tab", 3), data, make.artifact("data.py"), make.model("net", aliases=("prod",)),
        make.model("other", register_as="pool/net"), make.tags(stage="try", label=""), make.tags(stage="done"), make.alert("odd"),
    ]  # fmt: skip


def artifacts(repository: Path) -> dict[str, Any]:
    """Return the artifacts that DVC finds below a directory, each with its absolute path."""
    code = (
        "import json, sys; from dvc.repo import Repo\n"
        "found = Repo(sys.argv[1]).artifacts.read()\n"
        "print(json.dumps({name: a.to_dict() | {'yaml': at} for at, each in found.items() for name, a in each.items()}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(repository)], capture_output=True, text=True, check=True)
    assert "Can't use" not in done.stderr, "DVC takes each name"
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def dvc(directory: Path, *arguments: str) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of Git and DVC with a commit."""
    git(tmp_path, "init", "-q")
    dvc(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def check(run: DVCLiveReader) -> None:
    """The directory has all of `everything`, once."""
    (of_two, of_three) = sorted((run.run / "plots/custom/tables/tab").iterdir())
    rows = json.loads(of_three.read_text())
    assert rows[0] == {"row": 0, "n": 1, "value": 0.1, "te|xt": "a|b", "ok": True}
    assert rows[2] == {"row": 2, "n": None, "value": -1e300, "te|xt": "é", "ok": None}
    whole = [path for _, path in run.media("tables", "", "tab", ".csv")]
    assert [next(iter(csv.reader(path.open(encoding="utf-8")))) for path in whole] == [["n", "value", "te|xt", "ok"]] * 2

    listed = run.yaml(run.run / "dvc.yaml")
    drawn = [entry for entry in listed["plots"] if isinstance(entry, dict) and "tables" in next(iter(entry))]
    assert drawn == [
        {of_three.relative_to(run.run).as_posix(): {"x": "row", "y": ["n", "value"], "template": "simple"}}
    ], "the latest"
    assert of_two.name.startswith("step=00000002_")
    assert (run.run / "artifacts/my data/launch.py").read_bytes() == (HERE / "launch.py").read_bytes()
    assert (run.run / "artifacts/data.py").read_bytes() == (HERE / "sample_events.py").read_bytes()
    assert run.params()["tracelet"] == {"tags": {"stage": "done", "label": ""}}
    assert run.about()["tags"]["stage"] == "done"
    (alert,) = run.json("run.json")["alerts"].values()
    assert (alert["title"], alert["level"], alert["text"]) == ("odd", "warning", "loss is **NaN**")
    (said,) = run.media("alerts", "", "odd", ".md")
    assert said[1].read_text() == "**warning: odd**\n\nloss is **NaN**\n"


def test_as_dvc_reads_it(repository: Path) -> None:
    """DVC finds the artifacts, the models with their type, the tables among the plots and the tags among the parameters; Git and
    DVC have nothing new, staged or in the cache."""
    before = sorted((repository / ".dvc").rglob("*"))
    backend = opened(repository, exp_name="e", project="p")
    backend.write(everything(Maker()))
    backend.close("finished")
    check(reader(backend))
    assert git(repository, "diff", "--cached", "--name-only") == ""
    assert not list(repository.rglob("*.dvc"))[1:], "only the directory .dvc"
    assert [path for path in sorted((repository / ".dvc").rglob("*")) if path.is_file() and path not in before] == []
    found = artifacts(repository)
    assert {about.pop("yaml") for about in found.values()} == {"dvclive/p/e/dvc.yaml"}
    data, file = (next(name for name in found if name.startswith(start)) for start in ("my-data-", "data-py-"))
    assert found == {
        data: {"path": "artifacts/my data", "type": "dataset", "desc": "my data", "labels": ["best", "v1"]},
        file: {"path": "artifacts/data.py", "type": "dataset", "desc": "data.py"},
        "net": {"path": "artifacts/net", "type": "model", "labels": ["prod"]},
        "pool/net": {"path": "artifacts/other", "type": "model", "desc": "other"},
    }  # fmt: skip
    for about in found.values():
        assert (where(backend) / about["path"]).exists()
    shown = json.loads(dvc(repository, "plots", "show", "--json", "-o", str(repository / "shown")))
    (drawing,) = (each for key, (each,) in shown["data"].items() if "plots/custom/tables/tab/step=00000003" in key)
    points = drawing["content"]["data"]["values"]
    assert {(point["row"], point["field"], point["dvc_inferred_y_value"]) for point in points} >= {(0, "n", 1), (0, "value", 0.1)}
    parameters = json.loads(dvc(repository, "params", "diff", "--json", "--all", "HEAD"))
    assert parameters["dvclive/p/e/params.yaml"]["tracelet.tags.stage"]["new"] == "done"


@pytest.mark.parametrize("name", ["a/b", "/abs", "../../x", "é", "a" * 300, "deep"])
def test_where_an_artifact_is(tmp_path: Path, name: str) -> None:
    """What dvc.yaml says of an artifact is where its files are, whatever its name; and DVC takes the name."""
    from gto.constants import assert_name_is_valid

    make = Maker()
    (file, other) = make.artifact(name, folder=True).files
    deep = msgspec.structs.replace(other, path=f"{name}/deep/{other.path.rpartition('/')[2]}")
    event = msgspec.structs.replace(make.artifact(name, folder=True), files=(deep, file))
    backend = opened(tmp_path)
    backend.write([event])
    backend.close("finished")
    ((key, about),) = reader(backend).yaml(where(backend) / "dvc.yaml")["artifacts"].items()
    assert_name_is_valid(key)
    assert about["desc" if key != name else "type"] == (name if key != name else "dataset")
    found = {path.name for path in (where(backend) / about["path"]).rglob("*.py")}
    assert found <= {"launch.py", "sample_events.py"}
    if len(name) < 180:  # else each path is cut by itself
        assert found == {"launch.py", "sample_events.py"}


def test_in_a_list_of_the_users(repository: Path) -> None:
    """In a dvc.yaml that others share, their artifacts and plots stay, and ours are the latest of their names."""
    shared = repository / "dvc.yaml"
    shared.write_text("# mine\nartifacts:\n  theirs:\n    path: theirs.bin\n    type: model\nplots:\n- theirs.csv\n")
    for name in ("first", "second"):
        backend = opened(repository, options={"dvcyaml": str(shared)}, exp_name=name, project="p")
        backend.write([Maker().model("net")])
        backend.close("finished")
    listed = DVCLiveReader.yaml(shared)
    assert listed["artifacts"] == {
        "theirs": {"path": "theirs.bin", "type": "model"}, "net": {"path": "dvclive/p/second/artifacts/net", "type": "model"},
    }  # fmt: skip
    assert "theirs.csv" in listed["plots"]
    assert shared.read_text().startswith("# mine\n")
    backend = opened(repository, options={"dvcyaml": "false"}, exp_name="third", project="p")
    backend.write([Maker().model("net")])
    backend.close("finished")
    assert not (where(backend) / "dvc.yaml").exists()


def test_what_comes_again_is_there_once(tmp_path: Path) -> None:
    """The last batch of a relay that was killed comes again."""
    first = opened(tmp_path, session="00000000000000aa")
    first.write(everything(Maker()))
    first.flush()
    second = opened(tmp_path, session="00000000000000aa", resume=str(where(first)))
    second.write(everything(Maker()))
    second.close("finished")
    check(reader(second))
    assert len(list((where(first) / "artifacts").rglob("*.py"))) == 7


def test_tables(tmp_path: Path) -> None:
    """A table is drawn over its first column, where that rises; one without numbers, or without rows, is a file. A report has
    those that are drawn."""
    make = Maker()
    table = make.table("tab")
    rising = msgspec.structs.replace(table, tag="rising", columns=("epoch", "row", "row_"), rows=((1, 2, "a"), (2.5, None, "b")))
    words = msgspec.structs.replace(table, tag="words", columns=("a",), rows=(("x",), (None,)))
    taken = msgspec.structs.replace(table, tag="taken", columns=("row", "n"), rows=((2, 1), (1, 2)))
    empty = msgspec.structs.replace(table, tag="empty", columns=(), rows=())
    backend = opened(tmp_path, options={"report": "html"})
    backend.write([rising, words, taken, empty])
    backend.close("finished")
    listed = reader(backend).yaml(where(backend) / "dvc.yaml")
    assert [next(iter(entry.values())) for entry in listed["plots"]] == [
        {"x": "epoch", "y": ["row"], "template": "simple"}, {"x": "row_", "y": ["row", "n"], "template": "simple"},
    ]  # fmt: skip
    for name in ("words", "empty"):
        assert len(reader(backend).media("tables", "", name, ".csv")) == 1
    assert "rising" in (where(backend) / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_from_a_program(train: Train, tmp_path: Path, hosting: str) -> None:  # noqa: F811
    """All arrives through the session, once, though the relay is killed behind each of it."""
    program = train(
        """
import os, signal
session = begin("dvclive", exit_timeout=60, strict=True, delivery=os.environ["HOSTING"])
for number in range(3):
    with open("net.pt", "w") as file:
        file.write(str(number))
    session.log_artifact("net.pt", f"data{number}", type="dataset")
    session.log_model("net.pt", "net", aliases=[f"v{number}"])
    session.log_table("tab", {"a": [number, number + 1], "b": [1, 2]}, step=number)
    session.set_tags({f"tag{number}": "x"})
    session.alert(f"odd{number}", "text")
    if os.environ["HOSTING"] == "process":
        assert session.flush(60)
        os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
""",
        env={"HOSTING": hosting},
    )
    said = program.end(0)
    assert said.count("starting it again") == (3 if hosting == "process" else 0)
    (file,) = tmp_path.rglob("run.json")
    run = DVCLiveReader(tmp_path, str(file.parent))
    listed = run.yaml(run.run / "dvc.yaml")["artifacts"]
    assert listed == {
        **{f"data{i}": {"path": f"artifacts/data{i}", "type": "dataset"} for i in range(3)},
        "net": {"path": "artifacts/net", "type": "model", "labels": ["v2"]},
    }
    contents = {path.parent.name: path.read_text() for path in (run.run / "artifacts").glob("*/net.pt")}
    assert contents == {"data0": "0", "data1": "1", "data2": "2", "net": "2"}
    assert run.params()["tracelet"]["tags"] == {f"tag{i}": "x" for i in range(3)}
    assert sorted(alert["title"] for alert in run.json("run.json")["alerts"].values()) == ["odd0", "odd1", "odd2"]
    assert len(list((run.run / "plots/custom/tables/tab").iterdir())) == 3
    eventually(lambda: not [pid for pid in program.relays if Path(f"/proc/{pid}").exists()])
