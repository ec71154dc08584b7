"""ClearML, online and offline.

How a run is made. `Task.init` is for the one main task of a process: it patches `os.fork`, `os._exit` and the signal
handlers, starts reporting through a forked process and threads, scans the calling script and leaves its id in the
environment of child processes. None of it is wanted here, so tasks are made by `Task._create` (the constructor behind
it, without the set-up) and `Task.get_task`; and events go to `Metrics.write_events` in the calling thread, not to the
`Reporter`, whose background thread logs a failure and drops the data (`clearml/backend_interface/metrics`). What
`write` has returned for is on disk, or taken by the server. A user can still call `Task.init` beside it.

How a tag becomes title and series: as in ClearML's own TensorBoard bridge
(`clearml/binding/frameworks/tensorflow_bind.py`), but one to one. ``a/b/c`` -> title ``a/b``, series ``c``; ``a`` ->
title and series ``a``; `add_scalars` -> title ``<main tag>/``, series = its key. A writer follows the series: ``loss ·
train``. A plot or a file has its kind behind the title: ``weights · histogram``. The middle dot is escaped within
names, so nothing else can look like this.

The server keeps one event for each task, title, series and iteration (``EventBLL.id_fields`` of clearml-server: the
next one overwrites). So the second event of a series at one step goes to the series ``<series> ·2``, and all further
ones to the title ``<title> · repeated``, series ``<series> ·step <step>``, with the record's position as iteration. It
refuses a whole batch for one NaN, and the SDK would send 0.0 instead: a value that is not finite becomes a 1 at its
step in the title ``<title> · nan``, ``· inf`` or ``· -inf``.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import importlib
import io
import json
import logging
import math
import os
import re
import shlex
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.clearml.probe import PROBE, own_hook
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.options import Parser, switch
from tracelet_shim.backends.shared.transient import Patience, Verdict, judge
from tracelet_shim.common.text import as_utf8
from tracelet_shim.provenance.secrets import mask_text

__all__ = ["ClearMLBackend"]

_RETRIES = {"total": 2, "connect": 2, "read": 2, "redirect": 2, "status": 2, "backoff_factor": 0.2}
"""Instead of 240 retries, up to two minutes apart (``api.http.retries``): the relay has retries of its own."""
_TIMEOUT = (5.0, 20.0)
"""Seconds to connect, and to wait for an answer. The SDK's own are 10 and 300, and 300 where there is much to send."""
_SUMMARY = ("Summary", -(2**31))  # title and iteration of `Logger.report_single_value`
_PLOT_BYTES = 8_000_000  # a request may have 15 MB (``api.http.max_req_size``); the SDK drops what is longer
_TEXT_LENGTH = 8_000  # of a parameter: the server keeps all of them in one document of at most 16 MB
_PLOT_POINTS = 2_000  # of an embedding: what a browser can turn, and the PCA of which takes a second
_ARTIFACTS = frozenset({"graph", "blob", "hparams", "custom_scalars"})  # one a run, not a row of steps
_LABELS = {"pr_curve": "PR curve", "image": ""}  # behind the title; all other kinds by their own name
_ENVIRONMENT = {
    "api_host": "CLEARML_API_HOST", "web_host": "CLEARML_WEB_HOST", "files_host": "CLEARML_FILES_HOST",
    "config_file": "CLEARML_CONFIG_FILE", "cache_dir": "CLEARML_CACHE_DIR",
}  # fmt: skip


_TAIL = 4 << 20
"""Bytes at the end of an offline session's log that are looked through when it is continued: far more than one batch."""


class _RefusedError(errors.BackendError):
    """The server's answer was no, or not the server's.

    Attributes:
        code: the HTTP status.
        own: False if the answer is not in ClearML's envelope: something in between has answered.
    """

    def __init__(self, code: int, message: str, *, own: bool = True) -> None:
        self.code, self.own = code, own
        super().__init__(f"ClearML server: {code} {message}")


def _bounded(session: Any) -> Any:
    """Bound each request of an SDK's session in time, and raise what `Session._send_request` would repeat without end: 503, and
    an answer that is torn or badly encrypted. An answer without ClearML's envelope is none of ClearML's."""
    from requests.exceptions import ChunkedEncodingError, ContentDecodingError, SSLError, StreamConsumedError

    session._session_timeout = session._write_session_timeout = _TIMEOUT
    http = session._Session__http_session
    http.write_timeout = _TIMEOUT
    request = http.request

    def once(method: str, url: str, **details: Any) -> Any:
        try:
            answer = request(method, url, **details)
        except (ChunkedEncodingError, ContentDecodingError, SSLError, StreamConsumedError) as error:
            raise ConnectionError(f"ClearML: {error}") from error
        try:
            own = "meta" in answer.json()
        except (ValueError, TypeError):
            own = False
        if not own or answer.status_code == 503:
            raise _RefusedError(answer.status_code, " ".join(answer.text[:200].split()), own=own)
        return answer

    http.request = once
    return session


def _send_once(session: Any, req: Any, ignore_errors: bool = False, **_: Any) -> Any:
    """Stand in for `InterfaceBase._send`, which repeats without end while there is no connection; raise a refusal."""
    result = session.send(req)
    if result is None or ignore_errors:  # None: offline
        return result
    if result.meta.result_code not in (200, 202):
        raise _RefusedError(result.meta.result_code, str(result.meta.result_msg))
    failed = getattr(result.response, "errors", None)
    if isinstance(failed, int) and failed:
        raise _RefusedError(400, f"{failed} events refused: {getattr(result.response, 'errors_info', '')}")
    return result


