"""What goes wrong with one tracker: told to the user, shown in its state, and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tracelet_shim import errors
from tracelet_shim.backends.base import UnsettledLostError
from tracelet_shim.bus import messages as msg

__all__ = ["Troubles", "text_of"]

logger = logging.getLogger("tracelet_shim.relay")


class Troubles:
    """The troubles of one tracker.

    Args:
        name: the tracker.
        state: gets the latest of them.
        reply: takes replies.
    """

    def __init__(self, name: str, state: msg.BackendState, reply: Callable[[msg.Reply], None]) -> None:
        self._name = name
        self._state = state
        self._reply = reply
        self._errors: dict[type[BaseException], int] = {}

    def tell(self, kind: str, message: str) -> None:
        """Tell the user, at most once a `kind`."""
        self._reply(msg.Trouble(self._name, kind, message))

    def error(self, kind: str, message: str) -> None:
        """Tell the user, and show it as the tracker's latest error."""
        self._state.error = message
        self.tell(kind, message)

    def retrying(self, kind: str, message: str) -> None:
        self._state.state = "retrying"
        self.error(kind, message)

    def fail(self, kind: str, message: str) -> None:
        self._state.state = "failed"
        self.error(kind, message)

    def passed(self) -> None:
        """What was tried again has worked."""
        if self._state.state == "retrying":
            self._state.state, self._state.error = "open", None

    def note(self, what: str, error: BaseException) -> None:
        """Log an error the first, second, fourth, eighth ... time that one of its type comes: days of an outage, or a
        million events that are refused, must not fill the disk."""
        times = self._errors[type(error)] = self._errors.get(type(error), 0) + 1
        if times & (times - 1) == 0:
            logger.warning("%s: %s (error %d of this type)", self._name, what, times, exc_info=error)


def text_of(error: BaseException) -> str:
    """One line of an error, for people; SDKs put whole pages into theirs."""
    name = type(error).__name__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, (errors.TraceletError, UnsettledLostError)):
        return first or name
    return f"{name}: {first[:300]}" if first else name
