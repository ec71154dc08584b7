"""Where the relay stands when processors are few: behind the training, and beside a program that waits."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

import pytest

from tests import gated
from tests.conftest import RunPython

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there is it known what can be taken back")

PROGRAM = """
import contextlib, ctypes, os, sqlite3, sys, threading, time
from pathlib import Path

may_return = sys.argv[1] == "may lower nice values"
if not may_return:
    ctypes.CDLL(None).prctl(24, 23, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_NICE: what is started from here on has it no more

import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter

GROUP = Path("/proc/self/autogroup").exists()
session = tracelet.start_logging()
relay = session._bus._parts[0].bus.relay_pid
writer = SummaryWriter("runs/x")

def log(n=100):
    for step in range(n):
        writer.add_scalar("loss", step, step)

def stands():
    group = int(Path(f"/proc/{relay}/autogroup").read_text().split()[-1]) if GROUP else None
    threads = {os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{relay}/task")}
    return group, {nice - os.getpriority(os.PRIO_PROCESS, 0) for nice in threads}

beside = 0 if GROUP else None, {0}
behind = 5 if GROUP else None, {5 if may_return else 0}

def becomes(wanted):
    until = time.monotonic() + 60
    while stands() != wanted:
        assert time.monotonic() < until, (stands(), wanted)
        writer.add_scalar("loss", 0.0, 0)  # the training goes on
        time.sleep(0.05)

def taken():
    with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect("runs/x/.tracelet/ledger.db") as db:
        return db.execute("SELECT records FROM sessions").fetchall() == [(100,)]

log()
while not taken():
    time.sleep(0.05)
print("opening", stands() == beside)
os.unlink("closed")
becomes(behind)
print("training")
flush = threading.Thread(target=session.flush, args=(100,))
flush.start()
becomes(beside)
print("flush")
Path("gate").touch()
flush.join()
becomes(behind)
print("training")
os.unlink("gate")
log()
stop = threading.Thread(target=tracelet.stop_logging)
stop.start()
becomes(beside)
print("end")
Path("gate").touch()
stop.join()
"""


def may_lower_nice_values() -> bool:
    """True with CAP_SYS_NICE, or if RLIMIT_NICE reaches to where this process is now."""
    (capabilities,) = re.findall(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    return bool(int(capabilities, 16) >> 23 & 1) or limit >= 20 - os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.parametrize("right", ["may lower nice values", "may not"])
def test_behind_the_training_and_beside_who_waits(run_python: RunPython, tmp_path: Path, right: str) -> None:
    """The relay steps back when its runs are open and the training goes on, with all its threads, and comes back as soon as
    somebody waits for it; what it could not take back it does not do."""
    if right != "may not" and not may_lower_nice_values():
        pytest.skip("this user may not")
    env = gated.install(tmp_path / "site")
    (tmp_path / "closed").touch()
    done = run_python(PROGRAM, right, env=env)
    assert done.stdout.splitlines() == ["opening True", "training", "flush", "training", "end"]
