"""What the tests that go through all trackers have to know of ClearML."""

from __future__ import annotations

from pathlib import Path

from tests.backends.about import About, UsersRun, text_in, two_times
from tests.backends.clearml.reader import ClearMLReader


def times(_here: Path, home: Path) -> tuple[float, float]:
    return two_times(text_in("offline/*.zip", home / "clearml"))


ABOUT = About(
    reader=ClearMLReader,
    opening={"offline/offline-*": {}, "offline/offline-*/task.json": {}},
    own_places=("offline/offline-*[0-9a-f]",),
    times=times,
    users_run=UsersRun(
        # alone, the script: in its thread that looks for a repository, the SDK forks, which at times stands still without us too
        begin="(clearml.Task.force_store_standalone_script(), clearml.Task.init('p', name, reuse_last_task_id=False,"
        " auto_connect_frameworks=False, auto_connect_streams=False, auto_resource_monitoring=False))[1]",
        run_id="run.id", end="run.close()", outlives_program=True,
        other_ways=(("", "(run.mark_completed(), run.close())"), ("", "clearml.Task.current_task().close()")),
    ),
    own_hook=True,
)  # fmt: skip
