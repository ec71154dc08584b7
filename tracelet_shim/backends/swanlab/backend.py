"""SwanLab (checked with 0.10.3): online, or offline into ``swanlog/run-*`` for `swanlab sync`.

Delivery. `Run.log` queues a value for a thread that swallows every error and takes its own clock for the time. So
records go straight to the run's core, the interface that this thread calls too (`swanlab.sdk.protocol.CoreProtocol`):
they carry TensorBoard's wall time (to the nanosecond; one outside of the years 1 to 9999 becomes 0), they fail here if
they fail, and they are in the file before `write` returns. Online, the SDK uploads from then on, at its own pace, watched
(`swanlab_uploads`): what the service has not taken is unsettled; when the run ends, it stays in the file, for `swanlab sync`.

Points. SwanLab keeps one value a key and step, the first, and drops later ones silently; steps are 0 to 2**48
(`core_python.metrics.BaseMetric`). So a repeated step goes to ``loss (repeat 1)``, and after `REPEATS` of them, as
well as for a step that SwanLab does not have, to ``loss (more)``, whose step counts the points, while
``loss (more: step)`` has TensorBoard's step (in ``(more: rest)`` what float64 cannot hold of it; for media it is the
caption). What is taken already is asked of the core, so this costs no memory, and a resumed run is continued rightly.

Keys. A key has one type. So scalars have the tag as key, other types the tag and their name: ``weights (histogram)``.
What SwanLab strips or refuses (`constraints.MetricKey`), and what we append, is escaped. NaN and infinities are exact
in the file, but the service is sent "nan" for all three (`transport.sender`): ``loss (infinity)`` has the sign.

Runs. The process-wide run, its config, ``sys.excepthook`` and SIGINT's handler stay the user's; there is no terminal
capture and no exit handler, and hardware, git and packages are not looked at unless ``SWANLAB_PROBE_*`` asks for it. A
trial of a sweep is a run of its own, whose group is the id of the session's run. It is written offline and, if the
session's run is online, uploaded after that one has ended, since ending a run ends the login. Offline, SwanLab cannot
append to a run: a resumed one continues in a further directory with the same id, whose ``swanlab sync --id`` adds to
the first.
"""

from __future__ import annotations

import atexit
import contextlib
import glob
import hashlib
import html
import importlib
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import signal
import struct
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Ending, Level, OpenedRun, Program, RunInfo, Status
from tracelet_shim.backends.render import files
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.options import Parser, switch
from tracelet_shim.backends.shared.transient import Verdict, judge
from tracelet_shim.backends.shared.values import finite
from tracelet_shim.backends.swanlab.probe import PROBE, own_hook
from tracelet_shim.backends.swanlab.uploads import Uploads, bound, no_pages
from tracelet_shim.common.text import as_utf8, second_name, usable

__all__ = ["SwanLabBackend"]

_log = logging.getLogger(__name__)

MAX_STEP = 1 << 48  # `core_python.metrics._MAX_STEP`
REPEATS = 8
MAX_ITEMS = 108  # of one record, and bytes of one item: `consumer.builder.RecordBuilder`
MAX_BYTES = 10 * 1024**2
MAX_PARAM = 10_000
"""Characters of a parameter, which SwanLab shows in a table; a longer one is cut and attached whole."""
MAX_TAGS, MAX_NOTES = 30, 1024  # `settings.experiment.ExperimentSettings`
MAX_TRIALS = 8
"""Trials kept open at a time, for parts that arrive later; an older one is ended, and resumed if it must be."""
MAX_WAITING = 200_000
"""Records that wait for the service in the SDK's memory; more wait in the event file (the relay tries again)."""
RECENT = 100_000
"""Points of an earlier session that are recognised when they are delivered again."""
FINISH_SECONDS = 40.0  # the SDK itself would wait for a dead service without end
BUFFER = 1 << 22  # holds more than one batch, so that a full disk shows when a batch is flushed, not within a record
TOGETHER = 500  # scalars handed to the core at a time: much less than BUFFER
BINS = 64
CHART_POINTS = 5_000

_CONTROL = "\\x00-\\x1f\\x7f\\ud800-\\udfff"
_KINDS = "|".join(kind.kind for kind in ev.EVENT_TYPES)
_EDGES = r"^[ ./]+|[ ./]+\Z"
_OURS = rf"\((?=(?:{_KINDS}|repeat \d|more|more: step|more: rest|infinity)\)\Z)"
KEY = rf"[{_CONTROL}]|{_EDGES}|^_(?=_swanlab__\.)|(?<= ){_OURS}"
NAMES = "tracelet/names.jsonl"
MAX_KEY = 512 - 48  # for what we append
LABEL = rf"[{_CONTROL}]|^\s+|\s+\Z"  # SwanLab strips white space
RUN_ID = rf'[<>:"/\\|?*#%{_CONTROL}]|^\s+|\s+\Z'  # `constraints.RunId`
PARAM = rf"[{_CONTROL}]|^t(?=racelet\Z)"

_LOG_DIR = ("SWANLAB_LOG_DIR", "SWANLAB_LOGDIR")
_STATES = {"finished": ("success", None), "failed": ("crashed", "the program failed"), "killed": ("aborted", "killed")}
_MODES = ("online", "cloud", "offline", "local", "disabled")
_PROBES = ("hardware", "runtime", "requirements", "conda", "git", "swanlab", "monitor")
_NESTED = ("PROJECT", "EXPERIMENT", "RUN", "TERMINAL", "INTEGRATION", "CORE", "PROBE")
_FIRST, _LAST = -62135596800, 253402300799  # the seconds that protobuf's Timestamp can write as text


