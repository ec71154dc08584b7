"""What whoever started a replay sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.logdir import Damage

__all__ = ["Outcome", "Progress", "View"]

class Progress(NamedTuple):
    """How far a replay is: bytes read, bytes there are, and where each tracker stands."""

    read: int
    size: int
    states: Mapping[str, msg.BackendState]


class Outcome(NamedTuple):
    """How the replay or the continuation of a session ended.

    Attributes:
        session: its id.
        root: the root directory.
        states: where each tracker stands.
        damages: files that could not be read to their end.
        lost: by tracker and event file, how many events are in neither.
        problem: why nothing was done, though something is missing.
    """

    session: str
    root: str
    states: Mapping[str, msg.BackendState]
    damages: tuple[Damage, ...] = ()
    lost: Mapping[str, Mapping[str, int]] = {}
    problem: str | None = None

    @property
    def undelivered(self) -> dict[str, int]:
        """Number of events that are missing, by tracker."""
        return {name: s.missing for name, s in self.states.items() if not s.complete}

    @property
    def refused(self) -> dict[str, int]:
        """Number of events that are set aside, by tracker."""
        return {name: s.refused for name, s in self.states.items() if s.refused}


class View(Protocol):
    """Who started the replay."""

    def stopped(self) -> bool:
        """Return whether it shall end: what has been read is still delivered."""

    def say(self, line: str) -> None:
        """Tell the user something."""

    def progress(self, progress: Progress) -> None:
        """Called about ten times a second."""
