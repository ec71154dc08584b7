"""What the fault tests share: a training program that is watched from outside, and real servers that can be killed.

After each fault a test asks four questions: did training notice anything (`Training.end`: exit code, output, native event
file), is every event in the tracker exactly once (read with SQL or TensorBoard's loader), did the program end in time, and
did the memory of both processes stay within its budget (`Training.end` again).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import launch

PROLOGUE = """
import os, signal, sys, time
from pathlib import Path
from torch.utils.tensorboard import SummaryWriter
import tracelet_shim as tracelet

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def reach(name):
    new = f"{name}.{os.getpid()}"  # ranks of one program may reach the same at once
    Path(new).write_text(str(resident()))
    os.replace(new, name)

def wait_for(name):  # as a program that trains, it calls again and again: then it hears what the relay has to say
    while not os.path.exists(name):
        if tracelet.get_session():
            tracelet.get_session().status()
        time.sleep(0.01)

def log(start, stop):
    for step in range(start, stop):
        writer.add_scalar("loss", step / 7, step)

def begin(*backend, **more):
    global writer
    session = tracelet.start_logging(backend=list(backend), exp_name="e", **more)
    writer = SummaryWriter("runs/x")
    reach("begun")
    return session
"""
EPILOGUE = """
writer.close()
print("trained")
reach("ended")
"""

_PAGE = 4096


def eventually(check: Callable[[], bool], seconds: float = 90.0, *, pause: float = 0.1) -> None:
    """Wait until `check` holds."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(pause)


