"""The path of each event, which is its key in a tracker: no two things have the same one."""

from __future__ import annotations

import msgspec

from tracelet_shim import events as ev

__all__ = ["Paths"]


class Paths:
    """Tells apart what joins to the same path: the root's tag ``a/b``, the tag ``b`` of the writer ``a``, and the series
    ``b`` of ``a``. Who came first has the plain path.

    Only paths with a slash can meet. A program that makes up a tag for each step is watched up to `_MOST` of them.
    """

    _MOST = 20_000

    def __init__(self) -> None:
        self._suffixes: dict[tuple[str, str, str | None], str] = {}
        self._owners: dict[str, int] = {}
        self._new: list[tuple[str, str, str, str | None, str]] = []

    def remember(self, path: str, writer: str, tag: str, series: str | None, suffix: str) -> None:
        self._suffixes[writer, tag, series] = suffix
        self._owners[path] = self._owners.get(path, 0) + 1

    def take_new(self) -> list[tuple[str, str, str, str | None, str]]:
        new, self._new = self._new, []
        return new

    def distinct(self, event: ev.Event) -> ev.Event:
        """Return the event, with a suffix if its path belongs to another one."""
        series = event.series if isinstance(event, ev.Scalar) else None
        if isinstance(event, (ev.Marker, ev.HParams)) and (event.writer, event.tag, series) not in self._suffixes:
            return event
        suffix = self.suffix(event.writer, event.tag, series)
        return msgspec.structs.replace(event, suffix=suffix) if suffix else event

    def suffix(self, writer: str, tag: str, series: str | None) -> str:
        """Return what is added to the path of an event: nothing, unless the path belongs to another one."""
        key = (writer, tag, series)
        suffix = self._suffixes.get(key)
        if suffix is None:
            path = f"{writer}/{tag}" if writer else tag
            path = path if series is None else f"{path}/{series}"
            if "/" not in path or len(self._suffixes) >= self._MOST:
                return ""
            owners = self._owners.get(path, 0)
            suffix = f"~{owners + 1}" if owners else ""
            self.remember(path, *key, suffix)
            self._new.append((path, *key, suffix))
        return suffix
