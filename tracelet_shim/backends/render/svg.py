"""A line through points as a small SVG picture, for pages that show pictures and have no charts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.sax.saxutils import escape

__all__ = ["line_chart"]


def line_chart(points: Iterable[tuple[float, float]], title: str, across: str, up: str) -> bytes:
    """Return the picture; empty if there is nothing to draw. What is not finite is left out.

    Args:
        points: (x, y), in the order in which the line goes through them.
        title: what stands above.
        across: what stands at the horizontal axis.
        up: what stands at the vertical one.
    """
    drawn = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not drawn:
        return b""
    left, right = min(x for x, _ in drawn), max(x for x, _ in drawn)
    top = max(y for _, y in drawn)
    wide, high = (right - left) or 1.0, top or 1.0
    line = " ".join(f"{60 + 520 * ((x - left) / wide):.1f},{300 - 260 * (y / high):.1f}" for x, y in drawn)
    words = [(320, 20, title), (320, 335, across), (60, 318, f"{left:.4g}"), (580, 318, f"{right:.4g}")]
    words += [(60, 34, up), (30, 48, f"{top:.4g}")]
    texts = (f'<text x="{x}" y="{y}" text-anchor="middle">{escape(_printable(t))}</text>' for x, y, t in words)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="350" font-family="sans-serif" font-size="12">'
        f'<rect width="640" height="350" fill="white"/>{"".join(texts)}'
        '<path d="M60 40V300H580" fill="none" stroke="grey"/>'
        f'<polyline points="{line}" fill="none" stroke="#1f77b4"/></svg>'
    ).encode()


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:80])
