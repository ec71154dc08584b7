"""Trackio: runs in a local SQLite file, on a self-hosted server, or in a Hugging Face Space.

Decisions, with the place in Trackio 0.43 that a rule comes from; more of them stand in the parts:

- Rows go straight to the store, not through Trackio's own `Run.log`, see ``local.py`` and ``server.py``.
- A row's ``log_id`` is made from its events: a repeated delivery counts once, see ``log_ids.py``. A server stamps the time of
  arrival, and the time column holds no NaN and no year 10000; there the true time is in the row as ``tracelet/wall_time``.
- In the local database, what follows each other and has one step shares a row, see ``batch.py``: the
  dashboard counts rows as steps, and a row costs ten times what a value in it costs. A batch that comes again may be cut
  elsewhere, so where that can be (in a run that was there before, after a write that failed) the database is asked what it
  has, see ``resume.py``. A server cannot be asked for what is in its queue: there one event is one row.
- Media files are unchanged, under a name made from the event instead of a random one. A video is a GIF logged as `trackio.Image`:
  the dashboard shows a `trackio.Video` in ``<video>``, which plays no GIF in most browsers (``frontend/src/pages/Media.svelte``).
- What has no type of its own is an artifact of the run, one for each tag, one version for each event: its page offers
  the files by name. (`trackio.save` belongs to no run, and a server forgets the names.) Equal manifests are one version
  (``_insert_artifact_version_cursor``); a path names its event, so that only repetitions are equal.
- What a run is stands in its config, see ``run.py``. A trial is a run of its own, in one group with its parent.
- No `trackio.run.Run` is made unless the user asks for the `handle`, see ``process.py``.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Acknowledged, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.render import files
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.render.tables import bucket_numbers, node_page
from tracelet_shim.backends.shared.options import Parser, switch
from tracelet_shim.backends.shared.transient import Patience, Verdict, judge
from tracelet_shim.backends.trackio import joined, log_ids, names, own_forms, process
from tracelet_shim.backends.trackio.answers import AnswerError, RefusedTokenError
from tracelet_shim.backends.trackio.batch import Batch
from tracelet_shim.backends.trackio.fetching import fetch
from tracelet_shim.backends.trackio.joined import UsersRun
from tracelet_shim.backends.trackio.names import OWN
from tracelet_shim.backends.trackio.older import local_store
from tracelet_shim.backends.trackio.own_forms import OwnForms
from tracelet_shim.backends.trackio.probe import PROBE
from tracelet_shim.backends.trackio.resume import Stored
from tracelet_shim.backends.trackio.run import Run
from tracelet_shim.backends.trackio.server import Server, make_space
from tracelet_shim.backends.trackio.settings import check_remote, remotes, token
from tracelet_shim.backends.trackio.store import Store
from tracelet_shim.backends.trackio.tables import buckets, embedding_rows, pr_curve_page, pr_curve_rows, table
from tracelet_shim.backends.trackio.values import iso, plain
from tracelet_shim.backends.trackio.versions import SERVER, VERSIONS, has, is_older_than, refined
from tracelet_shim.eventfiles.own_files import is_sample

__all__ = ["TrackioBackend"]

_BINS = 64  # the dashboard draws the counts of bins, however wide
_BATCH, _BATCH_OF_SCALARS = 1000, 20_000
"""Events of a batch, and of one that follows a batch of nothing but scalars: `bulk_log` costs 4 ms, whatever it is given."""
_NO_SERVER = "servers and Spaces can be written to with trackio 0.30 and later; remedy: pip install --upgrade trackio"


class TrackioBackend(OwnForms):
    name = "trackio"
    module = "trackio"
    distribution = "trackio"
    versions = VERSIONS
    probe = PROBE
    fetch = staticmethod(fetch)
    credentials = "check the token (`hf auth login`, HF_TOKEN; of a server of your own, TRACKIO_WRITE_TOKEN)"
    batch_events = _BATCH
    parsers: ClassVar[Mapping[str, Parser]] = {"private": switch}
    options: ClassVar[Mapping[str, str]] = {
        "server_url": "URL of a self-hosted server, with or without its write_token; else TRACKIO_SERVER_URL",
        "write_token": "token of that server; else TRACKIO_WRITE_TOKEN",
        "space_id": "Hugging Face Space (user/name) to log to, made if there is none; else TRACKIO_SPACE_ID",
        "bucket_id": "Hugging Face Bucket in which that Space keeps its data",
        "private": "true for a Space that is made here to be private",
        "registry": "registry that register_as links models into, if it exists; default: models",
        "group": "group of the run (that of a distributed job wins)",
    }
    acknowledged = Acknowledged(
        here="the row is in the SQLite file",
        server=(
            "the answer to the request, and the database: the server is asked for the rows, since it says yes to "
            "what it then drops"
        ),
        again="the store recognises the rows that it has",
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = refined({
        ev.Scalar: Capability(
            Level.NATIVE,
            "metric; what is logged for one step shares a row, which has the time of the first, to the µs; others' times, if"
            " they differ by more than 2 ms, are in it as tracelet/wall_times; on a server a row each, with the time as"
            " tracelet/wall_time; NaN and ±inf are kept as Trackio's strings, which no chart draws; the dashboard draws up to"
            " 3000 rows of a run. The system metrics are on the page for them",
        ),
        ev.Histogram: Capability(
            Level.NATIVE, f"trackio.Histogram of {_BINS} uniform bins; the exact buckets are in the same row"
        ),
        ev.Image: Capability(Level.NATIVE, "trackio.Image, TensorBoard's own PNG"),
        ev.Video: Capability(Level.CONVERTED, "GIF as trackio.Image; the dashboard's video player plays no GIF"),
        ev.Audio: Capability(Level.NATIVE, "trackio.Audio, the WAV unchanged"),
        ev.Text: Capability(Level.NATIVE, "trackio.Markdown, on the page of reports"),
        ev.PRCurve: Capability(Level.CONVERTED, "trackio.Table with all numbers, and the curve drawn as trackio.Html"),
        ev.Mesh: Capability(Level.NATIVE, "trackio.Object3D from PLY, one for each of the batch"),
        ev.Embedding: Capability(
            Level.CONVERTED, "trackio.Table (its head, if large); whole as TSV, sprite as PNG: an artifact"
        ),
        ev.Tensor: Capability(Level.FILE, "NPY in an artifact, one version a step"),
        ev.Graph: Capability(Level.CONVERTED, "table of nodes as trackio.Html; pbtxt and pb in an artifact"),
        ev.HParams: Capability(Level.NATIVE, "config and metrics; a trial as a run of the same group"),
        ev.CustomScalars: Capability(Level.FILE, "JSON in an artifact; Trackio has no chart layout in its API"),
        ev.Blob: Capability(Level.FILE, "the bytes, in an artifact"),
        **own_forms.CAPABILITIES,
    })  # fmt: skip

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._store: Store | None = None
        self._main: Run | None = None
        self._trials: dict[str, Run] = {}
        self._joined: UsersRun | None = None
        self._handle: Any = None
        self._project = names.DEFAULT_PROJECT
        self._batch: Batch | None = None
        self._stored = Stored()
        self._there = set[ev.RecordId]()
        self._opened = False
        self._patience = Patience()
        self._keys = names.keys()
        self._run_names = names.run_names()
        self._artifacts = names.artifact_names()

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        if not offline:
            check_remote(options)
            if any(remotes(options)) and is_older_than(SERVER):
                raise errors.BackendUnavailableError(cls.name, _NO_SERVER)

    @classmethod
    def borrowed(cls) -> str | None:
        run = joined.active()
        return None if run is None else joined.id_of(run)

    @classmethod
    def borrowed_project(cls) -> str | None:
        run = joined.active()
        return None if run is None else str(run.project)

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        from trackio import run as sdk

        return [Ending(sdk.Run, "finish", lambda run, *_: joined.id_of(run))]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        if run.offline and run.program.pid != os.getpid():  # never change the user's own process
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if self._main is None:
            native = joined.seen(run.resume) if run.resume else None
            if run.borrowed and native is None:
                raise errors.BackendError(f"your Trackio run {run.resume} has ended")
            self._main = self._find(run) if native is None else self._join(native)
        main = self._main
        if self._joined is None:
            main.describe(run, self._project, self.given.get("group"))
        elif run.notes is not None or run.tags:
            main.label(run)
        main.set_params(run.config)
        main.changed = self._joined is None or bool(run.config or run.tags or run.notes is not None)
        self._send()
        self._opened = True
        assert self._store is not None
        return OpenedRun(main.id, self._store.url())

    def _join(self, native: Any) -> Run:
        """Write to the run that the user has open: to the same place, under the same name and id."""
        user = UsersRun(native)
        self._project = user.project
        self._stored = Stored(may_be=True)
        self._store = self._connect(*user.place())
        self._joined = user
        return user.as_run()

    def _find(self, run: RunInfo) -> Run:
        """Return the run to continue, or a new one. An open that is tried again finds what the first try has made."""
        self._project = names.project_name(run.project or "")
        space, server = (None, None) if run.offline else remotes(self.given)
        if space:
            self._store = self._connect(make_space(space, self.given), None, None)
        else:
            base = server.partition("?")[0] if server else None  # what follows is the token, and how to show the page
            self._store = self._connect(None, base, token(self.given, server) if server else None)
        run_id = run.resume or (names.run_id(run.run_id) if run.run_id else run.session)
        found = {record["id"]: str(record["name"]) for record in self._store.runs()}
        is_there = run_id in found
        self._stored = Stored(may_be=is_there, row_each=is_there)
        config = plain(self._store.config(run_id) or {}) if is_there else {}
        name = found.get(run_id) or (self._run_names(run.exp_name) if run.exp_name else None)
        if name is not None and not is_there and not self._store.has_run_ids:
            name = names.unused(name, set(found.values()))
        if name is None:
            from trackio import utils

            name = utils.generate_readable_name(list(found.values()))
        return Run(run_id, name, config, iso(run.started) or "")

    def _connect(self, space: str | None, server: str | None, token: str | None) -> Store:
        return Server(self._project, space, server, token) if space or server else local_store(self._project)

    def close(self, status: Status) -> None:
        if self._main is None:
            return
        if self._handle is not None:
            process.stop(self._handle)
        if self._joined is None:
            self._main.end(status, self.ended_at())
        self._main.changed = self._joined is None or self._joined.has_told
        self._send()

    @property
    def handle(self) -> Any:
        """A `trackio.run.Run` on the same run, made when it is first asked for; the user's own where that is joined."""
        if self._joined is not None:
            return self._joined.native
        if self._handle is None and self._main is not None and self._store is not None:
            self._handle = process.quiet_run(
                project=self._project, name=self._main.name, run_id=self._main.id, **self._store.handle()
            )
            self._handle.config, self._handle._config_logged = self._main.config, True
        return self._handle

    def is_transient(self, error: BaseException) -> bool:
        if isinstance(error, RefusedTokenError):  # of a run that is open: the server was started with another one
            return self._opened
        response: Any = getattr(error, "response", None)  # of the Hub's errors
        if isinstance(error, AnswerError) or response is not None:
            status, own = (error.status, error.own) if isinstance(error, AnswerError) else (int(response.status_code), True)
            return self._patience.passes(status, own=own) if self._opened else judge(status, own=own) is Verdict.PASSES
        if isinstance(error, sqlite3.OperationalError) and "no such" in str(error):
            return True  # another thread or process is making the file: tables first, then columns (`SQLiteStorage.init_db`)
        httpx = sys.modules.get("httpx")
        return (httpx is not None and isinstance(error, httpx.TransportError)) or super().is_transient(error)

    def advice(self, error: BaseException) -> str:
        if isinstance(error, RefusedTokenError):
            return (
                "set TRACKIO_WRITE_TOKEN, or the option write_token, to that server's token: the end of the URL that"
                " `trackio show` prints there; for a Space, HF_TOKEN to one that may write to it"
            )
        return super().advice(error)

    # -- rows -------------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        """Collect the rows of all events and store them at once; nothing is left for `flush` to do."""
        assert self._main is not None
        assert self._store is not None
        self._batch = Batch(self._project, self._store, self._keys)
        self.written, self.batch_events = 0, _BATCH
        self._there = self._stored.among(events, self._store, self._main.id)
        try:
            super().write(events)
        except BaseException:
            self._stored.doubt()  # some of what comes again is sent now
            raise
        finally:
            taken, self.written = self.written, 0
            self._send()
            self.written = taken
        if self._store.shares_rows and set(map(type, events)) == {ev.Scalar}:
            self.batch_events = _BATCH_OF_SCALARS

    def _send(self) -> None:
        if self._joined is not None and self._main is not None and self._main.changed:
            self._joined.merge_config(self._main)
        runs = [run for run in (self._main, *self._trials.values()) if run is not None and run.changed]
        rows = [run.opening_row(self._project) for run in runs] + (self._batch.rows() if self._batch is not None else [])
        samples = self._batch.samples if self._batch is not None else []
        if rows or samples:
            assert self._store is not None
            try:
                if rows:
                    self._store.log(rows)
                if samples:
                    self._store.log_system(samples)
            except BaseException:
                self._stored.doubt()  # some of it may be there all the same
                raise
            self._patience.reset()
        for run in runs:
            run.changed = False
        self._batch = None

    def _row(self, event: ev.Event, values: dict[str, Any], part: str = "") -> None:
        assert self._main is not None
        assert self._batch is not None
        alone = bool(part) or isinstance(event, ev.PRCurve)  # it has several values, or two under one key
        if alone or event.record not in self._there:
            self._batch.add_event(self._main, event, values, part, alone=alone)

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        assert self._main is not None
        assert self._batch is not None
        if self._there:
            events = [event for event in events if event.record not in self._there]
        samples = [event for event in events if is_sample(event.record.file, event.writer)]
        if samples and self._store is not None and self._store.has_system:
            self._batch.add_samples(self._main, samples)
            events = [event for event in events if not is_sample(event.record.file, event.writer)]
        self._batch.add_scalars(self._main, events)

    # -- events with a type of their own ----------------------------------------------------------------------------

    def log_histogram(self, event: ev.Histogram) -> None:
        import numpy as np
        import trackio

        low, high, counts = uniform_bins(event, _BINS) or (0.0, 0.0, np.zeros(0))
        edges = np.linspace(low, high, len(counts) + 1) if len(counts) else counts
        value = trackio.Histogram(np_histogram=(counts, edges))._to_dict() if has("Histogram") else table(buckets(event))
        exact = {**bucket_numbers(event), "limits": list(event.limits), "counts": list(event.counts)}
        self._row(event, {self._keys(event.path): {**value, **exact}})

    def log_text(self, event: ev.Text) -> None:
        import trackio

        text = plain(event.text)
        shown = trackio.Markdown(text)._to_dict() if has("Markdown") else table([{"text": text}])
        self._row(event, {self._keys(event.path): shown})
        if text != event.text:  # a database takes no lone surrogates
            self.attach_files(event)

    def log_image(self, event: ev.Image) -> None:
        self._media(event, "Image", f".{event.format}", event.data)

    def log_video(self, event: ev.Video) -> None:
        caption = f"video, {event.frames} frames, {event.fps:g} a second"
        self._media(event, "Image", ".gif", event.data, caption=caption)

    def log_audio(self, event: ev.Audio) -> None:
        for suffix, data in files.render(event):
            self._media(event, "Audio", suffix, data)

    def log_mesh(self, event: ev.Mesh) -> None:
        import numpy as np

        vertices = event.vertices.numpy()
        if not has("Object3D") or not vertices.size or not np.isfinite(vertices).all():  # the viewer refuses these (plyParser.js)
            self.attach_files(event)
            return
        others = []
        for index, (path, data) in enumerate(self.files_of(event)):
            if path.endswith(".ply"):
                caption = f"{index + 1} of {len(vertices)}" if len(vertices) > 1 else None
                self._media(event, "Object3D", ".ply", data, part=str(index), caption=caption)
            else:
                others.append((path, data))
        self._commit(event, others)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        self._row(event, {self._keys(event.path): table(pr_curve_rows(event))})
        if has("Html"):
            self._media(event, "Html", ".html", pr_curve_page(event), part="drawing", caption="precision over recall")

    def log_embedding(self, event: ev.Embedding) -> None:
        self.attach_files(event)
        self._row(event, {self._keys(event.path): table(embedding_rows(event))})

    def log_graph(self, event: ev.Graph) -> None:
        self.attach_files(event)
        key = f"{OWN}graph/{event.path}".rstrip("/")
        if has("Html"):
            self._media(event, "Html", ".html", node_page(event.graph_def), key=key, caption="graph")

    # -- files ------------------------------------------------------------------------------------------------------

    def _media(
        self,
        event: ev.Event,
        kind: str,
        suffix: str,
        data: bytes,
        *,
        part: str = "",
        caption: str | None = None,
        key: str | None = None,
    ) -> None:
        """Show a file as one of Trackio's types; attach it where there is no such type."""
        if not has(kind):
            self.attach_files(event)
            return
        assert self._main is not None
        assert self._store is not None
        name = log_ids.of_event(self._main.id, event.record, part) + suffix
        folder = self._run_names(self._main.name) if self._joined is not None else self._main.name
        value = self._store.media(folder, int(event.step), name, data, kind, caption)
        self._row(event, {key or self._keys(event.path): value}, part)

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._commit(event, [(path, data)])

    def attach_files(self, event: ev.Event) -> None:
        self._commit(event, list(self.files_of(event)))

    def _commit(self, event: ev.Event, contents: Sequence[tuple[str, bytes]]) -> None:
        assert self._main is not None
        assert self._store is not None
        if contents:
            metadata = {"tag": event.path, "writer": event.writer, "step": event.step, "wall_time": event.wall_time}
            name = self._artifacts(f"tracelet-{event.kind}-{event.path}")
            self._store.artifact(
                contents, name=name, type=event.kind, description=None, metadata=plain(metadata), aliases=[],
                run_name=self._main.name, run_id=self._main.id,
            )  # fmt: skip

    # -- parameters -------------------------------------------------------------------------------------------------

    def log_hparams(self, event: ev.HParams) -> None:
        run = self._main if event.trial is None else self._trial(event, event.trial)
        assert run is not None
        run.set_hparams(event)
        if event.metrics:
            assert self._batch is not None
            self._batch.add_event(run, event, {self._keys(name): float(v) for name, v in event.metrics.items()})

    def _trial(self, event: ev.HParams, trial: str) -> Run:
        """Return the run of a trial; it goes on where an earlier session or try has left it."""
        assert self._main is not None
        assert self._store is not None
        if trial not in self._trials:
            main, run_id = self._main, self._main.trial_id(trial)
            group = main.config.get("_Group") or main.name
            if self._joined is None and main.config.get("_Group") != group:  # the dashboard shows them all together
                main.config["_Group"], main.changed = group, True
            started = iso(event.wall_time) or main.started
            config = plain(self._store.config(run_id) or {}) or main.trial_config(trial, group, started)
            self._trials[trial] = Run(run_id, self._run_names(f"{main.name}-{trial}"), config, started)
        return self._trials[trial]
