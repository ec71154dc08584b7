"""The SDK's messages: what its ``log_*`` methods would enqueue."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.comet.experiments import digest
from tracelet_shim.backends.comet.run import RunExperiment
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.values import cut, utf8

__all__ = ["Messages"]

_MAX_VALUE = 1000  # comet_ml.config.MAXIMAL_VALUE_LENGTH


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
        """Return a point of the metric `name`."""
        from comet_ml.messages import MetricMessage

        message = MetricMessage(timestamp=self._time_ms(event) or None)
        message.set_metric(self._names(name), value, step=event.step)
        return message

    # -- files ------------------------------------------------------------------------------------------------------

    def asset_id(self, event: ev.Event, name: str, kind: str = "asset") -> str:
        return digest(self._experiment.id, kind, name, *map(str, event.record))

    def asset(
        self, event: ev.Event, name: str, data: bytes, kind: str = "asset", metadata: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the message of a file: what `log_asset_data`, `log_video`, `log_text`, ... enqueue."""
        experiment = self._experiment
        params: dict[str, Any] = {
            "assetId": self.asset_id(event, name, kind), "context": None,
            "fileName": name[: experiment.asset_name_max_length], "overwrite": False, "runId": experiment.run_id,
            "step": event.step, "epoch": None,
        }  # fmt: skip
        if kind != "asset":
            params["type"] = kind
        if kind not in ("curve", "histogram3d", "text-sample"):
            params["extension"] = name.rpartition(".")[2]
        return self._upload(event, kind, params, data, metadata)

    def own_asset(self, path: str, data: bytes, when: float) -> Any:
        """Return the message of a file of ours, which shows no event."""
        return self.asset(self._no_event(path, when), path, data)

    def image(self, event: ev.Image) -> Any:
        experiment = self._experiment
        params = {
            "step": event.step, "context": None, "runId": experiment.run_id,
            "figName": self._names(event.path)[: experiment.image_name_max_length], "figCounter": self._images,
            "overwrite": False, "imageId": digest(experiment.id, "image", *map(str, event.record)),
        }  # fmt: skip
        self._images += 1
        return self._upload(event, "visualization", params, event.data)

    def _upload(
        self, event: ev.Event, kind: str, params: dict[str, Any], data: bytes, metadata: Mapping[str, Any] | None = None
    ) -> Any:
        from comet_ml.messages import UploadInMemoryMessage

        limit = self._experiment.asset_upload_limit
        if self._online and len(data) > limit:
            raise errors.EventRejectedError(f"{len(data)} bytes are more than Comet takes ({limit})")
        about = {"tag": event.path[:500], **(metadata or {})}
        message = UploadInMemoryMessage(io.BytesIO(data), kind, params, about, len(data))
        message.local_timestamp = self._time_ms(event) or message.local_timestamp
        return message

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
