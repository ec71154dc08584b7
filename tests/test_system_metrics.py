"""System metrics: measured by psutil on this machine, read back from MLflow's database and from event files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing import io_wrapper

from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import LOG, eventually, relays
from tests.replay.commands import tracelet_shim
from tracelet_shim import errors
from tracelet_shim.provenance.gpus import Gpus
from tracelet_shim.session.settings import resolve

pytestmark = pytest.mark.usefixtures("mlflow_store")

EVERYWHERE = {
    "system/cpu.percent", "system/memory.percent", "system/disk.free.gb", "system/process.cpu.percent",
    "system/process.memory.mb",
}  # fmt: skip
WAIT = """
def wait(samples):
    # until MLflow has so many points of a system metric; counted, not timed
    import sqlite3
    count = 0
    while count < samples:
        time.sleep(0.05)
        try:
            with sqlite3.connect("mlflow.db") as db:
                query = "SELECT COUNT(*) FROM metrics WHERE key = 'system/cpu.percent'"
                count = db.execute(query).fetchone()[0]
        except sqlite3.OperationalError:  # being made
            pass
"""
PROGRAM = LOG + WAIT


def points(directory: Path, database: str = "mlflow.db") -> dict[str, list[tuple[int, float, int]]]:
    """Return, by key of the system's, MLflow's (step, value, milliseconds) in the order in which they were stored."""
    with sqlite3.connect(directory / database) as db:
        rows = db.execute(
            "SELECT key, step, value, timestamp FROM metrics WHERE key LIKE 'system/%' ORDER BY rowid"
        ).fetchall()
    found: dict[str, list[tuple[int, float, int]]] = {}
    for key, *point in rows:
        found.setdefault(key, []).append(tuple(point))
    return found


def scalars(directory: Path) -> list[tuple[str, int]]:
    """Return (tag, step) of all scalars in the event files of a directory, by TensorBoard's own loader."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    return [
        (value.tag, event.step)
        for pattern in ("*tfevents*", "*.tracelet-records")
        for path in sorted(directory.glob(pattern))
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load())
        for value in event.summary.value
    ]


