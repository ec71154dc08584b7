"""Reads runs of SwanLab 0.6.2 to 0.7 back, from ``backup.swanlab`` (JSON in a LevelDB log) and the files beside it, in the words
of the protobuf records of later versions, as far as the reader needs them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from tests.backends import leveldb

NAME = "backup.swanlab"
MADE_BY_SDK = {"config.yaml", "requirements.txt", "swanlab-metadata.json", "conda.yaml"}


def log_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (model, fields) up to the end, or to where a killed process left off."""
    data = path.read_bytes()
    assert not data or data[:6] == struct.pack("<4sH", b":SWL", 0xE1D6)
    for record in leveldb.records(data):
        line = json.loads(record)
        yield line["model_type"], line["data"]


def told(folder: Path) -> dict[str, Any]:
    """Return what the run's directory says of whose it is; of a user's run its own name is all that there is."""
    path = folder / "tracelet.json"
    return json.loads(path.read_text()) if path.exists() else {"id": folder.name.split("-", 2)[2], "opened": 0.0}


def config_of(folder: Path) -> dict[str, Any]:
    path = folder / "files" / "config.yaml"
    return {k: v["value"] for k, v in (yaml.safe_load(path.read_text()) or {}).items()} if path.exists() else {}


def stamp(text: str) -> SimpleNamespace:
    """Return a time as protobuf has it."""
    since = datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    seconds, nanos = since.days * 86400 + since.seconds, since.microseconds * 1000
    return SimpleNamespace(seconds=seconds, nanos=nanos, ToNanoseconds=lambda: seconds * 10**9 + nanos)


def records(log: Path) -> Iterator[tuple[str, Any]]:
    """Yield (kind, record) as `_Run` wants them."""
    folder, about = log.parent, told(log.parent)
    project: dict[str, Any] = {}
    for model, fields in log_lines(log):
        if model == "Project":
            project = fields
        elif model == "Experiment":
            started = about.get("started") or about["opened"]
            yield "start", SimpleNamespace(
                id=about["id"], job_type="trial" if "trial" in about else "", group=about.get("parent", ""),
                project=project["name"], name=fields["name"], tags=fields["tags"] or [], description=fields["description"],
                started_at=SimpleNamespace(seconds=int(started), ToNanoseconds=lambda started=started: int(started * 1e9)),
            )  # fmt: skip
        elif model == "Column":
            yield "column", SimpleNamespace(column_key=fields["key"], column_type=fields["column_type"])
            assert fields["error"] is None
        elif model in ("Scalar", "Media"):
            yield "point", point(folder, model, fields)
        elif model == "Footer":
            ended = (config_of(folder).get("tracelet") or {}).get("ended") or {}
            when = stamp(ended["at"].replace("Z", "+00:00")) if ended.get("at") else stamp(fields["create_time"])
            yield "finish", SimpleNamespace(
                status=ended.get("status") or ("finished" if fields["success"] else "failed"), finished_at=when
            )
    for path in sorted((folder / "files").rglob("*")):
        name = path.relative_to(folder / "files").as_posix()
        if path.is_file() and name not in MADE_BY_SDK:
            yield "saved", name


def point(folder: Path, model: str, fields: dict[str, Any]) -> SimpleNamespace:
    metric = fields["metric"]
    assert metric["index"] == fields["step"]
    found = SimpleNamespace(key=fields["key"], step=fields["step"], timestamp=stamp(metric["create_time"]))
    if model == "Scalar":
        number = {"NaN": float("nan"), "INF": float("inf")}.get(metric["data"], metric["data"])
        found.media, found.type, found.value = False, "FLOAT", SimpleNamespace(number=float(number))
        return found
    items = []
    names = fields["buffers_name"]
    more = metric.get("more") or [None] * len(metric["data"])
    for shown, about in zip(metric["data"], more, strict=True):
        if names:
            data = (folder / "media" / str(fields["kid"]) / shown).read_bytes()
            items.append(SimpleNamespace(filename=shown, data=data, caption=(about or {}).get("caption", "")))
        else:
            items.append(SimpleNamespace(filename="", data=shown.encode(), caption=(about or {}).get("caption", "")))
    found.media, found.type, found.value = True, None, SimpleNamespace(items=items)
    return found
