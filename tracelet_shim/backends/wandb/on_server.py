"""What W&B's service was handed, and of which the server has not said yet that it has it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Refusal
from tracelet_shim.backends.shared.transient import Patience, Verdict, judge
from tracelet_shim.backends.wandb.links import Request
from tracelet_shim.backends.wandb.needs import Artifact, File, Need, Params, Samples
from tracelet_shim.backends.wandb.run import Run
from tracelet_shim.backends.wandb.server import MOST_NAMES
from tracelet_shim.backends.wandb.settling import Settling
from tracelet_shim.backends.wandb.versions import steps

__all__ = ["OnServer"]

ASK_SECONDS = 1.0
"""How often the server is asked at most; five times more seldom as long as it does not answer, and in the user's own process."""
STUCK_SECONDS = 60.0
"""A server that answers, but has not got one more row, or a file, for so long, does not get it any more; more than a request
takes and the longest pause between two."""
AGAIN_SECONDS = 5.0
"""How often what W&B's service has given up is handed to it again."""
_MOST_RUNS = 8
"""Runs of trials that are asked for at a time."""

_MOST_ASKED = 3
"""Times that the server is asked for what it has of the user's run that has ended, as long as it does not answer."""
LAG_SECONDS = 10.0
"""What the server says is what it had a while ago (wandb/wandb, pull request 12421: two to four seconds, on a quiet day)."""

_log = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """Events that have been written, of which the last may need more than rows.

    Attributes:
        rows: how many rows there are with them.
        events: how many they are.
        needs: what else is needed.
        event: the one that needs it, without a reason so far.
    """

    rows: int
    events: int
    needs: list[Need]
    event: Refusal | None


