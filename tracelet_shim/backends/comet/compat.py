"""What differs between the versions of comet_ml, from 3.40 on. Each thing is looked for where it may be: no version is asked."""

from __future__ import annotations

import copy
import functools
import inspect
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "BehindQueue",
    "as_uploaded",
    "behind_queue",
    "experiment_class",
    "get_artifact",
    "longest_name",
    "named_project",
    "offline_directory",
    "points_3d",
    "projection",
    "tell_status",
    "uploads_registrations",
]

_OF_THE_LOG = frozenset({
    "messages", "messages_ids", "message_type", "context", "rest_fail_prompt", "general_fail_prompt",
    "rest_error_log_record_extra",
})  # fmt: skip
"""What `_process_rest_api_send` is given for itself, in any version; the rest is the sender's."""
_METHODS = {
    "UploadFileMessage": "_process_upload_message", "UploadInMemoryMessage": "_process_upload_in_memory_message",
    "Log3DCloudMessage": "_process_log_3d_cloud_message", "ModelGraphMessage": "_process_model_graph_message",
    "LogOtherMessage": "_process_log_other_message", "FileNameMessage": "_process_file_name_message",
}  # fmt: skip
"""Where a message is handled by the streamer itself, before 3.52: which method does it."""


class BehindQueue(NamedTuple):
    """What sends messages at the end of the SDK's queue, called without it.

    Attributes:
        handle: sends one message.
        connection: the SDK's connection.
        api: the SDK's API client.
        compress: whether batches are compressed.
    """

    handle: Callable[[Any], Any]
    connection: Any
    api: Any
    compress: bool


def behind_queue(streamer: Any, uploads: Any) -> BehindQueue:
    """Return what sends the messages of an online streamer, in the calling thread and with its errors.

    Args:
        streamer: the SDK's.
        uploads: its file manager, or one in the place of it.
    """
    handler = copy.copy(getattr(streamer, "message_handler", streamer))  # a class of its own since 3.52
    handler.on_message_sent_callback = handler.on_messages_batch_sent_callback = None
    handler._process_rest_api_send = _send_now
    handler._file_upload_manager = uploads
    handle: Callable[[Any], Any]
    if handler is not streamer and hasattr(handler, "create_message_handlers"):
        handler.message_handlers = handler.create_message_handlers()

        def handle(message: Any) -> Any:
            return handler.handle(message, None)

    else:
        methods = {kind: getattr(handler, method) for kind, method in _METHODS.items()}

        def handle(message: Any) -> Any:
            return methods[type(message).__name__](message)

    return BehindQueue(handle, handler._connection, handler._rest_api_client, handler._message_batch_compress)


def _send_now(sender: Callable[..., None], **given: Any) -> None:
    """Stand in for `_process_rest_api_send`, which logs what goes wrong."""
    sender(**{name: value for name, value in given.items() if name not in _OF_THE_LOG})


def tell_status(session: Any) -> None:
    """Have a `requests.Session` of the SDK's return an answer that it may not ask again for, rather than raise an error without
    that answer: as it is since 3.49."""
    for adapter in session.adapters.values():
        retries = getattr(adapter, "max_retries", None)
        if retries is not None and retries.raise_on_status:
            adapter.max_retries = retries.new(raise_on_status=False)


def offline_directory() -> str:
    """Return where the SDK itself writes archives."""
    from comet_ml.config import get_config

    config = get_config()
    ask = getattr(config, "get_comet_offline_directory", None)  # since 3.47
    return str(ask() if ask is not None else config["comet.offline_directory"])


def experiment_class() -> Any:
    """Return the class of all experiments."""
    import comet_ml

    return comet_ml.CometExperiment if hasattr(comet_ml, "CometExperiment") else comet_ml.BaseExperiment  # before 3.47


