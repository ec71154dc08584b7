"""The relay killed while a tracker opens its run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.backends import TRACKERS
from tests.backends.about import about
from tests.chosen import each_change
from tests.faults.conftest import Train
from tests.faults.harness import eventually, states

MOMENTS = [(tracker, moment) for tracker in TRACKERS for moment in about(tracker).opening]
CHOSEN = [tracker for tracker in ("mlflow", "aim", "wandb", "clearml") if tracker in TRACKERS]


# The latest moment of four whose ways to make a run differ: a database that is made, a repository, a service's log, files.
@pytest.mark.parametrize(
    ("tracker", "moment"),
    each_change(MOMENTS, *({tracker: (tracker, moment) for tracker, moment in MOMENTS}[name] for name in CHOSEN)),
)
def test_relay_that_is_killed_while_it_opens_a_run_leaves_one(
    train: Train, tmp_path: Path, tracker: str, moment: str
) -> None:
    """Killed as soon as the first thing of the run is on disk, the relay's successor opens the same run, and nothing else is
    there: no second run, and no rest of the first try."""
    known = about(tracker)
    program = train(
        f"""
begin({tracker!r}, project="p", exit_timeout=240)
log(0, 20)
reach("logged"); wait_for("killed")
log(20, 40)
""",
        env={**known.reader.environment(tmp_path), **known.opening[moment]},
        exit_timeout=240,
    )
    relay = program.relay()
    eventually(lambda: any(True for _ in tmp_path.glob(moment)), pause=0.0005)
    os.kill(relay, signal.SIGSTOP)  # so that what is there when it is killed can be looked at
    eventually(lambda: all(state == "T" for state in states(relay)), pause=0.001)
    made = len(list(tmp_path.glob(known.own_place_made))) if known.own_place_made else 0
    os.kill(relay, signal.SIGKILL)
    program.go("killed")
    assert program.end(40, seconds=400).count("starting it again") == 1
    read = known.reader(tmp_path)
    assert len(read.run_ids()) == 1
    assert sorted(point.step for point in read.scalars("", "loss")) == list(range(40))
    if known.own_places:
        assert len([path for pattern in known.own_places for path in tmp_path.glob(pattern)]) == made + 1
