"""Reads a Trackio run back from the SQLite files, the media folders and the artifact blobs, without Trackio, whichever version
has written it: ``tracelet_shim/backends/trackio/versions.py`` has what differs, and `Layout` what a database has."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import wave
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from tracelet_shim.testing import NDArray, Point, Reader, Trial

_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def original(mapped: str) -> str:
    """Undo what stands for characters that Trackio does not take."""
    if mapped == "_x_":
        return ""
    parts = re.split(r"_x([0-9a-f]+)_", mapped)
    return "".join(chr(int(part, 16)) if i % 2 else part for i, part in enumerate(parts))


def _path(writer: str, tag: str, series: str | None = None) -> str:
    path = f"{writer}/{tag}" if writer else tag
    return path if series is None else f"{path}/{series}"


def _number(value: Any) -> float:
    return _NUMBERS[value] if isinstance(value, str) else float(value)


class Row(NamedTuple):
    """One call of `log`: keys are the user's names."""

    step: int
    wall_time: float
    values: dict[str, Any]
    times: dict[str, float]  # of values that have another one


class Layout(NamedTuple):
    """What a database has: ids of runs, a table of configs, one of artifacts."""

    run_ids: bool
    configs: bool
    artifacts: bool

    @property
    def run(self) -> str:
        """The column by which rows are a run's."""
        return "run_id" if self.run_ids else "run_name"


