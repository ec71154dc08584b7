"""Tracking servers that die, are not there, or answer badly: a real ``mlflow server``, and a real Aim server."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.backends.mlflow.tracking import TRAINER, MLflowServer, log_in
from tests.faults import proxy as faulty
from tests.faults.conftest import Train
from tests.faults.harness import (
    copied_steps,
    environment,
    eventually,
    free_port,
    kill_group,
    losses,
)
from tests.faults.proxy import Proxy

# What a server is given to chew on: points, and files that go another way.
MIXED = """
def mixed(start, stop):
    for step in range(start, stop):
        log(step, step + 1)
        if step % 100 == 0:
            writer.add_text("note", f"text {step}", step)
"""


def variables(project: Path, uri: str) -> dict[str, str | None]:
    return {"TRACELET_PROJECT": project.name, "MLFLOW_TRACKING_URI": uri, **log_in(TRAINER)}


def notes(server: MLflowServer, project: Path) -> list[bytes]:
    """Return the contents of the text files of a run."""
    return sorted(data for name, data in server.files(project.name).items() if name.startswith("text/"))


def texts(steps: int) -> list[bytes]:
    return sorted(f"text {step}".encode() for step in range(0, steps, 100))


@pytest.mark.slow
def test_server_is_killed_and_restarted(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """An MLflow server that is killed in mid-run and comes back has every point once, in one run; another tracker has not
    waited for it."""
    program = train(
        MIXED
        + """
begin("mlflow", "tensorboard")
mixed(0, 300)
reach("first"); wait_for("killed")
mixed(300, 600)
reach("second"); wait_for("back")
mixed(600, 900)
""",
        env=variables(tmp_path, server.uri),
    )
    program.wait_for("first")
    # Killed as soon as something has arrived: with requests on the way.
    eventually(lambda: server.count(tmp_path.name) > 0)
    server.kill()
    program.go("killed")
    program.wait_for("second")
    eventually(lambda: len(copied_steps(tmp_path)) == 600)
    server.start()
    program.go("back")
    said = program.end(900)
    assert said.count("warning") == 1
    assert server.points(tmp_path.name) == losses(900)
    assert notes(server, tmp_path) == texts(900)
    assert copied_steps(tmp_path) == list(range(900))


def test_server_is_never_up(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """Where no MLflow server answers, the program ends within `exit_timeout` and names what is missing and the command that
    delivers it; that command does, each event once."""
    program = train(
        MIXED + 'begin("mlflow", "tensorboard", exit_timeout=3)\nmixed(0, 500)\n',
        env=variables(tmp_path, f"http://127.0.0.1:{free_port()}"),
        exit_timeout=3,
    )
    said = program.end(500)
    assert "mlflow: 505 events were not delivered" in said
    assert f"tracelet-shim replay {tmp_path}/runs/x --resume" in said
    assert copied_steps(tmp_path) == list(range(500))
    program.resume(env=variables(tmp_path, server.uri))
    assert server.points(tmp_path.name) == losses(500)
    assert notes(server, tmp_path) == texts(500)


class SlowAndTorn:
    """Of each kind of request, cut off the first answer before its first byte (a client that tries again by itself does so
    then), the second one in its middle, and every seventh; the others come late."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __call__(self, number: int, line: str) -> faulty.Fault:
        kind = re.split(r"[?]|/artifacts/", line)[0]
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        if count == 1:
            return faulty.Reset(0.0)
        return faulty.Reset(0.7) if count == 2 or count % 7 == 0 else faulty.Delay(0.05)


