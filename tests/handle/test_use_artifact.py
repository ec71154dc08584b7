"""`use_artifact`: whom it asks, what it returns, and what a tracker says of it afterwards."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import tracelet_shim as tracelet
from tests.chosen import each_change
from tests.conftest import RunPython
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.testing import RecordingBackend


class Giving(RecordingBackend):
    """Has what `stock` says."""

    stock: ClassVar[dict[str, Callable[[str], str]]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    @classmethod
    def fetch(cls, options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
        cls.asked.append((name, run.resume))
        if name not in cls.stock:
            raise NoSuchArtifactError(f"no {name!r} here")
        return Fetched(cls.stock[name](directory), f"{name}:v3")


@pytest.fixture(autouse=True)
def _afresh() -> None:
    Giving.stock, Giving.asked = {}, []


def used(backend: RecordingBackend) -> list[ev.Used]:
    return [event for event in backend.events if isinstance(event, ev.Used)]


def test_what_the_session_has_logged_itself(tmp_path: Path) -> None:
    """It is there at once, as it was logged last, and nobody is asked; its user may change it."""
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "deep" / "b.bin").write_bytes(b"\0" * 2_000_000)
    (tmp_path / "d" / "a.txt").write_text("a")
    backend = Giving()
    with tracelet.start_logging(backend, strict=True, quiet=True) as session:
        (tmp_path / "last.pt").write_text("first")
        session.log_artifact("last.pt")
        (tmp_path / "last.pt").write_text("second")
        session.log_artifact("last.pt")
        session.log_artifact("d", "data", type="dataset")
        session.log_artifact("last.pt", "../../way/out")
        (tmp_path / "last.pt").write_text("third")
        path = session.use_artifact("last.pt")
        assert path.name == "last.pt"
        assert path.read_text() == "second"
        path.write_text("changed by its user")
        assert session.use_artifact("last.pt").read_text() == "second"
        folder = session.use_artifact("data")
        assert folder == session.use_artifact("data"), "the same content is there once"
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert found == {"a.txt": b"a", "deep/b.bin": b"\0" * 2_000_000}
        out = session.use_artifact("../../way/out")
        assert (out / "last.pt").read_text() == "second"
        assert out.is_relative_to(tmp_path / ".tracelet" / "downloads")
    assert Giving.asked == []
    first, *_, data, _, _ = used(backend)
    assert (first.tag, first.tracker, first.identity) == ("last.pt", "", "")
    summed = subprocess.run("echo -n second | sha256sum", shell=True, capture_output=True, text=True, check=True).stdout
    assert first.digest == summed.split()[0]
    listed = subprocess.run(["sh", "-c", "sha256sum a.txt deep/b.bin"], cwd=folder, capture_output=True, check=True).stdout
    summed = subprocess.run("sha256sum", input=listed, capture_output=True, check=True).stdout.decode()
    assert data.digest == summed.split()[0]


def test_a_tracker_is_asked(tmp_path: Path) -> None:
    """It is told which run is open; that the run has used what it gave is logged, with what exactly that was."""

    def model(directory: str) -> str:
        (Path(directory) / "net").mkdir()
        (Path(directory) / "net" / "w.bin").write_bytes(b"w")
        return f"{directory}/net"

    Giving.stock = {"net": model}
    backend = Giving()
    with tracelet.start_logging(backend, strict=True, quiet=True) as session:
        path = session.use_artifact("net")
        assert (path / "w.bin").read_bytes() == b"w"
        assert Giving.asked == [("net", session.run_ids["recording"])]
    (event,) = used(backend)
    assert (event.tag, event.tracker, event.identity) == ("net", "recording", "net:v3")
    assert sorted(p.name for p in (tmp_path / ".tracelet" / "downloads").iterdir()) == [path.parent.name], "nothing half made"


class Plain(RecordingBackend):
    name = "plain"


def test_after_the_end_a_tracker_is_asked(tmp_path: Path) -> None:
    """Of what the session had logged nothing is kept by then; the tracker is told which run was open. No use is logged."""
    backend = Giving()
    with tracelet.start_logging(backend, strict=True, quiet=True) as session:
        (tmp_path / "a.txt").write_text("a")
        session.log_artifact("a.txt")
    assert not list(tmp_path.glob(".tracelet/handle/*.files"))
    with pytest.raises(tracelet.ArtifactError, match=r"no 'a\.txt' here"):
        session.use_artifact("a.txt")
    assert Giving.asked == [("a.txt", session.run_ids["recording"])]
    Giving.stock = {"a.txt": lambda directory: str(Path(directory, "a.txt").write_text("a") and Path(directory, "a.txt"))}
    assert session.use_artifact("a.txt").read_text() == "a"
    assert used(backend) == []


class Second(Giving):
    name = "second"

    @classmethod
    def fetch(cls, options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
        assert os.listdir(directory) == []
        (Path(directory) / name).write_text("from the second")
        return Fetched(f"{directory}/{name}", "x")


def test_the_next_one_is_asked_if_one_has_none() -> None:
    """Not so after another error: that one may have it, and what the next one has could be another."""

    def broken(directory: str) -> str:
        raise ConnectionError("https://me:hidden@host refused")

    with tracelet.start_logging([Giving(), Second()], strict=True, quiet=True) as session:
        assert session.use_artifact("net").read_text() == "from the second"
        Giving.stock = {"net": broken}
        with pytest.raises(tracelet.ArtifactError, match="ConnectionError") as caught:
            session.use_artifact("net")
        assert list(caught.value.problems) == ["recording"]
        assert "hidden" not in str(caught.value)
        assert session.use_artifact("net", from_="second").read_text() == "from the second"


def test_what_cannot_be_had(tmp_path: Path) -> None:
    """The error names what was asked for, says of each tracker why, and what to do."""

    def outside(directory: str) -> str:
        return str(tmp_path)

    def endless(directory: str) -> str:
        time.sleep(60)
        return directory

    Giving.stock = {"outside": outside, "endless": endless, "nothing": lambda directory: f"{directory}/nothing"}
    with tracelet.start_logging([Giving(), Plain()], quiet=True) as session:
        for name, said in (
            ("nope", "no 'nope' here"), ("outside", "outside of"), ("nothing", "No such file"), ("endless", "in time"),
        ):  # fmt: skip
            with pytest.raises(tracelet.ArtifactError, match=said) as caught:
                session.use_artifact(name, timeout=0.2 if name == "endless" else 60)
            assert f"use_artifact({name!r})" in str(caught.value)
            assert "remedy" in str(caught.value)
        with pytest.raises(tracelet.UnknownBackendError, match="did you mean 'mlflow'"):
            session.use_artifact("x", from_="mlfow")
    tracelet.stop_logging()
    with pytest.raises(tracelet.ArtifactError, match="no session"):
        tracelet.get_session().use_artifact("x")


def test_a_rank_that_does_not_log_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the artifact, and logs nothing."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    backend = Second()
    session = tracelet.start_logging(backend, quiet=True)
    assert not session.active
    assert session.use_artifact("net").read_text() == "from the second"
    assert backend.events == []


MLFLOW = """
import os, sys, time, torch
import tracelet_shim as tracelet
session = tracelet.start_logging("mlflow", project="p", exp_name="e", strict=True, quiet=True)
"""


@pytest.mark.slow
def test_mlflow(run_python: RunPython, tmp_path: Path) -> None:
    """A model by its alias, an artifact by its run, one of a run that is continued by its name; MLflow lists them as inputs."""
    first = run_python(
        MLFLOW
        + """
