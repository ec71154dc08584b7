"""Aim: an Aim run for each session, in a local repository (``.aim``) or on an Aim server (``aim://host:port``).

How the data is mapped, and which part of Aim makes it so (read in 3.27 to 3.29):

- A scalar is a point of the metric named by its tag. The writer and the key of `add_scalars` are its context:
  ``{"writer": "train"}``, ``{"series": "a"}``. Every other event type has ``{"type": "image"}`` and the like in its
  context as well, because Aim fixes the type of a sequence (name, context) with its first value.
- Two values at one step of one sequence: Aim keeps the last only (`RunTracker._add_value` stores by step). So the n-th
  repeat of a step goes to the same sequence with ``{"repeat": n}`` in its context. After `_REPEATS` of them come all
  further ones, of any step, in one sequence ``{"repeat": "more"}``: a program that never passes a step must not make a
  context for each point. There Aim's epoch is TensorBoard's step. For numbers its step is it, too: Aim stores them by a hash
  of the step, and the step beside them (`SequenceV2Data`), see `_Late`. Other types are stored by the step itself, and it
  counts them there. What is there already is asked of the store itself, so this costs no memory and a resumed run is
  continued rightly.
- `Run.track` takes no time; `RunTracker._track`, which it calls, does. Hence the private call.
- Aim writes a point as eight small transactions of RocksDB, each of which deletes a range first. Scalars that go to the
  end of their sequences, in a local repository, are put there by the batch instead, see `_Ends`.
- Distributions have uniform bins only: histograms are rebinned, mass preserving, and the exact buckets are put into the
  same object (``distribution.storage["tensorboard"]``).
- PR curves, meshes and embeddings are Figures, which hold Plotly JSON and need no Plotly to be written.
- Files are Aim artifacts, beside the data in ``.aim/artifacts`` where the user names no other place.
- An id that the user chose gives the run's hash; Aim has no call for that, see `_hash_is`.
- A run is listed by Aim's own API only once it is in the repository's index, which `aim up` does and `close` does here.
"""

from __future__ import annotations

import base64
import copy
import gc
import hashlib
import json
import logging
import math
import os
import re
import struct
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim._private import locked
from tracelet_shim._text import as_utf8, usable
from tracelet_shim.backends.aim.probe import PROBE
from tracelet_shim.backends.base import Backend, Capability, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.shared.names import Names

__all__ = ["AimBackend"]

_log = logging.getLogger(__name__)

_REPEATS = 8
_BINS = 512  # aim.Distribution documents no more
_SERVER_SECONDS = 20
_EXACT = 1 << 53
"""From here on Aim stores points of neighbouring steps in one place: it makes the key from the step as a float
(`aim.storage.hashing`)."""
_FIGURE_POINTS = 5_000  # of an embedding; a browser draws no more at ease
_FIGURE_VERTICES = 200_000
_SURROGATES = "[\ud800-\udfff]"  # the only characters that Aim cannot store: it encodes to UTF-8
_HASH = re.compile(r"[0-9a-f]{24}")


