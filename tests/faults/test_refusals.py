"""Faults that no waiting changes: wrong keys and passwords. They are told from those that pass."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import RunPython

SECRET = "hunter2hunter2hunter2hunter2hunter2hunter"
PROGRAM = """
import tracelet_shim as tracelet
try:
    tracelet.start_logging(backend={backend!r}, project="p", strict=True, exit_timeout=3600)
except tracelet.BackendUnavailableError as error:
    print(error)
assert not tracelet.get_session()
"""

class _Refuses(BaseHTTPRequestHandler):
    """Knows no key, and says so as W&B's server and most web servers do."""

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = {"detail": "Unauthorized"}
        if self.path == "/graphql":
            error = {"message": "user is not logged in", "path": ["upsertBucket"], "extensions": {"code": "PERMISSION_ERROR"}}
            answer = {"data": {"upsertBucket": None}, "errors": [error]}  # type: ignore[dict-item]
        data = json.dumps(answer).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _refuse  # noqa: N815 - the names are http.server's

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that refuses everybody."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_wandb_does_not_know_the_key(run_python: RunPython, refusing: str) -> None:
    """A key that W&B's server does not know is not tried again: `start_logging(strict=True)` raises, and names what to do."""
    env = {"WANDB_MODE": None, "WANDB_BASE_URL": refusing, "WANDB_API_KEY": SECRET}
    done = run_python(PROGRAM.format(backend="wandb"), env=env)
    assert re.search("backend 'wandb': cannot open a run: CommError: (user is not logged in|.* returned error 401)", done.stdout)
    assert "WANDB_API_KEY" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_mlflow_server_refuses_the_login(run_python: RunPython, refusing: str) -> None:
    """The same of a web server in front of MLflow's, whose refusal is no error of MLflow's own."""
    env = {"MLFLOW_TRACKING_URI": refusing, "MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET}
    done = run_python(PROGRAM.format(backend="mlflow"), env=env)
    assert "backend 'mlflow': cannot open a run: " in done.stdout
    assert "Unauthorized" in done.stdout
    assert "remedy: correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_no_credentials_for_databricks(run_python: RunPython) -> None:
    """Databricks without any credentials is an error at once, without MLflow being imported."""
    done = run_python(
        PROGRAM.format(backend="mlflow") + 'import sys\nassert "mlflow" not in sys.modules\n',
        env={"MLFLOW_TRACKING_URI": "databricks"},
    )
    assert done.stdout.startswith("backend 'mlflow': no credentials for the tracking URI 'databricks'; remedy: ")
    assert done.stderr == ""
