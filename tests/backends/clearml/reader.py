"""Reads offline ClearML sessions back from their folders, or where these are gone, from the zip files beside them."""

from __future__ import annotations

import io
import json
import re
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from tracelet_shim.testing import NDArray, Point, Reader, Trial

_CASTS: dict[str, Any] = {"int": int, "float": float, "bool": lambda text: text == "True"}


class _Session:
    """The files of one offline session."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path) if path.suffix == ".zip" else None
        self.path = path
        self.id = path.name.removesuffix(".zip")
        self.task = json.loads(self.read("task.json"))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes() if self.zip is None else self.zip.read(name)

    def names(self) -> set[str]:
        if self.zip is not None:
            return set(self.zip.namelist())
        return {path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()}

    def events(self) -> list[dict[str, Any]]:
        if "metrics.jsonl" not in self.names():
            return []
        return [event for line in self.read("metrics.jsonl").splitlines() for event in json.loads(line)]

    def section(self, name: str) -> dict[str, Any]:
        items = self.task.get("hyperparams", {}).get(name, {}).values()
        return {i["name"]: _CASTS.get(i.get("type"), str)(i["value"]) for i in items}


class _Item(NamedTuple):
    """A reported event, under the names that the user gave."""

    writer: str
    tag: str
    series: str | None
    label: str
    part: str
    step: int
    event: dict[str, Any]


class ClearMLReader(Reader):
    backend = "clearml"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {
            "CLEARML_CACHE_DIR": str(directory),
            "CLEARML_OFFLINE_MODE": "1",
            "CLEARML_CONFIG_FILE": str(directory / "no-clearml.conf"),
        }

    def _sessions(self) -> list[_Session]:
        found = sorted((self.directory / "offline").glob("offline-*"), key=lambda path: path.suffix == ".zip")
        by_id: dict[str, Path] = {}
        for path in found:
            by_id.setdefault(path.name.removesuffix(".zip"), path)
        return [_Session(path) for path in by_id.values()]

    def run_ids(self) -> list[str]:
        return [session.id for session in self._sessions() if not session.task.get("parent")]

    def session(self) -> _Session:
        run_id = self.run_id
        if run_id is None:
            (run_id,) = self.run_ids()
        return next(session for session in self._sessions() if session.id == run_id)

    def zip_names(self) -> set[str]:
        """Return what is in the zip file that can be imported."""
        session = self.session()
        return set(zipfile.ZipFile(self.directory / "offline" / f"{session.id}.zip").namelist())

    def file(self, event: dict[str, Any]) -> bytes:
        return self.session().read(f"data/{event['key']}")

    def items(self) -> Iterator[_Item]:
        """Yield all events in the order in which they were reported."""
        session = self.session()
        cut = json.loads(session.task.get("configuration", {}).get("tracelet.names", {}).get("value", "{}"))

        def whole(key: str) -> str:
            if key in cut:
                return str(cut[key])
            return "" if key == "_x_" else re.sub("_x([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), key)

        for event in session.events():
            if event["type"] == "log":
                continue
            title, *labels = event["metric"].split(" · ")
            leaf, *rest = event["variant"].split(" ·")
            writer = next((whole(text[1:]) for text in rest if text.startswith(" ")), "")
            marks = [text for text in rest if not text.startswith(" ")]
            step = next((int(text[5:]) for text in marks if text.startswith("step ")), event.get("iter", 0))
            part = next((text for text in marks if not text.startswith("step ") and text != "2"), "")
            label = next((text for text in labels if text != "repeated"), "")
            if title.endswith("/"):
                tag, series = whole(title[:-1]), whole(leaf)
            else:
                head, last, series = whole(title), whole(leaf), None
                tag = last if "/" in last or (head == last and "/" not in head) else f"{head}/{last}"
            yield _Item(writer, tag, series, label, part, step, event)

    def _find(self, kind: str, writer: str, tag: str, label: str) -> list[_Item]:
        return [
            i for i in self.items()
            if i.event["type"] == kind and (i.writer, i.tag, i.label) == (writer, tag, label) and i.step != -(2**31)
        ]  # fmt: skip

    def _media(self, writer: str, tag: str, label: str, part: str = "") -> list[tuple[int, bytes]]:
        found = self._find("training_debug_image", writer, tag, label)
        return [(i.step, self.file(i.event)) for i in found if i.part == part]

    def _figures(self, writer: str, tag: str, label: str) -> list[tuple[int, list[dict[str, Any]]]]:
        return [(i.step, json.loads(i.event["plot_str"])["data"]) for i in self._find("plot", writer, tag, label)]

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        points = []
        for item in self.items():
            same = (item.writer, item.tag, item.series) == (writer, tag, series)
            if same and item.event["type"] == "training_stats_scalar" and item.step != -(2**31):
                value = float(item.label) if item.label else item.event["value"]
                points.append(Point(item.step, value, item.event["timestamp"] / 1000))
        return points

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for step, (bars,) in self._figures(writer, tag, "histogram"):
            edges = np.array([*bars["x"], bars["x"][-1] + bars["width"][-1]])
            np.testing.assert_allclose(edges[1:], edges[:-1] + np.array(bars["width"]))
            found.append((step, edges, np.array(bars["y"])))
        return found

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(step, np.asarray(Image.open(io.BytesIO(data)))) for step, data in self._media(writer, tag, "")]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        found = []
        for step, data in self._media(writer, tag, "video"):
            frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]
            found.append((step, np.stack(frames)))
        return found

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        for step, data in self._media(writer, tag, "audio"):
            with wave.open(io.BytesIO(data)) as sound:
                found.append((step, sound.getframerate(), np.frombuffer(sound.readframes(sound.getnframes()), "<i2")))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        return [(step, data.decode("utf-8", "surrogatepass")) for step, data in self._media(writer, tag, "text")]

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        figures = self._figures(writer, tag, "PR curve")
        return [(step, np.array(line["y"]), np.array(line["x"])) for step, (line,) in figures]

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        found = []
        for step, traces in self._figures(writer, tag, "mesh"):
            for trace in traces:
                vertices = np.stack([trace[axis] for axis in "xyz"], axis=1)
                faces = np.stack([trace[axis] for axis in "ijk"], axis=1) if trace["type"] == "mesh3d" else None
                rgb = trace.get("vertexcolor") or trace.get("marker", {}).get("color")
                colors = np.array([[int(n) for n in re.findall(r"\d+", c)] for c in rgb]) if rgb else None
                found.append((step, vertices, faces, colors))
        return found

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        tables = dict(self._media(writer, tag, "embedding", "metadata.tsv"))
        found = []
        for step, data in self._media(writer, tag, "embedding", "tensors.tsv"):
            matrix = np.array([[float(cell) for cell in row.split("\t")] for row in data.decode().splitlines()])
            lines = [line.split("\t") for line in tables[step].decode().split("\n")[:-1]] if step in tables else None
            found.append((step, matrix, lines[-len(matrix) :] if lines is not None else None))
        return found

    def sprites(self, writer: str, tag: str) -> list[tuple[int, bytes]]:
        return self._media(writer, tag, "embedding", "sprite.png")

    def figures(self, writer: str, tag: str, label: str) -> list[tuple[int, list[dict[str, Any]]]]:
        return self._figures(writer, tag, label)

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(step, np.load(io.BytesIO(data))) for step, data in self._media(writer, tag, "tensor", "npy")]

    def artifacts(self) -> dict[str, bytes]:
        stored = (self.session().task.get("execution") or {}).get("artifacts") or []
        return {a["key"]: Path(a["uri"]).read_bytes() for a in stored}

    def graphs(self, writer: str = "") -> list[set[str]]:
        found = []
        for name, data in self.artifacts().items():
            folder = name.split("/step=")[0]
            if name.endswith(".pbtxt") and folder == (f"graphs/{writer}_x2f_" if writer else "graphs/_x_"):  # path "train/"
                found.append(set(re.findall(r'^  name: "(.*)"$', data.decode(), re.MULTILINE)))
        return found

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        wanted = re.compile("custom_scalars" + (re.escape(f" · {writer}") if writer else "") + r"( ·\d+)?")
        stored = self.session().task.get("configuration", {})
        return [json.loads(item["value"]) for name, item in stored.items() if wanted.fullmatch(name)]

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        shown = self._find("training_debug_image", writer, tag, kind)
        return [(item.step, f".{item.part}", self.file(item.event)) for item in shown]

    def artifact(self, name: str) -> dict[str, bytes]:
        return {path: data for path, data in self.artifacts().items() if path == name or path.startswith(f"{name}/")}

    def alerts(self) -> list[tuple[str, str, str]]:
        lines = [event for event in self.session().events() if event["type"] == "log"]
        found = []
        for level, title, text in (line["msg"].split(": ", 2) for line in lines):
            assert level in [line["level"] for line in lines]
            found.append((title, text, level))
        return found

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        found = []
        for step, (trace,) in self._figures(writer, tag, "table"):
            assert trace["type"] == "table"
            columns, values = trace["header"]["values"], trace["cells"]["values"]
            found.append((step, columns, [list(row) for row in zip(*values, strict=True)]))
        return found

    def params(self) -> dict[str, Any]:
        session = self.session()
        return {_text(k): v for name in ("General", "hparams") for k, v in session.section(name).items()}

    def summary_metrics(self) -> dict[str, float]:
        return _summary(self.session())

    def trials(self) -> list[Trial]:
        parent = self.session().id
        children = [s for s in self._sessions() if s.task.get("parent") == parent]
        return [Trial({_text(k): v for k, v in s.section("hparams").items()}, _summary(s)) for s in children]

    def status(self) -> str:
        return str(self.session().section("properties").get("tracelet.status", "running"))

    def about(self) -> dict[str, Any]:
        session = self.session()
        properties = session.section("properties")
        labels = session.task.get("tags") or []
        tags = {tag: "" for tag in labels if not tag.startswith("tracelet.")}
        tags |= {_text(name): value for name, value in properties.items() if not name.startswith("tracelet.")}
        return {
            "project": properties.get("tracelet.project", session.task["project_name"]),
            "exp_name": properties.get("tracelet.exp_name", session.task["name"]),
            "tags": tags,
            "notes": session.task.get("comment"),
            "run_id": next((t.partition(":")[2] for t in labels if t.startswith("tracelet.run_id:")), None),
        }


def _text(key: str) -> str:
    return "" if key == "_x_" else re.sub("_x([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), key)


def _summary(session: _Session) -> dict[str, float]:
    found = {}
    for event in session.events():
        if event["type"] == "log":
            continue
        title, _, label = event["metric"].partition(" · ")
        if title == "Summary" and event.get("iter") == -(2**31):
            found[_text(event["variant"])] = float(label) if label else event["value"]
    return found