class AimBackend(Backend):
    """Writes to one Aim run, and to one more for each trial of a sweep."""

    name = "aim"
    module = "aim"
    distribution = "aim"
    probe = PROBE
    options: ClassVar[Mapping[str, str]] = {
        "repo": "directory of the repository (the one that holds .aim), or aim://host:port; default: as Aim finds it",
        "artifacts_uri": "where files go, file:///dir or s3://bucket/path; default: .aim/artifacts in the repository",
    }
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(Level.NATIVE, "metric; a repeated step in a context of its own; NaN and inf as they are"),
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
        ev.Blob: Capability(Level.FILE, "artifact"),
    }

    _info: RunInfo
    _points: _Points

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._names = Names(_SURROGATES, 1000)
        self._noted: dict[int, int] = {}
        self._sequences: dict[tuple[str, str, str | None], tuple[int, str]] = {}
        self._ends: _Ends | None = None
        self._run: Any = None
        self._repo: Any = None
        self._trial: tuple[str, Any] | None = None
        self._trial_ended = 0.0
        self._indexed = -math.inf
        self._finalizers: list[Any] = []

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        try:
            return self._open(run)
        except BaseException:  # a half opened run must not keep its lock from the next attempt
            if self._run is not None and not self._repo.is_remote_repo:  # a server might let us wait forever
                self._end(self._run, run.started)
            self._run = self._repo = self._ends = None
            gc.collect()
            raise

    def _open(self, run: RunInfo) -> OpenedRun:
        self._info = run
        where = self._where(run)
        self._repo = _open_repo(where)
        name = self._names(run.exp_name) if run.exp_name else None
        self._run = self._start(_hash_of(run), name, run.started)
        resumed = self._run.get("tracelet") is not None
        self._points = _Points(self._run, resumed=resumed)
        self._ends = None if self._repo.is_remote_repo else _Ends.of(self._run)
        if run.notes:
            self._run.description = self._plain(run.notes)
        for key, value in run.tags.items():
            self._tag(f"{key}={value}" if value else key)
        for state in ("failed", "killed"):
            if resumed and state in self._run.tags:
                self._run.remove_tag(state)
        if run.group:
            self._run["group"] = self._plain(run.group)
        program = run.program.readable()
        about: dict[str, Any] = {
            "session": run.session, "run_id": run.run_id, "tags": run.tags, "root": run.root and as_utf8(run.root),
            "program": {"script": program.script, "module": program.module, "cwd": program.cwd, "host": program.host},
        }  # fmt: skip
        for key, value in about.items():
            self._run["tracelet", key] = self._plain(value)
        self._params(self._run, run.config)
        self._run["status"] = "running"
        remote = self._repo.is_remote_repo
        if uri := self.given.get("artifacts_uri"):
            self._run.set_artifacts_uri(str(uri))
        elif not remote and self._run.artifacts_uri is None and not {"#", "?"} & set(self._repo.path):  # Aim cuts there
            self._run.set_artifacts_uri(f"file://{self._repo.path}/artifacts")
        self._index()
        return OpenedRun(self._run.hash, where if remote else f"aim up --repo {self._repo.root_path}")

    def _where(self, run: RunInfo) -> str:
        """Return the repository: the option; else, as Aim does it, the nearest one upwards or the working directory."""
        from aim.sdk.utils import clean_repo_path, search_aim_repo

        here = usable(run.program.cwd if os.path.isdir(run.program.cwd) else os.getcwd())
        if option := str(self.given.get("repo") or ""):
            return option if "://" in option else str(clean_repo_path(os.path.join(here, os.path.expanduser(option))))
        found, _ = search_aim_repo(here)
        return str(found or here)

    def _start(self, run_hash: str, name: str | None, started: float) -> Any:
        import aim

        settings = {"repo": self._repo, "system_tracking_interval": None, "capture_terminal_logs": False}
        try:
            if not self._repo.is_remote_repo and (created := _naive_utc(started)):
                self._repo.request_props(run_hash, read_only=False, created_at=created)  # else it would be created now
            with _hash_is(run_hash):
                try:
                    opened = aim.Run(**settings)
                except TimeoutError:  # filelock's: a dead machine leaves it behind, but not RocksDB's own
                    if not self._info.resume:
                        raise
                    opened = aim.Run(**settings, force_resume=True)
        finally:
            self._disown()
        self._disown(opened)
        if not hasattr(opened._tracker, "_track") or not hasattr(opened._tracker, "sequence_infos"):
            raise errors.BackendError(f"aim {aim.__version__} stores sequences in an unknown way; known: 3.27 to 3.29")
        if name:
            opened.name = name
        if self._info.project:
            opened.experiment = self._plain(self._info.project)
        return opened

    def _disown(self, *objects: Any) -> None:
        """Take what is ours out of Aim's clean-up at exit: `close` does it, and Aim would wait for a dead server.

        `aim.ext.cleanup` also waits forever when a clean-up fails, e.g. because the repository was deleted meanwhile.
        """
        from aim.ext.cleanup import AutoClean

        _never_hang_at_exit(AutoClean)
        client = self._repo._client
        resources = list(client._resource_pool.values()) if client else []
        for item in (self._repo, *objects, *resources, *self._repo.container_pool.values()):
            found = AutoClean._finalizers.pop(item, None)
            if found and client:
                self._finalizers.append(found[1])

    def _wait(self) -> None:
        """Wait until the Aim server has taken everything; nothing to do for a local repository.

        `aim.ext.transport` queues what is written and waits without end for a server that is gone.
        """
        if self._repo.is_remote_repo:
            queue = self._repo._client.get_queue()._queue
            deadline = time.monotonic() + _SERVER_SECONDS
            while queue.unfinished_tasks:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the Aim server has not taken the data for {_SERVER_SECONDS} s")
                time.sleep(0.002)

    def write(self, events: Sequence[ev.Event]) -> None:
        self.written = 0
        self._wait()
        super().write(events)
        try:
            self._wait()
        except TimeoutError:  # still in Aim's queue: they will come again, and must be recognised then
            self.written, self._points.resumed = 0, True
            raise

    def flush(self) -> None:
        """Nothing waits to be stored; show what is there to Aim's readers, but not more often than they would look."""
        if time.monotonic() - self._indexed > 30:
            self._index()

    def close(self, status: Status) -> None:
        if self._run is None:
            return
        try:
            self._wait()
        except TimeoutError:
            for finalizer in self._finalizers:
                finalizer.detach()  # or whoever drops the last reference to us would wait for the server
            raise
        self._end_trial(status)
        self._run["status"] = status
        if status != "finished":
            self._tag(status)
        run_hash = self._run.hash
        self._end(self._run, self.ended_at())
        self._run = self._ends = None
        del self._points
        try:
            self._index(run_hash)
        finally:
            self._repo = None
        gc.collect()  # Aim's objects refer to each other; RocksDB's files and locks go with the last of them

    def _end(self, run: Any, ended: float) -> None:
        if run._resources is not None and math.isfinite(ended):  # which would take the time of now (`aim/sdk/run.py`)
            run._resources.set_run_end_time = lambda: run.meta_run_tree.__setitem__("end_time", ended)
        run.close()
        run._tracker = None  # holds the last reference to the store

    def _index(self, run_hash: str | None = None) -> None:
        """Put the run into the repository's index, through which Aim's API finds runs; `aim up` would do it, too."""
        if self._repo.is_remote_repo:
            return
        from aim.sdk.index_manager import RepoIndexManager

        manager = RepoIndexManager(self._repo)
        for _ in range(10):
            try:
                manager.index(run_hash or self._run.hash)
                break
            except Exception as error:
                if not self.is_transient(error):
                    raise
                time.sleep(0.1)  # someone else has the index for some milliseconds
        self._indexed = time.monotonic()

    @property
    def handle(self) -> Any:
        return self._run

    def is_transient(self, error: BaseException) -> bool:
        if type(error).__name__ in {"RocksIOError", "ConnectionClosedError", "ConnectionClosedOK", "OperationalError"}:
            return True  # of aimrocks (a lock), websockets and SQLAlchemy (locked, busy)
        if isinstance(error, RuntimeError):  # what Aim makes of "no server" and of a repository that is half made
            return not str(error) or "connect" in str(error)
        return super().is_transient(error)

    # -- texts and parameters ---------------------------------------------------------------------------------------

    def _name(self, tag: str) -> str:
        name = self._names(tag)
        self._note_shortened()
        return name

    def _note_shortened(self) -> None:
        """Keep the whole of each name that had to be cut, in the run's parameters."""
        for names in (self._names, self._paths):
            noted = self._noted.get(id(names), 0)
            if noted < len(names.shortened):
                for name, tag in islice(names.shortened.items(), noted, None):
                    self._run["tracelet", "names", name] = self._plain(tag)
                self._noted[id(names)] = len(names.shortened)

    def _tag(self, tag: str) -> None:
        tag = self._names(tag)
        if tag not in self._run.tags:
            self._run.add_tag(tag)

    def _plain(self, value: Any) -> Any:
        """Return `value` in types that Aim stores: no empty key (it spoils the tree), integers of 64 bits, UTF-8."""
        if isinstance(value, Mapping):
            return {self._names(str(k)): self._plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(v) for v in value]
        if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
            return str(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return str(value).encode("utf-8", "backslashreplace").decode()

    def _params(self, run: Any, params: Mapping[str, Any]) -> None:
        """Set hyperparameters. One that had another value before keeps that as well, under ``tracelet``."""
        known = run.get("hparams") or {}
        for key, value in self._plain(params).items():
            if key in known and repr(known[key]) != repr(value):
                before = run.get(("tracelet", "earlier_hparams", key)) or []
                run["tracelet", "earlier_hparams", key] = [*before, known[key]]
            run["hparams", key] = value

    def log_hparams(self, event: ev.HParams) -> None:
        run, points = self._run, self._points
        if event.trial is not None:
            run = self._open_trial(event.trial, event.wall_time)
            self._trial_ended = event.wall_time
            points = _Points(run, resumed=True)
        self._params(run, event.params)
        for key, values in event.domain.items():
            run["tracelet", "hparams_domain", self._names(key)] = self._plain(values)
        for key, number in event.metrics.items():
            run["summary", self._names(key)] = float(number)
            context = {"type": "hparams"}
            points.put(float(number), self._name(key), event.step, event.wall_time, context, same_is_known=True)

    def _open_trial(self, trial: str, started: float) -> Any:
        """Return the run of this trial, whose hash follows from its name, so that a later part finds it again."""
        if self._trial and self._trial[0] == trial:
            return self._trial[1]
        self._end_trial("finished")
        parent = self._run
        run_hash = hashlib.blake2s(
            f"{parent.hash}\0{trial}".encode("utf-8", "surrogatepass"), digest_size=12
        ).hexdigest()
        run = self._start(run_hash, f"{self._info.exp_name or parent.hash}/{self._names(trial)}", started)
        self._trial = trial, run
        run["parent"] = parent.hash
        run["tracelet", "trial"] = self._plain(trial)
        run["tracelet", "session"] = self._info.session
        run["status"] = "running"
        if "trial" not in run.tags:
            run.add_tag("trial")
        return run

    def _end_trial(self, status: Status) -> None:
        if self._trial is not None:
            run, self._trial = self._trial[1], None
            run_hash, run["status"] = run.hash, status
            self._end(run, self._trial_ended)
            self._index(run_hash)

    # -- sequences --------------------------------------------------------------------------------------------------

    def _put(self, event: ev.Event, value: Any, kind: str = "", **more: str) -> None:
        context = self._context(event)
        if kind:
            context["type"] = kind
        self._points.put(value, self._name(event.tag), event.step, event.wall_time, {**context, **more})

    def _context(self, event: ev.Event) -> dict[str, str]:
        return {"writer": self._name(event.writer)} if event.writer else {}

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        before, ends = self.written, self._ends
        if ends is not None:
            ends.discard()
        for n, event in enumerate(events):
            value = float(event.value)
            if ends is not None:
                if ends.append(self._sequence(event), value, event.step, event.wall_time):
                    continue
                ends.commit()
                self.written = before + n
            self._put(event, value, **self._series(event))
            self.written = before + n + 1
        if ends is not None:
            ends.commit()

    def _series(self, event: ev.Scalar) -> dict[str, str]:
        return {} if event.series is None else {"series": self._name(event.series)}

    def _sequence(self, event: ev.Scalar) -> tuple[int, str]:
        """Return Aim's key of the event's sequence: the index of its context, and its name."""
        place = event.writer, event.tag, event.series
        sequence = self._sequences.get(place)
        if sequence is None:
            sequence = self._points.index({**self._context(event), **self._series(event)}), self._name(event.tag)
            if len(self._sequences) < 10_000:
                self._sequences[place] = sequence
        return sequence

    def log_histogram(self, event: ev.Histogram) -> None:
        import aim

        bins = uniform_bins(event, _BINS)
        if bins is None:
            self.attach_files(event)
            return
        low, high, counts = bins
        distribution = aim.Distribution(hist=counts, bin_range=(low, high))
        exact = {name: float(getattr(event, name)) for name in ("min", "max", "num", "sum", "sum_squares")}
        blobs = {name: _blob(np.asarray(getattr(event, name), "<f8").tobytes()) for name in ("limits", "counts")}
        distribution.storage["tensorboard"] = {**exact, **blobs}
        self._put(event, distribution, "histogram")

    def log_image(self, event: ev.Image) -> None:
        self._put_picture(event, event.format)

    def log_video(self, event: ev.Video) -> None:
        self._put_picture(event, "gif")

    def _put_picture(self, event: ev.Image | ev.Video, form: str) -> None:
        """Store the bytes as they are: `aim.Image` itself would decode and encode them again."""
        import aim

        picture = aim.Image.__new__(aim.Image)
        about = {"caption": "", "source": "PIL.Image", "mode": "RGB", "format": form}
        for key, value in {**about, "width": event.width, "height": event.height, "data": _blob(event.data)}.items():
            picture.storage[key] = value
        self._put(event, picture, event.kind)

    def log_audio(self, event: ev.Audio) -> None:
        import aim

        form = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/flac": "flac"}.get(
            event.content_type
        )
        if form is None:
            self.attach_files(event)
        else:
            self._put(event, aim.Audio(event.data, format=form), "audio")

    def log_text(self, event: ev.Text) -> None:
        import aim

        self._put(event, aim.Text(self._plain(event.text)), "text")

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        n = len(event.precision)
        rates = event.true_positives, event.false_positives, event.true_negatives, event.false_negatives
        thresholds = (i / max(n - 1, 1) for i in range(n))
        curve = {
            "type": "scatter", "mode": "lines+markers", "x": event.recall, "y": event.precision,
            "customdata": list(zip(thresholds, *rates, strict=True)),
            "hovertemplate": "recall %{x}<br>precision %{y}<br>threshold %{customdata[0]}<br>TP %{customdata[1]}, "
            "FP %{customdata[2]}, TN %{customdata[3]}, FN %{customdata[4]}",
        }  # fmt: skip
        axes = {"xaxis": {"title": {"text": "recall"}}, "yaxis": {"title": {"text": "precision"}}}
        self._put_figure(event, [curve], axes)

    def log_mesh(self, event: ev.Mesh) -> None:
        vertices = event.vertices.numpy()
        faces = event.faces.numpy() if event.faces else None
        colors = event.colors.numpy() if event.colors else None
        if vertices.size > 3 * _FIGURE_VERTICES:
            self.attach_files(event)
            return
        traces, scenes = [], {}
        for i, points in enumerate(vertices):
            scene = f"scene{i + 1 if i else ''}"
            scenes[scene] = {"aspectmode": "data", "domain": {"x": [i / len(vertices), (i + 1) / len(vertices)]}}
            trace: dict[str, Any] = {"scene": scene, **dict(zip("xyz", points.T.tolist(), strict=True))}
            rgb = [f"rgb({r},{g},{b})" for r, g, b in colors[i].tolist()] if colors is not None else None
            if faces is None:
                traces.append({"type": "scatter3d", "mode": "markers", "marker": {"size": 2, "color": rgb}, **trace})
            else:
                corners = dict(zip("ijk", faces[i].T.tolist(), strict=True))
                traces.append({"type": "mesh3d", "vertexcolor": rgb, **corners, **trace})
        self._put_figure(event, traces, {**scenes, "meta": {"config": event.config}})

    def log_embedding(self, event: ev.Embedding) -> None:
        self.attach_files(event)  # the exact matrix; a figure shows at most three of its axes
        matrix = np.asarray(event.matrix.numpy(), float)
        chosen = np.unique(np.linspace(0, max(len(matrix) - 1, 0), _FIGURE_POINTS).astype(int))[: len(matrix)]
        points = matrix[chosen]
        if points.size and np.isfinite(points).all():
            points = points - points.mean(axis=0)
            if points.shape[1] > 3:
                axes = np.random.default_rng(0).normal(size=(points.shape[1], 3))
                for _ in range(20):  # power iteration: near enough for the eye, and in linear time
                    axes = np.linalg.qr(points.T @ (points @ axes))[0]
                points = points @ axes
        columns = dict(zip("xyz", points.T.tolist(), strict=False))
        labels = [" | ".join(event.metadata[i]) for i in chosen] if event.metadata else None
        form = "scatter3d" if len(columns) == 3 else "scatter"
        trace = {"type": form, "mode": "markers", "marker": {"size": 3}, "text": labels, **columns}
        self._put_figure(event, [trace], {"title": {"text": "principal axes"}})

    def _put_figure(self, event: ev.Event, traces: list[Any], layout: dict[str, Any]) -> None:
        """Track Plotly JSON. JSON has no NaN: where there was one, the figure has a gap and a file has the data."""
        import aim

        try:
            text = json.dumps({"data": traces, "layout": layout}, allow_nan=False)
        except ValueError:
            text = json.dumps(_without_nan({"data": traces, "layout": layout}))
            self.attach_files(event)
        figure = aim.Figure.__new__(aim.Figure)  # its __init__ wants an object of the plotly package
        for key, value in {"source": "plotly", "version": "unknown", "format": "raw_json", "data": _blob(text)}.items():
            figure.storage[key] = value
        self._put(event, figure, event.kind)

    # -- files ------------------------------------------------------------------------------------------------------

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        import aim

        if self._run.artifacts_uri is None:  # a server, and no place named that both sides see
            try:
                text = data.decode()
            except UnicodeDecodeError:
                text = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
            context = {"type": "file"}
            self._points.put(aim.Text(text), path, event.step, event.wall_time, context, same_is_known=True)
            return
        self._note_shortened()
        with tempfile.TemporaryDirectory(prefix="tracelet-aim-") as directory:
            file = Path(directory, "data")
            file.write_bytes(data)
            self._run.log_artifact(str(file), name=path, block=True)
        # Aim's page shows where a file came from; ours was a temporary one.
        self._run.meta_run_tree.subtree("artifacts").subtree(path)["path"] = path


