"""Backends of third parties that hang or refuse, in both hostings."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from tests.faults.conftest import Train
from tests.faults.harness import copied_steps

# Beside the script, and so on the relay's import path too; found by its metadata, as an installed package is.
MODULE = '''
import json, time
from tracelet_shim.errors import EventRejectedError
from tracelet_shim.testing import RecordingBackend

class Writing(RecordingBackend):
    """Appends the step of each event to a file."""

    def write(self, events):
        self.written = 0
        with open(self.name + ".jsonl", "a") as file:
            for event in events:
                self.take(event)
                file.write(json.dumps(event.step) + "\\n")
                file.flush()
                self.written += 1

    def take(self, event):
        pass

class HangsInWrite(Writing):
    name = "hangs_in_write"

    def take(self, event):
        if event.step == 250:
            time.sleep(3600)

class HangsInClose(Writing):
    name = "hangs_in_close"

    def close(self, status):
        time.sleep(3600)

class Refusing(Writing):
    name = "refusing"

    def take(self, event):
        if event.step % 100 == 7:
            raise EventRejectedError("not this one")
        if event.step % 100 == 8:
            raise ValueError("nor that")

class Raising(Writing):
    name = "raising"

    def take(self, event):
        if event.step == 100:
            raise SystemExit(5)
'''
CLASSES = {
    "hangs_in_write": "HangsInWrite", "hangs_in_close": "HangsInClose", "refusing": "Refusing", "raising": "Raising",
}  # fmt: skip


@pytest.fixture(autouse=True)
def package(tmp_path: Path) -> None:
    """Put a package with faulty backends beside the program."""
    (tmp_path / "faulty_trackers.py").write_text(MODULE)
    metadata = tmp_path / "faulty_trackers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-trackers\nVersion: 1.0\n")
    points = "".join(f"{name} = faulty_trackers:{cls}\n" for name, cls in CLASSES.items())
    (metadata / "entry_points.txt").write_text(f"[tracelet_shim.backends]\n{points}")


def steps(directory: Path, name: str) -> list[int]:
    path = directory / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def backends(*names: str, hosting: str) -> str:
    """Return the arguments that open these backends beside ``tensorboard``: by name, or as objects in the program."""
    if hosting == "objects":
        made = ", ".join(f"faulty_trackers.{CLASSES[name]}()" for name in names)
        return f'import faulty_trackers\nsession = begin({made}, "tensorboard", exit_timeout=4)\n'
    named = ", ".join(map(repr, names))
    return f'session = begin({named}, "tensorboard", delivery={hosting!r}, exit_timeout=4)\n'


@pytest.mark.parametrize("hosting", ["process", "thread", "objects"])
def test_backends_hang(train: Train, tmp_path: Path, hosting: str) -> None:
    """SDKs that never return from a write or from ending the run are left behind at the deadline; what they have not taken is
    named, and the other trackers are complete."""
    program = train(backends("hangs_in_write", "hangs_in_close", hosting=hosting) + "log(0, 500)\n", exit_timeout=4)
    said = program.end(500)
    taken = steps(tmp_path, "hangs_in_write")
    assert f"hangs_in_write: {500 - len(taken)} events were not delivered" in said
    assert not taken or "(still writing " in said
    assert "hangs_in_close: it has everything, but its run was not ended in time" in said
    assert steps(tmp_path, "hangs_in_close") == list(range(500))
    assert taken in ([], list(range(250)))
    assert copied_steps(tmp_path) == list(range(500))
    if hosting == "objects":  # which no other process can make again
        assert states(tmp_path) == {"tensorboard": "closed"}
        assert "--resume" not in said
    else:
        assert states(tmp_path) == {"hangs_in_write": "abandoned", "hangs_in_close": "abandoned", "tensorboard": "closed"}
        assert "--resume" in said


@pytest.mark.parametrize("hosting", ["process", "thread"])
def test_single_events_are_refused(train: Train, tmp_path: Path, hosting: str) -> None:
    """Events that a tracker refuses for good are set aside in the ledger with its message; all others arrive, in order."""
    program = train(backends("refusing", hosting=hosting) + "log(0, 500)\n", exit_timeout=4)
    said = program.end(500)
    refused = [step for step in range(500) if step % 100 in (7, 8)]
    assert said.count("was refused") == 2  # when it happens first, and at the end
    assert f"refusing: {len(refused)} events were not delivered" in said
    assert steps(tmp_path, "refusing") == [step for step in range(500) if step not in refused]
    assert copied_steps(tmp_path) == list(range(500))
    with contextlib.closing(sqlite3.connect(tmp_path / "runs" / "x" / ".tracelet" / "ledger.db")) as db:
        rows = db.execute("SELECT backend, tag, step, message FROM set_aside ORDER BY step").fetchall()
    messages = {7: "not this one", 8: "ValueError: nor that"}
    assert rows == [("refusing", "loss", step, messages[step % 100]) for step in refused]


def test_backend_exits(train: Train, tmp_path: Path) -> None:
    """An SDK that calls `sys.exit` ends its own delivery, with a warning, and nothing else."""
    program = train(backends("raising", hosting="process") + "log(0, 500)\n", exit_timeout=4)
    said = program.end(500)
    assert "raising: stopped by SystemExit" in said
    assert "raising: 400 events were not delivered" in said
    assert copied_steps(tmp_path) == list(range(500))


def states(directory: Path) -> dict[str, str]:
    """Return the state of each run in the ledger."""
    with contextlib.closing(sqlite3.connect(directory / "runs" / "x" / ".tracelet" / "ledger.db")) as db:
        return dict(db.execute("SELECT backend, state FROM runs").fetchall())


def test_our_own_error(train: Train, tmp_path: Path) -> None:
    """An error of ours while a call is observed is one warning; the call has its result, and its record arrives in float32."""
    program = train(
        """
from tracelet_shim.intercept import _calls

def broken(*arguments):
    raise RuntimeError("ours")

begin("tensorboard")
_calls.Scalar.contribution = broken
log(0, 200)
"""
    )
    said = program.end(200)
    assert said.count("could not be observed") == 1
    assert copied_steps(tmp_path) == list(range(200))
