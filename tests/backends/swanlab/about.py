"""What the tests that go through all trackers have to know of SwanLab."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from packaging.version import Version

from tests.backends.about import About, UsersRun
from tests.backends.swanlab.reader import SwanLabReader


def times(here: Path, _home: Path) -> tuple[float, float]:
    run = SwanLabReader(here / "swanlog").run
    return run.start.started_at.seconds, run.finish.finished_at.seconds


OLD = Version(version("swanlab")) < Version("0.8") if find_spec("swanlab") is not None else False
RUN_ID = "run.public.run_id" if OLD else "run.id"
"""0.6 and 0.7 have an id of a run only online."""

ABOUT = About(
    reader=SwanLabReader,
    opening={"run-*": {}, "run-*/run-*.swanlab": {}},
    own_places=("run-*",),
    times=times,
    users_run=UsersRun(
        begin="swanlab.init(project='p', experiment_name=name)", run_id=RUN_ID, end="swanlab.finish()", outlives_program=True,
        other_ways=(("", "run.finish()"), *([] if OLD else [("", "run.__exit__(None, None, None)")])),
        begin_next="swanlab.init(project='p', experiment_name=name, reinit=True)", is_context=not OLD,
    ),
    draws_at_import=True,
    own_hook=True,
    reads_dotenv=True,
)
