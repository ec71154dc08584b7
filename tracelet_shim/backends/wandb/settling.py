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
from tracelet_shim.backends.wandb.opening import FLUSH_SECONDS
from tracelet_shim.backends.wandb.run import Run
from tracelet_shim.backends.wandb.versions import answer_of

__all__ = ["MAX_UNSETTLED", "OnDisk", "Settling", "wait_for_service"]

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


def wait_for_service(run: Run) -> None:
    """Have W&B's service answer something, which it does after all that was sent before.

    Raises:
        TimeoutError: it does not answer. (`run.summary` is just empty then.)
    """
    interface = getattr(run.sdk, "_interface", None) or getattr(run.sdk._backend, "interface", None)
    ask = getattr(interface, "deliver_get_summary", None)
    if ask is None:
        run.sdk.summary.keys()
    else:
        answer_of(ask(), timeout=run.sdk.settings.summary_timeout)