def states(process: int) -> list[str]:
    """Return what each thread of a process does, as /proc names it: "R", "S", "T" for one that is stopped, ..."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended since
            found.append(path.read_text().rpartition(")")[2].split()[0])
    return found


def starved(process: int) -> dict[Path, float]:
    """Return for how many seconds each thread of a process was ready to run, and waited for a processor."""
    found = {}
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has ended since
            found[path] = int(path.read_text().split()[1]) / 1e9
    return found


def longest_wait(process: int, before: Mapping[Path, float]) -> float:
    """Return how long a thread of a process has been `starved` since, the one that was so longest: threads wait at one time."""
    return max((waited - before.get(path, 0.0) for path, waited in starved(process).items()), default=0.0)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fill(place: Path) -> None:
    """Take all the space that is left."""
    with contextlib.suppress(OSError), open(place / "filler", "ab", buffering=0) as filler:
        while True:
            filler.write(b"\0" * 4096)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def environment(more: Mapping[str, str | None]) -> dict[str, str]:
    """Return the isolated environment of the tests with some variables more, or less."""
    merged = {**{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}, **more}
    return {name: value for name, value in merged.items() if value is not None}


class Training:
    """A training program in a process of its own, in `directory`; its code logs ``step / 7`` as ``loss``.

    It stands still where its code has ``wait_for("name")``, until `go` is called with that name, and says how far it is with
    ``reach("name")``.

    Args:
        directory: its working directory; the log directory is ``runs/x`` in it.
        code: between a prologue that defines `begin`, `log`, `reach` and `wait_for`, and an epilogue that closes the writer.
        env: variables more (or less).
        exit_timeout: what `code` gives to `begin`.
    """

    def __init__(
        self, directory: Path, code: str, *, env: Mapping[str, str | None] | None = None, exit_timeout: float = 60
    ) -> None:
        self.directory = directory
        self.exit_timeout = exit_timeout
        script = directory / "train.py"
        script.write_text(PROLOGUE + code + EPILOGUE)
        self._out, self._err = directory / "stdout.txt", directory / "stderr.txt"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = launch.start(
                script, env=environment(env or {}), cwd=directory, stdout=out.fileno(), stderr=err.fileno()
            )
        self.relays: list[int] = []
        self.training_peak = 0
        self.relay_peak = 0
        self.ended_at = 0.0
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        """Follow memory and children until the program is gone."""
        turn = 0
        while self.process.poll() is None:
            self.training_peak = max(self.training_peak, resident(self.process.pid))
            if turn % 10 == 0:
                for relay in self._find_relays():
                    if relay not in self.relays:
                        self.relays.append(relay)
            self.relay_peak = max([self.relay_peak, *map(resident, self.relays)])
            time.sleep(0.02)
            turn += 1
        self.ended_at = time.time()

    def _find_relays(self) -> list[int]:
        found = []
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in children.read_text().split()]
        return [child for child in found if is_relay(child)]

    def relay(self, number: int = 0) -> int:
        """Wait for the relay process, or for its successor of this number; return its pid."""
        eventually(lambda: len(self.relays) > number)
        return self.relays[number]

    def wait_for(self, name: str, seconds: float = 120) -> int:
        """Wait until the program reaches this point; return its resident memory there, in bytes."""
        path = self.directory / name
        until = time.monotonic() + seconds
        while not path.exists():
            assert self.process.poll() is None, f"it ended with {self.process.returncode} before {name!r}:\n{self.errors}"
            assert time.monotonic() < until, f"it has not reached {name!r}:\n{self.errors}"
            time.sleep(0.02)
        return int(path.read_text())

    def go(self, name: str) -> None:
        """Let the program pass ``wait_for(name)``."""
        (self.directory / name).touch()

    @property
    def errors(self) -> str:
        """What the program has written to standard error so far."""
        return self._err.read_text()

    def end(self, steps: int, *, seconds: float = 150, memory: float = 40e6, code: int = 0) -> str:
        """Wait for the end; check that training saw nothing and that exit and memory kept their bounds.

        Args:
            steps: number of the points that it has logged.
            seconds: how long its loop may still take: it is hung then, and the test fails.
            memory: bytes that the training process may have grown by since its session began.
            code: its exit code.

        Returns:
            What it wrote to standard error.
        """
        self.wait_for("ended", seconds)
        since = (self.directory / "ended").stat().st_mtime
        self._wait_for_exit(since)
        self._watcher.join()
        assert self.process.returncode == code, self.errors
        assert self._out.read_text() == "trained\n"
        assert all(line.startswith("tracelet-shim: ") for line in self.errors.splitlines()), self.errors
        assert native_steps(self.directory / "runs" / "x") == list(range(steps))
        grown = self.training_peak - int((self.directory / "begun").read_text())
        assert grown <= memory, f"the training process grew by {grown / 1e6:.1f} MB"
        return self.errors

    def _wait_for_exit(self, since: float) -> None:
        """Exit takes `exit_timeout`, three seconds for the relay process to end, and three more; what they could not do since the
        machine had no processor for them is not their time."""
        processes = (self.process.pid, *self.relays)
        before = {place: waited for pid in processes for place, waited in starved(pid).items()}
        lost = 0.0
        while self.process.poll() is None:
            lost = max(lost, sum(longest_wait(pid, before) for pid in (self.process.pid, *self.relays)))
            took = time.time() - since - min(lost, 60)
            assert took < self.exit_timeout + 6, f"it has not ended {took:.1f} s after its last line:\n{self.errors}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Leave nothing behind: kill the program and its relays."""
        for pid in self.relays:
            if is_relay(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        kill_group(self.process)

    def resume(self, *options: str, env: Mapping[str, str | None] | None = None) -> str:
        """Run ``tracelet-shim replay runs/x --resume``; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "tracelet_shim", "replay", "runs/x", "--resume", *options], cwd=self.directory,
            env=environment(env or {}), capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def is_relay(pid: int) -> bool:
    """True if this process is a relay, and has not ended."""
    return b"tracelet_shim.relay" in _command(pid)


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def kill_group(process: launch.Process) -> None:
    """Kill a process that leads a group, and the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- what is where afterwards -----------------------------------------------------------------------------------------


def event_file_steps(directory: Path, tag: str = "loss") -> list[int]:
    """Return the steps of a scalar in all event files below `directory`, with TensorBoard's own loader and checksums."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    steps = []
    for path in sorted(directory.rglob("*tfevents*")):
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            steps += [event.step for value in event.summary.value if value.tag == tag]
    return steps


def native_steps(directory: Path) -> list[int]:
    """Return the steps of ``loss`` in the program's own event files."""
    return event_file_steps(directory)


def copied_steps(directory: Path) -> list[int]:
    """Return the steps of ``loss`` in what the tensorboard backend wrote for a program in `directory`."""
    return event_file_steps(directory / "tracelet-runs")


def losses(count: int, *, exact: bool = True) -> list[tuple[str, int, float]]:
    """Return (key, step, value) of so many points; `exact` is False for values that only event files had: float32."""
    values = [step / 7 for step in range(count)]
    if not exact:
        values = [struct.unpack("f", struct.pack("f", value))[0] for value in values]
    return [("loss", step, value) for step, value in enumerate(values)]
