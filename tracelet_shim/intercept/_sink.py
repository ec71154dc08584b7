"""Where intercepted calls go: one sink a process, or none."""

from __future__ import annotations

from typing import Protocol

from tracelet_shim.bus.messages import Record

__all__ = ["Sink", "current", "set_sink", "sink"]


class Sink(Protocol):
    """What a session offers to the wrappers. No method may raise, wait or do I/O.

    Attributes:
        accelerates: True if new event files get the faster writer (`tracelet_shim.intercept._accelerate`).
    """

    accelerates: bool

    def writer_created(self, logdir: str) -> None:
        """A SummaryWriter was created on this directory (absolute)."""

    def add_source(self, path: str, logdir: str, parent: str | None) -> int:
        """Return the number of a new event file (absolute paths; see `messages.Source`)."""

    def publish(self, record: Record) -> None:
        """Take a record."""

    def nudge(self) -> None:
        """The user flushed or closed a writer: deliver soon."""

    def problem(self, error: Exception) -> None:
        """One of our own parts failed; the user's call did not."""


class _Current:
    __slots__ = ("sink",)

    def __init__(self) -> None:
        self.sink: Sink | None = None


current = _Current()
"""Read by the wrappers on every call."""


def set_sink(new: Sink | None) -> None:
    """Route intercepted calls to `new`; None switches interception off."""
    current.sink = new


def sink() -> Sink | None:
    return current.sink