class SwanLabBackend(Backend):
    name = "swanlab"
    module = "swanlab"
    distribution = "swanlab"
    probe = PROBE
    own_hook = staticmethod(own_hook)
    credentials = "check the API key (`swanlab login`, SWANLAB_API_KEY), or stay local with SWANLAB_MODE=offline"
    parsers: ClassVar[Mapping[str, Parser]] = {"public": switch}
    options: ClassVar[Mapping[str, str]] = {
        "mode": "online, offline, local or disabled",
        "log_dir": "where runs are kept on disk; default: swanlog in the working directory",
        "workspace": "user or team that owns the project",
        "public": "true: everyone may see the project",
        "group": "name that joins several runs",
        "job_type": "kind of run, e.g. train",
        "color": "colour of the run, #rrggbb",
        "api_host": "address of the SwanLab server",
        "web_host": "address of its web pages, if another",
    }
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE, "scalar, float64, wall time kept; repeated, negative and huge steps in keys of their own"
        ),
        ev.Histogram: Capability(Level.CONVERTED, f"ECharts bars, up to {BINS} uniform bins; exact buckets in the same JSON"),
        ev.Image: Capability(Level.NATIVE, "Image, TensorBoard's own file; beyond 10 MiB attached"),
        ev.Video: Capability(Level.NATIVE, "Video (GIF), the same bytes; beyond 10 MiB attached"),
        ev.Audio: Capability(Level.NATIVE, "Audio, the same bytes; beyond 10 MiB attached"),
        ev.Text: Capability(Level.NATIVE, "Text"),
        ev.PRCurve: Capability(Level.CONVERTED, "ECharts line, with thresholds and counts in its dataset"),
        ev.Mesh: Capability(Level.NATIVE, "Object3D: GLB with vertex colours, or a point cloud; PLY beyond 10 MiB"),
        ev.Embedding: Capability(
            Level.CONVERTED, f"ECharts scatter of two principal axes ({CHART_POINTS} points), and exact TSV/PNG files"
        ),
        ev.Tensor: Capability(Level.FILE, "saved with the run as .npy"),
        ev.Graph: Capability(Level.CONVERTED, "Html table of the nodes, and .pbtxt and .pb files"),
        ev.HParams: Capability(Level.NATIVE, "config and scalars; a further trial is a run in the run's group"),
        ev.CustomScalars: Capability(Level.FILE, "saved with the run as .json; SwanLab keeps layouts on its server"),
        ev.Blob: Capability(Level.FILE, "saved with the run"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        if (mode := self.given.get("mode")) not in (None, *_MODES):
            raise errors.ConfigurationError(f"option mode={mode!r} of swanlab: it is one of {', '.join(_MODES)}")
        self._names = Names(KEY, MAX_KEY)
        self._param_names = Names(PARAM, 512)
        self._noted: Counter[Names] = Counter()
        self._info: RunInfo | None = None
        self._main: _Run | None = None
        self._trials: dict[str, _Run] = {}
        self._ended: dict[str, list[Path]] = {}
        self._taken: set[tuple[Any, ...]] = set()  # of scalars their records, of others (record, kind, part)
        self._uploads: Uploads | None = None  # outlives the run: it is asked after the end, too
        self._joined = self._disabled = self._again = False
        self._was_quiet: bool | None = None

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        mode = str(options.get("mode") or os.environ.get("SWANLAB_MODE") or "online").strip("'\"")
        if offline or mode not in ("online", "cloud") or os.environ.get("SWANLAB_API_KEY"):
            return
        login = sys.modules.get("swanlab.sdk.internal.core_python.client")
        if getattr(login, "_default_client", None) is not None:  # swanlab.login() in this process
            return
        # the SDK reads mode and key from all of these as well (`settings.Settings.settings_customise_sources`)
        home = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR") or "~/.swanlab"
        folders = (Path(".swanlab"), Path(home).expanduser())
        known = [folder / name for folder in folders for name in (".netrc", "config.yaml", "config.yml")]
        known += [Path(".env"), Path("swanlab.yaml"), Path("swanlab.yml")]
        known += Path(os.environ.get("SWANLAB_CONFIG_DIR") or "/etc/swanlab").glob("*.y*ml")
        if not os.environ.get("SWANLAB_SECRETS_DIR") and not any(path.is_file() for path in known):
            raise errors.BackendUnavailableError(
                cls.name, "no API key; remedy: `swanlab login`, SWANLAB_API_KEY=..., or SWANLAB_MODE=offline"
            )

    @classmethod
    def borrowed(cls) -> str | None:
        run = getattr(sys.modules.get("swanlab.sdk.internal.run"), "_current_run", None)
        return str(run.id) if run is not None and run.alive else None

    @classmethod
    def borrowed_project(cls) -> str | None:
        run = getattr(sys.modules.get("swanlab.sdk.internal.run"), "_current_run", None)
        return None if run is None else run._ctx.config.settings.project.name

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        return [Ending(sys.modules["swanlab.sdk.internal.run"].Run, "finish", lambda run, *_: str(run.id))]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        self._info = run
        self._joined = run.resume is not None and self.borrowed() == run.resume
        if run.borrowed and not self._joined:
            raise errors.BackendError(f"your SwanLab run {run.resume} has ended")
        if self._joined:
            opened = sys.modules["swanlab.sdk.internal.run"]._current_run
        else:
            self.check(offline=run.offline, options=self.given)
            opened = self._open(run)
        if opened.mode == "disabled":
            self._disabled = True
            if not self._joined:
                with _apart():
                    opened.finish()
            return OpenedRun(str(opened.id))
        self._main = main = _Run(opened, own=not self._joined)
        self._uploads = main.uploads
        earlier = main.resume() if not self._joined else []
        self._again = bool(earlier)
        if not self._joined:
            if main.run.id == run.session:
                main.remove_begun()
            main.describe(run.program)
        main.about |= self._known(run)
        self._set_params(main, run.config)
        main.flush()
        again = " --start-step 0" if earlier else ""  # adds to what is there already, instead of what is beyond it
        links: dict[str, Callable[[], str]] = {
            "online": lambda: str(opened.url),
            "local": lambda: f"swanlab watch {shlex.quote(str(main.dir.parent))}",
            "offline": lambda: f"{main.remedy}{again}",
        }
        return OpenedRun(str(opened.id), links[opened.mode]())

    def _open(self, run: RunInfo) -> Any:
        run_id = run.resume or (Names(RUN_ID, 64)(run.run_id) if run.run_id else None)
        if run_id is None and not os.environ.get("SWANLAB_RUN_ID"):
            run_id = run.session  # whoever goes on after a kill in the middle of this opens the same run
        mode = self.given.get("mode")
        if run.offline and (mode or os.environ.get("SWANLAB_MODE")) not in ("local", "disabled"):
            mode = "offline"
        folder = self.given.get("log_dir")
        if not folder and second_name() is not None and not any(map(os.environ.get, _LOG_DIR)):
            folder = "swanlog"  # its own default, by another name: it would name the working directory
        return self._init(
            run,
            run.started,
            log_dir=os.path.join(usable(run.program.cwd), os.path.expanduser(str(folder))) if folder else None,
            mode=mode,
            id=run_id,
            resume="allow" if run_id else None,
            name=Names(LABEL, 512)(run.exp_name) if run.exp_name else None,
            description=_cut(_text(run.notes), MAX_NOTES) if run.notes and run.notes.strip() else None,
            tags=_labels(run.tags)[:MAX_TAGS] or None,
            group=self.given.get("group") or (Names(LABEL, 512)(run.group) if run.group else None),
            job_type=self.given.get("job_type"),
            color=self.given.get("color"),
        )

    def _init(self, run: RunInfo, started: float, *, project: str | None = None, probe: bool = True, **fields: Any) -> Any:
        settings: dict[str, Any] = {
            "interactive": False, "terminal": {"proxy_type": "none"}, "core": {"skip_store": False},
            "probe": {p: False for p in _PROBES if not (probe and f"SWANLAB_PROBE_{p.upper()}" in os.environ)},
        }  # fmt: skip
        settings |= {k: self.given[k] for k in ("api_host", "web_host") if self.given.get(k)}
        with _apart(), _readable_environment() as hidden:
            import swanlab
            from swanlab.sdk.internal.pkg import console
            from swanlab.sdk.internal.settings import create_settings

            if self._was_quiet is None:
                self._was_quiet = bool(console.c.quiet)
                console.c.quiet = True
            known = create_settings()
            known.merge_settings(swanlab.Settings(**settings))
            if (fields["mode"] or known.mode) in ("online", "cloud"):
                _knock(known.api_host, str(known.api_key or ""))
            if project is None and not run.project:
                project = known.project.name
            if project is None:  # SwanLab takes the directory's name as it is, and refuses most
                name = run.project or hidden.get("SWANLAB_PROJECT") or os.path.basename(run.program.cwd)
                project = Names(r"[^0-9A-Za-z_\-+.]", 100)(name or "default")
            _ours.started = started
            opened = swanlab.init(
                project=project, workspace=self.given.get("workspace"), public=_flag(self.given.get("public")),
                settings=swanlab.Settings(**settings), **fields,
            )  # fmt: skip
            client = getattr(sys.modules.get("swanlab.sdk.internal.core_python.client"), "_default_client", None)
            if client is not None:  # online
                bound(client._session)
                no_pages(client._session)
        atexit.unregister(opened._handle_atexit)  # it would wait for a dead service without end
        opened._is_main_thread = False  # so that finish() leaves SIGINT alone
        return opened

    @staticmethod
    def _known(run: RunInfo) -> dict[str, Any]:
        """Return what the user said of the run, unchanged: SwanLab's own fields cannot hold all of it."""
        said: dict[str, Any] = {"exp_name": run.exp_name, "run_id": run.run_id}
        said |= {"project": None if run.borrowed else run.project}
        said |= {"tags": run.tags or None, "notes": run.notes, "group": run.group, "root": run.root and as_utf8(run.root)}
        return {"session": run.session, **{k: v for k, v in said.items() if v is not None}}

    def _loud(self) -> None:
        if self._was_quiet is not None:
            console = sys.modules["swanlab.sdk.internal.pkg.console"]
            console.c.quiet, self._was_quiet = self._was_quiet, None

    def _opened(self) -> _Run:
        if self._main is None:
            raise errors.BackendError("swanlab: open() comes first")
        return self._main

    def flush(self) -> None:
        for run in (self._main, *self._trials.values()):
            if run is not None:
                run.flush()

    def close(self, status: Status) -> None:
        main = self._main
        if main is None:
            return
        self.flush()
        for trial in list(self._trials):
            self._end_trial(trial)
        self._main = None
        unsent: list[tuple[str, Path]] = []
        if main.run.mode == "online":
            unsent = [(trial, folder) for trial, folders in self._ended.items() for folder in folders]
        remedies = [*([] if self._joined else [main.remedy]), *(_remedy(*each) for each in unsent[:10])]
        done, failed = threading.Event(), list[str]()

        def finish() -> None:
            try:
                with _apart(), _readable_environment():
                    if not self._joined and (problem := main.finish(status, self.ended_at())):
                        failed.append(problem)
                    for trial, folder in unsent:
                        _upload(trial, folder)
            except Exception as error:
                failed.append(f"{type(error).__name__}: {error}")
            done.set()

        threading.Thread(target=finish, name="tracelet-swanlab-finish", daemon=True).start()
        if not done.wait(FINISH_SECONDS):
            failed.append(f"the service did not take it within {FINISH_SECONDS:.0f} s")
        self._loud()
        if failed:
            raise errors.BackendError(f"not all was uploaded ({failed[0]}), but it is on disk: {' && '.join(remedies)}")

    def unsettled(self) -> int:
        return self._uploads.unsettled() if self._uploads is not None else 0

    def behind(self) -> str | None:
        return self._uploads.behind() if self._uploads is not None else None

    def take_refused(self) -> list[str]:
        return self._uploads.take_refused() if self._uploads is not None else []

    @property
    def handle(self) -> Any:
        return self._main and self._main.run

    def is_transient(self, error: BaseException) -> bool:
        kinds = {c.__name__ for c in type(error).__mro__}  # importing the SDK's classes would import the SDK
        if "ApiError" in kinds:
            status = getattr(getattr(error, "response", None), "status_code", None)
            return status is None or judge(status, own=getattr(error, "code", "") != "unknown code") is Verdict.PASSES
        if "RequestException" in kinds:
            return bool(kinds & {"ConnectionError", "Timeout", "ChunkedEncodingError", "RetryError"})
        return super().is_transient(error)

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        self.written = 0
        if self._disabled:  # the user switched SwanLab off
            self.written = len(events)
            return
        main = self._opened()
        if not main.run.alive:
            raise errors.BackendError("the program has finished the SwanLab run that it shared")
        if main.waiting() > MAX_WAITING:
            raise TimeoutError("SwanLab's service is behind")
        try:
            super().write(events)
            self._note_names()
        finally:
            try:
                self.flush()
            except OSError:
                self.written = 0  # in a buffer only: they will come again, and `_taken` knows them then
                raise
            main.uploads.mark(self.written)
            self._forget(events[: self.written])

    def _forget(self, events: Sequence[ev.Event]) -> None:
        """These have been stored, and do not come again. Others, behind one that was refused, may be stored too, and do."""
        if self._taken:
            records = {event.record for event in events}
            self._taken -= records
            self._taken = {token for token in self._taken if token[0] not in records}

    def _once(self, event: ev.Event, deliver: Callable[[], None], part: str = "") -> None:
        """Call `deliver`, unless that was done in an earlier attempt at this batch."""
        token = (event.record, event.kind, part)
        if token not in self._taken:
            deliver()
            self._taken.add(token)

    def _key(self, event: ev.Event) -> str:
        return f"{self._names(event.path)} ({event.kind})"

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        taken = self._taken
        points = [
            (event.record, self._names(event.path), event.step, event.value, event.wall_time)
            for event in events
            if event.record not in taken
        ]
        try:
            self._opened().scalars(points, taken)
        except BaseException:
            self.written += sum(1 for _ in takewhile(lambda event: event.record in taken, events))
            raise

    def _media(self, event: ev.Event, kind: str, items: Sequence[tuple[str, bytes]]) -> bool:
        """Deliver (suffix, content) as media of SwanLab's type `kind`; return False, and attach, what is too large."""
        main = self._opened()
        if not items or len(items) > MAX_ITEMS or max(len(data) for _, data in items) > MAX_BYTES:
            self.attach_files(event)
            return False
        self._once(event, lambda: main.media(self._key(event), kind, event.step, items, event.wall_time))
        return True

    def log_image(self, event: ev.Image) -> None:
        self._media(event, "image", [(event.format, event.data)])

    def log_video(self, event: ev.Video) -> None:
        self._media(event, "image", [("gif", event.data)])  # as swanlab.Video does

    def log_audio(self, event: ev.Audio) -> None:
        suffix, data = next(files.render(event))
        self._media(event, "audio", [(suffix[1:], data)])

    def log_text(self, event: ev.Text) -> None:
        self._media(event, "text", [("txt", _text(event.text).encode())])

    def log_histogram(self, event: ev.Histogram) -> None:
        exact = json.loads(next(files.render(event))[1])
        bins = uniform_bins(event, BINS)
        chart: dict[str, Any] = {"title": {"text": "not finite"}}
        if bins is not None:
            low, high, counts = bins
            edges = np.linspace(low, high, len(counts) + 1).tolist()
            labels = [f"{a:.4g} … {b:.4g}" for a, b in pairwise(edges)]
            chart = {
                "tooltip": {"trigger": "axis"},
                "yAxis": {"type": "value"}, "xAxis": {"type": "category", "data": labels},
                "series": [{"type": "bar", "barCategoryGap": "0%", "data": counts.tolist()}],
            }  # fmt: skip
        self._media(event, "echarts", [_chart({**chart, "tracelet": exact})])

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        n = len(event.precision)
        columns = {
            "recall": event.recall, "precision": event.precision,
            "threshold": tuple(i / max(n - 1, 1) for i in range(n)),
            "true_positives": event.true_positives, "false_positives": event.false_positives,
            "true_negatives": event.true_negatives, "false_negatives": event.false_negatives,
        }  # fmt: skip
        rows = zip(*(map(finite, column) for column in columns.values()), strict=True)
        axis = {"type": "value", "min": 0, "max": 1}
        chart = {
            "tooltip": {"trigger": "axis"},
            "dataset": {"dimensions": list(columns), "source": [list(row) for row in rows]},
            "xAxis": {**axis, "name": "recall"}, "yAxis": {**axis, "name": "precision"},
            "series": [{"type": "line", "encode": {"x": "recall", "y": "precision", "tooltip": list(columns)}}],
        }  # fmt: skip
        self._media(event, "echarts", [_chart(chart)])

    def log_mesh(self, event: ev.Mesh) -> None:
        vertices = event.vertices.numpy()
        faces = event.faces.numpy() if event.faces is not None else None
        colors = event.colors.numpy() if event.colors is not None else None
        shown = vertices.size and np.isfinite(vertices).all() and (faces is None or faces.size)
        items = []
        for i in range(len(vertices) if shown else 0):
            color = None if colors is None else colors[i]
            if faces is None:
                items.append(("swanlab.pts.json", _points(vertices[i], color)))
            else:
                items.append(("glb", _glb(vertices[i], faces[i], color)))
        if self._media(event, "object3d", items) and event.config != "{}":
            self.attach(self.artifact_stem(event) + ".config.json", event.config.encode(), event)

    def log_embedding(self, event: ev.Embedding) -> None:
        self.attach_files(event)
        axes = _two_axes(event.matrix.numpy()[:CHART_POINTS])
        if axes is None:
            return
        labels = [" · ".join(row) for row in event.metadata] if event.metadata else [str(i) for i in range(len(axes))]
        rows = [[x, y, label] for (x, y), label in zip(axes.tolist(), labels, strict=False)]
        chart = {
            "tooltip": {"trigger": "item"}, "title": {"text": "principal axes"},
            "dataset": {"dimensions": ["first", "second", "label"], "source": rows},
            "xAxis": {"type": "value", "scale": True}, "yAxis": {"type": "value", "scale": True},
            "series": [{"type": "scatter", "encode": {"x": "first", "y": "second", "itemName": "label"}}],
        }  # fmt: skip
        suffix, data = _chart(chart)
        if len(data) <= MAX_BYTES:
            self._media(event, "echarts", [(suffix, data)])

    def log_graph(self, event: ev.Graph) -> None:
        self.attach_files(event)
        page = _graph_page(event.graph_def)
        if len(page) <= MAX_BYTES:
            self._media(event, "html", [("html", page)])

    def log_hparams(self, event: ev.HParams) -> None:
        run = self._opened() if event.trial is None else self._trial(event.trial, event.wall_time)
        run.latest = event.wall_time
        for field in ("domain", "metrics"):
            if given := getattr(event, field):
                run.about[field] = {**run.about.get(field, {}), **given}
        self._set_params(run, event.params)
        for name, value in event.metrics.items():
            put = (self._names(name), event.step, value, event.wall_time)
            self._once(event, lambda put=put: run.scalar(*put), name)  # type: ignore[misc]

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._opened().save(path, data)

    # -- help -------------------------------------------------------------------------------------------------------

    def _note_names(self) -> None:
        """Keep the whole of each name that had to be cut, one JSON line each."""
        for names in (self._names, self._paths, self._param_names):
            noted = self._noted[names]
            if lines := [json.dumps(pair) + "\n" for pair in islice(names.shortened.items(), noted, None)]:
                self._opened().append(NAMES, "".join(lines).encode())
                self._noted[names] += len(lines)

    def _set_params(self, run: _Run, params: Mapping[str, Any]) -> None:
        """Set parameters, and what else the config has; attach the whole text of one that is too long."""
        result: dict[str, Any] = {}
        for name, value in params.items():
            key, plain = self._param_names(str(name)), _plain(value)
            if isinstance(plain, str) and len(plain) > MAX_PARAM:
                digest = hashlib.blake2s(plain.encode(), digest_size=4).hexdigest()
                path = f"hparams/{self._paths(str(name))}={digest}.txt"
                run.save(path, plain.encode())
                plain = f"{plain[:MAX_PARAM]}... (cut, whole text in {path})"
            result[key] = "None" if plain is None else plain  # the config makes {} of it
        known = run.run.config
        for key, value in result.items():
            if key in known and known[key] != value:  # SwanLab keeps one value a parameter
                run.about.setdefault("earlier_values", {}).setdefault(key, []).append(known[key])
        known.update({**result, "tracelet": _plain(run.about)})

    def _trial(self, trial: str, started: float) -> _Run:
        """Return the child run of a trial, opening or resuming it; its id follows from the parent's and the name."""
        run_id = hashlib.blake2s(f"{self._opened().run.id}\0{_text(trial)}".encode(), digest_size=8).hexdigest()
        if run_id in self._trials:
            self._trials[run_id] = self._trials.pop(run_id)  # the latest used goes last
            return self._trials[run_id]
        while len(self._trials) >= MAX_TRIALS:
            self._end_trial(next(iter(self._trials)))
        main, info = self._opened(), self._info
        assert info is not None
        settings = main.run._ctx.config.settings
        mode = "local" if settings.mode == "local" else "offline"
        opened = self._init(
            info, started, project=settings.project.name, probe=False, mode=mode, log_dir=str(main.dir.parent), id=run_id,
            resume="allow", name=Names(LABEL, 512)(trial), group=str(main.run.id), job_type="trial",
        )  # fmt: skip
        child = _Run(opened)
        if run_id in self._ended or info.resume or info.run_id or self._again:
            child.resume()
        child.about |= {"session": info.session, "parent": str(main.run.id), "trial": trial}
        self._trials[run_id] = child
        return child

    def _end_trial(self, run_id: str) -> None:
        child = self._trials.pop(run_id)
        self._ended.setdefault(run_id, []).append(child.dir)
        with _apart():
            child.finish("finished", child.latest)
        self._opened().log_here()


class _Run:
    """One SwanLab run, written to through its core.

    Attributes:
        run, core: the SDK's objects.
        dir: the run's directory.
        about: what the config has under ``tracelet``.
        latest: the time of what a trial got last.
    """

    def __init__(self, run: Any, *, own: bool = True) -> None:
        from google.protobuf.timestamp_pb2 import Timestamp
        from swanlab.proto.swanlab.metric.column.v1.column_pb2 import ColumnType
        from swanlab.proto.swanlab.metric.data.v1 import data_pb2
        from swanlab.sdk.internal.pkg import adapter

        self.run = run
        self.core = core = run._core
        self.dir = Path(run.dir)
        self.about: dict[str, Any] = {}
        self.latest = 0.0
        self._types, self._data, self._timestamp, self._media = ColumnType, data_pb2, Timestamp, adapter.medium
        self._recent: Counter[tuple[Any, ...]] | None = None
        self._scalar = ColumnType.COLUMN_TYPE_SCALAR
        self._together = TOGETHER if own else 1
        self._full: dict[str, int] = {}  # key -> latest step that has all its repeats: a program may know no other
        if not hasattr(core._metrics, "get") or not hasattr(core._store, "ensure_flushed"):
            raise errors.BackendError("this version of swanlab stores points in an unknown way; known: 0.10")
        self._lock = _one_at_a_time(core)
        self.uploads = Uploads(core, own=own)
        if own:
            name = core._store._fp.name
            core._store._fp.close()
            core._store._fp = open(name, "ab", buffering=BUFFER)  # noqa: SIM115 - the SDK closes it

    # -- points -----------------------------------------------------------------------------------------------------

    def scalars(self, points: Iterable[tuple[ev.RecordId, str, int, float, float]], taken: set[tuple[Any, ...]]) -> None:
        """Store points, each as (token, key, step, value, wall time), in order; the tokens of what is stored go to `taken`.

        Raises:
            EventRejectedError: SwanLab did not take one. Points behind it may have been stored.
        """
        metrics, scalar = self.core._metrics, self._scalar
        make, number, timestamp = self._data.ScalarRecord, self._data.ScalarValue, self._timestamp
        waiting: dict[tuple[str, int], tuple[Any, Any, Any]] = {}  # (key, step) -> token, record, metric
        with self._lock:
            for token, key, step, value, wall_time in points:
                metric = metrics.get(key)
                if (
                    self._recent is None
                    and metric is not None
                    and metric.column_type == scalar
                    and metric.min_step < step <= MAX_STEP
                    and step >= 0
                    and step not in metric.steps
                    and (key, step) not in waiting
                    and not math.isinf(value)
                ):  # what `scalar` would do, for many at a time
                    seconds, nanos = _when(wall_time)
                    when = timestamp(seconds=seconds, nanos=nanos)
                    record = make(key=key, step=step, type=scalar, value=number(number=value), timestamp=when)
                    waiting[key, step] = token, record, metric
                    if len(waiting) < self._together:
                        continue
                    self._put_all(waiting, taken)
                else:
                    self._put_all(waiting, taken)
                    self.scalar(key, step, value, wall_time)
                    taken.add(token)
                waiting = {}
            self._put_all(waiting, taken)

    def _put_all(self, waiting: Mapping[tuple[str, int], tuple[Any, Any, Any]], taken: set[tuple[Any, ...]]) -> None:
        if not waiting:
            return
        records = [record for _, record, _ in waiting.values()]
        self.core.upsert_scalars(records)
        refused = None
        for (key, step), (token, _, metric) in waiting.items():
            if step in metric.steps:
                taken.add(token)
            elif refused is None:
                refused = key, step
        if refused is not None:
            self._check(*refused)
        self.run._callbacker.on_scalar_flush(records)

    def scalar(self, key: str, step: int, value: float, wall_time: float) -> None:
        """Store a point where SwanLab takes it."""
        when = _when(wall_time)
        if self._was_here((key, *when, struct.pack("<d", value))):
            return
        place, at = self._place(key, self._types.COLUMN_TYPE_SCALAR, step)
        self._put(place, at, value, when)
        if place.endswith(" (more)"):
            near = float(step)
            self._put(f"{place[:-1]}: step)", at, near, when)
            if rest := step - int(near):
                self._put(f"{place[:-1]}: rest)", at, float(rest), when)
        if math.isinf(value):
            self._put(f"{place} (infinity)", at, math.copysign(1.0, value), when)

    def _put(self, key: str, step: int, value: float, when: tuple[int, int]) -> None:
        record = self._data.ScalarRecord(
            key=key, step=step, type=self._types.COLUMN_TYPE_SCALAR, value=self._data.ScalarValue(number=value),
            timestamp=self._timestamp(seconds=when[0], nanos=when[1]),
        )  # fmt: skip
        self.core.upsert_scalars([record])
        self._check(key, step)
        self.run._callbacker.on_scalar_flush([record])

    def media(self, key: str, kind: str, step: int, items: Sequence[tuple[str, bytes]], wall_time: float) -> None:
        """Store a media record: `kind` is SwanLab's name of the type, `items` are (suffix, content)."""
        when = _when(wall_time)
        digests = [hashlib.sha256(data).hexdigest() for _, data in items]
        if self._was_here((key, *when, *digests)):
            return
        column = self._media[kind]
        place, at = self._place(key, column, step)
        folder = self.dir / "media" / kind
        entries = []
        for (suffix, data), digest in zip(items, digests, strict=True):
            entry = self._data.MediaItem(
                filename=f"{at:03d}-{digest[:16]}.{suffix}", sha256=digest, size=len(data),
                caption=f"step {step}" if place.endswith(" (more)") else "",
            )  # fmt: skip
            if self.core._ctx.config.skip_store:  # a run of the user's that keeps nothing on disk
                entry.payload = data
            else:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / entry.filename).write_bytes(data)
            entries.append(entry)
        record = self._data.MediaRecord(
            key=place, step=at, type=column, value=self._data.MediaValue(items=entries),
            timestamp=self._timestamp(seconds=when[0], nanos=when[1]),
        )  # fmt: skip
        self.core.upsert_media([record])
        self._check(place, at)
        self.run._callbacker.on_media_flush([record])

    def _place(self, key: str, column: int, step: int) -> tuple[str, int]:
        """Return the key and step where SwanLab will take a point of `key` at `step`."""
        if 0 <= step <= MAX_STEP and self._full.get(key) != step:
            for n in range(REPEATS + 1):
                place = f"{key} (repeat {n})" if n else key
                metric = self.core._metrics.get(place)
                if metric is None:
                    return place, step
                fits = metric.column_type in (column, self._types.COLUMN_TYPE_UNSPECIFIED)
                if fits and step > metric.min_step and step not in metric.steps:
                    return place, step
            if len(self._full) >= 10_000:
                self._full.clear()
            self._full[key] = step
        place = f"{key} (more)"
        metric = self.core._metrics.get(place)
        if metric is None:
            return place, 0
        return place, max(metric.min_step, metric.steps.max() if metric.steps else -1) + 1

    def _check(self, key: str, step: int) -> None:
        """The core tells nobody what it has dropped."""
        metric = self.core._metrics.get(key)
        if metric is None or step not in metric.steps:
            raise errors.EventRejectedError(f"SwanLab did not take {key[:80]!r} at step {step}")

    # -- what earlier sessions of this run have stored --------------------------------------------------------------

    def resume(self) -> list[Path]:
        """Take up what earlier sessions of this run's id have stored in its log directory; return their logs.

        Their steps are taken, their points recognised when they are delivered again, and their config is kept, since
        SwanLab replaces a run's config as a whole. Online, what the service has not got of them is sent now.
        """
        import yaml  # type: ignore[import-untyped]

        logs = self._earlier()
        self._remember(logs)
        for log in logs:
            path = log.parent / "files" / "config.yaml"
            config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
            values = {key: entry["value"] for key, entry in (config or {}).items()}
            self.about |= values.get("tracelet") or {}
            self.run.config.update(values)
            if (names := log.parent / "files" / NAMES).is_file():
                self.append(NAMES, names.read_bytes())
        return logs

    def remove_begun(self) -> None:
        """Remove what a process has left that was killed while it opened this run: directories without a record."""
        for other in self.dir.parent.glob(f"run-*-{glob.escape(str(self.run.id))}"):
            if other != self.dir and all(next(_records(log), None) is None for log in other.glob("run-*.swanlab")):
                shutil.rmtree(other, ignore_errors=True)

    def _earlier(self) -> list[Path]:
        """Return the logs of this run's id, oldest first, this session's own excluded."""
        from swanlab.sdk.internal.pkg import fs

        run_id = str(self.run.id)
        name = fs.safe_fmt(run_id, fallback="unknown_run")
        pattern = "run-*" if len(name) > 150 else f"run-*-{glob.escape(name)}*"  # a long one is cut in a way of its own
        found = []
        for path in sorted(self.dir.parent.glob(f"{pattern}/run-*.swanlab")):
            if path.parent != self.dir:
                first = next(_records(path), None)
                if first is not None and first.HasField("start") and first.start.id == run_id:
                    found.append(path)
        return found

    def _remember(self, logs: Sequence[Path]) -> None:
        from swanlab.sdk.internal.core_python.pkg import builder

        online, metrics, recent = self.run.mode == "online", self.core._metrics, deque[tuple[Any, ...]](maxlen=RECENT)
        for folder, record in ((log.parent, record) for log in logs for record in _records(log)):
            if online and record.HasField("save") and record.save.type == 0:  # SAVE_TYPE_CUSTOM: a file of ours
                self.core.upsert_saves([record.save])
            scalar = record.HasField("scalar")
            if not scalar and not record.HasField("media"):
                continue
            point = record.scalar if scalar else record.media
            metric = metrics.get(point.key)
            if online and (metric is None or (point.step > metric.min_step and point.step not in metric.steps)):
                self._send_again(folder, point)
                metric = metrics.get(point.key)
            if metric is None:
                column = builder.build_auto_column(self.core._ctx, point)
                define, place = metrics.define_scalar, {}
                if not scalar:
                    define, place = metrics.define_media, {"path": self.dir / "media" / self._media[point.type]}
                metric = define(key=point.key, column=column, **place)
            metric.steps.add(point.step)
            if not point.key.endswith((" (more: step)", " (more: rest)", " (infinity)")):
                base = re.sub(r" \((?:repeat \d|more)\)\Z", "", point.key)
                content = [struct.pack("<d", point.value.number)] if scalar else [i.sha256 for i in point.value.items]
                recent.append((base, point.timestamp.seconds, point.timestamp.nanos, *content))
        self._recent = Counter(recent) or None

    def _send_again(self, folder: Path, point: Any) -> None:
        """Deliver a point of an earlier session, whose directory is `folder`, that the service has not got."""
        if not hasattr(point.value, "items"):
            self.core.upsert_scalars([point])
            return
        for item in point.value.items:
            name = Path("media", self._media[point.type], item.filename)
            if (folder / name).is_file():
                (self.dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, self.dir / name)
        self.core.upsert_media([point])

    def _was_here(self, point: tuple[Any, ...]) -> bool:
        """True if an earlier session has stored `point`. What comes again comes first, so the first new one ends it."""
        if self._recent is not None:
            if self._recent[point] > 0:
                self._recent[point] -= 1
                return True
            self._recent = None
        return False

    # -- everything else --------------------------------------------------------------------------------------------

    def save(self, path: str, data: bytes) -> None:
        """Save a file with the run: a real one, since `swanlab.save` makes a link to a place that may go."""
        target = self.dir / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self._record_file(path, target, "now")

    def append(self, path: str, data: bytes) -> None:
        """Save a file that grows; it is uploaded when the run ends."""
        target = self.dir / "files" / path
        known = target.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            file.write(data)
        if not known:
            self._record_file(path, target, "end")

    def _record_file(self, path: str, target: Path, policy: str) -> None:
        from swanlab.proto.swanlab.save.v1.save_pb2 import SaveRecord
        from swanlab.sdk.internal.pkg import adapter

        source = str(target.absolute())
        self.core.upsert_saves([SaveRecord(name=path, source_path=source, policy=adapter.policy[policy])])

    def describe(self, program: Program) -> None:
        """Tell SwanLab which program runs: it would take its own process for that (`probe_python`)."""
        from swanlab.proto.swanlab.save.v1.save_pb2 import SaveType
        from swanlab.sdk.internal.probe_python.typings import MetadataSnapshot, RuntimeSnapshot
        from swanlab.sdk.internal.probe_python.utils import make_save_record

        program = program.readable()
        runtime = RuntimeSnapshot(
            os=platform.platform(), hostname=program.host, pid=program.pid, cwd=program.cwd,
            python_version=platform.python_version(), python_executable=program.executable,
            command=shlex.join([program.executable, *(["-m"] if program.module else []), *program.argv]),
        )  # fmt: skip
        found = self.run._probe._metadta_snapshot or MetadataSnapshot()
        text = found.model_copy(update={"runtime": runtime}).model_dump_json(by_alias=True)
        target = self.run._ctx.metadata_file
        self.core.upsert_saves([make_save_record("metadata", SaveType.SAVE_TYPE_METADATA, text, target)])

    def flush(self) -> None:
        store = self.core._store
        if store is not None:  # None once the program has finished a run that it shares
            store.ensure_flushed()

    def waiting(self) -> int:
        """Return the number of records that the service has not taken yet."""
        transport = self.core._transport
        return 0 if transport is None else len(transport._buf) + len(transport._pending)

    @property
    def remedy(self) -> str:
        return _remedy(str(self.run.id), self.dir)

    def log_here(self) -> None:
        """Send SwanLab's own diagnostic log, one a process, to this run's directory."""
        from swanlab.sdk.internal.pkg import console

        console.init(bind_to=self.run._ctx.debug_dir)

    def finish(self, status: Status, ended: float) -> str | None:
        """End the run as of a time; return what was not uploaded. May wait for the service without end."""
        watcher, (state, problem) = self.core._watcher, _STATES.get(status, ("crashed", status))
        deliver = self.core.deliver_run_finish

        def as_of(request: Any) -> Any:
            _set_time(request.finish_record.finished_at, ended)
            return deliver(request)

        self.core.deliver_run_finish = as_of  # the SDK takes the time of now
        self.run.finish(state=state, error=problem)
        if watcher is not None:
            watcher._observer.stop()  # the SDK stops it only if it was used; it has a thread and an inotify handle
        if self.core._transport is not None:
            return str(self.core._transport.finish_summary())
        return "the end of the run" if self.core._pending_online_finish_record is not None else None


