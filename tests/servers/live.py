"""Real servers for tests of faults: a tracker's own, in a process of its own, with a gate before it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.faults.harness import environment, eventually, free_port, kill_group
from tests.servers.gate import Gate
from tests.servers.harness import Point

__all__ = ["Live"]


class Live(ABC):
    """A real server; a `tests.online.rounds.Held`.

    Args:
        directory: for its store and its output.

    Class attributes:
        name: the tracker.
    """

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.gate = Gate(free_port())

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.gate.port}"

    @property
    @abstractmethod
    def env(self) -> Mapping[str, str | None]:
        """The variables with which the unmodified SDK uses this server, through the gate."""

    @abstractmethod
    def command(self, port: int) -> Sequence[str]:
        """Return what starts it."""

    @property
    def own_env(self) -> Mapping[str, str | None]:
        """The server's own variables."""
        return {}

    @abstractmethod
    def points(self) -> list[Point]:
        """Return the points that its store holds of the one run that it has, sorted; one that is there twice is twice in it."""

    @abstractmethod
    def things(self) -> list[str]:
        """Return what else it holds of that run, as of `Held`; and ``audio 0``, ..."""

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, on the same port and with what it held, and wait until it answers."""
        with open(self.directory / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                self.command(self.gate.target), cwd=self.directory, env=environment(self.own_env), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        eventually(self._listens, 120)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "output.txt").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.gate.target), 1):
            return True
        return False

    def kill(self) -> None:
        """SIGKILL; nothing happens if it does not run."""
        if self.process is not None:
            kill_group(self.process)
            self.process = None

    def close(self) -> None:
        """Leave nothing behind."""
        self.gate.close()
        self.kill()

    # -- its faults --------------------------------------------------------------------------------------------------

    def misbehave(self, mode: str, paths: str | None = None, *, count: int = 0, body: str = "html") -> None:
        """As of `Gate.fail`, for all paths and until `recover`."""
        assert not paths, "a gate looks at no paths"
        assert not count, "nor does it count"
        self.gate.fail(mode, body)

    def recover(self) -> None:
        self.gate.heal()

    def requests(self, paths: str | None = None, fault: str | None = None) -> list[dict[str, Any]]:
        """Return what came from clients, or only that with one fault."""
        assert not paths, "a gate looks at no paths"
        return [request for request in list(self.gate.requests) if fault in (None, request["fault"])]

    def check_understood(self) -> None:  # noqa: B027 - a real server understands its SDK
        """Nothing can be wrong."""
