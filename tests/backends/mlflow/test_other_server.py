"""A server of another version of MLflow: everything arrives, in the form that it has.

``MATRIX_OTHER_PYTHON`` names the interpreter of an environment with that version.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.backends.mlflow.plain import PlainServer
from tests.sample_events import Maker, run_info
from tracelet_shim import events as ev
from tracelet_shim.backends.mlflow.backend import MLflowBackend

OTHER = os.environ.get("MATRIX_OTHER_PYTHON", "")

pytestmark = pytest.mark.skipif(not OTHER, reason="MATRIX_OTHER_PYTHON is not set")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    served = PlainServer(tmp_path_factory.mktemp("mlflow"), OTHER)
    yield served
    served.close()


class Held:
    """What the server has of one run."""

    def __init__(self, server: PlainServer, run: str) -> None:
        self.home, self.run = server.home, run
        (self.files,) = server.home.glob(f"artifacts/*/{run}/artifacts")

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.home / "mlflow.db")) as database:
            return database.execute(sql, values or (self.run,)).fetchall()

    def has(self, table: str) -> bool:
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE name = ?", table))


def log(server: PlainServer, session: str, *batches: list[ev.Event], end: str | None = "finished", **run: Any) -> Held:
    backend = MLflowBackend({"tracking_uri": server.uri})
    opened = backend.open(run_info(session=session, project="other", run_id=session, **run))
    for batch in batches:
        backend.write(batch)
        assert backend.written == len(batch)
    if end is not None:
        backend.close("finished")
    return Held(server, opened.run_id)


def test_each_event_type_arrives(server: PlainServer) -> None:
    """One of each is there; hostile names, and a text that is longer than a tag can be, too."""
    make = Maker()
    events = make.one_of_each()
    names = ["a:b", "é", "x" * 400, "../up", "a/b", "a", "", "日本", "q@#?%"]
    events += [make.scalar(name, float(i), 5) for i, name in enumerate(names)]
    notes = "words " * 1400
    held = log(server, "each", events, notes=notes, tags={"t:u": "v"}, config={"p:q": 1})
    keys = {key for (key,) in held.rows("SELECT DISTINCT key FROM metrics WHERE run_uuid = ? AND step = 5")}
    assert len(keys) == len(names)
    tags, params = (dict(held.rows(f"SELECT key, value FROM {table} WHERE run_uuid = ?")) for table in ("tags", "params"))
    noted = tags["mlflow.note.content"]
    assert (held.files / noted.rpartition("whole in ")[2].rstrip("]")).read_text() == notes
    assert tags.get("t:u", tags.get("t_x3a_u")) == "v"
    assert params.get("p:q", params.get("p_x3a_q")) == "1"
    folders = {path.name for path in held.files.iterdir()}
    assert {"images", "histograms", "text", "videos", "audio", "pr_curves", "meshes", "embeddings", "tensors"} <= folders
    assert held.rows("SELECT status FROM runs WHERE run_uuid = ?") == [("FINISHED",)]


def test_points_that_come_again_are_there_once(server: PlainServer) -> None:
    """After a kill the last points come again: more of them than are looked for at once, and NaN and infinities among them."""
    make = Maker(file="/logs/again.tracelet-records")
    values = [math.nan, math.inf, -math.inf, 0.1]
    events: list[ev.Event] = [make.scalar(f"k{i % 150}", values[i % 4], i // 150) for i in range(600)]
    log(server, "again", events[:500], end=None)
    held = log(server, "again", events[100:], events)
    found = held.rows("SELECT key, step, is_nan FROM metrics WHERE run_uuid = ?")
    assert len(found) == len(set(found)) == 600
    assert sum(is_nan for *_, is_nan in found) == 150


def test_what_a_session_logs_by_itself(server: PlainServer, tmp_path: Path) -> None:
    """Tables, artifacts, models with versions and aliases, inputs, tags and alerts are there once, and come back by name."""
    make = Maker(file="/logs/own.tracelet-records")
    data, model = make.artifact("data", folder=True), make.model("net", register_as="own", aliases=("best",))
    events = [make.table("tab", 3), data, model, make.tags(stage="try"), *(make.alert(f"{i}", "long " * 180) for i in range(9))]
    log(server, "own", events, end=None)
    held = log(server, "own", events)
    tags = dict(held.rows("SELECT key, value FROM tags WHERE run_uuid = ?"))
    assert tags["stage"] == "try"
    assert 4 <= len(json.loads(tags["tracelet.alerts"])) <= 9
    assert len(json.loads(tags["mlflow.loggedArtifacts"])) == 1
    assert held.rows("SELECT alias, version FROM registered_model_aliases WHERE name = ?", "own") == [("best", 1)]
    ((source,),) = held.rows("SELECT source FROM model_versions WHERE name = ?", "own")
    logged = held.has("logged_models") and "models:/" in source
    assert logged or source == f"runs:/{held.run}/artifacts/net"
    for name in ("data", "models:/own@best"):
        place = tmp_path / name.partition(":")[0]
        place.mkdir()
        found = MLflowBackend.fetch({"tracking_uri": server.uri}, run_info(resume=held.run), name, str(place))
        assert {"launch.py", "sample_events.py"} <= {path.name for path in Path(found.path).rglob("*")}, name


def test_a_run_of_the_users(server: PlainServer) -> None:
    """A run of his, nested in another, is joined by its id and left open; what he had in it stays."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=server.uri)
    outer = client.create_run("0", run_name="outer")
    inner = client.create_run("0", run_name="inner", tags={"mlflow.parentRunId": outer.info.run_id})
    client.log_param(inner.info.run_id, "lr", "his")
    make = Maker()
    backend = MLflowBackend({"tracking_uri": server.uri})
    assert backend.open(run_info(resume=inner.info.run_id, borrowed=True)).run_id == inner.info.run_id
    backend.write([make.scalar("x", 1.0, 1), make.hparams({"lr": 0.5}, {}), make.text("t", "here")])
    backend.close("finished")
    held = Held(server, inner.info.run_id)
    assert held.rows("SELECT key, value FROM params WHERE run_uuid = ?") == [("lr", "his")]
    assert held.rows("SELECT key, value FROM metrics WHERE run_uuid = ?") == [("x", 1.0)]
    assert held.rows("SELECT status FROM runs WHERE run_uuid = ?") == [("RUNNING",)]
