"""MLflow without us, for the benchmarks: its SDK's best bulk call, its own TensorBoard hook, and what arrived."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from benchmarks.sdk import Counts, Opened


def direct() -> Opened:
    """`log_batch` of 1,000 metrics, the most that it takes."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient("sqlite:///mlflow.db")
    run = client.create_run("0").info.run_id
    batch: list[Any] = []

    def log(step: int, values: dict[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        batch.extend(Metric(tag, value, now, step) for tag, value in values.items())
        if len(batch) >= 1000:
            client.log_batch(run, metrics=batch)
            batch.clear()

    def close() -> None:
        if batch:
            client.log_batch(run, metrics=batch)
        client.set_terminated(run)

    return log, close


def count(directory: Path) -> Counts:
    connection = sqlite3.connect(directory / "mlflow.db")
    try:
        ((scalars,),) = connection.execute("SELECT count(*) FROM metrics WHERE key LIKE '%loss%'")
    finally:
        connection.close()
    files = [path.as_posix() for path in directory.glob("mlruns/**/artifacts/**/*.*")]
    return {
        "scalars": scalars,
        "images": sum("/images/" in path and path.endswith(".png") for path in files),
        "histograms": sum("/histograms/" in path and path.endswith(".json") for path in files),
        "texts": sum("/text/" in path for path in files),
        "audio": sum("/audio/" in path for path in files),
    }


def hook() -> None:
    """As its documentation says, offline."""
    import mlflow

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.pytorch.autolog(log_every_n_step=1)
    mlflow.start_run()  # else each scalar makes a run
