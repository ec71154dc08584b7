"""Reads a DVCLive directory back from its tables, JSON, YAML and media files, without DVCLive."""

from __future__ import annotations

import csv
import io
import json
import re
import wave
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from ruamel.yaml import YAML

from tests.backends.attached import files_of
from tracelet_shim.testing import NDArray, Point, Reader, Trial


def original(mapped: str) -> str:
    """Undo what stands in file names for characters that are not used there."""
    if mapped == "_x_":
        return ""
    parts = re.split(r"_x([0-9a-f]+)_", mapped)
    return "".join(chr(int(part, 16)) if i % 2 else part for i, part in enumerate(parts))


def flat(summary: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in summary.items():
        found.update(flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


def _picture(file: Path) -> Image.Image:
    return Image.open(io.BytesIO(file.read_bytes()))


def _path(writer: str, tag: str, series: str | None = None) -> str:
    path = f"{writer}/{tag}" if writer else tag
    return path if series is None else f"{path}/{series}"


class DVCLiveReader(Reader):
    backend = "dvclive"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {"TRACELET_DVCLIVE_DIR": str(directory / "run")}

    def run_ids(self) -> list[str]:
        found = self.directory.rglob("run.json")
        return sorted(str(path.parent) for path in found if path.parent.parent.name != "trials")

    @property
    def run(self) -> Path:
        if self.run_id is not None:
            return Path(self.run_id)
        (only,) = self.run_ids()
        return Path(only)

    def json(self, name: str) -> Any:
        path = self.run / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def named(self, mapped: str) -> str:
        """Return the path (writer and tag) that a file name or a key stands for."""
        return self.json("names.json").get(mapped) or original(mapped)

    def files(self, folder: str, path: str, *suffixes: str) -> list[tuple[int, Path]]:
        """Return (step, file) of the files of this path below `folder`, in the order of steps."""
        base = self.run / folder
        found = []
        for file in sorted(base.rglob("*")) if base.is_dir() else ():
            if file.is_file() and file.name.endswith(suffixes) and self.named(file.parent.relative_to(base).as_posix()) == path:
                match = re.match(r"(?:step=)?(-?\d+)[._]", file.name)
                assert match, file
                found.append((int(match.group(1)), file))
        return sorted(found)

    # -- what a person sees -------------------------------------------------------------------------------------------

    def columns(self) -> Iterator[tuple[str, Path]]:
        base = self.run / "plots" / "metrics"
        for file in sorted(base.rglob("*.tsv")):
            yield file.relative_to(base).as_posix().removesuffix(".tsv"), file

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        points = []
        for key, file in self.columns():
            if self.named(key) == _path(writer, tag, series):
                with file.open(encoding="utf-8", newline="") as stream:
                    rows = csv.DictReader(stream, delimiter="\t")
                    value = Path(key).name
                    assert rows.fieldnames == ["timestamp", "step", value]
                    points += [Point(int(r["step"]), float(r[value]), int(r["timestamp"]) / 1000) for r in rows]
        return points

    def plots(self, kind: str, writer: str, tag: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        for step, file in self.files(f"plots/custom/{kind}", _path(writer, tag), ".json"):
            yield step, json.loads(file.read_text())

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for step, rows in self.plots("histograms", writer, tag):
            assert all(left["right"] == right["left"] for left, right in pairwise(rows))
            edges = [rows[0]["left"], *(row["right"] for row in rows)]
            found.append((step, np.array(edges, float), np.array([row["count"] for row in rows])))
        return found

    def pictures(self, writer: str, tag: str, *suffixes: str) -> list[tuple[int, Path]]:
        return self.files("plots/images", _path(writer, tag), *suffixes)

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(step, np.asarray(_picture(file))) for step, file in self.pictures(writer, tag, ".png", ".jpeg")]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = []
        for step, file in self.pictures(writer, tag, ".gif"):
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(_picture(file))]
            found.append((step, np.stack(frames)))
        return found

    def media(self, kind: str, writer: str, tag: str, *suffixes: str) -> list[tuple[int, Path]]:
        return self.files(f"media/{kind}", _path(writer, tag), *suffixes)

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        for step, file in self.media("audio", writer, tag, ".wav"):
            with wave.open(str(file)) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                found.append((step, sound.getframerate(), samples))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        return [(step, file.read_bytes().decode()) for step, file in self.media("text", writer, tag, ".md")]

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        return [
            (step, *(np.array([row[name] for row in rows]) for name in ("precision", "recall")))  # type: ignore[misc]
            for step, rows in self.plots("pr_curves", writer, tag)
        ]

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        return [(step, *_ply(file.read_text())) for step, file in self.media("meshes", writer, tag, ".ply")]

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        found = []
        for step, file in self.media("embeddings", writer, tag, ".tensors.tsv"):
            metadata = file.with_name(file.name.replace(".tensors.", ".metadata."))
            rows = None
            if metadata.exists():
                rows = [line.split("\t") for line in metadata.read_text().splitlines()]
                rows = rows[1:] if len(rows[0]) > 1 else rows
            found.append((step, np.loadtxt(file, delimiter="\t", ndmin=2), rows))
        return found

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(step, np.load(io.BytesIO(file.read_bytes()))) for step, file in self.media("tensors", writer, tag, ".npy")]

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto import graph_pb2

        found = []
        for _, file in self.media("graphs", writer, "", ".pb"):
            found.append({node.name for node in graph_pb2.GraphDef.FromString(file.read_bytes()).node})
        return found

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        base = self.run / "media/custom_scalars"
        return [
            json.loads(file.read_text())
            for file in sorted(base.rglob("*.json"))
            if self.named(file.parent.relative_to(base).as_posix()) == _path(writer, "custom_scalars__config__")
        ]

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        paths = {path.relative_to(self.run): path for path in self.run.rglob("*") if path.is_file()}
        attached = ((name.as_posix().removeprefix("media/"), path.read_bytes()) for name, path in paths.items())
        return files_of(attached, kind, _path(writer, tag), self.named)

    def params(self) -> dict[str, Any]:
        return self.yaml(self.run / "params.yaml")

    @staticmethod
    def yaml(path: Path) -> dict[str, Any]:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8")) if path.exists() else {}

    def summary_metrics(self) -> dict[str, float]:
        numbers = flat(self.json("metrics.json"))
        numbers.pop("step", None)  # DVCLive's own
        return {self.named(key): float(value) for key, value in numbers.items()}

    def trials(self) -> list[Trial]:
        found = []
        for directory in sorted((self.run / "trials").iterdir()):
            metrics = directory / "metrics.json"
            numbers = flat(json.loads(metrics.read_text())) if metrics.exists() else {}
            numbers.pop("step", None)
            found.append(
                Trial(self.yaml(directory / "params.yaml"), {original(key): float(value) for key, value in numbers.items()})
            )
        return found

    # -- what is logged through the session itself --------------------------------------------------------------------

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        whole = self.media("tables", writer, tag, ".csv")
        heads = {step: next(csv.reader(file.open(encoding="utf-8", newline=""))) for step, file in whole}
        return [
            (step, heads[step], [[row[name] for name in heads[step]] for row in rows])
            for step, rows in self.plots("tables", writer, tag)
        ]

    def artifact(self, name: str) -> dict[str, bytes]:
        """Return the files of what dvc.yaml lists as the artifact."""
        listed = self.yaml(self.run / "dvc.yaml")["artifacts"]
        (about,) = (each for key, each in listed.items() if each.get("desc", key) == name)
        place = self.run / about["path"]
        files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        return {path.relative_to(self.run / "artifacts").as_posix(): path.read_bytes() for path in files}

    def model(self, name: str) -> dict[str, bytes]:
        listed = self.yaml(self.run / "dvc.yaml")["artifacts"]
        assert {each.get("type") for key, each in listed.items() if each.get("desc", key) == name} == {"model"}
        return self.artifact(name)

    def tags(self) -> dict[str, str]:
        return dict(self.params()["tracelet"]["tags"])

    def status(self) -> str:
        return self.json("run.json")["status"]

    def about(self) -> dict[str, Any]:
        kept = self.json("run.json")
        return {key: kept.get(key) for key in ("project", "exp_name", "tags", "notes", "run_id", "group", "config")}


def _ply(text: str) -> tuple[NDArray, NDArray | None, NDArray | None]:
    """Return vertices, faces and colours of an ASCII PLY file."""
    head, _, body = text.partition("end_header\n")
    counts = {name: int(number) for name, number in re.findall(r"element (\w+) (\d+)", head)}
    rows = [line.split() for line in body.splitlines()]
    points, faces = rows[: counts["vertex"]], rows[counts["vertex"] :]
    vertices = np.array([row[:3] for row in points], float)
    colors = np.array([row[3:6] for row in points], int) if "red" in head else None
    return vertices, np.array([row[1:] for row in faces], int) if "face" in counts else None, colors
