"""What the tests that go through all trackers have to know of DVCLive."""

from __future__ import annotations

import json
from pathlib import Path

from tests.backends.about import About
from tests.backends.dvclive.reader import DVCLiveReader


def times(here: Path, _home: Path) -> tuple[float, float]:
    about = json.loads((here / "dvclive" / "p" / "old" / "run.json").read_text())
    return about["started"], about["ended"]


ABOUT = About(
    reader=DVCLiveReader,
    opening={"run": {}, "dvclive/*/*": {"TRACELET_DVCLIVE_DIR": None}},
    own_places=("run", "dvclive/p/*", "dvclive/p/.*"),
    times=times,
)
