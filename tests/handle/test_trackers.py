"""The methods of a session in real trackers, read back with their own readers."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sqlite3
import zipfile
from pathlib import Path

import pytest

from tests.backends import TRACKERS
from tests.backends.aim.reader import AimReader
from tests.backends.mlflow.reader import MLflowReader
from tests.backends.tensorboard.reader import TensorBoardReader
from tests.conftest import RunPython
from tests.delivery.programs import eventually, relays
from tests.replay.commands import tracelet_shim

LOG = """
import os, signal, sys, time
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter

def log(session):
    session.log_params({"lr": 0.1, "model": {"depth": 3}})
    session.set_tags({"stage": "try", "name": "é"})
    open("last.pt", "w").write("first")
    session.log_artifact("last.pt")
    writer = SummaryWriter("runs/x")
    writer.add_scalar("loss", 0.5, 1)
    open("last.pt", "w").write("second")
    for i in range(5):
        session.log_metrics({"acc": i / 7})
    session.log_table("tab", [{"a": 1, "b": "x|y"}, {"a": 2.5, "b": None}], step=3)
    session.log_text("note", "**hi**", 2)
    os.makedirs("d/deep", exist_ok=True)
    open("d/deep/m.bin", "wb").write(b"\\0" * 3_000_000)
    session.log_artifact("d", "data", type="dataset", aliases=["best"])
    session.set_tags({"stage": "done"})
    session.set_summary({"best": 0.9})
    session.alert("odd", "loss is NaN", "warning")
"""
ROWS = [["a", "b"], ["1", "x|y"], ["2.5", ""]]


@pytest.mark.slow
def test_three_trackers(run_python: RunPython, tmp_path: Path) -> None:
    """MLflow, Aim and TensorBoard have everything, each in its own form."""
    run_python(LOG + "log(tracelet.start_logging(['mlflow', 'aim', 'tensorboard'], project='p', exp_name='e', strict=True))")
    assert not list(tmp_path.glob("runs/x/.tracelet/handle/*.files")), "every tracker has them"

    mlflow = MLflowReader(tmp_path)
    assert mlflow.params() == {"lr": "0.1", "model.depth": "3"}
    assert mlflow.tags()["stage"] == "done"
    assert mlflow.tags()["name"] == "é"
    assert [(p.step, p.value) for p in mlflow.scalars("", "acc")] == [(i, i / 7) for i in range(5)]
    assert mlflow.latest(mlflow.run)["best"] == 0.9
    (told,) = json.loads(mlflow.tags()["mlflow.loggedArtifacts"])
    files = mlflow.artifacts()
    assert json.loads((files / told["path"]).read_text()) == {"columns": ["a", "b"], "data": [[1, "x|y"], [2.5, None]]}
    assert list(csv.reader((files / told["path"]).with_suffix(".csv").open())) == ROWS
    assert (files / "artifacts" / "last.pt").read_text() == "first"
    assert (files / "artifacts" / "data" / "deep" / "m.bin").read_bytes() == b"\0" * 3_000_000

    tensorboard = TensorBoardReader(tmp_path / "tracelet-runs")
    about = json.loads((tensorboard.run / "run.json").read_text())
    assert (about["config"], about["tags"]) == ({"lr": 0.1, "model.depth": 3}, {"stage": "done", "name": "é"})
    assert [(p.step, p.value) for p in tensorboard.scalars("", "acc")] == [(i, pytest.approx(i / 7)) for i in range(5)]
    assert [p.value for p in tensorboard.scalars("", "loss")] == [0.5]
    assert [p.value for p in tensorboard.scalars("", "best")] == [pytest.approx(0.9)]
    assert tensorboard.texts("", "note") == [(2, "**hi**")]
    assert tensorboard.texts("", "tab") == [(3, "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n| 2.5 |  |")]
    assert tensorboard.texts("", "tracelet/alerts/odd") == [(0, "**warning: odd**\n\nloss is NaN")]
    kept = tensorboard.run / "tracelet-files"
    assert (kept / "artifacts" / "last.pt").read_text() == "first"
    assert (kept / "artifacts" / "data" / "deep" / "m.bin").stat().st_size == 3_000_000

    aim = AimReader(tmp_path)
    assert aim.params() == {"lr": 0.1, "model.depth": 3}
    assert [(p.step, p.value) for p in aim.scalars("", "acc")] == [(i, i / 7) for i in range(5)]
    kept = tmp_path / ".aim" / "artifacts" / aim.run_ids()[0] / "artifacts"
    assert (kept / "last.pt").read_text() == "first"
    assert (kept / "data" / "deep" / "m.bin").stat().st_size == 3_000_000
    assert aim.props["tags"] == {"name=é", "stage=done"}
    (shown,) = aim.records("texts", "", "tab", type="table")
    assert (shown.step, shown.value.data) == (3, "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n| 2.5 |  |")
    (told,) = aim.records("texts", "", "odd", type="alert")
    assert told.value.data == "**warning**: loss is NaN"
    assert aim.texts("", "note") == [(2, "**hi**")]


@pytest.mark.slow
@pytest.mark.nightly  # MLflow's own forms have it, with a server
def test_a_registered_model(run_python: RunPython, tmp_path: Path) -> None:
    """Each call is a version in MLflow's registry, and that with the alias loads by it and predicts the same."""
    run_python(
        LOG
        + """
import mlflow
class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return [2 * x for x in model_input]
mlflow.pyfunc.save_model("double", python_model=Double(), pip_requirements=[])
session = tracelet.start_logging("mlflow", project="p", strict=True)
session.log_model("double", "net", register_as="doubles", aliases=["prod"])
session.log_model("double", "net", register_as="doubles")
"""
    )
    reader = MLflowReader(tmp_path)
    versions = reader.query("SELECT name, version, run_id FROM model_versions ORDER BY version")
    assert versions == [("doubles", 1, reader.run), ("doubles", 2, reader.run)]
    done = run_python("import mlflow\nprint(mlflow.pyfunc.load_model('models:/doubles@prod').predict([1, 2.5]))")
    assert done.stdout.splitlines()[-1] == "[2, 5.0]"


