"""Whose a session is. A host writes to a tracker only while its leases hold, and ends at once when one does not: what it had in
hand is then like that of any killed process, and the next owner finds out what has arrived (fencing)."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, NoReturn

from tracelet_shim.fleet.keys import Keys
from tracelet_shim.fleet.scripts import CLAIM, LOST, RELEASE, RENEW

__all__ = ["EXIT_LOST", "Leases"]

EXIT_LOST = 75
"""The exit code of a host whose lease was over: `os.EX_TEMPFAIL`."""
_MARGIN = 0.2

logger = logging.getLogger("tracelet_shim.fleet")


class Leases:
    """Those of one process, kept up by a thread.

    Args:
        client: of Redis.
        owner: what stands in each lease: whose it is.
        seconds: how long a lease holds without a sign of life.
    """

    def __init__(self, client: Any, owner: str, seconds: float) -> None:
        self._client = client
        self.owner = owner
        self.seconds = seconds
        self._lock = threading.Lock()
        self._held: dict[str, Keys] = {}
        self._ending: set[str] = set()
        self._holds_until = 0.0
        self._renewing = threading.Thread(target=self._renew, name="tracelet-lease", daemon=True)

    def claim(self, keys: Keys) -> bool:
        """Take the lease of a session, if it is free."""
        asked = time.monotonic()
        if not self._client.eval(CLAIM, 1, keys.lease, self.owner, int(self.seconds * 1000)):
            return False
        self._hold(keys, asked)
        return True

    def inherit(self, keys: Keys) -> None:
        """Take a lease over that another process has claimed for this one, under the same name."""
        asked = time.monotonic()
        if self._client.eval(RENEW, 1, keys.lease, self.owner, int(self.seconds * 1000)) == LOST.encode():
            self.lost(f"session {keys.session} was not taken over in time")
        self._hold(keys, asked)

    def _hold(self, keys: Keys, since: float) -> None:
        with self._lock:
            until = since + self.seconds * (1 - _MARGIN)
            self._holds_until = min(self._holds_until, until) if self._held else until
            self._held[keys.session] = keys
            if self._renewing.ident is None:
                self._renewing.start()

    def hand_on(self, keys: Keys) -> None:
        """Another process keeps it up from now on."""
        with self._lock:
            self._held.pop(keys.session, None)
            self._ending.discard(keys.session)

    def ends(self, keys: Keys) -> None:
        """The session ends, and its lease with it: from now on nobody is to miss that."""
        with self._lock:
            self._ending.add(keys.session)

    def release(self, keys: Keys) -> None:
        """Let others have the session."""
        self.hand_on(keys)
        self._client.eval(RELEASE, 1, keys.lease, self.owner)

    def check(self) -> None:
        """End this process if its leases may be over: to be called before anything is written that only an owner may write.
        Monotonic time goes on while a process is stopped."""
        if self._held and time.monotonic() > self._holds_until:
            self.lost("nothing was heard of Redis for too long")

    def lost(self, why: str) -> NoReturn:
        """End this process, with nothing more written: what it had in hand is found out about by the next owner."""
        logger.error("a lease is over (%s); this host ends, and another one goes on", why)
        logging.shutdown()
        os._exit(EXIT_LOST)

    def _renew(self) -> None:
        import redis

        while True:
            time.sleep(self.seconds / 5)
            with self._lock:
                held = list(self._held.values())
            if not held:
                continue
            asked = time.monotonic()
            try:
                pipe = self._client.pipeline(transaction=False)
                for keys in held:
                    pipe.eval(RENEW, 1, keys.lease, self.owner, int(self.seconds * 1000))
                answers = pipe.execute()
            except (redis.RedisError, OSError) as error:
                logger.warning("leases cannot be renewed now: %s", error)
                self.check()
                continue
            with self._lock:
                for keys, answer in zip(held, answers, strict=True):
                    if answer == LOST.encode() and keys.session in self._held.keys() - self._ending:
                        self.lost(f"session {keys.session} is another host's")
                self._holds_until = asked + self.seconds * (1 - _MARGIN)
