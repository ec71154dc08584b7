"""``tracelet-shim collect redis://...``: starts hosts, and starts those again that end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from tracelet_shim.bus.launch import module_command, relay_environment
from tracelet_shim.fleet.address import Address, connect
from tracelet_shim.fleet.keys import SESSIONS, UNFINISHED
from tracelet_shim.fleet.shipper import problem_of

__all__ = ["Collector", "until_stopped"]

_TICK = 0.2
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_STEADY_SECONDS = 60.0
_STOP_SECONDS = 45.0
_OLDEST = 7

logger = logging.getLogger("tracelet_shim.fleet")


def until_stopped() -> Callable[[], bool]:
    """Take SIGTERM and Ctrl-C from now on; what is returned says whether one has come."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    return asked.is_set


class _Slot:
    """A place for a host."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.failures = 0
        self.next_start = 0.0
        self.started = 0.0


class Collector:
    """Has no SDK itself.

    Args:
        address: of Redis.
        processes: how many hosts.
        lease: seconds after which a session of a host that is gone is another's.
        most: sessions that a host serves at a time.
        until_idle: ends when there has been no session for so many seconds; None: never.
        say: takes lines for the user.
    """

    def __init__(
        self, address: Address, *, processes: int, lease: float, most: int, until_idle: float | None, say: Callable[[str], None]
    ) -> None:
        self._address = address
        self._lease = lease
        self._most = most
        self._until_idle = until_idle
        self._say = say
        self._slots = [_Slot() for _ in range(processes)]
        self._client = connect(address)
        self._idle = False
        self._idle_since = time.monotonic()
        self._problem: str | None = None
        self._next_look = 0.0

    def check(self) -> None:
        """Ask Redis whether it lets us work, and say what could cost data.

        Raises:
            redis.RedisError: it does not, or does not answer.
        """
        self._client.zcard(SESSIONS)
        info = self._client.info()
        if int(str(info["redis_version"]).partition(".")[0]) < _OLDEST:
            self._say(f"warning: Redis {info['redis_version']} is too old: scripts that may run without memory need {_OLDEST}.0")
        if info.get("maxmemory_policy", "noeviction") != "noeviction":
            policy = info["maxmemory_policy"]
            self._say(f"warning: Redis may throw data away when it is full ({policy}); remedy: maxmemory-policy noeviction")
        if not info.get("aof_enabled"):
            self._say("warning: Redis keeps no append-only file: what it has is lost when it ends; remedy: appendonly yes")

    def retry(self) -> int:
        """Take the sessions again that were ended with something left; return how many there are."""
        names = [name for name, _ in self._client.zrange(UNFINISHED, 0, -1, withscores=True)]
        for name in names:
            session = name.decode()
            pipe = self._client.pipeline(transaction=True)
            pipe.hdel(f"tracelet:{{{session}}}:runs", "ended")
            pipe.zadd(SESSIONS, {session: time.time()})
            pipe.zrem(UNFINISHED, session)
            pipe.execute()
        return len(names)

    def run(self) -> None:
        """Collect, until SIGTERM or Ctrl-C, or idle for long enough; hand everything back then."""
        stopping = until_stopped()
        while not (stopping() or self._idle):
            self._keep_up()
            self._look()
            time.sleep(_TICK)
        self._end()

    def _keep_up(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            process = slot.process
            if process is not None and process.poll() is not None:
                steady = now - slot.started > _STEADY_SECONDS
                slot.failures = 1 if steady else slot.failures + 1
                delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (slot.failures - 1))
                self._say(f"a host ended with exit code {process.returncode}; another one starts in {delay:g} s")
                slot.process, slot.next_start = None, now + delay
            if slot.process is None and now >= slot.next_start:
                command = module_command("tracelet_shim.fleet.host", self._address.url, str(self._lease), str(self._most))
                environment = relay_environment(os.environ)
                if self._address.password is not None:
                    environment["TRACELET_REDIS_PASSWORD"] = self._address.password
                slot.process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - ours
                slot.started = now

    def _look(self) -> None:
        """Say, once, when Redis is away, and whether there is anything to do."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + 1.0
        problem = None
        try:
            if self._client.zcard(SESSIONS):
                self._idle_since = now
        except Exception as error:
            problem = problem_of(error, self._address)
            if problem is None:
                raise
            self._idle_since = now
        if problem != self._problem:
            self._say(problem or "Redis answers again")
        self._problem = problem
        if self._until_idle is not None and now - self._idle_since >= self._until_idle:
            self._say(f"no session for {self._until_idle:g} s: this collector ends")
            self._idle = True

    def _end(self) -> None:
        living = [slot.process for slot in self._slots if slot.process is not None and slot.process.poll() is None]
        for process in living:
            process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        for process in living:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            if process.poll() is None:  # its sessions are taken over when their leases are over
                process.kill()
                process.wait()
