"""Runs the measured programs: each in a process, home and working directory of its own, offline."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.environment import foreign_variables, isolated_environment

ROOT = Path(__file__).resolve().parents[1]
FOUR = ("tensorboard", "mlflow", "wandb", "aim")
TIMEOUT = 900.0

Result = dict[str, Any]


def say(line: str) -> None:
    """Show how far the run is."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


class Programs:
    """Starts programs of `benchmarks.programs`.

    Args:
        cache: a directory that is kept, for matplotlib's list of fonts.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def run(self, program: str, config: Result, **variables: str) -> Result:
        """Run a program with this config and return what it wrote, or ``{"error": ...}``.

        Added to that are the process's wall times, seen from outside: `launched` and `ended`, on the clock of
        `time.monotonic`, which all processes of a machine share.
        """
        directory = Path(tempfile.mkdtemp(prefix="tracelet-bench-"))
        try:
            return self._run(program, config, directory, variables)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _run(self, program: str, config: Result, directory: Path, variables: dict[str, str]) -> Result:
        work = directory / "work"
        work.mkdir()
        result, log = directory / "result.json", directory / "log"
        foreign = set(foreign_variables())
        environment = {name: value for name, value in os.environ.items() if name not in foreign}
        environment |= isolated_environment(directory / "home")
        environment |= {"MPLCONFIGDIR": str(self._cache), "PYTHONPATH": str(ROOT), **variables}
        command = [sys.executable, "-m", f"benchmarks.programs.{program}", json.dumps(config), str(result)]
        with log.open("w") as output:
            launched = time.monotonic()
            process = subprocess.Popen(
                command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            ended = time.monotonic()
        if process.returncode or not result.exists():
            lines = log.read_text(errors="replace").strip().splitlines()
            problem = f"{program} ended with {process.returncode}: {lines[-1] if lines else 'no output'}"
            say(problem)
            return {"error": problem.replace(str(ROOT), "").replace(str(directory), "")}
        return {"launched": launched, "ended": ended, **json.loads(result.read_text())}


class Spread(dict[str, float]):
    """Median, least and greatest of a quantity over the repetitions."""

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = sorted(values)
        return cls(median=statistics.median(found), low=found[0], high=found[-1], repetitions=len(found))


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> Spread:
    """Compare repetition by repetition: what ran side by side had the same noise."""
    return Spread.of(a / b for a, b in zip(ours, theirs, strict=True))
