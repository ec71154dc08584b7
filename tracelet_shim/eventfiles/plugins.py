"""Values of a summary -> events, as TensorBoard's plugins lay them out: pictures, sounds, texts, curves, meshes, embeddings."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.tensors import array_of, plain_array, texts_of

__all__ = ["audio", "each", "embedding", "image", "meshes", "tensor", "video"]

_TEXT_SUFFIX = "/text_summary"


def image(data: bytes, base: dict[str, Any], *, figure: bool = False) -> ev.Image | ev.Video:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        width, height, channels = picture.width, picture.height, len(picture.getbands())
        frames = getattr(picture, "n_frames", 1)
        if picture.format == "GIF" and frames > 1:
            fps = 1000 / (picture.info.get("duration") or 250)
            return ev.Video(**base, data=data, width=width, height=height, frames=frames, fps=fps)
        form = (picture.format or "png").lower()
    return ev.Image(**base, data=data, format=form, width=width, height=height, channels=channels, figure=figure)


def video(hint: msg.Frames, base: dict[str, Any]) -> ev.Video:
    """Encode the frames as GIF. Pillow drops a frame that equals the one before it and lengthens that one instead, so
    the file plays as it should; `frames` tells the true number."""
    from PIL import Image

    frames = hint.frames.numpy()
    pictures = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame[..., :3]) for frame in frames]
    out = io.BytesIO()
    duration = max(1, round(1000 / hint.fps)) if hint.fps > 0 else 250
    pictures[0].save(out, format="GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    height, width = frames.shape[1:3]
    return ev.Video(**base, data=out.getvalue(), width=width, height=height, frames=len(frames), fps=hint.fps)


def tensor(value: Any, plugin: str, base: dict[str, Any]) -> ev.Event:
    decode = _PLUGINS.get(plugin)
    return decode(value, base) if decode else ev.Tensor(**base, value=plain_array(value.tensor), plugin=plugin or "tensor")


def _text(value: Any, base: dict[str, Any]) -> ev.Text:
    """TensorFlow's texts may be lists, which become paragraphs, or tables; of more than two dimensions, one table after the
    other (TensorBoard shows the first)."""
    texts = texts_of(value.tensor)
    base["tag"] = base["tag"].removesuffix(_TEXT_SUFFIX)
    parts = [part.decode("utf-8", "replace") for part in texts.reshape(-1)]
    if texts.ndim < 2 or not parts:
        return ev.Text(**base, text="\n\n".join(parts))
    columns = texts.shape[-1]
    rows = [_row(parts[at : at + columns]) for at in range(0, len(parts), columns)]
    head = [_row([""] * columns), _row(["---"] * columns)]
    tables = ["\n".join(head + rows[at : at + texts.shape[-2]]) for at in range(0, len(rows), texts.shape[-2])]
    return ev.Text(**base, text="\n\n".join(tables))


def _row(cells: list[str]) -> str:
    """Return a row of a table in Markdown, in which a cell has one line."""
    lines = ("<br>".join(cell.replace("|", "\\|").splitlines()) for cell in cells)
    return f"| {' | '.join(lines)} |"


def _pr_curve(value: Any, base: dict[str, Any]) -> ev.PRCurve:
    rows = array_of(value.tensor)
    names = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")
    base.update((name, tuple(map(float, row))) for name, row in zip(names, rows, strict=True))
    return ev.PRCurve(**base)


def _custom_scalars(value: Any, base: dict[str, Any]) -> ev.CustomScalars:
    from tensorboard.plugins.custom_scalar import layout_pb2

    layout: dict[str, dict[str, tuple[str, list[str]]]] = {}
    (data,) = texts_of(value.tensor).reshape(-1)
    for category in layout_pb2.Layout.FromString(data).category:
        charts = layout.setdefault(category.title, {})
        for chart in category.chart:
            if chart.WhichOneof("content") == "margin":
                tags = [tag for s in chart.margin.series for tag in (s.value, s.lower, s.upper)]
                charts[chart.title] = ("Margin", tags)
            else:
                charts[chart.title] = ("Multiline", list(chart.multiline.tag))
    return ev.CustomScalars(**base, layout=layout)


def each(make: Callable[..., ev.Event], items: Sequence[bytes], base: Callable[[int], dict[str, Any]]) -> list[ev.Event]:
    """Make an event of each item.

    Raises:
        Exception: there is none, or the only one is no picture, or no sound.
    """
    if len(items) < 2:
        (data,) = items
        return [make(data, base(0))]
    events: list[ev.Event] = []
    for number, data in enumerate(items):
        try:
            events.append(make(data, base(number)))
        except Exception:  # keep its bytes
            events.append(ev.Blob(**base(number), data=data, name="summary_item.bin"))
    return events


def audio(data: bytes, base: dict[str, Any]) -> ev.Audio:
    import wave

    with wave.open(io.BytesIO(data)) as sound:
        rate, channels, frames = sound.getframerate(), sound.getnchannels(), sound.getnframes()
    return ev.Audio(**base, data=data, sample_rate=rate, channels=channels, frames=frames)


def _histogram(value: Any, base: dict[str, Any]) -> ev.Histogram:
    """TensorFlow 2's histograms: k x 3, [left, right, count]; the samples themselves are not known."""
    buckets = array_of(value.tensor)
    if buckets.shape[1:] != (3,):
        raise ValueError(f"a histogram of shape {buckets.shape}")
    left, right, count = buckets.T
    middle = (left + right) / 2
    return ev.Histogram(
        **base, min=float(left.min(initial=0)), max=float(right.max(initial=0)), num=float(count.sum()),
        sum=float(count @ middle), sum_squares=float(count @ middle**2),
        limits=(float(left[0]), *map(float, right)) if len(left) else (), counts=(0.0, *map(float, count)) if len(left) else (),
    )  # fmt: skip