def test_answers_are_late_and_cut_off(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """A connection that is reset after the server has done its work leads to no second run, point or file."""
    with Proxy(server.port, SlowAndTorn()) as proxy:
        program = train(
            MIXED + 'begin("mlflow")\nfor part in range(4):\n    mixed(100 * part, 100 * part + 100)\n    time.sleep(1)\n',
            env=variables(tmp_path, f"http://127.0.0.1:{proxy.port}"),
        )
        program.end(400)
    torn = [request.line for request in proxy.requests if isinstance(request.fault, faulty.Reset)]
    assert any("runs/create" in line for line in torn)
    assert any("runs/log-batch" in line for line in torn)
    assert any(line.startswith("PUT ") for line in torn)
    assert server.points(tmp_path.name) == losses(400)
    assert notes(server, tmp_path) == texts(400)


@pytest.mark.parametrize(("status", "first"), [(429, "log-batch"), (500, "log-batch"), (403, "PUT ")])
def test_server_is_busy_or_broken(
    train: Train, tmp_path: Path, server: MLflowServer, status: int, first: str
) -> None:
    """A server that answers 429 or 5xx for a while, or a proxy before it that refuses what is written into an open run, is tried
    again until it is well; nothing is set aside."""
    ill: list[float] = []

    def fault(number: int, line: str) -> faulty.Fault:
        # Well until points, or files, come; then ill for three seconds.
        if first in line and number > 4 and not ill:
            ill.append(time.monotonic() + 3)
        return faulty.Answer(status) if ill and time.monotonic() < ill[0] else None

    with Proxy(server.port, fault) as proxy:
        program = train(
            MIXED + 'begin("mlflow")\nmixed(0, 200)\ntime.sleep(1.5)\nmixed(200, 400)\n',
            env=variables(tmp_path, f"http://127.0.0.1:{proxy.port}"),
        )
        program.end(400)
    assert any(request.fault == faulty.Answer(status) for request in proxy.requests)
    assert server.points(tmp_path.name) == losses(400)
    assert notes(server, tmp_path) == texts(400)


def test_server_hangs(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """A server that takes requests and never answers holds up neither the program's end nor another tracker; what is missing
    comes with a resumed delivery."""
    with Proxy(server.port, lambda number, line: faulty.Hang() if number > 5 else None) as proxy:
        program = train(
            MIXED + 'begin("mlflow", "tensorboard", exit_timeout=4)\nmixed(0, 500)\ntime.sleep(3)\n',
            env=variables(tmp_path, f"http://127.0.0.1:{proxy.port}"),
            exit_timeout=4,
        )
        said = program.end(500)
    assert "mlflow: " in said
    assert "--resume" in said
    assert copied_steps(tmp_path) == list(range(500))
    program.resume(env=variables(tmp_path, server.uri))
    assert server.points(tmp_path.name) == losses(500)
    assert notes(server, tmp_path) == texts(500)


def test_server_hangs_from_the_start(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """A tracker whose run cannot even be opened, because its server never answers, does not keep another one from opening in
    the time that there is."""
    with Proxy(server.port, lambda number, line: faulty.Hang()) as proxy:
        program = train(
            'begin("mlflow", "tensorboard", exit_timeout=4)\nlog(0, 100)\n',
            env={**variables(tmp_path, f"http://127.0.0.1:{proxy.port}"), "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"},
            exit_timeout=4,
        )
        said = program.end(100)
    assert "mlflow: 100 events were not delivered" in said
    assert "tensorboard: " not in said.replace("tensorboard: tensorboard --logdir", "")
    assert copied_steps(tmp_path) == list(range(100))
    program.resume(env=variables(tmp_path, server.uri))
    assert server.points(tmp_path.name) == losses(100)


def test_server_refuses_the_run(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """A server that forbids the run is not asked again: that tracker is given up, with a warning, and the others go on; when it
    has been put right, a resumed delivery brings everything."""
    with Proxy(server.port, lambda number, line: faulty.Answer(403)) as proxy:
        program = train(
            'begin("mlflow", "tensorboard")\nlog(0, 100)\n', env=variables(tmp_path, f"http://127.0.0.1:{proxy.port}")
        )
        said = program.end(100)
    assert len(proxy.requests) == 1
    assert "warning: mlflow: cannot open a run: " in said
    assert "mlflow: 100 events were not delivered" in said
    assert copied_steps(tmp_path) == list(range(100))
    program.resume(env=variables(tmp_path, server.uri))
    assert server.points(tmp_path.name) == losses(100)


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
