"""Every tracker x every event type x both hostings: written through SummaryWriter, read back from the tracker's store."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import program
from tests.conformance.suite import CHECKS, Conformance
from tracelet_shim.testing import Reader

READERS = {
    "tensorboard": "TensorBoardReader",
    "mlflow": "MLflowReader",
    "wandb": "WandbReader",
    "aim": "AimReader",
    "clearml": "ClearMLReader",
}
HOSTINGS = ("process", "thread")


def reader_class(tracker: str) -> type[Reader]:
    return getattr(importlib.import_module(f"tests.readers.{tracker}"), READERS[tracker])


def run_program(directory: Path, trackers: list[str], hosting: str) -> None:
    """Run the training program, untouched, under the environment of a CI job."""
    environment = dict(os.environ)
    for tracker in trackers:
        environment.update(reader_class(tracker).environment(directory / tracker))
        (directory / tracker).mkdir(parents=True, exist_ok=True)
    environment.update(
        TRACELET_BACKEND=",".join(trackers), TRACELET_PROJECT="conf", TRACELET_EXP_NAME="everything",
        TRACELET_DELIVERY=hosting, TRACELET_OFFLINE="1", TRACELET_STRICT="1", TRACELET_EXIT_TIMEOUT="120",
    )  # fmt: skip
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, program.__file__, str(directory / "runs" / "x")]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", params=[(t, h) for t in READERS for h in HOSTINGS], ids=lambda p: "-".join(p))
def conformance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Conformance:
    tracker, hosting = request.param
    directory = tmp_path_factory.mktemp(f"{tracker}-{hosting}")
    run_program(directory, [tracker], hosting)
    return Conformance(reader_class(tracker)(directory / tracker), float32=tracker == "tensorboard")


@pytest.mark.parametrize("check", CHECKS)
def test_tracker_has(conformance: Conformance, check: str) -> None:
    """The tracker's own store has what the check's docstring says."""
    getattr(conformance, check)()
