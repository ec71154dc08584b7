"""Runs as directories: ``run.json``, ``events.jsonl`` with a line for each event, ``files/`` for pictures and sound.

Every line names its record in the TensorBoard event file. After a crash the latest events may come a second time; the
lines of one event have the same ``record``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from tracelet_shim import Backend, Capability, Level
from tracelet_shim import events as ev
from tracelet_shim.backends.base import OpenedRun, RunInfo

LINE = Capability(Level.NATIVE, "a line of events.jsonl")
FILE = Capability(Level.FILE, "a file that a line of events.jsonl names")


class JsonLinesBackend(Backend):
    name = "jsonlines"
    module = "tracelet_jsonlines"  # a real tracker's SDK: its module, and its name on the package index
    distribution = "tracelet-jsonlines"
    options: ClassVar[Mapping[str, str]] = {"dir": "directory that gets a directory for each run; default: jsonlines"}
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        **dict.fromkeys(ev.EVENT_TYPES, LINE),
        **dict.fromkeys((ev.Image, ev.Video, ev.Audio, ev.Artifact, ev.Model), FILE),
    }

    def open(self, run: RunInfo) -> OpenedRun:
        # `resume` is the id that an earlier `open` returned; it wins over an id that the user chose.
        self.directory = Path(run.resume or Path(self.given.get("dir", "jsonlines"), run.run_id or run.session)).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.about = {"project": run.project, "exp_name": run.exp_name, "tags": run.tags, "config": run.config}
        self.close("running")
        # Line by line: what a method has returned for counts as delivered, so it must not wait in a buffer.
        self.lines = (self.directory / "events.jsonl").open("a", encoding="utf-8", buffering=1)
        return OpenedRun(run_id=str(self.directory), url=str(self.directory))

    def close(self, status: str) -> None:
        (self.directory / "run.json").write_text(json.dumps({**self.about, "status": status}, indent=1))

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        for event in events:
            self.log_line(event)
            self.written += 1  # if the next one fails, the relay goes on behind this one

    def log_line(self, event: ev.Event, **more: str) -> None:
        fields = msgspec.to_builtins(event)
        del fields["source"]  # the proto, for backends that copy event files
        if "file" in more:
            fields.pop("data", None)
        self.lines.write(json.dumps(finite({**fields, **more})) + "\n")

    # A type that is not listed here comes to `attach`, as the file that the base class makes of it.
    log_hparams = log_histogram = log_text = log_pr_curve = log_mesh = log_line
    log_embedding = log_tensor = log_graph = log_custom_scalars = log_blob = log_line
    log_table = log_tags = log_alert = log_line

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        file = self.directory / "files" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.log_line(event, file=path)


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinities: they become "nan", "inf" and "-inf"."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
