"""Every tracker x every event type x both hostings: written through SummaryWriter, read back from the tracker's store."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.backends import TRACKERS, part
from tests.backends.about import about
from tracelet_shim.backends import registry

pytest.register_assert_rewrite("tracelet_shim.testing.conformance")  # a failed check then shows the values

from tracelet_shim.testing.conformance import CHECKS, Conformance, run_program  # noqa: E402

HOSTINGS = ("process", "thread")

_MADE_UP = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![a-z0-9])(?:[0-9a-f]{8,}|[0-9]{10,})(?![a-z])")
"""What is another for each run in the names of a store: ids, digests of places in event files, times."""


def conformance_of(tracker: str, place: Path) -> Conformance:
    return Conformance(about(tracker).reader(place), float32=about(tracker).float32)


@pytest.fixture(scope="module", params=[(t, h) for t in TRACKERS for h in HOSTINGS], ids="-".join)
def conformance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Conformance:
    tracker, hosting = request.param
    directory = tmp_path_factory.mktemp(f"{tracker}-{hosting}")
    (place,) = run_program(directory, [about(tracker).reader], delivery=hosting)
    return conformance_of(tracker, place)


def test_every_tracker_has_its_folder() -> None:
    """What is registered by this distribution has a folder in tests/backends, and only that."""
    ours = [name for name in registry.names() if registry.find(name).__module__.startswith("tracelet_shim.")]
    assert list(TRACKERS) == ours


@pytest.mark.nightly
@pytest.mark.parametrize("check", CHECKS)
def test_tracker_has(conformance: Conformance, check: str) -> None:
    """The tracker's own store has what the check's docstring says."""
    getattr(conformance, check)()


@pytest.fixture(scope="module", params=HOSTINGS)
def all_at_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Conformance]:
    """One program that all trackers are served from at once."""
    directory = tmp_path_factory.mktemp(f"all-{request.param}")
    readers = [about(tracker).reader for tracker in TRACKERS]
    places = run_program(directory, readers, delivery=request.param)
    return {tracker: conformance_of(tracker, place) for tracker, place in zip(TRACKERS, places, strict=True)}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_all_trackers_at_once(all_at_once: dict[str, Conformance], tracker: str) -> None:
    """With all trackers in one process, each has everything that it has alone."""
    for check in CHECKS:
        getattr(all_at_once[tracker], check)()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_names_in_the_store_stay(all_at_once: dict[str, Conformance], tracker: str) -> None:
    """What users have built on, the names and keys in the tracker's own store, does not change with our code. Where it has to,
    ``PIN_STORE_KEYS=1`` writes tests/backends/<tracker>/store_keys.txt anew."""
    store_keys = part(tracker, "keys").store_keys
    keys = {_MADE_UP.sub("#", repr(key)) for key in store_keys(all_at_once[tracker].reader.directory)}
    found = sorted(key for key in keys if not re.search(r"\bgit\b|uncommitted", key))  # those of the checkout that it runs in
    pinned = Path(__file__).parents[1] / "backends" / tracker / "store_keys.txt"
    if os.environ.get("PIN_STORE_KEYS"):
        pinned.write_text("".join(f"{key}\n" for key in found))
    assert found == pinned.read_text().splitlines()
