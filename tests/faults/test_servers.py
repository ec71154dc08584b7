"""A real Aim server that dies."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Train
from tests.faults.harness import (
    environment,
    eventually,
    free_port,
    kill_group,
)


class AimServer:
    """A real ``aim server`` on 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        (directory / "repo").mkdir()
        self._aim("init", "--repo", "repo").wait(60)

    def _aim(self, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.directory / "aim.log", "ab") as log:
            return subprocess.Popen(
                [shutil.which("aim", path=str(Path(sys.executable).parent)) or "aim", *arguments], cwd=self.directory,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment({}), start_new_session=True,
            )  # fmt: skip

    def start(self) -> None:
        import socket

        self.process = self._aim("server", "--repo", "repo", "--host", "127.0.0.1", "--port", str(self.port))

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        eventually(listens, 60)

    def kill(self) -> None:
        if self.process is not None:
            kill_group(self.process)
            self.process = None


@pytest.mark.slow
def test_aim_server_is_killed_and_restarted(train: Train, tmp_path: Path) -> None:
    """An Aim server that is killed in mid-run and comes back has every point once, in one run."""
    server = AimServer(tmp_path)
    server.start()
    try:
        program = train(
            """
begin("aim")
log(0, 200)
reach("first"); wait_for("killed")
log(200, 400)
reach("second"); wait_for("back")
log(400, 600)
""",
            env={"TRACELET_AIM_REPO": f"aim://127.0.0.1:{server.port}"},
        )
        program.wait_for("first")
        eventually(lambda: "aim: aim://" in program.errors)
        time.sleep(1)
        server.kill()
        program.go("killed")
        program.wait_for("second")
        time.sleep(1)
        server.start()
        program.go("back")
        program.end(600)
    finally:
        server.kill()
    # Read by a process of its own: Aim holds locks for as long as its process lives.
    read = subprocess.run(
        [sys.executable, "-c", READ_AIM], cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=False
    )
    assert read.stdout.split() == [f"{step}:{step / 7!r}" for step in range(600)], read.stderr


READ_AIM = """
import aim, os
from aim.sdk.index_manager import RepoIndexManager
repo = aim.Repo("repo")
(run_hash,) = os.listdir("repo/.aim/meta/chunks")
RepoIndexManager(repo).index(run_hash)  # as `aim up` does; the index was the killed server's
(run,) = repo.iter_runs()
points = []
for metric in run.metrics():
    assert metric.name == "loss" and not metric.context.to_dict(), (metric.name, metric.context)
    steps, values = metric.data.items_list()
    points += zip(steps, values[0])
print(*(f"{int(step)}:{float(value)!r}" for step, value in sorted(points)))
"""
