"""What an installed tracelet-shim costs a program that does not use it, and what its import costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT, Programs, Result, Spread, say
from tests.backends import TRACKERS
from tracelet_shim.backends import registry

PTH = ROOT / "packaging" / "tracelet_shim.pth"

HEAVY = {
    "torch", "numpy", "google.protobuf", "PIL", "pydantic", "typer", "rich", "sqlite3",
    *(registry.find(tracker).module for tracker in TRACKERS),
}  # fmt: skip
IMPORT = """
import sys, time
began = time.perf_counter()
import tracelet_shim
imported = time.perf_counter()
tracelet_shim.start_logging
used = time.perf_counter()
print((imported - began) * 1e3, (used - imported) * 1e3, *sys.modules)
"""


def run(_programs: Programs, *, quick: bool) -> Result:
    """Measure; times are in milliseconds."""
    say("start-up")
    directory = Path(tempfile.mkdtemp(prefix="tracelet-bench-"))
    try:
        found = _interpreter(directory, 50 if quick else 300)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    imports = [_imported() for _ in range(5 if quick else 20)]
    return {
        **found,
        "import": Spread.of(result["import"] for result in imports),
        "first_use": Spread.of(result["first_use"] for result in imports),
        "heavy": sorted({name for result in imports for name in result["heavy"]}),
    }


def _imported() -> Result:
    """Import in an interpreter that has imported nothing else."""
    done = subprocess.run([sys.executable, "-c", IMPORT], check=True, cwd=ROOT, capture_output=True, text=True)
    first, second, *names = done.stdout.split()
    return {"import": float(first), "first_use": float(second), "heavy": sorted(HEAVY & set(names))}


def _interpreter(directory: Path, repetitions: int) -> Result:
    """Start two virtual environments in turn that differ in one file: the .pth of the wheel."""
    pythons = []
    for name in ("without", "with"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / name], check=True)
        pythons.append(directory / name / "bin" / "python")
    (packages,) = (directory / "with").glob("lib/python*/site-packages")
    shutil.copy(PTH, packages)
    times: list[list[float]] = [[], []]
    for repetition in range(repetitions + 5):
        for python, taken in zip(pythons, times, strict=True):
            began = time.perf_counter()
            subprocess.run([python, "-c", "pass"], check=True, cwd=directory, env={})
            if repetition >= 5:  # the first ones write the byte code
                taken.append((time.perf_counter() - began) * 1e3)
    without, having = times
    return {
        "repetitions": repetitions, "without": Spread.of(without), "with": Spread.of(having),
        "difference_of_medians": Spread.of(having)["median"] - Spread.of(without)["median"],
        "least_difference": min(having) - min(without),
    }  # fmt: skip