# -- the process ------------------------------------------------------------------------------------------------------


_ours = threading.local()


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Let SwanLab open or end a run in this thread without a trace in the process: the active run and its config, the
    exception hook and SIGINT's handler stay the user's, whose other threads may log meanwhile.
    """
    with _readable_environment():
        _keep_to_ourselves()
    hook, interrupt = sys.excepthook, signal.getsignal(signal.SIGINT)
    _ours.depth = getattr(_ours, "depth", 0) + 1
    try:
        yield
    finally:
        _ours.depth -= 1
        sys.excepthook = hook
        if threading.current_thread() is threading.main_thread() and interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)


def _set_time(timestamp: Any, wall_time: float) -> None:
    timestamp.seconds, timestamp.nanos = _when(wall_time)


def _keep_to_ourselves() -> None:
    """Make the functions that know the process's one active run look away within `_apart`; and the one that starts a run take
    our time for it instead of now."""
    from swanlab.sdk.internal.core_python.core import CorePython

    runs: Any = importlib.import_module("swanlab.sdk.internal.run")
    components: Any = importlib.import_module("swanlab.sdk.internal.run.components")
    configs: Any = importlib.import_module("swanlab.sdk.internal.run.components.config")
    if hasattr(runs.set_run, "tracelet"):
        return

    def config(file: Path, emit: Callable[..., None], skip_store: bool = False) -> Any:
        """What `create_run_config` does, but for making it ``swanlab.config``."""
        made = configs.Config()
        made._copy_from(configs._global_config)
        made._bindctx(file, emit, skip_store)
        return made

    original_start = CorePython.deliver_run_start

    def start(core: Any, request: Any) -> Any:
        if getattr(_ours, "depth", 0):
            _set_time(request.start_record.started_at, _ours.started)
        return original_start(core, request)

    CorePython.deliver_run_start = start

    def unless_ours(module: Any, name: str, instead: Callable[..., Any]) -> None:
        original = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return (instead if getattr(_ours, "depth", 0) else original)(*args, **kwargs)

        call.tracelet = True  # type: ignore[attr-defined]
        setattr(module, name, call)

    unless_ours(importlib.import_module("swanlab.sdk.cmd.init"), "has_run", lambda: False)
    unless_ours(components, "create_run_config", config)
    unless_ours(components, "deactivate_run_config", lambda: None)
    unless_ours(runs, "clear_run", lambda: None)
    unless_ours(runs, "set_run", lambda _: None)


@contextlib.contextmanager
def _readable_environment() -> Iterator[dict[str, str]]:
    """Hide variables such as ``SWANLAB_PROJECT=x``, which stop `swanlab.Settings`: it wants JSON there. Yield them."""
    names = [name for name in (f"SWANLAB_{part}" for part in _NESTED) if name in os.environ]
    hidden = {name: os.environ.pop(name) for name in names if not os.environ[name].strip("'\" ").startswith("{")}
    try:
        yield hidden
    finally:
        os.environ.update(hidden)


def _one_at_a_time(core: Any) -> threading.RLock:
    """Let one thread at a time into a run's core: the SDK's own thread delivers the config, and what the user logs. Return
    the lock."""
    lock = threading.RLock()

    def locked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return method(*args, **kwargs)

        return call

    for kind in ("columns", "scalars", "media", "logs", "saves"):
        name = f"upsert_{kind}"
        setattr(core, name, locked(getattr(core, name)))
    return lock


def _knock(host: str, key: str) -> None:
    """Log in, as the SDK does next, but only once: it would try for 15 seconds, and then say of a service that is away or busy
    the same as of a wrong key.

    Raises:
        ConnectionError: there is no answer, or one that passes.
    """
    import requests

    try:
        answer = requests.post(f"{host}/api/login/api_key", headers={"authorization": key}, timeout=(5, 15))
    except requests.RequestException as error:
        raise ConnectionError(f"no answer from {host} ({type(error).__name__})") from None
    if judge(answer.status_code, own="json" in answer.headers.get("Content-Type", "")) is Verdict.PASSES:
        raise ConnectionError(f"{host} answers {answer.status_code}")


def _upload(run_id: str, folder: Path) -> None:
    import swanlab

    swanlab.sync(folder, settings=swanlab.Settings(run={"id": run_id}))


def _remedy(run_id: str, folder: Path) -> str:
    return f"swanlab sync --id {shlex.quote(run_id)} {shlex.quote(str(folder))}"


def _records(path: Path) -> Iterator[Any]:
    """Yield the records of a log up to its end, or to where a killed process left off."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreError, DataStoreReader

    reader = DataStoreReader()
    try:
        reader.open(path)
        for data in reader:
            yield Record.FromString(data)
    except (AssertionError, DataStoreError) as error:  # the SDK's for a file that was not even begun
        _log.warning("%s cannot be read: %s", path, error)
    finally:
        reader.close()


