"""The relay killed while a tracker opens its run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conformance.test_trackers import reader_class
from tests.faults.conftest import Train
from tests.faults.harness import eventually

MOMENTS = [
    ("aim", ".aim/run_metadata.sqlite"),
    ("aim", ".aim/meta/chunks/*"),
    ("aim", ".aim/seqs/chunks/*/CURRENT"),
    ("clearml", "offline/offline-*"),
    ("clearml", "offline/offline-*/task.json"),
    ("comet", "*.part"),  # from experiment.json on it is an archive of the experiment, which may have several
    ("dvclive", "run"),
    ("dvclive", "dvclive/*/*"),
    ("mlflow", "*mlflow.db*"),
    ("swanlab", "run-*"),
    ("swanlab", "run-*/run-*.swanlab"),
    ("trackio", "trackio"),
    ("trackio", "trackio/*.db"),
    ("wandb", "wandb/offline-run-*"),
    ("wandb", "wandb/offline-run-*/run-*.wandb"),
]

PLACES = {
    "clearml": ["offline/offline-*[0-9a-f]"],
    "comet": ["*.part", "*.zip"],
    "dvclive": ["run", "dvclive/p/*", "dvclive/p/.*"],
    "swanlab": ["run-*"],
    "wandb": ["wandb/offline-run-*"],
}
"""Where each run has a place of its own."""


@pytest.mark.parametrize(("tracker", "moment"), MOMENTS)
def test_relay_that_is_killed_while_it_opens_a_run_leaves_one(
    train: Train, tmp_path: Path, tracker: str, moment: str
) -> None:
    """Killed as soon as the first thing of the run is on disk, the relay's successor opens the same run, and nothing else is
    there: no second run, and no rest of the first try."""
    reader = reader_class(tracker)
    environment: dict[str, str | None] = {**reader.environment(tmp_path)}
    if moment.startswith("dvclive"):
        environment["TRACELET_DVCLIVE_DIR"] = None
    program = train(
        f"""
begin({tracker!r}, project="p", exit_timeout=240)
log(0, 20)
reach("logged"); wait_for("killed")
log(20, 40)
""",
        env=environment,
        exit_timeout=240,
    )
    relay = program.relay()
    eventually(lambda: any(True for _ in tmp_path.glob(moment)), pause=0.0005)
    os.kill(relay, signal.SIGKILL)
    program.go("killed")
    assert program.end(40, seconds=400).count("starting it again") == 1
    read = reader(tmp_path)
    assert len(read.run_ids()) == 1
    assert sorted(point.step for point in read.scalars("", "loss")) == list(range(40))
    if tracker in PLACES:
        assert len([path for pattern in PLACES[tracker] for path in tmp_path.glob(pattern)]) == 1
