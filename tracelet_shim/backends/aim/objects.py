"""Aim's own objects, made of what an event holds as it is: Aim would decode and encode it again, or want a library for it."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from tracelet_shim import events as ev
from tracelet_shim.backends.render.bins import uniform_bins
from tracelet_shim.backends.render.plotly import Figure
from tracelet_shim.backends.render.tables import bucket_numbers

__all__ = ["as_text", "audio", "distribution", "figure", "picture", "text"]

_BINS = 512  # aim.Distribution documents no more
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/flac": "flac"}


def distribution(event: ev.Histogram) -> Any | None:
    """Return an `aim.Distribution`, with the exact buckets in it; None if a number is not finite.

    It has uniform bins only: the buckets are rebinned, mass preserving. The exact ones are under ``tensorboard``.
    """
    import aim

    bins = uniform_bins(event, _BINS)
    if bins is None:
        return None
    low, high, counts = bins
    made = aim.Distribution(hist=counts, bin_range=(low, high))
    exact = {name: float(number) for name, number in bucket_numbers(event).items()}
    blobs = {name: _blob(np.asarray(getattr(event, name), "<f8").tobytes()) for name in ("limits", "counts")}
    made.storage["tensorboard"] = {**exact, **blobs}
    return made


def picture(event: ev.Image | ev.Video, form: str) -> Any:
    """Return an `aim.Image` of the same bytes: its own `__init__` would decode and encode them again."""
    import aim

    made = aim.Image.__new__(aim.Image)
    about = {"caption": "", "source": "PIL.Image", "mode": "RGB", "format": form}
    for key, value in {**about, "width": event.width, "height": event.height, "data": _blob(event.data)}.items():
        made.storage[key] = value
    return made


def audio(event: ev.Audio) -> Any | None:
    """Return an `aim.Audio`; None for a format that Aim does not know."""
    import aim

    form = _AUDIO.get(event.content_type)
    return None if form is None else aim.Audio(event.data, format=form)


def figure(drawn: Figure) -> Any:
    """Return an `aim.Figure`; its own `__init__` wants an object of the plotly package."""
    import aim

    traces, layout = drawn
    content = json.dumps({"data": traces, "layout": layout}, allow_nan=False)
    made = aim.Figure.__new__(aim.Figure)
    for key, value in {"source": "plotly", "version": "unknown", "format": "raw_json", "data": _blob(content)}.items():
        made.storage[key] = value
    return made


def text(value: str) -> Any:
    """Return an `aim.Text` of what can be UTF-8."""
    import aim

    return aim.Text(value)


def as_text(data: bytes) -> str:
    """Return a file as a text, for a server where nobody has named a place that both sides see."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def _blob(data: bytes | str) -> Any:
    from aim.storage.types import BLOB

    return BLOB(data=data)
