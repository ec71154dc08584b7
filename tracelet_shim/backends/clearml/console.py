"""Lines in a task's console.

The server keeps each line that it is sent (``EventBLL.add_events`` of clearml-server gives it an identity of its own), so it is
asked before one is sent: an earlier process may have sent it, or the answer to an earlier try was lost.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tracelet_shim.backends.clearml import run as door
from tracelet_shim.backends.clearml.run import RunTask
from tracelet_shim.backends.clearml.session import send_once

__all__ = ["MOST_TEXT", "Console"]

MOST_TEXT = 500_000
"""Characters of a line; the SDK cuts at 2**20 bytes."""
_PAGE = 500
_Line = tuple[int, str]
"""Time in ms, and text."""


class Console:
    """The console of one task.

    Args:
        run: the task.
        log: of an offline session that may have lines already, else None: where they are.
        asks: ask the server.
    """

    def __init__(self, run: RunTask, log: Path | None, *, asks: bool) -> None:
        self._run, self._log, self._asks = run, log, asks
        self._there = Counter[_Line]()  # what the log had
        self._told = Counter[_Line]()  # of the latest time: two that are alike may come on purpose

    def write(self, text: str, level: str, time_ms: int) -> None:
        """Write a line, unless it is there."""
        line = (time_ms, text)
        self._told = Counter({each: count for each, count in self._told.items() if each[0] == time_ms})
        if self._stored(line) <= self._told[line]:
            self._run.deliver([door.line(text, level, str(self._run.session.worker), time_ms)])
        self._told[line] += 1

    def _stored(self, line: _Line) -> int:
        """Return how often it is there."""
        if self._asks:
            from clearml.backend_api.services import events

            # from the latest one at that time on, to earlier ones
            request = events.GetTaskLogRequest(
                task=self._run.task.id, batch_size=_PAGE, navigate_earlier=True, from_timestamp=line[0] + 1
            )
            found = (send_once(self._run.session, request).response_data or {}).get("events") or ()
            return sum((event.get("timestamp"), event.get("msg")) == line for event in found)
        if self._log is not None:
            if self._log.exists():
                with open(self._log, "rb") as file:
                    lines = (json.loads(each) for each in file if each.endswith(b"\n") and b'"log"' in each)
                    self._there.update(
                        (event["timestamp"], event["msg"]) for batch in lines for event in batch if event["type"] == "log"
                    )
            self._log = None
        return self._there[line]
