"""``mlflow server`` as one person starts it: a SQLite file, the files of runs with the server, nobody logs in."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.faults.harness import environment, eventually, free_port, kill_group

__all__ = ["PlainServer"]


class PlainServer:
    """One on 127.0.0.1; its own files are in ``server/``, where clients do not look.

    Args:
        directory: where to put them.
        python: the interpreter that has the server's MLflow.
    """

    def __init__(self, directory: Path, python: str = sys.executable) -> None:
        self.home = directory / "server"
        self.home.mkdir()
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        store, files = f"sqlite:///{self.home}/mlflow.db", str(self.home / "artifacts")
        stores = ["--backend-store-uri", store, "--artifacts-destination", files]
        with open(self.home / "output.txt", "wb") as output:
            self.process = subprocess.Popen(
                [*command, *stores, "--workers", "1"], cwd=self.home, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment({"MLFLOW_TRACKING_URI": None, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}),
                start_new_session=True,
            )  # fmt: skip
        eventually(self._answers, 120)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.home / "output.txt").read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def close(self) -> None:
        kill_group(self.process)
