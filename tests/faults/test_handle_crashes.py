"""Programs and relays that are killed in the middle of a session's own methods: what has returned is in each tracker, once."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.backends.aim.reader import AimReader
from tests.backends.mlflow.reader import MLflowReader
from tests.backends.tensorboard.reader import TensorBoardReader
from tests.conftest import RunPython
from tests.delivery.programs import eventually, relays
from tests.replay.commands import tracelet_shim
from tracelet_shim.testing import Reader

_EACH_CHANGE, _EACH_NIGHT = 3, 43  # the first three are the three things that can be killed
TRACKERS = ("mlflow", "aim", "tensorboard")
KINDS = ("params", "metrics", "table", "artifact", "tags", "used")

PROGRAM = """
import json, os, signal, sys, time
import tracelet_shim as tracelet
import tracelet_shim.session.session, tensorboard.compat.proto.event_pb2
from torch.utils.tensorboard import SummaryWriter

plan = json.loads(PLAN)
ours = os.path.dirname(tracelet.__file__)
notes = os.open("notes", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
session = tracelet.start_logging(TRACKERS, project="p", exp_name="e", tags=["crash"], quiet=True, exit_timeout=90)

def kill():
    sys.settrace(None)
    relays = [part.bus.relay_pid for part in session._bus._parts]
    if "relay" in plan["kills"]:
        [os.kill(pid, signal.SIGKILL) for pid in relays if pid is not None]
    if "program" in plan["kills"]:
        os.kill(os.getpid(), signal.SIGKILL)

lines = 0
def trace(frame, event, arg):
    global lines
    if not frame.f_code.co_filename.startswith(ours):
        return None
    lines += event == "line"
    if lines == plan["line"]:
        lines += 1
        kill()
    return trace

def call(number, kind):
    if kind == "params":
        session.log_params({f"p{number}": f"v{number}"})
    elif kind == "metrics":
        session.log_metrics({"m": number / 7}, step=number)
    elif kind == "table":
        session.log_table(f"t{number}", [{"a": number, "b": f"x{number}"}], step=number if number % 2 else None)
    elif kind == "tags":
        session.set_tags({f"g{number}": f"v{number}"})
    elif kind == "used":
        session.use_artifact("first")
    elif kind == "writer":
        with SummaryWriter("runs/x") as writer:
            writer.add_scalar("loss", number / 7, number)
    else:
        with open("a.bin", "wb") as file:
            file.write(b"%d" % number * 10_000)
        session.log_artifact("a.bin", f"f{number}")
        with open("a.bin", "wb") as file:
            file.write(b"overwritten")

with open("first", "w") as file:
    file.write("first")
session.log_artifact("first")
for number, kind in enumerate(plan["calls"]):
    if number == plan["call"]:
        sys.settrace(trace)
    call(number, kind)
    if number == plan["call"]:
        sys.settrace(None)
        if lines < plan["line"]:
            kill()
    os.write(notes, b"%d\\n" % number)
    time.sleep(plan["pause"])
tracelet.stop_logging()
"""


def plan_of(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    steps = seed % 3 == 0  # metrics from the first call on: nothing waits
    calls = [rng.choice(KINDS if steps else [kind for kind in KINDS if kind != "metrics"]) for _ in range(14)]
    if seed % 2:
        calls[rng.randrange(14)] = "writer"
    call = rng.randrange(14)
    kills = ("program", "program relay", "relay")[rng.randrange(3)] if seed >= 3 else ("program", "program relay", "relay")[seed]
    return {"calls": calls, "call": call, "line": int(300 ** rng.random()), "kills": kills, "pause": rng.choice([0.0, 0.1])}


def there(reader: Any, number: int, kind: str) -> int:
    """Return how often the data of a call is in a tracker; what is there must be right."""
    if kind == "params":
        found = [value for name, value in reader.params().items() if name == f"p{number}"]
        wanted: Any = f"v{number}"
    elif kind == "metrics":
        found = [round(point.value, 6) for point in reader.scalars("", "m") if point.step == number]
        wanted = round(number / 7, 6)  # TensorBoard has float32
    elif kind == "writer":
        found = [round(point.value, 6) for point in reader.scalars("", "loss") if point.step == number]
        found += [round(point.value, 6) for point in reader.scalars("runs/x", "loss") if point.step == number]
        wanted = round(number / 7, 6)
    elif kind == "table":
        found = [[str(cell) for row in rows for cell in row] for _, _, rows in reader.tables("", f"t{number}")]
        wanted = [str(number), f"x{number}"]
    elif kind == "tags":
        found = [value for name, value in reader.tags().items() if name == f"g{number}"]
        wanted = f"v{number}"
    else:
        found = list(reader.artifact(f"f{number}").values())
        wanted = b"%d" % number * 10_000
    assert [one for one in found if one != wanted] == [], (reader.backend, number, kind)
    return len(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[pytest.mark.nightly] * (seed >= _EACH_CHANGE)) for seed in range(_EACH_CHANGE + _EACH_NIGHT)],
)
def test_everything_is_there_once(run_python: RunPython, tmp_path: Path, seed: int) -> None:
    """What a method has returned from is in MLflow, Aim and TensorBoard once, files as they were at the call; what it was killed
    in is there once or not at all. Nothing has to be resumed where the relay lived, and one resumed delivery brings the rest
    where it did not. No copy of a file is left."""
    plan = plan_of(seed)
    print(plan)
    script = PROGRAM.replace("PLAN", repr(json.dumps(plan))).replace("TRACKERS", repr(TRACKERS))
    run_python(script, check="program" not in plan["kills"])
    eventually(lambda: not relays(tmp_path), 120)
    roots = [root for root in (".", "runs/x") if list((tmp_path / root / ".tracelet").glob("**/*.tracelet-*"))]
    for root in roots:
        said = tracelet_shim("replay", root, "--resume")
        if plan["kills"] != "program relay":
            assert "nothing to resume" in said, said
    noted = {int(line) for line in (tmp_path / "notes").read_text().split()} if (tmp_path / "notes").exists() else set()
    if not plan["kills"].startswith("program"):
        assert len(noted) == len(plan["calls"])
    readers: list[Reader] = [MLflowReader(tmp_path), AimReader(tmp_path), TensorBoardReader(tmp_path / "tracelet-runs")]
    for reader in readers:
        for number, kind in enumerate(plan["calls"]):
            if kind != "used":
                count = there(reader, number, kind)
                wanted = {1} if number in noted else {0, 1} if number == plan["call"] else {0}
                assert count in wanted, (reader.backend, number, kind)
    assert not list(tmp_path.rglob("*.tracelet-waiting"))
    assert not list(tmp_path.rglob("*.files"))
