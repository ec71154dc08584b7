"""Reads an MLflow run back from the SQLite file and the artifact folder, without MLflow."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sqlite3
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageSequence

from tests.backends.attached import files_of
from tracelet_shim.testing import NDArray, Point, Reader, Trial


def original(mapped: str) -> str:
    """Undo what stands in keys and file names for characters that MLflow does not take."""
    if mapped == "_x_":
        return ""
    parts = re.split(r"_x([0-9a-f]+)_", mapped)
    return "".join(chr(int(part, 16)) if i % 2 else part for i, part in enumerate(parts))


def _path(writer: str, tag: str, series: str | None = None) -> str:
    path = f"{writer}/{tag}" if writer else tag
    return path if series is None else f"{path}/{series}"


def _by_step(found: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    return sorted(found, key=lambda item: item[0])


class MLflowReader(Reader):
    backend = "mlflow"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": str(directory / "artifacts"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    # -- the database -------------------------------------------------------------------------------------------------

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.directory / "mlflow.db")
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def run_ids(self) -> list[str]:
        children = "SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId'"
        rows = self.query(f"SELECT run_uuid FROM runs WHERE run_uuid NOT IN ({children}) ORDER BY rowid")
        return [run for (run,) in rows]

    @property
    def run(self) -> str:
        if self.run_id is not None:
            return self.run_id
        (only,) = self.run_ids()
        return only

    def tags(self, run: str | None = None) -> dict[str, str]:
        return dict(self.query("SELECT key, value FROM tags WHERE run_uuid = ?", run or self.run))

    def params_of(self, run: str) -> dict[str, str]:
        rows = self.query("SELECT key, value FROM params WHERE run_uuid = ?", run)
        return {self.named(key): value for key, value in rows}

    def infinite(self, run: str) -> dict[tuple[str, int, int, float], float]:
        """Return (key, step, timestamp, stored value) -> the infinity that MLflow could not store."""
        listed = self.artifacts(run).glob("infinite_values/*.json")
        rows = [row for file in listed for row in json.loads(file.read_text())]
        stored = {"inf": 1.7976931348623157e308, "-inf": -1.7976931348623157e308}
        return {
            (row["key"], row["step"], row["timestamp"], stored[row["value"]]): float(row["value"]) for row in rows
        }

    def points(self, run: str, name: str) -> list[Point]:
        sql = "SELECT key, value, is_nan, timestamp, step FROM metrics WHERE run_uuid = ? ORDER BY rowid"
        infinite = self.infinite(run)
        return [
            Point(step, infinite.get((key, step, when, value), math.nan if is_nan else value), when / 1000)
            for key, value, is_nan, when, step in self.query(sql, run)
            if self.named(key) == name
        ]

    def latest(self, run: str) -> dict[str, float]:
        sql = "SELECT key, value, is_nan, timestamp, step FROM latest_metrics WHERE run_uuid = ?"
        infinite = self.infinite(run)
        return {
            self.named(key): infinite.get((key, step, when, value), math.nan if is_nan else value)
            for key, value, is_nan, when, step in self.query(sql, run)
        }

    # -- the files ----------------------------------------------------------------------------------------------------

    def artifacts(self, run: str | None = None) -> Path:
        ((uri,),) = self.query("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run or self.run)
        parts = urlsplit(uri)
        return Path(unquote(parts.path)) if parts.scheme == "file" else Path(uri)

    def named(self, key: str) -> str:
        """Return the user's name for a key; a key that was cut has its name in a file."""
        if not re.search(r"_h[0-9a-f]{16}$", key):
            return original(key)
        told = self.artifacts() / "shortened_names" / f"{key[-16:]}.json"
        return json.loads(told.read_text())["name"] if told.exists() else original(key)

    def files(self, folder: str, name: str, *suffixes: str) -> Iterator[tuple[int, Path]]:
        """Yield (step, file) of the artifacts of one tag, in the order in which they were written."""
        root = self.artifacts() / folder
        found = [file for file in root.rglob("step=*") if self.named(str(file.parent.relative_to(root))) == name]
        for file in sorted(found, key=lambda file: file.stat().st_mtime_ns):
            stem, _, rest = file.name.partition(".")
            if f".{rest}" in suffixes:
                yield int(stem.removeprefix("step=").rpartition("_")[0]), file

    # -- what a person sees -------------------------------------------------------------------------------------------

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        return self.points(self.run, _path(writer, tag, series))

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for step, file in self.files("histograms", _path(writer, tag), ".json"):
            data = json.loads(file.read_text())
            limits = [float(limit) for limit in data["limits"]]
            edges = np.array([min(float(data["min"]), limits[0]), *limits])
            found.append((step, edges, np.array([float(count) for count in data["counts"]])))
        return sorted(found, key=lambda item: item[0])

    def image_files(self) -> list[tuple[str, int, int, Path]]:
        """Return (key, step, timestamp in ms, file) of the image grid, parsed as MLflow's UI does (ImageReducer)."""
        found = []
        for file in self.artifacts().glob("images/*.png"):
            key, word, step, other, when, _identity = file.name.split("+")
            assert (word, other) == ("step", "timestamp")
            assert file.with_name(file.stem + "+compressed.webp").exists()
            found.append((key.replace("~", "/"), int(step), int(when), file))
        return sorted(found, key=lambda item: (item[1], item[3].stat().st_mtime_ns))

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [
            (step, np.asarray(Image.open(file)))
            for key, step, _, file in self.image_files()
            if self.named(key) == _path(writer, tag)
        ]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = []
        for step, file in self.files("videos", _path(writer, tag), ".gif"):
            frames = ImageSequence.Iterator(Image.open(file))
            found.append((step, np.stack([np.asarray(frame.convert("RGB")) for frame in frames])))
        return _by_step(found)

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        for step, file in self.files("audio", _path(writer, tag), ".wav"):
            with wave.open(str(file)) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                found.append((step, sound.getframerate(), samples))
        return sorted(found, key=lambda item: item[0])

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        files = self.files("text", _path(writer, tag), ".md")
        return _by_step([(step, file.read_bytes().decode("utf-8", "surrogatepass")) for step, file in files])

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for step, file in self.files("pr_curves", _path(writer, tag), ".csv"):
            rows = list(csv.DictReader(io.StringIO(file.read_text())))
            columns = (np.array([float(row[name]) for row in rows]) for name in ("precision", "recall"))
            found.append((step, *columns))
        return sorted(found, key=lambda item: item[0])

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        found = [(step, *_ply(file)) for step, file in self.files("meshes", _path(writer, tag), ".ply")]
        return sorted(found, key=lambda item: item[0])

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        found = []
        for step, file in self.files("embeddings", _path(writer, tag), ".tensors.tsv"):
            rows = file.with_name(file.name.replace(".tensors.", ".metadata."))
            matrix = np.loadtxt(file, delimiter="\t", ndmin=2)
            metadata = [line.split("\t") for line in rows.read_text().splitlines()] if rows.exists() else None
            if metadata is not None and len(metadata) == len(matrix) + 1:
                del metadata[0]  # the header
            found.append((step, matrix, metadata))
        return sorted(found, key=lambda item: item[0])

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return _by_step([(step, np.load(file)) for step, file in self.files("tensors", _path(writer, tag), ".npy")])

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto import graph_pb2

        found = [file for name in {_path(writer, ""), writer} for _, file in self.files("graphs", name, ".pb")]
        return [{node.name for node in graph_pb2.GraphDef.FromString(file.read_bytes()).node} for file in found]

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        files = self.files("custom_scalars", _path(writer, "custom_scalars__config__"), ".json")
        return [json.loads(file.read_text()) for _, file in files]

    def params(self) -> dict[str, Any]:
        return self.params_of(self.run)

    def summary_metrics(self) -> dict[str, float]:
        latest = self.latest(self.run)
        files = (self.artifacts() / "hparams").rglob("step=*.json")
        return {name: latest[name] for file in files for name in json.loads(file.read_text())["metrics"]}

    def trials(self) -> list[Trial]:
        sql = "SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ? ORDER BY rowid"
        return [Trial(self.params_of(child), self.latest(child)) for (child,) in self.query(sql, self.run)]

    def status(self) -> str:
        ((status,),) = self.query("SELECT status FROM runs WHERE run_uuid = ?", self.run)
        return str(status).lower()

    def about(self) -> dict[str, Any]:
        sql = "SELECT e.name, r.name FROM runs r JOIN experiments e USING (experiment_id) WHERE run_uuid = ?"
        ((project, name),) = self.query(sql, self.run)
        tags = self.tags()
        run_id = tags.get("tracelet.run_id")
        return {
            "project": original(project),
            "exp_name": tags.get("tracelet.exp_name") or original(name),
            "tags": {original(k): v for k, v in tags.items() if not k.startswith(("mlflow.", "tracelet."))},
            "notes": tags.get("mlflow.note.content"),
            "run_id": original(run_id) if run_id else None,
        }

    # -- what is logged through the session itself --------------------------------------------------------------------

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        root = self.artifacts()
        attached = ((file.relative_to(root).as_posix(), file.read_bytes()) for file in root.rglob("*") if file.is_file())
        return files_of(attached, kind, _path(writer, tag), self.named)

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        """Return those that the run's tag names, which the page of evaluations shows."""
        found = []
        for told in json.loads(self.tags().get("mlflow.loggedArtifacts", "[]")):
            folder, _, name = told["path"].rpartition("/")
            if told["type"] == "table" and self.named(folder.removeprefix("tables/")) == _path(writer, tag):
                content = json.loads((self.artifacts() / told["path"]).read_text())
                found.append((int(name.removeprefix("step=").rpartition("_")[0]), content["columns"], content["data"]))
        return found

    def model(self, name: str) -> dict[str, bytes]:
        """Return the files of the latest logged model of this name that is an output of the run; those of the artifact in a store
        of MLflow 2, which has no such models."""
        if not self.query("SELECT 1 FROM sqlite_master WHERE name = 'logged_models'"):
            return self.artifact(name)
        sql = (
            "SELECT m.artifact_location FROM logged_models m JOIN inputs i ON i.destination_id = m.model_id"
            " WHERE m.name = ? AND m.status = 2 AND i.source_id = ? AND i.destination_type = 'MODEL_OUTPUT'"
            " ORDER BY m.creation_timestamp_ms"
        )
        (*_, (location,)) = self.query(sql, name, self.run)
        root = Path(unquote(urlsplit(location).path))
        return {f"{name}/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def alerts(self) -> list[tuple[str, str, str]]:
        told = json.loads(self.tags().get("tracelet.alerts", "[]"))
        assert all((self.artifacts() / one["file"]).is_file() for one in told)
        return [(one["title"], one["text"], one["level"]) for one in told]


def _ply(file: Path) -> tuple[NDArray, NDArray | None, NDArray | None]:
    """Return vertices, faces and colours of an ASCII PLY file."""
    lines = file.read_text().splitlines()
    start = lines.index("end_header")
    counts = {words[1]: int(words[2]) for words in map(str.split, lines[:start]) if words[0] == "element"}
    points = np.array([[float(x) for x in line.split()] for line in lines[start + 1 :][: counts["vertex"]]])
    corners = [[int(x) for x in line.split()[1:]] for line in lines[start + 1 + counts["vertex"] :]]
    colours = points[:, 3:].astype(np.uint8) if points.shape[1] > 3 else None
    return points[:, :3], np.array(corners) if corners else None, colours
