"""Other functions by which a program opens and ends a run: each end waits for what was logged into that run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chosen import each_change
from tests.conftest import RunPython
from tests.runs.programs import LOOP, TRACKERS, environment, ids, logged, points, program, users_run

pytestmark = pytest.mark.usefixtures("mlflow_store")

WAYS = [(name, begin, end) for name in TRACKERS for begin, end in users_run(name).other_ways]
OF_EACH = [next(way for way in WAYS if way[0] == name) for name in dict.fromkeys(name for name, *_ in WAYS)]


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    each_change(WAYS, *OF_EACH),
    ids=[f"{name}-{begin or end}"[:60] for name, begin, end in WAYS],
)
def test_another_way(
    name: str, begin: str, end: str, run_python: RunPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = users_run(name)
    way = replace(known, begin=begin or known.begin, end=end or known.end)
    monkeypatch.setitem(TRACKERS, name, replace(TRACKERS[name], users_run=way))
    done = run_python(program(name, LOOP), env=environment(name, tmp_path), timeout=400)
    runs = ids(done.stdout)
    assert [points(name, tmp_path, run) for run in runs] == [logged(0, 60 + k) for k in range(3)]
    assert set(TRACKERS[name].reader(tmp_path).run_ids()) == set(runs)
