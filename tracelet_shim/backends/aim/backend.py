"""Aim: an Aim run for each session, in a local repository (``.aim``) or on an Aim server (``aim://host:port``).

How the data is mapped, and which part of Aim makes it so (read in 3.29; what differs from 3.19 on is in ``versions.py``):

- A scalar is a point of the metric named by its tag. The writer and the key of `add_scalars` are its context:
  ``{"writer": "train"}``, ``{"series": "a"}``. Every other event type has ``{"type": "image"}`` and the like in its
  context as well, because Aim fixes the type of a sequence (name, context) with its first value.
- Two values at one step of one sequence: Aim keeps the last only. Where the others go, see ``points.py``.
- Scalars that go to the end of their sequences, in a local repository, are put there by the batch, see ``fast.py``.
- Distributions have uniform bins only: the exact buckets are put into the same object, see ``objects.py``.
- PR curves, meshes and embeddings are Figures, which hold Plotly JSON and need no Plotly to be written.
- Files are Aim artifacts, beside the data in ``.aim/artifacts`` where the user names no other place.
- An id that the user chose gives the run's hash; Aim has no call for that, see ``repository.py``.
- What goes to a server is counted when the server has acknowledged it, see ``connection.py``; each event that is no scalar by
  itself. What was handed over and not acknowledged is known when it comes again, and not handed over twice.
- A run is listed by Aim's own API only once it is in the repository's index, which `aim up` does and `close` does here.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.aim import joined, objects
from tracelet_shim.backends.aim.connection import AnswerError
from tracelet_shim.backends.aim.fetching import fetch
from tracelet_shim.backends.aim.own_forms import CAPABILITIES, OwnForms, on_system_tab
from tracelet_shim.backends.aim.probe import PROBE
from tracelet_shim.backends.aim.repository import Repository, find, place_of
from tracelet_shim.backends.aim.run import Run, hash_of, hash_of_trial
from tracelet_shim.backends.base import Acknowledged, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.render import plotly
from tracelet_shim.backends.render.tables import pr_curve_columns
from tracelet_shim.backends.shared.names import Names, Shortened
from tracelet_shim.backends.shared.transient import Verdict, judge
from tracelet_shim.backends.shared.trials import Trials
from tracelet_shim.backends.shared.values import utf8
from tracelet_shim.backends.shared.versions import Versions
from tracelet_shim.errors import EventRejectedError
from tracelet_shim.eventfiles.own_files import is_own, is_sample

__all__ = ["AimBackend"]

_FIGURE_POINTS = 5_000  # of an embedding; a browser draws no more at ease
_FIGURE_VERTICES = 200_000
_MOST_BYTES = 15 << 20  # of a file on a server, which takes 16 MiB in one message
_SURROGATES = "[\ud800-\udfff]"  # the only characters that Aim cannot store: it encodes to UTF-8


class AimBackend(OwnForms):
    """Writes to one Aim run, and to one more for each trial of a sweep."""

    name = "aim"
    shares_process = True
    module = "aim"
    distribution = "aim"
    versions = Versions("3.19.3", "3.29.1")
    probe = PROBE
    fetch = staticmethod(fetch)
    options: ClassVar[Mapping[str, str]] = {
        "repo": "directory of the repository (the one that holds .aim), or aim://host:port; default: as Aim finds it",
        "artifacts_uri": "where files go, file:///dir or s3://bucket/path; default: .aim/artifacts in the repository",
    }
    acknowledged = Acknowledged(
        here="the repository has stored it",
        server=(
            "the answer to the request: messages do not go through the SDK's queue, whose thread ends at an "
            "answer that it does not expect"
        ),
        again=(
            "what was handed over is known when it comes again; of an earlier relay, the repository or the server"
            " is asked"
        ),
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "metric; a repeated step in a context of its own; NaN and inf as they are; system metrics on their tab",
        ),
        ev.Histogram: Capability(
            Level.NATIVE, "Distribution of uniform bins; the exact buckets are in the same object"
        ),
        ev.Image: Capability(Level.NATIVE, "Image, the same bytes"),
        ev.Video: Capability(Level.CONVERTED, "Image that holds the animated GIF, the same bytes"),
        ev.Audio: Capability(Level.NATIVE, "Audio, the same bytes; a format that Aim does not know as a file"),
        ev.Text: Capability(Level.NATIVE, "Text"),
        ev.PRCurve: Capability(Level.CONVERTED, "Figure (Plotly), thresholds and counts in its customdata"),
        ev.Mesh: Capability(Level.CONVERTED, "Figure (Plotly 3D); beyond 200,000 vertices a PLY file"),
        ev.Embedding: Capability(
            Level.CONVERTED, "Figure (Plotly) of the first principal axes, and exact TSV/PNG files"
        ),
        ev.Tensor: Capability(Level.FILE, "artifact, .npy"),
        ev.Graph: Capability(Level.FILE, "artifact, GraphDef as text and binary"),
        ev.HParams: Capability(Level.NATIVE, "run['hparams'], run['summary'] and metrics; a trial is a run of its own"),
        ev.CustomScalars: Capability(Level.FILE, "artifact, JSON; Aim has no stored layouts"),
        **CAPABILITIES,
        ev.Used: Capability(Level.CONVERTED, 'the run\'s parameters, `run["tracelet"]["used"]`'),
        ev.Blob: Capability(Level.FILE, "artifact"),
    }

    _info: RunInfo

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._names = Names(_SURROGATES, 1000)
        self._shortened = Shortened(self._names, self._paths)
        self._sequences: dict[tuple[str, str, str | None, bool], tuple[int, str]] = {}
        self._repository: Repository | None = None
        self._run: Run | None = None
        self._tried = set[str]()
        self._handed = set[ev.RecordId]()  # to a server that has not acknowledged them
        self._known = set[ev.RecordId]()  # of those, what it has acknowledged since; they come again
        self._opened = False
        self._trials = Trials[Run](1, self._end_trial)

    # -- the run ----------------------------------------------------------------------------------------------------

    @classmethod
    def borrowed(cls) -> str | None:
        return joined.active()

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        """What `close` calls, and the end of the last reference to a run, and Aim's handler at exit, before they end it."""
        resources = sys.modules["aim.sdk.run"].BasicRunAutoClean
        return [Ending(resources, "empty_rpc_queue", lambda run, *_: str(run.hash))]

    def open(self, run: RunInfo) -> OpenedRun:
        try:
            return self._open(run)
        except BaseException:  # a half opened run must not keep its lock from the next attempt
            if self._repository is not None and self._repository.is_remote:
                self._repository.abandon()
            elif self._run is not None and not self._run.is_users:
                self._run.end(run.started)
            self._run = self._repository = None
            gc.collect()
            raise

    def _open(self, run: RunInfo) -> OpenedRun:
        self._info = run
        theirs = joined.seen(run.resume) if run.borrowed and run.resume else None
        if run.borrowed and theirs is None:
            raise errors.BackendError(f"your Aim run {run.resume} has ended")
        where = find(run.program.cwd, str(self.given.get("repo") or "")) if theirs is None else place_of(theirs.repo)
        self._repository = repository = Repository(where, self.is_transient, theirs)
        if theirs is None:
            name = self._names(run.exp_name) if run.exp_name else None
            self._run = started = self._start(hash_of(run), name, run.started, fast=not repository.is_remote)
        else:
            self._run = started = Run(theirs, self._names, fast=not repository.is_remote, is_users=True)
        started.introduce(run)
        if place := self.given.get("artifacts_uri"):
            started.keep_files_at(str(place))
        elif started.files_at is None and (place := repository.artifacts_uri()):
            started.keep_files_at(place)
        repository.send()
        repository.index(started.hash, goes_on=True)
        self._opened = True
        return OpenedRun(started.hash, repository.url())

    def _start(self, run_hash: str, name: str | None, started: float, *, fast: bool = False) -> Run:
        assert self._repository is not None
        # On a server nobody but a part of this session that was killed, or a try that failed, has the lock of a run of ours.
        is_named = bool(self._info.run_id) and run_hash == hash_of(self._info)
        ours = self._repository.is_remote and (run_hash in self._tried or not is_named)
        self._tried.add(run_hash)
        native = self._repository.start(run_hash, started, resume=bool(self._info.resume) or ours)
        run = Run(native, self._names, fast=fast)
        run.name(name, self._info.project)
        return run

    def write(self, events: Sequence[ev.Event]) -> None:
        self.written = 0
        if self._handed:  # by a write that failed
            handed = self._handed
            self._acknowledge()
            self._known |= handed
        if not self._known:
            super().write(events)
            return
        fresh = [n for n, event in enumerate(events) if event.record not in self._known]
        try:
            super().write([events[n] for n in fresh])
        finally:
            self.written = fresh[self.written] if self.written < len(fresh) else len(events)
            self._known.difference_update(event.record for event in events[: self.written])

    def _acknowledge(self, event: ev.Event | None = None) -> None:
        """Wait until a server has everything that was handed over, with `event`, if that is the last of its event."""
        assert self._repository is not None
        assert self._run is not None
        if not self._is_remote:
            return
        if event is not None:
            self._handed.add(event.record)
        try:
            self._repository.send()
        except Exception as error:
            if not self.is_transient(error):  # what was handed over may be there or not
                self._repository.forget()
                self._run.expect_again()
                self._handed = set()
            raise
        self._handed = set()

    @property
    def _is_remote(self) -> bool:
        return self._repository is not None and self._repository.is_remote

    def flush(self) -> None:
        """Nothing waits to be stored; show what is there to Aim's readers, but not more often than they would look."""
        if self._repository is not None and self._run is not None and self._repository.indexed_seconds_ago() > 30:
            self._repository.index(self._run.hash, goes_on=True)

    def close(self, status: Status) -> None:
        if self._run is None or self._repository is None:
            return
        run_hash = self._run.hash
        try:
            self._repository.send()
            for trial in self._trials:
                trial.outcome = status
            self._trials.end_all()
            if not self._run.is_users:
                if status != "finished":
                    self._run.tag(status)
                self._run.end(self.ended_at(), status)
        except BaseException:
            if self._repository.is_remote:  # whoever drops it must not wait for the server
                self._repository.abandon()
            raise
        joined.let_go(self._run.native)
        goes_on = self._run.is_users
        self._run = None
        try:
            self._repository.index(run_hash, goes_on=goes_on)
        finally:
            self._repository = None
        gc.collect()  # Aim's objects refer to each other; RocksDB's files and locks go with the last of them

    @property
    def handle(self) -> Any:
        return None if self._run is None else self._run.native

    def is_transient(self, error: BaseException) -> bool:
        if isinstance(error, AnswerError):
            return self._passes(error.status, own=error.own)
        kind = type(error)
        if kind.__module__.startswith("websockets."):
            response = getattr(error, "response", None)  # of who refused the connection
            return response is None or self._passes(response.status_code, own=False)
        if kind.__name__ in {"RocksIOError", "OperationalError"}:
            return True  # of aimrocks (a lock) and SQLAlchemy (locked, busy)
        if isinstance(error, RuntimeError):  # what Aim makes of "no server" and of a repository that is half made
            return not str(error) or "connect" in str(error)
        return super().is_transient(error)

    def _passes(self, status: int, *, own: bool) -> bool:
        """Tell whether an HTTP answer passes. A server that has taken the run and refuses now says nothing of the events: they
        are in the messages of an open connection."""
        return self._opened or judge(status, own=own) is Verdict.PASSES

    # -- names ------------------------------------------------------------------------------------------------------

    def _name(self, tag: str) -> str:
        name = self._names(tag)
        self._say_whole_names()
        return name

    def _say_whole_names(self) -> None:
        assert self._run is not None
        with self._shortened.telling() as whole:
            self._run.say_names(whole)

    def _place(self, event: ev.Event) -> tuple[str, dict[str, Any]]:
        """Return the name of the event's sequence, and its context."""
        known = on_system_tab(event.tag) if is_sample(event.record.file, event.writer) else None
        return known or (self._name(event.tag), {"writer": self._name(event.writer)} if event.writer else {})

    def _series(self, event: ev.Scalar) -> dict[str, str]:
        return {} if event.series is None else {"series": self._name(event.series)}

    # -- parameters -------------------------------------------------------------------------------------------------

    def log_hparams(self, event: ev.HParams) -> None:
        assert self._run is not None
        run = self._run if event.trial is None else self._trial(event, event.trial)
        run.set_params(event.params)
        run.set_domain(event.domain)
        for key, number in event.metrics.items():
            run.set_summary(key, float(number))
            context = {"type": "hparams"}
            run.points.put(float(number), self._name(key), event.step, event.wall_time, context, same_is_known=True)
        self._acknowledge(event)

    def _trial(self, event: ev.HParams, trial: str) -> Run:
        run = self._trials.get(trial, lambda: self._open_trial(trial, event.wall_time))
        run.ended = event.wall_time
        return run

    def _open_trial(self, trial: str, started: float) -> Run:
        assert self._run is not None
        parent = self._run.hash
        run = self._start(hash_of_trial(parent, trial), f"{self._info.exp_name or parent}/{self._names(trial)}", started)
        run.set("parent", parent)
        run.say({"trial": trial, "session": self._info.session})
        run.set("status", "running")
        run.tag("trial")
        return run

    def _end_trial(self, trial: Run) -> None:
        assert self._repository is not None
        trial.end(trial.ended, trial.outcome)
        self._repository.index(trial.hash)

    # -- sequences --------------------------------------------------------------------------------------------------

    def _put(self, event: ev.Event, value: Any, kind: str) -> None:
        """Put an event's value into its sequence, as the last that is to be done for the event."""
        self._track(event, value, {"type": kind})
        self._acknowledge(event)

    def _track(self, event: ev.Event, value: Any, more: Mapping[str, str]) -> None:
        assert self._run is not None
        name, context = self._place(event)
        self._run.points.put(value, name, event.step, event.wall_time, {**context, **more})

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        assert self._run is not None
        before, ends = self.written, self._run.ends
        if ends is not None:
            ends.discard()
        for n, event in enumerate(events):
            value = float(event.value)
            if ends is not None:
                if ends.append(self._sequence(event), value, event.step, event.wall_time):
                    continue
                ends.commit()
                self.written = before + n
            self._track(event, value, self._series(event))
            if self._is_remote:
                self._handed.add(event.record)
            else:
                self.written = before + n + 1
        if ends is not None:
            ends.commit()
        self._acknowledge()

    def _sequence(self, event: ev.Scalar) -> tuple[int, str]:
        """Return Aim's key of the event's sequence: the index of its context, and its name."""
        place = event.writer, event.tag, event.series, is_own(event.record.file)
        sequence = self._sequences.get(place)
        if sequence is None:
            assert self._run is not None
            name, context = self._place(event)
            sequence = self._run.points.index({**context, **self._series(event)}), name
            if len(self._sequences) < 10_000:
                self._sequences[place] = sequence
        return sequence

    def log_histogram(self, event: ev.Histogram) -> None:
        self._put_or_attach(event, objects.distribution(event))

    def log_image(self, event: ev.Image) -> None:
        self._put(event, objects.picture(event, event.format), "image")

    def log_video(self, event: ev.Video) -> None:
        self._put(event, objects.picture(event, "gif"), "video")

    def log_audio(self, event: ev.Audio) -> None:
        self._put_or_attach(event, objects.audio(event))

    def log_text(self, event: ev.Text) -> None:
        self._put(event, objects.text(utf8(event.text)), "text")

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        self._put_figure(event, plotly.pr_curve(event), list(pr_curve_columns(event).values()))

    def log_mesh(self, event: ev.Mesh) -> None:
        vertices = event.vertices.numpy()
        if vertices.size > 3 * _FIGURE_VERTICES:
            self.attach_files(event)
        else:
            self._put_figure(event, plotly.mesh(event), vertices)

    def log_embedding(self, event: ev.Embedding) -> None:
        self.attach_files(event)  # the exact matrix; a figure shows at most three of its axes
        self._put(event, objects.figure(plotly.embedding(event, _FIGURE_POINTS)), event.kind)

    def _put_figure(self, event: ev.Event, drawn: plotly.Figure, numbers: Any) -> None:
        """Track a figure. Where `numbers` has some that are not finite, the figure has gaps and a file has the data."""
        if not np.isfinite(np.asarray(numbers, float)).all():
            self.attach_files(event)
        self._put(event, objects.figure(drawn), event.kind)

    def _put_or_attach(self, event: ev.Event, value: Any | None) -> None:
        """Track an object of Aim's; None: there is none for this event, and it becomes files."""
        if value is None:
            self.attach_files(event)
        else:
            self._put(event, value, event.kind)

    # -- files ------------------------------------------------------------------------------------------------------

    def attach_path(self, path: str, file: str, event: ev.Event) -> None:
        assert self._run is not None
        if self._run.files_at is None:
            if os.path.getsize(file) > _MOST_BYTES:  # it need not be read for that
                raise EventRejectedError(f"{path} is more than Aim's server takes; artifacts_uri names a place for files")
            super().attach_path(path, file, event)
            return
        self._say_whole_names()
        self._run.attach_file(path, file)
        self._acknowledge()

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        assert self._run is not None
        if self._run.files_at is None:  # a server, and no place named that both sides see
            context = {"type": "file"}
            text = objects.text(objects.as_text(data))
            self._run.points.put(text, path, event.step, event.wall_time, context, same_is_known=True)
        else:
            self._say_whole_names()
            self._run.attach(path, data)
        self._acknowledge()