_PLUGINS: dict[str, Callable[[Any, dict[str, Any]], ev.Event]] = {
    "text": _text,
    "pr_curves": _pr_curve,
    "custom_scalars": _custom_scalars,
    "histograms": _histogram,
}


def meshes(values: dict[int, Any], base: Callable[[str, int], dict[str, Any]]) -> Iterator[ev.Event]:
    """Join the parts of each mesh: `add_mesh` writes vertices, faces and colours as values of one summary."""
    from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData

    parts: dict[tuple[str, int], dict[int, tuple[int, Any]]] = {}
    config: dict[tuple[str, int], str] = {}
    tags: dict[tuple[str, int], str] = {}
    for index, value in values.items():
        about = MeshPluginData.FromString(value.metadata.plugin_data.content)
        number = 0
        while about.content_type in parts.setdefault((about.name, number), {}):  # there is another mesh of this name
            number += 1
        key = about.name, number
        parts[key][about.content_type] = index, value.tensor
        config[key] = about.json_config if about.json_config not in ("", "null") else "{}"  # tensorboardX writes its None
        if about.content_type == MeshPluginData.VERTEX:  # the name is not the tag where that is None or bytes
            tags[key] = about.name if value.tag == f"{about.name}_1" else value.tag.removesuffix("_VERTEX")  # _1: tensorboardX
    for key, tensors in parts.items():
        first = min(index for index, _ in tensors.values())
        if MeshPluginData.VERTEX not in tensors:
            for index, tensor in tensors.values():
                yield ev.Tensor(**base(key[0], index), value=plain_array(tensor), plugin="mesh")
            continue
        vertices, faces, colors = (
            array_of(tensors[part][1]) if part in tensors else None
            for part in (MeshPluginData.VERTEX, MeshPluginData.FACE, MeshPluginData.COLOR)
        )
        with np.errstate(all="ignore"):  # NaN as a colour
            yield ev.Mesh(
                **base(tags[key], first), config=config[key], vertices=ev.Array.of(np.asarray(vertices, np.float32)),
                faces=ev.Array.of(faces.astype(np.int32)) if faces is not None else None,
                colors=ev.Array.of(colors.clip(0, 255).astype(np.uint8)) if colors is not None else None,
            )  # fmt: skip


def embedding(hint: msg.Embedded, writer: str, logdir: str, record: ev.RecordId) -> ev.Embedding:
    sprite = size = None
    if hint.images is not None:
        with contextlib.suppress(Exception):  # the points are worth more than their pictures
            sprite, size = _sprite(hint.images.numpy())
    return ev.Embedding(
        writer=writer, tag=hint.tag, step=hint.step, wall_time=hint.wall_time, record=record, logdir=logdir,
        matrix=hint.matrix,
        metadata=tuple(map(tuple, hint.metadata)) if hint.metadata is not None else None,
        metadata_header=tuple(hint.header) if hint.header else None, sprite=sprite, sprite_size=size,
    )  # fmt: skip


def _sprite(images: np.ndarray[Any, Any]) -> tuple[bytes, tuple[int, int]]:
    """Lay the label images (uint8, N x H x W x C) out row by row on a square grid, as the projector wants them."""
    from PIL import Image

    n, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(n)))
    sheet = np.zeros((columns * height, columns * width, channels), np.uint8)
    for i, picture in enumerate(images):
        row, column = divmod(i, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    out = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(out, format="PNG")
    return out.getvalue(), (width, height)
