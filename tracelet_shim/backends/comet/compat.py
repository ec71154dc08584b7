"""What differs between the versions of comet_ml, from 3.40 on. Each thing is looked for where it may be: no version is asked."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "BehindQueue",
    "behind_queue",
    "experiment_class",
    "get_artifact",
    "longest_name",
    "named_project",
    "offline_directory",
    "projection",
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


def offline_directory() -> str:
    """Return where the SDK itself writes archives."""
    from comet_ml.config import get_config

    config = get_config()
    ask = getattr(config, "get_comet_offline_directory", None)  # since 3.49
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
