"""Versions of SDKs that cannot be used are named at once, with what to do; newer ones are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from tests.conftest import RunPython
from tracelet_shim.backends import registry
from tracelet_shim.backends.shared.versions import Need, Versions

START = """
import sys
import tracelet_shim
try:
    tracelet_shim.start_logging(backend=["tensorboard"], strict=True)
except tracelet_shim.errors.BackendUnavailableError as error:
    print(error)
print("imported:", "tensorboard" in sys.modules)
"""


def pretend(place: Path, distribution: str, version: str) -> dict[str, str]:
    """Return the environment of a program that finds this version installed."""
    about = place / "site" / f"{distribution}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    return {"PYTHONPATH": str(place / "site")}


def test_too_old_is_refused_at_the_start(run_python: RunPython, tmp_path: Path) -> None:
    said = run_python(START, env=pretend(tmp_path, "tensorboard", "2.3.0")).stdout
    oldest = registry.find("tensorboard").versions.oldest
    assert f"tensorboard 2.3.0 is installed, and {oldest} is the oldest that can be used" in said
    assert f"remedy: pip install --upgrade 'tensorboard>={oldest}'" in said
    assert "imported: False" in said


@pytest.mark.parametrize(("version", "level", "words"), [
    ("2.3.0", "error", "is the oldest that can be used"),
    ("99.0", "warning", "the newest that was tried"),
    ("unknown+local.build", "ok", "can be used"),
])  # fmt: skip
def test_doctor_tells(tmp_path: Path, version: str, level: str, words: str) -> None:
    env = {**os.environ, **pretend(tmp_path, "tensorboard", version), "TRACELET_BACKEND": "tensorboard"}
    command = [sys.executable, "-m", "tracelet_shim", "doctor", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    found = [one for one in json.loads(done.stdout)["findings"] if one["topic"] == "tensorboard" and words in one["text"]]
    assert [one["level"] for one in found] == [level]
    assert version.partition("+")[0] in found[0]["text"]


def test_needs() -> None:
    """What an SDK's old versions need beside them: named with the version that is there."""
    installed = metadata.version("pytest")
    needs = (Need("<2.14", "pytest", "<1", "it says so"), Need("<2.12", "no-such-package", ">0", "x"))
    versions = Versions("2.10", "3.18", needs)
    assert versions.problem("mlflow", "2.14") is None
    text, remedy = versions.problem("mlflow", "2.13.1") or ("", "")
    assert text == f"mlflow 2.13.1 needs pytest<1, and {installed} is installed (it says so)"
    assert remedy == "pip install 'pytest<1', or a newer mlflow"
    assert "2.10 is the oldest" in (versions.problem("mlflow", "2.9.2") or ("", ""))[0]
    other = Versions(needs=needs[1:])
    assert "and no-such-package" not in (other.problem("mlflow", "2.11") or ("", ""))[0]
    assert "and is not installed (x)" in (other.problem("mlflow", "2.11") or ("", ""))[0]


RELEASES = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(lambda numbers: ".".join(map(str, numbers)))


@given(RELEASES, st.lists(st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), RELEASES), min_size=1, max_size=3))
def test_versions_are_compared_as_pip_does(version: str, parts: list[tuple[str, str]]) -> None:
    """For releases; the rest (``rc1``, ``.post1``, ``+cpu``) counts as the release that it belongs to."""
    specifier = ",".join(f"{sign}{number}" for sign, number in parts)
    needs = (Need(specifier, "no-such-package", "<1", "x"),)
    assert (Versions(needs=needs).problem("sdk", version) is not None) == SpecifierSet(specifier).contains(version)


@pytest.mark.parametrize("version", ["3.18rc1", "3.18.0.post1", "3.18.0+cpu", "3.18.0.dev3", "3.18"])
def test_what_belongs_to_a_release_is_in_the_range(version: str) -> None:
    """Neither older nor newer than it."""
    versions = Versions("3.18.0", "3.18.0")
    assert versions.problem("sdk", version) is None
    assert not versions.untested(version)


def test_what_has_no_numbers_is_tried() -> None:
    versions = Versions("2.10", "3.18")
    assert versions.problem("mlflow", "unknown") is None
    assert not versions.untested("unknown")
    assert versions.untested("3.19.0rc1")
