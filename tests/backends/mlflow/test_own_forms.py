"""What is logged through a session itself, on a real ``mlflow server`` over HTTP: read back by MLflow and in its files."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.backends.mlflow.plain import PlainServer
from tests.conftest import RunPython
from tests.faults.proxy import Answer, Fault, Proxy, Reset
from tests.sample_events import Maker, run_info
from tracelet_shim import events as ev
from tracelet_shim.backends.mlflow.backend import MLflowBackend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    served = PlainServer(tmp_path_factory.mktemp("mlflow"))
    yield served
    served.close()


def test_models_load_by_their_alias(server: PlainServer, run_python: RunPython) -> None:
    """A directory of MLflow's, and a module of torch as it was at the call, are logged models of the run and versions in the
    registry; each loads by the name and alias, by its run, and predicts the same as the original. Tables are read by MLflow's own
    `load_table`."""
    env = {"MLFLOW_TRACKING_URI": server.uri}
    run_python(
        """
import mlflow, torch
import tracelet_shim as tracelet

class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return [2 * x for x in model_input]

mlflow.pyfunc.save_model("double", python_model=Double(), pip_requirements=[])
session = tracelet.start_logging("mlflow", project="models", strict=True)
session.log_model("double", "net", register_as="doubles")
session.log_model("double", "net", register_as="doubles", aliases=["prod", "best"])
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
before = module(torch.ones(1, 3))
session.log_model(module, "mlp", register_as="nets", aliases=["prod"])
torch.nn.init.zeros_(module[0].weight)
torch.save(before, "before.pt")
session.log_table("errors", {"image": [17, 23], "seen as": ["cat", None]})
""",
        env=env,
    )
    done = run_python(
        """
import mlflow, numpy, torch
assert mlflow.pyfunc.load_model("models:/doubles@prod").predict([1, 2.5]) == [2, 5.0]
client = mlflow.MlflowClient()
versions = sorted(client.search_model_versions("name='doubles'"), key=lambda one: int(one.version))
assert [v.version for v in versions] == ["1", "2"], versions
assert client.get_registered_model("doubles").aliases == {"best": "2", "prod": "2"}
before = torch.load("before.pt")
assert torch.equal(mlflow.pytorch.load_model("models:/nets@prod")(torch.ones(1, 3)), before)
found = mlflow.pyfunc.load_model("models:/nets@prod").predict(numpy.ones((1, 3), numpy.float32))
assert numpy.allclose(found, before.detach().numpy())
experiment = client.get_experiment_by_name("models")
(run,) = client.search_runs([experiment.experiment_id])
assert {v.run_id for v in versions} == {run.info.run_id}
if hasattr(run, "outputs"):
    assert len(run.outputs.model_outputs) == 3
