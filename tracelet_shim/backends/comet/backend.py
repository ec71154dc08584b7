"""Comet (comet.com), online and offline.

What is sent. Every event becomes messages of the SDK's own classes (`comet_ml.messages`), the ones that its ``log_*``
methods make, built here for three reasons: `log_metric` and the rest keep the step in a variable shared by all threads
and log a parameter ``curr_step`` at each change, they take no wall time, and they log errors instead of raising them.

Offline. `OfflineExperiment` queues messages for a thread that writes them to a temporary directory, which `end` packs
into the archive that ``comet upload`` takes; what that thread cannot write is lost, and all of it is when the process
is killed. Here the same directory (``messages.json``, one message a line, and the files; see
`comet_ml/streamer/handlers/offline_handler.py`) lies beside the archives, as ``<key>-<random>.part``, and is written
at once by the thread that logs: what `write` has returned for is in the file, an error is raised, and what a killed
process leaves is packed by the next one that opens a run there. Every session writes an archive of its own for the
run's key (``get_or_create``, as `comet_ml.start` does), so none overwrites another; the upload joins them.

Online. `comet_ml.start`; a `write` sends its messages itself (`comet_line`) and returns when the server has them. The server
appends points and recognises none. So where it is not known whether a request has arrived (no answer, an experiment that is
continued), it is asked for the points that it has before they are sent again.

One experiment a process. Creating a second one ends the first, because the SDK looks at a global (`comet_ml.config`).
Ours are kept out of that global: trials of a sweep live beside the run, a user's own experiment is not ended by ours,
and neither the SDK's exception hook nor its automatic loggers touch ours.

Comet shows at most 15,000 points of a metric, a random sample where there are more (`comet_ml/metrics.py`). All points
of such metrics are attached as CSV at the end. Names of metrics, parameters and media have at most 100 characters.
"""

from __future__ import annotations

import bisect
import contextlib
import csv
import fcntl
import functools
import hashlib
import io
import json
import logging
import math
import os
import re
import shlex
import shutil
import struct
import sys
import tempfile
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.comet.line import CHUNK, Line, RefusedError, point
from tracelet_shim.backends.comet.probe import PROBE, own_hook
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.options import Parser, switch
from tracelet_shim.backends.shared.transient import Patience, Verdict, judge
from tracelet_shim.common.text import as_utf8

__all__ = ["CometBackend"]

logger = logging.getLogger("tracelet_shim.relay")

_MAX_NAME = 100  # comet_ml.config.MAXIMAL_KEY_LENGTH
_MAX_VALUE = 1000  # comet_ml.config.MAXIMAL_VALUE_LENGTH
_MAX_POINTS = 15_000  # "comet.offline_sampling_size", and the server's own limit
_MAX_GRAPH = 2_000_000  # characters of a graph shown on the page; the file is attached in any case
_MAX_FACES = 20_000  # of a mesh drawn as lines
_LIMITS_3D = {"maxPoints": 1_000_000, "maxBoxes": 250_000}  # the SDK's, for a server that names none
_OPEN_TRIALS = 4
_ROWS = 500_000  # of a CSV file of points
_POINT = struct.Struct("<Iqqd")  # number of the series, step, wall time in ms, value
_KEY = re.compile(r"[A-Za-z0-9]{32,50}")  # comet_ml.utils.is_valid_experiment_key
_ILLEGAL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff·]|^[\s~]|\s$"
"""Invisible characters; ``·`` joins a name and what is added here; a leading ``~`` is the home directory to the SDK."""
_RESERVED = r"|^(?:N(?=ame$)|C(?=reated from$)|o(?=ffline_experiment$)|g(?=roup$)|n(?=otes$)|t(?=racelet\.))"
"""Begin the names of Comet's and our own entries among the "others"."""
_OFF: dict[str, Any] = {
    "log_code": False, "log_graph": False, "auto_param_logging": False, "auto_metric_logging": False,
    "parse_args": False, "auto_output_logging": False, "log_env_details": False, "log_env_gpu": False,
    "log_env_cpu": False, "log_env_host": False, "log_env_network": False, "log_env_disk": False,
    "log_git_metadata": False, "log_git_patch": False, "auto_log_co2": False, "display_summary_level": 0,
}  # fmt: skip
"""All that the SDK would log by itself: it would be about the relay, or a second time."""
_ENVIRONMENT = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # no import hooks on torch, TensorBoard, ...
    "COMET_ERROR_TRACKING_ENABLE": "false",  # Sentry
    "COMET_LOGGING_CONSOLE": "ERROR",
    # Instead of half a minute of retries, one or three hours at the end: the relay has retries of its own.
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_CONNECT": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_READ": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_STATUS": "1",
    "COMET_HTTP_SESSION_RETRY_TOTAL": "0",  # a request that is sent again blindly may have arrived
    "COMET_TIMEOUT_HTTP": "20",
    "COMET_TIMEOUT_CLEANING": "60",
    "COMET_TIMEOUT_UPLOAD": "120",
    "COMET_TIMEOUT_FILE_UPLOAD": "60",
}
_TAIL = 4 << 20  # bytes at the end of a killed session's messages that are looked through: far more than one batch


