"""What the tests that go through all trackers have to know of TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from tests.backends.about import About
from tests.backends.tensorboard.reader import TensorBoardReader


def times(here: Path, _home: Path) -> tuple[float, float]:
    about = json.loads((here / "tracelet-runs" / "p" / "old" / "run.json").read_text())
    return about["started"], about["ended"]


ABOUT = About(reader=TensorBoardReader, opening={}, times=times, float32=True)
