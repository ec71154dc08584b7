"""Values as every store takes them: UTF-8, finite numbers, 64 bits; nested parameters under flat names; long texts cut."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["cut", "finite", "flat", "int64", "plain", "utf8"]

_INT64 = 1 << 63


def utf8(text: str) -> str:
    """Return `text` with what UTF-8 cannot hold, lone surrogates, written as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def finite(value: float) -> float | str:
    """Return `value`; NaN and infinities as text: JSON has no numbers for them, and most stores make null of all three."""
    return value if math.isfinite(value) else str(value)


def int64(value: int) -> int | str:
    """Return `value`; one beyond 64 bits as text: few databases have numbers for it."""
    return value if -_INT64 <= value < _INT64 else str(value)


def plain(
    value: Any,
    *,
    number: Callable[[float], Any] = finite,
    integer: Callable[[int], Any] = int64,
    key: Callable[[str], str] = utf8,
    text: Callable[[str], str] = utf8,
) -> Any:
    """Return a value, however deep, in the types that JSON has. All other types become text.

    Args:
        value: the user's.
        number: what becomes of a float.
        integer: what becomes of an integer.
        key: what becomes of a mapping's key.
        text: what becomes of a text.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, Mapping):
        return {key(str(k)): plain(v, number=number, integer=integer, key=key, text=text) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, number=number, integer=integer, key=key, text=text) for each in value]
    return text(str(value))


def flat(config: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Return nested parameters under one name each, joined by `separator`: ``{"a": {"b": 1}}`` -> ``{"a/b": 1}``.

    Lists, and mappings that are empty, become JSON. If that gave one name twice, nested values stay in one piece, as JSON.
    """

    def leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            return [leaf for key, inner in value.items() for leaf in leaves(f"{prefix}{separator}{key}", inner)]
        return [(prefix, value)]

    pairs = [leaf for key, value in config.items() for leaf in leaves(str(key), value)]
    if len(dict(pairs)) < len(pairs):
        pairs = [(str(key), value) for key, value in config.items()]
    return {name: json.dumps(value) if isinstance(value, (Mapping, list, tuple)) else value for name, value in pairs}


def cut(text: str, limit: int, mark: str = "...") -> str:
    """Return `text` if it has at most `limit` characters; else its beginning and `mark`, `limit` characters together."""
    return text if len(text) <= limit else text[: max(0, limit - len(mark))] + mark