class OnServer(Settling):
    """Of a run that is online: the server is asked what it has.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        assert run.server is not None
        assert run.log is not None
        self._server, self._service = run.server, run.log
        self._entries: deque[_Entry] = deque()
        self._left = 0
        self._known = 0
        self._asked = 0.0
        self._asked_ended = 0  # how often, since the run has ended
        self._moved = time.monotonic()
        self._patience = Patience()
        self._refused: list[Refusal] = []

    def put(self, events: Sequence[ev.Event], written: int) -> None:
        """The first `written` of these events have been handed over."""
        wants = self._run.take_wants()
        if not written:
            return
        if not self._entries:
            self._moved = time.monotonic()
        done = 0
        if wants:
            places = {id(event): at for at, event in enumerate(events[:written], 1)}
            each: dict[int, tuple[int, list[Need]]] = {}
            for want in wants:
                if (at := places.get(id(want.event))) is not None:  # else it comes again, or is refused
                    each.setdefault(at, (want.rows, []))[1].append(want.need)
            for at in sorted(each):
                rows, needs = each[at]
                self._entries.append(_Entry(rows, at - done, needs, Refusal.of(events[at - 1])))
                done = at
        if written > done:
            self._entries.append(_Entry(steps(self._run.sdk), written - done, [], None))
        self._left += written

    @property
    def left(self) -> int:
        return self._left

    def look(self, *, now: bool = False) -> int:
        if self._entries:
            self._service.look()
        if self._entries and (now or self._is_time()):
            self._ask()
            while self._entries and self._entries[0].rows <= self._known and self._are_done(self._entries[0].needs):
                self._settle(self._entries.popleft())
        return self._left

    def _is_time(self) -> bool:
        seldom = self._server.problem is not None or self._run.lent
        return time.monotonic() - self._asked >= ASK_SECONDS * (5 if seldom else 1) or (self._run.ended and not self._asked_ended)

    @staticmethod
    def _are_done(needs: list[Need]) -> bool:
        return all(need.refused is not None for need in needs)

    def _settle(self, entry: _Entry) -> None:
        self._left -= entry.events
        self.arrived = True
        self._moved = time.monotonic()
        for need in entry.needs[:1]:  # what is left of them was refused, and the event with it
            assert need.refused is not None
            assert entry.event is not None
            self._refused.append(entry.event._replace(reason=need.refused))

    # -- the questions ----------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        ended = self._run.ended
        needs = list(self._needed())
        if self._server.can_ask:
            self._ask_of(self._run, needs, main=True)
            others = {need.run.id: need.run for need in needs if need.run is not self._run}
            for run in islice(others.values(), _MOST_RUNS if self._server.problem is None else 0):
                self._ask_of(run, needs)
        else:
            self._known = self._service.acknowledged
        self._asked = time.monotonic()
        self._asked_ended += ended
        for log in {id(log): log for log in [self._service, *(need.run.log for need in needs)] if log is not None}.values():
            log.look()
        self._give_again(needs)

    def _needed(self) -> Iterator[Need]:
        """Yield what is needed, up to some number."""
        return islice((need for entry in self._entries for need in entry.needs if need.refused is None), MOST_NAMES)

    def _ask_of(self, run: Run, needs: Iterable[Need], *, main: bool = False) -> None:
        """Ask what the server has of a run, and tell off what it has of that."""
        assert run.server is not None
        mine, ended = [need for need in needs if need.run is run], run.ended
        clients = dict.fromkeys(need.client for need in mine if isinstance(need, (Artifact, Request)) and need.client is not None)
        held = run.server.ask(
            [need.name for need in mine if isinstance(need, File)], list(clients),
            params=any(isinstance(need, Params) for need in mine),
            tail=run.lent or any(isinstance(need, Samples) for need in mine),
        )  # fmt: skip
        if held is None:
            self._moved = time.monotonic()
            return
        run.answered_ended = ended
        if main:
            known = held.step if run.lent else held.rows + run.ahead
            if known != self._known:
                self._moved = time.monotonic()
            self._known = known
        for need in mine:
            need.go_on(held)
        there = {id(need) for need in mine if need.is_there(held)}
        if there:
            self._patience.reset()
            for entry in self._entries:
                if entry.needs:
                    entry.needs[:] = [need for need in entry.needs if id(need) not in there]

    # -- what W&B's service has given up -----------------------------------------------------------------------------

    def _give_again(self, needs: list[Need]) -> None:
        first = self._entries[0].needs if self._entries else []
        for need in needs:
            self._note_failure(need)
        for run in {need.run for need in needs} | {self._run}:
            if run.log is not None:
                run.log.unnamed.clear()
        waiting = {id(need) for entry in self._entries for need in entry.needs}
        for need in needs:
            if id(need) in waiting and need.failed is not None and need.gives_again:
                self._judge(need, believe=any(need is each for each in first))

    @staticmethod
    def _note_failure(need: Need) -> None:
        log = need.run.log
        if log is None:
            return
        status = log.files.pop(need.name, None) if isinstance(need, File) else None
        if status is None:
            status = log.unnamed.get(need.kind)
        if status is not None:
            need.failed = status
        elif need.failed is None and time.monotonic() - need.tried_at > STUCK_SECONDS and need.run.answers:
            need.failed = 0

    def _judge(self, need: Need, *, believe: bool) -> None:
        """Hand it over again, unless it is refused: one refusal is believed at a time, of the first that is missing."""
        assert need.failed is not None
        verdict = judge(need.failed)
        lasts = need.tries > 0 and verdict is Verdict.LASTS
        if believe and (lasts or (verdict is Verdict.MAY_PASS and not self._patience.passes(need.failed))):
            need.refused = f"W&B's server answers {need.failed} for {need}"
        elif time.monotonic() - need.tried_at >= AGAIN_SECONDS or not need.tries:
            _log.info("handing %s to W&B's service again (%s)", need, need.failed)
            try:
                need.again()
            except Exception:  # W&B's service has died: the next write finds that out
                _log.debug("it could not be handed over", exc_info=True)

    def given_up(self) -> str | None:
        """Return what W&B's service has given up, and has been or has to be handed again, before the run may be ended."""
        for entry in self._entries:
            for need in entry.needs:
                if (need.failed is not None or need.tries) and need.refused is None and need.gives_again:
                    return _said(need)
        return None

    def take_refused(self) -> list[Refusal]:
        refused, self._refused = self._refused, []
        return refused

    # -- what is wrong ----------------------------------------------------------------------------------------------

    def flushed(self) -> None:
        pass  # that is on disk, and not yet with the server

    def throttle(self) -> bool:
        raise TimeoutError("W&B's server is behind")

    def stuck(self) -> str | None:
        if not self._entries:
            return None
        if self._service.fatal is not None:
            return self._service.fatal
        rows_are_missing = self._entries[0].rows > self._known
        if rows_are_missing and self._server.problem is None and time.monotonic() - self._moved > STUCK_SECONDS:
            return f"no row has arrived for {STUCK_SECONDS:.0f} s, and the server answers"
        for need in self._entries[0].needs:
            if isinstance(need, Samples) and need.failed is not None:
                return f"no sample has arrived for {STUCK_SECONDS:.0f} s, and the server answers"
            lasts = need.failed is not None if need.run is self._run else need.run.ended_for() > LAG_SECONDS
            if need.run.answered_ended and lasts:
                return f"{_said(need)}, and the run has ended"
        return None

    def behind(self) -> str | None:
        if not self._entries:
            return None
        if (why := self.stuck()) is not None:
            return why
        if not self._server.can_ask:
            return "W&B's server cannot be asked what it has: there is no API key"
        if self._server.problem is not None:
            return f"W&B's server does not say what it has: {self._server.problem}"
        return next((_said(need) for need in self._entries[0].needs if need.failed or need.tries > 1), None)

    @property
    def may_settle(self) -> bool:
        """True if what is missing may still arrive without our doing: the user's run has not ended, or the server, which is some
        seconds behind, has not said what it has in the end."""
        if not self._entries or self.stuck() is not None:
            return False
        if self._server.problem is not None or not self._server.can_ask:
            return self._run.lent and self._asked_ended < (_MOST_ASKED if self._server.can_ask else 1)
        since = min(time.monotonic() - self._moved, self._run.ended_for())
        return (self._run.lent or self._run.ended) and not (self._run.answered_ended and since > LAG_SECONDS)


def _said(need: Need) -> str:
    status = f": W&B's server answers {need.failed}" if need.failed else ""
    return f"{need} is not there{status}"
