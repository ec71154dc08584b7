"""Directories that are watched: what a producer of which nobody knows writes there arrives, once, whatever ends first.

The producer here writes TFRecord frames by itself; `tests/intercept/test_tensorflow.py` has TensorFlow and Keras.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunPython
from tests.delivery.programs import CHEAP, eventually, relays, tensorboard_steps
from tests.replay.commands import tracelet_shim
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.relay.dispatcher import Relay
from tracelet_shim.testing import RecordingBackend

PRODUCER = """
import os, signal, struct, time
import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

def crc(data):
    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)

def frame(event):
    data = event.SerializeToString()
    size = struct.pack("<Q", len(data))
    return size + crc(size) + data + crc(data)

class Producer:
    made = 0

    def __init__(self, logdir, created=None, pid=None):
        os.makedirs(logdir, exist_ok=True)
        created = int(created or time.time())
        self.path = f"{logdir}/events.out.tfevents.{created}.here.{pid or 1}.{Producer.made}.v2"
        Producer.made += 1
        self.file = open(self.path, "ab", buffering=0)
        self.file.write(frame(Event(wall_time=created, file_version="brain.Event:2")))

    def log(self, n, start=0, tag="loss", wall_time=None):
        for i in range(start, start + n):
            event = Event(wall_time=wall_time or time.time(), step=i)
            event.summary.value.add(tag=tag, simple_value=i / 7)
            self.file.write(frame(event))
"""
OLD = """
old = Producer("logs/train", 1_600_000_000)
old.log(7, wall_time=1_600_000_000.0)
os.utime(old.path, (1_600_000_000, 1_600_000_000))
untouched = Producer("logs/earlier", 1_600_000_000)
untouched.log(7, wall_time=1_600_000_000.0)
os.utime(untouched.path, (1_600_000_000, 1_600_000_000))
"""
BEGIN = "s = session(watch='logs')\n"
LOG = PRODUCER + CHEAP


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@pytest.mark.usefixtures("mlflow_store")
def test_live_into_one_run(run_python: RunPython, tmp_path: Path) -> None:
    """What grows and what is new arrives while the program runs, in MLflow and Trackio, with the values of the file; parts of one
    run are writers of it; a writer of torch's in the same directory is delivered once, exactly."""
    run_python(
        PRODUCER + OLD + "import tracelet_shim as tracelet\n"
        "s = tracelet.start_logging(backend=['mlflow', 'trackio'], watch='logs', project='p', exp_name='e',\n"
        "    root='logs')\nfrom torch.utils.tensorboard import SummaryWriter\n"
        "train, validation = Producer('logs/train'), Producer('logs/validation')\n"
        "writer = SummaryWriter('logs/torch')\n"
        "train.log(20); validation.log(10); old.log(3, 7)\n"
        "for i in range(5): writer.add_scalar('exact', i / 7, i)\n"
        "assert s.flush(60)\n"
        "from mlflow import MlflowClient\n"
        "history = lambda tag: MlflowClient().get_metric_history(s.run_ids['mlflow'], tag)\n"
        "assert len(history('train/loss')) == 23, len(history('train/loss'))\n"
        "train.log(20, 20); writer.close()\n",
        env={"TRACKIO_DIR": str(tmp_path / "trackio")},
    )
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        rows = db.execute("SELECT key, step, value FROM metrics ORDER BY rowid").fetchall()
    found = {key: sorted((step, value) for k, step, value in rows if k == key) for key, *_ in rows}
    assert found.pop("torch/exact") == [(i, i / 7) for i in range(5)]
    train = [(i, float32(i / 7)) for i in range(40)] + [(i, float32(i / 7)) for i in range(7, 10)]
    assert found.pop("train/loss") == sorted(train)
    assert found.pop("validation/loss") == [(i, float32(i / 7)) for i in range(10)]
    assert found == {}
    with sqlite3.connect(next((tmp_path / "trackio").glob("p*.db"))) as db:
        stored = [json.loads(metrics) for (metrics,) in db.execute("SELECT metrics FROM metrics")]
    assert sorted(row["train/loss"] for row in stored if "train/loss" in row) == sorted(value for _, value in train)
    assert [row["torch/exact"] for row in stored if "torch/exact" in row] == [i / 7 for i in range(5)]


