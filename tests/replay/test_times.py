"""A run takes as long as its events, not as long as their delivery."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.replay.commands import tracelet_shim

BEGIN, END = 1_560_000_000, 1_560_000_240
TRACKERS = ("mlflow", "aim", "tensorboard", "dvclive", "wandb", "clearml", "comet", "swanlab", "trackio")


def iso(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}"


def text_in(pattern: str, top: Path) -> str:
    """Return what a store has, as text: of an archive all that is in it."""
    (path,) = top.glob(pattern)
    if path.suffix != ".zip":
        return path.read_bytes().decode("latin-1")
    with zipfile.ZipFile(path) as archive:
        return "\n".join(archive.read(name).decode("latin-1") for name in archive.namelist())


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def times(tracker: str, here: Path, home: Path) -> tuple[object, object]:
    """Return when a tracker's run began and ended, from its own store, in the form that it has there."""
    if tracker == "mlflow":
        ((begin, end),) = rows(here / "mlflow.db", "SELECT start_time, end_time FROM runs")
        return int(begin) / 1000, int(end) / 1000
    if tracker == "aim":
        from aim import Repo

        (run,) = Repo(str(here)).iter_runs()
        return run.props.creation_time, run.end_time
    if tracker == "comet":
        about = json.loads(re.search(r'\{"offline_id".*?\}', text_in("*.zip", home / "comet"))[0])
        return about["start_time"] / 1000, about["stop_time"] / 1000
    if tracker in ("tensorboard", "dvclive"):
        top = here / ("tracelet-runs" if tracker == "tensorboard" else "dvclive")
        about = json.loads((top / "p" / "old" / "run.json").read_text())
        return about["started"], about["ended"]
    if tracker == "swanlab":
        from tests.backends.swanlab.reader import SwanLabReader

        run = SwanLabReader(here / "swanlog").run
        return run.start.started_at.seconds, run.finish.finished_at.seconds
    if tracker == "trackio":
        ((config,),) = rows(home / "trackio" / "p.db", "SELECT config FROM configs")
        found = json.loads(config)
        return found["_Created"][:19], found["tracelet/ended"][:19]
    pattern, top = ("offline-run-*/*.wandb", here / "wandb") if tracker == "wandb" else ("offline/*.zip", home / "clearml")
    return tuple(sorted(set(re.findall(r"2019-06-08T[0-9:]{8}(?=Z)", text_in(pattern, top)))))


def test_a_replayed_run_has_the_times_of_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of 2019 becomes runs of four minutes in 2019, in each tracker; its file, and its delivery, are of today."""
    from torch.utils.tensorboard import SummaryWriter

    home = tmp_path / "home"
    for name, place in (
        ("TRACKIO_DIR", "trackio"), ("COMET_OFFLINE_DIRECTORY", "comet"), ("CLEARML_CACHE_DIR", "clearml"),
    ):  # fmt: skip
        monkeypatch.setenv(name, str(home / place))
    with SummaryWriter("logs") as writer:
        for step in range(5):
            writer.add_scalar("loss", step / 7, step, walltime=BEGIN + 60 * step)
    said = tracelet_shim(
        *("replay", "logs", "--backend", ",".join(TRACKERS), "--project", "p", "--exp-name", "old", "--offline"),
        *("--timeout", "200"),
    )
    assert said.count("5 events delivered, 0 pending, 0 set aside") == len(TRACKERS)
    found = {tracker: times(tracker, tmp_path, home) for tracker in TRACKERS}
    assert found == {
        tracker: (iso(BEGIN), iso(END)) if tracker in ("wandb", "clearml", "trackio") else (BEGIN, END) for tracker in TRACKERS
    }


def test_a_live_run_does_not_last_its_drain(tmp_path: Path, run_python: RunPython) -> None:
    """A run ends when its program asks for the end, however long the delivery of the rest takes."""
    script = """
import os, signal, threading, time
import tracelet_shim
from torch.utils.tensorboard import SummaryWriter
session = tracelet_shim.start_logging(backend="mlflow", exit_timeout=200)
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 1.0, 1)
assert session.flush(200)
relay = session._bus._parts[0].bus._channel._now._process.pid
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 2.0, 2)
os.kill(relay, signal.SIGSTOP)
threading.Timer(3, os.kill, (relay, signal.SIGCONT)).start()
print(time.time())
tracelet_shim.stop_logging()
print(time.time())
"""
    asked, done = map(float, run_python(script, timeout=280).stdout.split())
    ((end, points),) = rows(tmp_path / "mlflow.db", "SELECT end_time, (SELECT COUNT(*) FROM metrics) FROM runs")
    assert points == 2
    assert abs(int(end) / 1000 - asked) < abs(int(end) / 1000 - done)
