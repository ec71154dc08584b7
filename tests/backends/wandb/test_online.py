"""W&B's server, what stands before it, and W&B's own service misbehave."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Train
from tests.faults.harness import Training, losses
from tests.servers.fixtures import Serve

TWO_PARTS = """
session = begin("wandb", exit_timeout=120)
log(0, 300)
reach("first"); wait_for("ill")
log(300, 600)
reach("second"); wait_for("well")
log(600, 900)
"""


def services(program: Training) -> list[int]:
    """Return the processes of W&B's service that a program's relay has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in program.relays and b"wandb-core" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("fault", ["403", "swallow", "500"])
def test_rows_are_refused_for_a_while(train: Train, serve: Serve, fault: str) -> None:
    """A 403, after which W&B's service uploads nothing more, a request that is swallowed, and errors: no row is lost, and none is
    there twice."""
    server = serve("wandb")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave(fault, count=1 if fault == "swallow" else 0)
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(1, fault=fault)
    server.recover()
    program.go("well")
    said = program.end(900)
    assert "not delivered" not in said
    assert server.points() == losses(900)
    assert server.run()["exitcode"] == 0
    server.check_understood()


@pytest.mark.parametrize("fault", ["gone", "hang"])
def test_server_is_away_past_the_end(train: Train, serve: Serve, fault: str) -> None:
    """What a server that died, or hangs, did not get is named at the end, counted, and delivered by a resumed delivery: once."""
    server = serve("wandb")
    code = 'begin("wandb", exit_timeout=10)\nlog(0, 300)\nreach("first"); wait_for("away")\nlog(300, 600)\n'
    program = train(code, env=server.env, exit_timeout=10)
    program.wait_for("first")
    server.wait_for_points(300)
    server.kill() if fault == "gone" else server.misbehave("hang", "")
    program.go("away")
    said = program.end(600)
    found = re.search(r"wandb: (\d+) events were not delivered", said)
    assert found is not None
    assert int(found[1]) >= 300  # how many of the first half were known to be there depends on when the server was asked
    assert server.points() == losses(300)
    server.start() if fault == "gone" else server.recover()
    program.resume(env=server.env)
    assert server.points() == losses(600)
    server.check_understood()


@pytest.mark.parametrize("victim", ["service", "relay", "all"])
def test_processes_are_killed(train: Train, serve: Serve, victim: str) -> None:
    """W&B's service, the relay or everything is killed with rows on their way: in the end, each is on the server once."""
    server = serve("wandb")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave("hang")
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(1, fault="hang")
    pids = services(program) if victim == "service" else program.relays
    assert pids
    for pid in [*pids, program.process.pid] if victim == "all" else pids:
        os.kill(pid, signal.SIGKILL)
    server.recover()
    if victim == "all":
        program.process.wait()
        program.resume(env=server.env)
        assert server.points() == losses(600)
    else:
        program.go("well")
        program.end(900)
        assert server.points() == losses(900)
    server.check_understood()


def test_wrong_key_fails_at_once(train: Train, serve: Serve) -> None:
    """A key that the server does not know is not tried again and again."""
    server = serve("wandb")
    env = {**server.env, "WANDB_API_KEY": "bad" + "k" * 37}
    program = train('begin("wandb", exit_timeout=20)\nlog(0, 100)\n', env=env, exit_timeout=20)
    said = program.end(100)
    assert "wandb: cannot open a run: " in said
    assert "wandb: 100 events were not delivered" in said
    assert "WANDB_API_KEY" in said