class _Points:
    """Writes the points of one Aim run so that none takes another's place.

    Args:
        run: the `aim.Run`.
        resumed: True if the run was there before. A point that is there with the same value and time is then taken as
            delivered: after a crash the last ones may come twice.
    """

    def __init__(self, run: Any, *, resumed: bool) -> None:
        self._tracker = run._tracker
        self._tree = run.meta_run_tree
        self.resumed = resumed
        self._latest: dict[tuple[int, str], tuple[int, int]] = {}  # sequence -> its latest repeat: (step, how many)
        self._late: dict[tuple[int, str], _Late] = {}
        self._indexes: dict[tuple[tuple[str, Any], ...], int] = {}  # of contexts: Aim copies and hashes one each time

    def put(
        self,
        value: Any,
        name: str,
        step: int,
        wall_time: float,
        context: dict[str, Any],
        *,
        same_is_known: bool = False,
    ) -> None:
        """Store a point; with `same_is_known`, or in a resumed run, not again if it is there."""
        known = same_is_known or self.resumed
        sequence = self.index(context), name
        latest = self._latest.get(sequence)
        first = latest[1] + 1 if latest and latest[0] == step and not same_is_known else 0
        for repeat in range(first, _REPEATS + 1):
            where = {**context, "repeat": repeat} if repeat else context
            info = self._tracker.sequence_infos[self.index(where) if repeat else sequence[0], name]
            key = self._find(info, step)
            if key is None:
                self._store(info, value, name, step, wall_time, where)
                break
            if known and self._is(info, key, value, wall_time):
                return
        else:
            repeat = _REPEATS
            if self._put_late(value, name, step, wall_time, {**context, "repeat": "more"}, known=known):
                return
        if repeat:
            if len(self._latest) > 10_000:
                self._latest.clear()
            self._latest[sequence] = step, repeat

    def _put_late(
        self, value: Any, name: str, step: int, wall_time: float, where: dict[str, Any], *, known: bool
    ) -> bool:
        """Store a point that comes late among the repeats of its step; return True if it was there."""
        index = self.index(where)
        info = self._tracker.sequence_infos[index, name]
        if not isinstance(value, float):
            count = info.count if info.initialized else 0
            if known and self._is_among(info, range(max(count - 2_000, 0), count), value, wall_time, step):
                return True
            self._tracker._track(value, wall_time, name, count, step, context=where)
            return False
        late = self._late.get((index, name))
        if late is None:
            late = self._late[index, name] = _Late(info, self._tree.subtree(("traces", index, name)))
        if known and self._is_among(info, late.latest(2_000), value, wall_time, step):
            return True
        self._tracker._track(value, wall_time, name, late.next(), step, context=where)
        late.stored(value, step)
        return False

    def index(self, context: Mapping[str, Any]) -> int:
        """Return the number by which Aim stores a context."""
        key = tuple(context.items())
        index = self._indexes.get(key)
        if index is None:
            from aim.storage.context import Context

            index = int(Context(dict(context)).idx)
            if len(self._indexes) < 10_000:
                self._indexes[key] = index
        return index

    @staticmethod
    def _find(info: Any, step: int) -> int | None:
        """Return the key of the point at `step`, or of another one that Aim stores in the same place; None if there is none. Only
        a step behind the last needs a look-up."""
        if not info.initialized or (step >= info.count and abs(step) < _EXACT):
            return None
        key = int(info.step_hash_fn(step))
        try:  # what RunTracker._add_value writes last, so that half a point counts as none
            (info.time_view if info.step_view is None else info.step_view)[key]
        except KeyError:
            return None
        return key

    def _store(self, info: Any, value: Any, name: str, step: int, wall_time: float, context: dict[str, Any]) -> None:
        """Store a point at a free place.

        `RunTracker` notes the last step from 0 on only; without it a resumed run does not know the sequence.
        """
        begins_below_zero = step < 0 and not info.initialized
        self._tracker._track(value, wall_time, name, step, None, context=context)
        if begins_below_zero:
            info.count = step + 1
            about = self._tree.subtree(("traces", self.index(context), name))
            about["last"], about["last_step"] = value, step

    def _is_among(self, info: Any, steps: range, value: Any, wall_time: float, epoch: int) -> bool:
        for step in reversed(steps):
            key = int(info.step_hash_fn(step))
            if info.epoch_view[key] == epoch and self._is(info, key, value, wall_time):
                return True
        return False

    @staticmethod
    def _is(info: Any, key: int, value: Any, wall_time: float) -> bool:
        """True if the point at `key` has exactly this value and time; NaN equals NaN."""
        if struct.pack("d", info.time_view[key]) != struct.pack("d", wall_time):
            return False
        stored = info.val_view[key]
        if isinstance(value, float):
            return isinstance(stored, (int, float)) and struct.pack("d", stored) == struct.pack("d", value)
        return bool(stored.storage["data"].load() == value.storage["data"].load())