@pytest.mark.slow
@pytest.mark.nightly  # as the next one
def test_a_module(run_python: RunPython, tmp_path: Path) -> None:
    """A module of torch is what it was at the call, whatever training does to it then; MLflow loads it by its alias, as a module
    and as any model."""
    run_python(
        """
import torch
import tracelet_shim as tracelet
session = tracelet.start_logging("mlflow", project="p", strict=True)
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
before = module(torch.ones(1, 3))
session.log_model(module, "net", register_as="nets", aliases=["prod"])
torch.nn.init.zeros_(module[0].weight)
print(before.tolist())
torch.save(before, "before.pt")
"""
    )
    done = run_python(
        """
import mlflow, numpy, torch
before = torch.load("before.pt")
assert torch.equal(mlflow.pytorch.load_model("models:/nets@prod")(torch.ones(1, 3)), before)
found = mlflow.pyfunc.load_model("models:/nets@prod").predict(numpy.ones((1, 3), numpy.float32))
assert numpy.allclose(found, before.detach().numpy())
print("the same")
"""
    )
    assert done.stdout.splitlines()[-1] == "the same"


@pytest.mark.slow
def test_modules_of_the_program_itself(run_python: RunPython, tmp_path: Path) -> None:
    """Another program loads a module whose class, or a part of it, is in the training script, and TorchScript. What cannot be
    pickled has its state logged, which is said; a state is a file."""
    done = run_python(
        """
import threading, torch
import tracelet_shim as tracelet

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.after = lambda x: 2 * x
    def forward(self, x):
        return self.after(self.layer(x))

session = tracelet.start_logging("mlflow", project="p")
net = Net()
session.log_model(net, register_as="own")
plain = torch.nn.Sequential(torch.nn.Linear(3, 2))
session.log_model(torch.jit.script(plain), "script", register_as="scripts")
session.log_model(net.state_dict(), "state")
net.lock = threading.Lock()
session.log_model(net, "locked")
torch.save((net(torch.ones(1, 3)).detach(), plain(torch.ones(1, 3)).detach(), net.state_dict()), "before.pt")
"""
    )
    assert "log_model(): Net cannot be pickled" in done.stderr
    assert "its state_dict is logged instead" in done.stderr
    done = run_python(
        """
import pathlib, mlflow, numpy, torch
own, script, state = torch.load("before.pt")
ones = numpy.ones((1, 3), numpy.float32)
assert numpy.allclose(mlflow.pyfunc.load_model("models:/own/1").predict(ones), own.numpy())
assert torch.equal(mlflow.pytorch.load_model("models:/scripts/1")(torch.ones(1, 3)), script)
found = sorted(pathlib.Path("mlartifacts" if pathlib.Path("mlartifacts").exists() else "mlruns").rglob("state_dict.pt"))
assert len(found) == 2, found
for path in found:
    loaded = torch.load(path)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
print("the same")
"""
    )
    assert done.stdout.splitlines()[-1] == "the same"


