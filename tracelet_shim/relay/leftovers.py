"""What sessions have left that were killed, and their relays with them, and of which nobody has delivered the rest yet."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tracelet_shim.bus.ring import RingError, RingReader
from tracelet_shim.bus.ring_places import SUFFIX, all_in_memory
from tracelet_shim.common.system import O_CLOEXEC, O_NOFOLLOW, lock

__all__ = ["tidy"]

_NEW = 60.0
"""Seconds for which a ring is left alone: it may just be being made."""


def tidy(ring: str) -> None:
    """Remove rings, in memory and beside this one, that nobody uses any more and of which everything has been taken; of
    those with more, keep only that. A cluster's jobs end that way, and nobody may come back to that machine."""
    for path in _others(Path(ring)):
        with contextlib.suppress(OSError, RingError):  # somebody uses it, or has just removed it; it was just being made
            descriptor = os.open(path, os.O_RDWR | O_CLOEXEC | O_NOFOLLOW)
            try:
                if time.time() - os.fstat(descriptor).st_mtime < _NEW:
                    continue
                lock(descriptor)
                reader = RingReader(path)
                is_empty = reader.is_empty
                if not is_empty:
                    reader.trim()
                reader.close(remove=is_empty)
            finally:
                os.close(descriptor)


def _others(ring: Path) -> Iterator[Path]:
    found = {*ring.parent.glob(f"*{SUFFIX}"), *Path(all_in_memory()).glob(f"*/*{SUFFIX}")}
    yield from sorted(found - {ring})
