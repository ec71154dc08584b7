"""Images as MLflow's image grid takes them: a PNG and a thumbnail, under names that its page parses."""

from __future__ import annotations

import hashlib
import io
import uuid

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend

__all__ = ["picture"]


def picture(event: ev.Image, key: str) -> tuple[str, bytes, bytes] | None:
    """Return (path without suffix, PNG, WebP thumbnail); None for what is no picture that Pillow reads: MLflow needs one.

    The path is what `MlflowClient.log_image` makes, but made from the event: a second delivery replaces the first. A PNG is
    TensorBoard's own, unchanged.
    """
    from PIL import Image

    png, thumbnail = io.BytesIO(event.data), io.BytesIO()
    try:
        with Image.open(io.BytesIO(event.data)) as image:
            if event.format != "png":
                png = io.BytesIO()
                image.save(png, format="PNG")
            clear = "A" in image.getbands() or "transparency" in image.info
            small = image.convert("RGBA" if clear else "RGB")
        small.thumbnail((256, 256))
        small.save(thumbnail, format="WEBP", method=0)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    record = "\0".join(map(str, event.record)).encode("utf-8", "surrogateescape")
    identity = uuid.UUID(bytes=hashlib.blake2b(record, digest_size=16).digest(), version=4)
    when = Backend.wall_time_ms(event)
    path = f"images/{key.replace('/', '~')}+step+{event.step}+timestamp+{when}+{identity}"
    return path, png.getvalue(), thumbnail.getvalue()