class _Journal:
    """The directory of an offline experiment, and what `CometExperiment` asks of its streamer.

    Locked as long as it is open, so that another process can tell it from one that was left behind.

    Args:
        directory: exists, and is this journal's own.
    """

    def __init__(self, directory: str) -> None:
        self.closed = False
        self.directory = directory
        self._count = 0
        self._lock = threading.Lock()
        self._file = open(os.path.join(directory, "messages.json"), "ab", buffering=0)  # noqa: SIM115 - kept open
        with contextlib.suppress(OSError):  # a file system without locks: then nobody packs it for us either
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def put(self, messages: Iterable[Any]) -> None:
        """Write messages and their files: all of them, or it raises and there is none.

        Args:
            messages: of `comet_ml.messages`.
        """
        written: list[str] = []
        with self._lock:
            if self.closed:
                raise errors.BackendError("Comet: the experiment has ended")
            end = os.fstat(self._file.fileno()).st_size
            try:
                left = memoryview("".join(self._line(message, written) for message in messages).encode())
                while left:
                    left = left[self._file.write(left) :]
            except BaseException:
                os.ftruncate(self._file.fileno(), end)
                for path in written:
                    Path(path).unlink(missing_ok=True)
                raise

    def _line(self, message: Any, written: list[str]) -> str:
        from comet_ml.json_encoder import NestedEncoder

        payload = dict(message.to_message_dict())
        self._count += 1
        payload["message_id"] = self._count
        if "file_like" in payload:  # UploadInMemoryMessage; in the archive, both kinds of uploads are files
            content = payload.pop("file_like")
            data = content if isinstance(content, (str, bytes)) else content.read()
            payload |= {"file_path": self._keep(data, written), "clean": True}
        elif "file_path" in payload:  # UploadFileMessage
            payload["file_path"] = self._keep(Path(payload["file_path"]), written, move=payload.get("clean", False))
        elif "thumbnail_path" in payload:  # Log3DCloudMessage, whose files are temporary ones
            for item in payload["items"]:
                item["file_path"] = self._keep(Path(item["file_path"]), written, move=True)
            payload["thumbnail_path"] = self._keep(Path(payload["thumbnail_path"]), written, move=True)
        return json.dumps({"payload": payload, "type": message.type}, cls=NestedEncoder, separators=(",", ":")) + "\n"

    def _keep(self, content: str | bytes | Path, written: list[str], *, move: bool = False) -> str:
        """Store a file, and return its name."""
        name = f"file-{self._count}-{len(written)}"
        path = os.path.join(self.directory, name)
        written.append(path)
        if isinstance(content, Path):
            (shutil.move if move else shutil.copyfile)(content, path)
        else:
            data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            with open(path, "wb") as file:
                file.write(data)
        return name

    # -- the streamer's part, for the SDK ---------------------------------------------------------------------------

    def put_message_in_q(self, message: Any) -> None:
        if not self.closed:
            self.put([message])

    def flush(self, timeout: int | None = None) -> bool:
        if not self.closed:
            os.fsync(self._file.fileno())
        return True

    def close(self) -> None:
        self.closed = True

    def stop(self) -> None:
        """There is no thread."""

    def wait_for_finish(self, **_: Any) -> bool:
        return True

    def has_connection_to_server(self) -> bool:
        return False

    def release(self) -> None:
        """Give up the lock."""
        self._file.close()


