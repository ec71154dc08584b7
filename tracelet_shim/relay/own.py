"""The records that a relay takes by itself: samples of the system, and what it finds where it was told to watch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.metrics import SystemMetrics
from tracelet_shim.relay.watching import Watching
from tracelet_shim.state.session import SessionState

__all__ = ["Own"]

_LOOKING = 0.75
"""The part of the time for the end in which what is watched is read to its end; the rest is for delivering that."""


class Own:
    """Of one relay.

    Args:
        state: of the session.
        handle: takes a message, as from the program.
        learn: takes a record from before the session: (number of the source, data).
        trouble: told, by kind, what cannot be had.
        wake: called from any thread when `take` should be called soon.

    Attributes:
        records: how many there are.
    """

    def __init__(
        self, state: SessionState, handle: Callable[[msg.Message], None], learn: Callable[[int, bytes], None],
        trouble: Callable[[str, str], None], wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._state = state
        self._handle = handle
        self._learn = learn
        self._trouble = trouble
        self._wake = wake
        self._metrics: SystemMetrics | None = None
        self._watching: Watching | None = None
        self._numbers = msg.OWN_SOURCES
        self.records = 0

    def open(self, message: msg.Open, run: RunInfo) -> None:
        if message.system_metrics is not None:
            self._metrics = SystemMetrics(run, message.system_metrics, self._trouble)
        if message.watch:
            self._watching = Watching(message.watch, message.since, self._learn, self._trouble, self._wake)

    @property
    def watches(self) -> bool:
        """True if there may be no writer."""
        return self._watching is not None

    def watch(self) -> None:
        """Begin to watch, where that was asked for."""
        if self._watching is not None:
            self._watching.start()

    def sample(self) -> None:
        """Begin to take samples, where that was asked for."""
        if self._metrics is not None:
            self._metrics.start()

    def restore(self, records: int, taken: Mapping[int, int]) -> None:
        """Go on where an earlier relay of the session stopped.

        Args:
            records: how many it had by itself.
            taken: by source, the position behind the last record.
        """
        self.records = records
        if self._watching is not None:
            self._watching.restore(self._state.path("watched"), self._state.sources(), taken)

    def keep(self) -> None:
        """Write down what whoever goes on has to know."""
        if self._watching is not None:
            self._watching.keep(self._state.path("watched"))

    def heard_of(self, message: msg.Source | msg.Records) -> None:
        """The program has sent this: its files are not watched, and what was taken from them before is left out of it."""
        if self._watching is not None and isinstance(message, msg.Records):
            self.records -= self._watching.leave_out(message)
        elif self._watching is not None and isinstance(message, msg.Source) and message.id < msg.OWN_SOURCES:
            self._watching.claim(message)

    def take(self, root: str | None, directory: Path | None) -> Iterator[msg.Flush | msg.Close]:
        """Have what there is handled; yield what has waited for that.

        Args:
            root: the session's root directory, once it is known. Samples wait for it.
            directory: the state directory, if there is one.
        """
        if self._watching is not None:
            self._handle_own(self._watching.take(self._next_source))
            yield from self._watching.due()
        if self._metrics is not None and root is not None and self._state.is_open:
            self._handle_own(self._metrics.take(root, directory, self._next_source))

    def _handle_own(self, messages: Iterable[msg.Source | msg.Records]) -> None:
        for message in messages:
            self.records += len(message.records) if isinstance(message, msg.Records) else 0
            self._handle(message)

    def _next_source(self) -> int:
        number = max([self._numbers, *(source.id + 1 for source in self._state.sources())])
        self._numbers = number + 1
        return number

    def look_before(self, message: msg.Flush | msg.Close, now: float = 0.0, until: float = 0.0) -> bool:
        """Look once more, where something is watched, and have `take` yield this message then; return False if nothing is. An end
        waits for that from `now` on as long as it has time to deliver it, `until` then (monotonic seconds)."""
        if self._watching is None:
            return False
        if isinstance(message, msg.Close):
            self._watching.hold(message, now + _LOOKING * (until - now))
        else:
            self._watching.hold(message)
        return True

    def stop(self, root: str | None, directory: Path | None) -> None:
        """Take no more samples; a sample that is being taken now would come after the trackers have everything."""
        if self._metrics is not None:
            self._metrics.stop()
            if root is not None and self._state.is_open:
                self._handle_own(self._metrics.take(root, directory, self._next_source))
            self._metrics.end()

    @property
    def is_whole(self) -> bool:
        """False if what is watched may have more than was taken."""
        return self._watching is None or self._watching.is_whole

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
