"""A module that is missing is named by what pip installs, not by its own name."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

import pytest

from tracelet_shim.backends.shared.modules import remedy
from tracelet_shim.testing import RecordingBackend


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("pkg_resources", "pip install 'setuptools<81'"),
        ("pkg_resources.extern", "pip install 'setuptools<81'"),
        ("cv2", "pip install opencv-python"),
        ("no_such_module", "pip install no_such_module"),
        ("no_such_module.part.of_it", "pip install no_such_module"),
        ("google.cloud.storage", "pip install google-cloud-storage"),  # `google` itself is there
    ],
)
def test_missing_module_is_named_by_its_distribution(module: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that cannot import one says what to install."""
    here = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("pkg_resources", "cv2") else here(name))
    error = ModuleNotFoundError(f"No module named '{module}'", name=module)
    assert RecordingBackend().advice(error) == said


def test_part_of_a_package_that_is_there_is_of_another_version() -> None:
    """A name, or a submodule, that an installed package has not cannot be installed by that name."""
    with pytest.raises(ImportError) as name:
        exec("from pytest import no_such_name")
    with pytest.raises(ModuleNotFoundError) as module:
        importlib.import_module("pytest.no_such_part")
    for error in (name.value, module.value):
        assert remedy(error) == f"install another version than pytest {metadata.version('pytest')}"


def test_what_is_not_known_is_not_guessed() -> None:
    """An error that names nothing, and a module of no distribution, get no remedy."""
    assert remedy(ImportError("something")) == ""
    assert remedy(ImportError("no name in it", name="sys")) == ""
