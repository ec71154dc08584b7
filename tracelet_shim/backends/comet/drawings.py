"""Histograms, meshes and embeddings in the forms that Comet draws."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.comet import compat

__all__ = ["bins", "embedding", "points_3d", "row_count"]

_MAX_FACES = 20_000  # of a mesh drawn as lines
_LIMITS_3D = {"maxPoints": 1_000_000, "maxBoxes": 250_000}  # the SDK's, for a server that names none


def bins(event: ev.Histogram) -> dict[str, Any] | None:
    """Return the JSON of a `comet_ml.data_structure.Histogram` with the samples of `event`, or None if it has none.

    A bucket's samples are spread evenly over the bins that it overlaps. Counts become whole numbers of the same total.
    """
    from comet_ml.data_structure import Histogram

    shown = Histogram()
    edges = [float(edge) for edge in shown.values]
    sums = [0.0] * len(edges)
    first, last = edges[1], edges[-2]
    left = min(event.min, event.limits[0]) if event.limits else 0.0
    for limit, count in zip(event.limits, event.counts, strict=True):
        low, high = (min(max(x, y), z) for x, y, z in ((left, event.min, event.max), (limit, event.min, event.max)))
        left = limit
        if not (count > 0 and math.isfinite(count) and math.isfinite(low) and math.isfinite(high)):
            continue
        low, high = min(max(low, first), last), min(max(high, first), last)
        start, stop = bisect.bisect_right(edges, low) - 1, bisect.bisect_left(edges, high) - 1
        if stop <= start:
            sums[start] += count
            continue
        for i in range(start, stop + 1):
            share = (min(edges[i + 1], high) - max(edges[i], low)) / (high - low)
            sums[i] += count * share
    total, whole, counts = 0.0, 0, []
    for value in sums:
        total += value
        counts.append(round(total) - whole)
        whole = round(total)
    if not whole:
        return None
    shown.counts = counts
    return dict(shown.to_json())


def points_3d(event: ev.Mesh, name: str, experiment: Any) -> list[Any]:
    """Return the messages of a mesh as 3D points with colours, faces as lines. What is empty or not finite has its file only."""
    import numpy as np
    messages: list[Any] = []
    vertices = event.vertices.numpy()
    for i, points in enumerate(vertices):
        if not len(points) or not np.isfinite(points).all():
            continue
        colors = event.colors.numpy()[i].tolist() if event.colors is not None else None
        rows = points.tolist()
        faces = event.faces.numpy()[i] if event.faces is not None else ()
        outlines = [[rows[a], rows[b], rows[c], rows[a]] for a, b, c in faces[:_MAX_FACES]]
        low, high = points.min(0), points.max(0)
        box = {
            "position": ((low + high) / 2).tolist(), "label": "faces", "name": "faces", "color": [255, 255, 255],
            "size": dict(zip(("width", "height", "depth"), (high - low).tolist(), strict=True)),
            "segments": outlines,
        }  # fmt: skip
        compat.points_3d(
            f"{name} ·{i}" if len(vertices) > 1 else name,
            [row + colors[n] for n, row in enumerate(rows)] if colors is not None else rows,
            [box] if outlines else None,
            {"tag": event.path[:500]},
            step=event.step,
            points_3d_upload_limits={**_LIMITS_3D, **experiment.points_3d_upload_limits},
            summary=experiment._summary,
            enqueue_message_callback=messages.append,
        )
    return messages


def embedding(event: ev.Embedding, name: str, experiment: Any, asset_of: Callable[[str], str]) -> dict[str, Any]:
    """Return what the embedding projector reads: names and links of the files that are assets.

    Args:
        event: the points.
        name: the title.
        experiment: the SDK's object.
        asset_of: gives the id of the asset with this suffix.
    """

    def link(suffix: str) -> tuple[str, str]:  # once the server has told how links begin
        asset = asset_of(suffix)
        return asset, experiment._get_uploaded_asset_url(asset)["web"]

    (vectors, vectors_url), (labels, labels_url) = link("tensors.tsv"), link("metadata.tsv")
    sprite, sprite_url = link("sprite.png") if event.sprite is not None else (None, None)
    shown = compat.projection(
        vector_url=vectors_url, vector_shape=[row_count(event), math.prod(event.matrix.shape[1:])], vector_asset_id=vectors,
        metadata_url=labels_url, metadata_asset_id=labels, sprite_url=sprite_url, sprite_asset_id=sprite,
        image_size=event.sprite_size, title=name, experiment_key=experiment.id,
    )  # fmt: skip
    return {"embeddings": [shown.to_json()]}


def row_count(event: ev.Embedding) -> int:
    return event.matrix.shape[0] if event.matrix.shape else 0
