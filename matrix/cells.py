"""A cell of the matrix: which versions are installed together, and what of it is run.

The cells of a tracker are in trackers/<name>.toml, each a ``[[cell]]`` with

    version   of its SDK; the oldest and the newest are the range that its backend accepts, and that pyproject.toml asks for
    with      what is pinned beside it, because that version of the SDK does not run with today's
    python    minor version of the interpreter, if it is another than 3.11
    torch     version, if it is another than that of the tests of each change

core.toml has those of what the package itself needs, and of torch: with the TensorBoard backend and with tests of our own (OWN).
Their ``version`` is a name; ``with`` has all versions.

In each Python that is promised there are, besides, all trackers at once, in the versions that pip takes there; and, for each
tracker, the wheel with its extra and without torch (packaging/check_wheel.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tracelet_shim.backends import registry

__all__ = ["HERE", "ROOT", "Cell", "cells", "needed", "turn"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

TORCH = "2.13.0"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


class Cell(NamedTuple):
    """One cell.

    Attributes:
        tracker: whose conformance suite, in both hostings; "all" for all that can be installed, at once; "core" for what the
            package itself needs.
        version: of its SDK; empty for whatever pip takes.
        python: minor version of the interpreter.
        beside: what is pinned beside it.
        torch: version; empty for none.
    """

    tracker: str
    version: str = ""
    python: str = "3.11"
    beside: tuple[str, ...] = ()
    torch: str = TORCH

    @property
    def name(self) -> str:
        """What it is called on the command line and in the results."""
        if self.tracker == "core":
            return f"core {self.version} py{self.python} torch{self.torch}"
        parts = [f"{self.tracker}=={self.version}" if self.version else self.tracker, f"py{self.python}"]
        parts += [] if self.torch == TORCH else [f"torch{self.torch}" if self.torch else "no-torch"]
        return " ".join([*parts, *self.beside])

    @property
    def trackers(self) -> list[str]:
        """Whose SDKs are in it."""
        if self.tracker == "core":
            return ["tensorboard"]
        if self.tracker != "all":
            return [self.tracker]
        asked = {canonicalize_name(Requirement(line).name) for line in extra_requirements("all", self.python)}
        return [name for name in registry.names() if canonicalize_name(registry.find(name).distribution) in asked]

    @property
    def requirements(self) -> list[str]:
        """What pip is asked for, besides this package and what tests need."""
        torch = [f"torch=={self.torch}"] if self.torch else []
        if self.tracker == "core":
            return [*torch, *extra_requirements("system", self.python), *self.beside]
        if self.version:
            return [*torch, f"{registry.find(self.tracker).distribution}=={self.version}", *self.beside]
        return [*torch, *extra_requirements(self.tracker, self.python), *self.beside]


def cells() -> list[Cell]:
    """Return all cells: those of each tracker, then those with all, then the wheels."""
    found = [*_of_trackers(), *_in_file(HERE / "core.toml")]
    found += [Cell("all", python=python) for python in PYTHONS]
    trackers = dict.fromkeys(cell.tracker for cell in _of_trackers())
    wheels = [Cell(tracker, python=python, torch="") for tracker in trackers for python in PYTHONS]
    return found + [cell for cell in wheels if extra_requirements(cell.tracker, cell.python)]


def _of_trackers() -> list[Cell]:
    files = [HERE / "trackers" / f"{name}.toml" for name in registry.names()]
    return [cell for path in files if path.exists() for cell in _in_file(path)]


def _in_file(path: Path) -> Iterator[Cell]:
    for given in tomllib.loads(path.read_text(encoding="utf-8"))["cell"]:
        known = {"version", "python", "with", "torch"}
        if "version" not in given or set(given) - known:
            sys.exit(f"{path}: {given} has no version, or something beside {sorted(known)}")
        yield Cell(path.stem, beside=tuple(given.pop("with", ())), **given)


def turn(number: int, many: int = 2) -> Iterator[Cell]:
    """Yield the oldest versions of `many` trackers, by turns: those that the number falls on."""
    of_trackers = [cell for cell in _of_trackers() if cell.torch == TORCH and cell.python == "3.11"]
    floors = [cell for cell in of_trackers if cell.version == registry.find(cell.tracker).versions.oldest]
    for i in range(min(many, len(floors))):
        yield floors[(number * many + i) % len(floors)]


def core_requirements() -> list[str]:
    """Return what the package itself needs, without its extras."""
    return [line for line in metadata.requires("tracelet-shim") or [] if "extra ==" not in line]


def needed(python: str) -> list[str]:
    """Return what is to be run at both ends in this Python, beside the trackers: what the package, its use with torch, and the
    metrics of the system need."""
    lines = map(Requirement, core_requirements())
    here = [line for line in lines if not line.marker or line.marker.evaluate({"python_version": python})]
    extras = [line for extra in ("torch", "system") for line in extra_requirements(extra, python)]
    return [line.name + str(line.specifier) for line in here] + extras


def extra_requirements(extra: str, python: str) -> list[str]:
    """Return what an extra asks for in this Python; of "all", what those ask for that it consists of."""
    lines = [Requirement(line) for line in metadata.requires("tracelet-shim") or []]
    here = {"python_version": python, "extra": ""}
    asked = [
        line for line in lines
        if line.marker and not line.marker.evaluate(here) and line.marker.evaluate({**here, "extra": extra})
    ]  # fmt: skip
    found = []
    for line in asked:
        if line.name == "tracelet-shim":
            found += [one for part in sorted(line.extras) for one in extra_requirements(part, python)]
        else:
            line.marker = None
            found.append(str(line))
    return found
