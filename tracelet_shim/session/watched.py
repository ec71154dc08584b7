"""Which directories the relay of a session watches."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import tracelet_shim
from tracelet_shim.common.began import began_at
from tracelet_shim.provenance.launcher import rank
from tracelet_shim.session.settings import Settings

__all__ = ["Watched", "watched"]


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


def watched(settings: Settings, *, from_environment: bool) -> Watched:
    """Return what a session watches that is made now. What the environment asks for is meant for the whole program: paths are
    relative to where that began, and it is watched since then. Of several ranks that all log, the first watches."""
    if not settings.watch or (settings.ranks == "all" and rank() != 0):
        return Watched()
    base = began_at() if from_environment else os.getcwd()
    tops = tuple(os.path.normpath(os.path.join(base, top)) for top in settings.watch)
    return Watched(tops, tracelet_shim._began_when if from_environment else time.time())  # noqa: SLF001
