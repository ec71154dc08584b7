"""TensorBoard: a second log directory, record for record the same as the first.

A record is copied, not made again: the serialised event goes unchanged into an event file of the same name. So every plugin,
known or not, shows in the copy what it shows in the original. (But for float64 scalars of the session's, which TensorBoard's
data server would not show.)

* A run is one directory, ``<logdir>/<project>/<exp_name>``, with the session's id behind it where another run has that
  name; its absolute path is the run's id. An event file lies in it where the original lies under the session's root, or
  under the writer's name; so do the directories that `add_scalars` and `add_hparams` make.
* What TensorBoard keeps beside its event files is written again: the projector's files of `add_embedding`
  (`torch.utils.tensorboard._embedding`). What it could not write, the GIF of `add_video` without moviepy 1.x
  (`torch.utils.tensorboard.summary.make_video`), follows its empty record; another record, before it, makes the tag one
  of images.
* TensorBoard knows no run: ``run.json`` and a small event file of ours say what it is (`about`).

The tensorboard package gives the protos; neither torch nor TensorFlow is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, ClassVar

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Acknowledged, Backend, Capability, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.render.tables import markdown
from tracelet_shim.backends.shared.files import about_run, load
from tracelet_shim.backends.shared.options import Parser, directory, seconds
from tracelet_shim.backends.shared.versions import Versions
from tracelet_shim.backends.tensorboard import records
from tracelet_shim.backends.tensorboard.fetching import fetch
from tracelet_shim.backends.tensorboard.folders import normal
from tracelet_shim.backends.tensorboard.resume import choose_directory
from tracelet_shim.backends.tensorboard.run import Run
from tracelet_shim.common.text import quoted
from tracelet_shim.eventfiles.own_files import is_own

__all__ = ["TensorBoardBackend"]

_TEXT_ROWS = 500
_COPIED = Capability(Level.NATIVE, "the same record in the second event file, byte for byte")


class TensorBoardBackend(Backend):
    """Copies event files to a second log directory."""

    name = "tensorboard"
    module = "tensorboard"
    distribution = "tensorboard"
    versions = Versions("2.11.0", "2.21.0")
    fetch = staticmethod(fetch)
    options: ClassVar[Mapping[str, str]] = {
        "logdir": "directory that gets a directory for each run, <project>/<exp_name>; default: ./tracelet-runs",
        "flush_secs": "how often the copy is forced to disk, in seconds; default: 120, and at every flush",
    }
    parsers: ClassVar[Mapping[str, Parser]] = {"logdir": directory, "flush_secs": seconds}
    acknowledged = Acknowledged(
        here="the record is written to the event file",
        again="the file is read, and its last whole record is where writing goes on",
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        **dict.fromkeys(ev.EVENT_TYPES, _COPIED),
        ev.Scalar: Capability(
            Level.NATIVE, "the same record, byte for byte; TensorBoard itself, and here `log_metrics`, rounds to float32"
        ),
        ev.Video: Capability(Level.NATIVE, "the same record; the GIF as an image where TensorBoard wrote it empty"),
        ev.Embedding: Capability(Level.NATIVE, "the projector's files and its projector_config.pbtxt"),
        ev.HParams: Capability(
            Level.NATIVE,
            "the same records, trials in their own directories, in the HPARAMS tab; `log_params` as those of the run",
        ),
        ev.Table: Capability(Level.CONVERTED, "text with a table, up to 500 rows; CSV and JSON beside"),
        ev.Artifact: Capability(Level.FILE, "in `tracelet-files/artifacts`"),
        ev.Model: Capability(Level.FILE, "in `tracelet-files/artifacts`; TensorBoard has no registry"),
        ev.Tags: Capability(Level.CONVERTED, "text, and run.json"),
        ev.Alert: Capability(Level.CONVERTED, "text under `tracelet/alerts`"),
        ev.Used: Capability(Level.CONVERTED, "text under `tracelet/used`"),
    }
    mirrors_event_files = True
    shares_process = True

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._flush_secs: float = self.given.get("flush_secs", 120)
        self._run: Run

    # -- the run ------------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        import tensorboard.compat.proto.event_pb2  # noqa: F401 - fails here, not at the first write, if it is broken

        root = normal(run.root) if run.root else None
        place = choose_directory(run, self.given.get("logdir"), root)
        os.makedirs(place, exist_ok=True)
        self._run = Run(place, about_run(run, load(place), noticed=run.noticed or None), root)
        self._run.begin()
        return OpenedRun(place, f"tensorboard --logdir {quoted(place)}")

    def flush(self) -> None:
        """Force what was written to disk."""
        self._run.sync()

    def close(self, status: Status) -> None:
        self._run.end(status, self.ended_at())

    @property
    def handle(self) -> str:
        """The run's directory."""
        return self._run.directory

    # -- records ------------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        """Copy the records of `events`, one system call for all that follow each other in one event file."""
        self.written = 0
        for _, group in groupby(events, key=attrgetter("record.file")):
            of_file, before = list(group), self.written
            self._write_file(of_file)
            self.written = before + len(of_file)
        self._run.sync(self._flush_secs)

    def _write_file(self, events: list[ev.Event]) -> None:
        """Copy the records of events of one event file."""
        copy = self._run.copy_of(events[0])
        last, before = copy.last, self.written
        added: list[bytes] = []
        for number, event in enumerate(events):
            position = event.record.position
            if event.source or isinstance(event, ev.Marker):
                empty = event if isinstance(event, ev.Video) and records.is_empty(event) else None
                if position != last:
                    if last is None and position > 0 and copy.is_new:  # TensorBoard purges steps without a version
                        added.append(records.file_version(event.wall_time))
                    if empty is not None:
                        added.append(records.declared_image(empty))
                    added.append(records.rounded(event.source) if is_own(event.record.file) else event.source)
                    last = position
                if empty is not None:
                    added.append(records.video(empty))
            elif isinstance(event, ev.Embedding):
                self._run.write_embedding(event)
            else:  # logged through the session itself, or of a type that nobody knows here: what it becomes may be refused
                self._run.append(copy, added)
                copy.last, self.written, added = last, before + number, []
                form = getattr(self, f"log_{event.kind}", self.attach_files)
                self._run.append(copy, form(event) or [])
        self._run.append(copy, added)
        copy.last = last

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._run.write_file(path, data)

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        self.write(events)

    # -- what has no record of TensorBoard's; each method may return some -----------------------------------------------

    def log_hparams(self, event: ev.HParams) -> list[bytes]:  # type: ignore[override]
        self._run.add_config(event.params)
        return [records.numbers(event.metrics, event.step, event.wall_time)] if event.metrics else []

    def log_table(self, event: ev.Table) -> list[bytes]:  # type: ignore[override]
        self.attach_files(event)  # exactly
        return [records.note(event.path, markdown(event, _TEXT_ROWS), event.wall_time, event.step)]

    def log_tags(self, event: ev.Tags) -> None:
        self._run.add_tags(event.tags)

    def log_alert(self, event: ev.Alert) -> list[bytes]:  # type: ignore[override]
        text = f"**{event.level}: {event.tag}**\n\n{event.text}"
        return [records.note(f"tracelet/alerts/{event.tag}", text, event.wall_time, event.step)]

    def log_used(self, event: ev.Used) -> list[bytes]:  # type: ignore[override]
        text = f"{event.identity or event.tag} ({event.tracker or 'logged here'})\n\nSHA-256 {event.digest}"
        return [records.note(f"tracelet/used/{event.tag}", text, event.wall_time, event.step)]

    def attach_path(self, path: str, file: str, event: ev.Event) -> None:
        self._run.copy_file(path, file)
