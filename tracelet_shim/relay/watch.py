"""What a tracker has been asked, and for how long it has not answered."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from tracelet_shim.backends.base import Backend
from tracelet_shim.relay.said import why

__all__ = ["Silence", "Watch"]

_SILENT_SECONDS = 10.0
"""A tracker that takes longer to answer is named."""
_MOVING_SECONDS = 0.2
"""So much processor time in less than that is no waiting for an answer."""


class Silence(NamedTuple):
    """What a tracker does not answer.

    Attributes:
        kind: ``"open"``, ``"write"``, ``"confirm"``, ``"flush"`` or ``"close"``.
        what: what it was asked, in words.
        seconds: for how long there has been no answer.
        why: what is known of the reason; may be empty.
    """

    kind: str
    what: str
    seconds: float
    why: str

    @property
    def text(self) -> str:
        """One line for people."""
        return f"it has not answered for {self.seconds:.0f} s: {self.what}" + (f" ({self.why})" if self.why else "")


class Watch:
    """Watches what a worker's thread asks its tracker.

    Args:
        thread: the worker's.

    Attributes:
        backend: who is asked, as soon as there is one.
    """

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self.backend: Backend | None = None
        self._doing: tuple[str, str, float] | None = None
        self._clock: int | None = None  # of the processor time of the thread
        self._moved: tuple[int, float, float] = (0, 0.0, 0.0)  # events written, processor time, when

    def begin(self) -> None:
        """Called in the worker's thread, before anything else."""
        clock = getattr(time, "pthread_getcpuclockid", None)  # not on every system
        self._clock = clock(threading.get_ident()) if clock is not None else None

    @contextlib.contextmanager
    def asking(self, kind: str, what: str) -> Iterator[None]:
        """Remember since when the tracker is at it."""
        self._doing = (kind, what, time.monotonic())
        try:
            yield
        finally:
            self._doing = None

    def silence(self) -> Silence | None:
        """Return what the tracker has been asked and not answered for ten seconds; None if it answers, or has nothing to do."""
        doing = self._doing
        if doing is None:
            return None
        now = time.monotonic()
        written, used = self.backend.written if self.backend is not None else 0, self._used()
        if written != self._moved[0] or used - self._moved[1] > _MOVING_SECONDS:
            self._moved = (written, used, now)
        seconds = now - max(doing[2], self._moved[2])
        if seconds < _SILENT_SECONDS:
            return None
        kind, what, since = doing
        return Silence(kind, what, seconds, self._why(since))

    def unanswered(self) -> str | None:
        """Return what it is still at, in words, with the reason as far as that is known."""
        doing = self._doing
        if doing is None:
            return None
        cause = self._why(doing[2])
        return f"still {doing[1]} after {time.monotonic() - doing[2]:.0f} s" + (f" ({cause})" if cause else "")

    def _why(self, since: float) -> str:
        return why(self._thread, self.backend.module if self.backend is not None else "", since)

    def _used(self) -> float:
        """Return the processor time of the thread: an SDK that is imported on a busy machine is slow, and waits for nobody."""
        with contextlib.suppress(OSError):  # the thread is gone
            return time.clock_gettime(self._clock) if self._clock is not None else 0.0
        return 0.0
