"""The versions that are promised are those that were run: pyproject.toml, the backends' ranges and matrix/results say one thing.

They are run by ``make matrix``; .ci/run runs the oldest versions of two trackers, by turns.
"""

from __future__ import annotations

from collections import defaultdict
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import matrix
from tests.backends import TRACKERS
from tracelet_shim.backends import registry
from tracelet_shim.backends.shared.versions import Versions

RESULTS = [(cell, result) for cell, result in matrix.results() if result]
"""Of the cells that were run; docs/compatibility.md names those that were not."""


def versions_run(tracker: str) -> list[Version]:
    """Return the versions of its SDK that were run in both hostings without a failure."""
    return sorted(
        Version(cell.version) for cell, result in RESULTS
        if cell.tracker == tracker and cell.version and cell.torch and matrix.holds(result)
    )  # fmt: skip


@pytest.mark.parametrize(("cell", "result"), RESULTS, ids=[cell.name for cell, _ in RESULTS])
def test_cell_holds(cell: matrix.Cell, result: matrix.Result) -> None:
    """Nothing has failed."""
    assert matrix.holds(result), (cell.name, result)


def test_requirements_were_run_at_both_ends() -> None:
    """The oldest version of each requirement that is no tracker, and a newer one, have passed, in what the package needs."""
    run: dict[str, set[Version]] = defaultdict(set)
    for cell, result in RESULTS:
        if cell.tracker == "core" and matrix.holds(result):
            for name, version in result["installed"].items():
                run[name].add(Version(version.partition("+")[0]))
    for line in map(Requirement, matrix.needed("3.10")):
        (floor,) = [one.version for one in line.specifier if one.operator == ">="]
        found = sorted(run[canonicalize_name(line.name)])
        assert found[0] == Version(floor), (line, found)
        assert len(found) > 1 or line.marker or line.name == "tomli", (line, found)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_range_was_run_at_both_ends_and_between(tracker: str) -> None:
    """The oldest and the newest version that the backend accepts have passed, and at least one more."""
    versions, found = registry.find(tracker).versions, versions_run(tracker)
    assert Version(versions.oldest) == found[0]
    assert Version(versions.newest) == found[-1]
    assert len(found) >= 3


@pytest.mark.parametrize("tracker", TRACKERS)
def test_extra_asks_for_the_oldest_version(tracker: str) -> None:
    """pip takes no version that `start_logging` then refuses."""
    asked = [Requirement(line) for line in metadata.requires("tracelet-shim") or []]
    backend = registry.find(tracker)
    theirs = [line for line in asked if line.marker and line.marker.evaluate({"extra": tracker, "python_version": "3.11"})]
    (ours,) = [line for line in theirs if line.name.replace("-", "_") == backend.distribution.replace("-", "_")]
    floors = [one.version for one in ours.specifier if one.operator == ">="]
    assert [Version(floor) for floor in floors] == [Version(backend.versions.oldest)]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_installed_version_is_in_the_range(tracker: str) -> None:
    """What the tests of each change run with is neither refused nor untested."""
    backend = registry.find(tracker)
    installed = backend.installed() or "nothing"
    assert backend.versions.problem(backend.distribution, installed) is None
    assert not backend.versions.untested(installed), (installed, backend.versions)


def test_interpreters() -> None:
    """Each Python that is promised was tried: with torch and all trackers that are there for it, and without torch."""
    promised = {f"3.{minor}" for minor in range(10, 14)}
    held = [cell for cell, result in RESULTS if matrix.holds(result)]
    assert {cell.python for cell in held if cell.torch} >= promised
    assert {cell.python for cell in held if not cell.torch} >= promised


def test_every_turn_is_two_floors() -> None:
    """Whatever the number of the change, CI runs the oldest versions of two trackers, and all of them come round."""
    from matrix.cells import turn

    seen = [tuple(cell.tracker for cell in turn(number)) for number in range(len(TRACKERS))]
    assert all(len(set(pair)) == 2 for pair in seen)
    assert {tracker for pair in seen for tracker in pair} == set(TRACKERS)


def test_a_failed_cell_does_not_hold() -> None:
    """Nothing is taken for a success that was not seen."""
    passed = {"passed": 30, "failed": {}}
    assert matrix.holds({"hostings": {"process": passed, "thread": passed}})
    assert not matrix.holds({})
    assert not matrix.holds({"hostings": {"process": passed}})
    assert not matrix.holds({"hostings": {"process": passed, "thread": {"passed": 0, "failed": {}}}})
    assert not matrix.holds({"hostings": {"process": passed, "thread": {"passed": 29, "failed": {"E": ["check_video"]}}}})
    assert not matrix.holds({"hostings": {"process": passed, "thread": passed}, "problem": "cannot be installed"})
    assert not matrix.holds({"hostings": {"process": passed, "thread": passed}, "own": {"passed": 9, "failed": {"E": ["test"]}}})
    assert Versions("1", "2").problem("x", "1") is None