def _identity(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(event.get(field) for field in ("metric", "variant", "iter", "timestamp"))


def _end_of_log(log: Path) -> set[tuple[Any, ...]]:
    """Return the identities of the events in the last `_TAIL` bytes of an offline session's log, one batch a line."""
    if not log.exists():
        return set()
    with open(log, "rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _TAIL)
        file.seek(start)
        lines = file.read().splitlines()
    return {_identity(event) for line in lines[1 if start else 0 :] for event in json.loads(line)}


@functools.cache
def _task_class() -> Any:
    """Return `clearml.Task`, but with bounded requests, for the tasks that we open."""
    from clearml import Task

    class BoundedTask(Task):  # type: ignore[misc]
        _send = staticmethod(_send_once)
        tracelet_session: ClassVar[str | None] = None
        """The session whose task is being made: who goes on after a kill in the middle of that finds the task by this."""

        def _auto_generate(self, *args: Any, **kwargs: Any) -> str:
            made = str(super()._auto_generate(*args, **kwargs))
            return _offline_id(self.tracelet_session) if self.tracelet_session and made.startswith("offline-") else made

        def send(self, req: Any, *args: Any, **kwargs: Any) -> Any:
            if self.tracelet_session and type(req).__name__ == "CreateRequest":
                req.tags = [*(req.tags or ()), _session_tag(self.tracelet_session)]
            return super().send(req, *args, **kwargs)

    return BoundedTask


def _offline_id(session: str) -> str:
    return f"offline-{hashlib.blake2s(session.encode(), digest_size=16).hexdigest()}"


def _session_tag(session: str) -> str:
    return f"tracelet.session:{session}"


class _Steps:
    """The set of the steps of one series: a few numbers for steps that grow evenly, as nearly all do."""

    def __init__(self) -> None:
        self._runs: list[list[int]] = []  # ascending [first, last, stride], an arithmetic progression each
        self._others: set[int] = set()

    def add(self, step: int) -> bool:
        """Return True if `step` was not in the set. When there is no more room, an earlier step counts as known."""
        runs, full = self._runs, len(self._runs) + len(self._others) > 50_000
        if not runs or step > runs[-1][1]:
            if runs and (full or runs[-1][0] == runs[-1][1] or step - runs[-1][1] == runs[-1][2]):
                runs[-1][1:] = [step, step - runs[-1][1]]
            else:
                runs.append([step, step, 1])
            return True
        at = bisect.bisect_right(runs, step, key=lambda run: run[0]) - 1
        inside = at >= 0 and step <= runs[at][1] and (step - runs[at][0]) % runs[at][2] == 0
        if full or inside or step in self._others:
            return False
        self._others.add(step)
        return True


class _Sink:
    """One task, and the way of events and files into it.

    Args:
        task: the ``clearml.Task``.
    """

    def __init__(self, task: Any) -> None:
        from clearml.backend_interface.metrics import Metrics

        self.task = task
        storage = task._get_default_report_storage_uri()
        # The SDK's form, which `Task.import_offline_session` looks for: <project>/<task name>.<task id>/...
        self.prefix = f"{_plain(task.get_project_name() or 'unknown')}/{_plain(task.name)}.{task.id}"
        if task._offline_mode:
            Path(storage).mkdir(parents=True, exist_ok=True)
        # An instance of our own: steps are absolute, whatever iteration offset a borrowed task has.
        suffix = f"{self.prefix}/metrics"
        self._metrics = Metrics(session=task.session, task=task, storage_uri=storage, storage_uri_suffix=suffix)
        self._metrics._send = _send_once
        self.there: set[tuple[Any, ...]] = set()
        """What a killed session had written of the batch that comes again: metric, variant, iteration, time."""

    def deliver(self, adapters: Sequence[Any]) -> None:
        """Write events; all of them have arrived, or it raises.

        Args:
            adapters: of `clearml.backend_interface.metrics.events`.
        """
        if self.there:
            adapters = [adapter for adapter in adapters if _identity(adapter._get_base_dict()) not in self.there]
        batch = list(adapters)  # events whose file cannot be named are removed from it
        log = self._metrics._offline_log_filename
        before = os.path.getsize(log) if log and os.path.exists(log) else 0
        try:
            self._metrics.write_events(batch, async_enable=False)
        except OSError:
            if log and os.path.exists(log):  # half a line would make the rest of the file unreadable
                os.truncate(log, before)
            raise
        problems = [adapter.upload_exception for adapter in adapters if adapter.upload_exception is not None]
        if problems and isinstance(problems[0], OSError):
            raise problems[0]
        if problems or len(batch) < len(adapters):
            raise errors.BackendError(f"ClearML: uploading a file failed: {problems or 'it got no name'}")

    def add_artifact(self, name: str, data: bytes) -> None:
        """Upload `data` as the artifact `name`: `Artifacts.upload_artifact`, but in this thread and with its errors."""
        from clearml.backend_api.services import tasks
        from clearml.backend_interface.metrics.events import UploadEvent

        folder, _, file = name.rpartition("/")
        stem, dot, suffix = file.rpartition(".")
        upload = UploadEvent(
            metric="artifacts", variant=folder, image_data=io.BytesIO(data), iter=0, file_history_size=-1,
            upload_uri=self.task.output_uri or None, override_storage_key_prefix=self.prefix,
            override_filename=_plain(stem), override_filename_ext=dot + suffix,
        )  # fmt: skip
        upload._replace_slash = _plain
        upload.retries = 1
        self.deliver([upload])
        text = data[:3000].decode("utf-8", "ignore") if b"\0" not in data[:3000] else f"{len(data)} bytes"
        self.task._add_artifacts([
            tasks.Artifact(
                key=name, type="custom", uri=upload._url, content_size=len(data), hash=hashlib.sha256(data).hexdigest(),
                timestamp=int(time.time()), type_data=tasks.ArtifactTypeData(preview=text),
            )
        ])  # fmt: skip

    def zip(self) -> None:
        """Leave ``<folder>.zip`` for `Task.import_offline_session`, as `Task.close` does (which would print)."""
        folder = Path(self.task.get_offline_mode_folder())
        self.task._edit()
        target, part = f"{folder}.zip", f"{folder}.zip.part"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder).as_posix())
        os.replace(part, target)


