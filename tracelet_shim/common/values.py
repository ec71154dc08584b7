"""Values of a user's configuration, as JSON and msgpack can hold them.

What tells of a library (OmegaConf, pydantic, attrs) is looked for on the value itself; nothing is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import ModuleType, SimpleNamespace
from typing import Any

from tracelet_shim.common.text import as_utf8

__all__ = ["named", "plain"]

_NO_LISTS = (str, bytes, bytearray, memoryview, range)
_MISSING = object()


def named(value: Any) -> dict[str, Any]:
    """Return what a configuration object holds, by name: a mapping, a dataclass, a namespace, ...

    Raises:
        TypeError: it holds nothing by name.
    """
    if isinstance(value, Mapping):
        return {str(key): found for key, found in _items(value)}
    if isinstance(value, (*_NO_LISTS, os.PathLike)):
        raise TypeError
    found = value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else _fields(value)
    if found is None and not isinstance(value, Sequence):
        slots = [name for kind in type(value).__mro__ for name in _several(kind.__dict__.get("__slots__", ()))]
        found = _attributes(value, [*getattr(value, "__dict__", ()), *slots]) or None
    if found is None:
        raise TypeError
    return dict(found)


def plain(value: Any, text: Callable[[str], str] = as_utf8, _within: tuple[int, ...] = ()) -> Any:
    """Return a value as JSON and msgpack can hold it: objects with fields as tables, all kinds of sequences as lists, numpy and
    torch scalars as numbers, anything unknown as text. What goes to a tracker is UTF-8, which `text` makes of a text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, os.PathLike):
        return text(os.fsdecode(value))
    if id(value) in _within:  # it holds itself
        return "..."
    within = (*_within, id(value))
    table = value if isinstance(value, Mapping) else None if isinstance(value, (list, tuple)) else _fields(value)
    if table is not None:
        return {as_utf8(str(key)): plain(found, text, within) for key, found in _items(table)}
    if isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, _NO_LISTS):
        return [plain(found, text, within) for found in _elements(value)]
    if getattr(value, "size", None) == 1 or getattr(value, "ndim", None) == 0:
        return plain(value.item(), text, within)
    return text(str(value))


def _fields(value: Any) -> dict[str, Any] | None:
    """Return the fields of an object that was made to have some; None if it was not."""
    kind = type(value)
    if isinstance(value, (type, ModuleType)):
        return None
    if _is_namespace(value):
        return dict(vars(value))
    if hasattr(kind, "__dataclass_fields__"):
        return _attributes(value, (field.name for field in sys.modules["dataclasses"].fields(value)))
    if hasattr(kind, "__attrs_attrs__"):
        return _attributes(value, (field.name for field in kind.__attrs_attrs__))
    for fields in ("__struct_fields__", "model_fields", "__fields__"):  # msgspec, pydantic, and pydantic of old
        names = getattr(kind, fields, None)
        if isinstance(names, (tuple, Mapping)):
            return _attributes(value, [*names, *(getattr(value, "model_extra", None) or ())])
    return None


def _is_namespace(value: Any) -> bool:
    namespace = getattr(sys.modules.get("argparse"), "Namespace", SimpleNamespace)
    return isinstance(value, (SimpleNamespace, namespace))


def _attributes(value: Any, names: Iterable[str]) -> dict[str, Any]:
    found = {name: getattr(value, name, _MISSING) for name in names if not name.startswith("__")}
    return {name: of_name for name, of_name in found.items() if of_name is not _MISSING}


def _several(names: str | Iterable[str]) -> Iterable[str]:
    return (names,) if isinstance(names, str) else names


def _items(table: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield keys and values. OmegaConf raises for a value that is missing or cannot be resolved; the others are there."""
    for key in table:
        yield key, _read(table, key)


def _elements(values: Sequence[Any] | AbstractSet[Any]) -> Iterator[Any]:
    if isinstance(values, (list, tuple, AbstractSet)):
        yield from values
    else:
        yield from (_read(values, number) for number in range(len(values)))


def _read(values: Any, key: Any) -> Any:
    try:
        return values[key]
    except Exception as error:  # whatever the library raises
        return f"<{type(error).__name__}>"
