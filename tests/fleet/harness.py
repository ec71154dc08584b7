"""What the tests of the fleet share: collectors that can be killed, and what has arrived in three trackers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.backends.aim.reader import AimReader
from tests.backends.mlflow.reader import MLflowReader
from tests.faults.harness import environment, eventually, losses, resident
from tests.servers.harness import Server

__all__ = ["Collector", "Stores"]


class Collector:
    """``tracelet-shim collect URL`` in a process of its own, with the hosts that it starts.

    Args:
        directory: its working directory, and where its output goes.
        url: of Redis.
        options: of the command.
        env: variables more (or less).
    """

    READY = re.compile(r"ready|collect", re.IGNORECASE)

    def __init__(
        self, directory: Path, url: str, *options: str, env: Mapping[str, str | None] | None = None, number: int = 0
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._log = directory / f"collector{number}.txt"
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tracelet_shim", "collect", url, *options], cwd=directory, env=environment(env or {}),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._family = [psutil.Process(self.process.pid)]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What it, and its hosts, have said so far."""
        return self._log.read_text()

    def wait_ready(self) -> None:
        """Wait until it has said that it is ready."""

        def said() -> bool:
            assert self.process.poll() is None, self.log
            return bool(self.READY.search(self.log))

        eventually(said, 120)

    def wait_said(self, text: str, seconds: float = 90) -> None:
        """Wait until it has said this."""
        try:
            eventually(lambda: text in self.log, seconds)
        except AssertionError:
            raise AssertionError(f"it has not said {text!r}:\n{self.log}") from None

    def family(self) -> list[int]:
        """Return the processes that are alive: it, its hosts, and what those have started."""
        for process in list(self._family):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._family += [child for child in process.children(recursive=True) if child not in self._family]
        self._family = [process for process in self._family if _is_alive(process)]
        return [process.pid for process in self._family]

    def hosts(self) -> list[int]:
        """Return its hosts: the children that it has."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children() if _is_alive(child)]
        return []

    def resident(self) -> int:
        """Return the resident memory of all of it, in bytes."""
        return sum(map(resident, self.family()))

    def _signal(self, number: int) -> None:
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """SIGSTOP, to all of it: as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, to all of it: as a machine that is lost."""
        while self.family():
            self._signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)

    def terminate(self, seconds: float = 60) -> int:
        """SIGTERM, as systemd and Kubernetes end a service; wait, and return its exit code."""
        self.family()
        self.process.terminate()
        return self.wait(seconds)

    def wait(self, seconds: float = 120) -> int:
        """Wait for its end; return the exit code. Nothing of it may be left then."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended:\n{self.log}") from None
        eventually(lambda: not self.family(), 20)
        return code


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Stores:
    """What the collectors deliver to: an MLflow store, an Aim repository, and W&B's stand-in.

    Args:
        directory: of the stores.
        wandb: the stand-in; None: there is none.
    """

    def __init__(self, directory: Path, wandb: Server | None) -> None:
        self.directory = directory
        self.wandb = wandb
        (directory / "aim").mkdir(parents=True, exist_ok=True)

    @property
    def trackers(self) -> list[str]:
        return ["mlflow", "aim", *(["wandb"] if self.wandb else [])]

    @property
    def variables(self) -> dict[str, str | None]:
        """What the collectors need, and nobody else has."""
        online = self.wandb.env if self.wandb else {}
        return {**MLflowReader.environment(self.directory), **AimReader.environment(self.directory / "aim"), **online}

    # -- on the way ------------------------------------------------------------------------------------------------------

    def in_mlflow(self, tag: str = "loss") -> int:
        """Return how many points MLflow has so far, of all runs."""
        with contextlib.suppress(sqlite3.OperationalError):  # there is no table yet
            return int(MLflowReader(self.directory).query("SELECT count(*) FROM metrics WHERE key = ?", tag)[0][0])
        return 0

    def wait_mlflow(self, count: int, seconds: float = 120) -> None:
        """Wait until MLflow has so many points."""
        try:
            eventually(lambda: self.in_mlflow() >= count, seconds, pause=0.05)
        except AssertionError:
            raise AssertionError(f"MLflow has {self.in_mlflow()} of {count}") from None

    # -- in the end ------------------------------------------------------------------------------------------------------

    def check(self, steps: int, *, exact: bool = True, status: str = "finished") -> None:
        """Every point of one program is in each tracker, once, in one run, which has ended."""
        self.check_mlflow(steps, exact=exact, status=status)
        self.check_aim(steps, exact=exact)
        if self.wandb:
            self.check_wandb(steps, exact=exact)

    def check_mlflow(self, steps: int, *, exact: bool = True, status: str = "finished") -> None:
        reader = MLflowReader(self.directory)
        found = reader.query("SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step", reader.run)
        assert found == losses(steps, exact=exact)
        assert reader.status() == status

    def check_aim(self, steps: int, *, exact: bool = True) -> None:
        points = AimReader(self.directory / "aim").scalars("", "loss")
        assert [("loss", point.step, point.value) for point in points] == losses(steps, exact=exact)

    def check_wandb(self, steps: int, *, exact: bool = True) -> None:
        assert self.wandb is not None
        self.wandb.check_understood()
        assert self.wandb.count_runs() == 1
        assert self.wandb.points() == losses(steps, exact=exact)