class TrackioReader(Reader):
    backend = "trackio"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {
            "TRACKIO_DIR": str(directory / "trackio"),
            "TRACKIO_STORAGE_MODE": "sqlite",
            "HF_HOME": str(directory / "huggingface"),
            "HF_HUB_OFFLINE": "1",
        }

    # -- the database -------------------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        """Trackio's directory: until 0.3 that was in the hub's."""
        return next(
            (place for place in (self.directory / "trackio", self.directory / "huggingface" / "trackio") if place.exists()),
            self.directory / "trackio",
        )

    def databases(self) -> list[Path]:
        return sorted(self.home.glob("*.db"))

    def layout(self, database: Path) -> Layout:
        columns = [row[1] for row in self.query("PRAGMA table_info(metrics)", database=database)]
        tables = {name for (name,) in self.query("SELECT name FROM sqlite_master", database=database)}
        return Layout("run_id" in columns, "configs" in tables, "artifacts" in tables)

    def configs(self, database: Path) -> dict[str, dict[str, Any]]:
        """Return run, by its id or name -> config, in the order in which the runs have begun."""
        layout = self.layout(database)
        begun = f"SELECT {layout.run} FROM metrics GROUP BY {layout.run} ORDER BY MIN(id)"
        found: dict[str, dict[str, Any]] = {str(run): {} for (run,) in self.query(begun, database=database)}
        if layout.configs:
            for run, config in self.query(f"SELECT {layout.run}, config FROM configs", database=database):
                found[run] = json.loads(config)
            return found
        for run, metrics in self.query("SELECT run_name, metrics FROM metrics ORDER BY id", database=database):
            found[run] = json.loads(metrics).get("tracelet/config", found[run])
        return found

    def query(self, sql: str, *values: Any, database: Path | None = None) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(database or self.database)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    @property
    def database(self) -> Path:
        """The file of the project that has the run."""
        run = self.run
        (found,) = [database for database in self.databases() if self._key(run, database) is not None]
        return found

    def _key(self, run: str, database: Path) -> str | None:
        """Return the id or name by which a database has a run."""
        configs = self.configs(database)
        by_id = [key for key, config in configs.items() if config.get("tracelet/id") == run]
        return by_id[0] if by_id else run if run in configs else None

    def key(self, run: str | None = None) -> str:
        key = self._key(run or self.run, self.database)
        assert key is not None
        return key

    def run_ids(self) -> list[str]:
        found = []
        for database in self.databases():
            for run, config in self.configs(database).items():
                if "tracelet/parent" not in config:
                    found.append(str(config.get("tracelet/id", run)))
        return found

    @property
    def run(self) -> str:
        if self.run_id is not None:
            return self.run_id
        (only,) = self.run_ids()
        return only

    def config(self, run: str | None = None) -> dict[str, Any]:
        return self.configs(self.database).get(self.key(run), {})

    def name(self, run: str | None = None) -> str:
        sql = f"SELECT DISTINCT run_name FROM metrics WHERE {self.layout(self.database).run} = ?"
        ((name,),) = self.query(sql, self.key(run))
        return str(name)

    def rows(self, run: str | None = None) -> Iterator[Row]:
        sql = f"SELECT step, timestamp, metrics FROM metrics WHERE {self.layout(self.database).run} = ? ORDER BY id"
        for step, timestamp, text in self.query(sql, self.key(run)):
            stored = {key: value for key, value in json.loads(text).items() if key not in ("tracelet/row", "tracelet/config")}
            wall_time = datetime.fromisoformat(timestamp).timestamp()
            times = stored.pop("tracelet/wall_times", {})
            if "tracelet/wall_time" in stored:
                wall_time = float(stored.pop("tracelet/wall_time"))
            whole = stored.pop("tracelet/tag", [])
            names = {key: original(key) for key in stored}
            names.update(zip([key for key in stored if re.search(r"_h[0-9a-f]{16}$", key)], whole, strict=False))
            assert type(step) is int
            others = {names[key]: seconds for key, seconds in times.items()}
            yield Row(step, wall_time, {names[key]: value for key, value in stored.items()}, others)

    def typed(self, kind: str, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Return (step, value) of everything of one of Trackio's types under one name."""
        return [
            (row.step, value)
            for row in self.rows()
            for key, value in row.values.items()
            if key == name and isinstance(value, dict) and value["_type"] == f"trackio.{kind}"
        ]

    # -- the files ----------------------------------------------------------------------------------------------------

    def media(self, kind: str, name: str, *suffixes: str) -> list[tuple[int, Path]]:
        root = self.home / "media"
        found = [(step, self.at(value["file_path"])) for step, value in self.typed(kind, name)]
        assert all(file.resolve().is_relative_to((root / self.database.stem).resolve()) for _, file in found)
        return [(step, file) for step, file in found if not suffixes or file.suffix in suffixes]

    def at(self, path: str) -> Path:
        """Return where a file is: from 0.3 on it is named by its place in the media directory."""
        return next(place for place in (self.home / "media" / path, self.home / path) if place.exists())

    def listed(self) -> list[dict[str, Any]]:
        """Return what takes the place of artifacts before 0.30: rows that list files."""
        return [
            value
            for row in self.rows()
            for value in row.values.values()
            if isinstance(value, dict) and value["_type"] == "tracelet.files"
        ]

    def artifacts(self, kind: str) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
        """Return (metadata, path -> content) of each version that the run has made, as its page offers them."""
        if not self.layout(self.database).artifacts:
            return [
                (value["metadata"], {path: (self.at(value["directory"]) / path).read_bytes() for path in value["files"]})
                for value in self.listed()
                if value["type"] == kind
            ]
        sql = (
            "SELECT v.metadata, v.manifest FROM artifact_versions v JOIN artifacts a ON a.id = v.artifact_id"
            " JOIN run_artifact_links l ON l.artifact_version_id = v.id"
            " WHERE l.run_id = ? AND l.direction = 'output' AND a.type = ? ORDER BY v.id"
        )
        blobs = self.home / "artifacts" / self.database.stem / "blobs" / "sha256"
        found = []
        for metadata, manifest in self.query(sql, self.run, kind):
            contents = {
                entry["path"]: (blobs / entry["digest"][:2] / entry["digest"]).read_bytes() for entry in json.loads(manifest)
            }
            found.append((json.loads(metadata), contents))
        return found

    def attached(self, kind: str, name: str, suffix: str) -> list[tuple[int, dict[str, bytes]]]:
        """Return (step, suffix -> content) of the versions of one tag that have a file with `suffix`."""
        found = []
        for metadata, contents in self.artifacts(kind):
            if metadata.get("tag") == name:
                named = {"." + path.rpartition("/")[2].partition(".")[2]: data for path, data in contents.items()}
                if suffix in named:
                    found.append((metadata["step"], named))
        return found

    # -- what a person sees -------------------------------------------------------------------------------------------

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        name = _path(writer, tag, series)
        return [
            Point(row.step, _number(row.values[name]), row.times.get(name, row.wall_time))
            for row in self.rows()
            if name in row.values and not isinstance(row.values[name], dict)
        ]

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        """Return the exact buckets; `drawn` has the bins that the dashboard shows."""
        found = []
        name = _path(writer, tag)
        tables = [(step, value) for step, value in self.typed("table", name) if "limits" in value]  # before 0.7
        for step, value in [*self.typed("histogram", name), *tables]:
            limits, counts = ([_number(x) for x in value[field]] for field in ("limits", "counts"))
            found.append((step, np.array([min(_number(value["min"]), limits[0]), *limits] if limits else []), np.array(counts)))
        return found

    def drawn(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        return [
            (step, np.array([_number(x) for x in value["bins"]]), np.array([_number(x) for x in value["values"]]))
            for step, value in self.typed("histogram", _path(writer, tag))
        ]

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = self.media("image", _path(writer, tag), ".png", ".jpeg")
        files = [(step, file.read_bytes()) for step, file in found]
        files += [(step, contents[".png"]) for step, contents in self.attached("image", _path(writer, tag), ".png")]
        return [(step, np.asarray(Image.open(io.BytesIO(data)))) for step, data in files]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = []
        files = [(step, file.read_bytes()) for step, file in self.media("image", _path(writer, tag), ".gif")]
        files += [(step, contents[".gif"]) for step, contents in self.attached("video", _path(writer, tag), ".gif")]
        for step, data in files:
            frames = ImageSequence.Iterator(Image.open(io.BytesIO(data)))
            found.append((step, np.stack([np.asarray(frame.convert("RGB")) for frame in frames])))
        return found

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        files = [(step, file.read_bytes()) for step, file in self.media("audio", _path(writer, tag), ".wav")]
        files += [(step, contents[".wav"]) for step, contents in self.attached("audio", _path(writer, tag), ".wav")]
        for step, data in files:
            with wave.open(io.BytesIO(data)) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                found.append((step, sound.getframerate(), samples))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        name = _path(writer, tag)
        tables = [
            (step, row["text"]) for step, value in self.typed("table", name) for row in value["_value"] if list(row) == ["text"]
        ]
        return [*((step, value["_value"]) for step, value in self.typed("markdown", name)), *tables]

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for step, value in self.typed("table", _path(writer, tag)):
            rows = value["_value"]
            if all("precision" in row for row in rows):
                columns = (np.array([_number(row[name]) for row in rows]) for name in ("precision", "recall"))
                found.append((step, *columns))
        return found

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        name = _path(writer, tag)
        shown = [(step, *_ply(file.read_text())) for step, file in self.media("object3d", name, ".ply")]
        kept = self.attached("mesh", name, ".ply")
        return [*shown, *((step, *_ply(contents[".ply"].decode())) for step, contents in kept)]

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        found = []
        for step, contents in self.attached("embedding", _path(writer, tag), ".tensors.tsv"):
            matrix = np.loadtxt(io.BytesIO(contents[".tensors.tsv"]), delimiter="\t", ndmin=2)
            text = contents.get(".metadata.tsv")
            metadata = [line.split("\t") for line in text.decode().splitlines()] if text is not None else None
            if metadata is not None and len(metadata) == len(matrix) + 1:
                del metadata[0]  # the header
            found.append((step, matrix, metadata))
        return found

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = self.attached("tensor", _path(writer, tag), ".npy")
        return [(step, np.load(io.BytesIO(contents[".npy"]))) for step, contents in found]

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto import graph_pb2

        return [
            {node.name for node in graph_pb2.GraphDef.FromString(contents[".pb"]).node}
            for metadata, all_contents in self.artifacts("graph")
            if metadata["writer"] == writer
            for contents in [{Path(path).suffix: data for path, data in all_contents.items()}]
        ]

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        return [
            json.loads(data)
            for metadata, contents in self.artifacts("custom_scalars")
            if metadata["writer"] == writer
            for data in contents.values()
        ]

    # -- what is logged through the session itself --------------------------------------------------------------------

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        return [
            (metadata["step"], "." + path.rpartition("/")[2].partition(".")[2], data)
            for metadata, contents in self.artifacts(kind)
            if metadata.get("tag") == _path(writer, tag)
            for path, data in contents.items()
        ]

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        found = []
        for step, value in self.typed("table", _path(writer, tag)):
            rows = value["_value"]
            assert all(list(row) == list(rows[0]) for row in rows)
            found.append((step, list(rows[0]), [list(row.values()) for row in rows]))
        return found

    def artifact(self, name: str) -> dict[str, bytes]:
        (kind,) = self._kinds(name)
        held = [contents for metadata, contents in self.artifacts(kind) if metadata.get("name") == name][-1]
        return held if list(held) == [name] else {f"{name}/{path}": data for path, data in held.items()}

    def _kinds(self, name: str) -> list[str]:
        if not self.layout(self.database).artifacts:
            return sorted({value["type"] for value in self.listed() if value["name"] == name})
        return [kind for (kind,) in self.query("SELECT DISTINCT type FROM artifacts WHERE name = ?", name)]

    def model(self, name: str) -> dict[str, bytes]:
        assert self._kinds(name) == ["model"]
        return self.artifact(name)

    def alerts(self) -> list[tuple[str, str, str]]:
        levels = {"info": "info", "warn": "warning", "error": "error"}
        if self.query("SELECT 1 FROM sqlite_master WHERE name = 'alerts'"):
            sql = f"SELECT title, text, level FROM alerts WHERE {self.layout(self.database).run} = ?"
            found = self.query(sql, self.key())
        else:
            tables = [value["_value"][0] for row in self.rows() for key, value in row.values.items() if "/alert/" in key]
            found = [(row["title"], row["text"], row["level"]) for row in tables]
        return [(title, text, levels[level]) for title, text, level in found]

    def params_of(self, run: str) -> dict[str, Any]:
        found = {}
        for key, value in self.config(run).items():
            if key.startswith("tracelet/param/"):
                found[key.removeprefix("tracelet/param/")] = value
            elif not key.startswith(("_", "tracelet/")):
                found[key] = value
        return found

    def params(self) -> dict[str, Any]:
        return self.params_of(self.run)

    def metrics_of(self, run: str) -> dict[str, float]:
        return {name: _number(value) for name, value in self.config(run).get("tracelet/metrics", {}).items()}

    def summary_metrics(self) -> dict[str, float]:
        return self.metrics_of(self.run)

    def trials(self) -> list[Trial]:
        children = [run for run, config in self.configs(self.database).items() if config.get("tracelet/parent") == self.run]
        return [Trial(self.params_of(child), self.metrics_of(child)) for child in children]

    def status(self) -> str:
        return str(self.config()["tracelet/status"])

    def about(self) -> dict[str, Any]:
        config = self.config()
        return {
            "project": config.get("tracelet/project", self.database.stem),
            "exp_name": config.get("tracelet/exp_name", self.name()),
            "tags": {
                key.removeprefix("tracelet/tag/"): value for key, value in config.items() if key.startswith("tracelet/tag/")
            },
            "notes": config.get("tracelet/notes"),
            "run_id": config.get("tracelet/run_id"),
        }


def _ply(text: str) -> tuple[NDArray, NDArray | None, NDArray | None]:
    """Return vertices, faces and colours of an ASCII PLY file."""
    lines = text.splitlines()
    start = lines.index("end_header")
    counts = {words[1]: int(words[2]) for words in map(str.split, lines[:start]) if words[0] == "element"}
    points = np.array([[float(x) for x in line.split()] for line in lines[start + 1 :][: counts["vertex"]]])
    points = points.reshape(counts["vertex"], -1)
    corners = [[int(x) for x in line.split()[1:]] for line in lines[start + 1 + counts["vertex"] :]]
    colours = points[:, 3:].astype(np.uint8) if points.shape[1] > 3 else None
    return points[:, :3], np.array(corners) if corners else None, colours
