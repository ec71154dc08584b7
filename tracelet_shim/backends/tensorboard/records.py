"""Records of our own: what TensorBoard could not write, and what says something of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.values import utf8

__all__ = ["declared_image", "file_version", "is_empty", "note", "numbers", "rounded", "session_end", "session_start", "video"]


def _event(wall_time: float, **what: Any) -> bytes:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(wall_time=wall_time, **what).SerializeToString()  # type: ignore[no-any-return]


def file_version(wall_time: float) -> bytes:
    return _event(wall_time, file_version="brain.Event:2")


def is_empty(event: ev.Video) -> bool:
    from tensorboard.compat.proto import event_pb2

    values = event_pb2.Event.FromString(event.source).summary.value
    index = event.record.index
    return index < len(values) and values[index].WhichOneof("value") is None


def declared_image(event: ev.Video) -> bytes:
    """Return a record without a value that makes its tag one of images.

    What TensorBoard shows of a tag is settled by its first record, and the empty one would settle on nothing.
    """
    from tensorboard.compat.proto import summary_pb2

    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="images")
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin, data_class=summary_pb2.DATA_CLASS_BLOB_SEQUENCE)
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=event.tag, metadata=metadata)])
    return _event(event.wall_time, step=event.step, summary=summary)


def video(event: ev.Video) -> bytes:
    from tensorboard.compat.proto import summary_pb2

    size = {"width": event.width, "height": event.height, "colorspace": 3}
    image = summary_pb2.Summary.Image(**size, encoded_image_string=event.data)
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=event.tag, image=image)])
    return _event(event.wall_time, step=event.step, summary=summary)


def note(tag: str, text: str, wall_time: float, step: int = 0) -> bytes:
    """Return a record with a text."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2

    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
    tensor = tensor_pb2.TensorProto(dtype="DT_STRING", string_val=[utf8(text).encode()], tensor_shape=shape)
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
    value = summary_pb2.Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
    return _event(wall_time, step=step, summary=summary_pb2.Summary(value=[value]))


def numbers(values: Mapping[str, float], step: int, wall_time: float) -> bytes:
    """Return a record of scalars."""
    from tensorboard.compat.proto import summary_pb2

    found = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return _event(wall_time, step=step, summary=summary_pb2.Summary(value=found))


def rounded(record: bytes) -> bytes:
    """Return a record with float64 scalars as one with those of `add_scalar`, which are float32. TensorBoard's data server, by
    which it reads unless told otherwise, leaves float64 out."""
    from tensorboard.compat.proto import event_pb2

    event = event_pb2.Event.FromString(record)
    for value in event.summary.value:
        if value.metadata.plugin_data.plugin_name == "scalars" and value.tensor.double_val:
            number = value.tensor.double_val[0]
            value.ClearField("metadata")
            value.simple_value = number  # in place of the tensor
    return event.SerializeToString()  # type: ignore[no-any-return]


def _hparams(tag: str, wall_time: float, **data: Any) -> bytes:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = plugin_data_pb2.HParamsPluginData(version=0, **data).SerializeToString()
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    value = summary_pb2.Summary.Value(tag=tag, metadata=summary_pb2.SummaryMetadata(plugin_data=plugin))
    return _event(wall_time, summary=summary_pb2.Summary(value=[value]))


def session_start(config: Mapping[str, Any], group: str, started: float) -> bytes:
    """Return the hparams session of the whole run; what is neither a number nor a text becomes JSON text."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    info = plugin_data_pb2.SessionStartInfo(start_time_secs=started, group_name=group)
    for key, value in config.items():
        field = info.hparams[utf8(str(key))]
        if isinstance(value, bool):
            field.bool_value = value
        elif isinstance(value, float) or (isinstance(value, int) and abs(value) <= 2**53):
            field.number_value = value
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            field.string_value = utf8(text)
    return _hparams("_hparams_/session_start_info", started, session_start_info=info)


def session_end(ended: float, *, well: bool) -> bytes:
    """Return the end of that session."""
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    code = api_pb2.STATUS_SUCCESS if well else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=ended)
    return _hparams("_hparams_/session_end_info", ended, session_end_info=end)
