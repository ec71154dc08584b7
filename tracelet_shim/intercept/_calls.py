"""What a call of a public method knew and its proto has lost.

The wrapper round the method notes the call; when the tap sees the event that the call made, it asks the note for its
contribution. Only the outermost call counts: `add_figure` calls `add_image`, `add_hparams` a nested writer's
`add_scalar`. Methods whose proto has everything (histograms, images, audio, text, curves, meshes, tensors, graphs,
layouts) need no note.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from tracelet_shim.bus import messages as msg
from tracelet_shim.events import Array

__all__ = ["NOTES", "Embedding", "Figure", "HParams", "Note", "Scalar", "Scalars", "exact", "now"]


class _Now(threading.local):
    """The note of the outermost call on this thread."""

    call: Note | None = None


now = _Now()

Contribution = tuple["float | None", "msg.Hint | None"]
_NOTHING: Contribution = (None, None)


class Note:
    """A call in progress.

    Args:
        writer: the SummaryWriter.
        args, kwargs: of the call.
    """

    __slots__ = ("args", "kwargs", "writer")
    parameters: tuple[str, ...] = ()

    def __init__(self, writer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.writer = writer
        self.args = args
        self.kwargs = kwargs

    def argument(self, name: str, default: Any = None) -> Any:
        """Return an argument, however it was passed."""
        index = self.parameters.index(name)
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        """Return the exact value and the hint for an event that this call made."""
        raise NotImplementedError


class Scalar(Note):
    __slots__ = ()
    parameters = ("tag", "scalar_value")

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        return exact(self.args[1] if len(self.args) > 1 else self.kwargs["scalar_value"]), None


class Scalars(Note):
    __slots__ = ()
    parameters = ("main_tag", "tag_scalar_dict")

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        """The file writer's directory ends in the key: ``<logdir>/<main_tag with / as _>_<key>``."""
        logdir = str(self.writer._get_file_writer().get_logdir())
        prefix = f"{logdir}/{self.argument('main_tag').replace('/', '_')}_"
        key = str(file_writer.get_logdir())[len(prefix) :]
        values = self.argument("tag_scalar_dict")
        try:
            value = values[key]
        except KeyError:  # a str of another class, with a hash of its own: members of ``class Split(str, Enum)``
            value = next(value for k, value in values.items() if str.__str__(k) == key)
        return exact(value), msg.Series(key)


class Figure(Note):
    __slots__ = ()

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        is_image = any(value.HasField("image") for value in event.summary.value)
        return (None, msg.Figure()) if is_image else _NOTHING


class _Video(Note):
    """The frames, as the native code prepares them: clips of the batch side by side, values as for images."""

    __slots__ = ()
    parameters = ("tag", "vid_tensor", "global_step", "fps")

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        import numpy as np
        from torch.utils.tensorboard._convert_np import make_np
        from torch.utils.tensorboard._utils import _prepare_video

        frames = _prepare_video(make_np(self.argument("vid_tensor")))
        scale = 1 if frames.dtype == np.uint8 else 255
        with np.errstate(all="ignore"):  # NaN, or beyond float32: the native code has warned
            frames = (frames.real.astype(np.float32) * scale).clip(0, 255).astype(np.uint8)
        return None, msg.Frames(Array.of(frames), float(self.argument("fps", 4)))


