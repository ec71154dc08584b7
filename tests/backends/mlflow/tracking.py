"""A real ``mlflow server`` with log-in, over PostgreSQL, that keeps the files of runs: what a team has."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.backends.mlflow.postgres import PostgreSQL
from tests.faults.harness import environment, eventually, free_port, kill_group

__all__ = ["TRAINER", "MLflowServer", "log_in", "password_of"]

ADMIN = "admin"
TRAINER = "trainer"
"""The user as whom tests log, unless they say another one."""

_CONFIG = """
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {users}
admin_username = {admin}
admin_password = {password}
"""


def password_of(user: str) -> str:
    return f"{user}-{user}-{user}"


def log_in(user: str, password: str | None = None) -> dict[str, str | None]:
    """Return the variables that log a user in."""
    known = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password or password_of(user)}
    return {**known, "MLFLOW_TRACKING_TOKEN": None}


class MLflowServer:
    """``mlflow server --app-name basic-auth`` on 127.0.0.1.

    Args:
        directory: for its files and output.
        database: a server that runs.
    """

    def __init__(self, directory: Path, database: PostgreSQL) -> None:
        self.directory = directory
        self.database = database
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._users: set[str] = set()
        self._is_read_only = False
        for name in ("runs", "users"):
            database.query("postgres", f"CREATE DATABASE {name}")
        self._config = directory / "auth.ini"
        self._config.write_text(_CONFIG.format(users=database.uri("users"), admin=ADMIN, password=password_of(ADMIN)))

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and its database, unless they run and are well, and wait until it answers."""
        self.database.start()
        if self.process is None:
            command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
            stores = ["--backend-store-uri", self.database.uri("runs"), "--artifacts-destination", "files"]
            variables = {
                "MLFLOW_AUTH_CONFIG_PATH": str(self._config),
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key for tests",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            }
            with open(self.directory / "server.log", "ab") as log:
                self.process = subprocess.Popen(
                    [*command, "--port", str(self.port), *stores, "--workers", "1"], cwd=self.directory,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(variables), start_new_session=True,
                )  # fmt: skip
        eventually(self._answers, 120)
        if self._is_read_only:
            self.make_read_only(yes=False)
        if not self._users:
            self._quicken(ADMIN, password_of(ADMIN))
            self.add_user(TRAINER)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "server.log").read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        """SIGKILL, to the server and its workers; nothing happens if it does not run."""
        if self.process is not None:
            kill_group(self.process)
            self.process = None

    def make_read_only(self, *, yes: bool) -> None:
        """Let the database of runs take nothing more, as one does that is about to be replaced by another; or let it again."""
        self._is_read_only = yes
        self.database.query("postgres", f"ALTER DATABASE runs SET default_transaction_read_only = {yes}")
        self.database.query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'runs'")

    # -- who may what ------------------------------------------------------------------------------------------------

    def _administer(self, method: str, path: str, **asked: Any) -> Any:
        key = base64.b64encode(f"{ADMIN}:{password_of(ADMIN)}".encode()).decode()
        head = {"Content-Type": "application/json", "Authorization": f"Basic {key}"}
        request = urllib.request.Request(f"{self.uri}/api/{path}", json.dumps(asked).encode(), head, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def add_user(self, name: str) -> None:
        """Add a user, whose password is `password_of` the name, if there is none."""
        if name not in self._users:
            self._administer("POST", "2.0/mlflow/users/create", username=name, password=password_of(name))
            self._quicken(name, password_of(name))
            self._users.add(name)

    def set_password(self, user: str, password: str) -> None:
        self._administer("PATCH", "2.0/mlflow/users/update-password", username=user, password=password)
        self._quicken(user, password)

    def reset_password(self, user: str) -> None:
        self.set_password(user, password_of(user))

    def _quicken(self, user: str, password: str) -> None:
        """Keep another hash of the same password: the server's takes a tenth of a second to check, at each request."""
        from werkzeug.security import generate_password_hash

        quick = generate_password_hash(password, "pbkdf2:sha256:1")
        self.database.query("users", "UPDATE users SET password_hash = %s WHERE username = %s", quick, user)

    def make_experiment(self, name: str) -> str:
        """Make an experiment of the administrator's; return its id."""
        return str(self._administer("POST", "2.0/mlflow/experiments/create", name=name)["experiment_id"])

    def permit(self, user: str, experiment: str, permission: str) -> None:
        """Let a user READ, EDIT or MANAGE an experiment."""
        what = {"username": user, "resource_type": "experiment", "resource_id": experiment}
        with contextlib.suppress(urllib.error.HTTPError):  # there was none
            self._administer("POST", "3.0/mlflow/users/permissions/revoke", **what)
        self._administer("POST", "3.0/mlflow/users/permissions/grant", **what, permission=permission)

    # -- what it holds -----------------------------------------------------------------------------------------------

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.database.query("runs", sql, *values)

    def runs(self, project: str) -> list[tuple[str, str]]:
        """Return (id, status) of all runs of an experiment."""
        return self.query(
            "SELECT run_uuid, status FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = %s", project
        )

    def only_run(self, project: str, status: str | None = "FINISHED") -> str:
        """Return the id of the experiment's run, which must be the only one and have this status (None: any)."""
        ((run, ended),) = self.runs(project)
        assert status in (None, ended)
        return run

    def points(self, project: str, status: str | None = "FINISHED") -> list[tuple[str, int, float]]:
        """Return (key, step, value) of every metric row of the experiment's run, in the order of keys and steps."""
        return self.points_of(self.only_run(project, status))

    def points_of(self, run: str) -> list[tuple[str, int, float]]:
        """Return the same of a run by its id."""
        return self.query("SELECT key, step, value FROM metrics WHERE run_uuid = %s ORDER BY key, step, timestamp", run)

    def count(self, project: str) -> int:
        """Return how many metric rows the experiment has so far."""
        counted = "SELECT count(*) FROM metrics JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id)"
        return int(self.query(f"{counted} WHERE experiments.name = %s", project)[0][0])

    def files(self, project: str, status: str | None = "FINISHED") -> dict[str, bytes]:
        """Return the artifacts of the experiment's run."""
        return self.files_of(self.only_run(project, status))

    def files_of(self, run: str) -> dict[str, bytes]:
        """Return the artifacts of a run by its id: those that this server keeps, or, of one that was made without it, its own."""
        ((uri,),) = self.query("SELECT artifact_uri FROM runs WHERE run_uuid = %s", run)
        root = self.directory / "files" / re.sub(r"^mlflow-artifacts:/*", "", str(uri))
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