class _Late:
    """A sequence of numbers in which a step may come again: each has a number of its own for Aim to store it by, far below all
    steps, and its true step in the column of steps.

    Args:
        info: Aim's, of the sequence.
        about: what Aim has to say of the sequence.
    """

    _LOWEST = -(1 << 52)

    def __init__(self, info: Any, about: Any) -> None:
        self._info, self._about = info, about
        self._count = sum(1 for _ in info.step_view.values()) if info.initialized else 0
        self._top = int(about["last_step"]) if self._count else None
        if self._count:
            last = self._LOWEST + self._count - 1
            key = int(info.step_hash_fn(last))
            if info.step_view[key] == last:  # somebody was killed before `stored`
                info.step_view[key] = int(info.epoch_view[key])

    def latest(self, count: int) -> range:
        """Return the numbers of the latest points."""
        return range(self._LOWEST + max(self._count - count, 0), self._LOWEST + self._count)

    def next(self) -> int:
        return self._LOWEST + self._count

    def stored(self, value: float, step: int) -> None:
        """Put the step of the point that `next` was for in its place. Aim takes what it is stored by for its step."""
        self._info.step_view[int(self._info.step_hash_fn(self.next()))] = step
        if self._top is None:
            self._about["first_step"] = step
        if self._top is None or step >= self._top:
            self._about["last"], self._about["last_step"] = value, step
            self._top = step
        self._info.count = max(self._info.count, 1)  # Aim would write of the first point again
        self._count += 1


