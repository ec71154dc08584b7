"""The real server as the rows of `tests.online.rounds` know servers: behind a proxy that misbehaves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.backends.mlflow.tracking import TRAINER, MLflowServer, log_in
from tests.faults import proxy as faulty
from tests.servers.harness import Point

__all__ = ["Reached"]


def _fault_of(mode: str) -> faulty.Fault:
    faults: dict[str, faulty.Fault] = {"hang": faulty.Hang(), "lost": faulty.Reset(0.0)}
    return faults[mode] if mode in faults else faulty.Answer(int(mode))


class Reached:
    """See `tests.online.rounds.Held`; a context manager.

    Args:
        server: a server that runs.
        project: the experiment, which has one run.
    """

    name = "mlflow"

    def __init__(self, server: MLflowServer, project: str) -> None:
        self.server = server
        self.project = project
        self._mode, self._paths = "", ""
        self._log = server.directory / "server.log"
        self._before = len(self._log.read_text())
        self._proxy = faulty.Proxy(server.port, self._fault)

    def __enter__(self) -> Reached:  # noqa: PYI034 - nobody subclasses it
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.__exit__()

    def _fault(self, _: int, line: str) -> faulty.Fault:
        if not self._mode or not re.search(self._paths, line):
            return None
        return _fault_of(self._mode)

    @property
    def env(self) -> Mapping[str, str | None]:
        uri = f"http://127.0.0.1:{self._proxy.port}"
        return {
            "TRACELET_PROJECT": self.project, "MLFLOW_EXPERIMENT_NAME": self.project, "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "3", **log_in(TRAINER),
        }  # fmt: skip

    @property
    def wrong_env(self) -> Mapping[str, str | None]:
        return {"MLFLOW_TRACKING_PASSWORD": "bad"}

    def run(self) -> str:
        """Return the id of its one run."""
        return self.server.only_run(self.project, None)

    def points(self) -> list[Point]:
        return self.server.points_of(self.run())

    def things(self) -> list[str]:
        run = self.run()
        found = []
        for name, data in self.server.files_of(run).items():
            if image := re.search(r"^images/picture\+step\+(\d+)\+.*\.png$", name):
                found.append(f"image {image[1]}")
            if re.search(r"^text/.*\.md$", name) and (text := re.search(rb"round (\d+)", data)):
                found.append(f"text {int(text[1])}")
        params = self.server.query("SELECT value FROM params WHERE run_uuid = %s AND key = 'lr'", run)
        scores = [value for key, _, value in self.points() if key == "hparam/acc"]
        return sorted([*found, *["hparams"] * (len(scores) if params == [("0.5",)] and set(scores) == {1.5} else 0)])

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def misbehave(self, mode: str, paths: str | None = None, **_: Any) -> None:
        self._mode, self._paths = mode, "log-batch" if paths is None else paths

    def recover(self) -> None:
        self._mode = ""

    def requests(self, paths: str | None = None, fault: str | None = None) -> list[dict[str, Any]]:
        wanted = None if fault is None else _fault_of(fault)
        pattern = "log-batch" if paths is None else paths
        return [
            {"path": request.line, "fault": request.fault}
            for request in list(self._proxy.requests)
            if re.search(pattern, request.line) and wanted in (None, request.fault)
        ]

    def check_understood(self) -> None:
        """A real server says so: a bad request, a method or a page that it does not have."""
        log = self._log.read_text()[self._before :]
        assert not re.search(r'" (400|405|422|501) ', log), log[-3000:]
