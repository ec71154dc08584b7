"""Reads SwanLab runs back from their ``.swanlab`` logs (a LevelDB log of protobuf records) and the files beside them; those of
0.6 and 0.7 are read by `tests.backends.swanlab.old`."""

from __future__ import annotations

import io
import json
import re
import struct
import wave
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image, ImageSequence

from tests.backends.attached import files_of
from tests.backends.leveldb import records
from tests.backends.swanlab import old
from tracelet_shim.testing import NDArray, Point, Reader, Trial

_REPEAT = re.compile(r"(.*) \((?:repeat (\d)|(more)|(more: step)|(more: rest)|(infinity))\)", re.DOTALL)
_KIND = re.compile(r"(.*) \(([a-z_]+)\)", re.DOTALL)


def _log_records(path: Path) -> Iterator[Any]:
    """Return the records of a log up to its end, or to where a killed process left off."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    data = path.read_bytes()
    assert not data or data[:7] == struct.pack("<4sHB", b":SWL", 0xE1D6, 2)
    return map(Record.FromString, records(data))


class Entry(NamedTuple):
    """A point of a key: `order` is its place among the points of its tag."""

    order: tuple[int, ...]
    step: int
    wall_time: float
    value: Any


class _Run:
    """All directories (one a session) of one run, put together."""

    def __init__(self, logs: list[Path]) -> None:
        self.logs = logs
        self.start: Any = None
        self.finish: Any = None
        self.columns: dict[str, int] = {}
        self.points: list[tuple[Path, Any]] = []
        self.saved: set[str] = set()
        self.config: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        for log in logs:
            self.finish = None
            if log.name == old.NAME:
                self._read_old(log)
                continue
            for record in _log_records(log):
                what = record.WhichOneof("record_type")
                if what == "start":
                    self.start = record.start
                elif what == "finish":
                    self.finish = record.finish
                elif what == "column":
                    key, kind = record.column.column_key, record.column.column_type
                    assert self.columns.setdefault(key, kind) == kind
                elif what in ("scalar", "media"):
                    point = getattr(record, what)
                    assert self.columns[point.key] == point.type
                    self.points.append((log.parent, point))
                elif what == "save" and record.save.type == 0:
                    assert Path(record.save.source_path).is_file()
                    assert not Path(record.save.source_path).is_symlink()
                    self.saved.add(record.save.name)
            files = log.parent / "files"
            self.config = {k: v["value"] for k, v in yaml.safe_load((files / "config.yaml").read_text()).items()}
            if (names := files / "tracelet" / "names.jsonl").exists():
                self.names |= dict(map(json.loads, names.read_text().splitlines()))
        self.about = self.config.pop("tracelet", {})

    def _read_old(self, log: Path) -> None:
        for what, record in old.records(log):
            if what in ("start", "finish"):
                setattr(self, what, record)
            elif what == "column":
                assert self.columns.setdefault(record.column_key, record.column_type) == record.column_type
            elif what == "point":
                assert record.media or self.columns[record.key] == record.type
                self.points.append((log.parent, record))
            else:
                self.saved.add(record)
        self.config = old.config_of(log.parent)
        if (names := log.parent / "files" / "tracelet" / "names.jsonl").exists():
            self.names |= dict(map(json.loads, names.read_text().splitlines()))

    @cached_property
    def entries(self) -> dict[tuple[str, str], list[Entry]]:
        """(tag, kind) -> points in order, repeats behind the point they repeat."""
        found: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        steps: dict[tuple[str, int], float] = {}
        rests: dict[tuple[str, int], float] = {}
        infinities: dict[tuple[str, int], float] = {}
        seen = set()
        for _, point in self.points:
            assert (point.key, point.step) not in seen, "SwanLab would drop this"
            seen.add((point.key, point.step))
            for table, end in ((steps, " (more: step)"), (rests, " (more: rest)"), (infinities, " (infinity)")):
                if point.key.endswith(end):
                    table[point.key.removesuffix(end), point.step] = point.value.number
        for folder, point in self.points:
            key, repeat = point.key, 0
            if key.endswith((" (more: step)", " (more: rest)", " (infinity)")):
                continue
            if match := _REPEAT.fullmatch(key):
                key, repeat = match[1], 100 if match[3] else int(match[2])
            media = point.media if isinstance(point, SimpleNamespace) else point.DESCRIPTOR.name == "MediaRecord"
            named = _KIND.fullmatch(key) if media else None  # None: the user's own media, in a run that he shared
            tag, kind = named.groups() if named else (key, "media" if media else "scalar")
            step = point.step
            if repeat == 100 and media:
                step = int(point.value.items[0].caption.removeprefix("step "))
            elif repeat == 100:
                step = int(steps[key, point.step]) + int(rests.get((key, point.step), 0))
            wall = (point.timestamp.seconds * 10**9 + point.timestamp.nanos) / 10**9
            items = [self.content(folder, point, item) for item in point.value.items] if media else []
            value: Any = items if media else point.value.number
            if not media and np.isinf(value) and isinstance(point, SimpleNamespace):
                value *= infinities[point.key, point.step]  # 0.6 and 0.7 write INF for both
            if not media and np.isinf(value):
                assert infinities[point.key, point.step] == np.sign(value)
            found[self.whole(tag), kind].append(Entry((step, repeat, point.step), step, wall, value))
        return {name: sorted(entries, key=lambda e: e.order) for name, entries in found.items()}

    @staticmethod
    def content(folder: Path, point: Any, item: Any) -> tuple[str, bytes]:
        if isinstance(point, SimpleNamespace):
            return item.filename, item.data
        from swanlab.proto.swanlab.metric.column.v1.column_pb2 import ColumnType

        name = ColumnType.Name(point.type).removeprefix("COLUMN_TYPE_").lower()
        data = (folder / "media" / name / item.filename).read_bytes()
        assert len(data) == item.size
        return item.filename, data

    def whole(self, key: str) -> str:
        """Undo the key of a tag, which may have been cut."""
        if key in self.names:
            return self.names[key]
        return "" if key == "_x_" else re.sub(r"_x([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), key)

    def params(self) -> dict[str, Any]:
        return {self.whole(k): v for k, v in self.config.items()}

    def metrics(self) -> dict[str, float]:
        return {k: float(v) for k, v in self.about.get("metrics", {}).items()}


class SwanLabReader(Reader):
    backend = "swanlab"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {"SWANLAB_MODE": "offline", "SWANLAB_LOG_DIR": str(directory)}

    @cached_property
    def runs(self) -> dict[str, _Run]:
        logs: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.directory.glob("run-*/run-*.swanlab")):
            first = next(_log_records(path), None)
            if first is not None:
                logs[first.start.id].append(path)
        for path in sorted(self.directory.glob(f"run-*/{old.NAME}"), key=lambda path: old.told(path.parent)["opened"]):
            logs[old.told(path.parent)["id"]].append(path)
        return {run_id: _Run(paths) for run_id, paths in logs.items()}

    @cached_property
    def run(self) -> _Run:
        ids = [self.run_id] if self.run_id else self.run_ids()
        assert len(ids) == 1, ids
        return self.runs[ids[0]]

    def run_ids(self) -> list[str]:
        return [run_id for run_id, run in self.runs.items() if run.start.job_type != "trial"]

    def entries(self, kind: str, writer: str, tag: str) -> list[Entry]:
        return self.run.entries.get((f"{writer}/{tag}" if writer else tag, kind), [])

    def charts(self, kind: str, writer: str, tag: str) -> list[tuple[int, dict[str, Any]]]:
        return [(e.step, json.loads(e.value[0][1])) for e in self.entries(kind, writer, tag)]

    # -- events -----------------------------------------------------------------------------------------------------

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        path = tag if series is None else f"{tag}/{series}"
        return [Point(e.step, e.value, e.wall_time) for e in self.entries("scalar", writer, path)]

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        """The exact buckets; `shown` has the bars."""
        found = []
        for step, chart in self.charts("histogram", writer, tag):
            exact = chart["tracelet"]
            limits = [float(x) for x in exact["limits"]]
            left = min([float(exact["min"]), *limits[:1]])
            found.append((step, np.array([left, *limits]), np.array([float(x) for x in exact["counts"]])))
        return found

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(e.step, np.asarray(Image.open(io.BytesIO(e.value[0][1])))) for e in self.entries("image", writer, tag)]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = []
        for entry in self.entries("video", writer, tag):
            frames = ImageSequence.Iterator(Image.open(io.BytesIO(entry.value[0][1])))
            found.append((entry.step, np.stack([np.asarray(frame.convert("RGB")) for frame in frames])))
        return found

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        for entry in self.entries("audio", writer, tag):
            with wave.open(io.BytesIO(entry.value[0][1])) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                found.append((entry.step, sound.getframerate(), samples))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        return [(e.step, e.value[0][1].decode()) for e in self.entries("text", writer, tag)]

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for step, chart in self.charts("pr_curve", writer, tag):
            data = chart["dataset"]
            columns = dict(zip(data["dimensions"], np.array(data["source"], float).T, strict=True))
            found.append((step, columns["precision"], columns["recall"]))
        return found

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        found: list[tuple[int, NDArray, NDArray | None, NDArray | None]] = []
        for entry in self.entries("mesh", writer, tag):
            for name, data in entry.value:
                if name.endswith(".glb"):
                    found.append((entry.step, *glb(data)))
                else:
                    assert name.endswith(".swanlab.pts.json")
                    cloud = json.loads(data)
                    points = np.array(cloud["points"])
                    found.append((entry.step, points[:, :3], None, None if "tracelet" in cloud else points[:, 3:]))
        return found

    # -- files ------------------------------------------------------------------------------------------------------

    def files(self, folder: str, path: str | None, suffix: str) -> list[tuple[int, bytes]]:
        """Return (step, content) of the files in `folder` of this tag (with its writer), or of all tags."""
        found = []
        for name in self.run.saved:
            top, _, rest = name.partition("/")
            tag, _, file = rest.rpartition("/")
            match = re.match(r"step=(-?\d+)_[0-9a-f]{8}(\..*)", file)
            if top == folder and match and match[2] == suffix and path in (None, self.run.whole(tag)):
                places = [log.parent / "files" / name for log in self.run.logs]
                found.append((int(match[1]), next(p for p in places if p.exists()).read_bytes()))
        return sorted(found)

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        path = f"{writer}/{tag}" if writer else tag
        rows = {step: data.decode().splitlines() for step, data in self.files("embeddings", path, ".metadata.tsv")}
        found = []
        for step, data in self.files("embeddings", path, ".tensors.tsv"):
            matrix = np.loadtxt(io.BytesIO(data), ndmin=2)
            cells = [line.split("\t") for line in rows[step]][-len(matrix) :] if step in rows else None
            found.append((step, matrix, cells))
        return found

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        path = f"{writer}/{tag}" if writer else tag
        return [(step, np.load(io.BytesIO(data))) for step, data in self.files("tensors", path, ".npy")]

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto import graph_pb2

        files = self.files("graphs", f"{writer}/" if writer else "", ".pb")
        return [{node.name for node in graph_pb2.GraphDef.FromString(data).node} for _, data in files]

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        path = f"{writer}/custom_scalars__config__" if writer else "custom_scalars__config__"
        return [json.loads(data) for _, data in self.files("custom_scalars", path, ".json")]

    # -- what is logged through the session itself ------------------------------------------------------------------

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        places = [(name, [log.parent / "files" / name for log in self.run.logs]) for name in self.run.saved]
        attached = ((name, next(place for place in found if place.exists()).read_bytes()) for name, found in places)
        return files_of(attached, kind, f"{writer}/{tag}" if writer else tag, self.run.whole)

    # -- the run ----------------------------------------------------------------------------------------------------

    def params(self) -> dict[str, Any]:
        return self.run.params()

    def summary_metrics(self) -> dict[str, float]:
        return self.run.metrics()

    def trials(self) -> list[Trial]:
        children = [run for run in self.runs.values() if run.start.job_type == "trial"]
        mine = [run for run in children if run.about["parent"] == self.run.start.id]
        assert all(run.start.group == self.run.start.id for run in mine)
        mine.sort(key=lambda run: run.start.started_at.ToNanoseconds())
        return [Trial(run.params(), run.metrics()) for run in mine]

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        found = []
        for step, shown in self.charts("table", writer, tag):
            assert shown["_swanLab"] == "table"
            columns = [column["field"] for column in shown["colDefs"]]
            found.append((step, columns, [[row[name] for name in columns] for row in shown["rowData"]]))
        return found

    def alerts(self) -> list[tuple[str, str, str]]:
        entries = [(title, entry) for (title, kind), found in self.run.entries.items() if kind == "alert" for entry in found]
        told = []
        for title, entry in entries:
            head, _, text = entry.value[0][1].decode().partition("\n\n")
            level = head.removeprefix("**").removesuffix(f": {title}**")
            told.append((title, text, level))
        return told

    def status(self) -> str:
        if self.run.finish is None:
            return "running"
        if isinstance(self.run.finish, SimpleNamespace):
            return str(self.run.finish.status)
        from swanlab.proto.swanlab.run.v1.run_pb2 import RunState

        states = {"FINISHED": "finished", "CRASHED": "failed", "ABORTED": "killed"}
        return states[RunState.Name(self.run.finish.state).removeprefix("RUN_STATE_")]

    def about(self) -> dict[str, Any]:
        start, about = self.run.start, self.run.about
        tags = about.get("tags", {})
        assert {f"{k}={v}" if v else k for k, v in tags.items()} >= {self.run.whole(tag) for tag in start.tags}
        assert self.run.whole(start.project) == about.get("project", self.run.whole(start.project))
        return {
            "project": self.run.whole(start.project),
            "exp_name": self.run.whole(start.name),
            "tags": tags,
            "notes": about.get("notes"),
            "run_id": self.run.whole(start.id) if "run_id" in about else None,
        }


def glb(data: bytes) -> tuple[NDArray, NDArray, NDArray | None]:
    """Return vertices, faces and colours of a binary glTF file."""
    magic, version, total, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON")
    scene = json.loads(data[20 : 20 + size])
    body_size, body_kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    body = data[28 + size :]
    assert (body_size, body_kind, body_size % 4, size % 4) == (len(body), b"BIN\0", 0, 0)

    def array(index: int) -> NDArray:
        accessor = scene["accessors"][index]
        view = scene["bufferViews"][accessor["bufferView"]]
        dtype = {5126: "<f4", 5125: "<u4", 5121: "u1"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        part = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return np.frombuffer(part, dtype).reshape(accessor["count"], width)

    (primitive,) = scene["meshes"][0]["primitives"]
    attributes = primitive["attributes"]
    colors = array(attributes["COLOR_0"])[:, :3] if "COLOR_0" in attributes else None
    return array(attributes["POSITION"]), array(primitive["indices"]).reshape(-1, 3), colors
