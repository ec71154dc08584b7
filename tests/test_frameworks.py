"""The recipes of examples/frameworks: each has a result in which nothing is missing; those that need no framework are run."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from matrix import frameworks as recipes

ALL = recipes.frameworks()


def is_installed(framework: recipes.Framework) -> bool:
    try:
        return all(version(Requirement(line).name) for line in framework.install)
    except PackageNotFoundError:
        return False


def test_every_recipe_is_listed() -> None:
    """One that nobody runs would not be known to work."""
    assert {path.name for path in recipes.RECIPES.glob("*.py")} == {framework.recipe for framework in ALL.values()}


@pytest.mark.parametrize("name", ALL)
def test_result_is_complete(name: str) -> None:
    """What the framework wrote has arrived, once, in both trackers, the last time that it was run; and the program is one."""
    assert recipes.complete(recipes.results()[name]), recipes.results()[name]
    path = recipes.RECIPES / ALL[name].recipe
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly) if framework.install else name
        for name, framework in ALL.items()
        if is_installed(framework)
    ],
)
def test_recipe_runs(name: str, tmp_path: Path) -> None:
    """Those whose framework is here."""
    result = recipes.tried(ALL[name], tmp_path, str(Path(sys.executable).parent))
    assert recipes.complete(result), result


@pytest.mark.parametrize(
    ("points", "mlflow", "more", "whole"), [(3, 3, 0, True), (3, 2, 0, False), (3, 3, 1, False), (0, 0, 0, False)]
)
def test_complete(points: int, mlflow: int, more: int, whole: bool) -> None:
    """Neither less nor more, and something."""
    assert recipes.complete({"points": points, "mlflow": mlflow, "trackio": points, "more": more}) == whole
    assert not recipes.complete({})
