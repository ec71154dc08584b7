"""Parameters and the latest values, in the forms that ``params.yaml`` and ``metrics.json`` have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tracelet_shim.backends.shared.values import plain, utf8

__all__ = ["flatten", "nest", "yaml_value"]

_LONGEST_PARAM = 20_000
_UNREADABLE = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Line breaks of Unicode: ruamel.yaml folds a text there, and loses them."""


def yaml_value(value: Any) -> Any:
    """Return `value` in the types that YAML has; any other type would leave an empty params.yaml behind."""
    return plain(value, number=float, integer=int, key=_yaml_text, text=_short)


def _short(text: str) -> str:
    text = _yaml_text(text)
    if len(text) > _LONGEST_PARAM:
        return f"{text[:_LONGEST_PARAM]} ... (cut; {len(text)} characters are in run.json or media/hparams)"
    return text


def _yaml_text(text: str) -> str:
    """Return `text` with what UTF-8 cannot hold (lone surrogates) or ruamel.yaml does not read back as escapes."""
    return utf8(str(text)).translate(_UNREADABLE)


def flatten(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nest keys by their slashes; below a key that is a metric itself, the rest of a key stays in one piece."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        parts = key.split("/")
        for i in range(1, len(parts)):
            if "/".join(parts[:i]) in flat:
                parts[i - 1 :] = ["/".join(parts[i - 1 :])]
                break
        place = nested
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = value
    return nested
