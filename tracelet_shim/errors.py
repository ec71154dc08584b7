"""Everything this package raises.

    TraceletError
    ├── ConfigurationError            a setting, an option or a name that cannot be right
    │   ├── UnknownBackendError       no backend of that name; lists the known ones
    │   └── InvalidBackendError       a backend class or object that breaks the contract
    ├── StateError                    what a session left on disk is not there, or cannot be used; names place and remedy
    ├── BackendUnavailableError       the tracker is not installed, or a credential is missing
    ├── BackendError                  the tracker refused or failed
    │   └── EventRejectedError        one event the tracker will never take; the rest goes on
    └── DeliveryError                 events that did not arrive (raised at stop, under strict)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from tracelet_shim.display.printable import printable

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "ConfigurationError",
    "DeliveryError",
    "EventRejectedError",
    "InvalidBackendError",
    "StateError",
    "TraceletError",
    "UnknownBackendError",
]


class TraceletError(Exception):
    """Base of every exception raised by tracelet_shim."""

    def __str__(self) -> str:
        return printable(super().__str__())  # a traceback goes to a terminal, too


class ConfigurationError(TraceletError, ValueError):
    """A setting, option or name that cannot be right; the message names it and the remedy."""


class UnknownBackendError(ConfigurationError):
    """No backend is registered under this name.

    Attributes:
        name: what was asked for.
        known: the names that would have worked.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = sorted(known)
        super().__init__(f"unknown backend {name!r}{did_you_mean(name, self.known)}; known backends: {', '.join(self.known)}")


class InvalidBackendError(ConfigurationError):
    """A backend that breaks the contract of `tracelet_shim.backends.base.Backend`.

    Attributes:
        backend: the offending class or object.
    """

    def __init__(self, backend: object, problem: str) -> None:
        self.backend = backend
        super().__init__(f"backend {backend!r} cannot be used: {problem}")


class StateError(TraceletError):
    """What a session left on disk is not there, or cannot be used; the message names the place and the remedy."""


class BackendUnavailableError(TraceletError):
    """A tracker that was named cannot be used here: not installed, or a credential is missing.

    Attributes:
        name: the backend.
    """

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        super().__init__(f"backend {name!r}: {problem}")


class BackendError(TraceletError):
    """A tracker refused or failed."""


class EventRejectedError(BackendError):
    """An event that this tracker will never take. It is set aside with the message; the rest goes on."""


class DeliveryError(TraceletError):
    """Events that did not arrive; raised by `stop` under `strict`.

    Attributes:
        undelivered: number of events that are missing, by backend.
    """

    def __init__(self, message: str, undelivered: dict[str, int]) -> None:
        self.undelivered = undelivered
        super().__init__(message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest of `known`, or an empty string."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def slip_of(variable: str, known: Iterable[str]) -> str | None:
    """Return which of our environment variables this one is but for a slip of a letter or two, or of an underscore."""
    letters = _letters(variable)
    if len(letters) <= len("TRACELET") or len(set("TRACELET").intersection(letters)) < 5:  # the quick no, for most of them
        return None
    for name in known:
        wanted = _letters(name)
        length = len(letters) + len(wanted)
        if abs(len(letters) - len(wanted)) <= 2 and variable != name:
            # A ratio of 1 - n/length: n letters are in one of the two only.
            ratio = difflib.SequenceMatcher(None, letters, wanted).ratio()
            if round(length * (1 - ratio)) <= 2:
                return name
    return None


def _letters(variable: str) -> str:
    return "".join(filter(str.isalnum, variable)).upper()


def unknown_variable(variable: str, near: Iterable[str]) -> str:
    """Return what is said of an environment variable that is none of ours, but seems to be meant for us."""
    hint = did_you_mean(variable, near).replace("'", "")
    return f"environment variable {variable} is not known{hint}; it is ignored"
