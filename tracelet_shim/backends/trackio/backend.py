"""Trackio: runs in a local SQLite file, on a self-hosted server, or in a Hugging Face Space.

Decisions, with the place in Trackio 0.43 that a rule comes from:

- Rows go straight to `SQLiteStorage.bulk_log` (``sqlite_storage.py``), or to the same call of a server (``/bulk_log``,
  ``server.py``). `Run.log` would queue them: it stamps the time of its own flush, and turns every failure into a
  warning (``run.py``), so nobody would know what to send again.
- One event is one row, with its own time. Its ``log_id`` is made from the event and is unique in the database
  (``idx_metrics_log_id``): a repeated delivery counts once. A server stamps the time of arrival, and the time column
  holds no NaN and no year 10000; there the true time is in the row as ``tracelet/wall_time``.
- In the local database, scalars share a row that follow each other in one event file and have one step and (to
  `rows.WALL_TOLERANCE`) one time: the dashboard draws 3000 rows of a run, and a row costs ten times what a value in it costs.
  The ``log_id`` of such a row has the places of its first and its last value, between which nothing is missing. A batch that
  comes again may be cut elsewhere, so where that can be (in a run that was there before, after a write that failed) the
  database is asked what it has. Fragments cannot be asked, and what a server does not have yet may be on its way
  (``server._enqueue_write``): there each scalar is a row.
- Media files are written where `TrackioMedia` writes them (``media/<project>/<run>/<step>/``), unchanged, under a name
  made from the event instead of a random one. A video is a GIF logged as `trackio.Image`: the dashboard shows a
  `trackio.Video` in ``<video>``, which plays no GIF in most browsers (``frontend/src/pages/Media.svelte``).
- What has no type of its own is an artifact of the run, one for each tag, one version for each event: its page offers
  the files by name. (`trackio.save` belongs to no run, and a server forgets the names.) Equal manifests are one version
  (``_insert_artifact_version_cursor``); a path names its event, so that only repetitions are equal.
- A run has no status, tags or notes: they are in its config as ``tracelet/...``. A run exists as soon as it has a row
  (``get_run_records``), and a config travels with rows only: an empty row opens each run, and is sent again, and taken
  for known, whenever the config changes.
- A trial is a run of its own, in one group with its parent.
- `Run.__init__` asks the Hub who the user is, without a time limit, where there is a token. No `Run` is made here
  unless the user asks for the `handle`, and that one does not ask.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import html
import json
import math
import os
import shlex
import sqlite3
import sys
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, urlencode, urlsplit

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.render import files
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.options import Parser, switch
from tracelet_shim.backends.shared.rows import Keys, rows
from tracelet_shim.backends.trackio.probe import PROBE
from tracelet_shim.common.text import as_utf8

__all__ = ["TrackioBackend"]

_UNPRINTABLE = r"\x00-\x1f\x7f\ud800-\udfff"
_ILLEGAL_KEY = (
    rf"[{_UNPRINTABLE}]|\A(?:p(?=roject\Z)|r(?=un(_id)?\Z)|t(?=ime(stamp)?\Z|racelet/)|s(?=tep\Z|eries_key\Z)|m(?=etrics\Z)"
    rf"|d(?=ata_type\Z)|_(?=[_{_UNPRINTABLE}]))"
)
"""``utils.RESERVED_KEYS``, the ``__`` of `Run.log`, what ``dataProcessing.js`` overwrites, and our own name space."""

_SIDECARS = ("system", "configs", "traces", "artifacts", "artifact_versions", "artifact_aliases", "run_artifact_links")
_ILLEGAL_PROJECT = r"[^\w\-]|\Ar(?=egistry-)|" + "|".join(
    rf"(?:(?<=(?s:.)_)|(?<=[^\w\-])){word[0]}(?={word[1:]}\Z)" for word in _SIDECARS
)
"""`canonical_project_name` and `validate_project_name`; an escape ends with an underscore, too."""

_ILLEGAL_RUN = rf"[/\\{_UNPRINTABLE}]|\A\.{{1,2}}\Z|\A\s|\s\Z"  # the name is a folder of the media directory
_ILLEGAL_ID = r"[^A-Za-z0-9._-]"  # cas.ARTIFACT_NAME_RE, and our run ids

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC; one that knows it would add that to the text
_OWN = "tracelet/"
_BINS = 64  # the dashboard draws the counts of bins, however wide
_TABLE_CELLS = 20_000  # a table is part of the row, and the dashboard loads all rows
_BATCH, _BATCH_OF_SCALARS = 1000, 20_000
"""Events of a batch, and of one that follows a batch of nothing but scalars: `bulk_log` costs 4 ms, whatever it is given."""
_TIMEOUT = 15.0  # seconds without an answer; Trackio's own is 60
_DEFAULT_PROJECT = "default"  # canonical_project_name("")


class _Store(Protocol):
    """Where rows, media files and artifacts go."""

    keeps_time: bool
    shares_rows: bool

    def runs(self) -> list[dict[str, Any]]: ...
    def config(self, run_id: str) -> dict[str, Any] | None: ...
    def log(self, rows: list[dict[str, Any]]) -> None: ...
    def media(self, run: str, step: int, name: str, data: bytes, kind: type[Any], caption: str | None) -> Any: ...
    def artifact(self, contents: Sequence[tuple[str, bytes]], **about: Any) -> None: ...
    def url(self) -> str: ...
    def handle(self) -> dict[str, Any]: ...


class _Target:
    """One Trackio run: the session's own, or a trial of it."""

    def __init__(self, run_id: str, name: str, config: dict[str, Any], started: str) -> None:
        self.id, self.name, self.config, self.started = run_id, name, config, started
        self.changed = True


