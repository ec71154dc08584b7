"""`examples/custom_backend`: a package of someone else's, installed and put through the conformance suite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the package's source (``source``) and what pip installs of it (``site``)."""
    directory = tmp_path_factory.mktemp("custom")
    shutil.copytree(ROOT / "examples" / "custom_backend", directory / "source")
    run("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet",
        "--target", str(directory / "site"), str(directory / "source"), cwd=directory)  # fmt: skip
    return directory


def run(*command: str, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**environment, **variables}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_found(package: Path) -> None:
    """Installing the package is all that it takes for its name to be known."""
    rows = json.loads(run("-m", "tracelet_shim", "backends", "--json", cwd=package, PYTHONPATH=str(package / "site")))
    (row,) = (row for row in rows if row["name"] == "jsonlines")
    assert (row["version"], row["problem"]) == ("0.1.0", None)


@pytest.mark.slow
def test_it_passes_the_conformance_suite(package: Path) -> None:
    """An outside package can import the suite, and every check passes in both hostings."""
    printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package / "source", PYTHONPATH=str(package / "site"))
    from tracelet_shim.testing.conformance import CHECKS

    assert f"{2 * len(CHECKS)} passed" in printed