@pytest.mark.parametrize("hosting", each_change(("process", "thread"), "process"))
def test_samples_arrive_beside_the_data(run_python: RunPython, tmp_path: Path, hosting: str) -> None:
    """Each tracker has each sample once, under system/, at seconds since the start; the native event files have none, and
    the program's own data is complete."""
    run_python(PROGRAM + f"session(system_metrics=0.1, delivery={hosting!r}, strict=True)\nw = log(50)\nwait(4)\nlog(50, w, 50)")
    found = points(tmp_path)
    assert set(found) >= EVERYWHERE
    count = len(found["system/cpu.percent"])
    assert count >= 4
    assert {key: len(found[key]) for key in EVERYWHERE} == dict.fromkeys(EVERYWHERE, count)
    for key in ("system/cpu.percent", "system/memory.percent"):
        assert all(0 <= value <= 100 for _, value, _ in found[key])
    times = [milliseconds for *_, milliseconds in found["system/cpu.percent"]]
    steps = [step for step, *_ in found["system/cpu.percent"]]
    assert times == sorted(set(times))
    assert all(0 <= step - (now - times[0]) // 1000 <= 1 + steps[0] for step, now in zip(steps, times, strict=True))
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert db.execute("SELECT COUNT(*), COUNT(DISTINCT step) FROM metrics WHERE key = 'loss'").fetchone() == (100, 100)
    copied = scalars(tmp_path / "tracelet-runs" / "p" / "e" / "system")
    assert sorted(copied) == sorted((key.removeprefix("system/"), p[0]) for key, points in found.items() for p in points)
    assert {tag for tag, _ in scalars(tmp_path / "runs" / "x")} == {"loss"}


def test_the_program_is_measured_with_its_children(run_python: RunPython, tmp_path: Path) -> None:
    """Memory is that of the training and its child processes, the relay and its trackers left out."""
    done = run_python(
        PROGRAM
        + """
import psutil, subprocess
child = subprocess.Popen([sys.executable, "-c", "data = b'x' * 300_000_000; print('ready', flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
session(system_metrics=0.2)
w = log(5)
wait(3)
print(sum(p.memory_info().rss for p in (psutil.Process(), psutil.Process(child.pid))) / 1e6)
child.communicate(b"end")
"""
    )
    largest = max(value for _, value, _ in points(tmp_path)["system/process.memory.mb"])  # the last may be without the child
    assert abs(largest - float(done.stdout)) < 100  # the child and the relay with MLflow in it both take more


def test_values_keep_their_float64(run_python: RunPython, tmp_path: Path) -> None:
    """A percentage has one decimal, as psutil gives it, not the float32 of the event file."""
    run_python(PROGRAM + "session(system_metrics=0.1)\nw = log(5)\nwait(3)")
    for _, value, _ in points(tmp_path)["system/memory.percent"]:
        assert value == round(value, 1)


def test_off_unless_asked_for(run_python: RunPython, tmp_path: Path) -> None:
    """With 0, as by default, nothing is sampled, and no file is made."""
    run_python(LOG + "session()\nlog(5)", env={"TRACELET_SYSTEM_METRICS": "0"})
    assert points(tmp_path) == {}
    assert not (tmp_path / "runs" / "x" / ".tracelet" / "system").exists()


def test_a_relay_that_is_killed_goes_on_sampling(run_python: RunPython, tmp_path: Path) -> None:
    """Its successor has the samples of both, in their order, none twice, and the program's data is complete."""
    run_python(
        PROGRAM
        + """
s = session(system_metrics=0.1)
w = log(300)
wait(3)
assert s.flush(60)
os.kill(s._bus._parts[0].bus.relay_pid, signal.SIGKILL)
log(300, w, 300)
assert s.flush(60)  # a call, by which the end of the relay is seen
with __import__("sqlite3").connect("mlflow.db") as db:
    before = db.execute("SELECT COUNT(*) FROM metrics WHERE key = 'system/cpu.percent'").fetchone()[0]
wait(before + 3)
assert s.flush(60), s.status()
"""
    )
    found = points(tmp_path)
    times = [milliseconds for *_, milliseconds in found["system/cpu.percent"]]
    assert times == sorted(set(times))
    files = sorted((tmp_path / "runs" / "x" / ".tracelet" / "system").glob("*.tracelet-records"))
    assert len(files) == 2
    assert len(times) == sum(tag == "cpu.percent" for tag, _ in scalars(files[0].parent))
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert db.execute("SELECT COUNT(*), COUNT(DISTINCT step) FROM metrics WHERE key = 'loss'").fetchone() == (600, 600)


def test_samples_are_resumed_and_replayed(run_python: RunPython, tmp_path: Path) -> None:
    """What a tracker that was down has not got, `--resume` delivers; and a replay into another tracker has it too. Meanwhile
    it is kept where TensorBoard makes no run of it."""
    done = run_python(
        PROGRAM
        + """
s = session(system_metrics=0.1, options={"mlflow": {"tracking_uri": "http://127.0.0.1:9"}}, exit_timeout=4)
w = log(50)
while s.status()["tensorboard"].delivered < 100:
    time.sleep(0.05)
""",
    )
    assert "replay" in done.stderr
    assert set(io_wrapper.GetLogdirSubdirectories(str(tmp_path / "runs"))) == {str(tmp_path / "runs" / "x")}, "TensorBoard's runs"
    kept = scalars(tmp_path / "runs" / "x" / ".tracelet" / "system")
    assert len(kept) >= 50
    tracelet_shim("replay", str(tmp_path / "runs" / "x"), "--resume", TRACELET_MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    uri = "sqlite:///other.db"
    tracelet_shim("replay", str(tmp_path / "runs" / "x"), "--backend", "mlflow", TRACELET_MLFLOW_TRACKING_URI=uri)
    for database in ("mlflow.db", "other.db"):
        found = points(tmp_path, database)
        stored = [(key.removeprefix("system/"), step) for key, of_key in found.items() for step, *_ in of_key]
        assert sorted(stored) == sorted(kept), database


def test_sampling_ends_with_the_training(run_python: RunPython, tmp_path: Path) -> None:
    """After SIGKILL of the training, the relay delivers what it has and is gone."""
    run_python(PROGRAM + "session(system_metrics=0.1)\nw = log(5)\nwait(3)\nos.kill(os.getpid(), signal.SIGKILL)", check=False)
    eventually(lambda: not relays(tmp_path))
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert db.execute("SELECT status FROM runs").fetchall() == [("FAILED",)]


def test_without_a_place_for_state(run_python: RunPython, tmp_path: Path) -> None:
    """Where no state can be kept, samples are delivered all the same."""
    (tmp_path / "taken").touch()
    env = {"TRACELET_STATE_DIR": str(tmp_path / "taken" / "state")}
    done = run_python(PROGRAM + "session(system_metrics=0.1)\nw = log(5)\nwait(3)", env=env)
    assert done.stderr.count("no state can be kept") == 1
    assert set(points(tmp_path)) >= EVERYWHERE


WITHOUT = "import sys\nsys.modules['psutil'] = None\n"
LINE = "system_metrics needs psutil, which is not installed; remedy: pip install 'tracelet-shim[system]'"


def test_without_psutil_a_call_is_an_error(run_python: RunPython) -> None:
    """What can be known at once is said at once, with the remedy."""
    done = run_python(WITHOUT + LOG + "session(system_metrics=1)", check=False)
    assert done.stderr.endswith(f"ConfigurationError: {LINE}\n")


def test_without_psutil_the_environment_gets_one_line(run_python: RunPython, tmp_path: Path) -> None:
    """Under environment activation the rest goes on."""
    env = {"TRACELET_BACKEND": "mlflow", "TRACELET_SYSTEM_METRICS": "1"}
    done = run_python(
        WITHOUT + "from torch.utils.tensorboard import SummaryWriter\nSummaryWriter('runs/x').add_scalar('loss', 1, 1)", env=env
    )
    assert done.stderr.count(LINE) == 1
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert db.execute("SELECT key, value FROM metrics").fetchall() == [("loss", 1.0)]


@pytest.mark.parametrize("given", ["10", 10, 10.0])
def test_how_the_interval_is_given(given: Any) -> None:
    """Seconds, as a number or a text."""
    assert resolve({"system_metrics": given}, (), {}).system_metrics == 10.0


@pytest.mark.parametrize("given", [-1, "0.01", "often", float("nan")])
def test_an_interval_that_cannot_be(given: Any) -> None:
    """It names the value."""
    with pytest.raises(errors.ConfigurationError, match=r"system_metrics=.* cannot be used"):
        resolve({"system_metrics": given}, (), {})


def test_a_machine_without_gpus() -> None:
    """Without driver or library there is nothing to tell, and nothing fails."""
    probe = [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        pytest.skip("this machine has GPUs")
    gpus = Gpus()
    assert (gpus.describe(), list(gpus.sample()), gpus.problem) == ({}, [], None)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's answers, in its own units, where there is no GPU to give them; the second GPU does not know its power."""
    import pynvml

    def power(device: int) -> int:
        if device:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 70_500

    answers = {
        "nvmlInit": lambda: None, "nvmlDeviceGetCount": lambda: 2, "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlSystemGetDriverVersion": lambda: b"550.1", "nvmlSystemGetCudaDriverVersion_v2": lambda: 12040,
        "nvmlDeviceGetName": lambda d: b"NVIDIA T4" if d else "NVIDIA T4", "nvmlDeviceGetTemperature": lambda d, sensor: 61,
        "nvmlDeviceGetUtilizationRates": lambda d: SimpleNamespace(gpu=37, memory=1),
        "nvmlDeviceGetMemoryInfo": lambda d: SimpleNamespace(used=4_000_000_000, total=16_000_000_000),
        "nvmlDeviceGetPowerUsage": power,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


def test_gpus_in_plain_units(two_gpus: None) -> None:
    """Percent, megabytes, degrees and watts; what a GPU does not know is left out."""
    assert Gpus().describe() == {
        "driver": "550.1", "cuda": "12.4", "devices": [{"name": "NVIDIA T4", "memory": 16_000_000_000}] * 2
    }  # fmt: skip
    first = {"percent": 37.0, "memory.mb": 4000.0, "memory.percent": 25.0, "celsius": 61.0, "watts": 70.5}
    expected = {f"gpu.{i}.{name}": value for i in (0, 1) for name, value in first.items() if (i, name) != (1, "watts")}
    assert dict(Gpus().sample()) == expected
