"""What the tests that go through all trackers have to know of Aim."""

from __future__ import annotations

from pathlib import Path

from tests.backends.about import About
from tests.backends.aim.reader import AimReader


def times(here: Path, _home: Path) -> tuple[float, float]:
    from aim import Repo

    (run,) = Repo(str(here)).iter_runs()
    return run.props.creation_time, run.end_time


ABOUT = About(
    reader=AimReader,
    opening={".aim/run_metadata.sqlite": {}, ".aim/meta/chunks/*": {}, ".aim/seqs/chunks/*/CURRENT": {}},
    times=times,
)
