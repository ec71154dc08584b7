"""What the tests that go through all trackers have to know of Trackio."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

from tests.backends.about import About, UsersRun, seconds
from tests.backends.trackio.reader import TrackioReader


def times(_here: Path, home: Path) -> tuple[float, float]:
    with contextlib.closing(sqlite3.connect(home / "trackio" / "p.db")) as db:
        ((config,),) = db.execute("SELECT config FROM configs")
    found = json.loads(config)
    return seconds(found["_Created"]), seconds(found["tracelet/ended"])


_QUIETLY = (  # as far as the installed version knows these
    "{name: False for name in ('auto_log_cpu', 'auto_log_gpu', 'embed')"
    " if name in __import__('inspect').signature(trackio.init).parameters}"
)
ABOUT = About(
    reader=TrackioReader,
    opening={"trackio": {}, "trackio/*.db": {}},
    times=times,
    users_run=UsersRun(
        begin=f"trackio.init('p', name=name, **{_QUIETLY})", run_id="getattr(run, 'id', run.name)",
        end="trackio.finish()", outlives_program=True, begin_next="begin(name)",
        other_ways=(("", "run.finish()"),),
        begin_again=f"trackio.init('p', name='r', resume='must', **{_QUIETLY})",
    ),
)  # fmt: skip
