"""What the tests that go through all trackers have to know of SwanLab."""

from __future__ import annotations

from pathlib import Path

from tests.backends.about import About, UsersRun
from tests.backends.swanlab.reader import SwanLabReader


def times(here: Path, _home: Path) -> tuple[float, float]:
    run = SwanLabReader(here / "swanlog").run
    return run.start.started_at.seconds, run.finish.finished_at.seconds


ABOUT = About(
    reader=SwanLabReader,
    opening={"run-*": {}, "run-*/run-*.swanlab": {}},
    own_places=("run-*",),
    times=times,
    users_run=UsersRun(
        begin="swanlab.init(project='p', experiment_name=name)", run_id="run.id", end="swanlab.finish()", outlives_program=True,
        other_ways=(("", "run.finish()"), ("", "run.__exit__(None, None, None)")),
        begin_next="swanlab.init(project='p', experiment_name=name, reinit=True)", is_context=True,
    ),
    draws_at_import=True,
    own_hook=True,
    reads_dotenv=True,
)
