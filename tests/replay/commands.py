"""The command line in a process of its own, and what an MLflow database has then."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = str(Path(sys.executable).parent / "tracelet-shim")


def environment(**more: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}, **more}


def tracelet_shim(*args: str, code: int = 0, **env: str) -> str:
    """Run the command; return what it said. It must end with this exit code."""
    done = subprocess.run(
        [COMMAND, *args], env=environment(**env), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def started(*args: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command; it is killed at the end if it still runs."""
    with open("output.txt", "w") as output:
        process = subprocess.Popen([COMMAND, *args], env=environment(**env), stdout=output, stderr=output, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def points(database: Path, key: str = "loss") -> dict[str, list[tuple[int, float]]]:
    """Return, by name of run, the (step, value) of a metric in the order in which they were stored."""
    with sqlite3.connect(database) as db:
        rows = db.execute(
            "SELECT r.name, m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) WHERE m.key = ? ORDER BY m.rowid", (key,)
        ).fetchall()
    found: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in rows:
        found.setdefault(name, []).append((step, value))
    return found


def runs(database: Path) -> list[tuple[str, str]]:
    """Return (name, status) of all runs."""
    with sqlite3.connect(database) as db:
        return db.execute("SELECT name, status FROM runs ORDER BY start_time, name").fetchall()
