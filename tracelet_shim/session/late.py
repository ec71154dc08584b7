"""What is logged after the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracelet_shim import intercept
from tracelet_shim.bus import messages as msg

if TYPE_CHECKING:
    from tracelet_shim.session.session import Session

__all__ = ["Late"]


class Late:
    """The sink behind a session that the end of the program has ended: threads go on, and handlers of that end come after ours.

    Args:
        session: the session.
    """

    accelerates = False

    def __init__(self, session: Session) -> None:
        self._session = session

    def active_runs(self) -> intercept.ActiveRuns:
        return ()

    def writer_created(self, logdir: str, runs: intercept.ActiveRuns) -> None:
        """Nothing is opened any more."""

    def add_source(self, path: str, logdir: str, parent: str | None, runs: intercept.ActiveRuns) -> int:
        return 0

    def publish(self, record: msg.Record) -> None:
        self._session.came_late()

    def foreign_writer(self, producer: str, logdir: str) -> None:
        """Nothing is watched any more."""

    def nudge(self) -> None:
        """Nothing is waited for any more."""

    def parsed(self, arguments: dict[str, Any]) -> None:
        """The session is described."""

    def saved(self, path: str) -> None:
        """As for the methods of a session that has ended: nothing is taken any more."""

    def problem(self, error: Exception) -> None:
        self._session.problem(error)
