"""Backends by name: the entry-point group ``tracelet_shim.backends``."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from importlib import metadata
from typing import Any

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability

__all__ = ["GROUP", "find", "names", "prepare_shared", "validate"]

GROUP = "tracelet_shim.backends"


@lru_cache(1)
def _entry_points() -> dict[str, metadata.EntryPoint]:
    """Looking through all installed distributions takes some 15 ms."""
    return {point.name.lower(): point for point in metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """Return the names of all registered backends, sorted. Loads none of them."""
    return sorted(_entry_points())


def find(name: str) -> type[Backend]:
    """Load and validate the backend registered as `name` (case does not matter).

    Raises:
        UnknownBackendError: nothing is registered under that name.
        InvalidBackendError: what is registered is no backend.
    """
    key = name.strip().lower()
    if key not in _entry_points():
        _entry_points.cache_clear()  # it may have been installed since, from a notebook
    points = _entry_points()
    point = points.get(key)
    if point is None:
        raise errors.UnknownBackendError(name, points)
    try:
        loaded = point.load()
    except Exception as error:
        raise errors.InvalidBackendError(point.value, f"loading it failed: {error!r}") from error
    return validate(loaded)


def prepare_shared(environment: MutableMapping[str, str]) -> None:
    """Before any SDK is imported: set the variables that a process for many runs has, where they are not set."""
    for name in names():
        try:
            variables = find(name).shared_variables
        except errors.TraceletError:  # who uses it is told
            continue
        for variable, value in variables.items():
            environment.setdefault(variable, value)


def validate(candidate: Any) -> type[Backend]:
    """Return `candidate` if it is a complete backend class, else raise `InvalidBackendError` that names the problem."""
    if not (isinstance(candidate, type) and issubclass(candidate, Backend)):
        raise errors.InvalidBackendError(candidate, "it is no subclass of tracelet_shim.backends.base.Backend")
    missing = sorted(getattr(candidate, "__abstractmethods__", ()))
    if missing:
        raise errors.InvalidBackendError(candidate, f"it does not implement {', '.join(missing)}")
    for attribute in ("name", "module", "distribution"):
        value = getattr(candidate, attribute, None)
        if not isinstance(value, str) or not value:
            raise errors.InvalidBackendError(candidate, f"its class attribute {attribute!r} is {value!r}, not a text")
    table = getattr(candidate, "capabilities", None)
    if not isinstance(table, Mapping):
        raise errors.InvalidBackendError(candidate, "it has no capabilities table (event type -> Capability)")
    wrong = [kind.__name__ for kind in ev.EVENT_TYPES if not isinstance(table.get(kind), Capability)]
    if wrong:
        raise errors.InvalidBackendError(candidate, f"its capabilities table has no Capability for {', '.join(wrong)}")
    return candidate