class ClearMLBackend(Backend):
    """ClearML; see the module's docstring for the mapping."""

    name = "clearml"
    module = "clearml"
    distribution = "clearml"
    probe = PROBE
    own_hook = staticmethod(own_hook)
    credentials = (
        "check the credentials (`clearml-init`, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY), or stay local "
        "with CLEARML_OFFLINE_MODE=1"
    )
    parsers: ClassVar[Mapping[str, Parser]] = {"offline": switch, "store_diff": switch, "packages": switch}
    options: ClassVar[Mapping[str, str]] = {
        "api_host": "API server; default: CLEARML_API_HOST, then clearml.conf",
        "web_host": "web server, for the link to the run; default: CLEARML_WEB_HOST, then clearml.conf",
        "files_host": "file server or bucket of images and other media; default: CLEARML_FILES_HOST, then clearml.conf",
        "access_key": "API access key; default: CLEARML_API_ACCESS_KEY, then clearml.conf",
        "secret_key": "API secret key; default: CLEARML_API_SECRET_KEY, then clearml.conf",
        "config_file": "configuration file; default: CLEARML_CONFIG_FILE, then ~/clearml.conf",
        "cache_dir": "its folder offline gets the offline sessions; default: CLEARML_CACHE_DIR",
        "offline": "write to a local session, whatever the session's offline setting; default: CLEARML_OFFLINE_MODE",
        "output_uri": "where artifacts go (s3://..., /folder, true for the file server)",
        "task_type": "training (default), testing, inference, data_processing, ...",
        "store_diff": "record uncommitted changes; default: sdk.development.store_uncommitted_code_diff",
        "packages": "record the versions of the installed packages; default true",
    }
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "scalar, float64, wall time in ms; NaN and infinities as a 1 in the plot '<title> · nan' (the server takes "
            "none); repeated steps in the series '·2', then in '<title> · repeated' (the server would overwrite)",
        ),
        ev.Histogram: Capability(Level.CONVERTED, "bar plot at its step, real bucket edges; statistics in its meta"),
        ev.Image: Capability(Level.NATIVE, "debug sample at its step, the unchanged file (no JPEG), all of them kept"),
        ev.Video: Capability(Level.NATIVE, "debug sample (GIF) at its step"),
        ev.Audio: Capability(Level.NATIVE, "debug sample (WAV) at its step"),
        ev.Text: Capability(Level.NATIVE, "debug sample (.txt) at its step"),
        ev.PRCurve: Capability(Level.CONVERTED, "line plot at its step; thresholds and counts shown on hover"),
        ev.Mesh: Capability(Level.CONVERTED, "3D plot at its step, the config in its meta; .ply files above 8 MB"),
        ev.Embedding: Capability(
            Level.CONVERTED, "3D scatter plot (PCA, at most 2,000 points); all data as .tsv and .png debug samples"
        ),
        ev.Tensor: Capability(Level.FILE, ".npy as debug sample at its step"),
        ev.Graph: Capability(Level.FILE, ".pbtxt and .pb as artifacts"),
        ev.HParams: Capability(
            Level.NATIVE,
            "hyperparameters, metrics as single values; a further trial is a child task (offline: its own session)",
        ),
        ev.CustomScalars: Capability(Level.CONVERTED, "configuration object (JSON); ClearML has no layouts of charts"),
        ev.Blob: Capability(Level.FILE, "artifact"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        illegal = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff·]|^\s|\s$"
        self._title = Names(illegal + "|/$", 150, in_bytes=True)
        self._series = Names(illegal, 110, in_bytes=True)
        self._param = Names(illegal + "|^/|/$", 200, in_bytes=True)
        self._display = Names(r"[\x00-\x1f\x7f\ud800-\udfff]|^\s|\s$|^/|/(?=/)|/$", 200)
        self._published = 0
        self._seen: dict[tuple[str, str, str], tuple[_Steps, _Steps]] = {}
        self._placed: dict[ev.RecordId, dict[str, tuple[str, str, int]]] = {}  # of what is not written yet
        self._patience = Patience()
        self._opened = False
        self._trials: dict[str, _Sink] = {}
        self._undo = contextlib.ExitStack()
        self._offline = False
        self._own = True
        self._resumed = False
        self._again = False  # an earlier process of this session may have made tasks
        self._made: str | None = None
        self._worker: Any = None

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        if offline or _flag(options.get("offline", _env("OFFLINE_MODE"))) or _env("AUTH_TOKEN"):
            return
        if all(options.get(f"{key}_key") or _env(f"API_{key.upper()}_KEY") for key in ("access", "secret")):
            return
        chosen = options.get("config_file") or _env("CONFIG_FILE")
        candidates = [chosen] if chosen else ["~/clearml.conf", "~/trains.conf"]
        if not any(os.path.isfile(os.path.expanduser(os.path.expandvars(str(path)))) for path in candidates):
            raise errors.BackendUnavailableError(
                cls.name,
                "no credentials (CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or ~/clearml.conf); "
                "remedy: run clearml-init, or use offline mode (CLEARML_OFFLINE_MODE=1)",
            )

    @classmethod
    def borrowed(cls) -> str | None:
        main = _main_task()
        return str(main.id) if main is not None else None

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        task_class = sys.modules["clearml"].Task
        names = ("close", "mark_completed", "mark_failed", "mark_stopped")
        return [Ending(task_class, name, lambda task, *_: str(task.id)) for name in names]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        try:
            return self._open(run)
        except BaseException:
            self._undo.close()
            raise

    def _open(self, run: RunInfo) -> OpenedRun:
        for option, variable in _ENVIRONMENT.items():
            if self.given.get(option):
                self._set_environment(variable, str(self.given[option]))
        quiet = "clearml" not in sys.modules
        from clearml import Task

        main = _main_task()
        self._own = main is None or run.resume != main.id
        if self._own and run.borrowed:
            raise errors.BackendError(f"your ClearML task {run.resume} has ended")
        if self._own:
            self._connect(run, main)
        self._offline = bool(Task._offline_mode)
        if quiet:  # the SDK's log goes to standard output, which is the user's
            for handler in logging.getLogger("clearml").handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                    handler.setStream(sys.stderr)
        program = _describe(run, self.given) if self._own else {}
        task = self._task(run, program) if self._own else main
        self._sink = _Sink(task)
        if self._offline and (self._resumed or self._again):
            self._sink.there = _end_of_log(_offline_folder() / str(task.id) / "metrics.jsonl")
        self._describe_run(run, program)
        self._opened = True
        if self._offline:
            return OpenedRun(str(task.id), str(task.get_offline_mode_folder()))
        return OpenedRun(str(task.id), str(task.get_output_log_web_page()))

    def _set_environment(self, variable: str, value: str) -> None:
        before = os.environ.get(variable)
        restore: Callable[[], object] = (
            functools.partial(os.environ.pop, variable, None)
            if before is None
            else functools.partial(os.environ.__setitem__, variable, before)
        )
        self._undo.callback(restore)
        os.environ[variable] = value

    def _connect(self, run: RunInfo, main: Any) -> None:
        """Set the mode, and log in with bounded retries; both are global in the SDK and are put back at the end."""
        from clearml.backend_api import Session
        from clearml.backend_api.session.session import LoginError
        from clearml.backend_interface.base import InterfaceBase
        from clearml.config import config_obj
        from clearml.storage.helper import _HttpDriver

        offline = bool(run.offline or InterfaceBase._offline_mode)
        if self.given.get("offline") is not None:
            offline = _flag(self.given["offline"])
        if main is not None and offline != bool(InterfaceBase._offline_mode):
            raise errors.BackendError(f"ClearML: task {main.id} is active here, {'on' if offline else 'off'}line")
        for owner in (InterfaceBase, Session):  # `Task.set_offline` would also set it for every child process
            self._undo.callback(setattr, owner, "_offline_mode", owner._offline_mode)
            owner._offline_mode = offline
        if InterfaceBase._default_session is not None:
            return
        from clearml.backend_api.session.defs import ENV_ACCESS_KEY, ENV_SECRET_KEY

        try:
            session = Session(
                initialize_logging=False,
                config=config_obj,
                api_key=self.given.get("access_key") or ENV_ACCESS_KEY.get(),
                secret_key=self.given.get("secret_key") or ENV_SECRET_KEY.get(),
                http_retries_config=dict(_RETRIES),
            )
        except LoginError as error:
            if "Unrecognized" in str(error):  # how the SDK reports that there was no answer
                raise ConnectionError(f"ClearML: no answer from {Session.get_api_server_host()}") from error
            raise errors.BackendError(f"ClearML: {error}") from error
        InterfaceBase._default_session = session if offline else _bounded(session)
        _HttpDriver._file_server_hosts = None  # kept from an earlier session: the hosts that get the credentials
        self._undo.callback(setattr, InterfaceBase, "_default_session", None)

    def _task(self, run: RunInfo, program: dict[str, Any]) -> Any:
        """Return the task to continue, or a new one."""
        remote = None if self._offline else _env("TASK_ID")  # clearml-agent runs us: its task, and its to end
        if remote and not run.resume:
            self._own = False
        wanted = self._made or run.resume or remote  # made: by an attempt to open that then failed
        if not wanted and run.run_id is not None:
            wanted = run.run_id if self._exists(run.run_id) else self._find(f"tracelet.run_id:{run.run_id}")
        elif not wanted:
            wanted = self._made = self._begun(run.session)
            self._again = wanted is not None
        if wanted:
            self._resumed = wanted != self._made
            return self._continue(wanted)
        default = str(program.get("repository") or "").rstrip("/").rpartition("/")[2].removesuffix(".git") or "Untitled"
        script = Path(run.program.script or run.program.module or "run").stem
        kind = str(self.given.get("task_type") or "training")
        _task_class().tracelet_session = run.session if run.run_id is None else None
        try:
            task = self._create(self._long(run.project or default), self._long(run.exp_name or script), kind)
        finally:
            _task_class().tracelet_session = None
        self._made = str(task.id)
        return task

    def _begun(self, session: str) -> str | None:
        """Return the id of the task that this session has made, in a process that was killed before it could say so."""
        if not self._offline:
            return self._find(_session_tag(session))
        task_id = _offline_id(session)
        with contextlib.suppress(OSError, ValueError):  # no such task, or half written: it is made, or made anew
            json.loads((_offline_folder() / task_id / "task.json").read_bytes())
            return task_id
        return None

    def _create(self, project: str, name: str, kind: str) -> Any:
        kinds = _task_class().TaskTypes
        if kind not in kinds.__members__:
            known = ", ".join(kinds.__members__)
            raise errors.ConfigurationError(f"backend 'clearml' has no task_type {kind!r}; it has {known}")
        task = _task_class()._create(project_name=project, task_name=name, task_type=kinds[kind])
        if not self._offline:
            task.started()
            task.reload()
        return task

    def _long(self, name: str) -> str:
        """Return `name` as the server takes it: at least three characters, no empty folder."""
        name = self._display(name)
        return name if len(name) >= 3 else f"{name}_x_"

    def _continue(self, task_id: str) -> Any:
        if self._offline:
            if not self._exists(task_id):
                raise errors.BackendError(f"ClearML: there is no offline session {task_id!r} in {_offline_folder()}")
            log = _offline_folder() / task_id / "metrics.jsonl"
            if log.exists():  # a killed session may have left half a line
                content = log.read_bytes()
                os.truncate(log, content.rfind(b"\n") + 1)
        task = _task_class().get_task(task_id=task_id)
        task.reload()  # offline, only this brings the project's name back, and the next edit would delete it
        if not self._offline:
            task.mark_started(force=True)
        return task

    def _exists(self, task_id: str) -> bool:
        """Whether `task_id` is the id of a task, by its form and, offline, its folder."""
        if self._offline:
            plain = re.fullmatch("offline-[0-9a-f]+", task_id) is not None
            return plain and (_offline_folder() / task_id / "task.json").is_file()
        return re.fullmatch("[0-9a-f]{32}", task_id) is not None

    def _find(self, tag: str) -> str | None:
        """Return the id of the latest task with this tag."""
        if not self._offline:
            found = _task_class().query_tasks(tags=[tag], task_filter={"order_by": ["-last_update"]})
            return str(found[0]) if found else None
        stored = sorted(_offline_folder().glob("offline-*/task.json"), key=lambda path: path.stat().st_mtime)
        for path in reversed(stored):
            with contextlib.suppress(ValueError):  # half written by a killed process
                if tag in (json.loads(path.read_bytes()).get("tags") or ()):
                    return path.parent.name
        return None

    def _describe_run(self, run: RunInfo, program: dict[str, Any]) -> None:
        task = self._sink.task
        tags = [name for name, value in run.tags.items() if not value]
        tags += [f"tracelet.{key}:{value}" for key, value in (("run_id", run.run_id), ("group", run.group)) if value]
        if tags:
            task.add_tags(tags)
        properties = {name: value for name, value in run.tags.items() if value}
        if self._own:
            properties |= {"tracelet.session": run.session, "tracelet.command": shlex.join(run.program.argv)}
            if not self._resumed and (started := self.iso_time(run.started)):
                properties["tracelet.started"] = started
        for key, given in (("project", run.project), ("exp_name", run.exp_name)):
            if given is not None and given != self._long(given):
                properties[f"tracelet.{key}"] = given
        task.set_user_properties(*({"name": self._param(name), "value": value} for name, value in properties.items()))
        if run.notes:
            task.set_comment(run.notes)
        if run.config:
            self._set_params(self._sink, "General", dict(_flat(run.config)), None)
        if not self._own:
            return
        if self.given.get("output_uri") and not self._offline:
            uri = str(self.given["output_uri"])
            task.output_uri = _flag(uri) if uri.lower() in {"true", "false"} else uri
        if program and not self._resumed:
            task._update_script(program)
        if not self._offline:
            from clearml.backend_interface.task.development.worker import DevWorker

            # The server stops a task that is silent for two hours. No stop signal: it would kill this process.
            self._worker = DevWorker()
            self._worker.register(task, stop_signal_support=False)

    def close(self, status: Status) -> None:
        try:
            self._publish_names()
            while self._trials:
                name, sink = self._trials.popitem()
                try:
                    self._end(sink, status)
                except BaseException:
                    self._trials[name] = sink
                    raise
            if self._own:
                if ended := self.iso_time(self.ended_at()):  # ClearML's own times are those of the delivery
                    self._sink.task.set_user_properties({"name": "tracelet.ended", "value": ended})
                self._end(self._sink, status)
        finally:
            if self._worker is not None:
                self._worker.unregister()
            if _main_task() is None:
                from clearml.backend_interface.metrics import Metrics

                Metrics.close_async_threads()
            self._undo.close()

    def _end(self, sink: _Sink, status: Status) -> None:
        task = sink.task
        if self._offline:  # there is no status offline
            task.set_user_properties({"name": "tracelet.status", "value": status})
            sink.zip()
            return
        try:
            if status == "finished":
                task.mark_completed(ignore_errors=False)
            elif status == "failed":
                task.mark_failed(ignore_errors=False, status_reason="the program failed")
            else:
                task.stopped(ignore_errors=False, status_reason="the program was killed")
        except _RefusedError as error:
            if self.is_transient(error):
                raise
            task.log.info("status %s not set: %s", status, error)  # the user has ended it in the web UI

    @property
    def handle(self) -> Any:
        return self._sink.task

    def is_transient(self, error: BaseException) -> bool:
        if isinstance(error, _RefusedError):
            return self._passes(error.code, own=error.own)
        if isinstance(error, errors.BackendError) or type(error).__name__ == "LoginError":
            found = re.search(r"\((?:error )?(\d{3})\b", str(error))  # the status of a log-in or an upload, in the SDK's text
            return self._passes(int(found[1])) if found else "Unrecognized Authentication Error" in str(error)
        return super().is_transient(error)

    def _passes(self, code: int, *, own: bool = True) -> bool:
        """Doubt a refusal that may pass, but not of the run: there it is the key that is wrong."""
        return self._patience.passes(code, own=own) if self._opened else judge(code, own=own) is Verdict.PASSES

    # -- names and places -------------------------------------------------------------------------------------------

    def _names_of(self, event: ev.Event) -> tuple[str, str]:
        """Return title and series: one pair for each (writer, tag, series)."""
        head, slash, leaf = event.tag.rpartition("/")
        if isinstance(event, ev.Scalar) and event.series is not None:
            title, series = f"{self._title(event.tag)}/", self._series(event.series)
        elif not slash:
            title, series = self._title(event.tag), self._series(event.tag)
        else:  # "x/x" has its whole tag as series, for title and series "x" are those of "x"
            title, series = self._title(head), self._series(event.tag if head == leaf else leaf)
        return title, f"{series} · {self._series(event.writer)}" if event.writer else series

    def _place(self, event: ev.Event, label: str) -> tuple[str, str, int]:
        """Return title, series and iteration that no other event has; the same ones when a write is retried."""
        placed = self._placed.setdefault(event.record, {})
        place = placed.get(label)
        if place is None:
            title, series = self._names_of(event)
            title = f"{title} · {label}" if label else title
            place = (title, series, event.step)
            known = self._seen.get((event.kind, title, series))
            if known is None:
                known = (_Steps(), _Steps())
                if len(self._seen) < 100_000:  # a program that makes up a tag a step must not grow us without end
                    self._seen[event.kind, title, series] = known
            if not known[0].add(event.step):
                if known[1].add(event.step):
                    place = (title, f"{series} ·2", event.step)
                else:
                    place = (f"{title} · repeated", f"{series} ·step {event.step}", event.record.position)
            placed[label] = place
        return place

    def _publish_names(self) -> None:
        """Keep the whole names of what had to be shortened: configuration object ``tracelet.names``."""
        all_names = (self._title, self._series, self._param)
        count = sum(len(names.shortened) for names in all_names)
        if count > self._published:
            whole = {key: name for names in all_names for key, name in names.shortened.items()}
            text = json.dumps(whole, indent=1)
            self._sink.task.set_configuration_object("tracelet.names", config_text=text, config_type="json")
            self._published = count

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        super().write(events)
        self._patience.reset()
        self._sink.there.clear()  # only the first batch may be there already
        for event in events:  # others of the batch may come again, after this one was written alone
            self._placed.pop(event.record, None)
        while len(self._placed) > 10 * self.batch_events:  # of events that were refused for good
            del self._placed[next(iter(self._placed))]
        self._publish_names()

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        self._sink.deliver([
            self._scalar(*self._place(e, _not_finite(e.value)), e.value, self.wall_time_ms(e)) for e in events
        ])  # fmt: skip

    @staticmethod
    def _scalar(title: str, series: str, step: int, value: float, wall_ms: int) -> Any:
        from clearml.backend_interface.metrics.events import ScalarEvent

        return ScalarEvent(title, series, value if math.isfinite(value) else 1.0, step, timestamp=wall_ms or None)

    def _media(self, event: ev.Event, label: str, suffix: str, data: bytes, variant: str = "") -> None:
        """Report a file as debug sample: unchanged, and under a name that no later one takes (the SDK's rotate)."""
        from clearml.backend_interface.metrics.events import MediaEvent

        title, series, step = self._place(event, label)
        name = self.artifact_stem(event).rpartition("/")[2].removeprefix("step=")
        media = MediaEvent(
            title, f"{series} ·{variant}" if variant else series, io.BytesIO(data), iter=step, file_history_size=-1,
            timestamp=self.wall_time_ms(event) or None, override_filename_ext=suffix,
            override_filename=f"{name}_{variant.removesuffix(suffix)}" if variant else name,
        )  # fmt: skip
        media._replace_slash = _plain
        media.retries = 1  # each takes 15 s when there is no server
        self._sink.deliver([media])

    def _show_file(self, event: ev.Event) -> None:
        suffix, data = next(files.render(event))
        self._media(event, _LABELS.get(event.kind, event.kind), ".txt" if suffix == ".md" else suffix, data)

    def log_image(self, event: ev.Image) -> None:
        self._show_file(event)

    def log_video(self, event: ev.Video) -> None:
        self._show_file(event)

    def log_audio(self, event: ev.Audio) -> None:
        self._show_file(event)

    def log_text(self, event: ev.Text) -> None:
        self._show_file(event)

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        if event.kind in _ARTIFACTS:
            self._sink.add_artifact(path, data)
            return
        variant = path.removeprefix(self.artifact_stem(event)).lstrip(".")
        self._media(event, _LABELS.get(event.kind, event.kind), f".{variant.rpartition('.')[2]}", data, variant)

    def _plot(self, event: ev.Event, traces: list[dict[str, Any]], layout: dict[str, Any]) -> bool:
        """Report a plotly figure; return False, and report nothing, if it is too large."""
        from clearml.backend_interface.metrics.events import PlotEvent

        figure = {"data": traces, "layout": {"title": event.path[:200], **layout}}
        text = json.dumps(figure, allow_nan=False)
        if len(text) > _PLOT_BYTES:
            return False
        title, series, step = self._place(event, _LABELS.get(event.kind, event.kind))
        self._sink.deliver([PlotEvent(title, series, text, iter=step, timestamp=self.wall_time_ms(event) or None)])
        return True

    def log_histogram(self, event: ev.Histogram) -> None:
        # TensorBoard's outermost limits may lie at 1.8e308; the samples end at `min` and `max`.
        last = event.max if math.isfinite(event.max) else math.inf
        ends = [min(limit, last) if limit > 1e300 else limit for limit in event.limits]
        first = min(event.min, ends[0]) if ends and math.isfinite(event.min) else ends[0] if ends else 0.0
        rows = [(a, b, n) for a, b, n in zip([first, *ends], ends, event.counts, strict=False) if n or b > a]
        while len(rows) > 1 and not rows[0][2]:
            del rows[0]
        while len(rows) > 1 and not rows[-1][2]:
            del rows[-1]
        numbers = {name: getattr(event, name) for name in ("min", "max", "num", "sum", "sum_squares")}
        bars = {
            "type": "bar", "name": event.path[:200], "x": [a for a, _, _ in rows], "width": [b - a for a, b, _ in rows],
            "y": [n for _, _, n in rows], "offset": 0,
            "meta": {name: n if math.isfinite(n) else str(n) for name, n in numbers.items()},
        }  # fmt: skip
        plain = bool(rows) and all(math.isfinite(number) for row in rows for number in row)
        if not (plain and self._plot(event, [bars], {"bargap": 0})):
            self.attach_files(event)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        count = len(event.precision)
        counts = (event.true_positives, event.false_positives, event.true_negatives, event.false_negatives)
        line = {
            "type": "scatter", "mode": "lines+markers", "name": event.path[:200],
            "x": _nulls(event.recall), "y": _nulls(event.precision),
            "customdata": [[i / max(count - 1, 1), *_nulls(row)] for i, row in enumerate(zip(*counts, strict=True))],
            "hovertemplate": "recall %{x}<br>precision %{y}<br>threshold %{customdata[0]}<br>TP %{customdata[1]}, "
            "FP %{customdata[2]}, TN %{customdata[3]}, FN %{customdata[4]}",
        }  # fmt: skip
        axes = {"xaxis": {"title": "recall", "range": [0, 1.05]}, "yaxis": {"title": "precision", "range": [0, 1.05]}}
        if not self._plot(event, [line], axes):
            self.attach_files(event)

    def log_mesh(self, event: ev.Mesh) -> None:
        vertices = event.vertices.numpy()
        if vertices.nbytes > _PLOT_BYTES // 2:
            self.attach_files(event)
            return
        faces = event.faces.numpy().tolist() if event.faces is not None else None
        colors = event.colors.numpy().tolist() if event.colors is not None else None
        traces = []
        for i, points in enumerate(vertices.tolist()):
            x, y, z = ([_null(p[axis]) for p in points] for axis in range(3))
            trace: dict[str, Any] = {"name": f"{event.tag[:200]} {i}", "x": x, "y": y, "z": z}
            trace["meta"] = {"config": event.config}
            rgb = ["rgb({},{},{})".format(*color) for color in colors[i]] if colors is not None else None
            if faces is not None:
                trace |= {"type": "mesh3d", **{axis: [f[n] for f in faces[i]] for n, axis in enumerate("ijk")}}
                trace |= {"vertexcolor": rgb} if rgb else {}
            else:
                marker = {"size": 2, "color": rgb} if rgb else {"size": 2}
                trace |= {"type": "scatter3d", "mode": "markers", "marker": marker}
            traces.append(trace)
        if not self._plot(event, traces, {"scene": {"aspectmode": "data"}}):
            self.attach_files(event)

    def log_embedding(self, event: ev.Embedding) -> None:
        points, rows = _project(event.matrix)
        texts = [", ".join(event.metadata[i])[:200] for i in rows] if event.metadata is not None else None
        x, y, z = ([point[axis] for point in points] for axis in range(3))
        cloud = {
            "type": "scatter3d", "mode": "markers", "name": event.tag[:200], "x": x, "y": y, "z": z, "text": texts,
            "marker": {"size": 3},
        }  # fmt: skip
        self._plot(event, [cloud], {"scene": {f"{axis}axis": {"title": f"PC{n}"} for n, axis in enumerate("xyz", 1)}})
        self.attach_files(event)

    def log_custom_scalars(self, event: ev.CustomScalars) -> None:
        task = self._sink.task
        text = json.dumps(event.layout, indent=1)
        name = "custom_scalars" + (f" · {self._series(event.writer)}" if event.writer else "")
        configurations = task.data.configuration or {}
        if name in configurations and configurations[name].value != text:
            name += f" ·{event.record.position}"
        task.set_configuration_object(name, config_text=text, config_type="json")

    # -- hyperparameters --------------------------------------------------------------------------------------------

    def log_hparams(self, event: ev.HParams) -> None:
        sink = self._sink if event.trial is None else self._trial(event.trial)
        self._set_params(sink, "hparams", event.params, event)
        wall = self.wall_time_ms(event)
        points = []
        for name, value in event.metrics.items():
            title, step = _SUMMARY
            label = _not_finite(value)
            points.append(self._scalar(f"{title} · {label}" if label else title, self._series(name), step, value, wall))
        if points:
            sink.deliver(points)

    def _trial(self, trial: str) -> _Sink:
        """Return the child task of a trial: the one of an earlier session of this run, or a new one."""
        if trial in self._trials:
            return self._trials[trial]
        parent = self._sink.task
        tag = f"tracelet.trial:{parent.id}:{self._series(trial)}"
        earlier = self._find(tag) if self._resumed or self._again else None
        if earlier:
            task = self._continue(earlier)
        else:
            name = self._long(f"{parent.name} · {trial}")
            task = self._create(parent.get_project_name(), name, str(parent.task_type))
        sink = _Sink(task)
        if not earlier:
            task.set_parent(parent.id)
            task.add_tags([tag])
            task.set_user_properties({"name": "tracelet.trial", "value": trial})
        self._trials[trial] = sink
        return sink

    def _set_params(self, sink: _Sink, section: str, params: Mapping[str, Any], event: ev.HParams | None) -> None:
        """Set parameters in a section of the task; the former value of one that changes is kept beside it."""
        known = sink.task.get_parameters() or {}
        new: dict[str, Any] = {}
        for name, given in params.items():
            key = self._param(name)
            value = given if given is None or isinstance(given, (bool, int, float)) else str(given)
            if isinstance(value, str) and len(value) > _TEXT_LENGTH:
                path = f"{section}/{_plain(name)}_{hashlib.blake2s(key.encode(), digest_size=4).hexdigest()}.txt"
                sink.add_artifact(path, value.encode("utf-8", "surrogatepass"))
                value = f"{value[:_TEXT_LENGTH]}... (cut; all {len(value)} characters are in the artifact {path})"
            elif isinstance(value, str):
                value = value.encode("utf-8", "backslashreplace").decode()
            former = known.get(f"{section}/{key}")
            if former is not None and former != ("" if value is None else str(value)):
                number = sum(1 for k in known if k.startswith(f"{section} (earlier)/{key} ·"))
                new[f"{section} (earlier)/{key} ·{number + 1}"] = former
            new[f"{section}/{key}"] = value
        if new:
            types = {key: type(value).__name__ for key, value in new.items() if value is not None}
            sink.task.update_parameters(new, __parameters_types=types)


