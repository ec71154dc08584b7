"""How a relay serves one session: what comes from the training process goes to it, until the end of the session.

The process may be the session's alone (`tracelet_shim.relay.__main__`), or that of many (`tracelet_shim.node.host`).
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path

from tracelet_shim.backends.base import Program
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.connection import Connection
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.relay.tail import take_tail

__all__ = ["OPEN_SECONDS", "Place", "serve"]

OPEN_SECONDS = 120.0
"""How long a tracker that makes its store may go on with that, after the end of all the rest."""
_TICK = 0.1
_ORPHAN_SECONDS = 300.0
"""How long a relay whose training process is gone without a word goes on, at least."""

logger = logging.getLogger("tracelet_shim.relay")


class Place(ABC):
    """The process that a session is served in, as far as the session has a say in it.

    Attributes:
        longest_tick: seconds between two looks at a session in which nothing happens.
        tick_beside: the same, where somebody waits for the session.
    """

    longest_tick: float = _TICK
    tick_beside: float = _TICK

    @abstractmethod
    def begin(self, program: Program) -> None:
        """The first message has come: the session is of this program."""

    @abstractmethod
    def log_to(self, directory: Path, session: str) -> None:
        """It is known where the session's state is."""

    @abstractmethod
    def step_back(self, *, back: bool) -> None:
        """Nobody waits for this session, or somebody does; called often."""

    @abstractmethod
    def end_by(self, seconds: float) -> None:
        """The session ends within so many seconds; if it does not, it hangs."""

    @abstractmethod
    def ended(self, *, clean: bool) -> None:
        """The session has ended."""


def serve(connection: Connection, relay: Relay, place: Place) -> None:
    """Serve one session to its end; or not at all, if the training process is gone before its first message, or up to where it
    is `Connection.killed`."""
    opened = tail_taken = logs = False
    next_tick, tick = 0.0, _TICK
    session, linger = "", 0.0
    while not relay.closed:
        if not logs and relay.directory is not None:
            logs = True
            place.log_to(relay.directory, session)
        messages = connection.receive(tick)
        if connection.killed:
            return
        for message in messages:
            if isinstance(message, msg.Open):
                opened = True
                session, linger = message.run.session, message.linger
                place.begin(message.run.program)
                connection.waits = message.restarted
            if isinstance(message, msg.Close) and message.at_exit and connection.terminated():
                message.status = "killed"  # the user's own handler of SIGTERM ended the program in good order
            if isinstance(message, msg.Close):
                place.end_by(message.deadline + message.linger)
            if isinstance(message, msg.UseRing):
                connection.use_ring(message.path)
                continue
            if isinstance(message, msg.Continue):
                message.lost = connection.go_on(relay.records)
            relay.handle(message)
        waited_for = connection.lost or relay.is_waited_for
        place.step_back(back=opened and not waited_for)
        connection.done(indexed=relay.indexed)
        if messages or connection.woken:
            tick = _TICK
        if connection.woken or time.monotonic() >= next_tick:
            next_tick = time.monotonic() + tick
            relay.tick()
            tick = min(2 * tick, place.longest_tick)
        if waited_for:
            tick = min(tick, place.tick_beside)
        if connection.lost and not tail_taken and (not relay.closing or connection.is_orphan):
            tail_taken = True
            logger.info("%d records were in the event files only", take_tail(relay))
        if connection.lost:
            relay.parent_is_gone()
        if connection.lost and not relay.closing:
            if not opened:
                return
            status = "killed" if connection.terminated() else "failed"
            logger.warning("the training process is gone without a word; closing the runs as %s", status)
            seconds = max(_ORPHAN_SECONDS, linger)
            place.end_by(seconds)
            relay.handle(msg.Close(status, seconds, cut_off=True, ended=time.time()))
    connection.end()
    place.ended(clean=relay.clean)
