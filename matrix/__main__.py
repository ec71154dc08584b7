"""``make matrix``: run the conformance suite with one version of an SDK after the other, and keep what came out.

Each cell has an environment of its own in build/matrix, which is made once: its name has a hash of what is in it. The results are
written to matrix/results/<tracker>.json, and docs/compatibility.md is made from them (`make docs`).
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import hashlib
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from matrix.calls import call, interpreter, last
from matrix.cells import ROOT, Cell, cells, core_requirements, needed, turn
from matrix.results import Result, holds, keep, result_of
from tracelet_shim.backends import registry

PLACE = ROOT / "build" / "matrix"
TESTING = ("hypothesis", "matplotlib", "pytest", "pytest-timeout", "pytest-xdist", "PyYAML", "psutil")
OWN = (
    "tests/test_cli.py", "tests/test_display.py", "tests/test_eventfile.py", "tests/test_ledger.py", "tests/render",
    "tests/intercept/test_transparency.py", "tests/delivery/test_bus.py", "tests/delivery/test_ring.py",
)  # fmt: skip
"""Tests that use what the package itself needs: typer, rich, google-crc32c, msgspec, Pillow, wrapt."""
TOLD = ("torch", "tensorboard", "numpy", "protobuf", "wrapt", "pydantic", "setuptools")
"""What else decides whether a version works; its version stands in the result."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make matrix ARGS='...'", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("only", nargs="*", help="names of trackers or cells (mlflow, mlflow==2.10.2, py3.13); all, if none")
    parser.add_argument("--list", action="store_true", help="print the cells, run nothing")
    parser.add_argument("--turn", type=int, metavar="N", help="the oldest versions of two trackers, the Nth two; nothing is kept")
    parser.add_argument("--part", metavar="K/N", help="only the Kth part of N, from 1 on; for jobs beside each other")
    parser.add_argument("--missing", action="store_true", help="only what has no result yet, or failed")
    given = parser.parse_args()
    chosen = cells() if given.turn is None else list(turn(given.turn))
    if given.only:
        chosen = [cell for cell in chosen if any(word in (*cell.name.split(), cell.tracker, cell.name) for word in given.only)]
    if given.part:
        part, parts = map(int, given.part.split("/"))
        chosen = chosen[part - 1 :: parts]
    if given.missing:
        chosen = [cell for cell in chosen if not holds(result_of(cell))]
    if not chosen:
        print(f"no such cell: {' '.join(given.only)}; see --list")
        return 2
    failed = []
    for cell in chosen:
        if given.list:
            print(cell.name)
            continue
        print(f"{cell.name}: ", end="", flush=True)
        result = run(cell)
        print(_line(result), flush=True)
        if given.turn is None:
            keep(cell, result)
        if not holds(result):
            failed.append(cell.name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


# -- one cell ---------------------------------------------------------------------------------------------------------


def run(cell: Cell) -> Result:
    """Run one cell; what it returns is its result, as it is kept."""
    result: dict[str, Any] = {"ran": dt.datetime.now(dt.timezone.utc).date().isoformat()}
    python, problem = _environment(cell)
    if problem:
        return {**result, "problem": problem}
    result["installed"] = _installed(python, cell)
    if cell.tracker == "core":
        result["own"] = _own(python, cell)
    return {**result, "hostings": _conformance(python, cell)} if cell.torch else {**result, **_wheel(python, cell)}


def _environment(cell: Cell) -> tuple[Path, str]:
    """Make the cell's environment, or find it; return its interpreter, and why it cannot be made."""
    base = interpreter(cell.python)
    if base is None:
        return Path(), f"there is no python{cell.python} here"
    asked = [*cell.requirements, *core_requirements(), "tensorboard", *(TESTING if cell.torch else ())]
    asked += ["ruamel.yaml"] if cell.tracker == "core" else []  # a reader of the tests imports it
    digest = hashlib.sha256(json.dumps([cell.name, asked]).encode()).hexdigest()[:8]
    place = PLACE / f"{cell.tracker}-{cell.version or 'any'}-py{cell.python}-{digest}"
    python = place / "bin" / "python"
    if not (place / ".made").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        call([base, "-m", "venv", str(place)]).check_returncode()
        done = call([str(python), "-m", "pip", "install", "--quiet", "--no-compile", *asked])
        if done.returncode:
            return python, f"cannot be installed: {last(done.stderr)}"
        (place / ".made").touch()
    ours = [f"--editable={ROOT}", "--no-deps"] if cell.torch else ["--force-reinstall", "--no-deps", str(_built())]
    done = call([str(python), "-m", "pip", "install", "--quiet", *ours])
    return python, f"this package cannot be installed: {last(done.stderr)}" if done.returncode else ""


@functools.cache
def _built() -> Path:
    """Build the wheel."""
    place = PLACE / "dist"
    shutil.rmtree(place, ignore_errors=True)
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]).check_returncode()
    return next(place.glob("*.whl"))


