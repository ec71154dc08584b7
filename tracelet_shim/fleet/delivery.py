"""One session that a host delivers: its stream in, its trackers out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from tracelet_shim import errors
from tracelet_shim.backends import registry
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.fleet.keys import About, Keys, Position
from tracelet_shim.fleet.lease import Leases
from tracelet_shim.fleet.ledger import FleetLedger
from tracelet_shim.fleet.state import FleetState
from tracelet_shim.fleet.stream import Parts, StreamIndex
from tracelet_shim.relay.dispatcher import Relay

__all__ = ["LEAVE_SECONDS", "Delivery", "about_of", "shares_process"]

_TRIM_SECONDS = 1.0
_LOOK_SECONDS = 30.0
_SILENT_SECONDS = 86_400.0
"""A program that has not been heard of for so long is gone, with its machine: its runs are closed as failed."""
_DELIVERY_SECONDS = 7 * 86_400.0
_MEMORY = 8_000_000
"""Bytes of events that are kept of a session: a host has hundreds, and what is beyond is read from Redis again."""
LEAVE_SECONDS = 10.0
"""How long the workers may take over the batch that they have in hand."""

logger = logging.getLogger("tracelet_shim.fleet")


def about_of(data: bytes) -> About:
    """Return what a session is opened with.

    Raises:
        msgspec.DecodeError: it is of a version that this one does not know.
    """
    decoder: wire.Decoder[About] = wire.Decoder(About)
    return decoder.decode(data)


def shares_process(about: About) -> bool:
    """Return whether all trackers of a session can be served by a process that serves others too."""
    try:
        return all(registry.find(spec.name).shares_process for spec in about.backends)
    except errors.TraceletError:
        return True  # its tracker is not known here, which is said soon


class Delivery:
    """Delivers one session, as long as this process has its lease.

    Args:
        client: of Redis.
        keys: the session's.
        about: what it is opened with.
        leases: of this process.
        options: of the trackers, as this process has them; what the program gave wins.
        wake: called from any thread when `tick` should be called soon.

    Attributes:
        position: of the latest entry of the stream that was taken.
        ended: everything is delivered, or never will be, and Redis knows.

    Raises:
        redis.RedisError: Redis does not answer.
    """

    def __init__(
        self,
        client: Any,
        keys: Keys,
        about: About,
        leases: Leases,
        options: Mapping[str, Mapping[str, Any]],
        wake: Callable[[], None],
    ) -> None:
        self.keys = keys
        self._client = client
        self._about = about
        self._leases = leases
        self._parts = Parts()
        self._encoder = wire.Encoder()
        self._told: set[tuple[str | None, str]] = set()
        self._replies: list[msg.Trouble] = []
        self._trimmed = 0
        self._next_trim = 0.0
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._heard = time.monotonic()
        self._closing = self.ended = False
        self._ledger = FleetLedger(client, keys, leases)
        index = StreamIndex(client, keys, self._ledger.records, leases)
        self.relay = Relay(self._replied, keeper=partial(FleetState, self._ledger, index, leases), complete=True, wake=wake)
        self.position = Position(index.length)
        self._begin(options)

    def _begin(self, options: Mapping[str, Mapping[str, Any]]) -> None:
        """Open the runs, or go on where an earlier owner of the session stopped."""
        about, relay, ledger = self._about, self.relay, self._ledger
        known = ledger.session(self.keys.session)
        specs = [_spec(spec, options.get(spec.name, {})) for spec in about.backends]
        relay.handle(
            msg.Open(
                about.run, specs, min(about.memory, _MEMORY), (known.root if known is not None else about.root) or None,
                restarted=known is not None, continues=about.continues, what_ran_comes=True,
            )
        )  # fmt: skip
        if ledger.what_ran is not None:
            relay.handle(msg.WhatRanFound(ledger.what_ran))
        if known is not None:
            for writer in ledger.writers(self.keys.session):
                relay.handle(msg.Writer(writer))
            for source in ledger.sources(self.keys.session):
                relay.handle(source)
            relay.handle(msg.Continue())
        logger.info("session %s: %s", self.keys.session, "going on" if known is not None else "begun")

    @property
    def _state(self) -> FleetState:
        state = self.relay.state
        assert isinstance(state, FleetState)
        return state

    def _replied(self, reply: msg.Reply) -> None:
        if isinstance(reply, msg.Trouble) and (reply.backend, reply.kind) not in self._told:
            self._told.add((reply.backend, reply.kind))
            self._replies.append(reply)

    def take(self, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        """Take entries of the stream, in order."""
        self._heard = time.monotonic()
        for entry, fields in entries:
            self.position = Position.of(entry)
            message = self._parts.take(fields)
            if message is not None:
                self._handle(message)

    def _handle(self, message: msg.Message) -> None:
        if isinstance(message, msg.Records):
            new = self.position.records - self.relay.length
            if new > len(message.records):
                raise LookupError(self._hole())
            message = msg.Records(message.records[len(message.records) - max(0, new) :])
        elif isinstance(message, msg.WhatRanFound):
            self._state.write(lambda *_: self._ledger.keep_what_ran(message.data))
        elif isinstance(message, msg.Close):
            if self._closing:  # appended twice
                return
            if self.position.records != self.relay.length:
                raise LookupError(self._hole())
            self._closing = True
            self.relay.handle(msg.WhatRanFound(b""))  # if there is none by now, there will be none
        self.relay.handle(message)

    def _hole(self) -> str:
        return f"the stream has a hole: of {self.position.records} records, {self.relay.length} have come"

    def tick(self) -> None:
        """To be called about ten times a second."""
        self.relay.tick()
        now = time.monotonic()
        while self._replies:
            data = self._encoder.encode(self._replies.pop(0))
            self._state.write(lambda *_, data=data: self._ledger.tell(data))
        if now >= self._next_trim:
            self._next_trim = now + _TRIM_SECONDS
            self._trim()
        if now >= self._next_look and not self._closing:
            self._next_look = now + _LOOK_SECONDS
            self._look()
        if self.relay.closed and not self.ended:
            self._finish()

    def _trim(self) -> None:
        """Let Redis forget what every tracker has; what a tracker that has failed lacks is kept as long as there is room."""
        states = self.relay.states()
        at = {worker.name: worker.progress.safe.number for worker in self.relay.workers}
        done = min(at.values(), default=0)
        going = min((number for name, number in at.items() if states[name].state != "failed"), default=self.relay.length)
        if going > done and (self._client.memory_usage(self.keys.log) or 0) > self._about.budget / 2:
            done = going
        if done > self._trimmed:
            self._trimmed = done
            self._state.write(lambda *_: self._ledger.trim(done))

    def _look(self) -> None:
        """Close the runs of a program that is gone for good."""
        if self._client.exists(self.keys.alive):
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > _SILENT_SECONDS:
            logger.warning("session %s: nothing was heard of its program for a day", self.keys.session)
            self._closing = True
            self.relay.handle(msg.WhatRanFound(b""))
            self.relay.handle(msg.Close("failed", _DELIVERY_SECONDS, cut_off=True))

    def _finish(self) -> None:
        """Everything that can be delivered has been: let go of the session."""
        states = self.relay.states()
        whole = all(state.complete or (state.state == "closed" and not state.pending) for state in states.values())
        keys = self.keys
        self._leases.check()
        self._leases.ends(keys)
        self._ledger.finish(whole=whole)
        self._leases.hand_on(keys)
        self.ended = True
        words = ", ".join(f"{name}: {s.state}, {s.delivered} delivered, {s.missing} missing" for name, s in states.items())
        logger.info("session %s: ended (%s)", keys.session, words)

    # -- handing it on ------------------------------------------------------------------------------------------------

    def begin_to_leave(self) -> None:
        """Write nothing more to the trackers than the batches in hand."""
        self._state.leaves = True
        self.relay.wake_workers()

    def leave(self, until: float | None = None) -> None:
        """Wait until they are written and noted, up to `until` (monotonic seconds), and let another host have the session: at
        once, or, where a tracker has not answered, when the lease is over."""
        until = time.monotonic() + LEAVE_SECONDS if until is None else until
        while any(worker.alive for worker in self.relay.workers) and time.monotonic() < until:
            time.sleep(0.02)
        if any(worker.alive for worker in self.relay.workers):
            logger.warning("session %s: a tracker has not answered in time; its next owner finds out", self.keys.session)
            self._leases.hand_on(self.keys)
            return
        self._leases.release(self.keys)
        logger.info("session %s: handed back", self.keys.session)


def _spec(spec: msg.BackendSpec, options: Mapping[str, Any]) -> msg.BackendSpec:
    """Return what to open here: the class that this installation has under that name, whatever the program says."""
    try:
        backend = registry.find(spec.name)
        path = f"{backend.__module__}:{backend.__qualname__}"
    except errors.TraceletError:
        path = f"no_such_tracker_on_{os.uname().nodename.replace('.', '_').replace('-', '_')}:{spec.name}"
    return msgspec.structs.replace(spec, class_path=path, options={**options, **spec.options}, here=False)
