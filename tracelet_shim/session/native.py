"""The trackers' own run objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.base import Backend

__all__ = ["Native"]


class Native(Mapping[str, Any]):
    """By name of the tracker, those that live in this process; a look-up says why the others cannot be had here."""

    def __init__(self, backends: Mapping[str, Backend], names: list[str]) -> None:
        self._backends = backends
        self._names = names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(f"{name!r} is not a backend of this session; it has {', '.join(self._names)}")
        if name in self._backends:
            return self._backends[name].handle
        raise errors.ConfigurationError(
            f"the run of {name!r} lives in the relay process; to get its own object here, use delivery='thread' "
            "(TRACELET_DELIVERY=thread)"
        )

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
