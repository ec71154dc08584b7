"""TensorFlow and Keras, where ``TENSORFLOW_PYTHON`` names a Python that has them, this package, MLflow and Trackio; and files
that they wrote (`tests/delivery/keras_logs`), which grow piece by piece while a program runs, anywhere."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.conftest import RunPython

LOGS = Path(__file__).parents[1] / "delivery" / "keras_logs"
PYTHON = os.environ.get("TENSORFLOW_PYTHON", "")
with_tensorflow = pytest.mark.skipif(not PYTHON, reason="TENSORFLOW_PYTHON names no Python with TensorFlow")
START = "import tracelet_shim\ns = tracelet_shim.start_logging(backend=['mlflow', 'trackio'], project='p', watch='logs')\n"
PIECES = f"""
import shutil, time
from pathlib import Path
logs = [path for path in Path({str(LOGS)!r}).rglob("*tfevents*")]
assert len(logs) == 3
for start in range(0, max(path.stat().st_size for path in logs), 700):
    for path in logs:
        new = Path("logs/fit/first", path.relative_to({str(LOGS)!r}))
        new.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "ab") as file:
            file.write(path.read_bytes()[start : start + 700])
    time.sleep(0.2)
"""


def in_files(directory: Path, kind: str) -> dict[str, list[tuple[int, float]]]:
    """Return what the event files have, read by TensorBoard's own loader: by writer and tag, (step, value)."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.util import tensor_util

    found: dict[str, list[tuple[int, float]]] = {}
    for path in directory.rglob("*tfevents*"):
        plugins: dict[str, str] = {}
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                plugin = plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
                if plugin == kind:
                    number = float(tensor_util.make_ndarray(value.tensor)) if kind == "scalars" else 0.0
                    name = f"{path.parent.relative_to(directory)}/{value.tag}"
                    found.setdefault(name, []).append((event.step, number))
    return found


def in_mlflow(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    experiment = client.get_experiment_by_name("p")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    return {key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics}


def in_trackio(directory: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with sqlite3.connect(next((directory / "trackio").glob("p*.db"))) as db:
        for (metrics,) in db.execute("SELECT metrics FROM metrics ORDER BY step"):
            for key, value in json.loads(metrics).items():
                if isinstance(value, float):
                    found.setdefault(key, []).append(value)
    return found


def check(written: Path, directory: Path) -> None:
    expected = in_files(written, "scalars")
    assert len(expected["own/mine"]) == 37
    assert {name.split("/")[0] for name in expected} == {"train", "validation", "own"}
    found = in_mlflow(directory)
    assert {key: sorted(points) for key, points in found.items()} == {key: sorted(points) for key, points in expected.items()}
    stored = in_trackio(directory)
    for key, points in expected.items():
        assert sorted(stored[key]) == sorted(value for _, value in points), key


@pytest.mark.usefixtures("mlflow_store")
def test_files_of_keras_that_grow(run_python: RunPython, tmp_path: Path) -> None:
    """Tensors whose plugin stands in their first value only, cut anywhere: each value arrives once, as the file has it."""
    run_python(START.replace("watch='logs'", "watch='logs', root='logs/fit/first'") + PIECES, env=_trackio(tmp_path))
    check(LOGS, tmp_path)


@with_tensorflow
@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize("way", ["call", "environment", "run"])
def test_keras(tmp_path: Path, way: str) -> None:
    """Keras's train and validation are writers of one run; a writer that is never closed arrives to its last value."""
    script = (LOGS / "make.py").read_text()
    if way == "call":
        script = script.replace('if __name__ == "__main__":', "if True:\n    " + START.replace("\n", "\n    "))
    done = _tensorflow(
        tmp_path, script, "logs", env={} if way == "call" else {"TRACELET_BACKEND": "mlflow,trackio", "TRACELET_PROJECT": "p"},
        command=["-m", "tracelet_shim", "run", "--watch", "logs", "--", PYTHON] if way == "run" else [],
        watch="logs" if way == "environment" else None,
    )  # fmt: skip
    check(tmp_path / "logs", tmp_path)
    assert "is not listened to" not in done


@with_tensorflow
@pytest.mark.usefixtures("mlflow_store")
def test_nobody_watches(tmp_path: Path) -> None:
    """The end names the producer, the directory and the remedy; a program that writes nothing has nothing to say, or to open."""
    done = _tensorflow(tmp_path, (LOGS / "make.py").read_text(), "logs", env={"TRACELET_BACKEND": "mlflow"})
    (line,) = [line for line in done.splitlines() if line.startswith("tracelet-shim: ")]
    assert "what tf.summary has written in" in line
    assert "watch='logs" in line
    assert "tracelet-shim replay" in line
    done = _tensorflow(tmp_path, "import tensorflow", env={"TRACELET_BACKEND": "mlflow"}, watch="logs")
    assert "tracelet-shim" not in done


def _trackio(directory: Path) -> dict[str, str]:
    return {"TRACKIO_DIR": str(directory / "trackio")}


def _tensorflow(
    directory: Path, script: str, *args: str, env: dict[str, str], command: list[str] | None = None, watch: str | None = None
) -> str:
    (directory / "program.py").write_text(script)
    environment = {**os.environ, **_trackio(directory), **env, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if watch is not None:
        environment["TRACELET_WATCH"] = watch
    done = subprocess.run(
        [PYTHON, *(command or []), "program.py", *args], cwd=directory, env=environment, capture_output=True, text=True,
        timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr
