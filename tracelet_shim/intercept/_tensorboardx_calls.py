"""What a call of tensorboardX's methods knew and its proto has lost: as in `_calls`, where its ways are other ones."""

from __future__ import annotations

import os.path
from collections.abc import Callable
from typing import Any

from tracelet_shim.bus import messages as msg
from tracelet_shim.events import Array
from tracelet_shim.intercept import _calls
from tracelet_shim.intercept._calls import Contribution, Note

__all__ = ["NOTES"]


class _Scalar(_calls.Scalar):
    __slots__ = ()

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        return _exact(self.argument("scalar_value")), None


class _Scalars(_calls.Scalars):
    __slots__ = ()

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        """The event writer's directory is ``<logdir>/<main_tag>/<key>``."""
        logdir, main_tag = str(self.writer._get_file_writer().get_logdir()), self.argument("main_tag")
        own = str(file_writer.get_logdir())
        for key, value in self.argument("tag_scalar_dict").items():
            if os.path.join(logdir, main_tag, key) == own:
                return _exact(value), msg.Series(str.__str__(key))
        return None, None


class _Video(Note):
    """The frames, as the native code prepares them; it has room for other orders of the dimensions than torch."""

    __slots__ = ()
    parameters = ("tag", "vid_tensor", "global_step", "fps", "walltime", "dataformats")

    def contribution(self, event: Any, file_writer: Any) -> Contribution:
        import numpy as np
        from tensorboardX.utils import _prepare_video, convert_to_NTCHW  # type: ignore[import-untyped]

        clips = convert_to_NTCHW(_make_np(self.argument("vid_tensor")), self.argument("dataformats", "NTCHW"))
        with np.errstate(all="ignore"):
            frames = (_prepare_video(clips).astype(np.float32) * 255).round(3).clip(0, 255).astype(np.uint8)
        return None, msg.Frames(Array.of(frames), float(self.argument("fps", 4)))


class _HParams(_calls.HParams):
    __slots__ = ()
    parameters = ("hparam_dict", "metric_dict", "name", "global_step")
    name = "name"

    def plain(self, value: Any) -> bool | int | float | str:
        """As the native code takes it: functions and classes by their names."""
        if callable(value) and not isinstance(value, (str, bool, int, float)):
            return str(getattr(value, "__name__", value))
        return super().plain(value)


class _Embedding(_calls.Embedding):
    __slots__ = ()

    def make_np(self, value: Any) -> Any:
        return _make_np(value)


def _make_np(value: Any) -> Any:
    """As tensorboardX does it, which has said already what it has to say of NaN."""
    import logging

    from tensorboardX import x2num  # type: ignore[import-untyped]

    logger = logging.getLogger(x2num.__name__)
    before, logger.disabled = logger.disabled, True
    try:
        return x2num.make_np(value)
    finally:
        logger.disabled = before


def _exact(value: Any) -> float | None:
    """Return a scalar as float64; None where only tensorboardX knows what it is (a list of one, an array of another library)."""
    try:
        return _calls.exact(value)
    except (TypeError, ValueError):
        return None


NOTES: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Note]] = {
    "add_scalar": _Scalar,
    "add_scalars": _Scalars,
    "add_figure": _calls.Figure,
    "add_video": _Video,
    "add_hparams": _HParams,
    "add_embedding": _Embedding,
}
"""The methods that are wrapped, and what notes their calls."""
