"""The way of messages to Comet's server, in the calling thread: what `Line.send` has returned for, the server has taken.

The SDK's own way is a queue and a thread (`comet_ml.streamer`). What that cannot send it drops with a line in its log, unless the
connection itself was lost, and nobody is told. So messages are handed to the code behind the queue
(`OnlineMessageHandler`, `RestServerConnection`), which makes the same requests, and raises here what went wrong.
"""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.comet.compat import behind_queue, tell_status
from tracelet_shim.backends.shared.transient import Verdict, judge, may_open

__all__ = ["CHUNK", "Line", "RefusedError", "line_of", "point"]

_log = logging.getLogger("tracelet_shim.relay")

CHUNK = 500
"""Points of one request; the SDK sends up to 1,000."""
_OF_UPLOADS = {"upload_limits_guard": "limits_guard", "multipart_options": "s3_upload_options", "parts_pool": "_get_parts_pool"}
"""What an uploader may ask for, and where its `FileUploadManager` has it."""


_OF_API = (
    "get_artifact_details", "get_artifact_files", "get_artifact_version_details", "get_experiment_asset_list",
    "get_experiment_metadata", "get_experiment_metric", "get_registry_model_details", "get_registry_models",
    "post_from_endpoint", "register_model_v2", "upsert_artifact",
)  # fmt: skip
_OF_CONNECTION = ("add_tags", "send_notification")


class RefusedError(errors.BackendError):
    """The server's answer was no, or not the server's.

    Attributes:
        status: the HTTP status.
        own: False if something in between has answered.
    """

    def __init__(self, status: int, message: str, *, own: bool = True) -> None:
        self.status, self.own = status, own
        super().__init__(f"Comet: {status} {message}")

    @property
    def may_be_done(self) -> bool:
        """True if a proxy has given up, and the server may have gone on."""
        return self.status >= 500 or self.status == 408

    @property
    def is_no(self) -> bool:
        """True if the server itself has said no to this, which there is another way for: no quota, no proxy is waited for."""
        return not may_open(self.status, own=self.own)