# -- values -----------------------------------------------------------------------------------------------------------


def _when(wall_time: float) -> tuple[int, int]:
    """Return seconds and nanoseconds since the epoch; (0, 0) for what a timestamp cannot hold."""
    if not (math.isfinite(wall_time) and _FIRST <= wall_time <= _LAST):
        return 0, 0
    seconds = math.floor(wall_time)
    nanos = round((wall_time - seconds) * 1e9)
    return (seconds + 1, 0) if nanos == 10**9 else (seconds, nanos)


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _flag(value: Any) -> bool | None:
    return value if value is None or isinstance(value, bool) else str(value).lower() in ("1", "true", "yes", "on")


def _labels(tags: Mapping[str, str]) -> list[str]:
    label = Names(LABEL, 512)
    return list(dict.fromkeys(label(f"{name}={value}" if value else name) for name, value in tags.items()))


def _plain(value: Any) -> Any:
    """Return `value` as the config holds it truthfully: NaN, infinities (SwanLab has one) and huge integers as text."""
    if isinstance(value, str):
        return _text(value)
    if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) >= 2**63):
        return str(value)
    if isinstance(value, Mapping):
        return {_text(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _chart(options: Mapping[str, Any]) -> tuple[str, bytes]:
    return "json", json.dumps(options, allow_nan=False).encode()


def _points(vertices: Any, colors: Any | None) -> bytes:
    """Return a point cloud as SwanLab's own JSON (`transforms.object3d`), green, as there, where it has no colours."""
    rgb = np.broadcast_to(np.array([0, 255, 0], np.uint8), vertices.shape) if colors is None else colors
    points = [[*xyz, *color] for xyz, color in zip(vertices.tolist(), rgb.tolist(), strict=True)]
    extra = {"tracelet": {"colors": None}} if colors is None else {}
    return json.dumps({"version": "0.1", "points": points, "boxes": [], **extra}, allow_nan=False).encode()


def _glb(vertices: Any, faces: Any, colors: Any | None) -> bytes:
    """Return a triangle mesh as binary glTF 2.0 (Khronos, "GLB file format specification")."""
    parts = [(vertices.astype("<f4"), 5126, "VEC3", 34962), (faces.astype("<u4").reshape(-1), 5125, "SCALAR", 34963)]
    if colors is not None:  # four bytes each, because glTF aligns them
        rgba = np.column_stack([colors, np.full(len(colors), 255)]).astype(np.uint8)
        parts.append((rgba, 5121, "VEC4", 34962))
    views, accessors, body = [], [], b""
    for array, component, shape, target in parts:
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": array.nbytes, "target": target})
        accessors.append({"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": shape})
        body += array.tobytes()
    accessors[0] |= {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    attributes = {"POSITION": 0}
    if colors is not None:
        accessors[2]["normalized"] = True
        attributes["COLOR_0"] = 2
    scene = {
        "asset": {"version": "2.0", "generator": "tracelet-shim"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}], "buffers": [{"byteLength": len(body)}], "bufferViews": views, "accessors": accessors,
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1, "material": 0}]}],
        "materials": [{"doubleSided": True, "pbrMetallicRoughness": {"metallicFactor": 0}}],
    }  # fmt: skip
    head = json.dumps(scene).encode()
    head += b" " * (-len(head) % 4)
    total = 12 + 8 + len(head) + 8 + len(body)
    start = struct.pack("<4sII", b"glTF", 2, total)
    return start + struct.pack("<I4s", len(head), b"JSON") + head + struct.pack("<I4s", len(body), b"BIN\0") + body


