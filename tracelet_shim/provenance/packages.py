"""The packages that a program could import, by name and version."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from importlib import metadata

__all__ = ["packages"]

_NAME, _VERSION = (re.compile(rf"^{field}:[ \t]*(\S.*?)\s*$", re.MULTILINE | re.IGNORECASE) for field in ("Name", "Version"))
_END_OF_FIELDS = re.compile(r"^\s*$", re.MULTILINE)

_FOLDERS = (".dist-info", ".egg-info", ".egg", ".egg-link")

_places: dict[str, tuple[int, tuple[str, ...]]] = {}
"""By directory, when it was changed, and what is installed there."""
_looking = threading.Lock()
_latest: tuple[object, dict[str, str], list[str]] | None = None

logger = logging.getLogger("tracelet_shim.relay")


def packages() -> tuple[dict[str, str], list[str]]:
    """Return the version of each package that the program could import; of several, the one that it would get. And those that
    cannot be read.

    A process that serves many sessions looks again when something was installed since, or is on its path no more.
    """
    global _latest
    with _looking:
        now = [(entry, _installed(entry)) for entry in sys.path]
        if _latest is None or _latest[0] != now:
            _latest = (now, *_look())
        _, found, lost = _latest
        return dict(found), list(lost)


def _installed(entry: str) -> tuple[str, ...] | int:
    """Return what tells whether something was installed in a place: the names of its packages' folders, which have the version;
    of a file, when it was changed. A directory that the program works in changes all the time."""
    try:
        changed = os.stat(entry or os.curdir).st_mtime_ns
    except OSError:
        return ()
    try:
        if entry not in _places or _places[entry][0] != changed:
            names = [name for name in os.listdir(entry or os.curdir) if name.endswith(_FOLDERS)]
            _places[entry] = (changed, tuple(sorted(names)))
        return _places[entry][1]
    except NotADirectoryError:
        return changed
    except OSError:
        return ()


def _look() -> tuple[dict[str, str], list[str]]:
    found: dict[str, tuple[str, str]] = {}
    lost: list[str] = []
    for distribution in metadata.distributions():
        try:
            name, version = _fields(distribution)
        except Exception:
            where = getattr(distribution, "_path", distribution)
            logger.warning("what ran: package %s could not be found out", where, exc_info=True)
            lost.append(f"packages: {where}")
            continue
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), (name, version))
    return {name: version for _, (name, version) in sorted(found.items())}, lost


def _fields(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return name and version. They stand before the description, which is the longest part by far; parsing all of it, as
    `Distribution.metadata` does, takes seconds for the packages of one environment."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    end = _END_OF_FIELDS.search(text)
    fields = text[: end.start()] if end else text
    name, version = _NAME.search(fields), _VERSION.search(fields)
    if name is not None and version is not None:
        return name[1], version[1]
    return distribution.metadata["Name"], distribution.version  # as old as eggs, or damaged
