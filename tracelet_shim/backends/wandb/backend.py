"""Weights & Biases (checked with 0.31).

Rows. W&B's own step may only grow: a lower ``step=`` is dropped with a warning (`wandb.Run.log`). So rows are logged
without ``step=`` and carry TensorBoard's step as the value ``global_step``, which `define_metric` makes the x axis of
every chart. Scalars that follow each other with one step and (to `WALL_TOLERANCE`) one wall time share a row, since a
row costs twenty times what a value in it costs. ``_timestamp`` in a row replaces W&B's own
(`sdk/interface/interface.py`, `publish_partial_history`). The rows of a batch are handed to W&B's service together, see
`_Rows`.

Keys. W&B takes nearly any text, but a backslash stops the whole service process (wandb-core, `runmetric.go`, once
`define_metric` is in use), ``_step``, ``_runtime`` and ``_timestamp`` are its own, the empty key is dropped, and the
keys of media become file names. All that is escaped, see `KEY`. A tag that holds several types gets a key for each,
since W&B shows one panel a key: the first type has the plain key, a later one ``tag (image)``.

The run. It is opened with ``reinit="create_new"``, which leaves ``wandb.run`` to the user, and then taken off the list
of active runs, since a later plain ``wandb.init()`` of the user would return it (`wandb_init.py`,
`most_recent_active_run`). Nothing of the console, the machine, git or the source code is recorded unless
``options["settings"]`` asks for it. A trial of a sweep is a run of its own; its group is the id of the session's run.

Delivered. W&B's service, a process of its own that ends with the relay, stores and uploads what it was handed some time later.
Offline, it is asked whether it has come so far (`WandbBackend.unsettled`); online, the server is asked how many rows it has
(`wandb_lines`). What is not settled when the service dies, or stops to upload, is handed over again, to a new one. A run that is
continued looks into the logs before this one, and does not write again what they have (offline) or the server has (online: the
row ``_step`` of a log is the server's line of that number).

Joined runs. In a run of the user's, each of our rows moves W&B's step on by one. Rows that the user then logs with a
``step=`` below it are dropped by W&B, with its own warning; without ``step=`` nothing is lost. Only our own keys get
global_step as x axis there.
"""

from __future__ import annotations

import configparser
import contextlib
import copy
import hashlib
import html
import inspect
import io
import json
import logging
import math
import netrc
import os
import re
import shlex
import shutil
import struct
import sys
import tempfile
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
import numpy as np

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import (
    Backend,
    Capability,
    Ending,
    Level,
    OpenedRun,
    RunInfo,
    Status,
    UnsettledLostError,
)  # fmt: skip
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.rows import WALL_TOLERANCE, Keys, rows
from tracelet_shim.backends.shared.transient import is_refusal
from tracelet_shim.backends.wandb.lines import Lines, logs_of
from tracelet_shim.backends.wandb.probe import PROBE, own_hook
from tracelet_shim.common.text import usable

__all__ = ["WandbBackend"]

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
"""How often W&B's service writes its log to disk (15 s by default); a kill loses what is younger."""

UPLOADS = {
    "x_file_stream_transmit_interval": 3.0, "x_file_stream_timeout_seconds": 20.0, "x_file_stream_max_bytes": 1 << 20,
    "x_file_stream_retry_wait_min_seconds": 1.0, "x_file_stream_retry_wait_max_seconds": 10.0,
    "x_graphql_timeout_seconds": 15.0, "x_graphql_retry_wait_max_seconds": 10.0, "x_file_transfer_retry_wait_max_seconds": 10.0,
}  # fmt: skip
"""Rows are uploaded every 3 seconds instead of 15. A request that is swallowed is given up after 20 seconds instead of 180, for
which it is kept small; what failed is tried again after 10 instead of 60 seconds."""

ASK_SECONDS = 0.5
"""How often W&B's service is asked whether it has come to what it was handed."""

MAX_UNSETTLED = 100_000
"""Events that may be with W&B's service and not yet on disk."""

MAX_BINS = 512
"""`wandb.Histogram.MAX_LENGTH`."""

TAIL = 32 << 20
"""Bytes at the end of an earlier log that are looked through when a run is continued: as much as `MAX_UNSETTLED` may take."""

MAX_THUMBNAILS = 500
"""Label images of an embedding that become cells of its table; beyond, the sprite is attached as it is."""

MAX_CELLS = 500_000
"""Cells of an embedding's table: W&B checks each, some 10 us. A larger matrix is shown in part and attached whole."""

MAX_PARAM = 100_000
"""Characters of a parameter; W&B's documentation wants a config below 10 MB. A longer one is cut and attached whole."""

_JSON = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""What JSON, as Python and W&B write it, has for the ``repr`` of a number, where it differs."""

_BLOCK, _LOG_HEADER, _PIECE = 1 << 15, 7, struct.Struct("<IHB")

MAX_TRIALS = 8
"""Trials kept open at a time, for parts that arrive later; an older one is ended, and resumed if it must be."""

MAX_REOPENED = 3
"""Times that the run is continued in a new service process after W&B's own has died."""

_CONTROL = "\\x00-\\x1f\\x7f\\ud800-\\udfff"
_KINDS = "|".join(kind.kind for kind in ev.EVENT_TYPES)
KEY = (
    rf"[{_CONTROL}\\]|^\.+(?=/|$)|(?<=/)\.+(?=/|$)|^/|/(?=/)|/$"  # a path component must be one: media become files
    r"|^_(?=(?:step|runtime|timestamp|wandb)$)|^g(?=lobal_step$)"  # W&B's own keys, and our x axis
    rf"|_(?=table$)| (?=\((?:{_KINDS})\)$)"  # what W&B and we append to keys
)
PARAM = rf"[{_CONTROL}\\]|^-+|-+$|^_(?=wandb$)|^t(?=racelet/)"  # Config._sanitize strips dashes