path = "mlp" if hasattr(run, "outputs") else "artifacts/mlp"  # logged models are MLflow 3's: before, it is among the artifacts
assert torch.equal(mlflow.pytorch.load_model(f"runs:/{run.info.run_id}/{path}")(torch.ones(1, 3)), before)
((path, _),) = [(one["path"], one["type"]) for one in __import__("json").loads(run.data.tags["mlflow.loggedArtifacts"])]
mlflow.set_experiment("models")
table = mlflow.load_table(path, run_ids=[run.info.run_id])
assert table["image"].tolist() == [17, 23] and table["seen as"].fillna("").tolist() == ["cat", ""], table
print("the same")
""",
        env=env,
    )
    assert done.stdout.splitlines()[-1] == "the same"


def test_each_is_there_once(server: PlainServer) -> None:
    """Artifacts, models, their versions, tags and alerts are there once, also if they come again in a later session."""
    make = Maker(file="/logs/once.tracelet-records")
    data, model = make.artifact("my data", folder=True), make.model("my.net", register_as="once", aliases=("v1", "best"))
    events = [make.table("tab", 3), data, model, make.tags(stage="try"), make.alert("odd"), make.alert("x" * 300, "long " * 900)]
    for session in ("00000000000000aa", "00000000000000ab"):
        backend = MLflowBackend({"tracking_uri": server.uri})
        opened = backend.open(run_info(session=session, project="once", run_id="once"))
        backend.write(events)
        backend.write([make.tags(stage="done")])
        backend.close("finished")
        assert backend.take_notices() == {"alias v1": "the alias 'v1' is '_x76_1' in the registry: MLflow takes no such name"}
    with closing(sqlite3.connect(server.home / "mlflow.db")) as db:
        tags = dict(db.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (opened.run_id,)))
        models = db.execute("SELECT model_id, name, status FROM logged_models WHERE name LIKE 'my%'").fetchall()
        outputs = db.execute("SELECT destination_id FROM inputs WHERE source_id = ?", (opened.run_id,)).fetchall()
        versions = db.execute("SELECT version, source, run_id FROM model_versions WHERE name = 'once'").fetchall()
        aliases = db.execute("SELECT alias, version FROM registered_model_aliases WHERE name = 'once' ORDER BY alias").fetchall()
    ((model_id, name, status),) = models
    assert (name, status) == ("my_x2e_net", 2)
    assert outputs == [(model_id,)]
    assert versions == [(1, f"models:/{model_id}", opened.run_id)]
    assert aliases == [("_x76_1", 1), ("best", 1)]
    assert tags["stage"] == "done"
    told: list[dict[str, Any]] = json.loads(tags["tracelet.alerts"])
    assert [(one["title"], one["level"]) for one in told] == [("odd", "warning"), ("x" * 300, "warning")]
    (kept,) = server.home.glob(f"artifacts/*/{opened.run_id}/artifacts")
    for file in data.files:
        assert (kept / "artifacts" / file.path).read_bytes() == Path(file.at).read_bytes()
    (held,) = server.home.glob(f"artifacts/*/models/{model_id}/artifacts")
    assert {path.name for path in held.iterdir()} == {"launch.py", "sample_events.py"}
    assert (kept / told[1]["file"]).read_text().endswith(f"{'long ' * 900}\n")

def write(backend: MLflowBackend, events: list[ev.Event]) -> int:
    """Write as a worker does, which tries again what may pass; return how often it had to."""
    for failed in range(50):
        try:
            backend.write(events)
        except Exception as error:
            if not backend.is_transient(error):
                raise
            events = events[backend.written :]
        else:
            return failed
    raise AssertionError(events)


def test_lost_answers(server: PlainServer) -> None:
    """Where the server does what it is asked, and its first answer to each question about models is lost, there is one model and
    one version all the same."""
    asked = set[str]()

    def lose_the_first(_: int, line: str) -> Fault:
        path = line.partition("?")[0]
        if path in asked or not re.search("logged-models|model-versions|registered-models|outputs", path):
            return None
        asked.add(path)
        return Reset(0)

    with Proxy(server.port, lose_the_first) as proxy:
        backend = MLflowBackend({"tracking_uri": f"http://127.0.0.1:{proxy.port}"})
        opened = backend.open(run_info(project="lost"))
        assert write(backend, [Maker().model("lost", register_as="lost", aliases=("best",))]) >= 2
        backend.close("finished")
    assert len(asked) >= 6
    with closing(sqlite3.connect(server.home / "mlflow.db")) as db:
        ((model_id, status),) = db.execute("SELECT model_id, status FROM logged_models WHERE name = 'lost'")
        outputs = db.execute("SELECT destination_id FROM inputs WHERE source_id = ?", (opened.run_id,)).fetchall()
        versions = db.execute("SELECT version, source FROM model_versions WHERE name = 'lost'").fetchall()
    assert status == 2
    assert outputs == [(model_id,)]
    assert versions == [(1, f"models:/{model_id}")]


def test_a_server_of_mlflow_2(server: PlainServer) -> None:
    """A server that has no logged models gets the files as artifacts of the run, and the version is made of these."""
    with Proxy(server.port, lambda _, line: Answer(404) if "logged-models" in line else None) as proxy:
        backend = MLflowBackend({"tracking_uri": f"http://127.0.0.1:{proxy.port}"})
        opened = backend.open(run_info(project="two"))
        assert write(backend, [Maker().model("two", register_as="two")]) == 0
        backend.close("finished")
    with closing(sqlite3.connect(server.home / "mlflow.db")) as db:
        assert db.execute("SELECT model_id FROM logged_models WHERE name = 'two'").fetchall() == []
        versions = db.execute("SELECT version, source FROM model_versions WHERE name = 'two'").fetchall()
    assert versions == [(1, f"runs:/{opened.run_id}/artifacts/two")]
    (kept,) = server.home.glob(f"artifacts/*/{opened.run_id}/artifacts/artifacts/two")
    assert {path.name for path in kept.iterdir()} == {"launch.py", "sample_events.py"}


NAMES = ["ü ä.txt", "数据/è (1).csv", "a+b,c@d.txt", "x#y?z%20.txt", "back\\slash", "../up", "...", "e\u0301.txt", "n" * 300]
NAMES += ["é" * 120]


def test_names(server: PlainServer, tmp_path: Path) -> None:
    """Files keep the names that MLflow takes, in any script; others are mapped, and all are apart. All come back."""
    (tmp_path / "content").write_bytes(b"content")
    size, digest = 7, hashlib.sha256(b"content").hexdigest()
    make, stored = Maker(file="/logs/names.tracelet-records"), []
    for store in ({"tracking_uri": server.uri}, {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}):
        backend = MLflowBackend(store)
        opened = backend.open(run_info(project="names"))
        for name in NAMES:
            files = (ev.ArtifactFile(name, size, digest, str(tmp_path / "content")),)
            backend.write([ev.Artifact(**make._base(name, 0), category="", files=files)])
        backend.close("finished")
        client = mlflow.MlflowClient(**store)
        listed = [one.path for one in client.list_artifacts(opened.run_id, "artifacts")]
        stored.append(sorted(path for path in listed))
        for name in NAMES:
            place = tmp_path / uuid.uuid4().hex
            place.mkdir()
            found = MLflowBackend.fetch(store, run_info(resume=opened.run_id), name, str(place))
            assert Path(found.path).read_bytes() == b"content", name
    assert stored[0] == stored[1]
    assert set(stored[0]) >= {"artifacts/ü ä.txt", "artifacts/数据", "artifacts/a+b,c@d.txt"}
    assert len(stored[0]) == len(NAMES)


LARGE = 400_000_000


def test_a_large_file(server: PlainServer, run_python: RunPython, tmp_path: Path) -> None:
    """It goes by its place: neither the artifact nor the model is ever held in memory by the process that sends it."""
    done = run_python(
        f"""
import os, resource, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.sample_events import Maker, run_info
from tracelet_shim import events as ev
from tracelet_shim.backends.mlflow.backend import MLflowBackend

with open("large", "wb") as file:
    file.truncate({LARGE})
backend = MLflowBackend({{"tracking_uri": {server.uri!r}}})
opened = backend.open(run_info(project="large"))
make = Maker()
backend.write([make.artifact("small")])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kept = (ev.ArtifactFile("large", {LARGE}, "0" * 64, os.path.abspath("large")),)
about = make._base("large", 0)
backend.write([ev.Artifact(**about, category="", files=kept), ev.Model(**about, category="model", files=kept)])
print(opened.run_id, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    )
    run_id, grown = done.stdout.split()
    assert int(grown) < LARGE / 8
    patterns = (f"artifacts/*/{run_id}/artifacts/artifacts/large", "artifacts/*/models/*/artifacts/large")
    sent = [path for pattern in patterns for path in server.home.glob(pattern)]
    assert [path.stat().st_size for path in sent] == [LARGE] * 2
    for path in sent:
        path.unlink()