class _Ends:
    """Appends numbers to sequences of one run in a local repository, many in one write to each of the run's two stores.

    What is put there is what `RunTracker._track` puts there (`_update_sequence_info`, `_add_value`), save that what it
    writes for the latest point only (the last value and step, the extremes) is written once. Aim deletes what is below a
    key before it puts a value there; behind the last step of a sequence of numbers there is nothing to delete.

    Args:
        tracker: the run's `RunTracker`.
        about, series: its stores (`aim.storage.rockscontainer.RocksContainer`).
        about_prefix: where the run begins in `about`.
    """

    def __init__(self, tracker: Any, about: Any, about_prefix: bytes, series: Any) -> None:
        from aim.storage.encoding import encode, encode_path

        self._encode, self._path = encode, encode_path
        self._none = encode(None)
        self._infos = tracker.sequence_infos
        self._about, self._about_prefix, self._series = about, about_prefix, series
        self._batch = series.batch()
        self._ends: dict[tuple[int, str], _End] = {}

    @classmethod
    def of(cls, run: Any) -> _Ends | None:
        """Return the object for `run`; None if the installed Aim does not store a point as the known versions do."""
        try:
            _check_storage(run._tracker)
            about, series = run.meta_run_tree.container, run.series_run_trees[2].container
            return cls(run._tracker, about.parent, about.prefix, series.parent)
        except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
            _log.info("points are stored one by one, since Aim (known: 3.29) has another way: %r", error)
            return None

    def append(self, sequence: tuple[int, str], value: float, step: int, wall_time: float) -> bool:
        """Take a point for `commit`. False if it is none that goes behind the last one of a sequence of floats."""
        end = self._ends.get(sequence)
        if end is None:
            info = self._infos.get(sequence)
            # at 0 there may be points below zero only, and Aim writes of the first point again
            if info is None or not info.initialized or info.version != 2 or info.dtype != "float" or info.count <= 0:
                return False
            end = self._ends[sequence] = _End(info)
        if step < max(end.count, end.info.count) or step >= _EXACT:  # the user may track in the same run
            return False
        key = self._path((end.hash(step),))
        put = self._batch.put
        put(end.value_prefix + key, self._encode(value))
        put(end.epoch_prefix + key, self._none)
        put(end.time_prefix + key, self._encode(wall_time))
        put(end.step_prefix + key, self._encode(step))
        end.last, end.count = value, step + 1
        end.max = max(end.max, value)
        end.min = min(end.min, value)
        return True

    def discard(self) -> None:
        """Forget points that were taken and not stored, because of an error between: they come again."""
        if self._ends:
            self._ends, self._batch = {}, self._series.batch()

    def commit(self) -> None:
        """Store the points taken. After an error none of them counts as stored."""
        ends, batch = self._ends, self._batch
        if not ends:
            return
        self._ends, self._batch = {}, self._series.batch()
        about = self._about.batch()
        for (index, name), end in ends.items():
            info = end.info
            what: dict[str, Any] = {"last": end.last, "last_step": end.count - 1} if end.count > info.count else {}
            what |= {"max": end.max} if end.max > info.max else {}
            what |= {"min": end.min} if end.min < info.min else {}
            for field, value in what.items():
                about.put(self._about_prefix + self._path(("traces", index, name, field)), self._encode(value))
        self._about.commit(about)  # first, as Aim does it: a step that it names is looked up, one beyond is taken for free
        self._series.commit(batch)
        for end in ends.values():
            info = end.info
            info.count, info.max, info.min = max(info.count, end.count), max(info.max, end.max), min(info.min, end.min)


