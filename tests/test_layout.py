"""What the folders promise: files of a size that one can read, each policy once, and a tracker in one place."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.backends import TRACKERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tracelet_shim"
BACKENDS = PACKAGE / "backends"

KNOWS = {
    "common": set(),
    "display": {"common"},
    "provenance": {"common", "display", "backends", "bus", "eventfiles"},
    "backends": {"common", "provenance", "eventfiles"},
    "bus": {"common", "backends", "relay"},  # relay: hosted in this process by `channel.ThreadChannel`
    "eventfiles": {"common", "bus"},
    "intercept": {"bus", "common", "eventfiles"},
    "handle": {"bus", "common", "eventfiles", "provenance"},
    "state": {"common", "backends", "bus"},
    "relay": {"common", "backends", "bus", "eventfiles", "fleet", "provenance", "state"},  # fleet: in the place of the workers
    "fleet": {"common", "backends", "bus", "eventfiles", "provenance", "relay", "session", "state"},
    "node": {"common", "backends", "bus", "relay"},
    "session": {"common", "display", "backends", "bus", "eventfiles", "fleet", "handle", "intercept", "provenance", "state"},
    "replay": {"common", "backends", "bus", "eventfiles", "provenance", "relay", "session", "state"},
    "cli": {"bus", "common", "display", "backends", "fleet", "node", "provenance", "replay", "session", "state"},
    "testing": {"backends"},
}
"""By room, the other rooms that it may import from; who is in a room need not know of any other one."""
GENERATED = re.compile(b"<!-- From here on made by `make docs`.*?<!-- end -->", re.DOTALL)
PUBLIC = {"__init__", "__main__", "auto", "errors", "events", "ledger"}


def imports(path: Path, *, at_run_time: bool = False) -> set[str]:
    """Return the modules of ours that a file imports from."""
    found = set()
    tree = ast.parse(path.read_text())
    if at_run_time:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tracelet_shim"):
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(ROOT)): n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 450}
    assert long == {}


def test_each_shared_policy_has_three_users_and_tests() -> None:
    """What fewer trackers need stays with them. (A policy of another policy's counts for its users.)"""
    users: dict[str, set[str]] = defaultdict(set)
    for tracker in TRACKERS:
        for path in (BACKENDS / tracker).rglob("*.py"):
            for module in imports(path):
                users[module].add(tracker)
    for module in imports(BACKENDS / "base.py"):  # what every backend has
        users[module] |= set(TRACKERS)
    for path in sorted((BACKENDS / "shared").glob("[!_]*.py")):
        found = users[f"tracelet_shim.backends.shared.{path.stem}"]
        assert len(found) >= 3, (path.name, found)
        assert (ROOT / "tests" / "shared" / f"test_{path.name}").exists(), path.name


def test_shared_policies_know_no_tracker() -> None:
    for path in [*(BACKENDS / "shared").glob("*.py"), *(BACKENDS / "render").glob("*.py")]:
        assert not {module for module in imports(path) if module.split(".")[2:3] and module.split(".")[2] in TRACKERS}
        text = path.read_text()
        assert not [tracker for tracker in TRACKERS if f"import {tracker}" in text], path.name


@pytest.mark.parametrize("tracker", sorted(set(TRACKERS) - {"tensorboard"}))  # that is a word of its own
def test_trackers_do_not_know_each_other(tracker: str) -> None:
    others = {f"tracelet_shim.backends.{other}" for other in TRACKERS if other != tracker}
    for path in (BACKENDS / tracker).rglob("*.py"):
        assert not [module for module in imports(path) if module.startswith(tuple(f"{other}." for other in others))], path


def test_a_tracker_stands_in_its_own_places() -> None:
    """Adding a tracker touches its package, pyproject, its tests and its page: what else names one can be counted on a hand. What
    `make docs` writes into pages does not count, nor what `make matrix` and `make bench` have found."""
    tracker = next(name for name in TRACKERS if name.endswith("lab"))  # one with a name that is no word, and not named here
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    own = (f"tracelet_shim/backends/{tracker}/", f"tests/backends/{tracker}/", "pyproject.toml", f"docs/trackers/{tracker}.md")
    own += (f"matrix/trackers/{tracker}.toml", f"packaging/trackers/{tracker}.toml", "matrix/results/", "benchmarks/results")
    others = [name for name in listed if not name.startswith(own) and (ROOT / name).is_file()]
    named = [name for name in others if tracker.encode() in GENERATED.sub(b"", (ROOT / name).read_bytes())]
    assert len(named) <= 5, named


def test_modules_at_the_top_level_are_public() -> None:
    """All else is in a room. The .pth file of each installation has the name of `_bootstrap`."""
    assert {path.stem for path in PACKAGE.glob("*.py")} == PUBLIC | {"_bootstrap"}
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(KNOWS)


@pytest.mark.parametrize("room", KNOWS)
def test_a_room_knows_no_more_than_it_needs(room: str) -> None:
    """What is imported for type checkers only does not count."""
    for path in (PACKAGE / room).rglob("*.py"):
        others = [names for module in imports(path, at_run_time=True) if [room] != (names := module.split("."))[1:2]]
        assert {name for names in others for name in names[1:2]} & set(KNOWS) <= KNOWS[room], path
        assert not [names for names in others if any(name.startswith("_") for name in names[2:])], path
