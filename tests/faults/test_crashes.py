"""Programs and relays that are killed at any moment: everything that was logged is in each tracker, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Train
from tests.faults.crashes import Trial, code_of, plan_of

_EACH_CHANGE, _EACH_NIGHT = 30, 200

pytestmark = pytest.mark.usefixtures("mlflow_store")

SEEDS = [
    pytest.param(seed, id=f"seed-{seed:03}", marks=[pytest.mark.nightly] * (seed >= _EACH_CHANGE))
    for seed in range(_EACH_CHANGE + _EACH_NIGHT)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_there_once(train: Train, tmp_path: Path, seed: int) -> None:
    """What `add_*` has returned from is in each tracker once, with its float64; so is what the event file has. Nothing has to be
    resumed where the relay lived, and one resumed delivery brings it where it did not. No process, and no ring, is left."""
    plan = plan_of(seed, small=seed < _EACH_CHANGE)
    print(f"{plan}\nagain: pytest tests/faults/test_crashes.py -k seed-{seed:03}")
    trial = Trial(plan, tmp_path)
    program = train(code_of(plan), env=trial.env, exit_timeout=120)
    trial.follow(program)
    trial.check()
