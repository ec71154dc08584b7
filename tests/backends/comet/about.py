"""What the tests that go through all trackers have to know of Comet."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.backends.about import About, UsersRun, text_in
from tests.backends.comet.reader import CometReader


def times(_here: Path, home: Path) -> tuple[float, float]:
    found = re.search(r'\{"offline_id".*?\}', text_in("*.zip", home / "comet"))
    assert found
    about = json.loads(found[0])
    return about["start_time"] / 1000, about["stop_time"] / 1000


ABOUT = About(
    reader=CometReader,
    opening={"*.part": {}, "*.part/experiment.json": {}},
    own_places=("*.part", "*.zip"),
    own_place_made="*.part/experiment.json",  # an archive of the experiment: one of each session's
    times=times,
    users_run=UsersRun(
        begin="comet_ml.OfflineExperiment(project_name='p', log_code=False, parse_args=False, auto_output_logging=False,"
        " log_env_details=False, auto_metric_logging=False)",
        run_id="run.id", end="run.end()", begin_next="begin(name)",
        other_ways=((
            "comet_ml.start(online=False, project='p')",  # later, `project_name`
            "getattr(comet_ml, 'end', comet_ml.get_running_experiment().end)()",  # `comet_ml.end`, since 3.47
        ),),
    ),
    draws_at_import=True,
    own_hook=True,
    reads_dotenv=True,
)  # fmt: skip