def _two_axes(matrix: Any) -> Any | None:
    """Return the points on two principal axes, shape (points, 2), found by iteration; None if there is nothing."""
    points = np.asarray(matrix, float)
    if points.ndim != 2 or not points.size or not np.isfinite(points).all():
        return None
    points = points - points.mean(0)
    if points.shape[1] < 2:
        return np.column_stack([points[:, 0], np.zeros(len(points))])
    basis = np.random.default_rng(0).normal(size=(points.shape[1], 2))
    for _ in range(10):
        basis, _ = np.linalg.qr(points.T @ (points @ basis))
    return points @ basis


def _graph_page(graph_def: bytes) -> bytes:
    """Return a web page with the nodes of a graph, their operations and inputs."""
    from tensorboard.compat.proto import graph_pb2

    rows = [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in (node.name, node.op, ", ".join(node.input)))
        for node in graph_pb2.GraphDef.FromString(graph_def).node
    ]
    style = "<style>body{font:13px sans-serif}td,th{padding:2px 8px;text-align:left;vertical-align:top}</style>"
    head = "<tr><th>node</th><th>operation</th><th>inputs</th></tr>"
    page = f"<!doctype html><meta charset=utf-8>{style}<table>{head}{''.join(rows)}</table>"
    return page.encode("utf-8", "backslashreplace")
