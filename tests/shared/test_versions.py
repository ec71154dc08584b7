"""Versions of SDKs that cannot be used are named at once, with what to do; newer ones are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

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


def test_prereleases_count_as_what_they_come_before() -> None:
    assert Versions("2.10", "3.18").untested("3.19.0rc1")
    assert not Versions("2.10", "3.18").untested("3.18")
    assert Versions("2.10").problem("mlflow", "2.10.0rc0") is None
    assert Versions("2.10").problem("mlflow", "unknown") is None
