"""What older versions of MLflow do otherwise, made with the one that is installed: ``make matrix`` has these themselves."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.backends.mlflow.plain import PlainServer
from tests.backends.mlflow.reader import MLflowReader
from tests.sample_events import Maker, run_info
from tracelet_shim import errors
from tracelet_shim.backends.mlflow import compat
from tracelet_shim.backends.mlflow.backend import MLflowBackend


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for MLflow's database."""
    for name, value in MLflowReader.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def opened(**run: Any) -> MLflowBackend:
    backend = MLflowBackend()
    backend.open(run_info(**run))
    return backend


@pytest.mark.parametrize("cuts", ["true", "false"])
def test_a_store_that_keeps_less_of_a_tag(store: Path, monkeypatch: pytest.MonkeyPatch, cuts: str) -> None:
    """MLflow 2.10 refuses a tag of more than 5000 characters, those up to 2.16 keep its beginning and say nothing: the tag then
    ends in the mark that names the file with the whole text, and a list in a tag is as long as the tag can be."""
    from mlflow.utils import validation

    monkeypatch.setattr(validation, "MAX_TAG_VAL_LENGTH", 5000)
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", cuts)
    text, make = "words " * 1200, Maker()
    backend = opened(notes=text)
    backend.write([make.alert(f"alert {i}", "x" * 900) for i in range(9)])
    backend.close("finished")
    read = MLflowReader(store)
    noted = read.tags()["mlflow.note.content"]
    assert 4000 < len(noted) <= 5000
    assert (read.artifacts() / noted.rpartition("whole in ")[2].rstrip("]")).read_text() == text
    alerts = json.loads(read.tags()["tracelet.alerts"])
    assert [one["title"] for one in alerts] == [f"alert {i}" for i in range(9 - len(alerts), 9)]
    assert len(alerts) >= 4


