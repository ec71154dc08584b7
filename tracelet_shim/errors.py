"""Everything this package raises.

    TraceletError
    ├── ConfigurationError            a setting, an option or a name that cannot be right
    │   ├── UnknownBackendError       no backend of that name; lists the known ones
    │   └── InvalidBackendError       a backend class or object that breaks the contract
    ├── StateError                    what a session left on disk is not there, or cannot be used; names place and remedy
    ├── BackendUnavailableError       the tracker is not installed, or too old, or a credential is missing
    ├── BackendError                  the tracker refused or failed
    │   └── EventRejectedError        one event the tracker will never take; the rest goes on
    ├── ArtifactError                 `use_artifact` got none; says what each tracker that was asked has to say
    └── DeliveryError                 events that did not arrive (raised at stop, under strict)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tracelet_shim.common.suggestions import did_you_mean
from tracelet_shim.display.printable import printable

__all__ = [
    "ArtifactError",
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
    """A tracker that was named cannot be used here: not installed, too old, or a credential is missing.

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


class ArtifactError(TraceletError):
    """No tracker gave an artifact that `Session.use_artifact` asked for.

    Attributes:
        name: what was asked for.
        problems: why not, by tracker, in the order in which they were asked.
    """

    def __init__(self, name: str, problems: Mapping[str, str], remedy: str) -> None:
        self.name = name
        self.problems = dict(problems)
        said = "; ".join(f"{tracker}: {problem}" for tracker, problem in problems.items())
        super().__init__(f"use_artifact({name!r}): {said}; remedy: {remedy}")


class DeliveryError(TraceletError):
    """Events that did not arrive; raised by `stop` under `strict`.

    Attributes:
        undelivered: number of events that are missing, by backend.
    """

    def __init__(self, message: str, undelivered: dict[str, int]) -> None:
        self.undelivered = undelivered
        super().__init__(message)
