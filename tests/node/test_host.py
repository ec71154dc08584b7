"""What a host does for one session, and for all; and which sessions it may have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.faults.harness import environment, eventually
from tests.node.programs import Collector, Start, losses, points, states, wait_until_gone
from tracelet_shim.bus.collected import is_per_process


@pytest.mark.parametrize(
    "variable", ["RANK", "SLURM_PROCID", "CUDA_VISIBLE_DEVICES", "TRACELET_MLFLOW_TRACKING_URI", "_TRACELET_REPORT", "PWD"]
)
def test_what_differs_between_ranks_and_trials(variable: str) -> None:
    assert is_per_process(variable)


@pytest.mark.parametrize(
    "variable",
    ["MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "AWS_SECRET_ACCESS_KEY", "HOME", "TMPDIR", "TRACELET_STATE_DIR", "_TRACELET_PATH"],
)
def test_what_a_tracker_may_read(variable: str) -> None:
    assert not is_per_process(variable)


KILLED = """
import signal, time
from torch.utils.tensorboard import SummaryWriter
import tracelet_shim as tracelet

session = tracelet.start_logging(backend="mlflow", exp_name="killed")
writer = SummaryWriter("runs/killed")
for step in range(500):
    writer.add_scalar("loss", step / 7, step)
assert session.flush(100)
first = session._bus._parts[0].bus._process
host = first.pid
first._process.send_signal(signal.SIGCONT)  # nothing to a process of others
first._process.send_signal(signal.SIGKILL)
while session._bus._parts[0].bus._process is first:
    session.status()
    time.sleep(0.01)
for step in range(500, 1000):
    writer.add_scalar("loss", step / 7, step)
assert session.flush(100)
print(session._bus._parts[0].bus.relay_pid == host)
"""


def test_a_session_that_is_killed_is_alone_in_that(
    start: Start, collector: Collector, run_python: RunPython, tmp_path: Path
) -> None:
    """What stands for the relay process ends the session, never the process; it goes on from ring and ledger."""
    other = start("other", env=collector.env)
    host = other.served_by()
    done = run_python(KILLED, env=collector.env)
    assert done.stdout == "True\n"
    assert "the relay process died (killed)" in done.stderr
    assert collector.hosts() == [host]
    assert "died" not in other.end()
    assert points(tmp_path) == {"killed": losses(1000), "other": losses(1000)}
    assert states(tmp_path) == {"killed": "FINISHED", "other": "FINISHED"}


RENEWED = """
import sys
from pathlib import Path
from tracelet_shim.bus.collector_place import listen
from tracelet_shim.node.front import Front

path = Path(sys.argv[1])
Front(path, *listen(path), renew=2).run()
"""


def test_a_host_is_renewed(start: Start, tmp_path: Path) -> None:
    """After some sessions others go to a new one; those that it has stay where they are."""
    (tmp_path / "node").mkdir(mode=0o700)
    place = tmp_path / "node" / "collector.sock"
    front = subprocess.Popen([sys.executable, "-c", RENEWED, str(place)], env=environment({}))
    try:
        eventually(place.exists)
        env = {"TRACELET_COLLECTOR": str(place)}
        programs = []
        for name in ("a", "b", "c"):
            programs.append(start(name, env=env))
            programs[-1].served_by()
        first, second, third = (program.served_by() for program in programs)
        assert first == second != third
        for program in programs:
            assert "died" not in program.end()
        wait_until_gone(first)
    finally:
        front.terminate()
        assert front.wait(60) == 0
    assert points(tmp_path) == {name: losses(1000) for name in ("a", "b", "c")}


STUCK = """
import re, socket, threading
from tracelet_shim.node import host

host._STUCK_SECONDS = 2.0
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
threading.Timer(0.5, re.match, ("(a+)+b", "a" * 200)).start()  # takes ages, in C
host.Host(theirs).run()
"""


def test_a_host_that_is_stuck_ends(tmp_path: Path) -> None:
    """Where an SDK lets no other thread run, only the end of the process lets its sessions go on elsewhere."""
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
