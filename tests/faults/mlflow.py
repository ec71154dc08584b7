"""What the tests of MLflow's real server share: a program that tells how far it is, what must be there, a proxy's moods."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.backends.mlflow.tracking import TRAINER, MLflowServer, log_in
from tests.faults import proxy as faulty
from tests.faults.harness import Training, eventually, losses

# A program that logs points, texts and pictures, and tells what the session says of them when a test asks.
PROGRAM = """
import json, threading
import torch

def mixed(start, stop):
    log(start, stop)
    for step in range(start, stop, 50):
        writer.add_text("note", f"text {step}", step)
        writer.add_image("picture", torch.full((3, 4, 4), step / 1000), step)

asked_about = None

def answer():
    while True:
        if os.path.exists("asked"):
            os.remove("asked")
            states = {name: [s.state, s.delivered, s.pending, s.failed, s.error] for name, s in asked_about.status().items()}
            Path("answer.new").write_text(json.dumps(states))
            os.replace("answer.new", "answer")
        time.sleep(0.02)

def talkative(session):
    "What a test asks for from now on is asked of this session."
    global asked_about
    first, asked_about = asked_about is None, session
    if first:
        threading.Thread(target=answer, daemon=True).start()
    return session

def attempt(number, **more):
    "One session of its own, into the same run; what has come of it is written down."
    began = time.monotonic()
    session = begin("mlflow", "tensorboard", run_id="r", **more)
    mixed(50 * number, 50 * number + 50)
    session.wait_opened()
    took = time.monotonic() - began
    yield session
    writer.close()
    try:
        session.stop()
        missing = None
    except tracelet.DeliveryError as error:  # strict
        missing = error.undelivered
    states = {name: [s.state, s.delivered, s.pending, s.failed, s.error] for name, s in session.status().items()}
    Path(f"attempt{number}").write_text(json.dumps([missing, took, states]))

def whole(number, **more):
    for _ in attempt(number, **more):
        pass
"""
EACH = 52
"""Events of 50 steps: the points, a text and a picture."""


def variables(project: str, uri: str) -> dict[str, str | None]:
    return {"TRACELET_PROJECT": project, "MLFLOW_TRACKING_URI": uri, **log_in(TRAINER)}


def status(program: Training, tracker: str = "mlflow") -> tuple[str, int, int, int, str]:
    """Return what the running session says now of a tracker: state, delivered, pending, failed, error."""
    answer = program.directory / "answer"
    answer.unlink(missing_ok=True)
    (program.directory / "asked").touch()
    eventually(answer.exists, pause=0.02)
    state, delivered, pending, failed, error = json.loads(answer.read_text())[tracker]
    return state, delivered, pending, failed, error or ""


def becomes(program: Training, right: Callable[[tuple[str, int, int, int, str]], bool], tracker: str = "mlflow") -> None:
    """Wait until what the session says of a tracker is right."""
    until = time.monotonic() + 90
    while not right(said := status(program, tracker)):
        assert time.monotonic() < until, f"it still says {said}\n{program.errors}"
        time.sleep(0.1)


def held(server: MLflowServer, project: str) -> int:
    """Return how many of the events the server holds."""
    files = server.files(project, None)
    return server.count(project) + sum(bool(re.search(r"^text/.*\.md$|^images/.*\.png$", name)) for name in files)


def check_everything(
    server: MLflowServer, project: str, steps: int, ended: str = "FINISHED", *, also: Sequence[int] | None = None
) -> None:
    """Every point is there, once, in one run; so are the texts and pictures of `mixed`, or of these steps."""
    check_run(server, server.only_run(project, ended), steps, also=also)


def check_run(server: MLflowServer, run: str, steps: int, *, also: Sequence[int] | None = None) -> None:
    """The same of a run by its id."""
    others = list(range(0, steps, 50)) if also is None else list(also)
    assert server.points_of(run) == losses(steps)
    files = server.files_of(run)
    texts = sorted(data.decode() for name, data in files.items() if re.search(r"^text/.*\.md$", name))
    assert texts == sorted(f"text {step}" for step in others)
    pictures = [int(step) for name in files for step in re.findall(r"^images/picture\+step\+(\d+)\+.*\.png$", name)]
    assert sorted(pictures) == others


def attempts(directory: Path, count: int) -> Iterator[tuple[dict[str, int] | None, float, dict[str, Any]]]:
    for number in range(count):
        yield json.loads((directory / f"attempt{number}").read_text())


class Switch:
    """What a proxy does at the moment: `now`, for requests whose line has `part` in it."""

    def __init__(self) -> None:
        self.well()

    def well(self) -> None:
        self.now: Callable[[int, str], faulty.Fault] = lambda number, line: None

    def __call__(self, number: int, line: str) -> faulty.Fault:
        return self.now(number, line)

    def ill(self, fault: faulty.Fault, part: str = "") -> None:
        self.now = lambda number, line: fault if part in line else None


class SlowAndTorn:
    """Of each kind of request, cut off the first answer before its first byte (a client that tries again by itself does so
    then), the second one in its middle, and every seventh; the others come late."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __call__(self, number: int, line: str) -> faulty.Fault:
        kind = re.split(r"[?]|/artifacts/", line)[0]
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        if count == 1:
            return faulty.Reset(0.0)
        return faulty.Reset(0.7) if count == 2 or count % 7 == 0 else faulty.Delay(0.05)
