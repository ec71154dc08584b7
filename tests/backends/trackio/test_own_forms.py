"""What is logged through a session itself, in the real store: of this machine, and of a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.trackio.live import TrackioServer
from tests.backends.trackio.reader import TrackioReader
from tests.backends.trackio.test_trackio import home  # noqa: F401 - a fixture
from tests.sample_events import Maker, run_info
from tracelet_shim.backends.trackio.backend import TrackioBackend


@pytest.fixture(scope="module", params=["here", "server"])
def place(
    request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory  # noqa: F811
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return where the store is, and the options for it."""
    if request.param == "here":
        yield home, {}
        return
    server = TrackioServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server.store, {"server_url": server.url}
    server.close()


def test_each_is_there_once(place: tuple[Path, dict[str, Any]]) -> None:
    """Tables, artifacts, models, tags and alerts are there, also if they come twice."""
    directory, options = place
    backend = TrackioBackend(options)
    backend.open(run_info(session="00000000000000aa", project="own-forms", tags={"stage": "first"}))
    make = Maker()
    table, data = make.table("tab", 3), make.artifact("my data", folder=True, aliases=("best",))
    events = [table, data, make.model("net"), make.tags(stage="done"), make.alert("odd")]
    backend.write(events)
    backend.write(events[:2] + events[4:])
    backend.close("finished")

    reader = TrackioReader(directory, "00000000000000aa")
    (row,) = [stored["tab"] for text in reader.query("SELECT metrics FROM metrics") if "tab" in (stored := json.loads(text[0]))]
    assert row["_type"] == "trackio.table"
    assert row["_value"][0] == {"n": 1, "value": 0.1, "te|xt": "a|b", "ok": True}
    assert len(reader.artifacts("table")) == 1
    sql = (
        "SELECT a.name, a.type, v.manifest FROM artifact_versions v JOIN artifacts a ON a.id = v.artifact_id"
        " WHERE a.type = 'dataset' ORDER BY v.id"
    )
    found = reader.query(sql)
    assert [(name, kind) for name, kind, _ in found] == [("my_x20_data", "dataset"), ("net", "dataset")]
    held = {entry["path"]: entry["digest"] for entry in json.loads(found[0][2])}
    assert held == {file.path.removeprefix("my data/"): file.sha256 for file in data.files}
    contents = dict(reader.artifacts("dataset")[0][1])
    assert contents["launch.py"] == Path(data.files[1].at).read_bytes()
    assert reader.query("SELECT alias FROM artifact_aliases WHERE alias != 'latest'") == [("best",)]
    assert reader.config()["tracelet/tag/stage"] == "done"
    assert reader.query("SELECT title, text, level FROM alerts") == [("odd", "loss is **NaN**", "warn")]
