"""What a resumed delivery finds in Redis, and what a session leaves there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.backends.mlflow.reader import MLflowReader
from tests.faults.conftest import Train
from tests.faults.harness import environment, eventually, losses
from tests.fleet.conftest import Collect
from tests.fleet.harness import Stores
from tests.fleet.redis import Redis


def status(redis: Redis, directory: Path, *options: str) -> str:
    command = [sys.executable, "-m", "tracelet_shim", "status", "--fleet", redis.url, *options]
    done = subprocess.run(command, cwd=directory, env=environment(redis.variables), capture_output=True, text=True, check=True)
    return done.stdout


def sessions(redis: Redis, directory: Path) -> list[dict[str, Any]]:
    return list(json.loads(status(redis, directory, "--json"))["sessions"])


def test_what_is_delivered_does_not_come_twice(
    train: Train, collect: Collect, redis: Redis, stores: Stores, tmp_path: Path
) -> None:
    """A session that a collector delivers after its program has ended is shown meanwhile, as waiting for one; whoever resumes it
    later, when Redis has forgotten all but that it was delivered, hears so, and nothing comes twice."""
    env = {**redis.variables, "TRACELET_DELIVERY": redis.url}
    program = train('begin("mlflow", exit_timeout=1, linger=60)\nlog(0, 500)\n', env=env, exit_timeout=1)
    # As its relay has handed all of it to Redis by then, or not yet.
    assert re.search(r"mlflow: 500 events (are not there yet|were not delivered \(Redis has it)", program.end(500))
    eventually(lambda: [each["behind"] for each in sessions(redis, tmp_path)] == [{"mlflow": 500}], pause=0.5)
    (session,) = sessions(redis, tmp_path)
    assert session["state"] == "waits"
    assert "nobody delivers" in status(redis, tmp_path)
    collect()
    redis.wait_delivered()
    assert sessions(redis, tmp_path) == []
    with redis.client() as client:
        base = f"tracelet:{{{session['session']}}}:"
        assert client.ttl(base + "runs") > 80 * 86_400
        client.delete(*[base + name for name in ("about", "ledger", "told", "alive")])  # as after a day
    assert "500 events delivered, 0 pending" in program.resume(env=redis.variables)
    redis.wait_delivered()
    reader = MLflowReader(stores.directory)
    assert reader.query("SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step", reader.run) == losses(500)
