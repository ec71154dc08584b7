"""A collector, and many training programs of one directory that it serves."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import launch
from tests.faults.harness import environment, eventually

PROGRAM = """
import os, sys, time
from pathlib import Path
from torch.utils.tensorboard import SummaryWriter
import tracelet_shim as tracelet

def said(name, text):
    Path(f"{name}.new").write_text(text)
    os.replace(f"{name}.new", name)

def log(start, stop):
    for step in range(start, stop):
        writer.add_scalar("loss", step / 7, step)

name, backends, half = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
session = tracelet.start_logging(backend=backends, exp_name=name)
writer = SummaryWriter(f"runs/{name}")
log(0, half)
session.flush(float(sys.argv[4]))
said(f"{name}.served", str(session._bus._parts[0].bus.relay_pid))
while not os.path.exists("go") and not os.path.exists(f"{name}.go"):
    session.status()
    time.sleep(0.01)
log(half, 2 * half)
writer.close()
print("trained")
"""


class Program:
    """One training program: it logs half of its points, says who serves it, waits, logs the other half and ends.

    Args:
        directory: its working directory.
        name: of its run, and of its log directory below ``runs``.
    """

    def __init__(
        self, directory: Path, name: str, *, backends: str = "mlflow", half: int = 500,
        env: Mapping[str, str | None] | None = None, patience: float = 100,
    ) -> None:  # fmt: skip
        self.directory, self.name = directory, name
        script = directory / "train.py"
        if not script.exists():
            script.write_text(PROGRAM)
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = launch.start(
                script, name, backends, str(half), str(patience), env=environment(env or {}), cwd=directory,
                stdout=out.fileno(), stderr=err.fileno(),
            )  # fmt: skip

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def served_by(self) -> int:
        """Wait until the first half is there; return the process that serves it."""
        path = self.directory / f"{self.name}.served"
        eventually(lambda: path.exists() or self.process.poll() is not None, 150)
        assert path.exists(), self.errors
        return int(path.read_text())

    def go(self) -> None:
        (self.directory / f"{self.name}.go").touch()

    def end(self) -> str:
        """Let it end; return what it wrote to standard error."""
        self.go()
        self.process.wait(150)
        assert self.process.returncode == 0, self.errors
        assert self._out.read_text() == "trained\n"
        assert all(line.startswith("tracelet-shim: ") for line in self.errors.splitlines()), self.errors
        return self.errors

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Collector:
    """``tracelet-shim collect``.

    Args:
        path: of its socket.
        options: more of the command line.
    """

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self.log = path.with_name(f"{path.name}.out")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tracelet_shim", "collect", "--socket", str(path), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment({}), cwd="/",
            )  # fmt: skip
        eventually(path.exists)

    @property
    def env(self) -> dict[str, str | None]:
        return {"TRACELET_COLLECTOR": str(self.path)}

    def hosts(self) -> list[int]:
        """Return the processes that serve sessions."""
        return children(self.process.pid)

    def stop(self) -> None:
        hosts = self.hosts()
        self.process.terminate()
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            for pid in [*hosts, self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def points(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of ``loss`` by the name of the run, as MLflow's store has them."""
    with contextlib.closing(sqlite3.connect(directory / "mlflow.db")) as db:
        rows = db.execute(
            "SELECT name, step, value FROM metrics JOIN runs USING (run_uuid) WHERE key = 'loss' ORDER BY name, step"
        ).fetchall()
    found: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in rows:
        found.setdefault(name, []).append((step, value))
    return found


def states(directory: Path) -> dict[str, str]:
    """Return the state of each run by its name."""
    with contextlib.closing(sqlite3.connect(directory / "mlflow.db")) as db:
        rows = db.execute("SELECT name, status FROM runs").fetchall()
    assert len({name for name, _ in rows}) == len(rows), rows
    return dict(rows)


def losses(count: int) -> list[tuple[int, float]]:
    return [(step, step / 7) for step in range(count)]


Start = Callable[..., Program]


def wait_until_gone(pid: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not is_gone(pid):
        assert time.monotonic() < until, f"process {pid} goes on"
        time.sleep(0.05)
