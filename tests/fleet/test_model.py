"""The page that reckons with a large fleet has the numbers that were measured."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from benchmarks.fleet import KEPT
from benchmarks.fleet_model import BEGIN, PAGE, Model, Plan, renewed


@pytest.fixture
def results() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(KEPT.read_bytes())
    return found


def test_the_page_has_the_measured_numbers() -> None:
    page = PAGE.read_text()
    assert page.count(BEGIN) == 1
    assert page == renewed(page), "python -m benchmarks.fleet_model --write"


def test_more_of_everything_needs_more(results: dict[str, Any]) -> None:
    """Twice the runs need twice of what each run needs; twice the pace needs no more than twice."""
    model, plan = Model(results), Plan(1000, 10)
    runs, pace = Plan(2000, 10), Plan(1000, 20)
    for of in (model.redis_cores, model.commands, lambda plan: model.memory(plan, 600)):
        assert of(runs) == pytest.approx(2 * of(plan))
        assert of(plan) <= of(pace) <= 2 * of(plan)
    assert model.collector_cores(pace, "mlflow") == pytest.approx(2 * model.collector_cores(plan, "mlflow"))


def test_at_the_measured_pace_it_says_what_was_measured(results: dict[str, Any]) -> None:
    model = Model(results)
    assert model.of_scalar("network", Plan(1, 50)) == pytest.approx(results["redis"]["paced"]["network"])
