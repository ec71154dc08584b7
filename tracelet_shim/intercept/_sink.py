"""Where intercepted calls go: one sink a process, or none."""

from __future__ import annotations

from typing import Any, Protocol

from tracelet_shim.bus.messages import Record

__all__ = ["ActiveRuns", "Sink", "current", "set_sink", "sink"]

ActiveRuns = tuple[tuple[str, str], ...]
"""To which runs of the user's a writer belongs: (tracker, the tracker's id of the run). In all other trackers it belongs to
the session's own."""


class Sink(Protocol):
    """What a session offers to the wrappers. No method may raise, wait or do I/O, but `saved`, which
    copies.

    Attributes:
        accelerates: True if new event files get the faster writer (`tracelet_shim.intercept._accelerate`).
    """

    accelerates: bool

    def active_runs(self) -> ActiveRuns:
        """Return to which runs a writer belongs that is made now."""

    def writer_created(self, logdir: str, runs: ActiveRuns) -> None:
        """A SummaryWriter was created on this directory (absolute)."""

    def add_source(self, path: str, logdir: str, parent: str | None, runs: ActiveRuns) -> int:
        """Return the number of a new event file (absolute paths; see `messages.Source`)."""

    def publish(self, record: Record) -> None:
        """Take a record."""

    def parsed(self, arguments: dict[str, Any]) -> None:
        """The program has parsed its arguments, or its configuration: plain data by name."""

    def saved(self, path: str) -> None:
        """The program has saved a model to this file (absolute)."""

    def foreign_writer(self, producer: str, logdir: str) -> None:
        """A writer that is not listened to was created on this directory (absolute)."""

    def nudge(self) -> None:
        """The user flushed or closed a writer: deliver soon."""

    def problem(self, error: Exception) -> None:
        """One of our own parts failed; the user's call did not."""


class _Current:
    """Where calls go.

    Attributes:
        sink: read by the wrappers on every call.
        runs: by log directory, where its latest SummaryWriter belongs. One that is used again after `close` opens a new
            event file, which belongs where the first did.
    """

    __slots__ = ("runs", "sink")

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.runs: dict[str, ActiveRuns] = {}


current = _Current()


def set_sink(new: Sink | None) -> None:
    """Route intercepted calls to `new`; None switches interception off."""
    current.sink = new
    current.runs = {}


def sink() -> Sink | None:
    return current.sink
