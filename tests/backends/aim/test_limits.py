"""Limits of the machine that a run of Aim's meets."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.backends.aim.reader import AimReader
from tests.sample_events import Maker, run_info

pytest.importorskip("aim")

from tracelet_shim.backends.aim.backend import AimBackend

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


def test_a_run_that_ends_while_others_have_the_index_is_in_it(tmp_path: Path) -> None:
    """Another process, or one that is stopped, may have the index for seconds: readers see the end of the run all the same."""
    holds = f"""
import sys
from aim.storage.rockscontainer import RocksContainer
index = RocksContainer({str(tmp_path / ".aim" / "meta" / "index")!r}, read_only=False)
index.tree().view(())
print("has it", flush=True)
sys.stdin.readline()
"""
    backend = AimBackend({"repo": str(tmp_path)})
    run_id = backend.open(run_info(run_id="r")).run_id
    backend.write([Maker().scalar("s", 1.0, 1)])
    with subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "has it\n"
        letting_go = threading.Timer(2.5, lambda: other.communicate("\n"))
        letting_go.start()
        backend.close("finished")
        letting_go.join()
    assert AimReader(tmp_path, run_id).status() == "finished"
