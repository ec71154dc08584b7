"""What W&B's service was handed, and of which nobody knows yet that it has come to where it stays.

The service, a process of its own that ends with the relay, stores and uploads what it was handed some time later.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Refusal
from tracelet_shim.backends.wandb.marks import Marks
from tracelet_shim.backends.wandb.opening import FLUSH_SECONDS
from tracelet_shim.backends.wandb.run import Run
from tracelet_shim.backends.wandb.versions import answer_of, interface, writes_its_log

__all__ = ["MAX_UNSETTLED", "OnDisk", "OnDiskInBlocks", "Settling", "on_disk"]

MAX_UNSETTLED = 100_000
"""Events that may be with W&B's service and not yet on disk."""
ASK_SECONDS = 0.5
"""How often W&B's service is asked whether it has come to what it was handed."""
BLOCK_SECONDS = 15.0
"""For so long what is in a log that is written in blocks waits for its block to be full; W&B's own pause, where it has one."""
_DISK_SECONDS = 5.0

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

    @abstractmethod
    def put(self, events: Sequence[ev.Event], written: int) -> None:
        """The service was handed the first `written` of these events."""

    @property
    @abstractmethod
    def left(self) -> int:
        """How many of the latest events may not have settled, as far as that is known."""

    @abstractmethod
    def look(self, *, now: bool = False) -> int:
        """Return the same; ask before, if it is time to, or `now`."""

    def flush(self) -> None:
        """Have the service come to what it was handed, and write its log.

        Raises:
            TimeoutError: it does not answer.
        """
        wait_for_service(self._run)
        time.sleep(FLUSH_SECONDS)
        self.flushed()

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

    def given_up(self) -> str | None:
        """Return what the service has given up, and is to be handed again before the run may be ended; None: nothing."""
        return None

    def take_refused(self) -> list[Refusal]:
        """Return what the server has refused since the last time."""
        return []

    @property
    def may_settle(self) -> bool:
        """True if what is missing may still arrive without our doing."""
        return False


class OnDisk(Settling):
    """Of a run that is offline: the service is asked whether it has come so far, and then writes its log within a moment."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._handed = 0  # events that the service was handed since it was asked how far it is
        self._asked = 0.0
        self._coming: deque[tuple[float, int]] = deque()  # events that it has come to, and when they will be on disk

    def put(self, events: Sequence[ev.Event], written: int) -> None:
        self._handed += written

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


class OnDiskInBlocks(Settling):
    """As `OnDisk`, where the service writes its log a block at a time: marks in the logs tell what is there."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._marks: dict[Run, Marks | None] = {}
        self._handed = 0
        self._marked = 0.0
        self._written = time.monotonic()  # when something has last come to the disk, or was to come there at once
        self._coming: deque[tuple[list[tuple[Marks, int]], int]] = deque()
        self._unknown = 0  # events of runs that cannot be marked: there at their end

    def put(self, events: Sequence[ev.Event], written: int) -> None:
        self._handed += written

    @property
    def left(self) -> int:
        return self._handed + self._unknown + sum(events for _, events in self._coming)

    def look(self, *, now: bool = False) -> int:
        if self._handed and (now or time.monotonic() - self._marked > ASK_SECONDS or 2 * self._handed > MAX_UNSETTLED):
            self._mark(at_once=time.monotonic() - self._written > BLOCK_SECONDS)
        elif self._coming and time.monotonic() - self._written > BLOCK_SECONDS:
            self._mark(at_once=True)
        while self._coming and all(marks.run.ended or marks.on_disk() >= mark for marks, mark in self._coming[0][0]):
            self._coming.popleft()
            self._written = time.monotonic()
        return self.left

    def _mark(self, *, at_once: bool) -> None:
        """Put a mark into each log that has got something."""
        touched = {self._run, *self._run.take_touched()}
        for run in touched - self._marks.keys():
            self._marks[run] = Marks.of(run)
        found = [self._marks[run] for run in touched if not run.ended]
        try:
            put = [(marks, marks.put(at_once=at_once)) for marks in found if marks is not None]
        except Exception:  # the next `write` finds out that the service is gone
            _log.debug("W&B's service takes nothing", exc_info=True)
        else:
            if None in found:
                self._unknown += self._handed
            else:
                self._coming.append((put, self._handed))
            self._handed = 0
        self._marked = time.monotonic()
        if at_once:
            self._written = time.monotonic()

    def flush(self) -> None:
        wait_for_service(self._run)
        if self.look(now=True):
            self._mark(at_once=True)
            self._wait()

    def flushed(self) -> None:
        self._wait()
        if self._run.ended and not self._coming:
            self._handed = self._unknown = 0

    def _wait(self) -> None:
        """Wait for what is on its way to the disk."""
        until = time.monotonic() + _DISK_SECONDS
        while self._coming and self.look() and time.monotonic() < until:
            time.sleep(FLUSH_SECONDS / 10)

    def throttle(self) -> bool:
        before = self.left
        self._mark(at_once=True)
        self._wait()
        return self.left < before


def wait_for_service(run: Run) -> None:
    """Have W&B's service answer something, which it does after all that was sent before.

    Raises:
        TimeoutError: it does not answer. (`run.summary` is just empty then.)
    """
    ask = getattr(interface(run.sdk), "deliver_get_summary", None)
    if ask is None:
        run.sdk.summary.keys()
    else:
        answer_of(ask(), timeout=run.sdk.settings.summary_timeout)


def on_disk(run: Run) -> Settling:
    """Return what follows a run that is offline."""
    return OnDisk(run) if writes_its_log() else OnDiskInBlocks(run)
