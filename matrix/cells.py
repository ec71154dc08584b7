"""A cell of the matrix: which versions are installed together, and what of it is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tracelet_shim.backends import registry

__all__ = ["HERE", "ROOT", "Cell", "cells", "turn"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

TORCH = "2.13.0"


class Cell(NamedTuple):
    """See cells.toml."""

    tracker: str
    version: str = ""
    python: str = "3.11"
    beside: tuple[str, ...] = ()
    torch: str = TORCH

    @property
    def name(self) -> str:
        """What it is called on the command line and in the results."""
        parts = [f"{self.tracker}=={self.version}" if self.version else self.tracker, f"py{self.python}"]
        parts += [] if self.torch == TORCH else [f"torch{self.torch}" if self.torch else "no-torch"]
        return " ".join([*parts, *self.beside])

    @property
    def trackers(self) -> list[str]:
        """Whose SDKs are in it."""
        if self.tracker != "all":
            return [self.tracker]
        asked = {Requirement(line).name.lower().replace("_", "-") for line in extra_requirements("all", self.python)}
        return [name for name in registry.names() if registry.find(name).distribution.lower().replace("_", "-") in asked]

    @property
    def requirements(self) -> list[str]:
        """What pip is asked for, besides this package and what tests need."""
        torch = [f"torch=={self.torch}"] if self.torch else []
        if self.tracker == "all":
            return [*torch, *extra_requirements("all", self.python), *self.beside]
        if not self.version:
            return [*torch, *extra_requirements(self.tracker, self.python), *self.beside]
        return [*torch, f"{registry.find(self.tracker).distribution}=={self.version}", *self.beside]


def _cell(given: Mapping[str, Any]) -> Cell:
    known = {"tracker", "version", "python", "with", "torch"}
    if unknown := sorted(set(given) - known):
        sys.exit(f"matrix/cells.toml: {unknown} of {dict(given)} is none of {sorted(known)}")
    rest = {key: value for key, value in given.items() if key != "with"}
    return Cell(**rest, beside=tuple(given.get("with", ())))


def cells() -> list[Cell]:
    """Return all cells, in the order of the file."""
    return [_cell(given) for given in tomllib.loads((HERE / "cells.toml").read_text(encoding="utf-8")).get("cell", [])]


def turn(number: int, many: int = 2) -> Iterator[Cell]:
    """Yield the oldest versions of `many` trackers, by turns: those that the number falls on."""
    floors = [cell for cell in cells() if cell.version and cell.torch == TORCH and cell.python == "3.11" and _is_oldest(cell)]
    for i in range(min(many, len(floors))):
        yield floors[(number * many + i) % len(floors)]


def _is_oldest(cell: Cell) -> bool:
    return cell.tracker != "all" and cell.version == registry.find(cell.tracker).versions.oldest


def core_requirements() -> list[str]:
    """Return what the package itself needs, without its extras."""
    return [line for line in metadata.requires("tracelet-shim") or [] if "extra ==" not in line]


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
