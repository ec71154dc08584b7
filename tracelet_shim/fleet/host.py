"""A process that delivers sessions: it takes those that are free, keeps their leases, and serves each by `delivery.Delivery`.

    python -m tracelet_shim.fleet.host REDIS LEASE_SECONDS MOST [SESSION OWNER]

With a session it serves only that: one whose trackers cannot share a process.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from tracelet_shim.backends import registry
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.launch import module_command, relay_environment
from tracelet_shim.fleet import logs
from tracelet_shim.fleet.address import Address, address_of, connect
from tracelet_shim.fleet.delivery import LEAVE_SECONDS, Delivery, about_of, shares_process
from tracelet_shim.fleet.keys import HOSTS, SESSIONS, Keys
from tracelet_shim.fleet.lease import Leases
from tracelet_shim.fleet.scripts import FORGET, SIGN
from tracelet_shim.relay import said
from tracelet_shim.session.settings import resolve

__all__ = ["Host", "main"]

_CLAIM_SECONDS = 0.5
_AT_ONCE = 8
"""Sessions that are taken at a time: a host that has just started does not take all of them before another one has come."""
_READ_SECONDS = 0.1
_ENTRIES, _STREAMS = 4, 32
"""Of so many sessions at a time so many batches are read: each may have half a megabyte."""
_PAUSE = 0.5
_SIGN_SECONDS = 2.0
_BROKEN_SECONDS, _CHILD_SECONDS = 60.0, 5.0
"""How long a session is left alone that could not be served, and one whose process ended before its time."""

logger = logging.getLogger("tracelet_shim.fleet")


class Host:
    """Serves sessions until it is told to stop.

    Args:
        address: of Redis.
        lease: seconds.
        most: sessions at a time.
        own: the id of the only session that it serves, and the name under which its lease was claimed.
    """

    def __init__(self, address: Address, lease: float, most: int, own: tuple[str, str] | None = None) -> None:
        self._address = address
        self._client = connect(address)
        self._lease = lease
        self._most = most
        self._own = own
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._leases = Leases(self._client, own[1] if own is not None else self.name, lease)
        self._deliveries: dict[str, Delivery] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._not_before: dict[str, float] = {}  # sessions that cannot be served here, and when that is tried again
        self._free_since: dict[str, float] = {}
        self._woken = threading.Event()
        self._next_claim = 0.0
        self._parent = os.getppid()
        self.stopping = False
        settings = resolve({}, registry.names())
        self._options = settings.options

    def serve(self) -> None:
        """Serve, until `stopping`; then hand everything back."""
        import redis

        while not self.stopping:
            try:
                if self._own is None:
                    self._look_after_children()
                    self._claim()
                elif not self._deliveries and not self._take(Keys(self._own[0])):
                    return
                self._read()
                self._tick()
            except (redis.RedisError, OSError) as error:
                logger.warning("Redis does not answer: %s: %s", type(error).__name__, error)
                self._leases.check()
                time.sleep(_PAUSE)
            if self._own is not None and not self._deliveries:
                return
            if os.getppid() != self._parent:
                logger.warning("the collector is gone")
                self.stopping = True
        self._leave()

    # -- taking sessions ----------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        now = time.monotonic()
        if now < self._next_claim:
            return
        self._next_claim = now + _CLAIM_SECONDS
        wall = time.time()
        pipe = self._client.pipeline(transaction=False)
        pipe.eval(SIGN, 1, HOSTS, self.name, wall, wall - self._lease - _SIGN_SECONDS)
        pipe.zrange(SESSIONS, 0, -1)
        hosts, found = pipe.execute()
        mine = len(self._deliveries) + len(self._children)
        room = self._most - mine
        share = math.ceil(len(found) / max(1, hosts)) - mine
        names = [name.decode() for name in found]
        others = [name for name in names if name not in self._deliveries and name not in self._children]
        if room <= 0 or not others:
            return
        pipe = self._client.pipeline(transaction=False)
        for name in others:
            pipe.exists(Keys(name).lease)
        free = [name for name, taken in zip(others, pipe.execute(), strict=True) if not taken]
        # What nobody has taken for as long as a lease is for whoever has room: the others may be full, or gone.
        self._free_since = {name: self._free_since.get(name, now) for name in free}
        left = [name for name in free if now - self._free_since[name] >= self._lease]
        mine_now = [*left, *[name for name in free if name not in left][: max(0, share)]]
        for name in mine_now[: min(room, _AT_ONCE)]:
            self._claim_one(Keys(name))

    def _claim_one(self, keys: Keys) -> None:
        if self._not_before.get(keys.session, 0.0) > time.monotonic() or not self._leases.claim(keys):
            return
        data = self._client.get(keys.about)
        if data is None or self._client.hexists(keys.runs, "ended"):  # it has ended just now
            if data is None:
                self._client.zrem(SESSIONS, keys.session)
            else:
                self._client.eval(FORGET, 2, keys.runs, SESSIONS, keys.session)
            self._leases.release(keys)
            return
        try:
            about = about_of(data)
        except msgspec.DecodeError as error:
            text = "session %s cannot be read here (%s): its program has another version; update this one"
            logger.error(text, keys.session, error)  # noqa: TRY400 - the traceback says no more
            self._put_off(keys, str(error))
            self._leases.release(keys)
            return
        if shares_process(about):
            self._take(keys)
        else:
            self._start_child(keys)

    def _take(self, keys: Keys) -> bool:
        data = self._client.get(keys.about)
        if data is None:
            return False
        if self._own is not None:
            self._leases.inherit(keys)
        about = about_of(data)
        try:
            self._deliveries[keys.session] = Delivery(self._client, keys, about, self._leases, self._options, self._woken.set)
        except Exception as error:
            self._leases.release(keys)
            self._broken(keys, error)
            return False
        return True

    def _broken(self, keys: Keys, error: Exception) -> None:
        """A session that raises must not take others along; if it is Redis, all have the same problem."""
        import redis

        if isinstance(error, (redis.RedisError, OSError)):
            raise error
        logger.error("session %s cannot be served", keys.session, exc_info=error)
        self._put_off(keys, f"{type(error).__name__}: {error}")

    def _put_off(self, keys: Keys, why: str) -> None:
        """Leave a session to others for some time, and have its program hear of that."""
        import redis

        self._not_before[keys.session] = time.monotonic() + _BROKEN_SECONDS
        trouble = msg.Trouble(None, "collector", f"a collector cannot serve this session: {why[:300]}")
        try:
            self._client.rpush(keys.told, wire.Encoder().encode(trouble))
        except redis.RedisError as error:  # out of memory, say: the session is left alone all the same
            logger.warning("session %s: its program cannot be told: %s", keys.session, error)

    def _start_child(self, keys: Keys) -> None:
        """Have a session served by a process of its own, which gets the lease."""
        command = module_command(
            "tracelet_shim.fleet.host", self._address.url, str(self._lease), "1", keys.session, self._leases.owner
        )
        self._leases.hand_on(keys)
        self._children[keys.session] = subprocess.Popen(command, env=relay_environment(os.environ), start_new_session=True)  # noqa: S603 - ours

    def _look_after_children(self) -> None:
        for session, child in list(self._children.items()):
            if child.poll() is not None:
                if child.returncode:
                    logger.warning("the host of session %s ended with exit code %d", session, child.returncode)
                    self._not_before[session] = time.monotonic() + _CHILD_SECONDS
                del self._children[session]

    # -- serving ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Take what has come, of all sessions; wait a little where nothing has."""
        all_of_them = list(self._deliveries.values())
        anything = False
        for at in range(0, len(all_of_them), _STREAMS):
            by_key = {each.keys.log: each for each in all_of_them[at : at + _STREAMS]}
            streams: dict[Any, Any] = {key: str(each.position) for key, each in by_key.items()}
            for name, entries in self._client.xread(streams, count=_ENTRIES) or ():
                anything = True
                self._guard(by_key[name.decode()], partial(Delivery.take, entries=entries))
        if not anything:
            self._woken.wait(_READ_SECONDS)
            self._woken.clear()

    def _tick(self) -> None:
        for session, delivery in list(self._deliveries.items()):
            self._guard(delivery, Delivery.tick)
            if delivery.ended:
                self._deliveries.pop(session, None)

    def _guard(self, delivery: Delivery, do: Callable[[Delivery], None]) -> None:
        """Do something for one session; if it raises, that session is left alone."""
        try:
            do(delivery)
        except Exception as error:
            self._broken(delivery.keys, error)
            self._deliveries.pop(delivery.keys.session, None)
            delivery.begin_to_leave()
            delivery.leave()

    def _leave(self) -> None:
        """Hand everything back, at the end of the batches in hand."""
        for child in self._children.values():
            child.terminate()
        for delivery in self._deliveries.values():
            delivery.begin_to_leave()
        until = time.monotonic() + LEAVE_SECONDS  # for all of them: the collector waits for so long, and not for each
        for delivery in self._deliveries.values():
            delivery.leave(until)
        with contextlib.suppress(Exception):
            self._client.zrem(HOSTS, self.name)
        for child in self._children.values():
            child.wait()


def main() -> None:
    """Run a host."""
    address = address_of(sys.argv[1])
    lease, most = float(sys.argv[2]), int(sys.argv[3])
    own = (sys.argv[4], sys.argv[5]) if len(sys.argv) > 5 else None
    gc.set_threshold(50_000, 20, 20)
    logs.set_up()
    said.listen()
    if own is None:
        registry.prepare_shared(os.environ)
    host = Host(address, lease, most, own)

    def stop(*_: object) -> None:
        host.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's: the collector passes it on
    code = 0
    try:
        host.serve()
    except BaseException:
        logger.exception("the host stopped")
        code = 1
    logging.shutdown()
    os._exit(code)  # an SDK's own exit handlers may hang, or end runs that another host goes on with


if __name__ == "__main__":
    main()
