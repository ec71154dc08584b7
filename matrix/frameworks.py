"""``make frameworks``: run each recipe of examples/frameworks with the real framework, and see whether all of it arrived.

Each framework has an environment in build/frameworks as long as it runs. What arrived in MLflow and Trackio is compared with the
event files that the framework wrote. The results are kept in matrix/frameworks.json, and docs/frameworks.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from matrix.arrived import Points, in_event_files, in_mlflow, in_trackio, params_in_mlflow
from matrix.calls import call, last
from matrix.cells import HERE, ROOT, TORCH

__all__ = ["RECIPES", "Framework", "complete", "frameworks", "results", "tried"]

PLACE = ROOT / "build" / "frameworks"
RESULTS = HERE / "frameworks.json"
RECIPES = ROOT / "examples" / "frameworks"
_LINES = 12


class Framework(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recipe.

    Attributes:
        title: as people know it.
        recipe: file in examples/frameworks.
        install: requirements; the versions that pip took stand in the result.
        run: what stands before the file.
        torch: False if it does not need it.
        others: a directory whose event files are of ranks that open no run.
    """

    title: str
    recipe: str
    install: tuple[str, ...] = ()
    run: tuple[str, ...] = ("python",)
    torch: bool = True
    others: str = ""


def frameworks() -> dict[str, Framework]:
    """Return all by name, in the order of their titles."""
    found = msgspec.toml.decode((HERE / "frameworks.toml").read_bytes(), type=dict[str, Framework])
    return dict(sorted(found.items(), key=lambda item: item[1].title.lower()))


def results() -> dict[str, Mapping[str, Any]]:
    """Return what came out, by name; empty for one that has not been run.

    Each has ``installed``, the versions; ``points``, how many scalars the event files have; ``mlflow`` and ``trackio``, how
    many of them arrived there; ``more``, how many there are that no event file has; ``params``; or ``problem``.
    """
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return {name: kept.get(name, {}) for name in frameworks()}


def complete(result: Mapping[str, Any]) -> bool:
    """True if all that the event files have arrived, once, in both trackers, and there was something."""
    points = result.get("points", 0)
    return bool(points) and points == result["mlflow"] == result["trackio"] and not result["more"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make frameworks ARGS='...'", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("only", nargs="*", help="their names; all, if none")
    parser.add_argument("--missing", action="store_true", help="only what has no result yet, or was not complete")
    given = parser.parse_args()
    chosen = {name: one for name, one in frameworks().items() if not given.only or name in given.only}
    failed = []
    for name, framework in chosen.items():
        if given.missing and complete(results()[name]):
            continue
        print(f"{name}: ", end="", flush=True)
        result = _run(name, framework)
        print(json.dumps(result), flush=True)
        kept = {**results(), name: result}
        RESULTS.write_text(json.dumps({one: kept[one] for one in kept if kept[one]}, indent=1) + "\n", encoding="utf-8")
        if not complete(result):
            failed.append(name)
    if failed:
        print(f"not complete: {', '.join(failed)}")
    return 1 if failed or not chosen else 0


def _run(name: str, framework: Framework) -> dict[str, Any]:
    place = PLACE / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    python = place / "bin" / "python"
    try:
        call([sys.executable, "-m", "venv", str(place)]).check_returncode()
        torch = [f"torch=={TORCH}"] if framework.torch else []
        ours = f"{ROOT}[mlflow,trackio,tensorboard]"
        done = call([str(python), "-m", "pip", "install", "--quiet", "--no-compile", *framework.install, *torch, ours])
        if done.returncode:
            return {"problem": f"cannot be installed: {last(done.stderr)}"}
        listed = json.loads(call([str(python), "-m", "pip", "list", "--format=json"]).stdout)
        versions = {canonicalize_name(row["name"]): row["version"] for row in listed}
        names = [canonicalize_name(Requirement(line).name) for line in framework.install]
        with tempfile.TemporaryDirectory() as directory:
            result = tried(framework, Path(directory), str(place / "bin"))
        return {"installed": {one: versions[one] for one in names if one in versions}, **result}
    finally:
        shutil.rmtree(place)


def tried(framework: Framework, directory: Path, commands: str) -> dict[str, Any]:
    """Run a recipe in a directory of its own, and count what arrived.

    Args:
        framework: which.
        directory: empty.
        commands: the directory with the commands of its environment.
    """
    command = [*framework.run, str(RECIPES / framework.recipe)]
    database, runs = directory / "mlflow.db", directory / "trackio"
    with tempfile.TemporaryDirectory() as short:  # Ray has sockets in its directory, whose paths are to have 107 bytes at most
        done = _called(command, directory, commands, short)
    output = done.stdout + done.stderr
    said = [line for line in output.splitlines() if re.match(r"tracelet-shim: .*(warning|lost|not delivered)", line)]
    if done.returncode or not database.exists():
        return {"problem": f"ended with {done.returncode}: {last(output)}", "output": output.splitlines()[-_LINES:]}
    wanted = in_event_files(directory)
    if framework.others:
        wanted -= in_event_files(directory / framework.others)
    found = {"mlflow": in_mlflow(database), "trackio": in_trackio(runs)}
    return {
        "points": wanted.total(),
        **{tracker: (points & wanted).total() for tracker, points in found.items()},
        "more": sum(_more(points, wanted) for points in found.values()),
        "params": len(params_in_mlflow(database)),
        **({"said": said} if said else {}),
    }


def _called(command: list[str], directory: Path, commands: str, short: str) -> subprocess.CompletedProcess[str]:
    return call(
        [os.path.join(commands, command[0]), *command[1:]],
        {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "HOME": str(directory), "TRACELET_BACKEND": "mlflow,trackio",
            "TRACELET_MLFLOW_TRACKING_URI": f"sqlite:///{directory / 'mlflow.db'}", "TRACKIO_DIR": str(directory / "trackio"),
            "CUDA_VISIBLE_DEVICES": "", "RAY_TMPDIR": short, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        },
        directory,
    )  # fmt: skip


def _more(points: Points, wanted: Points) -> int:
    return (points - wanted).total()


if __name__ == "__main__":
    sys.exit(main())
