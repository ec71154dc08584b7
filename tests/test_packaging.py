"""The wheel: built here, looked into, and put into an environment that has no other copy of the package."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

STATE = "import sys; print(any('tracelet_shim' in repr(f) for f in sys.meta_path), 'tracelet_shim' in sys.modules)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from that sdist, as a user's pip does who finds no wheel."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def names(built: Path) -> set[str]:
    (wheel,) = built.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_every_module(names: set[str]) -> None:
    """All packages, the directory for PYTHONPATH included, and the marker of inline types."""
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tracelet_shim").rglob("*.py")}
    assert modules | {"tracelet_shim/py.typed"} <= names


def test_the_wheel_puts_the_activation_where_site_looks(names: set[str]) -> None:
    """At the root of site-packages, the two with one stem: from Python 3.15 on, .start takes the place of .pth."""
    assert {"tracelet_shim.pth", "tracelet_shim.start"} <= names


def test_the_wheel_has_nothing_else(names: set[str]) -> None:
    """No tests, no examples, no top-level name that is not ours."""
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "tracelet_shim",
        "tracelet_shim.pth",
        "tracelet_shim.start",
    }
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_can_be_built_and_tested(built: Path) -> None:
    """A distributor has all that it takes."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        files = {name.partition("/")[2] for name in tar.getnames()}
    assert {
        *("LICENSE", "README.md", "CHANGELOG.md", "Makefile", "constraints.txt", "pyproject.toml", "tests/conftest.py"),
        *("packaging/tracelet_shim.pth", "packaging/tracelet_shim.start"),
    } <= files


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the interpreter of an environment with the wheel's files in site-packages, as pip lays them."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    return str(home / "bin" / "python")


@pytest.mark.parametrize(
    ("variables", "finder", "module"),
    [
        ({}, False, False),
        ({"TRACELET_BACKEND": ""}, False, False),
        ({"TRACELET_BACKEND": "mlflow"}, True, True),
        ({"TRACELET_BACKEND": "mlflow", "TRACELET_DISABLED": "1"}, False, False),
    ],
    ids=["unset", "empty", "set", "disabled"],
)
def test_the_installed_pth_file(python: str, variables: dict[str, str], finder: bool, module: bool) -> None:
    """Installed means active when asked, and absent when not."""
    done = subprocess.run([python, "-c", STATE], env=variables, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{finder} {module}\n", "")
