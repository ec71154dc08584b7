"""What the tests that go through all trackers have to know of Aim."""

from __future__ import annotations

from pathlib import Path

from tests.backends.about import About, UsersRun
from tests.backends.aim.reader import AimReader


def times(here: Path, _home: Path) -> tuple[float, float]:
    from aim import Repo

    (run,) = Repo(str(here)).iter_runs()
    return run.props.creation_time, run.end_time


ABOUT = About(
    reader=AimReader,
    opening={".aim/run_metadata.sqlite": {}, ".aim/meta/chunks/*": {}, ".aim/seqs/chunks/*/CURRENT": {}},
    users_run=UsersRun(
        begin="aim.Run(experiment=name, system_tracking_interval=None, capture_terminal_logs=False)", run_id="run.hash",
        end="run.close()", outlives_program=True,
        begin_again="aim.Run(ids[0], system_tracking_interval=None, capture_terminal_logs=False)",
    ),
    times=times,
)
