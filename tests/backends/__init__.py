"""The trackers, a folder each. What tests and benchmarks know of a tracker stands in its folder, and they find it there:

    environment.py  its variables: which steer it, and which keep it silent, offline and within a directory
    reader.py       reads a run back from its own store
    about.py        what the tests that go through all trackers have to know of it
    keys.py         the names in its store, which are pinned in store_keys.txt
    test_*.py       its own tests
    server.py, online.py  a stand-in for its server, and how tests use that; where there is one
    live.py         its own server, for tests of faults; where that can be run
    bench.py        its SDK without us, for the benchmarks
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType

__all__ = ["TRACKERS", "part", "with_part"]

_HERE = Path(__file__).parent

_ONLY = os.environ.get("ONLY_TRACKERS", "")
_FOLDERS = tuple(sorted(path.parent.name for path in _HERE.glob("*/environment.py")))
TRACKERS = tuple(name for name in _FOLDERS if not _ONLY or name in _ONLY.split(","))
"""The names of all; with ``ONLY_TRACKERS=print,tensorboard``, while one is being written, of those."""


def part(tracker: str, name: str) -> ModuleType:
    """Return one of a tracker's modules."""
    return import_module(f"{__name__}.{tracker}.{name}")


def with_part(name: str) -> tuple[str, ...]:
    """Return the trackers that have this module."""
    return tuple(tracker for tracker in TRACKERS if (_HERE / tracker / f"{name}.py").exists())