def named_project(start: Callable[..., Any], name: str | None) -> Mapping[str, str | None]:
    """Return the argument of `comet_ml.start` that names the project."""
    return {"project_name" if "project_name" in inspect.signature(start).parameters else "project": name}  # before 3.47


def longest_name(experiment: Any, kind: str) -> int | None:
    """Return how long the name of an ``asset`` or ``image`` may be; None where the server sets no limit.

    Args:
        experiment: the SDK's object.
        kind: which of them.
    """
    return getattr(experiment, f"{kind}_name_max_length", None)  # since 3.43


def uploads_registrations() -> bool:
    """Whether ``comet upload`` registers a model. Before 3.46 it takes the message for a mistake, and marks the run."""
    from comet_ml import schemas

    return hasattr(schemas, "get_register_model_msg_validator")


@functools.cache
def _scene_has_step() -> bool:
    from comet_ml import schemas

    validator = getattr(schemas, "get_cloud_3d_msg_validator", None)
    return validator is None or "step" in validator().schema.get("properties", {"step": {}})


def as_uploaded(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Return a message in the form that ``comet upload`` takes. Before 3.54, the step of a scene of points is a mistake to it: it
    is in the scene's metadata then.

    Args:
        kind: the message's type.
        payload: the message.
    """
    if kind != "3d-image" or _scene_has_step():
        return payload
    metadata = {**(payload.get("metadata") or {}), "step": payload.get("step")}
    return {**{name: value for name, value in payload.items() if name != "step"}, "metadata": metadata}


def points_3d(*scene: Any, **more: Any) -> None:
    """Call the SDK's function that makes the message of a scene of points. Before 3.56 it leaves one of its temporary files."""
    from comet_ml import experiment_loggers

    module = inspect.getmodule(experiment_loggers.log_3d_points)
    if getattr(module, "tempfile", None) is not tempfile:
        experiment_loggers.log_3d_points(*scene, **more)
        return
    messages: list[Any] = []
    noting = _Noting()
    module.tempfile = noting  # type: ignore[union-attr]
    try:
        experiment_loggers.log_3d_points(*scene, **{**more, "enqueue_message_callback": messages.append})
    finally:
        module.tempfile = tempfile  # type: ignore[union-attr]
        kept = {item.file_path for message in messages for item in message.items}
        kept |= {message.thumbnail_path for message in messages}
        for name in noting.names:
            if name not in kept:
                Path(name).unlink(missing_ok=True)
    for message in messages:
        more["enqueue_message_callback"](message)


class _Noting:
    """`tempfile`, with a note of the files that this thread makes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(tempfile, name)

    def NamedTemporaryFile(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - its name
        file = tempfile.NamedTemporaryFile(*args, **kwargs)  # noqa: SIM115 - the SDK closes it
        if threading.get_ident() == self._thread:
            self.names.append(file.name)
        return file


def projection(**about: Any) -> Any:
    """Return the SDK's `Embedding`. Before 3.47 it knows its files by their links alone, which offline nobody tells: there they
    are those that later versions write."""
    from comet_ml import Embedding

    taken = inspect.signature(Embedding).parameters
    if "vector_asset_id" not in taken:
        for kind in ("vector", "metadata", "sprite"):
            asset = about[f"{kind}_asset_id"]
            if about[f"{kind}_url"] is None and asset is not None:
                about[f"{kind}_url"] = f"/api/asset/download?assetId={asset}&experimentKey={about['experiment_key']}"
    return Embedding(**{name: value for name, value in about.items() if name in taken})


def get_artifact() -> Callable[..., Any]:
    """Return the SDK's function that asks the server for an artifact, without an experiment."""
    try:
        from comet_ml.artifacts.artifact_getter import get_artifact
    except ImportError:
        try:
            from comet_ml.artifact_helpers.artifact_getter import get_artifact  # before 3.52
        except ImportError:
            from comet_ml.artifacts import _get_artifact as get_artifact  # before 3.47
    return get_artifact  # type: ignore[no-any-return]