@pytest.mark.slow
def test_killed(run_python: RunPython, tmp_path: Path) -> None:
    """What was logged arrives, though the program, which has no writer, was killed in the next moment."""
    run_python(
        "import os, signal, tracelet_shim as tracelet\n"
        "session = tracelet.start_logging('mlflow', project='p')\n"
        "session.log_params({'lr': 0.1})\n"
        "open('a.txt', 'w').write('a')\n"
        "session.log_artifact('a.txt')\n"
        "session.log_metrics({'acc': 0.5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)",
        check=False,
    )
    eventually(lambda: not relays(tmp_path))
    reader = MLflowReader(tmp_path)
    assert reader.params() == {"lr": "0.1"}
    assert [(p.step, p.value) for p in reader.scalars("", "acc")] == [(0, 0.5)]
    assert (reader.artifacts() / "artifacts" / "a.txt").read_text() == "a"
    with sqlite3.connect(tmp_path / ".tracelet" / "ledger.db") as db:
        assert db.execute("SELECT root, state FROM sessions JOIN runs ON session = id").fetchall() == [(str(tmp_path), "closed")]


@pytest.mark.slow
def test_resumed_and_replayed(run_python: RunPython, tmp_path: Path) -> None:
    """A tracker that was down gets it from `--resume`, files as they were at the call; a replay into another run has all but the
    files, which were released, and says so."""
    done = run_python(
        LOG
        + "log(tracelet.start_logging('mlflow', project='p', exit_timeout=3,"
        " options={'mlflow': {'tracking_uri': 'http://127.0.0.1:9'}}))"
    )
    assert "--resume" in done.stderr
    assert len(list(tmp_path.glob("runs/x/.tracelet/handle/*.files/*"))) == 2
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracelet_shim("replay", "runs/x", "--resume", TRACELET_MLFLOW_TRACKING_URI=uri)
    assert not list(tmp_path.glob("runs/x/.tracelet/handle/*.files"))
    reader = MLflowReader(tmp_path)
    assert reader.params() == {"lr": "0.1", "model.depth": "3"}
    assert [(p.step, p.value) for p in reader.scalars("", "acc")] == [(i, i / 7) for i in range(5)]
    assert (reader.artifacts() / "artifacts" / "last.pt").read_text() == "first"
    os.rename("mlflow.db", "first.db")
    said = tracelet_shim("replay", "runs/x", "--backend", "mlflow", code=2, TRACELET_MLFLOW_TRACKING_URI=uri)
    assert "last.pt is kept no longer" in said
    reader = MLflowReader(tmp_path)
    assert reader.params() == {"lr": "0.1", "model.depth": "3"}
    assert [(p.step, p.value) for p in reader.scalars("", "acc")] == [(i, i / 7) for i in range(5)]


