"""Many sessions at once, each in a process of its own, served by one collector, or by a relay process each.

Config: `sessions`, `collector` (True or False), `scalars` of each, `seconds` for which each goes on. The training programs are
forked from one that has imported torch, so that there is room for them; they log into one MLflow store, a SQLite file that
is there. Of what serves them (the collector with its hosts, or all relay processes) come the processor time that a session takes
until its run is open, and the greatest memory in all (of what processes have in common
their proportional share, in megabytes), after one session has come and gone, so that the SDK is imported where it stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.programs.common import descendants, main
from benchmarks.programs.relay import memory

_PATIENCE = 240.0


def train(number: int, config: dict[str, Any]) -> None:
    """Be a training program: log, say when all is delivered, go on until told to end."""
    import torch.utils.tensorboard

    import tracelet_shim

    collector = str(Path("collector.sock").absolute()) if config["collector"] else None
    session = tracelet_shim.start_logging(
        backend="mlflow", exp_name=f"session-{number}", quiet=True, exit_timeout=300, collector=collector
    )
    assert "mlflow" in session.wait_opened(_PATIENCE), session.status()
    Path(f"open-{number}").touch()
    while not Path("log").exists():
        time.sleep(0.05)
    writer = torch.utils.tensorboard.SummaryWriter(f"runs/{number}")
    began = time.perf_counter()
    for step in range(config["scalars"]):
        writer.add_scalar("loss", step / 7, step)
    cost = (time.perf_counter() - began) / config["scalars"]
    assert session.flush(_PATIENCE), session.status()
    Path(f"all-{number}").write_text(str(cost))
    step = config["scalars"]
    while not Path("end").exists():
        writer.add_scalar("loss", step / 7, step)
        step += 1
        time.sleep(0.2)
    writer.close()
    session.stop()


def used(pid: int) -> float:
    """Return the processor time of a process so far, in seconds, of its descendants, and of those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    return own + sum(used(int(child)) for child in children)


def forked(number: int, config: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        train(number, config)
        code = 0
    except BaseException as error:
        print(f"session {number}: {error!r}", flush=True)
    finally:
        os._exit(code)


def wait_until(done: Any) -> None:
    until = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def measure(config: dict[str, Any]) -> dict[str, Any]:
    import mlflow
    import torch.utils.tensorboard  # noqa: F401 - for those that are forked

    import tracelet_shim  # noqa: F401

    mlflow.MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}").search_experiments()
    collector = None
    if config["collector"]:
        command = [sys.executable, "-m", "tracelet_shim", "collect", "--socket", "collector.sock"]
        collector = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_until(lambda: Path("collector.sock").exists())
    try:
        return _measure(config, collector.pid if collector is not None else None)
    finally:
        if collector is not None:
            collector.terminate()
            collector.wait()


def _serving(collector: int | None, programs: list[int]) -> list[int]:
    if collector is not None:
        return [collector]
    return [pid for program in programs for pid in descendants(program) if _is_relay(pid)]


def _is_relay(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"tracelet_shim.relay" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _measure(config: dict[str, Any], collector: int | None) -> dict[str, Any]:
    before = 0.0
    if collector is not None:
        first = forked(config["sessions"], config)
        Path("log").touch()
        wait_until(Path(f"all-{config['sessions']}").exists)
        Path("end").touch()
        os.waitpid(first, 0)
        Path("end").unlink()
        Path("log").unlink()
        time.sleep(1.0)
        before = used(collector)
    began = time.perf_counter()
    programs = [forked(number, config) for number in range(config["sessions"])]
    try:
        wait_until(lambda: all(Path(f"open-{number}").exists() for number in range(config["sessions"])))
        took = time.perf_counter() - began
        serving = _serving(collector, programs)
        started = sum(map(used, serving)) - before
        Path("log").touch()
        wait_until(lambda: all(Path(f"all-{number}").exists() for number in range(config["sessions"])))
        logged = sum(map(used, serving)) - before - started
        most, until = 0.0, time.monotonic() + config["seconds"]
        while time.monotonic() < until:
            most = max(most, sum(map(memory, serving)))
            time.sleep(0.5)
        going = sum(map(used, serving)) - before - started - logged
    finally:
        Path("end").touch()
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in programs]
    with contextlib.closing(sqlite3.connect("mlflow.db")) as store:
        stored = store.execute("SELECT COUNT(*) FROM metrics GROUP BY run_uuid").fetchall()
    return {
        "cpu_to_start": started / config["sessions"],
        "cpu_to_log": logged / config["sessions"],
        "cpu_a_second": going / config["sessions"] / config["seconds"],
        "memory": most,
        "seconds_to_open": took,
        "call": sorted(float(Path(f"all-{n}").read_text()) for n in range(config["sessions"]))[config["sessions"] // 2] * 1e6,
        "failed": sum(code != 0 for code in codes),
        "runs": len(stored),
        "complete": sum(count >= config["scalars"] for (count,) in stored),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main(measure)