os.makedirs("d/deep"); open("d/deep/m.bin", "wb").write(b"m" * 9)
session.log_artifact("d", "data é")
session.log_model(torch.nn.Linear(2, 2), "net", register_as="nets", aliases=["prod"])
session.flush()
print(session.run_ids["mlflow"])
"""
    )
    run_id = first.stdout.split()[-1]
    second = MLFLOW.replace("exp_name='e'", "exp_name='f'") + f"""
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
model = session.use_artifact("models:/nets@prod")
print(torch.load(model / "data" / "model.pth", weights_only=False))
folder = session.use_artifact("runs:/{run_id}/artifacts/data é")
print((folder / "deep" / "m.bin").read_bytes())
try:
    session.use_artifact("models:/nets@nobody")
except tracelet.ArtifactError as error:
    print(error)
try:
    session.use_artifact("models:/nets@prod", timeout=0.05)
except tracelet.ArtifactError as error:
    print(error)
assert not set(sys.modules) & {{"mlflow"}}
"""
    done = run_python(second)
    assert "Linear(in_features=2, out_features=2, bias=True)\nb'mmmmmmmmm'" in done.stdout
    assert "alias nobody not found" in done.stdout
    assert "did not answer in time" in done.stdout
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        rows = db.execute(
            "select d.name, d.dataset_source_type, d.dataset_source from datasets d join inputs i on i.source_id = d.dataset_uuid"
        ).fetchall()
    assert sorted(rows) == [
        ("models:/nets@prod", "mlflow", '{"uri": "models:/nets/1"}'),
        (f"runs:/{run_id}/artifacts/data é", "mlflow", f'{{"uri": "runs:/{run_id}/artifacts/data \\u00e9"}}'),
    ]
    again = """