class Line:
    """The line of an online experiment.

    Args:
        experiment: the SDK's object.

    Attributes:
        api: the SDK's API client.
        connection: the SDK's connection.
        doubtful: the server may have the files of events that come first.
        found: those of which it has said so, until `done`.
    """

    def __init__(self, experiment: Any) -> None:
        from comet_ml.batch_utils import MessageBatchItem
        from comet_ml.file_upload_size_monitor import UploadSizeMonitor
        from comet_ml.messages import MetricMessage, ParameterMessage

        streamer = experiment.streamer.online_streamer
        uploads = copy.copy(streamer._file_upload_manager)
        uploads._initiate_upload = self._upload
        self._key = str(experiment.id)
        self._handle, self.connection, self.api, self._compress = behind_queue(streamer, uploads)
        self._uploads = uploads
        self._taken: set[str] = set()
        self.found: set[str] = set()
        self._unanswered: set[str] = set()  # files that the server may have taken, for it did not say so
        self.doubtful = False
        self._item, self._monitor = MessageBatchItem, UploadSizeMonitor
        self._batches = {
            MetricMessage: self.connection.log_metrics_batch,
            ParameterMessage: self.connection.log_parameters_batch,
        }
        for part, names in ((self.api, _OF_API), (self.connection, _OF_CONNECTION)):
            for name in names:
                getattr(part, name)  # all that is called later: it is known now whether this SDK has it
        for client in (self.connection._low_level_http_client, self.api.low_level_api_client):
            for session in (client.session, client.retry_session):
                session.hooks["response"].append(_no_page)
                tell_status(session)

    def call(self, request: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a request of the SDK's connection or API client, and return what it returns.

        Raises:
            RefusedError: the server has refused it.
        """
        return _answered(request, *args, **kwargs)

    def send(self, messages: Iterable[Any], *, events: bool = True) -> None:
        """Send messages, of `comet_ml.messages`, in order; raise for the first that the server does not take. Files that it has
        taken are not sent again, until `done`; where that is not known of the files of `events`, it is asked for them before."""
        for kind, group in groupby(messages, key=type):
            if kind in self._batches:
                items = [self._item(message) for message in group]
                for start in range(0, len(items), CHUNK):
                    _answered(self._batches[kind], items[start : start + CHUNK], compress=self._compress)
                continue
            for message in group:
                params = getattr(message, "additional_params", None) or {}
                asset = params.get("assetId") or params.get("imageId")
                if asset is None:
                    _answered(self._handle, message)
                elif asset not in self._taken:
                    self._send_file(asset, message, may_be_there=events and (self.doubtful or asset in self._unanswered))
                    self._taken.add(asset)

    def _send_file(self, asset: str, message: Any, *, may_be_there: bool) -> None:
        if may_be_there:
            if asset in self._files():
                self.found.add(asset)
                return
            self.doubtful = False  # what comes behind one that was not there is not there either
        try:
            _answered(self._handle, message)
        except Exception as error:
            if not isinstance(error, RefusedError) or error.may_be_done:
                self._unanswered.add(asset)
            raise
        self._unanswered.discard(asset)

    def _files(self) -> set[str]:
        """Ask the server which files it has. One that cannot say that holds up nothing."""
        try:
            return {str(file.get("assetId")) for file in _answered(self.api.get_experiment_asset_list, self._key) or ()}
        except RefusedError as error:
            if judge(error.status, own=error.own) is Verdict.PASSES:
                raise
            _log.warning("comet: the server does not say which files it has; some may be there twice", exc_info=True)
            return set()

    def done(self) -> None:
        """What was sent so far does not come again."""
        self._taken.clear()
        self.found.clear()

    def points(self, messages: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Ask the server which points it has of the metrics in these messages, one request each."""
        names = dict.fromkeys(message.metric["metricName"] for message in messages)
        found = []
        for name in names:
            answer = _answered(self.api.get_experiment_metric, self._key, name)
            for entry in (answer or {}).get("metrics") or ():
                step = entry.get("step")
                found.append(point(name, entry.get("metricValue"), step, entry.get("timestamp")))
        return found

    def _upload(self, options: Any, uploader: Callable[..., None], **_: Any) -> None:
        """Stand in for `FileUploadManager._initiate_upload`: at once, without retries, and with its errors. What an uploader is
        given besides differs between versions; it says itself what it takes."""
        problems: list[BaseException] = []
        options.max_retries, options.on_failed_asset_upload = 1, problems.append
        options.on_asset_upload = lambda response: problems.extend(_page(response))
        taken = inspect.signature(uploader).parameters
        found = ((name, getattr(self._uploads, attribute)) for name, attribute in _OF_UPLOADS.items() if name in taken)
        more: dict[str, Any] = {name: value() if callable(value) else value for name, value in found}
        uploader(options=options, _monitor=self._monitor(), **more)
        if problems:
            raise problems[0]


def line_of(experiment: Any) -> Line | None:
    """Return the line of an experiment. None of one that is offline, and where the SDK's inside is not known here: it has its
    own queue."""
    if not hasattr(experiment.streamer, "online_streamer"):
        return None
    try:
        return Line(experiment)
    except (AttributeError, ImportError, TypeError):
        _log.debug("comet: the code behind the SDK's queue cannot be called", exc_info=True)
        return None


def point(name: Any, value: Any, step: Any, when: Any) -> tuple[Any, ...]:
    """Return what tells points apart, however the server writes numbers."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        value = str(value)
    return name, repr(value), None if step is None else int(step), None if when is None else int(when)


def _answered(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make requests of the SDK, and tell its errors from one another by the status that was answered."""
    try:
        return call(*args, **kwargs)
    except RefusedError:
        raise
    except Exception as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status is None:  # of an upload, in the text alone
            found = re.search(r"failed \((\d{3})\) with max retries", str(error))
            if found is None:
                raise
            status = int(found[1])
        raise RefusedError(status, _text(response) or str(error)[:200], own=_is_own(response)) from error


def _page(response: Any) -> list[RefusedError]:
    """Return an error, if this is the page of a proxy and no answer of Comet's: nothing was stored then."""
    status, kind = getattr(response, "status_code", 0), getattr(response, "headers", {}).get("Content-Type", "")
    return [RefusedError(status, "is a page, not an answer", own=False)] if 200 <= status < 300 and "html" in kind else []


def _no_page(response: Any, *_: Any, **__: Any) -> None:
    for problem in _page(response):
        raise problem


def _is_own(response: Any) -> bool:
    """Tell whether Comet has answered: in JSON, with a code of its own."""
    if response is None:
        return True
    try:
        return bool({"code", "msg", "sdk_error_code"} & set(response.json()))
    except (ValueError, TypeError):
        return False


def _text(response: Any) -> str:
    return " ".join(str(getattr(response, "text", "") or "")[:200].split())
