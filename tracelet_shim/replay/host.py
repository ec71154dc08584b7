"""The relay, in this process."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.replay.view import Progress, View

__all__ = ["Host"]

_AHEAD = 20_000  # records that reading may be ahead of the fastest tracker
_ACKNOWLEDGED = 3.0  # seconds; most servers are asked once a second
_TICK = 0.1


class Host:
    """A relay in this process, and what is shown of it.

    Args:
        view: who started the replay.
        patience: seconds without any progress after which waiting for the trackers is given up.
        state: the state directory, where the session has one.
        retry_refused: offer again what trackers refused.
    """

    def __init__(self, view: View, patience: float, state: Path | None = None, *, retry_refused: bool = False) -> None:
        self.view = view
        self.relay = Relay(self._replied, state=state, complete=True, retry_refused=retry_refused)
        self.size = 0
        self._read = 0
        self._patience = patience
        self._replies: collections.deque[msg.Reply] = collections.deque()
        self._told: set[tuple[str | None, str]] = set()
        self._next_tick = 0.0

    def _replied(self, reply: msg.Reply) -> None:
        self._replies.append(reply)

    def feed(self, records: list[msg.Record], read: int) -> None:
        """Hand records over; wait if that is far ahead of the trackers."""
        self.relay.handle(msg.Records(records))
        self._read = read
        self.tick()
        self._wait(lambda: self.relay.ahead() <= _AHEAD)

    def stopped(self) -> bool:
        """Return whether whoever started this wants no more of it."""
        return self.view.stopped()

    def drain(self) -> None:
        """Wait until every tracker has everything, or cannot get it, or was handed everything and does not acknowledge it for no
        reason that it knows: some do when their run ends."""
        self._wait(lambda: not self._left(), lambda: self._patience if any(self._left()) else min(self._patience, _ACKNOWLEDGED))

    def _left(self) -> list[bool]:
        """Return, for each tracker that may get more, whether it is to be waited for."""
        left = [s for s in self.relay.states().values() if s.pending and s.state not in ("failed", "closed")]
        return [s.pending > s.unconfirmed or s.state != "open" or s.error is not None for s in left]

    def _wait(self, done: Callable[[], bool], patience: Callable[[], float] | None = None) -> None:
        before: object = None
        since = time.monotonic()
        while not done() and not self.view.stopped():
            now = [(s.state, s.delivered, s.failed) for s in self.relay.states().values()]
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > (patience() if patience is not None else self._patience):
                return
            time.sleep(0.02)
            self.tick()

    def rest(self, seconds: float) -> None:
        """Let the trackers work while there is nothing to read."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.view.stopped():
            time.sleep(0.05)
            self.tick()

    def tick(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + _TICK
            self.relay.tick()
            self.view.progress(Progress(self._read, self.size, self.relay.states()))
        self._tell()

    def close(self, status: str, *, cut_off: bool) -> Mapping[str, msg.BackendState]:
        """End the runs; return where the trackers stand."""
        self.relay.handle(msg.Close(status, self._patience, cut_off=cut_off))
        while not self.relay.closed:
            time.sleep(0.02)
            self.relay.tick()
        self.view.progress(Progress(self._read, self.size, self.relay.states()))
        self._tell()
        return self.relay.states()

    def troubles(self) -> list[str]:
        """Return what has not been told yet."""
        return [reply.message for reply in self._replies if isinstance(reply, msg.Trouble)]

    def _tell(self) -> None:
        while self._replies:
            reply = self._replies.popleft()
            if isinstance(reply, msg.Opened) and reply.url:
                self.view.say(f"{reply.backend}: {reply.url}")
            elif isinstance(reply, msg.Trouble) and (reply.backend, reply.kind) not in self._told:
                self._told.add((reply.backend, reply.kind))
                where = f"{reply.backend}: " if reply.backend else ""
                self.view.say(f"warning: {where}{reply.message}")
