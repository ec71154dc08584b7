"""What the tests that go through all trackers have to know of MLflow."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tests.backends.about import About, UsersRun
from tests.backends.mlflow.reader import MLflowReader


def times(here: Path, _home: Path) -> tuple[float, float]:
    with contextlib.closing(sqlite3.connect(here / "mlflow.db")) as db:
        ((begin, end),) = db.execute("SELECT start_time, end_time FROM runs")
    return begin / 1000, end / 1000


ABOUT = About(
    reader=MLflowReader,
    opening={"*mlflow.db*": {}},
    times=times,
    users_run=UsersRun(
        begin="mlflow.start_run(run_name=name)", run_id="run.info.run_id", end="mlflow.end_run()", is_context=True,
        other_ways=(
            ("mlflow.start_run(run_name=name, nested=True)", "mlflow.tracking.fluent.end_run()"),
            ("", "mlflow.end_run('KILLED')"),
            ("", "(mlflow.MlflowClient().set_terminated(run.info.run_id), mlflow.end_run())"),
        ),
        begin_again="mlflow.start_run(run_id=ids[0])",
    ),
    own_hook=True,
)
