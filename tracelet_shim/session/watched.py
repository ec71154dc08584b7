"""Which directories the relay of a session watches."""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

import tracelet_shim
from tracelet_shim.common.began import began_at
from tracelet_shim.provenance.launcher import rank
from tracelet_shim.session.settings import Settings

__all__ = ["Watched", "described", "has_news", "watched"]


class Watched(NamedTuple):
    """What is watched.

    Attributes:
        tops: directories, absolute.
        since: what was written there before is not the session's; seconds since the epoch.
    """

    tops: tuple[str, ...] = ()
    since: float = 0.0

    def covers(self, path: str) -> bool:
        """Return whether a file or directory is in one of them."""
        real = os.path.realpath(path)
        tops = [os.path.realpath(top).rstrip(os.sep) for top in self.tops]
        return any(real == top or real.startswith(top + os.sep) for top in tops)

    @property
    def has_news(self) -> bool:
        """True if this process has written event files there, as far as their names tell it."""
        return any(_has_written(top, self.since) for top in self.tops)


def has_news(watch: str) -> bool:
    """As `Watched.has_news`, of a program that no session was prepared for, and the value of ``TRACELET_WATCH``."""
    tops = [os.path.join(began_at(), top.strip()) for top in watch.split(",") if top.strip()]
    return Watched(tuple(tops), tracelet_shim._began_when).has_news  # noqa: SLF001


def described(settings: Settings) -> list[tuple[bool, str]]:
    """Return, of each directory that a program would watch which began here, whether it can be watched, and how it is now."""
    found = []
    for top in (os.path.join(began_at(), top) for top in settings.watch):
        if not os.path.exists(top):
            found.append((True, f"{top} is watched; it is not there yet"))
        elif not os.path.isdir(top):
            found.append((False, f"{top} is no directory"))
        elif not os.access(top, os.R_OK | os.X_OK):
            found.append((False, f"{top} cannot be read"))
        else:
            files = sum("tfevents" in name for _, _, names in os.walk(top) for name in names)
            found.append((True, f"{top} is watched; the {files} event files that it has now are delivered only as they grow"))
    return found


def _has_written(top: str, since: float) -> bool:
    """Return whether an event file of this process's, whose name has its number, has been made below a directory."""
    mine = re.compile(rf"tfevents\.(\d+)\..*\b{os.getpid()}\b")
    found = (mine.search(name) for _, _, names in os.walk(top) for name in names)
    return any(match is not None and int(match.group(1)) >= int(since) for match in found)


def watched(settings: Settings, *, from_environment: bool, active: bool) -> Watched:
    """Return what a session watches that is made now. What the environment asks for is meant for the whole program: paths are
    relative to where that began, and it is watched since then. Of several ranks that all log, the first watches."""
    if not active or not settings.watch or (settings.ranks == "all" and rank() != 0):
        return Watched()
    base = began_at() if from_environment else os.getcwd()
    tops = tuple(os.path.normpath(os.path.join(base, top)) for top in settings.watch)
    return Watched(tops, tracelet_shim._began_when if from_environment else time.time())  # noqa: SLF001
