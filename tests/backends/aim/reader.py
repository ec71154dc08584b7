"""Reads an Aim run back, as a user would: ``Repo(path).iter_runs()`` in a process that wrote nothing."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import wave
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

import numpy as np
from PIL import ImageSequence

from tests.backends.attached import files_of, markdown_table
from tracelet_shim.testing import NDArray, Point, Reader, Trial


def plain(key: str) -> str:
    """Return the tag of a mapped key."""
    return "" if key == "_x_" else re.sub("_x([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), key)


class Record(NamedTuple):
    step: int
    value: Any
    wall_time: float


class AimReader(Reader):
    backend = "aim"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {"TRACELET_AIM_REPO": str(directory)}

    # -- runs -------------------------------------------------------------------------------------------------------

    @cached_property
    def runs(self) -> list[Any]:
        from aim import Repo

        return list(Repo(str(self.directory)).iter_runs())

    @cached_property
    def run(self) -> Any:
        runs = [r for r in self.runs if r.get("parent") is None and self.run_id in (None, r.hash)]
        assert len(runs) == 1, f"{len(runs)} runs"
        return runs[0]

    @cached_property
    def extra(self) -> dict[str, Any]:
        return self.run["tracelet"]

    @cached_property
    def props(self) -> dict[str, Any]:
        """Name, description, experiment and tags, from the database: SQLAlchemy's session may show an older state."""
        with closing(sqlite3.connect(self.directory / ".aim" / "run_metadata.sqlite")) as db:
            db.row_factory = sqlite3.Row
            (row,) = db.execute(
                "select run.id, run.name, run.description, e.name as experiment from run "
                "left join experiment e on e.id = run.experiment_id where run.hash = ?", (self.run.hash,)
            ).fetchall()  # fmt: skip
            tags = db.execute(
                "select t.name from tag t join run_tag r on r.tag_id = t.id where r.run_id = ?", (row["id"],)
            )
            return {**dict(row), "tags": {tag for (tag,) in tags}}

    def run_ids(self) -> list[str]:
        return [r.hash for r in self.runs if r.get("parent") is None]

    def whole(self, key: str) -> str:
        """Return the tag of a mapped key that may have been shortened."""
        names = self.extra.get("names", {})
        return names[key] if key in names else plain(key)

    # -- sequences --------------------------------------------------------------------------------------------------

    def records(self, form: str, writer: str, tag: str, run: Any = None, **more: str) -> list[Record]:
        """Return the points of Aim's sequence type `form` with this name and context, repeats of a step behind it."""
        run = run or self.run
        wanted = {**({"writer": writer} if writer else {}), **more}
        found = []
        for info in run.collect_sequence_info((form,), skip_last_value=True)[form]:
            where = dict(info["context"])
            repeat = where.pop("repeat", 0)
            context = {k: v if k in ("type", "gpu") else self.whole(v) for k, v in where.items()}
            if context == wanted and self.whole(info["name"]) == tag:
                for step, epoch, record in self.points(run, info["name"], info["context"]):
                    late = repeat == "more"
                    assert not late or form != "metric" or step == epoch
                    order = (epoch, 1_000, record.wall_time if form == "metric" else step) if late else (step, repeat, 0)
                    found.append((order, record._replace(step=epoch) if late else record))
        return [record for _, record in sorted(found, key=lambda pair: pair[0])]

    @staticmethod
    def points(run: Any, name: str, context: dict[str, Any]) -> list[tuple[int, int, Record]]:
        """Return (step, epoch, record): the columns as they are stored; Aim's methods cut an epoch to float64."""
        from aim.storage.context import Context

        idx = Context(context).idx
        version = run.meta_run_tree["traces", idx, name, "version"]
        columns = run.series_run_trees[version].subtree((idx, name))
        values, epochs, times = (dict(columns.array(c).items()) for c in ("val", "epoch", "time"))
        steps = dict(columns.array("step").items()) if version == 2 else {k: k for k in values}
        assert values.keys() == epochs.keys() == times.keys() == steps.keys()
        return [(steps[k], epochs[k], Record(steps[k], values[k], times[k])) for k in values]

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        more = {} if series is None else {"series": series}
        return [Point(*record) for record in self.records("metric", writer, tag, **more)]

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        records = self.records("distributions", writer, tag, type="histogram")
        return [(r.step, r.value.ranges, r.value.weights) for r in records]

    def exact_histograms(self, writer: str, tag: str) -> list[dict[str, Any]]:
        def value(stored: Any) -> Any:
            return stored if isinstance(stored, float) else tuple(np.frombuffer(stored.load(), "<f8").tolist())

        records = self.records("distributions", writer, tag, type="histogram")
        return [{k: value(v) for k, v in r.value.storage["tensorboard"].items()} for r in records]

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(r.step, np.asarray(r.value.to_pil_image())) for r in self.records("images", writer, tag, type="image")]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        records = self.records("images", writer, tag, type="video")
        return [
            (r.step, np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(r.value.to_pil_image())]))
            for r in records
        ]

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        for record in self.records("audios", writer, tag, type="audio"):
            with wave.open(record.value.get()) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                found.append((record.step, sound.getframerate(), samples))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        return [(r.step, r.value.data) for r in self.records("texts", writer, tag, type="text")]

    def figures(self, writer: str, tag: str, form: str) -> list[tuple[int, dict[str, Any]]]:
        return [(r.step, json.loads(r.value.data)) for r in self.records("figures", writer, tag, type=form)]

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        figures = self.figures(writer, tag, "pr_curve")
        return [(step, np.array(f["data"][0]["y"]), np.array(f["data"][0]["x"])) for step, f in figures]

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        found = []
        for step, figure in self.figures(writer, tag, "mesh"):
            for trace in figure["data"]:
                vertices = np.array([trace[c] for c in "xyz"]).T
                solid = trace["type"] == "mesh3d"
                faces = np.array([trace[c] for c in "ijk"]).T if solid else None
                rgb = trace["vertexcolor"] if solid else trace["marker"]["color"]
                colors = np.array([[int(x) for x in re.findall(r"\d+", c)] for c in rgb]) if rgb else None
                found.append((step, vertices, faces, colors))
        return found

    # -- files ------------------------------------------------------------------------------------------------------

    def files(self, folder: str, path: str | None, suffix: str) -> list[tuple[int, bytes]]:
        """Return (step, content) of the artifacts in `folder` of this tag (with its writer), or of all tags."""
        found = []
        for name, artifact in self.run.artifacts.items():
            top, _, rest = name.partition("/")
            tag, _, file = rest.rpartition("/")
            match = re.match(r"step=(-?\d+)_[0-9a-f]{8}(\..*)", file)
            if top == folder and match and match[2] == suffix and path in (None, self.whole(tag)):
                found.append((int(match[1]), Path(unquote(urlparse(artifact.uri).path)).read_bytes()))
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
        stored = {name: Path(unquote(urlparse(artifact.uri).path)) for name, artifact in self.run.artifacts.items()}
        attached = ((name, path.read_bytes()) for name, path in stored.items())
        return files_of(attached, kind, f"{writer}/{tag}" if writer else tag, self.whole)

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        found = self.records("texts", writer, tag, type="table")
        return [(record.step, *markdown_table(record.value.data)) for record in found]

    def alerts(self) -> list[tuple[str, str, str]]:
        found = []
        for info in self.run.collect_sequence_info(("texts",), skip_last_value=True)["texts"]:
            if info["context"].get("type") == "alert":
                for _, _, record in self.points(self.run, info["name"], info["context"]):
                    level, _, text = record.value.data.partition("**: ")
                    found.append((self.whole(info["name"]), text, level.removeprefix("**")))
        return found

    # -- the run ----------------------------------------------------------------------------------------------------

    def params(self) -> dict[str, Any]:
        return {plain(k): v for k, v in (self.run.get("hparams") or {}).items()}

    def summary_metrics(self) -> dict[str, float]:
        return {plain(k): v for k, v in (self.run.get("summary") or {}).items()}

    def trials(self) -> list[Trial]:
        children = [r for r in self.runs if r.get("parent") == self.run.hash]
        return [
            Trial(*({plain(k): v for k, v in (r.get(part) or {}).items()} for part in ("hparams", "summary")))
            for r in sorted(children, key=lambda r: r.creation_time)
        ]

    def status(self) -> str:
        status = self.run["status"]
        assert self.run.active == (status == "running")
        assert {"failed", "killed"} & self.props["tags"] == {status} - {"finished", "running"}
        return status

    def about(self) -> dict[str, Any]:
        tags = {plain(k): v for k, v in self.extra.get("tags", {}).items()}
        assert {f"{k}={v}" if v else k for k, v in tags.items()} <= self.props["tags"]
        return {
            "project": self.props["experiment"],
            "exp_name": self.props["name"],
            "tags": tags,
            "notes": self.props["description"],
            "run_id": self.extra.get("run_id"),
        }
