"""One task: the only code that writes to it.

Events go to `Metrics.write_events` in the calling thread, not to the `Reporter`, whose background thread logs a failure and
drops the data (`clearml/backend_interface/metrics`). What `deliver` has returned for is on disk, or taken by the server.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.clearml.names import file_name
from tracelet_shim.backends.clearml.resume import Stored
from tracelet_shim.backends.clearml.session import UploadError, send_once
from tracelet_shim.backends.run_info import Status
from tracelet_shim.backends.shared.seen import Seen
from tracelet_shim.backends.shared.values import cut, utf8

__all__ = ["RunTask", "line", "media", "plot", "scalar"]

_PREVIEW = 3000  # bytes of an artifact
_TEXT_LENGTH = 8_000  # of a parameter: the server keeps all of them in one document of at most 16 MB


class RunTask:
    """One task, and the way of events, files and parameters into it.

    Args:
        task: the ``clearml.Task``.
        offline: it is a folder.
        session: for requests, instead of the task's own.

    Attributes:
        task, session: the same.
    """

    def __init__(self, task: Any, *, offline: bool, session: Any = None) -> None:
        from clearml.backend_interface.metrics import Metrics

        self.task = task
        self.session = session or task.session
        self._there = Seen()
        self._offline = offline
        storage = task._get_default_report_storage_uri()
        # The SDK's form, which `Task.import_offline_session` looks for: <project>/<task name>.<task id>/...
        self._prefix = f"{file_name(task.get_project_name() or 'unknown')}/{file_name(task.name)}.{task.id}"
        if offline:
            Path(storage).mkdir(parents=True, exist_ok=True)
        # An instance of our own: steps are absolute, whatever iteration offset a borrowed task has.
        suffix = f"{self._prefix}/metrics"
        self._metrics = Metrics(session=self.session, task=task, storage_uri=storage, storage_uri_suffix=suffix)
        self._metrics._send = send_once

    def expect(self, event: Stored) -> None:
        """Note an event that the task has already and that comes again: it is not written again."""
        self._there.add(event)

    def expect_no_more(self) -> None:
        """Only the first batch may come again."""
        self._there.clear()

    def deliver(self, adapters: Sequence[Any]) -> None:
        """Write events; all of them have arrived, or it raises.

        Args:
            adapters: of `scalar`, `plot` and `media`.
        """
        left = self._there.copy()
        if left:
            events = [(adapter, adapter.get_api_event()) for adapter in adapters]  # None: an artifact
            adapters = [adapter for adapter, event in events if event is None or not left.take(Stored.of(event.to_dict()))]
        batch = list(adapters)  # events whose file cannot be named are removed from it
        log = self._metrics._offline_log_filename
        before = os.path.getsize(log) if log and os.path.exists(log) else 0
        try:
            self._metrics.write_events(batch, async_enable=False)
        except OSError:
            if log and os.path.exists(log):  # half a line would make the rest of the file unreadable
                os.truncate(log, before)
            raise
        problem = next((adapter.upload_exception for adapter in adapters if adapter.upload_exception is not None), None)
        if isinstance(problem, OSError):
            raise problem
        if problem is not None:
            raise UploadError(problem) from problem
        if len(batch) < len(adapters):
            raise errors.BackendError("ClearML: uploading a file failed: it got no name")
        self._there = left

    def add_artifact(self, name: str, data: bytes) -> None:
        """Upload `data` as the artifact `name`: `Artifacts.upload_artifact`, but in this thread and with its errors."""
        url = self._upload("artifacts", name, {"image_data": io.BytesIO(data)})
        self._list_artifact(name, url, data[:_PREVIEW], len(data), hashlib.sha256(data).hexdigest())

    def add_file(self, name: str, file: str, size: int, sha256: str) -> None:
        """As `add_artifact`, of a file that is not read into memory."""
        url = self.upload("artifacts", name, file)
        with open(file, "rb") as content:
            self._list_artifact(name, url, content.read(_PREVIEW), size, sha256)

    def upload(self, place: str, name: str, file: str) -> str:
        """Upload a file to where the task's files are; return its URL.

        Args:
            place: the folder there.
            name: in that, slashes for folders. One that is there is replaced.
            file: where it is.
        """
        return self._upload(place, name, {"image_data": None, "local_image_path": file})

    def _upload(self, place: str, name: str, content: Mapping[str, Any]) -> str:
        from clearml.backend_interface.metrics.events import UploadEvent

        folder, _, file = name.rpartition("/")
        stem, dot, suffix = file.rpartition(".") if "." in file else (file, "", "")
        upload = UploadEvent(
            metric=place, variant=folder, **content, iter=0, file_history_size=-1,
            upload_uri=self.task.output_uri or None, override_storage_key_prefix=self._prefix,
            override_filename=file_name(stem), override_filename_ext=dot + suffix,
        )  # fmt: skip
        upload._replace_slash = file_name
        upload.retries = 1
        self.deliver([upload])
        return str(upload._url)

    def _list_artifact(self, name: str, url: str, head: bytes, size: int, sha256: str) -> None:
        from clearml.backend_api.services import tasks

        text = head.decode("utf-8", "ignore") if b"\0" not in head else f"{size} bytes"
        self.task._add_artifacts([
            tasks.Artifact(
                key=name, type="custom", uri=url, content_size=size, hash=sha256,
                timestamp=int(time.time()), type_data=tasks.ArtifactTypeData(preview=text),
            )
        ])  # fmt: skip

    def set_params(self, section: str, params: Mapping[str, Any], key_of: Callable[[str], str]) -> None:
        """Set parameters in a section of the task; the former value of one that changes is kept beside it."""
        known = self.task.get_parameters() or {}
        new: dict[str, Any] = {}
        for name, given in params.items():
            key = key_of(name)
            value = given if given is None or isinstance(given, (bool, int, float)) else str(given)
            if isinstance(value, str) and len(value) > _TEXT_LENGTH:
                path = f"{section}/{file_name(name)}_{hashlib.blake2s(key.encode(), digest_size=4).hexdigest()}.txt"
                self.add_artifact(path, value.encode("utf-8", "surrogatepass"))
                value = cut(value, _TEXT_LENGTH, f"... (cut; all {len(value)} characters are in the artifact {path})")
            if isinstance(value, str):
                value = utf8(value)
            former = known.get(f"{section}/{key}")
            if former is not None and former != ("" if value is None else str(value)):
                number = sum(1 for k in known if k.startswith(f"{section} (earlier)/{key} ·"))
                new[f"{section} (earlier)/{key} ·{number + 1}"] = former
            new[f"{section}/{key}"] = value
        if new:
            types = {key: type(value).__name__ for key, value in new.items() if value is not None}
            self.task.update_parameters(new, __parameters_types=types)

    def end(self, status: Status) -> None:
        """End the task; offline, there is no status, and it is packed."""
        if self._offline:
            self.task.set_user_properties({"name": "tracelet.status", "value": status})
            self._zip()
        elif status == "finished":
            self.task.mark_completed(ignore_errors=False)
        elif status == "failed":
            self.task.mark_failed(ignore_errors=False, status_reason="the program failed")
        else:
            self.task.stopped(ignore_errors=False, status_reason="the program was killed")

    def _zip(self) -> None:
        """Leave ``<folder>.zip`` for `Task.import_offline_session`, as `Task.close` does (which would print)."""
        folder = Path(self.task.get_offline_mode_folder())
        self.task._edit()
        target, part = f"{folder}.zip", f"{folder}.zip.part"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder).as_posix())
        os.replace(part, target)


def scalar(title: str, series: str, step: int, value: float, time_ms: int) -> Any:
    """Return a scalar for `RunTask.deliver`. The server refuses a whole batch for one NaN, and the SDK would send 0.0 instead: a
    value that is not finite is a 1."""
    from clearml.backend_interface.metrics.events import ScalarEvent

    return ScalarEvent(title, series, value if math.isfinite(value) else 1.0, step, timestamp=time_ms or None)


def plot(title: str, series: str, step: int, figure: str, time_ms: int) -> Any:
    """Return a figure, in Plotly's JSON, for `RunTask.deliver`."""
    from clearml.backend_interface.metrics.events import PlotEvent

    return PlotEvent(title, series, figure, iter=step, timestamp=time_ms or None)


def line(text: str, level: str, worker: str, time_ms: int) -> Any:
    """Return a line of the console for `RunTask.deliver`."""
    from clearml.backend_interface.metrics.events import ConsoleEvent

    return ConsoleEvent(text, level, worker, timestamp=time_ms or None)


def media(title: str, series: str, step: int, name: str, suffix: str, data: bytes, time_ms: int) -> Any:
    """Return a file as debug sample for `RunTask.deliver`: unchanged, and under a name that no later one takes (the SDK's
    rotate)."""
    from clearml.backend_interface.metrics.events import MediaEvent

    event = MediaEvent(
        title, series, io.BytesIO(data), iter=step, file_history_size=-1, timestamp=time_ms or None,
        override_filename_ext=suffix, override_filename=name,
    )  # fmt: skip
    event._replace_slash = file_name
    event.retries = 1  # each takes 15 s when there is no server
    return event