@pytest.mark.parametrize("killed", [False, True])
def test_read_to_the_end(run_python: RunPython, tmp_path: Path, killed: bool) -> None:
    """The end waits for what was written last, by another process too; after a kill the relay reads on by itself."""
    done = run_python(
        LOG + OLD + BEGIN + "a = Producer('logs/train')\na.log(50)\nassert s.flush(60)\n"
        "if os.fork() == 0:\n    Producer('logs/train').log(25, 100)\n    os._exit(0)\n"
        "os.wait()\na.log(50, 50)\n" + ("os.kill(os.getpid(), signal.SIGKILL)" if killed else ""),
        check=not killed,
    )
    eventually(lambda: not relays(tmp_path))
    status = "failed" if killed else "finished"
    assert _ends(tmp_path) == [(status, name, 125, "closed") for name in ("dvclive", "tensorboard")], done.stderr
    assert sorted(tensorboard_steps(tmp_path)) == list(range(125))
    assert "125" in tracelet_shim("status", "logs")


def test_both_are_killed(run_python: RunPython, tmp_path: Path) -> None:
    """What nobody had taken is there for ``--resume``: of files that are known, of old ones that have grown, of new ones; what a
    later program writes is not."""
    run_python(
        LOG + OLD + BEGIN + "a = Producer('logs/train')\na.log(50)\nassert s.flush(60)\ntime.sleep(2.5)\n"
        "relay = s._bus._parts[0].bus.relay_pid\nos.kill(relay, signal.SIGSTOP)\n"
        "a.log(10, 50); untouched.log(5, 200); Producer('logs/validation').log(5, 300)\n"
        "Producer('logs/validation', time.time() + 1000).log(5, 900)\n"
        "os.kill(relay, signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGKILL)",
        check=False,
    )
    eventually(lambda: not relays(tmp_path))
    assert "20" in tracelet_shim("status", "logs")
    tracelet_shim("replay", "logs", "--resume")
    assert sorted(tensorboard_steps(tmp_path)) == [*range(60), *range(200, 205), *range(300, 305)]
    tracelet_shim("replay", "logs", "--resume")
    assert len(tensorboard_steps(tmp_path)) == 70


def test_the_relay_is_killed(run_python: RunPython, tmp_path: Path) -> None:
    """Its successor goes on where it was, with no writer of the program to tell it where that is."""
    run_python(
        LOG + OLD + BEGIN + "a = Producer('logs/train')\na.log(50)\nassert s.flush(60)\ntime.sleep(1)\n"
        "os.kill(s._bus._parts[0].bus.relay_pid, signal.SIGKILL)\n"
        "a.log(50, 50)\nuntouched.log(5, 200)\ntime.sleep(1)\nassert s.flush(60)\na.log(10, 100)",
    )
    assert sorted(tensorboard_steps(tmp_path)) == [*range(110), *range(200, 205)]


def test_what_cannot_be_read_is_said(run_python: RunPython, tmp_path: Path) -> None:
    """A link that leads elsewhere, a damaged record, one without an end are no crash; what is whole arrives. A directory in
    which nothing appears is said too."""
    (tmp_path / "elsewhere").mkdir()
    done = run_python(
        LOG + BEGIN + "far, a, b, c = (Producer(d) for d in ('elsewhere', 'logs/a', 'logs/b', 'logs/c'))\n"
        "for p in (far, a, b, c): p.log(3)\n"
        "os.symlink(os.path.abspath(far.path), 'logs/a/events.out.tfevents.9999999999.far')\n"
        "b.file.write(b'x' * 40); b.log(3, 3)\n"
        "c.file.write(b'\\3')\n"
    )
    assert "leads to" in done.stderr
    assert "the checksum of a record's length is wrong" in done.stderr
    assert done.stderr.count("watched: ") == 2
    assert len(tensorboard_steps(tmp_path)) == 9
    done = run_python(LOG + "session(watch='nowhere')")
    assert f"no event file appeared or grew in {tmp_path}/nowhere" in done.stderr


