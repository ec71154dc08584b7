"""Limits of the machine that a run of SwanLab's meets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.swanlab.reader import SwanLabReader
from tests.faults.harness import eventually

pytest.importorskip("swanlab")

PROGRAM = """
import os, time
import tracelet_shim
from torch.utils.tensorboard import SummaryWriter

def allow(instances):
    with open("/proc/sys/user/max_inotify_instances", "w") as file:
        file.write(str(instances))

allow(0)
tracelet_shim.start_logging(backend=["swanlab"], strict=True, offline=True)
with SummaryWriter("runs/x") as writer:
    for step in range(20):
        writer.add_scalar("loss", step / 7, step)
    while not os.path.exists("some"):
        time.sleep(0.05)
    allow(128)
"""


@pytest.mark.nightly  # it takes a minute until it is tried again
def test_no_inotify_instance_is_left_for_a_while(tmp_path: Path) -> None:
    """A user has 128 inotify instances, and SwanLab takes one to begin a run. Where they are used up, it is tried again."""
    command = ["unshare", "--user", "--map-root-user"]  # its limit is the namespace's own
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here, in which the limit could be set")
    program, said = tmp_path / "program.py", tmp_path / "stderr.txt"
    program.write_text(PROGRAM)
    with said.open("wb") as errors:
        running = subprocess.Popen([*command, sys.executable, str(program)], cwd=tmp_path, stderr=errors)
    try:
        eventually(lambda: "inotify instance limit reached" in said.read_text())
        (tmp_path / "some").touch()
        assert running.wait(120) == 0, said.read_text()
    finally:
        running.kill()
    assert "cannot open a run yet" in said.read_text()
    points = SwanLabReader(tmp_path / "swanlog").scalars("", "loss")
    assert [(point.step, point.value) for point in points] == [(step, step / 7) for step in range(20)]