class TrackioBackend(Backend):
    name = "trackio"
    module = "trackio"
    distribution = "trackio"
    probe = PROBE
    credentials = "check the token (`hf auth login`, HF_TOKEN; of a server of your own, TRACKIO_WRITE_TOKEN)"
    batch_events = _BATCH
    parsers: ClassVar[Mapping[str, Parser]] = {"private": switch}
    options: ClassVar[Mapping[str, str]] = {
        "server_url": "URL of a self-hosted server, with or without its write_token; else TRACKIO_SERVER_URL",
        "write_token": "token of that server; else TRACKIO_WRITE_TOKEN",
        "space_id": "Hugging Face Space (user/name) to log to, made if there is none; else TRACKIO_SPACE_ID",
        "bucket_id": "Hugging Face Bucket in which that Space keeps its data",
        "private": "true for a Space that is made here to be private",
        "group": "group of the run (that of a distributed job wins)",
    }
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "metric; those of one step and (to 2 ms) one time share a row, which has the time of the first, to the µs; on a"
            " server a row each, with the time as tracelet/wall_time; NaN and ±inf are kept as Trackio's strings, which no"
            " chart draws; the dashboard draws up to 3000 rows of a run",
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
    }

    _lent: ClassVar[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
    """The user's active runs that `borrowed` has seen in this process, by id."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._store: _Store | None = None
        self._main: _Target | None = None
        self._trials: dict[str, _Target] = {}
        self._joined: Any = None
        self._has_told = False
        self._handle: Any = None
        self._project = _DEFAULT_PROJECT
        self._rows: list[dict[str, Any]] = []
        self._looks = self._was_row_each = False
        self._there = set[ev.RecordId]()
        self._keys = Names(_ILLEGAL_KEY, 10_000)
        self._run_names = Names(_ILLEGAL_RUN, 150, in_bytes=True)
        self._artifacts = Names(_ILLEGAL_ID, 150)

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        space, server = _remotes(options)
        if offline or not (space or server):
            return
        if space:
            home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
            token = os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")
            if not (os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or os.path.exists(token)):
                raise errors.BackendUnavailableError(cls.name, "a Space needs a token: hf auth login, or set HF_TOKEN")
        elif server:
            if not server.startswith(("http://", "https://")):
                raise errors.ConfigurationError("backend 'trackio': server_url must start with http:// or https://")
            if not _token(options, server):
                raise errors.BackendUnavailableError(
                    cls.name, "a server needs a token: set TRACKIO_WRITE_TOKEN or the option write_token"
                )

    @classmethod
    def borrowed(cls) -> str | None:
        current = getattr(sys.modules.get("trackio.context_vars"), "current_run", None)
        run = current.get() if current is not None else None
        if run is None:
            return None
        cls._lent[run.id] = run
        return str(run.id)

    @classmethod
    def borrowed_project(cls) -> str | None:
        run_id = cls.borrowed()
        return None if run_id is None else str(cls._lent[run_id].project)

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        from trackio.run import Run

        return [Ending(Run, "finish", lambda run, *_: str(run.id))]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        if run.offline and run.program.pid != os.getpid():  # never change the user's own process
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if self._main is None:
            self._joined = self._lent.get(run.resume) if run.resume else None
            if run.borrowed and self._joined is None:
                raise errors.BackendError(f"your Trackio run {run.resume} has ended")
            self._main = self._join() if self._joined is not None else self._find(run)
        main = self._main
        if self._joined is None:
            for key, value in self._about(run, main).items():
                main.config[key] = _plain(value)
        elif run.notes is not None or run.tags:
            main.config.update(_tags_and_notes(run))
        self._set_params(main, run.config)
        main.changed = self._joined is None or bool(run.config or run.tags or run.notes is not None)
        self._send()
        assert self._store is not None
        return OpenedRun(main.id, self._store.url())

    def _join(self) -> _Target:
        """Write to the run that the user has open: to the same place, under the same name and id."""
        user = self._joined
        self._project = user.project
        self._looks = True
        self._store = self._connect(user._space_id, user._server_base_url, user._write_token)
        return _Target(user.id, user.name, dict(user.config), _iso(datetime.now(timezone.utc).timestamp()) or "")

    def _find(self, run: RunInfo) -> _Target:
        """Return the run to continue, or a new one. An open that is tried again finds what the first try has made."""
        self._project = Names(_ILLEGAL_PROJECT, 180, empty=_DEFAULT_PROJECT, in_bytes=True)(run.project or "")
        space, server = (None, None) if run.offline else _remotes(self.given)
        if space:
            self._store = self._connect(self._space(space), None, None)
        else:
            base = server.partition("?")[0] if server else None  # what follows is the token, and how to show the page
            self._store = self._connect(None, base, _token(self.given, server) if server else None)
        run_id = run.resume or (Names(_ILLEGAL_ID, 64)(run.run_id) if run.run_id else run.session)
        found = {record["id"]: str(record["name"]) for record in self._store.runs()}
        self._looks = self._was_row_each = run_id in found
        config = _plain(self._store.config(run_id) or {}) if run_id in found else {}
        name = found.get(run_id) or (self._run_names(run.exp_name) if run.exp_name else None)
        if name is None:
            from trackio import utils

            name = utils.generate_readable_name(list(found.values()))
        return _Target(run_id, name, config, _iso(run.started) or "")

    def _connect(self, space: str | None, server: str | None, token: str | None) -> _Store:
        return _Remote(self._project, space, server, token) if space or server else _Local(self._project)

    def _space(self, space: str) -> str:
        """Make the Space if there is none, as `trackio.init` does; return its full name."""
        from trackio import deploy, utils

        private = self.given.get("private")
        if isinstance(private, str):
            private = private.strip().lower() in ("1", "true", "yes", "on")
        with _on_stderr(deploy), _on_stderr(utils):
            space, _, bucket = utils.preprocess_space_and_dataset_ids(space, None, self.given.get("bucket_id"))
            if not self.given.get("bucket_id"):
                bucket = deploy.resolve_auto_bucket_id(space, bucket)
            deploy.raise_if_space_is_frozen_for_logging(space)
            deploy.create_space_if_not_exists(space, None, bucket, private)
        return str(space)

    def _about(self, run: RunInfo, main: _Target) -> dict[str, Any]:
        """Return what a run's config says of it, Trackio's own keys (``run.py``) first."""
        group = run.group or self.given.get("group") or main.config.get("_Group")
        about = {
            "_Username": main.config.get("_Username"),
            "_Created": main.config.get("_Created") or _iso(run.started),
            "_Group": group,
            f"{_OWN}status": "running",
            f"{_OWN}session": run.session,
            **_tags_and_notes(run),
        }
        if run.run_id:
            about[f"{_OWN}run_id"] = run.run_id
        if run.root:
            about[f"{_OWN}root"] = as_utf8(run.root)
        if run.project and run.project != self._project:
            about[f"{_OWN}project"] = run.project
        if run.exp_name and run.exp_name != main.name:
            about[f"{_OWN}exp_name"] = run.exp_name
        return about

    def close(self, status: Status) -> None:
        if self._main is None:
            return
        if self._handle is not None:  # `finish` would print, and wait for half a minute
            self._handle._stop_flag.set()
            for sender in (self._handle._local_sender_thread, self._handle._client_thread):
                if sender is not None:
                    sender.join(5)
        if self._joined is None:
            self._main.config |= {f"{_OWN}status": status, f"{_OWN}ended": _iso(self.ended_at())}
        self._main.changed = self._joined is None or self._has_told
        self._send()

    @property
    def handle(self) -> Any:
        """A `trackio.run.Run` on the same run, made when it is first asked for; the user's own where that is joined."""
        if self._joined is not None or self._main is None or self._store is None:
            return self._joined
        if self._handle is None:
            from trackio.run import Run

            class Anonymous(Run):  # type: ignore[misc]
                def _get_username(self) -> None:
                    """Ask nobody: the question has no time limit."""

            self._handle = Anonymous(
                project=self._project, name=self._main.name, run_id=self._main.id, **self._store.handle()
            )
            self._handle.config, self._handle._config_logged = self._main.config, True
        return self._handle

    def is_transient(self, error: BaseException) -> bool:
        code = getattr(getattr(error, "response", None), "status_code", None)  # httpx, and the Hub's errors
        if isinstance(code, int):
            return code in (408, 425, 429) or code >= 500
        httpx = sys.modules.get("httpx")
        return (httpx is not None and isinstance(error, httpx.TransportError)) or super().is_transient(error)

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        """Collect the rows of all events and store them at once; nothing is left for `flush` to do."""
        self._rows, self.written, self.batch_events = [], 0, _BATCH
        self._there = self._stored(events) if self._looks else set()
        try:
            super().write(events)
        except BaseException:
            self._looks = True  # some of what comes again is sent now
            raise
        finally:
            taken, self.written = self.written, 0
            self._send()
            self.written = taken
        assert self._store is not None
        if self._store.shares_rows and set(map(type, events)) == {ev.Scalar}:
            self.batch_events = _BATCH_OF_SCALARS

    def _merge_with_the_users_config(self) -> None:
        """Bring the config of a joined run up to date, ours and his, in both places.

        His run writes its whole config with its first row: what is queued must not come after ours, and what is not yet
        must carry ours. A row on its way to a server may be late all the same; so `close` writes once more.
        """
        assert self._main is not None
        user = self._joined
        if user._is_local:
            with user._client_lock:
                user._flush_queues_inline()
        his = {key: value for key, value in user.config.items() if not key.startswith(_OWN)}
        self._main.config.update(his)
        user.config = _plain(self._main.config)
        self._has_told = True

    def _send(self) -> None:
        if self._joined is not None and self._main is not None and self._main.changed:
            self._merge_with_the_users_config()
        targets = [target for target in (self._main, *self._trials.values()) if target is not None and target.changed]
        heads = [
            {
                "project": self._project, "run": target.name, "run_id": target.id, "metrics": {}, "step": 0,
                "timestamp": target.started, "config": _plain(target.config), "log_id": _digest(target.id, "opened"),
            }
            for target in targets
        ]  # fmt: skip
        if heads or self._rows:
            assert self._store is not None
            try:
                self._store.log([*heads, *self._rows])
            except BaseException:
                self._looks = True  # some of it may be there all the same
                raise
        for target in targets:
            target.changed = False
        self._rows = []

    def _row(self, event: ev.Event, metrics: dict[str, Any], *, part: str = "", target: _Target | None = None) -> None:
        """Add the row of one event. `part` tells the rows of one event apart."""
        run = target or self._main
        assert run is not None
        self._add(event, _plain(metrics), _digest(run.id, *map(str, event.record), part), run)

    def _add(self, event: ev.Event, values: dict[str, Any], log_id: str, run: _Target) -> None:
        """Add a row of plain `values` at the step and time of `event`."""
        assert self._store is not None
        if self._keys.shortened and (cut := [key for key in values if key in self._keys.shortened]):
            values[f"{_OWN}tag"] = [_plain(self._keys.shortened[key]) for key in cut]
        when = _iso(event.wall_time)
        if when is None or not self._store.keeps_time:
            values[f"{_OWN}wall_time"] = _plain(float(event.wall_time))
        self._rows.append({
            "project": self._project, "run": run.name, "run_id": run.id, "metrics": values, "step": int(event.step),
            "timestamp": when or _iso(0.0), "config": None, "log_id": log_id,
        })  # fmt: skip

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        assert self._store is not None
        if not self._store.shares_rows:
            for event in events:
                self._row(event, {self._keys(event.path): float(event.value)})
            return
        if self._there:
            events = [event for event in events if event.record not in self._there]
        keys = Keys(lambda event: self._keys(event.path))
        for group in _without_gaps(events):
            at = 0
            for first, values in rows(group, keys):
                at += len(values)
                self._shared_row(first, group[at - 1].record, values)

    def _shared_row(self, first: ev.Scalar, last: ev.RecordId, values: dict[str, Any]) -> None:
        assert self._main is not None
        log_id = f"{_file_id(self._main.id, last.file)}{_place(first.record)}-{_place(last)}"
        self._add(first, values if all(map(math.isfinite, values.values())) else _plain(values), log_id, self._main)

    def _stored(self, events: Sequence[ev.Event]) -> set[ev.RecordId]:
        """Return the records of those scalars among `events` that the run has already."""
        assert self._main is not None
        there = set[ev.RecordId]()
        store = self._store
        if not isinstance(store, _Local) or not store.shares_rows:
            return there
        run_id, by_file = self._main.id, dict[str, list[ev.RecordId]]()
        for event in events:
            if isinstance(event, ev.Scalar):
                by_file.setdefault(event.record.file, []).append(event.record)
        for file, records in by_file.items():
            rows = store.spans(_file_id(run_id, file), _place(min(records)), _place(max(records)))
            starts = [first for first, _ in rows]
            for record in records:
                place = _place(record)
                at = bisect_right(starts, place)
                if at and place <= rows[at - 1][1]:
                    there.add(record)
        if self._was_row_each and by_file:
            by_id = {_digest(run_id, *map(str, record), ""): record for group in by_file.values() for record in group}
            known = store.known(list(by_id))
            self._was_row_each = bool(known)  # what comes again comes first
            there.update(by_id[log_id] for log_id in known)
        return there

    def log_histogram(self, event: ev.Histogram) -> None:
        import numpy as np
        import trackio

        low, high, counts = uniform_bins(event, _BINS) or (0.0, 0.0, np.zeros(0))
        edges = np.linspace(low, high, len(counts) + 1) if len(counts) else counts
        value = trackio.Histogram(np_histogram=(counts, edges))._to_dict()
        exact = {name: getattr(event, name) for name in ("min", "max", "num", "sum", "sum_squares")}
        exact.update(limits=list(event.limits), counts=list(event.counts))
        self._row(event, {self._keys(event.path): {**value, **exact}})

    def log_text(self, event: ev.Text) -> None:
        import trackio

        text = _plain(event.text)
        self._row(event, {self._keys(event.path): trackio.Markdown(text)._to_dict()})
        if text != event.text:  # a database takes no lone surrogates
            self.attach_files(event)

    def log_image(self, event: ev.Image) -> None:
        import trackio

        self._media(event, trackio.Image, f".{event.format}", event.data)

    def log_video(self, event: ev.Video) -> None:
        import trackio

        caption = f"video, {event.frames} frames, {event.fps:g} a second"
        self._media(event, trackio.Image, ".gif", event.data, caption=caption)

    def log_audio(self, event: ev.Audio) -> None:
        import trackio

        for suffix, data in files.render(event):
            self._media(event, trackio.Audio, suffix, data)

    def log_mesh(self, event: ev.Mesh) -> None:
        import numpy as np
        import trackio

        vertices = event.vertices.numpy()
        if not vertices.size or not np.isfinite(vertices).all():  # the viewer refuses these (plyParser.js)
            self.attach_files(event)
            return
        others = []
        for index, (path, data) in enumerate(self.files_of(event)):
            if path.endswith(".ply"):
                caption = f"{index + 1} of {len(vertices)}" if len(vertices) > 1 else None
                self._media(event, trackio.Object3D, ".ply", data, part=str(index), caption=caption)
            else:
                others.append((path, data))
        self._commit(event, others)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        import trackio

        last = max(len(event.precision) - 1, 1)
        names = ("precision", "recall", "true_positives", "false_positives", "true_negatives", "false_negatives")
        rows = zip(*(getattr(event, name) for name in names), strict=True)
        table = [dict(zip(("threshold", *names), (i / last, *row), strict=True)) for i, row in enumerate(rows)]
        self._row(event, {self._keys(event.path): {"_type": trackio.Table.TYPE, "_value": table}})
        page = _curve(event.recall, event.precision, "recall", "precision")
        self._media(event, trackio.Html, ".html", page, part="drawing", caption="precision over recall")

    def log_embedding(self, event: ev.Embedding) -> None:
        import trackio

        self.attach_files(event)
        matrix = event.matrix.numpy()
        labels = event.metadata or ((),) * len(matrix)
        header = event.metadata_header or ("label",) * bool(event.metadata)
        columns = [*header, *(f"d{i}" for i in range(matrix.shape[1]))]
        columns = [name if columns.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(columns)]
        head = zip(labels, matrix[: max(1, _TABLE_CELLS // max(1, len(columns)))].tolist(), strict=False)
        rows = [dict(zip(columns, (*cells, *values), strict=False)) for cells, values in head]
        self._row(event, {self._keys(event.path): {"_type": trackio.Table.TYPE, "_value": rows}})

    def log_graph(self, event: ev.Graph) -> None:
        import trackio

        self.attach_files(event)
        key = f"{_OWN}graph/{event.path}".rstrip("/")
        self._media(event, trackio.Html, ".html", _node_table(event.graph_def), key=key, caption="graph")

    def _media(
        self,
        event: ev.Event,
        kind: type[Any],
        suffix: str,
        data: bytes,
        *,
        part: str = "",
        caption: str | None = None,
        key: str | None = None,
    ) -> None:
        assert self._main is not None
        assert self._store is not None
        name = _digest(self._main.id, *map(str, event.record), part) + suffix
        folder = self._run_names(self._main.name) if self._joined is not None else self._main.name
        value = self._store.media(folder, int(event.step), name, data, kind, caption)
        self._row(event, {key or self._keys(event.path): value}, part=part)

    def log_hparams(self, event: ev.HParams) -> None:
        target = self._main if event.trial is None else self._trial(event, event.trial)
        assert target is not None
        self._set_params(target, event.params)
        for place, values in (("metrics", event.metrics), ("domains", event.domain)):
            if values:
                target.config[f"{_OWN}{place}"] = {**target.config.get(f"{_OWN}{place}", {}), **values}
        target.changed = True
        if event.metrics:
            self._row(event, {self._keys(name): float(v) for name, v in event.metrics.items()}, target=target)

    def _trial(self, event: ev.HParams, trial: str) -> _Target:
        """Return the run of a trial; it goes on where an earlier session or try has left it."""
        assert self._main is not None
        assert self._store is not None
        if trial not in self._trials:
            main, run_id = self._main, _digest(self._main.id, "trial", trial)
            group = main.config.get("_Group") or main.name
            if self._joined is None and main.config.get("_Group") != group:  # the dashboard shows them all together
                main.config["_Group"], main.changed = group, True
            started = _iso(event.wall_time) or main.started
            config = _plain(self._store.config(run_id) or {}) or {
                "_Username": main.config.get("_Username"), "_Created": started, "_Group": group,
                f"{_OWN}parent": main.id, f"{_OWN}trial": trial,
                f"{_OWN}status": "finished",  # at once: a crash leaves no trial running for ever
            }  # fmt: skip
            name = self._run_names(f"{main.name}-{trial}")
            self._trials[trial] = _Target(run_id, name, config, started)
        return self._trials[trial]

    def _set_params(self, target: _Target, params: Mapping[str, Any]) -> None:
        """Put parameters into the config. The first value stays, later ones are listed beside it."""
        for name, value in params.items():
            key, plain = _param_key(name), _plain(value)
            values = [target.config.setdefault(key, plain), *target.config.get(f"{_OWN}later/{key}", ())]
            if json.dumps(values[-1]) != json.dumps(plain):
                target.config[f"{_OWN}later/{key}"] = [*values[1:], plain]

    # -- files ------------------------------------------------------------------------------------------------------

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
                contents, name=name, type=event.kind, description=None, metadata=_plain(metadata), aliases=[],
                run_name=self._main.name, run_id=self._main.id,
            )  # fmt: skip


class _Local:
    """The SQLite file, or JSONL fragments on a network file system; media and artifacts in folders beside them."""

    keeps_time = True

    def __init__(self, project: str) -> None:
        from trackio import utils
        from trackio.fragments import FragmentWriter

        self._project = project
        with _on_stderr(utils):  # it may say that the directory is on a network file system
            self._fragments = FragmentWriter() if utils.get_storage_mode() == "jsonl" else None
        self.shares_rows = self._fragments is None

    def runs(self) -> list[dict[str, Any]]:
        from trackio.sqlite_storage import SQLiteStorage

        return list(SQLiteStorage.get_run_records(self._project))

    def config(self, run_id: str) -> dict[str, Any] | None:
        from trackio.sqlite_storage import SQLiteStorage

        found: dict[str, Any] | None = SQLiteStorage.get_run_config(self._project, run_id=run_id)
        return found

    def log(self, rows: list[dict[str, Any]]) -> None:
        from trackio.fragments import metric_record
        from trackio.sqlite_storage import SQLiteStorage

        if self._fragments is not None:
            self._fragments.write_local([metric_record(row) for row in rows])
            return
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            runs.setdefault(row["run_id"], []).append(row)
        for run_id, own in runs.items():
            columns = {name: [row[name] for row in own] for name in ("metrics", "step", "timestamp", "log_id")}
            SQLiteStorage.bulk_log(
                self._project, own[0]["run"], columns["metrics"], columns["step"], columns["timestamp"],
                config=own[0]["config"], log_ids=columns["log_id"], run_id=run_id,
            )  # fmt: skip

    def known(self, log_ids: Sequence[str]) -> list[str]:
        """Return those of `log_ids` that are in the database."""
        found: list[str] = []
        for start in range(0, len(log_ids), 500):
            some = log_ids[start : start + 500]
            found += self._select(f"log_id IN ({','.join('?' * len(some))})", *some)
        return found

    def spans(self, file_id: str, first: str, last: str) -> list[tuple[str, str]]:
        """Return the (first, last) places of the shared rows of one event file that have one of `first` to `last`."""
        before = f"{file_id}{first}"
        found = self._select("log_id >= ? AND log_id < ? ORDER BY log_id DESC LIMIT 1", file_id, before)
        found += self._select("log_id >= ? AND log_id <= ? ORDER BY log_id", before, f"{file_id}{last}~")
        return [(span[0], span[2]) for span in (text.removeprefix(file_id).partition("-") for text in found)]

    def _select(self, where: str, *values: str) -> list[str]:
        """Return log_ids; not by `SQLiteStorage.query_project`, which makes a busy database a ValueError."""
        from trackio.sqlite_storage import SQLiteStorage

        path = SQLiteStorage.get_project_db_path(self._project)
        if not path.exists():  # the user has deleted the project; the next write makes it again
            return []
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            return [str(row[0]) for row in connection.execute(f"SELECT log_id FROM metrics WHERE {where}", values)]  # noqa: S608

    def media(self, run: str, step: int, name: str, data: bytes, kind: type[Any], caption: str | None) -> Any:
        from trackio.media import get_project_media_path
        from trackio.utils import MEDIA_DIR

        path = Path(get_project_media_path(project=self._project, run=run, step=step)) / name
        part = path.with_name(f"{name}.part")
        part.write_bytes(data)
        part.replace(path)
        return _media_value(kind, path, path.relative_to(MEDIA_DIR), caption)

    def artifact(self, contents: Sequence[tuple[str, bytes]], **about: Any) -> None:
        from trackio import cas
        from trackio.sqlite_storage import SQLiteStorage

        manifest = _manifest(contents)
        for entry, (_, data) in zip(manifest, contents, strict=True):
            cas.stage_blob_from_chunks([data], entry["digest"], cas.blob_path(self._project, entry["digest"]))
        SQLiteStorage.commit_artifact_version(project=self._project, manifest=manifest, **about)

    def url(self) -> str:
        place = os.environ.get("TRACKIO_DIR")
        command = f"trackio show --project {shlex.quote(self._project)}"
        return f"TRACKIO_DIR={shlex.quote(os.path.abspath(place))} {command}" if place else command

    def handle(self) -> dict[str, Any]:
        return {"url": None, "client": None}


class _Remote:
    """A server's HTTP API; the server of a Space or a self-hosted one."""

    keeps_time = shares_rows = False

    def __init__(self, project: str, space: str | None, server: str | None, token: str | None) -> None:
        import huggingface_hub
        from trackio.remote_client import RemoteClient

        self._project, self._space, self._server, self._write_token = project, space, server, token
        self._hf_token = huggingface_hub.get_token() if space else None
        self._client = RemoteClient(
            space or server, hf_token=self._hf_token, write_token=token, httpx_kwargs={"timeout": _TIMEOUT}
        )

    def _call(self, api: str, *, write: bool = True, **arguments: Any) -> Any:
        return self._client.predict(api_name=api, **arguments, **({"hf_token": self._hf_token} if write else {}))

    def runs(self) -> list[dict[str, Any]]:
        return list(self._call("/get_runs_for_project", write=False, project=self._project))

    def config(self, run_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._call(
            "/get_run_summary", write=False, project=self._project, run_id=run_id
        )["config"]
        return found

    def log(self, rows: list[dict[str, Any]]) -> None:
        self._call("/bulk_log", logs=rows)

    def media(self, run: str, step: int, name: str, data: bytes, kind: type[Any], caption: str | None) -> Any:
        from trackio.utils import canonical_project_name

        with _file(name, data) as path:
            value = _media_value(kind, path, Path(canonical_project_name(self._project), run, str(step), name), caption)
            place = {"project": self._project, "run": run, "run_id": None, "step": step, "relative_path": None}
            self._call("/bulk_upload_media", uploads=[{**place, "uploaded_file": _upload(path)}])
        return value

    def artifact(self, contents: Sequence[tuple[str, bytes]], **about: Any) -> None:
        manifest = _manifest(contents)
        for entry, (_, data) in zip(manifest, contents, strict=True):
            with _file(entry["digest"], data) as path:
                upload = {"project": self._project, "digest": entry["digest"], "uploaded_file": _upload(path)}
                self._call("/bulk_upload_artifact_blob", project=self._project, uploads=[upload])
        self._call("/artifact_log", project=self._project, manifest=manifest, **about)

    def url(self) -> str:
        base = self._server or f"https://huggingface.co/spaces/{self._space}"
        return f"{base.rstrip('/')}/?{urlencode({'project': self._project})}"

    def handle(self) -> dict[str, Any]:
        where = {"space_id": self._space, "server_base_url": self._server, "write_token": self._write_token}
        return {"url": self._space or self._server, "client": self._client, **where}


def _remotes(options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return Space and server of the options; what they leave open, of the environment. A Space wins, as in `init`."""
    space, server = options.get("space_id"), options.get("server_url")
    if not space and not server:
        space, server = os.environ.get("TRACKIO_SPACE_ID"), os.environ.get("TRACKIO_SERVER_URL")
    return (str(space) if space else None, str(server).strip() if server and not space else None)


def _token(options: Mapping[str, Any], server: str) -> str | None:
    given = options.get("write_token") or parse_qs(urlsplit(server).query).get("write_token", [None])[0]
    return str(given) if given else os.environ.get("TRACKIO_WRITE_TOKEN")


def _tags_and_notes(run: RunInfo) -> dict[str, Any]:
    """Return labels each under a name of its own: the dashboard groups runs by single values only."""
    about: dict[str, Any] = {f"{_OWN}tag/{_plain(name)}": _plain(value) for name, value in run.tags.items()}
    return about if run.notes is None else {**about, f"{_OWN}notes": _plain(run.notes)}


def _param_key(name: str) -> str:
    """Return the config key of a parameter: not one of ours, nor one of Trackio's, which begin with an underscore."""
    key = _plain(name)
    return f"{_OWN}param/{key}" if not key or key.startswith(("_", _OWN)) else key


def _plain(value: Any) -> Any:
    """Return `value` as JSON that Trackio can store: no NaN, no lone surrogates, no integers beyond 64 bits."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"  # utils.serialize_values
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if value is None else _plain(str(value))


def _iso(seconds: float) -> str | None:
    """Return a time as Trackio writes it, to the microsecond; None for one that a date cannot express."""
    try:
        whole = math.floor(seconds)
        more, micro = divmod(round((seconds - whole) * 1e6), 1_000_000)
        return f"{_to_the_second(whole + more)}.{micro:06d}+00:00"
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(16)
def _to_the_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def _without_gaps(events: Sequence[ev.Scalar]) -> Iterator[Sequence[ev.Scalar]]:
    """Cut `events` where a value is neither the next one of the same record of a file, nor the first of the next record."""
    start = 0
    file, position, index = "", -1, 0
    for at, event in enumerate(events):
        before, follows = file, position + 1
        file, position, number = event.record
        is_next = number == 0 if position == follows else position == follows - 1 and number == index + 1
        if not is_next or file != before:
            if at:
                yield events[start:at]
            start = at
        index = number
    if events:
        yield events[start:]


@functools.lru_cache(1000)
def _file_id(run_id: str, file: str) -> str:
    """Return what the log_ids of all shared rows of an event file in a run begin with."""
    return _digest(run_id, file)[:20]


def _place(record: ev.RecordId) -> str:
    """Return where a record's value is in its file, as a text that sorts as it."""
    return f"{record.position:010x}{record.index:06x}"


def _digest(*parts: str) -> str:
    return hashlib.blake2s("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _manifest(contents: Iterable[tuple[str, bytes]]) -> list[dict[str, Any]]:
    return [{"path": path, "digest": hashlib.sha256(data).hexdigest(), "size": len(data)} for path, data in contents]


def _media_value(kind: type[Any], path: Path, stored: Path, caption: str | None) -> Any:
    """Return what a row holds for a media file that is at `path` now and at `stored` in the media directory."""
    media = kind(path, caption=caption)
    media._file_path = stored
    return media._to_dict()


@contextlib.contextmanager
def _on_stderr(module: Any) -> Iterator[None]:
    """Let what `module` prints not get between the user's own output; standard output itself is left alone."""
    module.print = functools.partial(print, file=sys.stderr)
    try:
        yield
    finally:
        del module.print


@contextlib.contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def _upload(path: Path) -> Any:
    from trackio.run import handle_file

    return handle_file(str(path))


_PAGE = (
    '<!doctype html><html><head><meta charset="utf-8"><style>:root{color-scheme:light dark}'
    "body{margin:0;padding:12px;font:13px system-ui,sans-serif}td,th{padding:2px 8px;text-align:left}</style></head>"
)


def _curve(across: Sequence[float], up: Sequence[float], across_name: str, up_name: str) -> bytes:
    """Return a page with a line through points of the unit square."""
    points = [(x, y) for x, y in zip(across, up, strict=True) if math.isfinite(x) and math.isfinite(y)]
    line = " ".join(f"{40 + 340 * x:.2f},{360 - 340 * y:.2f}" for x, y in points)
    words = ((210, 385, across_name), (40, 375, "0"), (380, 375, "1"), (30, 24, "1"), (70, 14, up_name))
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="middle">{text}</text>' for x, y, text in words)
    return (
        f'{_PAGE}<body><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 390" fill="currentColor">'
        f'<path d="M40 20V360H380" fill="none" stroke="grey"/>{texts}'
        f'<polyline points="{line}" fill="none" stroke="#ff7c00" stroke-width="2"/></svg></body></html>'
    ).encode()


def _node_table(graph_def: bytes) -> bytes:
    """Return a page that lists a graph's nodes with their inputs."""
    from tensorboard.compat.proto import graph_pb2

    rows = (
        "".join(f"<td>{html.escape(cell)}</td>" for cell in (node.name, node.op, ", ".join(node.input)))
        for node in graph_pb2.GraphDef.FromString(graph_def).node
    )
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"{_PAGE}<body><table><tr><th>node</th><th>op</th><th>inputs</th></tr>{table}</table></body></html>".encode()
