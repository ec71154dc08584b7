"""The trackers that say that runs of several sessions can share a process: many at once, read back with their own readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends import TRACKERS
from tests.backends.aim.reader import AimReader
from tests.faults.harness import event_file_steps
from tests.node.programs import Collector, Start, losses, points, states
from tracelet_shim.backends import registry

MANY = 6


def in_mlflow(directory: Path) -> dict[str, list[tuple[int, float]]]:
    assert set(states(directory).values()) == {"FINISHED"}
    return points(directory)


def in_event_files(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's own have float32, and are bytes of the program's: their steps tell which are there."""
    copies = {path.parent for path in (directory / "tracelet-runs").rglob("*tfevents*")}
    return {copy.name: [(step, step / 7) for step in event_file_steps(copy)] for copy in copies}


def in_aim(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from aim import Repo

    found = {}
    for run in Repo(str(directory)).iter_runs():
        assert run.end_time is not None
        assert run.name not in found
        found[run.name] = sorted((record.step, record.value) for *_, record in AimReader.points(run, "loss", {}))
    return found


READ = {"mlflow": in_mlflow, "tensorboard": in_event_files, "aim": in_aim}


def test_all_that_share_are_tested() -> None:
    assert {name for name in TRACKERS if registry.find(name).shares_process} == set(READ)


@pytest.mark.parametrize("tracker", READ)
def test_many_runs_at_once_in_one_process(start: Start, collector: Collector, tmp_path: Path, tracker: str) -> None:
    """Each has its own points, all of them, once, and its end; they begin and end at the same time."""
    programs = [start(f"run-{n}", backends=tracker, half=200 + n, env=collector.env) for n in range(MANY)]
    assert len({program.served_by() for program in programs}) == 1
    (tmp_path / "go").touch()
    for program in programs:
        assert "warning" not in program.end()
    found = READ[tracker](tmp_path)
    assert found == {f"run-{n}": losses(2 * (200 + n)) for n in range(MANY)}