_EXIT_CODES = {"finished": 0, "failed": 1, "killed": 255}  # 255 is what W&B itself sends after Ctrl-C (exit_hooks.py)
_PERMANENT = re.compile(r"\b4(?!08|29)\d\d\b|permission denied|not found", re.IGNORECASE)


class WandbBackend(Backend):
    name = "wandb"
    module = "wandb"
    distribution = "wandb"
    probe = PROBE
    own_hook = staticmethod(own_hook)
    credentials = (
        "check the API key (`wandb login`, WANDB_API_KEY) and WANDB_BASE_URL, or stay local with "
        "WANDB_MODE=offline"
    )
    options: ClassVar[Mapping[str, str]] = {
        "entity": "user or team that owns the project",
        "mode": "online, offline or disabled",
        "dir": "where W&B writes its wandb/ folder",
        "base_url": "address of the W&B server",
        "group": "name that joins several runs",
        "job_type": "kind of run, e.g. train",
        "settings": "further fields of wandb.Settings, as a dict (or JSON text)",
    }
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(Level.NATIVE, "history rows over global_step; float64, NaN and infinities kept"),
        ev.Histogram: Capability(Level.NATIVE, f"wandb.Histogram; neighbouring buckets added up beyond {MAX_BINS}"),
        ev.Image: Capability(Level.NATIVE, "wandb.Image of TensorBoard's own file"),
        ev.Video: Capability(Level.NATIVE, "wandb.Video (GIF)"),
        ev.Audio: Capability(Level.NATIVE, "wandb.Audio of TensorBoard's own file"),
        ev.Text: Capability(Level.CONVERTED, "wandb.Html with the Markdown source, preformatted"),
        ev.PRCurve: Capability(Level.NATIVE, "line chart over a wandb.Table with all columns, one table a step"),
        ev.Mesh: Capability(Level.NATIVE, "wandb.Object3D: OBJ with vertex colours, point clouds as points"),
        ev.Embedding: Capability(Level.NATIVE, "wandb.Table for the 2D projection; a very large one also as files"),
        ev.Tensor: Capability(Level.FILE, "saved with the run as .npy"),
        ev.Graph: Capability(Level.FILE, "saved with the run as .pbtxt and .pb"),
        ev.HParams: Capability(Level.NATIVE, "config and summary; a further trial is a run in the run's group"),
        ev.CustomScalars: Capability(Level.FILE, "saved with the run as .json"),
        ev.Blob: Capability(Level.FILE, "saved with the run"),
    }

    _lent: ClassVar[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
    """The user's active runs that `borrowed` has seen in this process, by id; `wandb.run` may be another one by now."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        mode = self.given.get("mode")
        if mode not in (None, "online", "offline", "disabled"):
            raise errors.ConfigurationError(f"option mode={mode!r} of wandb: it is one of online, offline, disabled")
        self._settings = _settings_option(self.given)
        self._names = Names(KEY, 160, in_bytes=True)  # a media file's name adds at most 70 bytes; 255 is the limit
        self._table_names = self._names
        self._param_names = Names(PARAM, 200)
        self._named = 0
        self._reopened = 0
        self._kinds: dict[str, str] = {}
        self._defined: set[str] = set()
        self._about: dict[str, Any] = {}
        self._trials: dict[str, Any] = {}
        self._failed: Counter[str] = Counter()
        self._there: dict[tuple[str, int, str], list[float]] = {}  # what an earlier log has: key, step, value -> wall times
        self._again = 0  # so many events that come may be there
        self._handed = 0  # events that the service was handed since it was asked how far it is
        self._asked = 0.0
        self._settling: deque[tuple[float, int]] = deque()  # events that it has come to, and when they will be on disk
        self._lines: Lines | None = None  # of an online run of ours
        self._uploading: deque[tuple[int, int]] = deque()  # how many rows there are with so many more events
        self._service: Any = None
        self._ended = False
        self._broken: str | None = None  # why the run is to be continued in a new service process, if that has not been done
        self._run: Any = None
        self._rows: _Rows | None = None
        self._info: RunInfo | None = None
        self._joined = False
        self._disabled = False
        self._tmp: tempfile.TemporaryDirectory[str] | None = None

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        stored, given = _settings_files(), _settings_option(options)
        settings = {**stored, **given}
        mode = options.get("mode") or given.get("mode") or os.environ.get("WANDB_MODE") or stored.get("mode")
        if offline or mode in ("offline", "disabled", "dryrun"):
            return
        if settings.get("api_key") or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
            return
        default = os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or "https://api.wandb.ai"
        host = urlsplit(str(options.get("base_url") or default)).netloc
        if not _in_netrc(host):
            raise errors.BackendUnavailableError(
                cls.name,
                f"no API key for {host}; remedy: `wandb login`, WANDB_API_KEY=..., or WANDB_MODE=offline to stay local",
            )

    @classmethod
    def borrowed(cls) -> str | None:
        run = getattr(sys.modules.get("wandb"), "run", None)
        if run is None:
            return None
        run_id = str(run.id)
        cls._lent[run_id] = run
        return run_id

    @classmethod
    def borrowed_project(cls) -> str | None:
        run = getattr(sys.modules.get("wandb"), "run", None)
        return None if run is None else run.project or None

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        import wandb

        names = ["_finish"] if hasattr(wandb.Run, "_finish") else ["finish", "__exit__"]  # both of the others call the first
        return [Ending(wandb.Run, name, lambda run, *_: str(run.id)) for name in names]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        self._info = run
        lent = self._lent.get(run.resume) if run.resume is not None else None
        self._joined = lent is not None and not lent._is_finished
        if run.borrowed and not self._joined:
            raise errors.BackendError(f"your W&B run {run.resume} has ended")
        if self._joined:
            self._run = lent
            _log.warning("joined the active W&B run %s: what it logs with step= may be dropped by W&B", run.resume)
        else:
            self.check(offline=run.offline, options=self.given)  # W&B would ask for a key on a terminal, and wait
            try:
                self._run = self._open(run)
            except Exception:
                _restart_service()
                raise
        self._disabled = bool(self._run.disabled)
        # a table becomes an artifact run-<id>-<key>, of 128 characters; W&B and we add up to 39 to the tag's key
        self._table_names = Names(KEY, max(128 - 39 - len(f"run-{self._run.id}-"), 20), in_bytes=True)
        if not self._disabled:
            self._update(self._run, self._known(run))
            self._define(self._run, everything=not self._joined)
            with _unread_settings():
                self._rows = None if self._joined else _Rows.of(self._run)
        own = str(self._run.id) == run.session
        if not (self._disabled or self._joined):
            self._uploading.clear()
            self._lines = None if self._run.offline else Lines(self._run)
        if (run.resume is not None or (own and self._run.offline)) and not self._joined:
            lines = self._lines.ask(now=True) if self._lines is not None else None
            if self._lines is not None and not self._lines.answers:
                raise ConnectionError("W&B's server does not say what it has of the run")
            self._there = _end_of_logs(os.path.dirname(self._run.dir), str(self._run.id), lines)
            self._again = MAX_UNSETTLED + self.batch_events
        if own:
            _remove_begun(os.path.dirname(self._run.dir), run.session)
        folder = shlex.quote(os.path.dirname(self._run.dir))
        return OpenedRun(str(self._run.id), f"wandb sync {folder}" if self._run.offline else self._run.url)

    def _known(self, run: RunInfo) -> dict[str, Any]:
        """Return what the config gets at the start: the user's, and what W&B's own fields cannot hold unchanged."""
        self._about = {"session": run.session}
        if not self._joined:
            self._about["started"] = self.iso_time(run.started)
            kept = {"project": self._run.project, "exp_name": self._run.name, "run_id": self._run.id}
            given = {"project": run.project, "exp_name": run.exp_name, "run_id": run.run_id}
            self._about |= {k: v for k, v in given.items() if v is not None and v != kept[k]}
        if run.tags and (self._joined or _labels(run.tags) != list(run.tags)):
            self._about["tags"] = run.tags
        return self._params(self._run, run.config) | _about(self._about)

    def _open(self, run: RunInfo) -> Any:
        run_id = run.resume or (run.run_id and Names(r"[^\w.\-]", 48)(run.run_id))
        if not run_id and not os.environ.get("WANDB_RUN_ID") and "run_id" not in self._settings:
            run_id = run.session  # whoever goes on after a kill in the middle of this opens the same run
        return self._init(
            run,
            run_id,
            resume="allow" if run_id else None,
            name=run.exp_name and _title(run.exp_name),
            notes=run.notes and _plain(run.notes),
            tags=_labels(run.tags) or None,
            group=self.given.get("group") or run.group,
            job_type=self.given.get("job_type"),
        )

    def _init(self, run: RunInfo, run_id: str | None, **fields: Any) -> Any:
        import wandb
        from wandb.sdk import wandb_setup

        program = run.program.readable()
        here = program.pid == os.getpid()
        script = program.script or (f"-m {program.module}" if program.module else None)
        inside = program.script is not None and Path(program.script).is_relative_to(program.cwd)
        settings = {
            "console": "off", "silent": here or fields["job_type"] == "trial", "quiet": True,
            "label_disable": True, "sync_tensorboard": False,
            "disable_git": True, "disable_code": True, "save_code": False, "x_save_requirements": False,
            "x_disable_stats": True, "x_stats_pid": program.pid, "x_transaction_log_flush_interval": FLUSH_SECONDS,
            **UPLOADS,
            "init_timeout": 15.0, "finish_timeout": 5.0 if fields["job_type"] == "trial" else 20.0,
            "finish_timeout_raises": True, "base_url": self.given.get("base_url"),
            "program": script, "program_abspath": program.script, "host": program.host,
            "program_relpath": os.path.relpath(program.script, program.cwd) if program.script and inside else script,
            "x_executable": program.executable,
        }
        settings = {k: v for k, v in settings.items() if v is not None} | self._settings
        folder = self.given.get("dir")
        if folder is None and "WANDB_DIR" not in os.environ and os.path.isdir(run.program.cwd):
            folder = usable(run.program.cwd)
        mode: Any = self.given.get("mode")
        if run.offline and mode != "disabled":
            mode = "offline"
        project = run.project and Names(rf"[{_CONTROL}/\\#?%:]", 128)(run.project)
        if not here:
            os.environ.pop("WANDB_SERVICE", None)  # the training process's service, which ends with it
        unused = wandb_setup.singleton().settings_if_loaded is None
        offline = "offline" in (mode, self._settings.get("mode"), os.environ.get("WANDB_MODE"))
        if offline and (unused or not here):
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it uses the network in offline mode as well
        with _undisturbed(), _unread_settings(), _arguments(program.argv):
            opened = wandb.init(
                project=project, entity=self.given.get("entity"), dir=folder, id=run_id, mode=mode, reinit="create_new",
                settings=wandb.Settings(**settings), **fields,
            )
        if opened.disabled:
            opened.finish()  # a disabled run puts itself into wandb.run; finish() takes it out again
        wandb_setup.singleton().remove_active_run(opened)
        self._service = None if opened.disabled or here else wandb_setup.singleton().ensure_service()
        return opened

    @staticmethod
    def _define(run: Any, *, everything: bool = True) -> None:
        """Make global_step the x axis; in a run of the user's only for our keys, as they come (see `_row`)."""
        run.define_metric("global_step", hidden=True)
        if everything:
            run.define_metric("*", step_metric="global_step")

    def flush(self) -> None:
        if self._run is not None and not self._disabled:
            self._wait_for_service()
            time.sleep(FLUSH_SECONDS)
            self._handed = 0
            self._settling.clear()

    def unsettled(self) -> int:
        if self._run is None or self._disabled or self._joined:
            return 0
        waiting = self._handed or self._settling or self._uploading
        if self._ended:
            return sum(events for _, events in self._uploading)
        if waiting and (self._broken or self._service_is_gone()):
            self._try_again(self._broken or "W&B's service has died")
        if self._lines is not None:
            return self._not_uploaded(self._lines)
        if self._handed and (time.monotonic() - self._asked > ASK_SECONDS or 2 * self._handed > MAX_UNSETTLED):
            self._ask()
        while self._settling and self._settling[0][0] < time.monotonic():
            self._settling.popleft()
        return self._handed + sum(events for _, events in self._settling)

    def _service_is_gone(self) -> bool:
        process = getattr(getattr(self._service, "_proc", None), "_process", None)
        return process is not None and process.poll() is not None

    def _not_uploaded(self, lines: Lines, *, now: bool = False) -> int:
        if self._uploading:
            there = lines.ask(now=now)
            while self._uploading and self._uploading[0][0] <= there:
                self._uploading.popleft()
                self._reopened = 0
        if self._uploading and (why := lines.stuck()) is not None:
            self._try_again(f"W&B's service has stopped to upload ({why})")
        return sum(events for _, events in self._uploading)

    def behind(self) -> str | None:
        if self._lines is None or not self._uploading or self._broken:
            return self._broken
        return self._lines.stuck() or (None if self._lines.answers else "the server does not answer")

    def _mark(self, events: int) -> None:
        """The service was handed so many events more."""
        if self._lines is None:
            self._handed += events
        elif events:
            if not self._uploading:
                self._lines.waits()
            self._uploading.append((self._run._local_step, events))

    def _try_again(self, why: str) -> None:
        """Continue the run in a new service process, if that is possible now.

        Raises:
            UnsettledLostError: it is continued.
        """
        try:
            continued = self._reopen(why)
        except Exception:
            _log.debug("the run cannot be continued yet", exc_info=True)
            return
        if continued:
            raise UnsettledLostError(why)

    def _mend(self) -> None:
        """Do what `_reopen` could not do so far, if there is something."""
        why = self._broken
        if why is not None and self._reopen(why):
            raise UnsettledLostError(why)

    def _reopen(self, why: str) -> bool:
        """Continue the run in a new service process; return False if that was done too often. What was unsettled is lost then. An
        error of `open` leaves it to the next call."""
        if self._broken is None:
            if self._joined or self._info is None or self._reopened >= MAX_REOPENED:
                return False
            self._reopened += 1
            self._broken = why
            _restart_service()
            self._trials.clear()
        assert self._info is not None
        self.open(msgspec.structs.replace(self._info, resume=str(self._run.id)))
        self._broken = None
        self._handed = 0
        self._settling.clear()
        return True

    def _wait_for_service(self) -> None:
        """Have W&B's service answer something, which it does after all that was sent before.

        Raises:
            TimeoutError: it does not answer. (`run.summary` is just empty then.)
        """
        ask = getattr(getattr(self._run, "_interface", None), "deliver_get_summary", None)
        if ask is None:
            self._run.summary.keys()
        else:
            ask().wait_or(timeout=self._run.settings.summary_timeout)

    def _ask(self) -> None:
        """Wait until W&B's service has come to what it was handed. If it cannot be asked, the next `write` finds that out."""
        try:
            self._wait_for_service()
        except Exception:
            _log.debug("W&B's service does not answer", exc_info=True)
        else:
            self._settling.append((time.monotonic() + 2 * FLUSH_SECONDS, self._handed))
            self._handed = 0
        self._asked = time.monotonic()

    def close(self, status: Status) -> None:
        unsent = []
        try:
            while self._trials:
                unsent += self._finish(self._trials.popitem()[1], "finished")
            if self._run is not None and not self._disabled and not self._joined:
                late = self._end(status)
                if self._lines is not None:
                    self._not_uploaded(self._lines, now=True)
                else:
                    unsent += late
                self._settle()
                self._ended = True
                self._handed = 0
                self._settling.clear()
        finally:
            if self._tmp is not None:
                self._tmp.cleanup()
                self._tmp = None
        if unsent:
            raise errors.BackendError(
                f"not stored or uploaded in time; remedy for what is on disk: wandb sync --include-online {' '.join(unsent)}"
            )

    def _end(self, status: Status) -> list[str]:
        """End the run; in a new service process, if the former has died. Return as `_finish`."""
        self._mend()
        try:
            self._update(self._run, _about({"status": status, "ended": self.iso_time(self.ended_at())}))
            return self._finish(self._run, status)
        except Exception as error:
            if _lost(error) and self._reopen(why := f"W&B's service has died ({error})"):
                raise UnsettledLostError(why) from error
            raise

    def _settle(self) -> None:
        """Wait until the logs are on disk: `finish` of the SDK returns before W&B's service has closed them."""
        import wandb

        if self._info is not None and self._info.program.pid == os.getpid():
            time.sleep(FLUSH_SECONDS)  # the service may have runs of the user's
        else:
            with contextlib.suppress(SystemExit):  # it passes on the exit code of the service
                wandb.teardown()

    @staticmethod
    def _finish(run: Any, status: Status) -> list[str]:
        """End a run. Return its directory, quoted for a shell, if not everything was uploaded in time."""
        folder = shlex.quote(os.path.dirname(run.dir))
        try:
            run.finish(exit_code=_EXIT_CODES.get(status, 1))
        except TimeoutError:
            return [folder]
        return []

    @property
    def handle(self) -> Any:
        return self._run

    def is_transient(self, error: BaseException) -> bool:
        kinds = _kinds(error)
        if kinds & {"AuthenticationError", "UsageError"}:
            return False
        if _lost(error) or kinds & {"CommError", "ServicePollForTokenError"}:
            return not (_PERMANENT.search(str(error)) or is_refusal(str(error)))
        return super().is_transient(error)

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        if self._disabled:  # the user switched W&B off (WANDB_MODE=disabled)
            self.written = len(events)
            return
        self._mend()
        while self.unsettled() > MAX_UNSETTLED:
            if self._lines is not None:
                raise TimeoutError("W&B's server is behind")
            if not self._settling:  # it does not answer
                break
            time.sleep(FLUSH_SECONDS / 4)
        try:
            with _unread_settings():
                super().write(events)
        except Exception as error:
            self._mark(self.written)
            lost = bool(self._handed or self._settling or self._uploading)
            if _lost(error) and self._reopen(why := f"W&B's service has died ({error})") and lost:
                raise UnsettledLostError(why) from error
            raise
        self._mark(len(events))
        self._again -= len(events)
        if self._again <= 0:
            self._there = {}
        names = {**self._names.shortened, **self._table_names.shortened, **self._param_names.shortened}
        if len(names) > self._named:
            self._save(self._run, "names.json", json.dumps(names, indent=1).encode())
            self._named = len(names)

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        found = rows(events, Keys(lambda event: self._key(event.path, event.kind)))
        if self._rows is None or self._there or self._run._is_finished:  # the last by the user: `Run.log` raises
            for first, values in found:
                self._row(first, values)
                self.written += len(values)
            return
        self._rows.publish([_row(first, values) for first, values in found])

    def log_histogram(self, event: ev.Histogram) -> None:
        import wandb

        counts, edges = _bins(event)
        if len(counts) and np.isfinite(counts).all() and np.isfinite(edges).all():
            histogram = wandb.Histogram(np_histogram=(counts.tolist(), edges.tolist()))
            self._row(event, {self._key(event.path, event.kind): histogram})
        else:
            self.attach_files(event)

    def log_image(self, event: ev.Image) -> None:
        import wandb

        self._media(event, lambda: wandb.Image(self._file(event)))

    def log_video(self, event: ev.Video) -> None:
        import wandb

        self._media(event, lambda: wandb.Video(io.BytesIO(event.data), format="gif"))

    def log_audio(self, event: ev.Audio) -> None:
        import wandb

        self._media(event, lambda: wandb.Audio(self._file(event)))

    def log_text(self, event: ev.Text) -> None:
        import wandb

        page = '<meta charset="utf-8"><pre style="white-space: pre-wrap">\n' + html.escape(event.text) + "</pre>"
        # a NUL or half a surrogate pair cannot stand in a page: there it is shown as U+FFFD, the file has it
        shown = re.sub("[\x00\ud800-\udfff]", "\ufffd", page)
        self._media(event, lambda: wandb.Html(shown, inject=False, data_is_not_path=True))
        if shown != page:
            self.attach_files(event)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        import wandb

        n = len(event.precision)
        thresholds = [i / max(n - 1, 1) for i in range(n)]
        counts = (event.true_positives, event.false_positives, event.true_negatives, event.false_negatives)
        rows = [list(row) for row in zip(thresholds, event.precision, event.recall, *counts, strict=True)]
        names = ["threshold", "precision", "recall"]
        names += ["true_positives", "false_positives", "true_negatives", "false_negatives"]
        key = self._key(event.path, event.kind, self._table_names)
        chart = wandb.plot_table(
            "wandb/line/v0",
            wandb.Table(columns=names, data=rows),
            {"x": "recall", "y": "precision"},
            {"title": event.path},
            split_table=True,
        )
        self._row(event, {key: chart})

    def log_mesh(self, event: ev.Mesh) -> None:
        import wandb

        vertices = event.vertices.numpy()
        faces = event.faces.numpy() if event.faces is not None else None
        colors = event.colors.numpy() if event.colors is not None else None

        def item(i: int) -> Any:
            if faces is None:
                points = vertices[i].astype(float)
                return wandb.Object3D(points if colors is None else np.hstack([points, colors[i]]))
            text = _obj(vertices[i], faces[i], colors[i] if colors is not None else None)
            return wandb.Object3D(io.StringIO(text), file_type="obj")

        self._media(event, lambda: item(0) if len(vertices) == 1 else [item(i) for i in range(len(vertices))])
        if event.config != "{}":
            self.attach(self.artifact_stem(event) + ".config.json", event.config.encode(), event)

    def log_embedding(self, event: ev.Embedding) -> None:
        import wandb

        points, dimensions = event.matrix.shape
        shown = min(points, wandb.Table.MAX_ROWS, MAX_CELLS // max(dimensions, 1))
        matrix = event.matrix.numpy()[:shown]
        columns = [f"d{i}" for i in range(dimensions)]
        cells: list[list[Any]] = [[] for _ in matrix]
        if event.metadata is not None:
            width = max((len(row) for row in event.metadata), default=0)
            labels = event.metadata_header or ("label", *(f"label{i}" for i in range(1, width)))
            columns = [*_distinct(labels, taken={*columns, "image"}), *columns]
            cells = [[*row] for row in event.metadata[:shown]]
        thumbnails = _sprite_cells(event) if shown == points <= MAX_THUMBNAILS else []
        if thumbnails:
            columns = ["image", *columns]
            cells = [[wandb.Image(picture), *row] for picture, row in zip(thumbnails, cells, strict=True)]
        data = [[*row, *values] for row, values in zip(cells, matrix.tolist(), strict=True)]
        table = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
        self._row(event, {self._key(event.path, event.kind, self._table_names): table})
        if shown < points:
            self.attach_files(event)
        elif event.sprite is not None and not thumbnails:
            self.attach(self.artifact_stem(event) + ".sprite.png", event.sprite, event)

    def log_hparams(self, event: ev.HParams) -> None:
        run = self._run if event.trial is None else self._trial(event.trial)
        params = self._params(run, event.params)
        if event.trial is None:
            earlier = {k: run.config[k] for k, v in params.items() if k in run.config and run.config[k] != v}
            for key, value in earlier.items():  # W&B keeps one value a parameter
                self._about.setdefault("earlier_values", {}).setdefault(key, []).append(value)
            domain = {self._param_names(k): v for k, v in event.domain.items()}
            if domain:
                self._about.setdefault("domain", {}).update(domain)
            params |= _about(self._about)
        self._update(run, params)
        if event.metrics:
            own = event.trial is None
            keys = {k: self._key(k, ev.Scalar.kind) if own else self._names(k) for k in event.metrics}
            self._row(event, {keys[k]: v for k, v in event.metrics.items()}, run)

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._save(self._run, path, data)

    # -- help -------------------------------------------------------------------------------------------------------

    def _key(self, path: str, kind: str, names: Names | None = None) -> str:
        """Return the key of a tag, with the type behind it where another type has the plain key."""
        key = (names or self._names)(path)
        first = self._kinds.get(key, kind)
        if len(self._kinds) < 100_000:  # a program that makes up a tag a step must not grow us without end
            self._kinds[key] = first
        return key if first == kind else f"{key} ({kind})"

    def _row(self, event: ev.Event, values: Mapping[str, Any], run: Any = None) -> None:
        """Log a row at the step and wall time of `event`."""
        if self._there and run is None:
            values = {key: value for key, value in values.items() if not self._is_there(key, event, value)}
            if not values:
                return
        if self._joined and run is None:
            for key in values.keys() - self._defined:
                if not {".", "*"} & set(key):  # define_metric would take them for a path and for any text
                    self._run.define_metric(key, step_metric="global_step")
                self._defined.add(key)
        (run or self._run).log(_row(event, values))

    def _is_there(self, key: str, event: ev.Event, value: Any) -> bool:
        """True if an earlier log has this value, which is then told off."""
        times = self._there.get((key, event.step, _identity(value)), [])
        for time_there in times:
            if not math.isfinite(event.wall_time) or abs(time_there - event.wall_time) <= WALL_TOLERANCE:
                times.remove(time_there)
                return True
        return False

    def _media(self, event: ev.Event, make: Callable[[], Any]) -> None:
        """Log a media value; what the SDK cannot read as such is still attached as a file."""
        try:
            value = make()
        except (OSError, ValueError, SyntaxError, AssertionError) as error:  # Pillow's and the SDK's for bad data
            _log.warning("W&B cannot show %s %r (%s): attached as a file", event.kind, event.path, error)
            self.attach_files(event)
        else:
            self._row(event, {self._key(event.path, event.kind): value})

    def _file(self, event: ev.Image | ev.Audio) -> str:
        """Return a temporary file with the encoded data, which the SDK copies into the run, bytes unchanged."""
        if self._tmp is None:
            self._tmp = tempfile.TemporaryDirectory(prefix="tracelet-wandb-")
        suffix, data = next(files.render(event))
        path = Path(self._tmp.name, f"{event.kind}{suffix}")
        path.write_bytes(data)
        return str(path)

    @staticmethod
    def _save(run: Any, path: str, data: bytes) -> None:
        target = Path(run.dir, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        run.save(str(target), base_path=run.dir, policy="now")

    def _params(self, run: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters as the config takes them; attach the whole text of one that is too long."""
        result = {}
        for name, value in params.items():
            key = self._param_names(str(name)) or "_x_"
            plain = _plain(value)
            if isinstance(plain, str) and len(plain) > MAX_PARAM:
                digest = hashlib.blake2s(key.encode(), digest_size=4).hexdigest()
                path = f"hparams/{self._paths(key)}={digest}.txt"
                self._save(run, path, plain.encode())
                plain = f"{plain[:MAX_PARAM]}... (cut, whole text in {path})"
            result[key] = plain
        return result

    @staticmethod
    def _update(run: Any, values: dict[str, Any]) -> None:
        if values:
            run.config.update(values, allow_val_change=True)

    def _trial(self, trial: str) -> Any:
        """Return the child run of a trial, opening or resuming it; its id follows from the parent's and the name."""
        if trial in self._trials:
            self._trials[trial] = self._trials.pop(trial)  # the latest used goes last
            return self._trials[trial]
        if self._info is None:
            raise errors.BackendError("wandb: open() comes first")
        while len(self._trials) >= MAX_TRIALS:
            self._finish(self._trials.pop(next(iter(self._trials))), "finished")
        parent = str(self._run.id)
        # the number of failures is part of the id, since W&B's service refuses one that it failed to open
        unique = f"{parent}\0{trial}\0{self._failed[trial] or ''}"
        child = hashlib.blake2s(unique.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        try:
            run = self._init(self._info, child, resume="allow", name=_title(trial), group=parent, job_type="trial")
        except Exception:
            self._failed[trial] += 1
            raise
        self._define(run)
        self._update(run, _about({"session": self._info.session, "parent": parent, "trial": trial}))
        self._trials[trial] = run
        return run


# -- settings and credentials -----------------------------------------------------------------------------------------


def _settings_option(options: Mapping[str, Any]) -> dict[str, Any]:
    given = options.get("settings") or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise errors.ConfigurationError(f"option settings of wandb is no JSON: {error}") from None
    if not isinstance(given, Mapping):
        raise errors.ConfigurationError("option settings of wandb must be a dict of wandb.Settings fields")
    return dict(given)


def _settings_files() -> dict[str, str]:
    """Return what `wandb login`, `wandb offline` and the like have stored (`sdk/lib/settings_file.py`)."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    found: dict[str, str] = {}
    for path in (Path(folder).expanduser() / "settings", Path(os.environ.get("WANDB_DIR") or ".", "wandb", "settings")):
        parser = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):  # W&B ignores such a file, too
            parser.read(path, encoding="utf-8")
            found |= dict(parser["default"]) if parser.has_section("default") else {}
    return found


def _in_netrc(host: str) -> bool:
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for candidate in candidates:
        with contextlib.suppress(OSError, netrc.NetrcParseError):  # W&B takes neither file
            return netrc.netrc(os.path.expanduser(candidate)).authenticators(host) is not None
    return False


def _kinds(error: BaseException) -> set[str]:
    """Return the names of the SDK's classes that `error` belongs to; importing them would import the SDK."""
    return {c.__name__ for c in type(error).__mro__ if c.__module__.startswith("wandb.")}


def _lost(error: BaseException) -> bool:
    """Tell whether W&B's service process has died."""
    return isinstance(error, ConnectionError) or bool(_kinds(error) & {"MailboxClosedError", "HandleAbandonedError"})


def _restart_service() -> None:
    """End W&B's service process, unless a run of the user's lives there; the next init starts a new one.

    A service that failed to open a run goes on holding the run's id, and the next attempt is refused ("in use").
    """
    import wandb
    from wandb.sdk import wandb_setup

    library = wandb_setup.singleton()
    service = library.ensure_service()
    if library.most_recent_active_run is None and service.owns_service:
        service._proc._process.kill()
        with contextlib.suppress(OSError, SystemExit, AssertionError):  # lost, its exit code passed on, or ended already
            wandb.teardown()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back ``sys.exit`` and ``sys.excepthook``, which W&B replaces when it starts its service (`exit_hooks.py`)."""
    leave, hook = sys.exit, sys.excepthook
    try:
        yield
    finally:
        sys.exit, sys.excepthook = leave, hook


@contextlib.contextmanager
def _arguments(argv: Sequence[str]) -> Iterator[None]:
    """Have W&B record these arguments. It takes them from ``sys.argv`` (`Settings._args`): in the relay those of another
    program, in the user's own process with any secret that they have."""
    import wandb

    own = wandb.Settings._args
    wandb.Settings._args = property(lambda _: list(argv[1:]))
    try:
        yield
    finally:
        wandb.Settings._args = own


@contextlib.contextmanager
def _unread_settings() -> Iterator[None]:
    """Have W&B forget settings and credentials that it first reads within: the user's own first init is to find them,
    the environment above all, as they are then (`wandb_setup.py`, "Changes to your environment will be ignored")."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    unread = wandb_setup.singleton().settings_if_loaded is None
    try:
        yield
    finally:
        if unread:
            wandb_setup.singleton()._settings = None
            wbauth.unauthenticate_session(update_settings=False)


# -- values -----------------------------------------------------------------------------------------------------------


def _row(event: ev.Event, values: Mapping[str, Any]) -> dict[str, Any]:
    row = {**values, "global_step": event.step}
    if math.isfinite(event.wall_time):
        row["_timestamp"] = event.wall_time
    return row


class _Rows:
    """Hands rows of numbers to W&B's service many at a time.

    `Run.log` hands over one: it wakes W&B's thread for I/O and waits until that has written to the socket, which takes
    longer than all the rest, the more so where other threads want the interpreter. Here all rows of a batch are handed
    over in one such turn, and in two writes. The messages are those of `Run.log` (`wandb_run.py`,
    `_partial_history_callback`; `sdk/interface/interface.py`, `publish_partial_history`; `interface_sock.py`, `_publish`;
    `lib/service/service_client.py`).
    """

    def __init__(self, run: Any) -> None:
        """Raises an AttributeError or the like if the installed SDK has other messages, or sends them in another way."""
        from wandb.proto.wandb_server_pb2 import ServerRequest

        seen: list[Any] = []
        interface = copy.copy(run._interface)
        interface._publish = seen.append
        row = {"a": 0.5, "n": math.nan, "i": -math.inf, "global_step": 3, "_timestamp": 1.5}
        interface.publish_partial_history(run, dict(row), user_step=run._local_step)
        interface._assign(seen[0])
        self._request = ServerRequest
        self._empty = ServerRequest(record_publish=seen[0])  # what stands in a message beside the row
        self._empty.record_publish.request.partial_history.ClearField("item")
        if self._message(row).record_publish != seen[0]:
            raise ValueError("rows are encoded in another way")
        self._run, self._asyncer, self._client = run, interface._asyncer, interface._client
        ways = self._asyncer.run, self._client._writer.write, self._client._writer.drain
        if run._is_finished or not all(map(callable, ways)) or not inspect.iscoroutinefunction(self._client.publish):
            raise TypeError("messages are sent in another way")

    @classmethod
    def of(cls, run: Any) -> _Rows | None:
        """Return the object for `run`; None if the installed SDK does not hand over rows as the known versions do."""
        try:
            return cls(run)
        except (ImportError, AttributeError, TypeError, ValueError, IndexError) as error:
            _log.info("rows are logged one by one, since W&B (known: 0.31) has another way for them: %s", error)
            return None

    def _message(self, row: Mapping[str, Any]) -> Any:
        request = self._request()
        request.CopyFrom(self._empty)
        add = request.record_publish.request.partial_history.item.add
        for key, value in row.items():
            text = repr(value)
            add(key=key, value_json=_JSON.get(text, text))
        return request

    def publish(self, rows: Sequence[dict[str, Any]]) -> None:
        """Do what ``run.log(row)`` does, for each row. After an error the service may have some of them."""
        now = {"_timestamp": time.time()}
        *requests, last = [self._message(row if "_timestamp" in row else row | now) for row in rows]

        async def send() -> None:
            writer, frames = self._client._writer, _Frames()
            self._client._writer = frames
            try:
                for request in requests:
                    await self._client.publish(request)
            finally:
                self._client._writer = writer
            writer.write(b"".join(frames.data))
            await self._client.publish(last)  # waits until the socket takes more, and notes an error of it

        self._asyncer.run(send)
        self._run._local_step += len(rows)  # part of the names of media files


class _Frames:
    """Keeps what the SDK's client writes; nothing else runs in its event loop meanwhile, since `drain` never waits."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.write = self.data.append

    async def drain(self) -> None:
        pass


def _identity(value: Any) -> str:
    """Return what tells two values of one key and step apart: a number; media never share key, step and wall time."""
    return repr(float(value)) if isinstance(value, (int, float)) else ""


def _end_of_logs(folder: str, run_id: str, lines: int | None) -> dict[tuple[str, int, str], list[float]]:
    """Return what is there of the end of a run: (key, step, value) -> wall times.

    Offline, where `lines` is None, that is what the log before this one has; online, what all of them have of the rows that the
    server has. Where two have a row of one number, the earlier one's never arrived.

    The log (`wandb/sdk/internal/datastore.py`) has blocks of 32 KiB with pieces of records in them: checksum, length,
    kind (1 whole, 2 first, 3 middle, 4 last).
    """
    logs = logs_of(folder, run_id)
    found_rows: dict[int, dict[str, Any]] = {}
    for log in logs if lines is not None else logs[-1:]:
        for place, row in enumerate(map(_row_of, _histories(log))):
            at = int(row.get("_step", place))
            if lines is None or at < lines:
                found_rows.pop(at, None)
                found_rows[at] = row
    values: deque[tuple[tuple[str, int, str], float]] = deque(maxlen=MAX_UNSETTLED + WandbBackend.batch_events)
    for row in found_rows.values():
        step: Any = row.pop("global_step", None)
        when = float(row.pop("_timestamp", math.nan))
        for key, value in row.items():
            if isinstance(step, int) and not key.startswith("_"):
                number = float(value) if value in ("NaN", "Infinity", "-Infinity") else value
                values.append(((key, step, _identity(number)), when))
    found: dict[tuple[str, int, str], list[float]] = {}
    for name, when in values:
        found.setdefault(name, []).append(when)
    return found


def _row_of(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:  # a picture has an item for each of its fields
        part_of = len(item.nested_key) > 1
        row[item.nested_key[0] if item.nested_key else item.key] = None if part_of else json.loads(item.value_json)
    return row

def _remove_begun(folder: str, run_id: str) -> None:
    """Remove what a process has left that was killed while it opened this run: directories whose log has no record."""
    for other in Path(folder).parent.glob(f"*run-*-{run_id}"):
        if str(other) != folder and all(log.stat().st_size <= _LOG_HEADER for log in other.glob("*.wandb")):
            shutil.rmtree(other, ignore_errors=True)


def _histories(log: Path) -> Iterator[Any]:
    """Yield the rows at the end of a log, as far as they are whole."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    with open(log, "rb") as file:
        start = max(0, log.stat().st_size - TAIL) // _BLOCK * _BLOCK
        file.seek(start)
        data = file.read()
    at, record = 0 if start else _LOG_HEADER, b""
    whole = start == 0  # else the first pieces may belong to a record that began before
    while at + _PIECE.size <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < _PIECE.size:
            at += room
            continue
        _, size, kind = _PIECE.unpack_from(data, at)
        piece = data[at + _PIECE.size : at + _PIECE.size + size]
        if kind not in (1, 2, 3, 4) or len(piece) < size:
            return
        at += _PIECE.size + size
        whole = whole or kind in (1, 2)
        record = piece if kind in (1, 2) else record + piece
        if kind in (1, 4) and whole:
            try:
                parsed = wandb_internal_pb2.Record.FromString(record)
            except DecodeError:
                return
            if parsed.HasField("history"):
                yield parsed.history


def _title(name: str) -> str:
    return Names(f"[{_CONTROL}]", 128)(name)


def _labels(tags: Mapping[str, str]) -> list[str]:
    """Return W&B's tags, bare labels of 1 to 64 characters: ``name`` or ``name=value``."""
    label = Names(f"[{_CONTROL}]", 64)
    return list(dict.fromkeys(label(f"{name}={value}" if value else name) for name, value in tags.items()))


def _plain(value: Any) -> Any:
    """Return `value` as the config holds it truthfully: NaN (W&B: null), infinities and huge integers as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >= 2**63:
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _about(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is worth knowing of a run, beside its parameters, as config entries of their own."""
    return {f"tracelet/{key}": _plain(value) for key, value in values.items()}


def _bins(event: ev.Histogram) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return counts and edges of at most `MAX_BINS` buckets. Neighbours are added up, so that no sample is lost."""
    limits = np.array(event.limits, float)
    counts = np.array(event.counts, float)
    if not len(limits):
        return counts, limits
    edges = np.concatenate([[min(event.min, limits[0])], limits])
    filled = np.flatnonzero(counts)
    if len(filled):  # empty buckets at both ends, TensorBoard's own first one among them
        counts, edges = counts[filled[0] : filled[-1] + 1], edges[filled[0] : filled[-1] + 2]
    if edges[-1] > 1e308 and event.max >= edges[-2]:  # TensorBoard's open last bucket
        edges[-1] = event.max
    if len(counts) > MAX_BINS:
        starts = np.unique(np.linspace(0, len(counts), MAX_BINS, endpoint=False).astype(int))
        counts = np.add.reduceat(counts, starts)
        edges = np.append(edges[starts], edges[-1])
    return counts, edges


def _obj(vertices: Any, faces: Any, colors: Any | None) -> str:
    """Return a triangle mesh as OBJ text, with the colours 0 to 1 behind the coordinates."""
    rows = vertices.tolist() if colors is None else np.hstack([vertices.astype(float), colors / 255]).tolist()
    lines = ["v " + " ".join(map(repr, row)) for row in rows]
    lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces.tolist()]
    return "\n".join(lines) + "\n"


def _distinct(names: Sequence[str], taken: set[str]) -> list[str]:
    """Return `names` with an underscore behind those that are taken: a table's columns must differ."""
    result = []
    for name in names:
        distinct = name
        while distinct in taken:
            distinct += "_"
        taken.add(distinct)
        result.append(distinct)
    return result


def _sprite_cells(event: ev.Embedding) -> list[Any]:
    """Cut the sprite, a square grid, into one picture a point."""
    if event.sprite is None or event.sprite_size is None:
        return []
    from PIL import Image

    sheet = Image.open(io.BytesIO(event.sprite))
    width, height = event.sprite_size
    across = max(sheet.width // width, 1)
    corners = [(i % across * width, i // across * height) for i in range(event.matrix.shape[0])]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in corners]
