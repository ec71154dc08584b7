"""The workers of a session whose trackers are written to elsewhere: they say what collectors have said."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.writer_names import WriterNames
from tracelet_shim.fleet.address import Address, address_of
from tracelet_shim.fleet.keys import About
from tracelet_shim.fleet.shipper import Shipper, Standings
from tracelet_shim.provenance.what_ran import WhatRan
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.progress import Standing
from tracelet_shim.relay.watch import Silence
from tracelet_shim.relay.worker import Worker
from tracelet_shim.state.rows import RunRow
from tracelet_shim.state.session import SessionState

__all__ = ["Elsewhere", "Forwarder"]

_VERSION = 1
_WHAT_RAN_SECONDS = 5.0
_DELIVERY_SECONDS = 7 * 86_400.0
"""How long collectors try to deliver a session whose program has ended."""


class Elsewhere(Worker):
    """As `Worker`, of one tracker of a session that collectors deliver."""

    _shipper: Shipper
    _counted = (0, 0)
    _known = False  # a collector has said something of it
    _is_closed = False
    _left = False  # the end of this process, whatever is left

    def attached(self, shipper: Shipper) -> None:
        self._shipper = shipper

    def start(self) -> None:
        self._shipper.start()

    @property
    def cursor(self) -> int:
        """The number of records that Redis has: no more is needed of them here."""
        return self._shipper.sent

    @property
    def acknowledged(self) -> int:
        """The number of records that the tracker is done with."""
        return self.progress.at[0]

    def restore(self, row: RunRow, lost: int = 0) -> None:
        """Before `start`: this is what collectors had said to an earlier process; Redis is told if it has lost that."""
        super().restore(row, lost)
        standings = self._shipper.standings
        standings.shown[self.name] = (row.run_id, row.url, row.state, row.error)
        standings.at[self.name] = (row.cursor, row.part, row.delivered, row.failed)

    def take(self, standings: Standings) -> None:
        """Take what collectors have said of this tracker."""
        shown, at = standings.shown.get(self.name), standings.at.get(self.name)
        self._counted = standings.counts
        if shown is not None:
            run_id, url, state, error = shown
            is_new = run_id is not None and (self.opened is None or (self.opened.run_id, self.opened.url) != (run_id, url))
            self.state.state, self.state.error = state, error
            self._known = True
            if is_new and run_id is not None:
                self.opened = msg.Opened(self.name, run_id, url)
                self._reply(self.opened)
            self._session.show(self.name, self.shown)
        if at is not None:
            before = self.progress.safe
            self.progress.at = (at[0], at[1])
            self.progress.safe = Standing(*at)
            self.state.delivered, self.state.failed = at[2], at[3]
            lost = standings.lost.get(self.name, 0)
            if before != self.progress.safe or lost != self.state.lost:
                self.state.lost = lost
                self._session.stand(self.name, self.progress.safe, [], [], [])
        self._wake()

    # -- called from the dispatcher's thread --------------------------------------------------------------------------

    def request_flush(self, number: int) -> None:
        """The dispatcher tells the collectors, once for all trackers."""

    def has_flushed(self, number: int) -> bool:
        return self.acknowledged >= number or self.state.state in ("failed", "closed", "abandoned")

    def has_all(self, number: int) -> bool:
        return self.acknowledged >= number and not self.state.failed

    @property
    def ending_is_due(self) -> bool:
        """True if the end was asked for, and what was logged before it is in Redis."""
        sent = self._shipper.sent
        if not self._ending.is_due(sent):
            return False
        if self._ending.asks_for_more():
            self._reply(msg.More(self.name))
            self._wake()
        return self._ending.is_due(sent)

    @property
    def alive(self) -> bool:
        return not self._shipper.ended and not self._shipper.gives_up

    @property
    def is_opening(self) -> bool:
        return self.alive and not self._known

    def report(self) -> msg.BackendState:
        events, records = self._counted
        left = max(0, events - self.state.delivered - self.state.failed) + max(0, self._log.length - records)
        if self.acknowledged >= self._log.length:
            left = 0
        error = self.state.error
        if error is None and left and self._shipper.problem is not None:
            error = "Redis has not got them"  # why not has been said
        state = self.state.state
        if error is None and left and self._shipper.handed_over:
            error = "Redis has it; a collector is to deliver it"
        if state == "closed" and left:
            state = "open"
        return msgspec.structs.replace(self.state, state=state, pending=left, error=error)

    def silence(self) -> Silence | None:
        return None

    def join(self) -> bool:
        if not self._shipper.standings.ended and self.state.state not in ("failed", "closed"):
            self.state.state = "abandoned"
        return True

    def let_open(self, until: float) -> None:
        """Nothing is opened here."""


class Forwarder:
    """What a relay has in the place of its trackers.

    Args:
        message: opens the session.
        run: what its runs are opened with.
        log: its records.
        what_ran: what is attached to the runs.
        reply, wake, state: as of `Worker`.
        names: the naming rule of the session, which has its root.
    """

    def __init__(
        self,
        message: msg.Open,
        run: RunInfo,
        log: Log,
        what_ran: WhatRan,
        reply: Callable[[msg.Reply], None],
        wake: Callable[[], None],
        state: SessionState,
        names: WriterNames,
    ) -> None:
        assert run.forward is not None
        address: Address = address_of(run.forward)
        if message.forward_password is not None:
            address = address._replace(password=message.forward_password)
        self._what_ran = what_ran
        self._reply = reply
        self._log = log
        self._told_what_ran = False
        self._end: msg.Close | None = None
        self._told: set[tuple[str | None, str]] = set()
        there = msgspec.structs.replace(run, forward=None, job=None)
        budget = int(address.budget * 1e6)
        self._about = About(_VERSION, there, message.backends, message.memory, budget, message.root)
        self.shipper = Shipper(address, self._about, log, self._looked, self._trouble, self._due, lambda: names.root)
        self.workers = [Elsewhere(spec, run, log, what_ran, reply, wake, state, None) for spec in message.backends]
        for worker in self.workers:
            worker.attached(self.shipper)

    def tell(self, message: msg.Message) -> None:
        """Have what is no record go along with them, in its place."""
        if isinstance(message, (msg.Writer, msg.Source)) or (isinstance(message, msg.Flush) and self._end is None):
            self.shipper.tell(message)
        elif isinstance(message, msg.Close):
            self._end = message
            self.shipper.hurry()

    def about_to_start(self) -> None:
        """The session begins: which runs of an earlier start of the job go on is known now."""
        self._about.continues = {worker.name: worker.continues for worker in self.workers if worker.continues is not None}

    def nobody_waits(self) -> None:
        """The program has gone on, or is gone: as soon as Redis has everything there is nothing more to do here."""
        if self.shipper.handed_over:
            self.shipper.gives_up = True

    def _looked(self, standings: Standings) -> None:
        if not self._told_what_ran and (found := self._what_ran.encoded(0.0)) is not None:
            self._tell_what_ran(found)
        for worker in self.workers:
            worker.take(standings)

    def _tell_what_ran(self, found: bytes) -> None:
        self._told_what_ran = True
        self.shipper.tell(msg.WhatRanFound(found))

    def _due(self) -> msg.Close | None:
        if self._end is None or not all(worker.ending_is_due for worker in self.workers):
            return None
        if not self._told_what_ran:
            self._tell_what_ran(self._what_ran.encoded(_WHAT_RAN_SECONDS) or b"")
        end = self._end
        return msg.Close(end.status, _DELIVERY_SECONDS, cut_off=end.cut_off, ended=end.ended)

    def _trouble(self, backend: str | None, kind: str, text: str) -> None:
        if (backend, kind) not in self._told:
            self._told.add((backend, kind))
            self._reply(msg.Trouble(backend, kind, text))
