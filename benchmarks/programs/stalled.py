"""A tracker that opens, and then takes nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tracelet_shim import events as ev
from tracelet_shim.testing import RecordingBackend


class StalledBackend(RecordingBackend):
    """Blocks for ever in its first write."""

    name = "stalled"

    def write(self, events: Sequence[ev.Event]) -> None:
        threading.Event().wait()
