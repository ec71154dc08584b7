"""Which members of a matrix the tests of each change take: the others are for each night."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["each_change"]


def each_change(members: Iterable[Any], *chosen: Any) -> list[Any]:
    """Return the members for ``parametrize``, those that are not `chosen` marked as ``nightly``.

    To be chosen are one or two in which the mechanism differs, so that each tracker is in some of the matrices."""
    members = list(members)
    if not os.environ.get("ONLY_TRACKERS"):
        assert set(chosen) <= set(members), f"no members: {set(chosen) - set(members)}"
    return [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=[] if one in chosen else [pytest.mark.nightly])
        for one in members
    ]