def _pack(directory: str) -> None:
    """Turn the directory ``x.part`` into the archive ``x.zip``."""
    target = directory.removesuffix(".part") + ".zip"
    if not os.path.exists(target):  # else it is complete, and somebody was killed while removing the directory
        with zipfile.ZipFile(f"{target}.tmp", "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path in sorted(Path(directory).iterdir()):
                archive.write(path, path.name)
        os.replace(f"{target}.tmp", target)
    shutil.rmtree(directory)


def _remove_begun(directory: str, key: str) -> None:
    """Remove what a process has left that was killed before it had made this experiment."""
    for path in Path(directory).glob(f"{key}-*.part"):
        if not (path / "experiment.json").exists():
            with contextlib.suppress(OSError), open(path / "messages.json", "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else another process is making it just now
                shutil.rmtree(path)


def _last_points(directory: str, key: str) -> Counter[tuple[Any, ...]]:
    """Return the points at the end of what a killed session of this experiment has left: its last batch may come again."""
    found: Counter[tuple[Any, ...]] = Counter()
    logs = [path / "messages.json" for path in Path(directory).glob(f"{key}-*.part")]
    logs = [log for log in logs if log.exists()]
    if logs:
        with open(max(logs, key=lambda log: log.stat().st_mtime_ns), "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL)
            file.seek(start)
            *lines, _ = file.read().split(b"\n")  # the last one is empty, or was cut short
        for line in lines[1 if start else 0 :]:
            message = json.loads(line)
            if message["type"] == "metric_msg":
                found[_point(message["payload"])] += 1
    return found


def _tell_off(there: Counter[tuple[Any, ...]], message: Any) -> bool:
    """True if the session before this one has written this point, which is then told off."""
    key = _point(message.to_message_dict())
    there[key] -= 1
    return there[key] >= 0


def _point(payload: Mapping[str, Any]) -> tuple[Any, ...]:
    metric = payload["metric"]
    return point(metric["metricName"], metric["metricValue"], metric.get("step"), payload["local_timestamp"])


def _pack_abandoned(directory: str) -> None:
    """Pack what killed processes have left in the offline directory."""
    for path in Path(directory).glob("*.part"):
        if not (path / "experiment.json").exists():  # not one of ours, or just being made
            continue
        try:
            with open(path / "messages.json", "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                start = size = file.seek(0, os.SEEK_END)
                tail = b""
                while start and b"\n" not in tail:  # the last line may have been cut short
                    start = max(0, start - 65_536)
                    file.seek(start)
                    tail = file.read(size - start)
                file.truncate(start + tail.rfind(b"\n") + 1)
                _pack(str(path))
            logger.info("comet: packed what a killed session had left: %s", path)
        except BlockingIOError:
            continue  # somebody is writing it
        except OSError:
            logger.warning("comet: %s cannot be packed", path, exc_info=True)


class _Sink:
    """One experiment, and the way of messages into it.

    Args:
        experiment: the SDK's object.
        directory: its data directory if it is an offline one of ours.
        own: False for one that the user has opened.
    """

    def __init__(self, experiment: Any, *, directory: str | None = None, own: bool = True) -> None:
        self.experiment = experiment
        self.own = own
        self.params: dict[str, Any] = {}
        self.latest = math.inf  # the time of what it got last
        self._directory = directory
        online = directory is None and hasattr(experiment.streamer, "online_streamer")
        self.line = Line(experiment) if online else None

    def send(self, messages: Sequence[Any]) -> None:
        """Deliver messages: in an offline experiment of ours all or none."""
        if not self.experiment.alive:
            raise errors.BackendError(f"Comet: the experiment {self.experiment.id} has been ended")
        if self._directory is not None:
            self.experiment.streamer.put(messages)
        elif self.line is not None:
            self.line.send(messages)
        else:  # the user's own offline experiment
            for message in messages:
                self.experiment._enqueue_message(message)

    def flush(self) -> None:
        if self._directory is not None:
            self.experiment.streamer.flush()

    def end(self, status: Status, when: float) -> None:
        """End an experiment of ours, as of this time; raise if not everything has arrived."""
        if math.isfinite(when):
            self.experiment.tracelet_ended = when
        if not self.own:
            return
        from comet_ml.messages import LogOtherMessage

        experiment = self.experiment
        if experiment.alive:  # else the user has ended it, by `session.native`
            self.send([LogOtherMessage("tracelet.status", status)])
            if status != "finished":  # the nearest that Comet has: the mark of a crash
                experiment._report_experiment_error(f"the program {status}", has_crashed=True)
            experiment._log_metric = lambda *_, **__: None  # it would log "process duration": ours, not the program's
            experiment.end()
        if self._directory is not None:
            _pack(self._directory)
            experiment.streamer.release()

    def discard(self) -> None:
        """Undo opening."""
        if self.own:
            self.experiment._log_metric = lambda *_, **__: None
            self.experiment.end()
        if self._directory is not None:
            self.experiment.streamer.release()
            shutil.rmtree(self._directory, ignore_errors=True)


class CometBackend(Backend):
    """Comet; see the module's docstring."""

    name = "comet"
    module = "comet_ml"
    distribution = "comet_ml"
    probe = PROBE
    own_hook = staticmethod(own_hook)
    credentials = "check the API key (`comet login`, COMET_API_KEY), or stay local with COMET_START_ONLINE=false"
    batch_events = 2000
    parsers: ClassVar[Mapping[str, Parser]] = {"offline": switch}
    options: ClassVar[Mapping[str, str]] = {
        "api_key": "API key; default: COMET_API_KEY, then .comet.config",
        "workspace": "workspace of the project; default: COMET_WORKSPACE, then the account's own",
        "offline": "write an archive for `comet upload`, whatever the session's offline setting; default: COMET_START_ONLINE",
        "offline_directory": "where archives are written; default: COMET_OFFLINE_DIRECTORY, then .cometml-runs",
    }
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "metric: float64, step, time in whole ms; NaN and infinities as Comet's 'NaN', 'Infinity', '-Infinity'; "
            "also all points as CSV where there are more than the 15,000 that Comet keeps",
        ),
        ev.Histogram: Capability(
            Level.NATIVE, "3D histogram on Comet's own bins (10 % wide), same total; exact buckets as JSON asset"
        ),
        ev.Image: Capability(Level.NATIVE, "image at its step, the unchanged file; figures too"),
        ev.Video: Capability(Level.NATIVE, "video (GIF) at its step"),
        ev.Audio: Capability(Level.NATIVE, "audio (WAV) at its step"),
        ev.Text: Capability(Level.NATIVE, "text at its step, the tag in its metadata"),
        ev.PRCurve: Capability(Level.NATIVE, "curve at its step; counts and thresholds as CSV asset"),
        ev.Mesh: Capability(Level.NATIVE, "3D points with colours, faces as lines; exact as PLY asset"),
        ev.Embedding: Capability(Level.NATIVE, "embedding projector with labels and sprite (its files are assets)"),
        ev.Tensor: Capability(Level.FILE, "NPY asset at its step"),
        ev.Graph: Capability(Level.NATIVE, "graph definition as text (up to 2 MB, the latest); pbtxt and pb as assets"),
        ev.HParams: Capability(
            Level.NATIVE, "parameters and metrics; a trial is an experiment of its own; types and domains as JSON asset"
        ),
        ev.CustomScalars: Capability(Level.FILE, "JSON asset; Comet's panels are laid out in its UI"),
        ev.Blob: Capability(Level.FILE, "asset"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._names = Names(_ILLEGAL, _MAX_NAME)
        self._labels = Names(_ILLEGAL + _RESERVED, _MAX_NAME)  # of what stands among Comet's own "others"
        self._told: set[str] = set()
        self._trials: OrderedDict[str, _Sink] = OrderedDict()
        self._there: Counter[tuple[Any, ...]] = Counter()  # points that a killed session had written, of its last batches
        self._doubt = False  # the server may have points that come again
        self._patience = Patience()
        self._opened = False
        self._series: dict[str, list[int]] = {}  # path -> [number, points]
        self._spool: Any = None
        self._threshold: float = _MAX_POINTS  # inf: points could not be kept
        self._images = 0
        self._directory: str | None = None  # of archives; None online
        self._project: str | None = None
        self._run: RunInfo

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        if not (_is_offline(options, default=offline) or options.get("api_key") or _setting("api_key")):
            raise errors.BackendUnavailableError(
                cls.name,
                "no API key (COMET_API_KEY, or api_key in ~/.comet.config); remedy: run `comet login`, or use offline "
                "mode (COMET_START_ONLINE=false)",
            )

    @classmethod
    def borrowed(cls) -> str | None:
        active = _active()
        return str(active.id) if active is not None else None

    @classmethod
    def borrowed_project(cls) -> str | None:
        active = _active()
        return None if active is None else active.project_name or None

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        import comet_ml

        experiment = comet_ml.CometExperiment  # an experiment that is begun ends the one before, not by `end`
        names = ["_on_end"] if hasattr(experiment, "_on_end") else ["end"]
        return [Ending(experiment, name, lambda experiment, *_: str(experiment.id)) for name in names]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        _import_sdk()
        self._run = run
        active = _active()
        if active is not None and run.resume == active.id:
            self._sink = _Sink(active, own=False)
            self._directory = getattr(active, "offline_directory", None)
            self._project = active.project_name
        elif run.borrowed:
            raise errors.BackendError(f"your Comet experiment {run.resume} has ended")
        else:
            self._project = self._names(run.project) if run.project else None
            self._directory = self._offline_directory(run)
            self._sink = self._make(self._experiment_key(run))
        try:
            self._describe(run)
        except BaseException:
            self._sink.discard()
            raise
        if run.resume or run.run_id:  # an earlier session's points count too
            self._threshold = _MAX_POINTS // 10
        self._doubt = bool(run.resume) and self._sink.own
        self._opened = True
        return OpenedRun(str(self.handle.id), self._url())

    def _offline_directory(self, run: RunInfo) -> str | None:
        """Return where archives are written, or None online."""
        if not _is_offline(self.given, default=run.offline):
            return None
        from comet_ml.config import get_config

        given = self.given.get("offline_directory") or get_config().get_comet_offline_directory()
        directory = os.path.abspath(os.path.expanduser(str(given)))
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if run.resume and not self._there:  # an earlier attempt to open may have packed it since
            self._there = _last_points(directory, run.resume)
        _pack_abandoned(directory)
        return directory

    def _experiment_key(self, run: RunInfo) -> str:
        """Return the experiment's key: the given one where it is legal, else the same one each time it is asked for."""
        if run.resume:
            return run.resume
        if run.run_id is None:
            return _setting("experiment_key") or _digest("session", run.session, str(run.started))
        if _KEY.fullmatch(run.run_id):
            return run.run_id
        # Keys are unique among all users of a server: what tells users apart goes in too.
        workspace = self._workspace or str(self.given.get("api_key") or _setting("api_key") or "")
        return _digest("run", workspace, run.project or _setting("project_name") or "", run.run_id)

    @property
    def _workspace(self) -> str | None:
        value = self.given.get("workspace") or _setting("workspace")
        return str(value) if value else None

    def _make(self, key: str) -> _Sink:
        """Return the experiment of this key, which may exist already."""
        if not _KEY.fullmatch(key):
            problem = f"{key!r} is no experiment key (32 to 50 letters and digits)"
            raise errors.ConfigurationError(f"backend 'comet': {problem}")
        common = {"project_name": self._project, "workspace": self._workspace, "experiment_key": key}
        with _sdk_alone():
            if self._directory is None:
                return _Sink(self._start(common))
            _remove_begun(self._directory, key)
            directory = tempfile.mkdtemp(".part", f"{key}-", self._directory)
            try:
                journal = _Journal(directory)  # here, for the SDK would only log that it failed
                experiment = _offline_class()(journal, offline_directory=self._directory, **common, **_OFF)
                if not experiment.alive:
                    raise errors.BackendError("Comet: no offline experiment can be made; see the SDK's log")
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        return _Sink(experiment, directory=directory)

    def _start(self, common: Mapping[str, Any]) -> Any:
        """Return an experiment at the server."""
        import comet_ml

        secret = self.given.get("api_key")
        config = comet_ml.ExperimentConfig(**_OFF, offline_directory=self.given.get("offline_directory"))
        try:
            experiment = comet_ml.start(
                api_key=str(secret) if secret else None,
                mode="get_or_create",
                online=True,
                experiment_config=config,
                **common,
            )
        except comet_ml.exceptions.InvalidAPIKey:  # its message has the key
            raise errors.BackendError("Comet: the server does not know this API key") from None
        if not experiment.alive:  # the SDK has logged why; most often, there was no answer
            raise ConnectionError("Comet: the server did not open an experiment")
        return experiment

    def _describe(self, run: RunInfo) -> None:
        """Log what is known about the run."""
        from comet_ml.messages import FileNameMessage

        experiment = self.handle
        others: dict[str, Any] = {"group": run.group, "notes": run.notes, "tracelet.run_id": run.run_id}
        others |= {self._labels(name): value for name, value in run.tags.items() if value}
        labels = [self._names(name) for name, value in run.tags.items() if not value]
        config = dict(_flat(run.config))
        messages = self._params(self._sink, config, None)
        if self._sink.own:
            program = run.program.readable()
            name = run.exp_name or _setting("start_experiment_name") or _setting("experiment_name")
            if name:
                experiment.name = name
            others |= {"Name": name, "tracelet.session": run.session, "tracelet.root": run.root and as_utf8(run.root)}
            others |= {"tracelet.command": shlex.join(program.argv), "tracelet.host": program.host}
            if run.project and run.project != self._project:
                others["tracelet.project"] = run.project
            labels += [label for label in (_setting("start_experiment_tags") or "").split(",") if label.strip()]
            messages.append(FileNameMessage(program.script or program.module or "<console>"))
        for key, value in others.items():
            if value:
                messages += self._other(self._sink, key, value)
        if labels:
            experiment.add_tags(labels)
        self._sink.send(messages)
        self._sink.params |= config
        if self._sink.own and self._directory is not None:
            experiment.start_time = round(run.started * 1000)
            experiment._write_experiment_meta_file()  # from here on, the directory is complete at any time

    def _other(self, sink: _Sink, key: str, value: Any) -> list[Any]:
        from comet_ml.messages import LogOtherMessage

        shown, whole = self._fit(sink, f"other/{key}", value, None)
        return [LogOtherMessage(key, shown), *whole]

    def _url(self) -> str | None:
        experiment = self.handle
        if self._directory is None:
            return str(experiment.url) if experiment.url else None
        if not self._sink.own:
            return None
        return f"comet upload {shlex.quote(experiment.tmpdir.removesuffix('.part') + '.zip')}"

    def flush(self) -> None:
        for sink in (self._sink, *self._trials.values()):
            sink.flush()

    def close(self, status: Status) -> None:
        with contextlib.ExitStack() as stack:  # each is ended, whatever happens to another
            stack.callback(self._sink.end, status, self.ended_at())
            for trial in self._trials.values():
                stack.callback(trial.end, status, trial.latest)
            self._trials.clear()
            if self._spool is not None:
                stack.callback(self._spool.close)
            self._publish_names()
            self._publish_points()

    @property
    def handle(self) -> Any:
        return self._sink.experiment

    def is_transient(self, error: BaseException) -> bool:
        if isinstance(error, RefusedError):
            return self._passes(error.status, own=error.own)
        response = getattr(error, "response", None)  # CometRestApiException, requests.HTTPError
        code = getattr(response, "status_code", None)
        return self._passes(code) if code is not None else super().is_transient(error)

    def _passes(self, code: int, *, own: bool = True) -> bool:
        """Doubt a refusal that may pass, but not of the run: there it is the key that is wrong."""
        return self._patience.passes(code, own=own) if self._opened else judge(code, own=own) is Verdict.PASSES

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        super().write(events)
        self._patience.reset()
        self._there.clear()  # only the first batch may be there already
        for sink in (self._sink, *self._trials.values()):
            if sink.line is not None:
                sink.line.done()
        self._publish_names()

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        size = CHUNK if self._sink.line is not None else len(events)
        for start in range(0, len(events), size):
            some = events[start : start + size]
            self._points(some)
            self._remember(some)
            self.written += len(some)  # the server has them, whatever becomes of the rest

    def _points(self, events: Sequence[ev.Scalar]) -> None:
        messages = [self._metric(self._names(e.path), e.value, e) for e in events]
        if self._doubt and self._sink.line is not None:
            self._there = self._ask(self._sink.line, messages)
        left = self._there.copy()
        if left:
            messages = [message for message in messages if not _tell_off(left, message)]
        try:
            self._sink.send(messages)
        except RefusedError as error:
            self._doubt = self._doubt or error.status >= 500  # a proxy has given up, and the server may have gone on
            raise
        except OSError:
            self._doubt = True
            raise
        self._there = left
        self._doubt = self._doubt and not messages  # what comes behind one that was not there is not there either

    def _ask(self, line: Line, messages: Sequence[Any]) -> Counter[tuple[Any, ...]]:
        """Return which points of these metrics the server has. One that cannot say that holds up nothing."""
        try:
            return line.points(messages)
        except OSError:
            raise
        except Exception as error:
            if isinstance(error, RefusedError) and judge(error.status, own=error.own) is Verdict.PASSES:
                raise
            logger.warning("comet: the server does not say which points it has; some may be there twice", exc_info=True)
            self._doubt = False
            return Counter()

    def _metric(self, name: str, value: float, event: ev.Event) -> Any:
        from comet_ml.messages import MetricMessage

        message = MetricMessage(timestamp=self.wall_time_ms(event) or None)
        message.set_metric(name, value, step=event.step)
        return message

    def _asset(
        self, event: ev.Event, name: str, data: bytes, kind: str = "asset", metadata: Mapping[str, Any] | None = None,
        sink: _Sink | None = None,
    ) -> Any:  # fmt: skip
        """Return the message of a file: what `log_asset_data`, `log_video`, `log_text`, ... enqueue."""
        experiment = (sink or self._sink).experiment
        params: dict[str, Any] = {
            "assetId": _digest(experiment.id, kind, name, *map(str, event.record)), "context": None,
            "fileName": name[: experiment.asset_name_max_length], "overwrite": False, "runId": experiment.run_id,
            "step": event.step, "epoch": None,
        }  # fmt: skip
        if kind != "asset":
            params["type"] = kind
        if kind not in ("curve", "histogram3d", "text-sample"):
            params["extension"] = name.rpartition(".")[2]
        return self._upload(event, kind, params, data, metadata)

    def _upload(
        self, event: ev.Event, kind: str, params: dict[str, Any], data: bytes, metadata: Mapping[str, Any] | None = None
    ) -> Any:
        from comet_ml.messages import UploadInMemoryMessage

        limit = self.handle.asset_upload_limit
        if self._directory is None and len(data) > limit:
            raise errors.EventRejectedError(f"{len(data)} bytes are more than Comet takes ({limit})")
        about = {"tag": event.path[:500], **(metadata or {})}
        message = UploadInMemoryMessage(io.BytesIO(data), kind, params, about, len(data))
        message.local_timestamp = self.wall_time_ms(event) or message.local_timestamp
        return message

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._sink.send([self._asset(event, path, data)])

    def _files(self, event: ev.Event, sink: _Sink | None = None) -> list[Any]:
        return [self._asset(event, path, data, sink=sink) for path, data in self.files_of(event)]

    def log_image(self, event: ev.Image) -> None:
        experiment = self.handle
        params = {
            "step": event.step, "context": None, "runId": experiment.run_id,
            "figName": self._names(event.path)[: experiment.image_name_max_length], "figCounter": self._images,
            "overwrite": False, "imageId": _digest(experiment.id, "image", *map(str, event.record)),
        }  # fmt: skip
        self._images += 1
        self._sink.send([self._upload(event, "visualization", params, event.data)])

    def _media(self, event: ev.Event, kind: str) -> None:
        suffix, data = next(files.render(event))
        self._sink.send([self._asset(event, self._names(event.path) + suffix, data, kind)])

    def log_video(self, event: ev.Video) -> None:
        self._media(event, "video")

    def log_audio(self, event: ev.Audio) -> None:
        self._media(event, "audio")

    def log_text(self, event: ev.Text) -> None:
        data = event.text.encode("utf-8", "surrogatepass")
        # The name is the one that `log_text` gives: the server makes its own.
        self._sink.send([self._asset(event, "auto-generated-in-the-backend", data, "text-sample", {"tag": event.path})])

    def log_histogram(self, event: ev.Histogram) -> None:
        messages = self._files(event)
        bins = _comet_bins(event)
        if bins is not None:
            messages.append(self._asset(event, self._names(event.path), json.dumps(bins).encode(), "histogram3d"))
        self._sink.send(messages)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        name = self._names(event.path)
        x, y = ([v if math.isfinite(v) else None for v in values] for values in (event.recall, event.precision))
        data = json.dumps({"x": x, "y": y, "name": name}).encode()
        curve = self._asset(event, name, data, "curve", {"x": "recall", "y": "precision"})
        self._sink.send([curve, *self._files(event)])

    def log_mesh(self, event: ev.Mesh) -> None:
        import numpy as np
        from comet_ml import experiment_loggers

        messages = self._files(event)
        experiment, name = self.handle, self._names(event.path)
        vertices = event.vertices.numpy()
        for i, points in enumerate(vertices):
            if not len(points) or not np.isfinite(points).all():
                continue  # the file has them
            colors = event.colors.numpy()[i].tolist() if event.colors is not None else None
            rows = points.tolist()
            faces = event.faces.numpy()[i] if event.faces is not None else ()
            outlines = [[rows[a], rows[b], rows[c], rows[a]] for a, b, c in faces[:_MAX_FACES]]
            low, high = points.min(0), points.max(0)
            box = {
                "position": ((low + high) / 2).tolist(), "label": "faces", "name": "faces", "color": [255, 255, 255],
                "size": dict(zip(("width", "height", "depth"), (high - low).tolist(), strict=True)),
                "segments": outlines,
            }  # fmt: skip
            experiment_loggers.log_3d_points(
                f"{name} ·{i}" if len(vertices) > 1 else name,
                [row + colors[n] for n, row in enumerate(rows)] if colors is not None else rows,
                [box] if outlines else None,
                {"tag": event.path[:500]},
                step=event.step,
                points_3d_upload_limits={**_LIMITS_3D, **experiment.points_3d_upload_limits},
                summary=experiment._summary,
                enqueue_message_callback=messages.append,
            )
        self._sink.send(messages)

    def log_embedding(self, event: ev.Embedding) -> None:
        from comet_ml import Embedding

        messages = self._files(event)
        stem = self.artifact_stem(event)
        count = event.matrix.shape[0] if event.matrix.shape else 0
        if event.metadata is None:  # the projector asks for labels
            numbers = "\n".join(map(str, range(count))).encode()
            messages.append(self._asset(event, f"{stem}.metadata.tsv", numbers))
        files_of = {  # suffix -> the file's asset, and its link once the server has told how links begin
            suffix: (asset := _digest(self.handle.id, "asset", f"{stem}.{suffix}", *map(str, event.record)),
                     self.handle._get_uploaded_asset_url(asset)["web"])
            for suffix in ("tensors.tsv", "metadata.tsv", "sprite.png")
            if suffix != "sprite.png" or event.sprite is not None
        }  # fmt: skip
        (vectors, vectors_url), (labels, labels_url) = files_of["tensors.tsv"], files_of["metadata.tsv"]
        sprite, sprite_url = files_of.get("sprite.png", (None, None))
        name = self._names(event.path)
        shown = Embedding(
            vector_url=vectors_url, vector_shape=[count, math.prod(event.matrix.shape[1:])], vector_asset_id=vectors,
            metadata_url=labels_url, metadata_asset_id=labels, sprite_url=sprite_url, sprite_asset_id=sprite,
            image_size=event.sprite_size, title=name, experiment_key=self.handle.id,
        )  # fmt: skip
        template = json.dumps({"embeddings": [shown.to_json()]}).encode()
        self._sink.send([*messages, self._asset(event, f"{name}.json", template, "embeddings")])

    def log_graph(self, event: ev.Graph) -> None:
        from comet_ml.messages import ModelGraphMessage

        messages = self._files(event)
        text = next(files.render(event))[1].decode("utf-8", "replace")
        if text and len(text) <= _MAX_GRAPH:
            messages.append(ModelGraphMessage(text))
        self._sink.send(messages)

    # -- hyperparameters --------------------------------------------------------------------------------------------

    def log_hparams(self, event: ev.HParams) -> None:
        sink = self._sink if event.trial is None else self._trial(event.trial, event.wall_time)
        sink.latest = event.wall_time
        messages = self._files(event, sink) + self._params(sink, event.params, event)
        messages += [self._metric(self._names(name), value, event) for name, value in event.metrics.items()]
        sink.send(messages)
        sink.params |= event.params

    def _trial(self, trial: str, started: float) -> _Sink:
        """Return the experiment of a trial; one that had to be closed is continued. A few are open at a time."""
        if trial in self._trials:
            self._trials.move_to_end(trial)
            return self._trials[trial]
        while len(self._trials) >= _OPEN_TRIALS:
            former = self._trials.popitem(last=False)[1]
            former.end("finished", former.latest)
        parent = self.handle.id
        sink = self._make(_digest("trial", parent, trial))
        try:
            others = {"Name": trial, "group": self._run.group or parent}
            others |= {"tracelet.parent": parent, "tracelet.trial": trial}
            sink.experiment.name = trial
            sink.send([message for key, value in others.items() for message in self._other(sink, key, value)])
            if self._directory is not None:
                if math.isfinite(started):
                    sink.experiment.start_time = round(started * 1000)
                sink.experiment._write_experiment_meta_file()
        except BaseException:
            sink.discard()
            raise
        self._trials[trial] = sink
        return sink

    def _params(self, sink: _Sink, params: Mapping[str, Any], event: ev.Event | None) -> list[Any]:
        """Return the messages that set parameters; the former value of one that changes is kept among the "others"."""
        from comet_ml.messages import LogOtherMessage, ParameterMessage

        messages: list[Any] = []
        for name, value in params.items():
            key = self._names(name)
            shown, whole = self._fit(sink, f"param/{name}", value, event)
            former = sink.params.get(name, value)
            if former != value:
                position = event.record.position if event is not None else 0
                messages.append(LogOtherMessage(f"tracelet.earlier.{position}.{key}", str(former)[:_MAX_VALUE]))
            message = ParameterMessage(timestamp=self.wall_time_ms(event) or None if event is not None else None)
            message.set_param(key, shown, source=ParameterMessage.source_manual)
            messages += [message, *whole]
        return messages

    def _fit(self, sink: _Sink, what: str, value: Any, event: ev.Event | None) -> tuple[Any, list[Any]]:
        """Return `value` as Comet takes it; a long text is cut, and comes with the message of a file with all of it."""
        if isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63):
            return value, []
        text = str(value)
        if len(text) <= _MAX_VALUE:
            return text.encode("utf-8", "backslashreplace").decode()[:_MAX_VALUE], []
        path = f"long_values/{_digest(what)[:16]}.txt"
        mark = f"... [cut; whole in {path}]"
        base = event or ev.Event(
            writer="", tag=what, step=0, wall_time=self._run.started, record=ev.RecordId(self._run.session, 0)
        )
        shown = text[: _MAX_VALUE - len(mark)].encode("utf-8", "replace").decode() + mark
        return shown, [self._asset(base, path, text.encode("utf-8", "surrogatepass"), sink=sink)]

    # -- what Comet has no room for ---------------------------------------------------------------------------------

    def _publish_names(self) -> None:
        """Attach the whole of each name that had to be cut."""
        for names in (self._names, self._labels, self._paths):
            for key in names.shortened.keys() - self._told:
                said = json.dumps({"key": key, "name": names.shortened[key]}, indent=1).encode()
                self._attach_own(f"shortened_names/{key[-16:]}.json", said)
                self._told.add(key)

    def _attach_own(self, path: str, data: bytes) -> None:
        record = ev.RecordId(self._run.session, 0)
        self.attach(path, data, ev.Event(writer="", tag=path, step=0, wall_time=math.nan, record=record))

    def _remember(self, events: Sequence[ev.Scalar]) -> None:
        """Keep points in a temporary file until it is known whether Comet can show them all."""
        if math.isinf(self._threshold):
            return
        try:
            self._spool = self._spool or tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            rows = []
            for event in events:
                path = event.path
                if path not in self._series and len(self._series) >= 100_000:
                    continue  # a program that makes up a tag a step never has too many points of one
                series = self._series.setdefault(path, [len(self._series), 0])
                series[1] += 1
                rows.append(_POINT.pack(series[0], event.step, self.wall_time_ms(event), event.value))
            self._spool.seek(0, os.SEEK_END)
            self._spool.write(b"".join(rows))
        except (OSError, struct.error):
            logger.warning("comet: no copy of points is kept; Comet shows a sample of long metrics", exc_info=True)
            self._threshold = math.inf

    def _publish_points(self) -> None:
        """Attach all points of the metrics of which Comet keeps only a sample."""
        long = {number: path for path, (number, count) in self._series.items() if count > self._threshold}
        if not long:
            return
        self._spool.seek(0)
        blocks = iter(lambda: self._spool.read(_POINT.size * 10_000), b"")
        points = (point for block in blocks for point in _POINT.iter_unpack(block) if point[0] in long)
        part = 0
        while True:
            out = io.StringIO(newline="")
            rows = csv.writer(out)
            rows.writerow(("tag", "step", "wall_time", "value"))
            count = 0
            for count, (number, step, ms, value) in enumerate(points, 1):
                rows.writerow((long[number], step, ms / 1000, repr(value)))
                if count == _ROWS:
                    break
            if count:
                part += 1
                self._attach_own(f"scalars/points-{part:03d}.csv", out.getvalue().encode("utf-8", "surrogatepass"))
            if count < _ROWS:
                return


# -- help -----------------------------------------------------------------------------------------------------------


def _digest(*parts: str) -> str:
    """Return 32 letters and digits that stand for `parts`."""
    return hashlib.blake2s("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _setting(name: str) -> str | None:
    """Return a setting from where the SDK takes it: the environment, then files (`comet_ml/config/config_class.py`)."""
    value = os.environ.get(f"COMET_{name.upper()}")
    if value:
        return value
    chosen = os.environ.get("COMET_INI") or os.environ.get("COMET_CONFIG") or ""
    if os.path.isdir(os.path.expanduser(chosen)):
        chosen = os.path.join(chosen, ".comet.config")
    for path in (".env", chosen, ".comet.config", "~/.comet.config"):
        try:
            with open(os.path.expanduser(path), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        found = re.search(rf"(?im)^[ \t]*(?:comet_)?{name}[ \t]*=[ \t]*[\"']?([^\"'\r\n#]+)", text)
        if found and found.group(1).strip():
            return found.group(1).strip()
    return None


def _is_offline(options: Mapping[str, Any], *, default: bool) -> bool:
    if options.get("offline") is not None:
        return str(options["offline"]).strip().lower() not in {"", "0", "false", "no", "off", "none"}
    return default or (_setting("start_online") or "").lower() in {"0", "false", "no", "off", "n", "f"}


def _active() -> Any:
    """Return the experiment that the user has active in this process, or None."""
    running = getattr(sys.modules.get("comet_ml.config"), "get_running_experiment", None)
    hidden = list(_hidden)
    experiment = hidden[0] if hidden else running() if running is not None else None
    return experiment if experiment is not None and experiment.alive and not experiment.ended else None


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set the variables of the SDK that the user has not set, for a while."""
    added = [name for name in _ENVIRONMENT if name not in os.environ]
    os.environ.update({name: _ENVIRONMENT[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _import_sdk() -> None:
    """Import the SDK, and leave the process as it was."""
    if "comet_ml" in sys.modules:
        return
    hook = sys.excepthook
    with _environment():
        import comet_ml  # noqa: F401
    sys.excepthook = hook


_hidden: list[Any] = []
"""The user's experiment, or None, while it is hidden: another thread may ask for it then."""


@contextlib.contextmanager
def _sdk_alone() -> Iterator[None]:
    """Hide the process's experiment from the SDK while another one is made, and that one afterwards."""
    from comet_ml.config import get_global_experiment, set_global_experiment

    before = get_global_experiment()
    _hidden.append(before)
    set_global_experiment(None)
    try:
        with _environment():
            yield
    finally:
        set_global_experiment(before)
        _hidden.remove(before)


@functools.cache
def _offline_class() -> Any:
    """Return the `OfflineExperiment` that writes to a `_Journal`."""
    from comet_ml import OfflineExperiment
    from comet_ml.utils import local_timestamp

    class Offline(OfflineExperiment):  # type: ignore[misc]
        tmpdir: str
        tracelet_ended: float | None = None

        def __init__(self, journal: _Journal, **settings: Any) -> None:
            self._journal = journal
            super().__init__(**settings, _resume_strategy="get_or_create", _comet_start_sourced=True)

        def _create_offline_archive(self, *_: Any, **__: Any) -> tuple[Any, str]:
            return io.BytesIO(), self.offline_directory  # not an empty archive that may be all that is left

        def _setup_streamer(self) -> bool:
            os.rmdir(self.tmpdir)
            self.tmpdir, self.streamer = self._journal.directory, self._journal
            return True

        def _mark_as_ended(self) -> None:
            self.stop_time = round(self.tracelet_ended * 1000) if self.tracelet_ended is not None else local_timestamp()
            self._write_experiment_meta_file()

    return Offline


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested parameters as `log_parameters` names them, joined by ``|``; lists as JSON."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}|")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, (list, tuple, dict)) else value


def _comet_bins(event: ev.Histogram) -> dict[str, Any] | None:
    """Return the JSON of a `comet_ml.data_structure.Histogram` with the samples of `event`, or None if it has none.

    A bucket's samples are spread evenly over the bins that it overlaps. Counts become whole numbers of the same total.
    """
    from comet_ml.data_structure import Histogram

    shown = Histogram()
    edges = [float(edge) for edge in shown.values]
    sums = [0.0] * len(edges)
    first, last = edges[1], edges[-2]
    left = min(event.min, event.limits[0]) if event.limits else 0.0
    for limit, count in zip(event.limits, event.counts, strict=True):
        low, high = (min(max(x, y), z) for x, y, z in ((left, event.min, event.max), (limit, event.min, event.max)))
        left = limit
        if not (count > 0 and math.isfinite(count) and math.isfinite(low) and math.isfinite(high)):
            continue
        low, high = min(max(low, first), last), min(max(high, first), last)
        start, stop = bisect.bisect_right(edges, low) - 1, bisect.bisect_left(edges, high) - 1
        if stop <= start:
            sums[start] += count
            continue
        for i in range(start, stop + 1):
            share = (min(edges[i + 1], high) - max(edges[i], low)) / (high - low)
            sums[i] += count * share
    total, whole, counts = 0.0, 0, []
    for value in sums:
        total += value
        counts.append(round(total) - whole)
        whole = round(total)
    if not whole:
        return None
    shown.counts = counts
    bins: dict[str, Any] = shown.to_json()
    return bins
