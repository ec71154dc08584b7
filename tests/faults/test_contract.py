"""The page that states what happens at each fault names a test for it, and the test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import AT_NIGHT

ROOT = Path(__file__).resolve().parents[2]


def test_each_line_about_servers_names_its_tests() -> None:
    """The part of the page on servers names every test that runs an SDK online; others that are there stand with their file."""
    page = (ROOT / "docs" / "delivery.md").read_text()
    lines = [line for line in page.partition("## Online")[2].partition("\n## ")[0].splitlines() if line.startswith("| ")]
    where = " ".join(line.split(" | ")[-1] for line in lines)
    elsewhere = re.compile(r"`(backends/\w+/(?!test_online)\w+\.py)` `(test_\w+)`")
    for file, test in elsewhere.findall(where):
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text()
    named = set(re.findall(r"`(test_\w+)`", elsewhere.sub("", where)))
    files = [*ROOT.glob("tests/backends/*/test_online.py"), *ROOT.glob("tests/online/test_*.py")]
    assert named == {name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}


def test_each_line_of_the_contract_names_its_tests() -> None:
    """Every fault in docs/delivery.md names tests that there are, and no test of a fault is missing there."""
    page = (ROOT / "docs" / "delivery.md").read_text()
    table = page.partition("## Faults")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    named = set()
    for line in lines:
        files = re.split(r"`([\w/]+\.py)`", line.split(" | ")[-1])[1:]  # each with the tests of it behind it
        assert files, line
        for file, behind in zip(files[::2], files[1::2], strict=True):
            tests = re.findall(r"`(test_\w+)`", behind)
            assert tests, line
            defined = re.findall(r"^def (test_\w+)", (ROOT / "tests" / file).read_text(), re.MULTILINE)
            assert set(tests) <= set(defined), line
            named.update(tests)
    for path in Path(__file__).parent.glob("test_*.py"):
        if path != Path(__file__):
            assert set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)) <= named, path.name


def test_each_line_is_tested_with_each_change(pytestconfig: pytest.Config) -> None:
    """Of the tests that a line of the page names, one at least has members that are not left for the night."""
    page = (ROOT / "docs" / "delivery.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "`test_" in line]
    named = [(line[0], set(re.findall(r"`(test_\w+)`", line[-1]))) for line in lines]
    assert len([tests for _, tests in named if tests]) > 100
    assert [fault for fault, tests in named if tests and tests <= pytestconfig.stash[AT_NIGHT]] == []
