"""Reads W&B runs back from their ``.wandb`` logs (a LevelDB log of protobuf records) and the files beside them."""

from __future__ import annotations

import html
import io
import json
import re
import struct
import wave
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from tests.backends.attached import files_of
from tracelet_shim.testing import NDArray, Point, Reader, Trial

_OWN = {"_timestamp", "_runtime", "_step", "_wandb", "global_step"}
"""W&B's own columns of a row, and the x axis."""


def _log_records(path: Path) -> Iterator[Any]:
    """Yield the records of a log up to its end, or to where a killed process left off."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        crc, size, kind = struct.unpack("<IHB", data[at : at + 7])
        piece = data[at + 7 : at + 7 + size]
        if kind == 0 or len(piece) < size or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != crc:
            return
        at += 7 + size
        parts = piece if kind in (1, 2) else parts + piece
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(parts)


def _path_of(key: str, full: dict[str, str]) -> str:
    """Undo the key of a tag; `full` knows the keys that had to be cut."""
    if key in full:
        return full[key]
    if key == "_x_":
        return ""
    return re.sub(r"_x([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), key)


class _Run:
    """All segments (one a session) of one run, put together."""

    def __init__(self, logs: list[Path]) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.rows: list[tuple[dict[str, Any], Path]] = []
        self.metrics: list[Any] = []
        self.environment: dict[str, Any] = {}
        self.uploads: set[str] = set()
        self.artifacts: list[Any] = []
        self.alerts: list[Any] = []
        self.record: Any = None
        self.exit_code: int | None = None
        self.folders = [log.parent / "files" for log in logs]
        self.names: dict[str, str] = {}
        for log in logs:
            self.exit_code = None
            for record in _log_records(log):
                self._take(record, log.parent / "files")
            if (metadata := log.parent / "files" / "wandb-metadata.json").exists() and not self.environment:
                told = json.loads(metadata.read_text())  # up to 0.18 or so the log has no record of it
                self.environment = {"code_path": told.pop("codePath", None), **told}
            names = log.parent / "files" / "names.json"
            if names.exists():
                self.names |= json.loads(names.read_text())
        about = [key for key in self.config if key.startswith("tracelet/")]
        self.about: dict[str, Any] = {key[len("tracelet/") :]: self.config.pop(key) for key in about}
        self.charts: dict[str, Any] = self.config.pop("_wandb", {}).get("visualize", {})

    def _take(self, record: Any, folder: Path) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.record = record.run
            self._merge(self.config, record.run.config.update)
        elif kind == "config":
            self._merge(self.config, record.config.update)
        elif kind == "summary":
            self._merge(self.summary, record.summary.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            self._merge(row, record.history.item)
            self.rows.append((row, folder))
        elif kind == "files":
            self.uploads |= {file.path for file in record.files.files}
        elif kind in ("artifact", "alert"):
            (self.artifacts if kind == "artifact" else self.alerts).append(getattr(record, kind))
        elif kind == "metric":
            self.metrics.append(record.metric)
        elif kind == "environment":
            self.environment |= {f.name: v for f, v in record.environment.ListFields()}
        elif kind == "exit":
            self.exit_code = record.exit.exit_code

    @staticmethod
    def _merge(target: dict[str, Any], items: Any) -> None:
        for item in items:
            *folders, last = list(item.nested_key) or [item.key]
            inner = target
            for name in folders:
                if not isinstance(inner.get(name), dict):  # a summary key whose type changed
                    inner[name] = {}
                inner = inner[name]
            inner[last] = json.loads(item.value_json)


class WandbReader(Reader):
    backend = "wandb"

    def __init__(self, directory: Path, run_id: str | None = None) -> None:
        super().__init__(directory, run_id)
        self._read: tuple[Any, dict[str, _Run]] = (None, {})

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        directory.mkdir(parents=True, exist_ok=True)
        names = ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR")
        return {
            **{f"WANDB_{name}": str(directory) for name in names},
            "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "NETRC": str(directory / "netrc"),
        }  # fmt: skip

    # -- runs -------------------------------------------------------------------------------------------------------

    def runs(self) -> dict[str, _Run]:
        """Return all runs by id, children included."""
        logs: dict[str, list[Path]] = {}
        for log in sorted(self.directory.glob("wandb/*run-*/run-*.wandb")):
            if not log.parent.is_symlink():
                logs.setdefault(log.name[len("run-") : -len(".wandb")], []).append(log)
        state = [(log, log.stat().st_size) for segments in logs.values() for log in segments]
        if self._read[0] != state:
            self._read = (state, {run_id: _Run(segments) for run_id, segments in logs.items()})
        return self._read[1]

    def run(self) -> _Run:
        return self.runs()[self.run_id or self._only()]

    def _only(self) -> str:
        (run_id,) = self.run_ids()
        return run_id

    def run_ids(self) -> list[str]:
        return [run_id for run_id, run in self.runs().items() if "parent" not in run.about]

    # -- values -----------------------------------------------------------------------------------------------------

    def values(self, path: str, kind: str) -> Iterator[tuple[dict[str, Any], Any, Path]]:
        """Yield (row, value, folder) for a tag, whether it has the plain key or shares it with another type."""
        run = self.run()
        for row, folder in run.rows:
            for key, value in row.items():
                plain = key.removesuffix(f" ({kind})")
                if key not in _OWN and _path_of(plain, run.names) == path:
                    yield row, value, folder

    def media(self, writer: str, tag: str, kind: str, *types: str) -> Iterator[tuple[int, dict[str, Any], Path]]:
        for row, value, folder in self.values(self.path(writer, tag), kind):
            if isinstance(value, dict) and value.get("_type") in types:
                yield row["global_step"], value, folder

    def attached(self, kind: str, path: str, suffix: str) -> list[tuple[int, Path]]:
        folders = [folder / kind for folder in self.run().folders]
        files = [(folder, file) for folder in folders for file in folder.rglob("step=*" + suffix)]
        mine = [file for folder, file in files if _path_of(file.parent.relative_to(folder).as_posix(), {}) == path]
        mine.sort(key=lambda file: file.stat().st_mtime_ns)
        return [(int(file.name[len("step=") :].split("_")[0]), file) for file in mine]

    @staticmethod
    def path(writer: str, tag: str) -> str:
        return f"{writer}/{tag}" if writer else tag

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        path = self.path(writer, tag) + ("" if series is None else f"/{series}")
        return [
            Point(row["global_step"], float(value), row.get("_timestamp"))
            for row, value, _ in self.values(path, "scalar")
            if isinstance(value, (int, float))
        ]

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = self.media(writer, tag, "histogram", "histogram")
        return [(step, np.array(value["bins"]), np.array(value["values"])) for step, value, _ in found]

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = self.media(writer, tag, "image", "image-file")
        return [(step, np.asarray(Image.open(folder / value["path"]))) for step, value, folder in found]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        result = []
        for step, value, folder in self.media(writer, tag, "video", "video-file"):
            frames = ImageSequence.Iterator(Image.open(folder / value["path"]))
            result.append((step, np.stack([np.asarray(frame.convert("RGB")) for frame in frames])))
        return result

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        result = []
        for step, value, folder in self.media(writer, tag, "audio", "audio-file"):
            with wave.open(str(folder / value["path"])) as file:
                samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
                result.append((step, file.getframerate(), samples))
        return result

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        result = []
        for step, value, folder in self.media(writer, tag, "text", "html-file"):
            page = (folder / value["path"]).read_bytes().decode()
            inner = re.fullmatch(r"<meta[^>]*><pre[^>]*>\n(.*)</pre>", page, re.DOTALL)
            assert inner, page
            result.append((step, html.unescape(inner[1])))
        return result

    @staticmethod
    def table(value: dict[str, Any], folder: Path) -> dict[str, list[Any]]:
        content = json.loads((folder / value["path"]).read_text(encoding="utf-8"))
        return {name: [row[i] for row in content["data"]] for i, name in enumerate(content["columns"])}

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        run = self.run()
        result = []
        for row, folder in run.rows:
            for key, value in row.items():
                table = re.fullmatch(r"Custom Chart Tables/(.*?)( \(pr_curve\))?_table", key, re.DOTALL)
                if table and _path_of(table[1], run.names) == self.path(writer, tag):
                    columns = self.table(value, folder)
                    result.append((row["global_step"], np.array(columns["precision"]), np.array(columns["recall"])))
        return result

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        return [
            (step, *self._mesh(folder / item["path"]))
            for step, value, folder in self.media(writer, tag, "mesh", "object3D-file", "object3D")
            for item in value.get("objects", [value])
        ]

    @staticmethod
    def _mesh(path: Path) -> tuple[NDArray, NDArray | None, NDArray | None]:
        if path.suffix == ".obj":
            lines = [line.split() for line in path.read_text().splitlines()]
            points = np.array([line[1:] for line in lines if line[0] == "v"], float)
            faces = np.array([line[1:] for line in lines if line[0] == "f"], int) - 1
            colors = np.round(points[:, 3:] * 255)
        else:
            points, faces = np.array(json.loads(path.read_text()), float), None
            colors = points[:, 3:]
        return points[:, :3], faces, colors.astype(np.uint8) if colors.shape[1] else None

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        result = []
        for step, value, folder in self.media(writer, tag, "embedding", "table-file"):
            columns = self.table(value, folder)
            columns.pop("image", None)
            dims = [name for name in columns if re.fullmatch(r"d\d+", name)]
            matrix = np.array([columns.pop(name) for name in dims]).T
            result.append((step, matrix, [list(row) for row in zip(*columns.values(), strict=True)] or None))
        return result

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = self.attached("tensors", self.path(writer, tag), ".npy")
        return [(step, np.load(io.BytesIO(file.read_bytes()))) for step, file in found]

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto import graph_pb2

        found = self.attached("graphs", self.path(writer, ""), ".pb")
        return [{node.name for node in graph_pb2.GraphDef.FromString(file.read_bytes()).node} for _, file in found]

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        found = self.attached("custom_scalars", self.path(writer, "custom_scalars__config__"), ".json")
        return [json.loads(file.read_text()) for _, file in found]

    # -- what is logged through the session itself ------------------------------------------------------------------

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        paths = [(path, folder) for folder in self.run().folders for path in folder.rglob("*") if path.is_file()]
        attached = ((path.relative_to(folder).as_posix(), path.read_bytes()) for path, folder in paths)
        return files_of(attached, kind, self.path(writer, tag), lambda mapped: _path_of(mapped, {}))

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        found = []
        for step, value, folder in self.media(writer, tag, "table", "table-file"):
            content = json.loads((folder / value["path"]).read_text(encoding="utf-8"))
            found.append((step, content["columns"], content["data"]))
        return found

    def artifact(self, name: str) -> dict[str, bytes]:
        record = [record for record in self.run().artifacts if record.name == name][-1]
        held = {entry.path: Path(entry.local_path).read_bytes() for entry in record.manifest.contents}
        return {name: held[name]} if list(held) == [name] else {f"{name}/{path}": data for path, data in held.items()}

    def model(self, name: str) -> dict[str, bytes]:
        assert {record.type for record in self.run().artifacts if record.name == name} == {"model"}
        return self.artifact(name)

    def alerts(self) -> list[tuple[str, str, str]]:
        levels = {"INFO": "info", "WARN": "warning", "ERROR": "error"}
        return [(alert.title, alert.text, levels[alert.level]) for alert in self.run().alerts]

    # -- the run's own fields ---------------------------------------------------------------------------------------

    def params(self) -> dict[str, Any]:
        return self._params(self.run())

    @staticmethod
    def _params(run: _Run) -> dict[str, Any]:
        return {_path_of(key, run.names): value for key, value in run.config.items()}

    def summary_metrics(self) -> dict[str, float]:
        return self._metrics(self.run())

    @staticmethod
    def _metrics(run: _Run) -> dict[str, float]:
        numbers = {k: v for k, v in run.summary.items() if k not in _OWN and isinstance(v, (int, float))}
        return {_path_of(key, run.names): value for key, value in numbers.items()}

    def trials(self) -> list[Trial]:
        parent = self.run_id or self._only()
        children = [run for run in self.runs().values() if run.about.get("parent") == parent]
        return [Trial(self._params(run), self._metrics(run)) for run in children]

    def status(self) -> str:
        code = self.run().exit_code
        return "running" if code is None else {0: "finished", 255: "killed"}.get(code, "failed")

    def about(self) -> dict[str, Any]:
        run = self.run()
        record = run.record
        stored = {
            "project": record.project, "exp_name": record.display_name, "notes": record.notes, "run_id": record.run_id,
            "tags": dict.fromkeys(record.tags, ""),
        }  # fmt: skip
        return stored | {key: run.about[key] for key in stored if key in run.about}
