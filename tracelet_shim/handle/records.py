"""Records of an event file. What TensorBoard has a form for is written in that, so that every reader knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet_shim.eventfiles import own_records

__all__ = ["artifact_in", "file_version", "numbers", "own", "picture", "text"]


def _event(wall_time: float, step: int = 0, **what: Any) -> bytes:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(wall_time=wall_time, step=step, **what).SerializeToString()  # type: ignore[no-any-return]


def _metadata(plugin: str, content: bytes = b"") -> Any:
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    )


def file_version(wall_time: float) -> bytes:
    """Return the first record of an event file."""
    return _event(wall_time, file_version="brain.Event:2")


def numbers(values: Mapping[str, float], step: int, wall_time: float) -> bytes:
    """Return scalars by tag, as float64: what `add_scalar` writes with ``double_precision=True``."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2

    metadata, summary = _metadata("scalars"), summary_pb2.Summary()
    for tag, value in values.items():
        summary.value.add(tag=tag, metadata=metadata, tensor=tensor_pb2.TensorProto(dtype="DT_DOUBLE", double_val=[value]))
    return _event(wall_time, step, summary=summary)


def text(tag: str, content: str, step: int, wall_time: float) -> bytes:
    """Return a text, as `add_text` writes it."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2

    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
    data = content.encode("utf-8", "replace")
    tensor = tensor_pb2.TensorProto(dtype="DT_STRING", string_val=[data], tensor_shape=shape)
    value = summary_pb2.Summary.Value(tag=f"{tag}/text_summary", metadata=_metadata("text"), tensor=tensor)
    return _event(wall_time, step, summary=summary_pb2.Summary(value=[value]))


def picture(tag: str, png: bytes, size: tuple[int, int], channels: int, step: int, wall_time: float) -> bytes:
    """Return an image, as `add_image` writes it; `size` is (width, height) in pixels."""
    from tensorboard.compat.proto import summary_pb2

    width, height = size
    image = summary_pb2.Summary.Image(width=width, height=height, colorspace=channels, encoded_image_string=png)
    return _event(wall_time, step, summary=summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=image)]))


def own(tag: str, content: own_records.Content, step: int, wall_time: float) -> bytes:
    """Return what TensorBoard has no form for."""
    from tensorboard.compat.proto import summary_pb2

    value = summary_pb2.Summary.Value(tag=tag, metadata=_metadata(own_records.PLUGIN, own_records.encoded(content)))
    return _event(wall_time, step, summary=summary_pb2.Summary(value=[value]))


def artifact_in(data: bytes, name: str) -> own_records.ArtifactContent | None:
    """Return what a record of the session's own says of an artifact of this name, if it is of one."""
    from tensorboard.compat.proto import event_pb2

    for value in event_pb2.Event.FromString(data).summary.value:
        if value.tag == name and value.metadata.plugin_data.plugin_name == own_records.PLUGIN:
            content = own_records.decoded(value.metadata.plugin_data.content)
            if isinstance(content, own_records.ArtifactContent):
                return content
    return None
