"""What differs between versions of DVCLive: how DVC Studio is told."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from tracelet_shim.backends.dvclive.live import tell_studio


class Before346:
    """`Live` as to Studio: without a queue, the request is made at once."""

    def __init__(self, skips: set[str]) -> None:
        self._studio_events_to_skip = skips
        self.told: list[str] = []

    def post_to_studio(self, event: str) -> None:
        self.told.append(event)


class Since346(Before346):
    """With a thread, and a queue to it."""

    def __init__(self, skips: set[str]) -> None:
        super().__init__(skips)
        self._studio_queue: Any = None

    def post_data_to_studio(self) -> None:
        self.told.append("data")


@pytest.mark.parametrize("kind", [Before346, Since346])
def test_studio_is_told_in_each_version(kind: type[Before346]) -> None:
    with_studio, without = kind(set()), kind({"start", "data", "done"})
    for live in (with_studio, without):
        tell_studio(live)
    assert (with_studio.told, without.told) == (["data"], [])


def test_a_slow_studio_is_not_told_again() -> None:
    live = Since346(set())
    live._studio_queue = queue.Queue()
    live._studio_queue.put("what it has not taken")
    tell_studio(live)
    assert live.told == []