class _End:
    """The end of a sequence, as it will be after the next `_Ends.commit`."""

    __slots__ = (
        "count", "epoch_prefix", "hash", "info", "last", "max", "min", "step_prefix", "time_prefix", "value_prefix",
    )  # fmt: skip

    def __init__(self, info: Any) -> None:
        self.info = info
        self.hash = info.step_hash_fn
        self.count, self.max, self.min = info.count, info.max, info.min
        self.last = math.nan
        self.value_prefix = info.val_view.tree.container.prefix
        self.epoch_prefix = info.epoch_view.tree.container.prefix
        self.time_prefix = info.time_view.tree.container.prefix
        self.step_prefix = info.step_view.tree.container.prefix


def _check_storage(tracker: Any) -> None:
    """Raise a ValueError or the like if the installed Aim's own tracker stores points in another way than `_Ends`."""
    from aim.sdk.tracker import SequenceInfo
    from aim.storage.container import Container
    from aim.storage.context import Context
    from aim.storage.prefixview import PrefixView

    class Store(Container):  # type: ignore[misc]
        """Keeps what is put into it, as a container and as a batch of one."""

        def __init__(self) -> None:
            self.found: dict[bytes, bytes] = {}

        def put(self, key: bytes, value: bytes) -> None:
            self.found[key] = value

        def set(self, key: bytes, value: bytes, store_batch: Any = None) -> None:
            self.found[key] = value

        def delete_range(self, begin: bytes, end: bytes, store_batch: Any = None) -> None:
            pass  # nothing is there

        def batch(self) -> Store:
            return self

        def commit(self, batch: Store) -> None:
            pass  # it is in place already

        def view(self, prefix: bytes = b"") -> Any:
            return PrefixView(prefix=prefix, container=self)

    index, found = int(Context({}).idx), []
    for own in (True, False):
        about, series = Store(), Store()
        probe = copy.copy(tracker)
        probe.meta_tree, probe.meta_run_tree = about.view().tree(), about.view(b"run").tree()
        probe.series_run_trees = dict.fromkeys((1, 2), series.view().tree())
        probe.sequence_infos, probe.contexts = defaultdict(SequenceInfo), {}
        ends, appended = _Ends(probe, about, b"run", series), 0
        for value, step in ((0.25, 2), (1.0, 3), (-1.5, 7), (math.nan, 9)):
            if own and ends.append((index, "name"), value, step, 0.5 + step):
                appended += 1
            else:
                probe._track(value, 0.5 + step, "name", step, None, context={})
        ends.commit()
        state = {k: v for k, v in vars(probe.sequence_infos[index, "name"]).items() if not k.endswith("_view")}
        found.append((about.found, series.found, state, appended))
    if found[0] != (*found[1][:3], 3):
        raise ValueError("points are stored in another way")


