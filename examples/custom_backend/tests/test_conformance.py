"""tracelet-shim's own conformance suite, run against this backend: ``pytest``.

What a backend's author writes for it is the reader. It finds in the run's directory what the suite asks for, and shares
no code with the backend.
"""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tracelet_shim.testing import Point, Reader, Trial

pytest.register_assert_rewrite("tracelet_shim.testing.conformance")  # a failed check then shows the values

from tracelet_shim.testing.conformance import CHECKS, Conformance, run_program  # noqa: E402


class JsonLinesReader(Reader):
    backend = "jsonlines"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {"TRACELET_JSONLINES_DIR": str(directory)}

    def run_ids(self) -> list[str]:
        return [str(path.parent) for path in sorted(self.directory.glob("*/run.json"))]

    @property
    def run(self) -> Path:
        return Path(self.run_id or self.run_ids()[0])

    def lines(self, kind: str, writer: str | None = None, tag: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.run / "events.jsonl").read_text().splitlines()]
        return [
            line
            for line in lines
            if line["type"] == kind and writer in (None, line["writer"]) and tag in (None, line["tag"])
        ]

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        lines = [line for line in self.lines("scalar", writer, tag) if line["series"] == series]
        return [Point(line["step"], float(line["value"]), line["wall_time"]) for line in lines]

    def histograms(self, writer: str, tag: str) -> list[Any]:
        found = []
        for line in self.lines("histogram", writer, tag):
            first = min(line["min"], line["limits"][0])
            found.append((line["step"], np.array([first, *line["limits"]]), np.array(line["counts"])))
        return found

    def files(self, kind: str, writer: str, tag: str) -> list[tuple[int, Path]]:
        return [(line["step"], self.run / "files" / line["file"]) for line in self.lines(kind, writer, tag)]

    def images(self, writer: str, tag: str) -> list[Any]:
        return [(step, np.asarray(Image.open(path))) for step, path in self.files("image", writer, tag)]

    def videos(self, writer: str, tag: str) -> list[Any]:
        found = []
        for step, path in self.files("video", writer, tag):
            frames = ImageSequence.Iterator(Image.open(path))
            found.append((step, np.stack([np.asarray(frame.convert("RGB")) for frame in frames])))
        return found

    def audio(self, writer: str, tag: str) -> list[Any]:
        found = []
        for step, path in self.files("audio", writer, tag):
            with wave.open(io.BytesIO(path.read_bytes())) as wav:
                samples = np.frombuffer(wav.readframes(wav.getnframes()), np.int16)
                found.append((step, wav.getframerate(), samples))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        return [(line["step"], line["text"]) for line in self.lines("text", writer, tag)]

    def pr_curves(self, writer: str, tag: str) -> list[Any]:
        lines = self.lines("prcurve", writer, tag)
        return [(line["step"], np.array(line["precision"]), np.array(line["recall"])) for line in lines]

    def meshes(self, writer: str, tag: str) -> list[Any]:
        found = []
        for line in self.lines("mesh", writer, tag):
            parts = [array(line[part]) for part in ("vertices", "faces", "colors")]
            found.append((line["step"], *(part if part is None else part[0] for part in parts)))
        return found

    def embeddings(self, writer: str, tag: str) -> list[Any]:
        lines = self.lines("embedding", writer, tag)
        return [(line["step"], array(line["matrix"]), line["metadata"]) for line in lines]

    def tensors(self, writer: str, tag: str) -> list[Any]:
        return [(line["step"], array(line["value"])) for line in self.lines("tensor", writer, tag)]

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        protos = [base64.b64decode(line["graph_def"]) for line in self.lines("graph", writer)]
        return [{node.name for node in GraphDef.FromString(proto).node} for proto in protos]

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        return [line["layout"] for line in self.lines("customscalars", writer)]

    def params(self) -> dict[str, Any]:
        own = [line["params"] for line in self.lines("hparams") if line["trial"] is None]
        return {**self.about()["config"], **{name: value for params in own for name, value in params.items()}}

    def summary_metrics(self) -> dict[str, float]:
        own = [line["metrics"] for line in self.lines("hparams") if line["trial"] is None]
        return {name: value for metrics in own for name, value in metrics.items()}

    def trials(self) -> list[Trial]:
        lines = [line for line in self.lines("hparams") if line["trial"] is not None]
        return [Trial(line["params"], line["metrics"]) for line in lines]

    # What is logged through the session itself. A reader without `as_files` is not asked for any of it.

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        paths = {line["file"]: line for line in self.lines(kind, writer, tag)}
        name = f"artifacts/{tag}"
        return [
            (line["step"], path.removeprefix(name), (self.run / "files" / path).read_bytes()) for path, line in paths.items()
        ]

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        return [(line["step"], line["columns"], line["rows"]) for line in self.lines("table", writer, tag)]

    def tags(self) -> dict[str, str]:
        return {name: value for line in self.lines("tags") for name, value in line["tags"].items()}

    def alerts(self) -> list[tuple[str, str, str]]:
        return [(line["tag"], line["text"], line["level"]) for line in self.lines("alert")]

    def status(self) -> str:
        return str(self.about()["status"])

    def about(self) -> dict[str, Any]:
        return json.loads((self.run / "run.json").read_text())


def array(fields: dict[str, Any] | None) -> Any:
    if fields is None:
        return None
    return np.frombuffer(base64.b64decode(fields["data"]), fields["dtype"]).reshape(fields["shape"])


@pytest.fixture(scope="module", params=["process", "thread"])
def conformance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Conformance:
    directory = tmp_path_factory.mktemp("conformance")
    (place,) = run_program(directory, [JsonLinesReader], delivery=request.param)
    return Conformance(JsonLinesReader(place))


@pytest.mark.parametrize("check", CHECKS)
def test_tracker_has(conformance: Conformance, check: str) -> None:
    """The run's directory has what the check's docstring says."""
    getattr(conformance, check)()
