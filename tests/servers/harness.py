"""Stand-in servers for tests: started, made to misbehave, killed, and asked what they hold."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.backends import part, with_part
from tests.faults.harness import environment, eventually, free_port

__all__ = ["SERVERS", "Point", "Server", "server_class"]

Point = tuple[str, int, float]
"""Key, step, value."""

_ROOT = Path(__file__).parents[2]


class Server(ABC):
    """A stand-in server in a process of its own.

    Args:
        directory: what it records and keeps.

    Class attributes:
        name: the tracker; its server is `tests.backends.<name>.server`.
        data: a regular expression for the paths that points go to.
        users_run: the code of a program that opens a run of its own, with the id ``run.id``; empty where its status cannot be
            compared with what the server holds before it ends.
    """

    name: ClassVar[str]
    data: ClassVar[str]
    users_run: ClassVar[str] = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.number: int | None = None  # which of several runs is looked at; None: there is one
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def env(self) -> Mapping[str, str | None]:
        """The variables with which the unmodified SDK uses this server."""

    @property
    @abstractmethod
    def wrong_env(self) -> Mapping[str, str | None]:
        """Those that name a key that it does not know."""

    @abstractmethod
    def points(self) -> list[Point]:
        """Return what the server holds of the one run that it has, sorted; a point that is there twice is twice in it."""

    @abstractmethod
    def things(self) -> list[str]:
        """Return what else it holds of that run, as of `tests.online.rounds.Held`."""

    @abstractmethod
    def trials(self) -> list[float]:
        """Return ``lr`` of all runs that have it as parameter, and the same as metric ``acc``, sorted; one that is there twice is
        twice in it."""

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, on the same port and with what it held, and wait until it answers."""
        with open(self.directory / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.backends.{self.name}.server", "--port", str(self.port),
                 "--record", str(self.directory)],
                cwd=_ROOT, env=environment({}), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output
        try:
            self._control("state")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL; nothing happens if it does not run."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    # -- its faults --------------------------------------------------------------------------------------------------

    def _control(self, what: str, asked: Mapping[str, Any] | None = None) -> Any:
        body = json.dumps(asked).encode() if asked is not None else None
        with urllib.request.urlopen(urllib.request.Request(f"{self.base}/_standin/{what}", body), timeout=30) as answer:
            return json.loads(answer.read())

    def misbehave(self, mode: str, paths: str | None = None, *, count: int = 0, body: str = "json") -> None:
        """See `tests.servers.standin`; default: on the paths of data."""
        self._control("fault", {"mode": mode, "paths": self.data if paths is None else paths, "count": count, "body": body})

    def recover(self) -> None:
        self._control("fault", {"mode": "ok"})

    # -- what it has seen and holds ----------------------------------------------------------------------------------

    @property
    def output(self) -> str:
        return (self.directory / "output.txt").read_text()

    @property
    def state(self) -> dict[str, Any]:
        """What it holds; of one that was killed, what it held."""
        return json.loads((self.directory / "state.json").read_text())  # type: ignore[no-any-return]

    def requests(self, paths: str | None = None, fault: str | None = None) -> list[dict[str, Any]]:
        """Return the requests for some paths (default: of data), and only those with one fault."""
        lines = (self.directory / "requests.jsonl").read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        pattern = self.data if paths is None else paths
        return [r for r in found if re.search(pattern, r["path"]) and fault in (None, r["fault"])]

    def wait_for_requests(self, count: int, paths: str | None = None, fault: str | None = None) -> None:
        """Wait until it has seen so many of these requests."""
        eventually(lambda: len(self.requests(paths, fault)) >= count, 240)

    def wait_for_points(self, count: int) -> None:
        """Wait until it holds so many points."""
        eventually(lambda: bool(self._runs()) and len(self.points()) >= count, 240)

    def count_runs(self) -> int:
        return len(self._runs())

    def _runs(self) -> list[Any]:
        return list(self.state[self._runs_key].values())

    _runs_key: ClassVar[str]

    def run(self) -> Any:
        """Return what it holds of the one run that it has, or of the one that is looked at."""
        runs = self._runs()
        if self.number is None:
            (run,) = runs
            return run
        return runs[self.number]

    def check_understood(self) -> None:
        """Fail if the SDK asked for something that the stand-in does not know."""
        assert self.state["unknown"] == [], self.state["unknown"]


def server_class(tracker: str) -> type[Server]:
    """Return the stand-in server of one of `SERVERS`."""
    found: type[Server] = part(tracker, "online").SERVER
    return found


SERVERS = with_part("online")
"""The trackers that have one."""