# -- help -----------------------------------------------------------------------------------------------------------


def _env(name: str) -> str | None:
    """Return the SDK's environment variable, under its present or its old name."""
    return os.environ.get(f"CLEARML_{name}") or os.environ.get(f"TRAINS_{name}")


def _plain(text: str) -> str:
    """Return `text` as the name of a folder or file that stands beside a unique one, so it need not be unique itself.

    The SDK's own (`UploadEvent._replace_slash`) may be too long for a file system, or be another name once in a URL.
    """
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"
    return text if len(text) <= 100 else f"{text[:59]}_{text[-40:]}"


def _flag(value: Any) -> bool:
    return str(value).strip().lower() not in {"", "0", "false", "no", "off", "none"}


def _main_task() -> Any:
    """Return the task that the user has active in this process, or None.

    Not `Task.current_task`: in a child process of a ClearML program that would call `Task.init`.
    """
    task_class = getattr(sys.modules.get("clearml"), "Task", None)
    return getattr(task_class, "_Task__main_task", None)


def _offline_folder() -> Path:
    return Path(importlib.import_module("clearml.config").get_offline_dir())


def _not_finite(value: float) -> str:
    return "" if math.isfinite(value) else str(value)


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nulls(values: Sequence[float]) -> list[float | None]:
    return [_null(value) for value in values]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested parameters as `Task.connect` names them, joined by slashes; lists as JSON."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, (list, tuple, dict)) else value