import tracelet_shim as tracelet
session = tracelet.start_logging("mlflow", project="p", strict=True, quiet=True, run_id="mine")
if {0}:
    open("x.txt", "w").write("x")
    session.log_artifact("x.txt")
    session.log_model("x.txt", "my.net")
else:
    print(session.use_artifact("x.txt").read_text())
    print((session.use_artifact("my.net") / "x.txt").read_text())
"""
    run_python(again.replace("{0}", "True"))
    assert run_python(again.replace("{0}", "False")).stdout.split() == ["x", "x"]


LOCAL = """
import sys
import tracelet_shim as tracelet
session = tracelet.start_logging("TRACKER", project="p", exp_name="e", strict=True, quiet=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("tracker", each_change(("aim", "tensorboard", "dvclive"), "aim"))
def test_trackers_of_this_machine(run_python: RunPython, tmp_path: Path, tracker: str) -> None:
    """Artifacts of another run come back as they were logged, and of the session's own run by their name alone, while it goes on;
    the tracker's store says what was used."""
    start = LOCAL.replace("TRACKER", tracker)
    first = run_python(
        start
        + """
import os
os.makedirs("d/deep"); open("d/deep/m.bin", "wb").write(b"m" * 9); open("d/é", "w").write("x")
session.log_artifact("d", "data")
open("one.pt", "w").write("1"); session.log_artifact("one.pt", "a name é")
session.flush()
print(session.use_artifact("data", from_="TRACKER").joinpath("deep/m.bin").read_bytes())
print("id", session.run_ids["TRACKER"])
""".replace("TRACKER", tracker)
    )
    assert "b'mmmmmmmmm'" in first.stdout
    run_id = first.stdout.split("id ")[-1].strip()
    second = run_python(
        start.replace('"e"', '"f"')
        + f"""
folder = session.use_artifact("{run_id}/data")
print(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
print((folder / "deep" / "m.bin").read_bytes())
print(session.use_artifact("{run_id}/a name é").joinpath("one.pt").read_text())
for name in ("data", "{run_id}/../data", "{run_id}/nothing"):
    try:
        print("found", session.use_artifact(name))
    except tracelet.ArtifactError as error:
        print(error)
print("id", session.run_ids["{tracker}"])
"""
    )
    lines = second.stdout.splitlines()
    assert lines[:3] == ["['_xe9_', 'deep/m.bin']", "b'mmmmmmmmm'", "1"]
    assert [line for line in lines[3:-1] if "has no artifact" not in line and "there is no artifact" not in line] == []
    own = lines[-1].removeprefix("id ")
    if tracker == "aim":
        from aim import Repo

        said = Repo(str(tmp_path)).get_run(own)["tracelet"]["used"]
        assert [one["identity"] for one in said] == [f"{run_id}/data", f"{run_id}/a name é"]
    else:
        wanted = b"tracelet/used/" if tracker == "tensorboard" else b'"identity"'
        files = [path for path in Path(own).rglob("*") if path.is_file() and wanted in path.read_bytes()]
        assert len(files) == (1 if tracker == "tensorboard" else 2)


def test_the_process_goes_with_its_parent(tmp_path: Path) -> None:
    """It is killed with what it has started when the time is over; nothing of it is left."""
    program = tmp_path / "slow.py"
    program.write_text("""
import os, subprocess, time
from pathlib import Path
from tracelet_shim.backends.base import Fetched
from tracelet_shim.testing import RecordingBackend

class Slow(RecordingBackend):
    @classmethod
    def fetch(cls, options, run, name, directory):
        child = subprocess.Popen(["sleep", "600"])
        Path("pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
""")
    script = f"""
import os, sys, time
sys.path.insert(0, {str(tmp_path)!r})
from tracelet_shim.bus.fetching import Question, ask
from tracelet_shim.provenance.program import describe
from tracelet_shim.backends.base import RunInfo
run = RunInfo(session="0" * 16, program=describe(), started=0.0)
print(ask(Question("slow:Slow", {{}}, run, "x", {str(tmp_path)!r}), 15).problem)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "it did not answer in time\n", done.stderr
    for pid in (tmp_path / "pids").read_text().split():
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
