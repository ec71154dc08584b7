"""Reads a copied run back with TensorBoard's own event file loader and the projector's files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from tests.backends.attached import files_of, markdown_table
from tracelet_shim.testing import NDArray, Point, Reader, Trial


def _scalar(value: Any) -> float | None:
    from tensorboard.util import tensor_util

    if value.HasField("simple_value"):
        return value.simple_value
    if value.metadata.plugin_data.plugin_name == "scalars" and value.HasField("tensor"):
        return float(tensor_util.make_ndarray(value.tensor).reshape(-1)[0])
    return None


class TensorBoardReader(Reader):
    backend = "tensorboard"

    @classmethod
    def environment(cls, directory: Path) -> dict[str, str]:
        return {"TRACELET_TENSORBOARD_LOGDIR": str(directory)}

    def run_ids(self) -> list[str]:
        return sorted(str(path.parent) for path in self.directory.glob("*/*/run.json"))

    @property
    def run(self) -> Path:
        if self.run_id is not None:
            return Path(self.run_id)
        (only,) = self.run_ids()
        return Path(only)

    # -- event files --------------------------------------------------------------------------------------------------

    def events(self, folder: Path) -> Iterator[Any]:
        """Yield the event protos of one directory, in TensorBoard's order of files."""
        for file in sorted(folder.glob("*tfevents*")) if folder.is_dir() else ():
            yield from self.events_of_file(file)

    @staticmethod
    def events_of_file(file: Path) -> Iterator[Any]:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto import event_pb2

        for data in RawEventFileLoader(str(file)).Load():
            yield event_pb2.Event.FromString(data)

    def values(self, folder: Path, tag: str) -> Iterator[tuple[Any, Any]]:
        """Yield (event, summary value) of a tag."""
        for event in self.events(folder):
            for value in event.summary.value:
                if value.tag == tag:
                    yield event, value

    def tensors_of(self, writer: str, tag: str, plugin: str) -> list[tuple[int, NDArray]]:
        from tensorboard.util import tensor_util

        return [
            (event.step, tensor_util.make_ndarray(value.tensor))
            for event, value in self.values(self.run / writer, tag)
            if value.metadata.plugin_data.plugin_name == plugin
        ]

    # -- what a person sees -------------------------------------------------------------------------------------------

    def scalars(self, writer: str, tag: str, series: str | None = None) -> list[Point]:
        folder = self.run / writer
        if series is not None:
            folder = folder / f"{tag.replace('/', '_')}_{series}"
        found = [(event, _scalar(value)) for event, value in self.values(folder, tag)]
        return [Point(event.step, number, event.wall_time) for event, number in found if number is not None]

    def histograms(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        found = []
        for event, value in self.values(self.run / writer, tag):
            if value.HasField("histo"):
                limits = list(value.histo.bucket_limit)
                edges = [min(value.histo.min, limits[0]), *limits]
                found.append((event.step, np.array(edges), np.array(value.histo.bucket)))
        return found

    def images(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [(step, np.asarray(picture)) for step, picture in self._pictures(writer, tag) if picture.format != "GIF"]

    def videos(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return [
            (step, np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]))
            for step, picture in self._pictures(writer, tag)
            if picture.format == "GIF"
        ]

    def _pictures(self, writer: str, tag: str) -> Iterator[tuple[int, Image.Image]]:
        for event, value in self.values(self.run / writer, tag):
            if value.HasField("image"):
                yield event.step, Image.open(io.BytesIO(value.image.encoded_image_string))

    def audio(self, writer: str, tag: str) -> list[tuple[int, int, NDArray]]:
        found = []
        for event, value in self.values(self.run / writer, tag):
            if value.HasField("audio"):
                with wave.open(io.BytesIO(value.audio.encoded_audio_string)) as sound:
                    samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                    found.append((event.step, sound.getframerate(), samples))
        return found

    def texts(self, writer: str, tag: str) -> list[tuple[int, str]]:
        found = self.tensors_of(writer, f"{tag}/text_summary", "text")
        return [(step, text.reshape(-1)[0].decode()) for step, text in found]

    def pr_curves(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray]]:
        return [(step, rows[4], rows[5]) for step, rows in self.tensors_of(writer, tag, "pr_curves")]

    def meshes(self, writer: str, tag: str) -> list[tuple[int, NDArray, NDArray | None, NDArray | None]]:
        found = []
        faces, colors = (dict(self.tensors_of(writer, f"{tag}_{part}", "mesh")) for part in ("FACE", "COLOR"))
        for step, vertices in self.tensors_of(writer, f"{tag}_VERTEX", "mesh"):
            for i, points in enumerate(vertices):
                face, color = (part[step][i] if step in part else None for part in (faces, colors))
                found.append((step, points, face, color))
        return found

    def embeddings(self, writer: str, tag: str) -> list[tuple[int, NDArray, list[list[str]] | None]]:
        from google.protobuf import text_format
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

        folder = self.run / writer
        config = ProjectorConfig()
        text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
        found = []
        for info in config.embeddings:
            name, _, step = info.tensor_name.rpartition(":")
            if name == tag:
                matrix = np.loadtxt(folder / info.tensor_path, delimiter="\t", ndmin=2)
                rows = None
                if info.metadata_path:
                    with (folder / info.metadata_path).open(newline="") as file:
                        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
                    rows = rows[1:] if len(rows) > len(matrix) else rows
                found.append((int(step), matrix, rows))
        return found

    def tensors(self, writer: str, tag: str) -> list[tuple[int, NDArray]]:
        return self.tensors_of(writer, tag, "tensor")

    def graphs(self, writer: str = "") -> list[set[str]]:
        from tensorboard.compat.proto import graph_pb2

        graphs = [e.graph_def for e in self.events(self.run / writer) if e.HasField("graph_def")]
        return [{node.name for node in graph_pb2.GraphDef.FromString(graph).node} for graph in graphs]

    def custom_scalars(self, writer: str = "") -> list[dict[str, Any]]:
        from tensorboard.plugins.custom_scalar import layout_pb2

        layouts = []
        for _, value in self.values(self.run / writer, "custom_scalars__config__"):
            layout: dict[str, Any] = {}
            for category in layout_pb2.Layout.FromString(value.tensor.string_val[0]).category:
                charts = layout.setdefault(category.title, {})
                for chart in category.chart:
                    if chart.HasField("margin"):
                        (series,) = chart.margin.series
                        charts[chart.title] = ["Margin", [series.value, series.lower, series.upper]]
                    else:
                        charts[chart.title] = ["Multiline", list(chart.multiline.tag)]
            layouts.append(layout)
        return layouts

    # -- what is logged through the session itself ----------------------------------------------------------------------

    def as_files(self, kind: str, writer: str, tag: str) -> list[tuple[int, str, bytes]]:
        root = self.run / "tracelet-files"
        attached = ((file.relative_to(root).as_posix(), file.read_bytes()) for file in root.rglob("*") if file.is_file())
        return files_of(attached, kind, f"{writer}/{tag}" if writer else tag, str)

    def tables(self, writer: str, tag: str) -> list[tuple[int, list[str], list[list[Any]]]]:
        return [(step, *markdown_table(text)) for step, text in self.texts(writer, tag)]

    def alerts(self) -> list[tuple[str, str, str]]:
        found = []
        for event in self.events(self.run):
            for value in event.summary.value:
                if value.tag.startswith("tracelet/alerts/"):
                    head, _, text = value.tensor.string_val[0].decode().partition("**\n\n")
                    level, _, title = head.removeprefix("**").partition(": ")
                    found.append((title, text, level))
        return found

    # -- parameters ---------------------------------------------------------------------------------------------------

    def _sessions(self) -> tuple[dict[str, Any], list[Trial]]:
        """Return the parameters of ``config=``, and every hparams session of the program by its time."""
        from tensorboard.plugins.hparams import metadata

        config: dict[str, Any] = {}
        found: list[tuple[float, Trial]] = []
        for file in sorted(self.run.rglob("*tfevents*")):
            metrics: set[str] = set()
            trial = None
            for event in self.events_of_file(file):
                for value in event.summary.value:
                    content = value.metadata.plugin_data.content
                    if value.tag == metadata.EXPERIMENT_TAG:
                        experiment = metadata.parse_experiment_plugin_data(content)
                        metrics = {info.name.tag for info in experiment.metric_infos}
                    elif value.tag == metadata.SESSION_START_INFO_TAG:
                        info = metadata.parse_session_start_info_plugin_data(content)
                        params = {name: getattr(v, v.WhichOneof("kind")) for name, v in info.hparams.items()}
                        if file.name.endswith(".tracelet"):
                            config = params
                        else:
                            trial = Trial(params, {})
                            found.append((event.wall_time, trial))
                    elif trial is not None and value.tag in metrics and value.HasField("simple_value"):
                        trial.metrics[value.tag] = value.simple_value
        return config, [trial for _, trial in sorted(found, key=lambda pair: pair[0])]

    def params(self) -> dict[str, Any]:
        config, sessions = self._sessions()
        return {**config, **(sessions[0].params if sessions else {})}

    def summary_metrics(self) -> dict[str, float]:
        sessions = self._sessions()[1]
        own = [s.metrics for s in sessions if s.params == sessions[0].params]
        logged = [file for file in self.run.glob("*tfevents*") if re.search(r"\.[0-9a-f]{16}\.\d+$", file.name)]  # by the session
        latest = {v.tag: _scalar(v) for file in logged for event in self.events_of_file(file) for v in event.summary.value}
        numbers = {tag: value for tag, value in latest.items() if value is not None}  # the HPARAMS tab has these, too
        return {**numbers, **{name: value for metrics in own for name, value in metrics.items()}}

    def trials(self) -> list[Trial]:
        sessions = self._sessions()[1]
        return [session for session in sessions if session.params != sessions[0].params]

    def _about(self) -> dict[str, Any]:
        return json.loads((self.run / "run.json").read_text())

    def status(self) -> str:
        return self._about()["status"]

    def about(self) -> dict[str, Any]:
        about = self._about()
        return {key: about[key] for key in ("project", "exp_name", "tags", "notes", "run_id")}

    def session_status(self) -> int | None:
        """Return the hparams status in our own event file: None without one; 1 success, 2 failure."""
        from tensorboard.plugins.hparams import metadata

        for event in self.events(self.run):
            for value in event.summary.value:
                if value.tag == metadata.SESSION_END_INFO_TAG:
                    return metadata.parse_session_end_info_plugin_data(value.metadata.plugin_data.content).status
        return None


def tree(folder: Path) -> set[str]:
    """Return the relative paths of all files below a directory."""
    return {os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file()}
