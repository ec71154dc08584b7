"""Programs that change directory while they run: the relative stores of trackers are where the program began."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.about import all_about
from tests.backends.mlflow.reader import MLflowReader
from tests.chosen import each_change
from tests.conftest import RunPython

RELATIVE = {"mlflow": ".", "aim": ".", "dvclive": "dvclive", "tensorboard": "tracelet-runs", "wandb": "."}
"""By tracker, where its reader finds what it has put relative to the working directory."""

JOBS = """
import os, sys
import tracelet_shim
from torch.utils.tensorboard import SummaryWriter

began = os.getcwd()
for k in range(3):
    os.makedirs(f"{began}/jobs/{k}")
    os.chdir(f"{began}/jobs/{k}")
    with tracelet_shim.start_logging(exp_name=f"job{k}"):
        with SummaryWriter("runs") as writer:
            for step in range(10 + k):
                writer.add_scalar("loss", step / 8, step)
"""
"""A sweep that changes directory for each job, as Hydra does."""


def left_in(directory: Path) -> set[str]:
    return {"events" if "tfevents" in path.name else path.name for path in directory.iterdir()}


def eighths(stop: int) -> list[tuple[int, float]]:
    return [(step, step / 8) for step in range(stop)]


def env_of(name: str, **more: str | None) -> dict[str, str | None]:
    unset = dict.fromkeys(all_about()[name].reader.environment(Path("unused")), None)
    return {**unset, "TRACELET_BACKEND": name, "TRACELET_STRICT": "1", "WANDB_MODE": "offline", **more}


@pytest.mark.parametrize(
    ("name", "delivery"),
    each_change(
        [(name, delivery) for name in RELATIVE for delivery in ("process", "thread")],
        ("mlflow", "process"), ("wandb", "process"), ("aim", "thread"), ("dvclive", "thread"),
    ),
)  # fmt: skip
def test_sessions_in_other_directories(name: str, delivery: str, run_python: RunPython, tmp_path: Path) -> None:
    """Each job has a run, in the one store where the program began; in its own directory there are its event files and their
    state, and nothing of a tracker."""
    run_python(JOBS, env=env_of(name, TRACELET_DELIVERY=delivery), timeout=300)
    reader = all_about()[name].reader
    found = {}
    for run_id in reader(tmp_path / RELATIVE[name]).run_ids():
        run = reader(tmp_path / RELATIVE[name], run_id)
        found[run.about()["exp_name"]] = [(point.step, point.value) for point in run.scalars("", "loss")]
    assert found == {f"job{k}": eighths(10 + k) for k in range(3)}
    for k in range(3):
        assert left_in(tmp_path / "jobs" / str(k)) == {"runs"}
        assert left_in(tmp_path / "jobs" / str(k) / "runs") == {"events", ".tracelet"}


def test_the_file_and_the_state_directory_are_where_the_program_began(run_python: RunPython, tmp_path: Path) -> None:
    (tmp_path / "tracelet.toml").write_text('backend = ["tensorboard"]\nproject = "of the file"\n')
    run_python(JOBS, env={"TRACELET_STATE_DIR": "state"})
    reader = all_about()["tensorboard"].reader
    runs = reader(tmp_path / "tracelet-runs").run_ids()
    assert [reader(tmp_path / "tracelet-runs", run).about()["project"] for run in runs] == ["of the file"] * 3
    assert (tmp_path / "state" / "ledger.db").exists()
    assert [left_in(tmp_path / "jobs" / str(k) / "runs") for k in range(3)] == [{"events"}] * 3


OWN_RUNS = """
import os
import mlflow
from torch.utils.tensorboard import SummaryWriter

began = os.getcwd()
for k in range(3):
    os.makedirs(f"{began}/jobs/{k}")
    os.chdir(f"{began}/jobs/{k}")
    with mlflow.start_run(run_name=f"job{k}"):
        writer = SummaryWriter("runs")
        for step in range(10 + k):
            writer.add_scalar("loss", step / 8, step)
        writer.close()
"""


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", None])
def test_runs_of_the_user_in_other_directories(uri: str | None, run_python: RunPython, tmp_path: Path) -> None:
    """What is logged into a run of the user's goes where MLflow has put that run: with a relative URI all into the first job's
    directory, else each into its own."""
    run_python(OWN_RUNS, env=env_of("mlflow", MLFLOW_TRACKING_URI=uri), timeout=300)
    for k in range(3):
        place = tmp_path / "jobs" / ("0" if uri else str(k))
        names = {run_id: MLflowReader(place, run_id).about()["exp_name"] for run_id in MLflowReader(place).run_ids()}
        (run_id,) = [run_id for run_id, name in names.items() if name == f"job{k}"]
        assert [(point.step, point.value) for point in MLflowReader(place, run_id).scalars("", "loss")] == eighths(10 + k)
    assert not (tmp_path / "mlflow.db").exists()