class HParams(Note):
    """The first event made is the experiment's; the one that has the values carries the dicts, the rest is nested."""

    __slots__ = ()
    parameters: tuple[str, ...] = ("hparam_dict", "metric_dict", "hparam_domain_discrete", "run_name", "global_step")
    name = "run_name"

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        import os.path

        asked_for, own = self.argument(self.name), str(self.writer.file_writer.get_logdir())
        logdir = str(file_writer.get_logdir())
        run = logdir == os.path.join(own, asked_for) if asked_for else os.path.dirname(logdir) == own
        if not run or file_writer in (self.writer.file_writer, getattr(self.writer.file_writer, "event_writer", None)):
            return _NOTHING  # a signal handler's
        if not any(value.tag == "_hparams_/session_start_info" for value in event.summary.value):
            return None, msg.Nested()
        metrics = {}
        for name, metric in self.argument("metric_dict").items():
            with contextlib.suppress(Exception):  # the native code is about to raise the user's error for it
                metrics[_text(name)] = exact(metric)
        run_name = os.path.relpath(logdir, own)
        domain = (self.argument("hparam_domain_discrete") if "hparam_domain_discrete" in self.parameters else None) or {}
        return None, msg.Trial(
            run_name,
            {_text(k): self.plain(value) for k, value in self.argument("hparam_dict").items() if value is not None},
            {name: metric for name, metric in metrics.items() if metric is not None},
            {_text(k): [_parameter(value) for value in values] for k, values in domain.items()},
        )

    def plain(self, value: Any) -> bool | int | float | str:
        """Return a hyper-parameter as a plain value."""
        return _parameter(value)


class Embedding(Note):
    """Makes no event: its record is published after the call, from the arguments."""

    __slots__ = ()
    parameters = ("mat", "metadata", "label_img", "global_step", "tag", "metadata_header")

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        return _NOTHING

    def embedded(self, wall_time: float) -> msg.Embedded:
        import numpy as np

        make_np = self.make_np
        metadata, header = self.argument("metadata"), self.argument("metadata_header")
        rows = None
        if metadata is not None:
            rows = [[str(cell) for cell in row] for row in metadata] if header else [[str(row)] for row in metadata]
        images = self.argument("label_img")
        if images is not None:
            pixels = make_np(images).real.astype(np.float64)  # N x C x H x W in 0..1, as the native sprite takes it
            with np.errstate(all="ignore"):  # NaN: the native code has warned
                images = Array.of(np.moveaxis((pixels * 255).clip(0, 255).astype(np.uint8), 1, 3))
        return msg.Embedded(
            str(self.argument("tag", "default")), _step(self.argument("global_step")), wall_time,
            Array.of(make_np(self.argument("mat"))), rows, [str(h) for h in header] if header else None, images,
        )  # fmt: skip

    def make_np(self, value: Any) -> Any:
        """Return what was given as an array, as the native code does it."""
        from torch.utils.tensorboard._convert_np import make_np

        return make_np(value)


NOTES: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Note]] = {
    "add_scalar": Scalar,
    "add_scalars": Scalars,
    "add_figure": Figure,
    "add_video": _Video,
    "add_hparams": HParams,
    "add_embedding": Embedding,
}
"""The methods that are wrapped, and what notes their calls."""


def exact(value: Any) -> float | None:
    """Return a scalar argument as float64; None where the proto's float32 is exact, or is all there is.

    The native code has taken the value already, so a tensor on an accelerator has been waited for; float16 and float32
    ones are not fetched a second time.
    """
    if type(value) is float:
        return value
    if hasattr(value, "item") and hasattr(value, "dtype"):
        device = getattr(value, "device", None)
        kind = getattr(device, "type", "cpu")
        if kind == "meta" or (kind != "cpu" and str(value.dtype) in ("torch.float32", "torch.float16")):
            return None
        return float(value.item())
    return float(value)


def _parameter(value: Any) -> bool | int | float | str:
    """Return a hyper-parameter as a plain value; the native code takes the first element of a tensor.

    Plain to the type: a message has no ``numpy.str_``, and integers of 64 bits only.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else float(value)
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "reshape"):
        return float(value.reshape(-1)[0])
    return str(value)


def _step(value: Any) -> int:
    """Return the step of an embedding. The native code only puts it into names; what is no 64 bit integer becomes 0."""
    try:
        step = int(value or 0)
    except Exception:
        return 0
    return step if -(2**63) <= step < 2**63 else 0


def _text(value: Any) -> str:
    """Return a text as the proto has it: of subclasses (``class Opt(str, Enum)``) the characters, bytes as UTF-8."""
    if isinstance(value, bytes):
        return value.decode()
    return str.__str__(value) if isinstance(value, str) else str(value)