def _hash_of(run: RunInfo) -> str:
    """Return the hash for the run: Aim's own is 24 hex digits; any other id of the user's is hashed to that."""
    if run.resume:
        return run.resume
    if run.run_id is not None and _HASH.fullmatch(run.run_id):
        return run.run_id
    own = f"tracelet session {run.session}"  # the same again for whoever goes on after a kill in the middle of opening it
    return hashlib.blake2s((run.run_id or own).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _naive_utc(seconds: float) -> datetime | None:
    """Return a time as Aim's database has it; None for one that a date cannot express."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return None


@contextmanager
def _hash_is(run_hash: str) -> Iterator[None]:
    """Let the next new `aim.Run` of this thread have this hash, or be the run that has it.

    ``aim.Run(hash)`` refuses a hash that is not there yet, and what is there it looks up in a cache half a second old.
    """
    from aim.sdk import base_run

    original, thread = base_run.generate_run_hash, threading.get_ident()
    base_run.generate_run_hash = lambda *args: run_hash if threading.get_ident() == thread else original(*args)
    try:
        yield
    finally:
        base_run.generate_run_hash = original


def _open_repo(where: str) -> Any:
    """Open the repository, make it where there is none. Two processes that make one at once spoil it: one at a time.

    The object is ours alone, not `Repo`'s shared one for the path, so that its end is in our hands.
    """
    from aim import Repo

    if "://" in where:
        return Repo(where)
    unready = (0, 0)  # version of a repository that is not there, or not yet ready
    if Repo.get_version(where) == unready:
        os.makedirs(where, exist_ok=True)
        with locked(where, 60):
            deadline = time.monotonic() + 10  # for a process that does not know our lock and is making it
            while Repo.exists(where) and Repo.get_version(where) == unready and time.monotonic() < deadline:
                time.sleep(0.1)
            if Repo.get_version(where) == unready:
                Repo(where, init=True)
    return Repo(where)


def _never_hang_at_exit(auto_clean: Any) -> None:
    """Make Aim's clean-up at exit end when it fails: it waits for a signal that only a clean-up without error gives."""
    cleanup = auto_clean._cleanup
    if getattr(cleanup, "_always_ends", False):
        return

    def always_ends() -> None:
        try:
            cleanup()
        finally:
            auto_clean.stop_signal.set()

    always_ends._always_ends = True  # type: ignore[attr-defined]
    auto_clean._cleanup = staticmethod(always_ends)


def _blob(data: bytes | str) -> Any:
    from aim.storage.types import BLOB

    return BLOB(data=data)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
