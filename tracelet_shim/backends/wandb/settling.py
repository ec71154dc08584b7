"""What W&B's service was handed, and of which nobody knows yet that it has come to where it stays.

The service, a process of its own that ends with the relay, stores and uploads what it was handed some time later.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque

from tracelet_shim.backends.wandb.lines import Lines
from tracelet_shim.backends.wandb.opening import FLUSH_SECONDS
from tracelet_shim.backends.wandb.run import Run

__all__ = ["MAX_UNSETTLED", "OnDisk", "OnServer", "Settling", "wait_for_service"]

MAX_UNSETTLED = 100_000
"""Events that may be with W&B's service and not yet on disk."""
ASK_SECONDS = 0.5
"""How often W&B's service is asked whether it has come to what it was handed."""

_log = logging.getLogger(__name__)


class Settling(ABC):
    """The events of one run.

    Args:
        run: the run.

    Attributes:
        arrived: whether a server has got some since the run was opened.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.arrived = False

    def rows(self) -> int | None:
        """Return how many rows a server has; None if there is none.

        Raises:
            ConnectionError: it does not say.
        """
        return None

    @abstractmethod
    def put(self, events: int) -> None:
        """The service was handed so many events more."""

    @property
    @abstractmethod
    def left(self) -> int:
        """How many of the latest events may not have settled, as far as that is known."""

    @abstractmethod
    def look(self, *, now: bool = False) -> int:
        """Return the same; ask before, if it is time to, or `now`."""

    @abstractmethod
    def flushed(self) -> None:
        """The service has written its log."""

    @abstractmethod
    def throttle(self) -> bool:
        """There are too many of them: wait for a moment. Return False if waiting is of no use.

        Raises:
            TimeoutError: it may take longer.
        """

    def stuck(self) -> str | None:
        """Return why no more will settle, though some are missing; None if they may."""
        return None

    def behind(self) -> str | None:
        """Return what is in the way; None if nothing is known to be."""
        return self.stuck()


class OnDisk(Settling):
    """Of a run that is offline: the service is asked whether it has come so far, and then writes its log within a moment."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._handed = 0  # events that the service was handed since it was asked how far it is
        self._asked = 0.0
        self._coming: deque[tuple[float, int]] = deque()  # events that it has come to, and when they will be on disk

    def put(self, events: int) -> None:
        self._handed += events

    @property
    def left(self) -> int:
        return self._handed + sum(events for _, events in self._coming)

    def look(self, *, now: bool = False) -> int:
        if self._handed and (now or time.monotonic() - self._asked > ASK_SECONDS or 2 * self._handed > MAX_UNSETTLED):
            self._ask()
        while self._coming and self._coming[0][0] < time.monotonic():
            self._coming.popleft()
        return self.left

    def flushed(self) -> None:
        self._handed = 0
        self._coming.clear()

    def throttle(self) -> bool:
        if not self._coming:  # it does not answer
            return False
        time.sleep(FLUSH_SECONDS / 4)
        return True

    def _ask(self) -> None:
        """Wait until the service has come to what it was handed. If it cannot be asked, the next `write` finds that out."""
        try:
            wait_for_service(self._run)
        except Exception:
            _log.debug("W&B's service does not answer", exc_info=True)
        else:
            self._coming.append((time.monotonic() + 2 * FLUSH_SECONDS, self._handed))
            self._handed = 0
        self._asked = time.monotonic()


class OnServer(Settling):
    """Of a run that is online: the server is asked how many rows it has."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._lines = Lines(run.sdk)
        self._rows: deque[tuple[int, int]] = deque()  # how many rows there are with so many more events

    def rows(self) -> int:
        rows = self._lines.ask(now=True)
        if not self._lines.answers:
            raise ConnectionError("W&B's server does not say what it has of the run")
        return rows

    def put(self, events: int) -> None:
        if events:
            if not self._rows:
                self._lines.waits()
            self._rows.append((self._run.sdk._local_step, events))

    @property
    def left(self) -> int:
        return sum(events for _, events in self._rows)

    def look(self, *, now: bool = False) -> int:
        if self._rows:
            there = self._lines.ask(now=now)
            while self._rows and self._rows[0][0] <= there:
                self._rows.popleft()
                self.arrived = True
        return self.left

    def flushed(self) -> None:
        pass  # that is on disk, and not yet with the server

    def throttle(self) -> bool:
        raise TimeoutError("W&B's server is behind")

    def stuck(self) -> str | None:
        return self._lines.stuck() if self._rows else None

    def behind(self) -> str | None:
        return self.stuck() or (None if self._lines.answers or not self._rows else "the server does not answer")


def wait_for_service(run: Run) -> None:
    """Have W&B's service answer something, which it does after all that was sent before.

    Raises:
        TimeoutError: it does not answer. (`run.summary` is just empty then.)
    """
    ask = getattr(getattr(run.sdk, "_interface", None), "deliver_get_summary", None)
    if ask is None:
        run.sdk.summary.keys()
    else:
        ask().wait_or(timeout=run.sdk.settings.summary_timeout)
