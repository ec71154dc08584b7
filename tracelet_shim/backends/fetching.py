"""Artifacts that a tracker gives back: a part of the contract in `tracelet_shim.backends.base`, where others import it from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.run_info import RunInfo

__all__ = ["Fetched", "Fetches", "NoSuchArtifactError"]


class Fetched(NamedTuple):
    """What `Backend.fetch` returns.

    Attributes:
        path: the artifact: a file, or a directory with its files; in the directory that was given, or below it.
        identity: what exactly it is, as the tracker would name it if asked for just this again: with its version, its run.
    """

    path: str
    identity: str


class NoSuchArtifactError(Exception):
    """Raised by `Backend.fetch`: the tracker has been asked, and has none of this name. The next tracker is asked then. Its text
    says what was looked for, and how it could be named."""


class Fetches:
    """The part of `tracelet_shim.backends.base.Backend` that gives artifacts back.

    Both methods are called without a run that is open, `fetch` in a process of its own (in the user's where trackers live there):
    so they open nothing, print nothing, and leave nothing running. Such a process may be killed at any time.
    """

    @classmethod
    def cannot_fetch(cls, options: Mapping[str, Any], run: RunInfo) -> str | None:
        """Return why this tracker can give no artifact back, as it is set up; None if it can. Imports no SDK.

        Args:
            options: the backend's, parsed.
            run: as of `fetch`.
        """
        own = getattr(cls.fetch, "__func__", cls.fetch)
        return "it cannot give artifacts back" if own is Fetches.fetch.__func__ else None  # type: ignore[attr-defined]

    @classmethod
    def fetch(cls, options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
        """Get an artifact.

        Args:
            options: the backend's, parsed.
            run: what the session's run is opened with; `resume` is the tracker's own id of the run that is open, if there is
                one. The working directory is the one in which that was opened.
            name: what the user asks for: the name that an artifact was logged by, or whatever the tracker calls one.
            directory: an empty one, where the artifact goes.

        Raises:
            NoSuchArtifactError: there is none of that name.
            Exception: anything else; the user sees its first line.
        """
        raise NotImplementedError

    def log_used(self, event: ev.Used) -> None:
        """The run has used an artifact, of this tracker or another one; for those that know where a run's data come from."""
        self.attach_files(event)

    if TYPE_CHECKING:

        def attach_files(self, event: ev.Event) -> None: ...
