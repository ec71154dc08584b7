"""One event of each type, small and exact, for tests that drive a backend directly."""

from __future__ import annotations

import hashlib
import io
import time
import wave
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageSequence

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Program, RunInfo

WALL = 1_760_000_000.125


def run_info(**changes: object) -> RunInfo:
    """Return a RunInfo as the relay makes it, with some fields changed."""
    program = Program(
        script="/home/user/train.py", module=None, argv=("train.py", "--lr", "0.1"), cwd="/home/user",
        executable="/usr/bin/python3", pid=4242, host="node-1",
    )  # fmt: skip
    fields = {"session": "00112233aabbccdd", "program": program, "started": time.time(), "project": "p", "exp_name": "e"}
    return RunInfo(**{**fields, **changes})  # type: ignore[arg-type]


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    PILImage.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def gif(frames: np.ndarray, fps: float = 4) -> bytes:
    out = io.BytesIO()
    pictures = [PILImage.fromarray(f) for f in frames]
    pictures[0].save(out, format="GIF", save_all=True, append_images=pictures[1:], duration=int(1000 / fps), loop=0)
    return out.getvalue()


def gif_frames(data: bytes) -> np.ndarray:
    return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(PILImage.open(io.BytesIO(data)))])


def wav(samples: np.ndarray, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


class Maker:
    """Makes events with growing positions, as the records of one event file."""

    def __init__(self, writer: str = "", file: str = "/logs/events.out.tfevents.1") -> None:
        self.writer = writer
        self.file = file
        self.position = 0

    def _base(self, tag: str, step: int, wall: float = WALL) -> dict:
        self.position += 1
        return {
            "writer": self.writer, "tag": tag, "step": step, "wall_time": wall,
            "record": ev.RecordId(self.file, self.position), "source": b"",
        }  # fmt: skip

    def scalar(self, tag: str, value: float, step: int = 0, wall: float = WALL, series: str | None = None) -> ev.Scalar:
        return ev.Scalar(**self._base(tag, step, wall), value=value, series=series)

    def histogram(self, tag: str, step: int = 0, buckets: int = 700) -> ev.Histogram:
        """A histogram of 10,000 normal samples in many exponential buckets, as TensorBoard makes them."""
        rng = np.random.default_rng(3)
        values = rng.normal(size=10_000)
        positive = np.geomspace(1e-3, 6, buckets // 2)
        edges = np.concatenate([-positive[::-1], positive])
        counts, edges = np.histogram(values, bins=edges)
        limits = (float(edges[0]), *map(float, edges[1:]))
        return ev.Histogram(
            **self._base(tag, step), min=float(values.min()), max=float(values.max()), num=float(len(values)),
            sum=float(values.sum()), sum_squares=float(values @ values), limits=limits, counts=(0.0, *map(float, counts)),
        )  # fmt: skip

    def image(self, tag: str, step: int = 0, pixels: np.ndarray | None = None, *, figure: bool = False) -> ev.Image:
        if pixels is None:
            pixels = np.random.default_rng(step).integers(50, 200, (12, 16, 3), dtype=np.uint8)
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        return ev.Image(
            **self._base(tag, step), data=png(pixels), width=pixels.shape[1], height=pixels.shape[0], channels=channels,
            figure=figure,
        )  # fmt: skip

    def video(self, tag: str, step: int = 0) -> ev.Video:
        """Four frames of plain colours (exact in a GIF)."""
        frames = np.stack([np.full((8, 10, 3), (60 * i, 255 - 60 * i, 30), np.uint8) for i in range(4)])
        return ev.Video(**self._base(tag, step), data=gif(frames), width=10, height=8, frames=4, fps=4)

    def audio(self, tag: str, step: int = 0) -> ev.Audio:
        samples = (np.sin(np.linspace(0, 60, 800)) * 8000).astype(np.int16)
        return ev.Audio(**self._base(tag, step), data=wav(samples, 16000), sample_rate=16000, channels=1, frames=800)

    def text(self, tag: str, text: str = "**bold** é\nsecond <line>", step: int = 0) -> ev.Text:
        return ev.Text(**self._base(tag, step), text=text)

    def pr_curve(self, tag: str, step: int = 0) -> ev.PRCurve:
        n = 11
        recall = tuple(float(x) for x in np.linspace(1, 0, n, dtype=np.float32))
        precision = tuple(float(x) for x in np.linspace(0.5, 1, n, dtype=np.float32))
        counts = tuple(float(x) for x in range(n))
        return ev.PRCurve(
            **self._base(tag, step), true_positives=counts, false_positives=counts, true_negatives=counts,
            false_negatives=counts, precision=precision, recall=recall,
        )  # fmt: skip

    def mesh(self, tag: str, step: int = 0, *, faces: bool = True, colors: bool = True) -> ev.Mesh:
        vertices = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.5]]], np.float32)
        triangles = np.array([[[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]], np.int32)
        rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 99, 199]]], np.uint8)
        return ev.Mesh(
            **self._base(tag, step), vertices=ev.Array.of(vertices), faces=ev.Array.of(triangles) if faces else None,
            colors=ev.Array.of(rgb) if colors else None,
        )  # fmt: skip

    def embedding(self, tag: str = "default", step: int = 0, *, sprite: bool = True) -> ev.Embedding:
        matrix = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
        picture = np.random.default_rng(2).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        return ev.Embedding(
            **self._base(tag, step), matrix=ev.Array.of(matrix), metadata=tuple((f"p{i}", str(i % 3)) for i in range(9)),
            metadata_header=("name", "class"), sprite=png(picture) if sprite else None, sprite_size=(4, 4) if sprite else None,
        )  # fmt: skip

    def tensor(self, tag: str, step: int = 0) -> ev.Tensor:
        return ev.Tensor(**self._base(tag, step), value=ev.Array.of(np.arange(24, dtype=np.float64).reshape(2, 3, 4) / 7))

    def graph(self) -> ev.Graph:
        from tensorboard.compat.proto import graph_pb2

        graph = graph_pb2.GraphDef()
        for name, op in (("input", "IO Node"), ("Net/Linear[fc]/weight", "prim::Param"), ("output", "IO Node")):
            graph.node.add(name=name, op=op)
        return ev.Graph(**self._base("", 0), graph_def=graph.SerializeToString())

    def hparams(self, params: dict, metrics: dict, step: int = 0, trial: str | None = None) -> ev.HParams:
        wall = WALL if trial is None else WALL + self.position / 1000  # a trial's run begins with its first event
        return ev.HParams(**self._base("_hparams_/session_start_info", step, wall), params=params, metrics=metrics, trial=trial)

    def custom_scalars(self) -> ev.CustomScalars:
        layout = {"Losses": {"both": ("Multiline", ["train/loss", "val/loss"]), "band": ("Margin", ["m", "lo", "hi"])}}
        return ev.CustomScalars(**self._base("custom_scalars__config__", 0), layout=layout)

    def table(self, tag: str, step: int = 0) -> ev.Table:
        """A cell of each kind, and texts that a page or a CSV file could take for something else."""
        rows = ((1, 0.1, "a|b", True), (2**40, float("nan"), 'x,"y"\n<i>', False), (None, -1e300, "é", None))
        return ev.Table(**self._base(tag, step), columns=("n", "value", "te|xt", "ok"), rows=rows)

    def artifact(self, name: str, folder: bool = False, **more: object) -> ev.Artifact:
        """Files of the tests', which are there as long as these run."""
        return ev.Artifact(**self._base(name, 0), **self._files(name, folder), **more)

    def model(self, name: str, **more: object) -> ev.Model:
        return ev.Model(**self._base(name, 0), **self._files(name, True), **more)

    def _files(self, name: str, folder: bool) -> dict:
        here = Path(__file__)
        found = [here, here.with_name("launch.py")] if folder else [here]
        paths = [f"{name}/{file.name}" if folder else name for file in found]
        return {"category": "dataset", "files": tuple(
            ev.ArtifactFile(path, file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest(), str(file))
            for path, file in zip(paths, found, strict=True)
        )}  # fmt: skip

    def tags(self, **tags: str) -> ev.Tags:
        return ev.Tags(**self._base("", 0), tags=tags)

    def alert(self, title: str, text: str = "loss is **NaN**", level: str = "warning") -> ev.Alert:
        return ev.Alert(**self._base(title, 0), text=text, level=level)

    def used(self, name: str, tracker: str = "mlflow", identity: str = "runs:/0a1b/artifacts/data.py") -> ev.Used:
        return ev.Used(**self._base(name, 0), tracker=tracker, identity=identity, digest="0" * 64)

    def of_the_handle(self) -> list[ev.Event]:
        """Return one event of every type that only a session's own methods make."""
        return [
            self.table("tab", 3), self.artifact("data.py"), self.model("net"), self.tags(stage="try"), self.alert("odd"),
            self.used("data.py"),
        ]  # fmt: skip

    def blob(self) -> ev.Blob:
        return ev.Blob(**self._base("other", 0), data=b"\x00\x01blob", name="run_metadata.pb")

    def one_of_each(self) -> list[ev.Event]:
        """Return one event of every type, each under its own tag."""
        return [
            self.scalar("s", 0.1, 3), self.histogram("h", 3), self.image("i", 3), self.video("v", 3), self.audio("a", 3),
            self.text("t", step=3), self.pr_curve("p", 3), self.mesh("m", 3), self.embedding("e", 3), self.tensor("x", 3),
            self.graph(), self.hparams({"lr": 0.1, "bs": 32, "opt": "adam", "amp": True}, {"acc": 0.75}, 3),
            self.custom_scalars(), self.blob(),
        ]  # fmt: skip
