"""How long a worker goes on: until it has what was logged before the end, or time is up."""

from __future__ import annotations

import random
import sys
import threading
import time

__all__ = ["FIRST_DELAY", "LONGEST_DELAY", "Ending"]

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0

_jitter = random.Random()  # noqa: S311 - not the program's, where we live in its process


class Ending:
    """The end of one worker: asked for by the dispatcher's thread, looked at by the worker's. Times are monotonic seconds.

    Attributes:
        closing: the end has been asked for.
        give_up: the deadline is over, and nobody waits for this worker any more.
        deadline: when that is.
        drain_until: when delivery stops; the rest of the time is for closing the run.
        status: with which the run is closed.
        run_ended: when the run ended, in seconds since the epoch; None: with its last event.
        at_least: a time that it did not end before, if it has no event.
    """

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.give_up = threading.Event()
        self.deadline = self.drain_until = float("inf")
        self.status = "finished"
        self.run_ended: float | None = None
        self.at_least: float | None = None
        self._stop = 0  # the number of records that are to be delivered before the end
        self._asks = True  # for what is logged while the end waits

    def begin(
        self, status: str, deadline: float, ended: float | None, at_least: float | None, length: int, *, is_last: bool
    ) -> None:
        """Ask for the end, with `length` records to be delivered before. `is_last` if nothing more can come."""
        self.run_ended, self.at_least = ended, at_least
        self.status = status
        self.deadline = deadline
        left = deadline - time.monotonic()
        self.drain_until = deadline - min(3.0, 0.2 * left)
        self._stop = length
        self._asks = not is_last
        self.closing.set()

    def end_at(self, number: int) -> None:
        """What comes behind record `number` came too late."""
        self._stop, self._asks = number, False

    def is_due(self, cursor: int) -> bool:
        """Return whether the end was asked for, and what was logged before it is delivered."""
        return self.closing.is_set() and cursor >= self._stop

    def asks_for_more(self) -> bool:
        """Return, once, whether to ask what was logged meanwhile; there is no end before the answer."""
        if not self._asks:
            return False
        self._asks, self._stop = False, sys.maxsize
        return True

    @property
    def time_is_up(self) -> bool:
        """True if nothing more is to be delivered."""
        return self.give_up.is_set() or time.monotonic() > self.drain_until

    def pause(self, attempt: int) -> bool:
        """Back off before the next attempt; return False when there is no time left."""
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (attempt - 1)) * _jitter.uniform(0.7, 1.3)
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            if self.give_up.wait(min(left, 0.25)):
                return False
            if self.closing.is_set():  # little time: try sooner
                until = min(until, time.monotonic() + 1.0)
                if time.monotonic() > self.drain_until:
                    return False
        return True