def test_a_store_that_takes_no_colons(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to MLflow 2.15 a name has no colon. It stands as an escape, for metrics, parameters and tags, whether that is known when
    the run is opened or learnt from what is refused; long names stay within the limit, and apart."""
    from mlflow.utils import validation

    def no_colons(name: str) -> bool:
        return re.match(r"^[/\w.\- ]*$", name) is not None

    long = [":" * 240 + end for end in "ab"]
    for session, late in enumerate((True, False)):
        with monkeypatch.context() as patch:
            if not late:
                patch.setattr(validation, "validate_param_and_metric_name", no_colons)
            backend = opened(session=f"{session:016x}", exp_name=str(late))
            patch.setattr(validation, "validate_param_and_metric_name", no_colons)
            make = Maker()
            values = ({"p:q": "1"}, {"p:q": "2"})
            scalars = [make.scalar(tag, float(i), 1) for i, tag in enumerate(["a:b", "a_x3a_b", *long])]
            backend.write([*scalars, *(make.hparams(value, {}) for value in values), make.tags(**{"t:u": "v"})])
            backend.close("finished")
        read = MLflowReader(store, backend.handle.info.run_id)
        rows = dict(read.query("SELECT key, value FROM metrics WHERE run_uuid = ?", read.run))
        assert (rows["a_x3a_b"], rows["a_x5f_x3a_b"], len(rows)) == (0.0, 1.0, 4)
        assert max(map(len, rows)) == 250
        assert read.query("SELECT key, value FROM params WHERE run_uuid = ?", read.run) == [("p_x3a_q", "1")]
        assert read.tags()["t_x3a_u"] == "v"
        assert [text for key, text in read.tags().items() if key.startswith("tracelet.param.p_")] == ["2"]


def test_points_of_a_store_in_files_are_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in files, MLflow's own for long, adds a line for each point that it gets. What comes again to a session that goes
    on after a kill, or after a write that failed half-way, is told off."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    make = Maker()
    values = [0.0, math.nan, math.inf, -math.inf, 1 / 3, 1e300]
    events = [make.scalar(tag, value, step) for step, value in enumerate(values) for tag in ("a", "a/b")]

    def session() -> MLflowBackend:
        backend = MLflowBackend({"tracking_uri": str(tmp_path / "runs")})
        backend.open(run_info(run_id="one"))
        return backend

    session().write(events[:8])
    after, more = session(), [make.scalar("a", 7.0, 7), make.scalar("a", 8.0, 8)]
    after.write(events)
    with monkeypatch.context() as patch:
        patch.setattr(after._client, "log_batch", fails_after(after._client, 1))
        with pytest.raises(OSError, match="full"):
            after.write(more)
    after.write(more)
    after.close("finished")
    (metrics,) = (tmp_path / "runs").glob("*/*/metrics")
    steps = {path.name: [int(line.split()[2]) for line in path.read_text().splitlines()] for path in metrics.iterdir()}
    assert steps == {"a": [0, 1, 2, 3, 4, 5, 7, 8], "a_x2f_b": [0, 1, 2, 3, 4, 5]}


def fails_after(client: Any, count: int) -> Any:
    """Return a `log_batch` that fails when it has stored so many of the points: as a full disk does."""
    log_batch = client.log_batch

    def some(run_id: str, metrics: Any = (), **rest: Any) -> None:
        log_batch(run_id, metrics=metrics[:count], **rest)
        raise OSError(28, "the disk is full")

    return some


def test_a_database_of_a_newer_mlflow(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that a newer MLflow has made cannot be made older: the user reads that MLflow is to be upgraded, and not the
    database, which is left as it was."""
    opened().close("finished")
    copy = store / "newer.db"
    copy.write_bytes((store / "mlflow.db").read_bytes())
    with closing(sqlite3.connect(copy)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'fffff0000000'")
    monkeypatch.setattr("time.sleep", lambda _: None)  # it waits, in case another process is at work on it
    with pytest.raises(errors.BackendError, match=r"newer version than this, .*pip install --upgrade mlflow") as caught:
        MLflowBackend({"tracking_uri": f"sqlite:///{copy}"}).open(run_info())
    assert "db upgrade" not in str(caught.value)
    assert compat.was_made_by_newer("fffff0000000")
    assert not compat.was_made_by_newer("451aebb31d03")


def test_a_provider_that_cannot_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before MLflow 2.16 `resolve_tags` takes all providers: what it says of the commit of this process's program is not said of
    the user's, and what is said of his stays."""
    from mlflow.tracking.context import registry
    from mlflow.tracking.context.git_context import GitRunContext

    newer = registry.resolve_tags

    def resolve_tags(tags: Any = None) -> Any:
        return newer(tags)

    monkeypatch.setattr(GitRunContext, "in_context", lambda _: True)
    monkeypatch.setattr(GitRunContext, "tags", lambda _: {"mlflow.source.git.commit": "the relay's"})
    for function in (newer, resolve_tags):
        monkeypatch.setattr(registry, "resolve_tags", function)
        assert "mlflow.source.git.commit" not in compat.context_tags({"a": "b"})
        kept = compat.context_tags({"mlflow.source.git.commit": "his", "a": "b"})
        assert (kept["mlflow.source.git.commit"], kept["a"], "mlflow.user" in kept) == ("his", "b", True)


def test_databases_of_older_versions_need_an_older_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 3.9 a store that is a database needs SQLAlchemy before 2.1: `start_logging` says so, and nothing where the store is
    a server or files."""
    versions = {"mlflow": "2.22.1", "sqlalchemy": "2.1.9"}
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or real(name))
    said = r"mlflow 2.22.1 needs sqlalchemy<2.1, and 2.1.9 is installed \(.*\); remedy: pip install 'sqlalchemy<2.1'"
    for uri in ("sqlite:///m.db", "postgresql+psycopg2://host/db"):
        with pytest.raises(errors.BackendUnavailableError, match=said):
            MLflowBackend.check(offline=False, options={"tracking_uri": uri})
    for uri in ("http://127.0.0.1:5000", "file:///mlruns", "mlruns"):
        MLflowBackend.check(offline=False, options={"tracking_uri": uri})
    backend = MLflowBackend()
    backend._uri = "sqlite:///m.db"
    missing = ImportError("cannot import name 'FallbackAsyncAdaptedQueuePool'", name="sqlalchemy.pool")
    assert backend.advice(missing) == "pip install 'sqlalchemy<2.1', or a newer mlflow"


@pytest.mark.slow
def test_files_go_to_the_server_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to MLflow 3.1 a client sends files to whatever server is set for the process: ours go to the one of the run."""
    server = PlainServer(tmp_path)
    try:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr("mlflow.store.artifact.artifact_repository_registry.get_artifact_repository", get_artifact_repository)
        for module in ("mlflow.tracking._tracking_service.client",):
            monkeypatch.setattr(f"{module}.get_artifact_repository", get_artifact_repository)
        backend = MLflowBackend({"tracking_uri": server.uri})
        backend.open(run_info())
        make = Maker()
        backend.write([make.text("t", "here"), make.model("net")])
        backend.close("finished")
    finally:
        server.close()
    found = {path.suffix or path.name for path in (server.home / "artifacts").rglob("*") if path.is_file()}
    assert {".md", ".py"} <= found


def get_artifact_repository(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """As that of 3.1 is called: without saying whose files these are."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    return _artifact_repository_registry.get_artifact_repository(artifact_uri)
