"""What stands for a session in a process that has none: libraries need not ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet_shim.handle.methods import Handle

__all__ = ["NoSession"]


class NoSession(Handle):
    """Takes everything, and does nothing; false where a session is true. What has to be answered it refuses: `use_artifact`.

    Attributes:
        id: empty.
        active: False.
    """

    id = ""
    active = False

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> NoSession:  # noqa: PYI034 - nobody subclasses it
        return self

    def __exit__(self, *error: object) -> None:
        """There is nothing to be ended."""

    def wait_opened(self, timeout: float | None = None) -> dict[str, Any]:
        """Return no runs, at once."""
        return {}

    def stop(self, status: str = "finished", timeout: float | None = None) -> None:
        """There is nothing to be ended."""

    def flush(self, timeout: float = 60.0) -> bool:
        """Return True: nothing is left to deliver."""
        return True

    def status(self) -> dict[str, Any]:
        return {}

    @property
    def urls(self) -> dict[str, str | None]:
        return {}

    @property
    def run_ids(self) -> dict[str, str]:
        return {}

    @property
    def native(self) -> Mapping[str, Any]:
        return {}

    def __repr__(self) -> str:
        return "<NoSession>"
