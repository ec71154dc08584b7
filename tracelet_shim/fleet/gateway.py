"""``tracelet-shim collect --follow DIR``: what programs without a network write under a directory that both sides see.

Each sub-directory with event files is a run, as for ``replay --runs``. It is followed by a process of its own until it has been
quiet for some time, and continued (``replay --resume``) when it has grown since: so many runs may grow, and few processes are
there at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tracelet_shim.eventfiles.logdir import STATE, is_event_file, run_directories, walk
from tracelet_shim.fleet.collector import until_stopped

__all__ = ["Gateway"]

_TICK = 0.5
_LOOK_SECONDS = 5.0
_AGAIN_SECONDS = 30.0
"""A run whose process has failed is left alone for so long."""
_DAMAGED = 1
"""The exit code of ``replay`` where a file is damaged, which the next look will not change."""

logger = logging.getLogger("tracelet_shim.fleet")


class _Seen(NamedTuple):
    """What a run was like when its process was started."""

    size: int
    files: int


class Gateway:
    """Follows a directory.

    Args:
        directory: what is followed.
        arguments: of ``replay``: ``--backend``, ``--project``, ...
        processes: how many runs are followed at a time.
        quiet: seconds without news after which a run makes room for another one.
        until_idle: ends when nothing has grown for so many seconds, and everything is delivered; None: never.
        say: takes lines for the user.
    """

    def __init__(
        self, directory: str, arguments: Sequence[str], *, processes: int, quiet: float, until_idle: float | None,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._directory = directory
        self._arguments = list(arguments)
        self._processes = processes
        self._quiet = quiet
        self._until_idle = until_idle
        self._say = say
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._done: dict[str, _Seen] = {}
        self._began: dict[str, _Seen] = {}
        self._not_before: dict[str, float] = {}
        self._told: set[str] = set()

    def run(self) -> None:
        """Follow, until a signal, or idle for long enough; the runs then have what they have, and the next one continues."""
        stopping = until_stopped()
        next_look, idle_since = 0.0, time.monotonic()
        while not stopping():
            self._reap()
            now = time.monotonic()
            if now >= next_look:
                next_look = now + _LOOK_SECONDS
                waiting = self._start_due()
                if waiting or self._running:
                    idle_since = now
            if self._until_idle is not None and now - idle_since >= self._until_idle:
                self._say(f"nothing has grown for {self._until_idle:g} s: this collector ends")
                break
            time.sleep(_TICK)
        for process in self._running.values():
            process.send_signal(signal.SIGINT)  # it delivers what it has read
        for process in self._running.values():
            process.wait()

    def _start_due(self) -> int:
        """Start what has grown, as far as there is room; return how many wait."""
        due = []
        for path, _ in run_directories(self._directory, self._refused):
            seen = _seen(path)
            late = self._not_before.get(path, 0.0) > time.monotonic()
            if path not in self._running and self._done.get(path) != seen and not late:
                due.append((path, seen))
        room = self._processes - len(self._running)
        for path, seen in due[:room]:
            self._start(path, seen)
        return len(due)

    def _refused(self, path: str, why: str) -> None:
        if path not in self._told:
            self._told.add(path)
            self._say(f"warning: {path} is not followed: {why}")

    def _start(self, path: str, seen: _Seen) -> None:
        again = os.path.exists(os.path.join(path, STATE, "ledger.db"))
        how = ["--resume"] if again else ["--follow", "--idle", f"{self._quiet:g}", "--exp-name", os.path.basename(path)]
        given = [each for each in self._arguments if not again or _is_for_both(each)]
        command = [sys.executable, "-m", "tracelet_shim", "replay", path, *how, *given]
        self._began[path] = seen
        self._running[path] = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - ours
        logger.info("%s: %s", path, "continued" if again else "followed")

    def _reap(self) -> None:
        for path, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[path]
            if code in (0, _DAMAGED):
                # What came while it ended is new at the next look.
                self._done[path] = self._began[path] if code == 0 else _seen(path)
                logger.info("%s: delivered, as far as it goes", path)
            else:
                self._not_before[path] = time.monotonic() + _AGAIN_SECONDS
                self._say(f"warning: {path}: not everything was delivered (exit code {code}); again in {_AGAIN_SECONDS:g} s")


def _is_for_both(argument: str) -> bool:
    """True if ``--resume`` takes it too: the rest of a session is as the session was started."""
    return argument.startswith(("--backend=", "--option="))


def _seen(path: str) -> _Seen:
    size = files = 0
    for directory, names in walk(path):
        for name in filter(is_event_file, names):
            with contextlib.suppress(OSError):
                size += os.path.getsize(os.path.join(directory, name))
                files += 1
    return _Seen(size, files)
