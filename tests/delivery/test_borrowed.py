"""Runs that the user has open himself: joined, and not ended."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.conftest import RunPython

pytestmark = pytest.mark.usefixtures("mlflow_store")


def test_users_runs_are_joined_and_left_open(run_python: RunPython, tmp_path: Path) -> None:
    """An active MLflow run is written to from the relay, an active W&B run from the program; each point arrives once,
    and both runs are the user's to end."""
    run_python(
        """
        import mlflow, wandb
        mlflow.set_tracking_uri("sqlite:///mine.db")
        with mlflow.start_run() as mine, wandb.init(project="p", dir=".") as run:
            import tracelet_shim
            from torch.utils.tensorboard import SummaryWriter
            session = tracelet_shim.start_logging(backend=["mlflow", "wandb", "tensorboard"])
            writer = SummaryWriter("runs/x")
            for step in range(100):
                writer.add_scalar("loss", step / 7, step)
            assert session.run_ids["mlflow"] == mine.info.run_id
            assert session.run_ids["wandb"] == run.id
            assert session.native["wandb"] is run
            try:
                session.native["mlflow"]
            except tracelet_shim.ConfigurationError as error:
                assert "delivery='thread'" in str(error)
            else:
                raise AssertionError("no handle can be had from the relay process")
            tracelet_shim.stop_logging()
            assert {name: state.delivered for name, state in session.status().items()} == dict.fromkeys(
                ("mlflow", "wandb", "tensorboard"), 100
            )
            assert mlflow.active_run().info.status == "RUNNING"
            assert wandb.run is run
            mlflow.log_metric("mine", 1.0)
            run.log({"mine": 1.0})
        """
    )
    with sqlite3.connect(tmp_path / "mine.db") as db:
        points = db.execute("SELECT key, COUNT(*) FROM metrics GROUP BY key ORDER BY key").fetchall()
        assert points == [("loss", 100), ("mine", 1)]
        assert db.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]


def test_a_second_hook_is_warned_about(run_python: RunPython) -> None:
    """A tracker's own TensorBoard hook that is on as well is named, with the way to switch it off."""
    done = run_python(
        """
        import mlflow
        mlflow.pytorch.autolog(log_every_n_step=1)
        import tracelet_shim
        tracelet_shim.start_logging(backend=["mlflow"])
        """
    )
    assert "mlflow.pytorch.autolog(disable=True)" in done.stderr