def test_environment(run_python: RunPython, tmp_path: Path) -> None:
    """A producer that nobody knows: what this process has written, as its name tells, arrives at the end. What another one writes
    opens no run."""
    environment = {"TRACELET_BACKEND": "tensorboard", "TRACELET_WATCH": "logs"}
    run_python(PRODUCER + "Producer('logs/train', pid=os.getpid() + 1).log(5)", env=environment)
    assert not (tmp_path / "tracelet-runs").exists()
    run_python(PRODUCER + "Producer('logs/train', pid=os.getpid()).log(5, 100)", env=environment)
    assert sorted(set(tensorboard_steps(tmp_path))) == list(range(100, 105))


def test_a_writer_that_is_heard_of_late(tmp_path: Path) -> None:
    """What was taken from its file before is left out of what it sends; and counts as the program's."""
    producer: dict[str, Any] = {}
    exec(PRODUCER, producer)
    made = producer["Producer"](str(tmp_path / "logs"))
    made.log(5)
    path = Path(made.path)
    backend = RecordingBackend()
    relay = Relay(lambda _: None, {"recording": backend})
    program = Program(script=None, module=None, argv=("x",), cwd=str(tmp_path), executable="", pid=1, host="h")
    run = RunInfo(session="a" * 16, program=program, started=0.0, what_ran=())
    specs = [msg.BackendSpec("recording", "", {})]
    relay.handle(msg.Open(run, specs, 10**8, None, watch=[str(tmp_path / "logs")], since=1.0))
    eventually(lambda: relay.tick() is None and bool(relay.taken), 30)
    relay.handle(msg.Source(0, str(path), str(path.parent)))
    relay.handle(msg.Records([msg.Record(0, position, b"") for position in range(1, 6)]))
    assert relay.records == 5
    relay.handle(msg.Close("finished", 30.0))
    eventually(lambda: relay.tick() is None and relay.closed, 30)
    assert [event.step for event in backend.events if event.tag == "loss"] == list(range(5))


def test_what_the_session_logs_itself(run_python: RunPython, tmp_path: Path) -> None:
    """It belongs to the run as ever, where the root is known from a file that was found, and the program has no writer."""
    run_python(LOG + BEGIN + "Producer('logs/train').log(5)\nassert s.flush(60)\ns.log_metrics({'acc': 0.5}, step=1)")
    assert {path.name for path in (tmp_path / "dvclive").rglob("*.tsv")} == {"acc.tsv", "loss.tsv"}
    (found,) = (tmp_path / "dvclive").rglob("acc.tsv")
    assert found.parent.name == "metrics"


def test_a_program_that_cannot_watch(tmp_path: Path) -> None:
    """Below ``run``, a command that is no Python with this package opens no run; what helps is said."""
    said = tracelet_shim("run", "--backend", "tensorboard", "--watch", "logs", "--watch", "more", "--", "true")
    assert "no run was opened" in said
    for name in ("logs", "more"):
        assert f"tracelet-shim replay {tmp_path}/{name} --backend tensorboard" in said


def _ends(directory: Path) -> list[tuple[Any, ...]]:
    """Return (status, tracker, delivered, state), as the ledger has it."""
    with sqlite3.connect(directory / "logs/.tracelet/ledger.db") as db:
        return db.execute(
            "SELECT s.status, backend, delivered, state FROM runs JOIN sessions s ON s.id = session ORDER BY backend"
        ).fetchall()
