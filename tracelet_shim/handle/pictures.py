"""Arrays, pictures and figures as PNG."""

from __future__ import annotations

import io
import os
from typing import Any, NamedTuple

__all__ = ["Picture", "figure", "picture"]


class Picture(NamedTuple):
    """An encoded PNG; `size` is (width, height) in pixels."""

    png: bytes
    size: tuple[int, int]
    channels: int


def picture(image: Any) -> Picture:
    """Return a picture: of Pillow's, a file, or an array or tensor of shape H x W, H x W x C or C x H x W, with C of 1, 3 or 4;
    uint8, or float from 0 to 1.

    Raises:
        OSError, TypeError, ValueError: it is none.
    """
    from PIL import Image

    if isinstance(image, (str, os.PathLike)):
        with Image.open(image) as found:
            return _encoded(found)
    if isinstance(image, Image.Image):
        return _encoded(image)
    return _encoded(Image.fromarray(_pixels(image)))


def figure(drawn: Any) -> Picture:
    """Return a figure of Matplotlib's, which stays open.

    Raises:
        TypeError: it is another one.
    """
    from PIL import Image

    if not hasattr(drawn, "savefig"):
        raise TypeError(f"a {type(drawn).__name__} is no figure of Matplotlib's")
    out = io.BytesIO()
    drawn.savefig(out, format="png")
    with Image.open(out) as found:
        return Picture(out.getvalue(), found.size, len(found.getbands()))


def _pixels(image: Any) -> Any:
    import numpy as np

    if hasattr(image, "detach"):  # a tensor; on an accelerator this waits for it
        image = image.detach().cpu().numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(f"an array of shape {array.shape} is no image")
    if array.dtype == bool:
        array = array * np.float32(1)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN
            array = (array * 255).round().clip(0, 255)
    return np.ascontiguousarray(array.astype(np.uint8))


def _encoded(image: Any) -> Picture:
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    out = io.BytesIO()
    image.save(out, format="PNG")
    return Picture(out.getvalue(), image.size, len(image.getbands()))
