"""SwanLab, switched off."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Off"]


class Off(NamedTuple):
    """A run of a user who has switched SwanLab off."""

    id: str
    mode: str = "disabled"
