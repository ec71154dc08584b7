"""Reads a Comet run back from the archives that ``comet upload`` takes, without Comet."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import wave
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from tests.backends.attached import files_of
from tracelet_shim.testing import NDArray, Point, Reader, Trial

_OWN = ("Name", "offline_experiment", "group", "notes")


def original(mapped: str) -> str:
    """Undo what stands in names for characters that are not passed on."""
    if mapped == "_x_":
        return ""
    parts = re.split(r"_x([0-9a-f]+)_", mapped)
    return "".join(chr(int(part, 16)) if i % 2 else part for i, part in enumerate(parts))


def _path(writer: str, tag: str, series: str | None = None) -> str:
    path = f"{writer}/{tag}" if writer else tag
    return path if series is None else f"{path}/{series}"


class Archive:
    """One session's archive, or the directory that a session which has not ended is writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self.files = {file.name: file.read_bytes() for file in path.iterdir()}
        else:
            with zipfile.ZipFile(path) as archive:
                self.files = {name: archive.read(name) for name in archive.namelist()}
        self.about = json.loads(self.files["experiment.json"])
        lines = self.files["messages.json"].decode().splitlines()
        self.messages = [(line["type"], line["payload"]) for line in map(json.loads, lines)]


class CometReader(Reader):
    backend = "comet"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {
            "COMET_OFFLINE_DIRECTORY": str(directory),
            "COMET_START_ONLINE": "false",
            "COMET_CONFIG": str(directory / "no-comet.config"),
            "COMET_ERROR_TRACKING_ENABLE": "false",
            "COMET_LOGGING_CONSOLE": "ERROR",
        }

    # -- the archives -------------------------------------------------------------------------------------------------

    @cached_property
    def _archives(self) -> dict[str, list[Archive]]:
        found: dict[str, list[Archive]] = defaultdict(list)
        for path in (*self.directory.glob("*.zip"), *self.directory.glob("*.part")):
            archive = Archive(path)
            assert re.split("[-.]", path.name)[0] == archive.about["offline_id"]
            found[archive.about["offline_id"]].append(archive)
        for archives in found.values():
            archives.sort(key=lambda a: (a.about["start_time"], a.path.suffix == ".part", a.path.stat().st_mtime_ns))
        return dict(sorted(found.items(), key=lambda item: item[1][0].about["start_time"]))

    @property
    def key(self) -> str:
        if self.run_id is not None:
            return self.run_id
        (only,) = self.run_ids()
        return only

    def archives(self, key: str | None = None) -> list[Archive]:
        return self._archives[key or self.key]

    def messages(self, kind: str, key: str | None = None) -> list[dict[str, Any]]:
        return [payload for archive in self.archives(key) for what, payload in archive.messages if what == kind]

    def others(self, key: str | None = None) -> dict[str, Any]:
        return {message["key"]: message["value"] for message in self.messages("log_other", key)}

    def run_ids(self) -> list[str]:
        return [key for key in self._archives if "tracelet.trial" not in self.others(key)]

    # -- files --------------------------------------------------------------------------------------------------------

    def uploads(self, kind: str, key: str | None = None) -> Iterator[tuple[dict[str, Any], dict[str, Any], bytes]]:
        """Yield (parameters, metadata, content) of the files of one type, in the order in which they were written."""
        for archive in self.archives(key):
            for what, payload in archive.messages:
                if what == "file_upload" and payload["upload_type"] == kind:
                    params = payload["additional_params"]
                    assert kind in ("asset", "visualization") or params["type"] == kind
                    yield params, payload["metadata"], archive.files[payload["file_path"]]

    @cached_property
    def _whole(self) -> dict[str, str]:
        """Key -> name, of the names that were cut."""
        files = self.uploads("asset")
        told = (json.loads(data) for params, _, data in files if params["fileName"].startswith("shortened_names/"))
        return {entry["key"]: entry["name"] for entry in told}

    def named(self, key: str) -> str:
        return self._whole.get(key) or original(key)

    def media(self, kind: str, path: str, suffix: str = "") -> Iterator[tuple[int, bytes]]:
        for params, _, data in self.uploads(kind):
            name = params["figName" if kind == "visualization" else "fileName"]
            if name.endswith(suffix) and self.named(name.removesuffix(suffix)) == path:
                yield params["step"], data

    def files(self, folder: str, path: str, suffix: str) -> Iterator[tuple[int, bytes]]:
        """Yield (step, content) of the files attached for one tag."""
        for params, _, data in self.uploads("asset"):
            top, _, rest = params["fileName"].partition("/")
            key, _, name = rest.rpartition("/")
            if top == folder and name.endswith(suffix) and self.named(key) == path:
                assert int(re.match(r"step=(-?\d+)_", name)[1]) == params["step"]  # type: ignore[index]
                yield params["step"], data

    # -- what a person sees -------------------------------------------------------------------------------------------

    def points(self, key: str) -> Iterator[tuple[str, Point]]:
        for message in self.messages("metric_msg", key):
            metric = message["metric"]
            value = metric["metricValue"]
            value = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
            yield self.named(metric["metricName"]), Point(metric["step"], value, message["local_timestamp"] / 1000)

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        return [point for name, point in self.points(self.key) if name == _path(writer, tag, series)]

    def all_points(self) -> list[tuple[str, int, float]]:
        """Return (path, step, value) of the points in CSV files."""
        rows = []
        for params, _, data in self.uploads("asset"):
            if params["fileName"].startswith("scalars/points-"):
                text = io.StringIO(data.decode("utf-8", "surrogatepass"), newline="")
                rows += [(row["tag"], int(row["step"]), float(row["value"])) for row in csv.DictReader(text)]
        return rows

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        """The exact buckets; `comet_histograms` has what Comet draws."""
        found = []
        for step, data in self.files("histograms", _path(writer, tag), ".json"):
            told = json.loads(data)
            limits = [float(limit) for limit in told["limits"]]
            edges = np.array([min(float(told["min"]), limits[0]), *limits])
            found.append((step, edges, np.array([float(count) for count in told["counts"]])))
        return found

    def comet_histograms(self, writer: str, tag: str) -> list[tuple[int, list[tuple[float, float, int]]]]:
        """Return (step, (left, right, count) of each bin with samples) of Comet's own histograms."""
        found = []
        for step, data in self.media("histogram3d", _path(writer, tag)):
            told = json.loads(data)
            positive = [told["start"]]
            while positive[-1] * told["step"] <= told["stop"]:
                positive.append(positive[-1] * told["step"])
            edges = [-math.inf, *(-x for x in reversed(positive)), 0.0, *positive, math.inf]
            found.append((step, [(edges[i], edges[i + 1], count) for i, count in told["index_values"]]))
        return found

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = self.media("visualization", _path(writer, tag))
        return [(step, np.asarray(Image.open(io.BytesIO(data)))) for step, data in found]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = []
        for step, data in self.media("video", _path(writer, tag), ".gif"):
            frames = ImageSequence.Iterator(Image.open(io.BytesIO(data)))
            found.append((step, np.stack([np.asarray(frame.convert("RGB")) for frame in frames])))
        return found

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        for step, data in self.media("audio", _path(writer, tag), ".wav"):
            with wave.open(io.BytesIO(data)) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                found.append((step, sound.getframerate(), samples))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        return [
            (params["step"], data.decode("utf-8", "surrogatepass"))
            for params, metadata, data in self.uploads("text-sample")
            if metadata["tag"] == _path(writer, tag)
        ]

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for step, data in self.media("curve", _path(writer, tag)):
            curve = json.loads(data)
            found.append((step, np.array(curve["y"], float), np.array(curve["x"], float)))
        return found

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        """The exact meshes; `scenes` has what Comet draws."""
        return [(step, *_ply(data)) for step, data in self.files("meshes", _path(writer, tag), ".ply")]

    def scenes(self, writer: str, tag: str) -> list[tuple[int, list[list[float]], list[dict[str, Any]]]]:
        """Return (step, points, boxes) of Comet's own 3D scenes."""
        found = []
        for archive in self.archives():
            for what, payload in archive.messages:
                if what == "3d-image" and payload["metadata"]["tag"] == _path(writer, tag):
                    Image.open(io.BytesIO(archive.files[payload["thumbnail_path"]])).verify()
                    parts = {
                        item["type"]: [json.loads(line) for line in archive.files[item["file_path"]].splitlines()]
                        for item in payload["items"]
                    }
                    step = payload["step"] if "step" in payload else payload["metadata"]["step"]  # of comet_ml before 3.54
                    found.append((step, parts["points"], parts.get("boxes", [])))
        return found

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        """Follows the links of the projector's template to the files."""
        files = {params["assetId"]: (params["fileName"], data) for params, _, data in self.uploads("asset")}
        found = []
        for step, data in self.media("embeddings", _path(writer, tag), ".json"):
            (shown,) = json.loads(data)["embeddings"]
            linked = {
                key: files[re.search(r"assetId=([0-9a-f]+)&", link)[1]]  # type: ignore[index]
                for key, link in (
                    ("vectors", shown["tensorPath"]),
                    ("labels", shown["metadataPath"]),
                    *([("sprite", shown["sprite"]["imagePath"])] if "sprite" in shown else []),
                )
            }
            matrix = np.loadtxt(io.BytesIO(linked["vectors"][1]), delimiter="\t", ndmin=2)
            assert list(matrix.shape) == shown["tensorShape"]
            if "sprite" in linked:
                Image.open(io.BytesIO(linked["sprite"][1])).verify()
            rows = [line.split("\t") for line in linked["labels"][1].decode().splitlines()]
            if rows == [[str(i)] for i in range(len(matrix))]:
                found.append((step, matrix, None))
            else:
                found.append((step, matrix, rows[1:] if len(rows) == len(matrix) + 1 else rows))
        return found

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(s, np.load(io.BytesIO(data))) for s, data in self.files("tensors", _path(writer, tag), ".npy")]

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto import graph_pb2

        found = [data for name in {_path(writer, ""), writer} for _, data in self.files("graphs", name, ".pb")]
        return [{node.name for node in graph_pb2.GraphDef.FromString(data).node} for data in found]

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        files = self.files("custom_scalars", _path(writer, "custom_scalars__config__"), ".json")
        return [json.loads(data) for _, data in files]

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        attached = ((params["fileName"], data) for params, _, data in self.uploads("asset"))
        return files_of(attached, kind, _path(writer, tag), self.named)

    def params_of(self, key: str) -> dict[str, Any]:
        found = [message["param"] for message in self.messages("parameter_msg", key)]
        return {self.named(param["paramName"]): param["paramValue"] for param in found}

    def params(self) -> dict[str, Any]:
        return self.params_of(self.key)

    def summary_metrics(self) -> dict[str, float]:
        latest = {name: point.value for name, point in self.points(self.key)}
        files = self.uploads("asset")
        told = [json.loads(data) for params, _, data in files if params["fileName"].startswith("hparams/")]
        return {name: latest[name] for entry in told for name in entry["metrics"]}

    def trials(self) -> list[Trial]:
        children = [key for key in self._archives if self.others(key).get("tracelet.parent") == self.key]
        return [Trial(self.params_of(key), {name: p.value for name, p in self.points(key)}) for key in children]

    # -- what is logged through the session itself --------------------------------------------------------------------

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        told = [(step, json.loads(data)) for step, data in self.files("tables", _path(writer, tag), ".json")]
        shown = [list(csv.reader(io.StringIO(data.decode()))) for _, data in self.files("tables", _path(writer, tag), ".csv")]
        assert [(table[0], len(table) - 1) for table in shown] == [(table["columns"], len(table["data"])) for _, table in told]
        return [(step, table["columns"], table["data"]) for step, table in told]

    def artifact(self, name: str) -> dict[str, bytes]:
        """Return the files of an artifact, by their metadata: of an archive."""
        found = [(p["fileName"], about, data) for p, about, data in self.uploads("asset") if about.get("artifact") == name]
        return {path.removeprefix("artifacts/"): data for path, _, data in found}

    def model(self, name: str) -> dict[str, bytes]:
        files = self.uploads("model-element")
        return {params["fileName"]: data for params, _, data in files if self.named(params["groupingName"]) == name}

    def alerts(self) -> list[tuple[str, str, str]]:
        found = []
        for _, metadata, data in self.uploads("text-sample"):
            if metadata["tag"].startswith("tracelet/alerts/"):
                level, title, text = re.fullmatch(r"\*\*(\w+): (.*?)\*\*\n\n(.*)", data.decode(), re.DOTALL).groups()  # type: ignore[union-attr]
                assert metadata["level"] == level
                found.append((title, text, level))
        return found

    def status(self) -> str:
        if self.archives()[-1].path.suffix == ".part":
            return "running"
        return str(self.others().get("tracelet.status", "running"))

    def about(self) -> dict[str, Any]:
        others = self.others()
        labels = {original(label): "" for archive in self.archives() for label in archive.about["tags"]}
        valued = {k: v for k, v in others.items() if k not in _OWN and not k.startswith("tracelet.")}
        project = self.archives()[-1].about["project_name"]
        return {
            "project": others.get("tracelet.project") or (original(project) if project else None),
            "exp_name": others.get("Name"),
            "tags": {**labels, **{original(k): v for k, v in valued.items()}},
            "notes": others.get("notes"),
            "run_id": others.get("tracelet.run_id"),
        }


def _ply(data: bytes) -> tuple[NDArray, NDArray | None, NDArray | None]:
    """Return vertices, faces and colours of an ASCII PLY file."""
    lines = data.decode().splitlines()
    start = lines.index("end_header")
    counts = {words[1]: int(words[2]) for words in map(str.split, lines[:start]) if words[0] == "element"}
    points = np.array([[float(x) for x in line.split()] for line in lines[start + 1 :][: counts["vertex"]]])
    corners = [[int(x) for x in line.split()[1:]] for line in lines[start + 1 + counts["vertex"] :]]
    colours = points[:, 3:].astype(np.uint8) if points.ndim == 2 and points.shape[1] > 3 else None
    return points[:, :3], np.array(corners) if corners else None, colours
