"""What is logged through a session itself, in the log of the real SDK, offline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.backends.wandb.reader import WandbReader, _log_records
from tests.backends.wandb.test_wandb import directory, session  # noqa: F401
from tests.sample_events import Maker

pytestmark = pytest.mark.usefixtures("directory")


def records(place: Path, kind: str) -> list[Any]:
    """Return the records of a type in all logs."""
    logs = [log for log in sorted(place.glob("wandb/*run-*/run-*.wandb")) if not log.parent.is_symlink()]
    return [getattr(record, kind) for log in logs for record in _log_records(log) if record.WhichOneof("record_type") == kind]


def test_artifacts(tmp_path: Path) -> None:
    """Each is an Artifact of its type, with its files as they were, and its aliases; a model is one of type model."""
    make = Maker()
    data = make.artifact("my data", folder=True, aliases=("best", "v1"))
    model = msgspec.structs.replace(make.model("net"), category="model")
    session(lambda backend: backend.write([data, model, make.artifact("sample_events.py")]))
    found = records(tmp_path / "w", "artifact")
    assert [(record.name, record.type) for record in found] == [
        ("my_x20_data", "dataset"), ("net", "model"), ("sample_events.py", "dataset"),
    ]  # fmt: skip
    assert set(found[0].aliases) >= {"best", "_x76_1"}
    for record, event in zip(found, (data, model), strict=False):
        held = {entry.path: Path(entry.local_path) for entry in record.manifest.contents}
        assert sorted(held) == ["launch.py", "sample_events.py"]
        for file in event.files:
            content = held[file.path.rpartition("/")[2]].read_bytes()
            assert hashlib.sha256(content).hexdigest() == file.sha256


def test_a_table(tmp_path: Path) -> None:
    """It is a Table with each cell as it was; a long one is cut, and there as a file."""
    make = Maker()
    event = make.table("tab", 3)
    long = msgspec.structs.replace(event, tag="long", rows=event.rows * 4000)
    session(lambda backend: backend.write([event, long]))
    (run,) = WandbReader(tmp_path / "w").runs().values()
    shown = {key: value for row, _ in run.rows for key, value in row.items() if key in ("tab", "long")}
    tables = {key: json.loads((run.folders[0] / value["path"]).read_text()) for key, value in shown.items()}
    assert tables["tab"]["columns"] == list(event.columns)
    assert tables["tab"]["data"][0] == [1, 0.1, "a|b", True]
    assert tables["tab"]["data"][2] == [None, -1e300, "é", None]
    assert len(tables["long"]["data"]) == 10_000
    assert len(list(run.folders[0].glob("tables/long/*.csv"))) == 1


def test_tags_and_alerts(tmp_path: Path) -> None:
    """A tag that comes again has the new value; an alert is one of W&B's."""
    make = Maker()
    events = [make.tags(stage="try", label=""), make.tags(stage="done"), make.alert("t" * 70), make.alert("odd", level="error")]
    session(lambda backend: backend.write(events), tags={"mine": "1"})
    (run,) = WandbReader(tmp_path / "w").runs().values()
    assert set(run.record.tags) == {"mine=1", "stage=done", "label"}
    assert run.about["tags"] == {"mine": "1", "stage": "done", "label": ""}
    first, second = records(tmp_path / "w", "alert")
    assert (first.title, first.level, first.text) == ("t" * 64, "WARN", f"{'t' * 70}\n\nloss is **NaN**")
    assert (second.title, second.level, second.text) == ("odd", "ERROR", "loss is **NaN**")