@pytest.mark.slow
def test_runs_of_the_user(run_python: RunPython, tmp_path: Path) -> None:
    """What is logged while a run of the user's is active goes into that, before or after its writer is made, or without one; and
    changes the names of no tags."""
    run_python(
        """
import mlflow
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
session = tracelet.start_logging("mlflow", project="own", strict=True)
for fold in range(3):
    with mlflow.start_run(run_name=f"fold{fold}"):
        with open("a.txt", "w") as file:
            file.write(f"fold {fold}")
        session.log_params({"fold": fold})
        session.log_artifact("a.txt")
        if fold < 2:
            with SummaryWriter(f"runs/fold{fold}") as writer:
                writer.add_scalar("loss", fold, 1)
                session.log_metrics({"acc": fold + 0.5}, step=3)
session.log_params({"fold": "none"})
"""
    )
    reader = MLflowReader(tmp_path)
    runs = dict(reader.query("SELECT name, run_uuid FROM runs WHERE name LIKE 'fold%'"))
    assert sorted(runs) == ["fold0", "fold1", "fold2"]
    for fold, run in enumerate(runs[name] for name in sorted(runs)):
        assert reader.params_of(run) == {"fold": str(fold)}
        assert (reader.artifacts(run) / "artifacts" / "a.txt").read_text() == f"fold {fold}"
        keys = {key for (key,) in reader.query("SELECT key FROM metrics WHERE run_uuid = ?", run)}
        assert keys == ({"loss", "acc"} if fold < 2 else set())
    (own,) = reader.query("SELECT run_uuid FROM runs WHERE name NOT LIKE 'fold%'")
    assert reader.params_of(own[0]) == {"fold": "none"}
    assert not list(tmp_path.rglob("*.files")), "no copy of a file is left"


@pytest.mark.slow
def test_other_trackers(run_python: RunPython, tmp_path: Path) -> None:
    """The trackers that have no form of their own for it have everything as files, under their names and as they were."""
    others = sorted(set(TRACKERS) - {"aim", "mlflow", "tensorboard", "trackio", "wandb"})
    run_python(
        LOG + f"log(tracelet.start_logging({others}, project='p', exp_name='e', strict=True))",
        env={"TRACELET_OFFLINE": "1", "CLEARML_CACHE_DIR": str(tmp_path / "clearml"), "COMET_OFFLINE_DIRECTORY": str(tmp_path)},
    )
    in_directories = [path.parent for path in tmp_path.rglob("artifacts/last.pt")]
    assert len(in_directories) == 2, in_directories
    for kept in in_directories:
        assert (kept / "last.pt").read_text() == "first"
        assert (kept / "data" / "deep" / "m.bin").read_bytes() == b"\0" * 3_000_000
    (archive,) = tmp_path.glob("clearml/offline/*.zip")
    with zipfile.ZipFile(archive) as zipped:
        artifacts = {a["key"]: a for a in json.loads(zipped.read("task.json"))["execution"]["artifacts"]}
        assert set(artifacts) >= {"last.pt", "data/deep/m.bin"}
        for name, content in (("last.pt", b"first"), ("data/deep/m.bin", b"\0" * 3_000_000)):
            assert artifacts[name]["hash"] == hashlib.sha256(content).hexdigest()
            assert content in [zipped.read(inside) for inside in zipped.namelist()]
    (archive,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as zipped:
        messages = [json.loads(line) for line in zipped.read("messages.json").decode().splitlines()]
        uploads = [message["payload"] for message in messages if message["type"] == "file_upload"]
        files = {upload["additional_params"]["fileName"]: upload["file_path"] for upload in uploads}
        assert zipped.read(files["artifacts/last.pt"]) == b"first"
        assert zipped.read(files["artifacts/data/deep/m.bin"]) == b"\0" * 3_000_000


@pytest.mark.slow
def test_a_relay_that_is_killed(run_python: RunPython, tmp_path: Path) -> None:
    """Its successor has everything once, also of a program without a writer."""
    run_python(
        """
import os, signal
import tracelet_shim as tracelet
session = tracelet.start_logging(["mlflow", "tensorboard"], project="p", exp_name="e", strict=True)
for i in range(50):
    session.log_metrics({"acc": i / 7})
session.log_artifact(__file__, "first")
assert session.flush(60)
os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
session.log_table("tab", {"a": [1, 2]})
session.log_artifact(__file__, "second")
for i in range(50, 100):
    session.log_metrics({"acc": i / 7})
"""
    )
    reader = MLflowReader(tmp_path)
    assert [(p.step, p.value) for p in reader.scalars("", "acc")] == [(i, i / 7) for i in range(100)]
    assert {path.parent.name for path in reader.artifacts().glob("artifacts/*/*")} == {"first", "second"}
    copied = TensorBoardReader(tmp_path / "tracelet-runs")
    assert [p.step for p in copied.scalars("", "acc")] == list(range(100))
    assert copied.texts("", "tab") == [(0, "| a |\n| --- |\n| 1 |\n| 2 |")]
