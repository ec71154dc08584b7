"""The SDK's messages: what its ``log_*`` methods would enqueue."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.comet.compat import longest_name
from tracelet_shim.backends.comet.names import digest
from tracelet_shim.backends.comet.run import RunExperiment
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.values import cut, utf8
from tracelet_shim.eventfiles.own_files import is_sample

__all__ = ["Messages"]

_MAX_VALUE = 1000  # comet_ml.config.MAXIMAL_VALUE_LENGTH
_SAMPLES = {"cpu.percent": "sys.cpu.percent.avg", "memory.percent": "sys.ram.percent.used"}
"""What Comet itself calls what is measured. Its tab shows whatever begins with ``sys.``."""


class Messages:
    """Makes the messages of one experiment.

    Args:
        run: the experiment.
        names: the rule for names of metrics, parameters and media.
        time_ms: (event) -> its time; 0: now.
        session: the session's id, and the time at which it began: of what is no event.
        online: whether files go to the server, which does not take all sizes.
    """

    def __init__(
        self, run: RunExperiment, names: Names, time_ms: Callable[[ev.Event], int], session: tuple[str, float], *, online: bool
    ) -> None:
        self._run = run
        self._experiment = run.experiment
        self._names = names
        self._time_ms = time_ms
        self._session = session
        self._online = online
        self._images = 0

    def point(self, name: str, value: float, event: ev.Event) -> Any:
        """Return a point of the metric `name`; a sample of the machine is one that Comet's own tab for these shows."""
        from comet_ml.messages import MetricMessage

        message = MetricMessage(timestamp=self._time_ms(event) or None)
        if is_sample(event.record.file, event.writer):
            name = _SAMPLES.get(event.tag, f"sys.{event.tag}")
        message.set_metric(self._names(name), value, step=event.step)
        return message

    # -- files ------------------------------------------------------------------------------------------------------

    def asset_id(self, event: ev.Event, name: str, kind: str = "asset") -> str:
        return digest(self._experiment.id, kind, name, *map(str, event.record))

    def asset(
        self, event: ev.Event, name: str, data: bytes, kind: str = "asset", metadata: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the message of a file: what `log_asset_data`, `log_video`, `log_text`, ... enqueue."""
        return self._upload(event, kind, self._asset(event, name, kind), data, metadata)

    def file(
        self, event: ev.Event, name: str, file: str, kind: str = "asset", metadata: Mapping[str, Any] | None = None, **more: Any
    ) -> Any:
        """Return the message of a file on disk, which is not read into memory: what `log_asset` enqueues.

        Args:
            event: what it is a part of.
            name: what Comet shall call it.
            file: where it is.
            kind: Comet's type of it.
            metadata: what else is said of it.
            more: parameters of the upload.
        """
        from comet_ml.messages import UploadFileMessage

        size = os.path.getsize(file)
        self._check(size)
        params = {**self._asset(event, name, kind), **more}
        message = UploadFileMessage(file, kind, params, self._about(event, metadata), size, clean=False)
        message.local_timestamp = self._time_ms(event) or message.local_timestamp
        return message

    def _asset(self, event: ev.Event, name: str, kind: str) -> dict[str, Any]:
        experiment = self._experiment
        params: dict[str, Any] = {
            "assetId": self.asset_id(event, name, kind), "context": None,
            "fileName": name[: longest_name(experiment, "asset")], "overwrite": False, "runId": experiment.run_id,
            "step": event.step, "epoch": None,
        }  # fmt: skip
        if kind != "asset":
            params["type"] = kind
        if kind not in ("curve", "histogram3d", "text-sample"):
            params["extension"] = name.rpartition(".")[2]
        return params

    def own_asset(self, path: str, data: bytes, when: float) -> Any:
        """Return the message of a file of ours, which shows no event."""
        return self.asset(self._no_event(path, when), path, data)

    def image(self, event: ev.Image) -> Any:
        experiment = self._experiment
        params = {
            "step": event.step, "context": None, "runId": experiment.run_id,
            "figName": self._names(event.path)[: longest_name(experiment, "image")], "figCounter": self._images,
            "overwrite": False, "imageId": digest(experiment.id, "image", *map(str, event.record)),
        }  # fmt: skip
        self._images += 1
        return self._upload(event, "visualization", params, event.data)

    def _upload(
        self, event: ev.Event, kind: str, params: dict[str, Any], data: bytes, metadata: Mapping[str, Any] | None = None
    ) -> Any:
        from comet_ml.messages import UploadInMemoryMessage

        self._check(len(data))
        message = UploadInMemoryMessage(io.BytesIO(data), kind, params, self._about(event, metadata), len(data))
        message.local_timestamp = self._time_ms(event) or message.local_timestamp
        return message

    def _check(self, size: int) -> None:
        limit = self._experiment.asset_upload_limit
        if self._online and size > limit:
            raise errors.EventRejectedError(f"{size} bytes are more than Comet takes ({limit})")

    @staticmethod
    def _about(event: ev.Event, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"tag": event.path[:500], **(metadata or {})}

    def registered(self, event: ev.Model, model: str, name: str, tags: list[str]) -> Any:
        """Return the message that registers a model when the archive is uploaded. Nobody can be asked for the latest version now,
        so this one has the time of the event: a later one is higher, and none is there twice."""
        from comet_ml.messages import RegisterModelMessage

        when = datetime.fromtimestamp(self._time_ms(event) / 1000, timezone.utc)
        since_midnight = ((when.hour * 60 + when.minute) * 60 + when.second) * 1000 + when.microsecond // 1000
        return RegisterModelMessage(
            experiment_id=self._experiment.id, model_name=model, version=f"1.{when:%Y%m%d}.{since_midnight}",
            workspace=self._experiment.workspace or "", registry_name=name, public=False, description=None, comment=None,
            tags=tags, status=None, stages=None, upload_status_observer_callback=None, on_model_register=None,
            on_failed_model_register=None,
        )  # fmt: skip

    def _no_event(self, tag: str, when: float) -> ev.Event:
        return ev.Event(writer="", tag=tag, step=0, wall_time=when, record=ev.RecordId(self._session[0], 0))

    # -- parameters and "others" ------------------------------------------------------------------------------------

    def params(self, params: Mapping[str, Any], event: ev.Event | None) -> list[Any]:
        """Return the messages that set parameters; the former value of one that changes is kept among the "others"."""
        from comet_ml.messages import LogOtherMessage, ParameterMessage

        messages: list[Any] = []
        for name, value in params.items():
            key = self._names(name)
            shown, whole = self._fit(f"param/{name}", value, event)
            former = self._run.params.get(name, value)
            if former != value:
                position = event.record.position if event is not None else 0
                messages.append(LogOtherMessage(f"tracelet.earlier.{position}.{key}", str(former)[:_MAX_VALUE]))
            message = ParameterMessage(timestamp=self._time_ms(event) or None if event is not None else None)
            message.set_param(key, shown, source=ParameterMessage.source_manual)
            messages += [message, *whole]
        return messages

    def other(self, key: str, value: Any) -> list[Any]:
        """Return the messages that set an entry among the "others"."""
        from comet_ml.messages import LogOtherMessage

        shown, whole = self._fit(f"other/{key}", value, None)
        return [LogOtherMessage(key, shown), *whole]

    def _fit(self, what: str, value: Any, event: ev.Event | None) -> tuple[Any, list[Any]]:
        """Return `value` as Comet takes it; a long text is cut, and comes with the message of a file with all of it."""
        if isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63):
            return value, []
        text = str(value)
        if len(text) <= _MAX_VALUE:
            return utf8(text)[:_MAX_VALUE], []
        path = f"long_values/{digest(what)[:16]}.txt"
        asset = self.asset(event or self._no_event(what, self._session[1]), path, text.encode("utf-8", "surrogatepass"))
        return cut(utf8(text), _MAX_VALUE, f"... [cut; whole in {path}]"), [asset]