def _installed(python: Path, cell: Cell) -> dict[str, str]:
    done = call([str(python), "-m", "pip", "list", "--format=json"])
    versions = {canonicalize_name(row["name"]): row["version"] for row in json.loads(done.stdout)}
    theirs = [registry.find(tracker).distribution for tracker in cell.trackers]
    ours = [Requirement(line).name for line in needed(cell.python)] if cell.tracker == "core" else []
    wanted = dict.fromkeys(map(canonicalize_name, [*TOLD, *theirs, *ours]))
    return {name: versions[name] for name in wanted if name in versions}


def _conformance(python: Path, cell: Cell) -> dict[str, Any]:
    """Return, by hosting, how many checks have passed, and which have not, by what they said."""
    which = "test_tracker_has" if cell.tracker != "all" else "test_all_trackers_at_once"
    hostings: dict[str, Any] = defaultdict(lambda: {"passed": 0, "failed": {}})
    for name, why in _tests(python, cell, "tests/conformance", "-k", which):
        _count(hostings["thread" if "thread" in name else "process"], name.rpartition("-")[2].rstrip("]"), why)
    return dict(hostings)


def _own(python: Path, cell: Cell) -> dict[str, Any]:
    """Return how many tests of our own have passed, and which have not."""
    row: dict[str, Any] = {"passed": 0, "failed": {}}
    for name, why in _tests(python, cell, *OWN):
        _count(row, name, why)
    return row


def _count(row: dict[str, Any], name: str, why: str | None) -> None:
    if why is None:
        row["passed"] += 1
    else:
        row["failed"].setdefault(why, []).append(name)


def _tests(python: Path, cell: Cell, *given: str) -> Iterator[tuple[str, str | None]]:
    """Run tests; yield the name of each, with what it said if it has failed. What was skipped is left out."""
    report = PLACE / f"{os.getpid()}.xml"
    command = [str(python), "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *given]
    done = call([*command, f"--junitxml={report}"], {"ONLY_TRACKERS": ",".join(cell.trackers)})
    if not report.exists():
        yield "pytest", last(done.stdout + done.stderr)
        return
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        if bad is not None:
            yield case.get("name", ""), last(bad.text or bad.get("message") or "")[:300]
        elif case.find("skipped") is None:
            yield case.get("name", ""), None
    report.unlink()


def _wheel(python: Path, cell: Cell) -> dict[str, Any]:
    """Return what the check of an installed wheel says."""
    done = call([str(python), "-I", str(ROOT / "packaging" / "check_wheel.py"), str(_built()), cell.tracker])
    return {"wheel": "ok"} if done.returncode == 0 else {"problem": last(done.stdout + done.stderr)}


# -- the results ------------------------------------------------------------------------------------------------------


def _line(result: Result) -> str:
    if "problem" in result:
        return f"FAILED ({result['problem']})"
    if "wheel" in result:
        return str(result["wheel"])
    parts = []
    for hosting, row in sorted({**result["hostings"], **({"own": result["own"]} if "own" in result else {})}.items()):
        failed = [f"{len(checks)} FAILED ({checks[0]}: {why})" for why, checks in row["failed"].items()]
        parts.append(", ".join([f"{hosting} {row['passed']} passed", *failed]))
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
