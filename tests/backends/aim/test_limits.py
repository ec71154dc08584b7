"""Limits of the machine that a run of Aim's meets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.aim.reader import AimReader

pytest.importorskip("aim")

PROGRAM = """
import tracelet_shim
from torch.utils.tensorboard import SummaryWriter

tracelet_shim.start_logging(backend=["aim"], strict=True)
with SummaryWriter("runs/x") as writer:
    for step in range(20):
        writer.add_scalar("loss", step / 7, step)
"""
WITHOUT_INOTIFY = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
"""That number is the user namespace's own. (`fs.inotify.max_user_instances` is the whole machine's, wherever it is written.)"""


def test_no_inotify_instance_is_left(tmp_path: Path) -> None:
    """A user has 128 inotify instances, and Aim's index takes one to watch for new runs. Where they are used up, the run is
    closed and found all the same."""
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", WITHOUT_INOTIFY, "sh"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here, in which the limit could be set")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [*command, sys.executable, str(program)], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    import aim

    (run,) = aim.Repo(str(tmp_path)).iter_runs()
    assert not run.active
    assert [point.value for point in AimReader(tmp_path, run.hash).scalars("", "loss")] == [step / 7 for step in range(20)]