def _project(matrix: ev.Array) -> tuple[list[list[float]], list[int]]:
    """Return (points, 3) coordinates on the first principal components, and the rows that were taken."""
    import numpy as np

    values = np.nan_to_num(np.atleast_2d(matrix.numpy()).astype(np.float64), posinf=0.0, neginf=0.0)
    rows = np.unique(np.linspace(0, max(len(values) - 1, 0), min(len(values), _PLOT_POINTS)).astype(int))
    chosen = values[rows] - values[rows].mean(axis=0) if len(rows) else values
    scale = np.abs(chosen).max(initial=0.0) or 1.0
    weights, vectors = np.linalg.eigh((chosen / scale) @ (chosen / scale).T)
    points = vectors[:, ::-1][:, :3] * np.sqrt(np.maximum(weights[::-1][:3], 0.0)) * scale
    return np.pad(points, ((0, 0), (0, 3 - points.shape[1]))).tolist(), [int(row) for row in rows]


def _describe(run: RunInfo, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``task.data.script`` for the user's program, as `Task.init` makes it for the calling script, but no more of it
    than may be recorded, and without secrets."""
    from clearml import Task
    from clearml.backend_interface.task.repo import ScriptInfo

    program = run.program
    diff = bool(Task._store_diff) and "diff" in run.what_ran
    if options.get("store_diff") is not None:
        diff = _flag(options["store_diff"])
    found: dict[str, Any] = {}
    if program.script:
        result, _ = ScriptInfo.get(
            filepaths=[program.script], check_uncommitted=diff, create_requirements=False, detect_jupyter_notebook=False
        )
        found = dict(result.script or {})
    root = str(found.get("repo_root") or "") if found.get("repository") or found.get("version_num") else ""
    inside = bool(root) and os.path.commonpath([root, os.path.abspath(program.cwd)]) == root
    work = os.path.relpath(program.cwd, root) if inside else ("." if root else program.cwd)
    entry = program.argv[0] if program.argv else ""
    if program.module:
        entry = shlex.join(["-m", program.module, *program.argv[1:]])
    elif program.script:
        entry = os.path.relpath(program.script, os.path.join(root, work))
    git = ("repository", "branch", "version_num") if "git" in run.what_ran else ()
    script = {key: mask_text(found[key]) if found.get(key) else found.get(key) for key in (*git, "diff")}
    script |= {"working_dir": as_utf8(work), "entry_point": as_utf8(entry), "binary": os.path.basename(program.executable)}
    if _flag(options.get("packages", "packages" in run.what_ran)):
        versions = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
        script["requirements"] = {"pip": "\n".join(f"{n}=={versions[n]}" for n in sorted(versions, key=str.lower))}
    return script
