"""`get_session()` in programs that the environment is to activate. Each is a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunPython

ENV = {"TRACELET_BACKEND": "tensorboard", "TRACELET_QUIET": "1", "TRACELET_STRICT": "1"}
NO_TORCH = "import sys\nassert not set(sys.modules) & {'torch', 'torch.utils.tensorboard'}\n"


def runs(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(directory.glob("tracelet-runs/**/run.json"))]


@pytest.mark.cold
@pytest.mark.parametrize("first", ["", "import torch.utils.tensorboard\n"], ids=["without", "with"])
def test_a_program_that_logs_through_its_session_alone(run_python: RunPython, tmp_path: Path, first: str) -> None:
    """It has the session, whether or not it comes to TensorBoard; one run, with the status of the program."""
    program = """
import tracelet_shim as tracelet
session = tracelet.get_session()
assert session and session.active and session is tracelet.get_session()
session.log_params({"lr": 0.5})
session.log_metrics({"acc": 0.25})
import torch.utils.tensorboard
assert session is tracelet.get_session()
"""
    run_python(first + (program if first else program.replace("import torch.utils.tensorboard\n", NO_TORCH)), env=ENV)
    (run,) = runs(tmp_path)
    assert run["config"] == {"lr": 0.5}
    assert run["status"] == "finished"


def test_a_program_that_has_a_writer_later(run_python: RunPython, tmp_path: Path) -> None:
    """The writer belongs to that session, and gives it its root."""
    run_python(
        """
import tracelet_shim as tracelet
tracelet.get_session().set_tags({"stage": "try"})
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 0.5, 1)
""",
        env=ENV,
    )
    (run,) = runs(tmp_path)
    assert run["tags"]["stage"] == "try"
    assert (tmp_path / "runs" / "x" / ".tracelet" / "ledger.db").exists()
    assert not (tmp_path / ".tracelet").exists()


def test_a_program_that_only_asks(run_python: RunPython, tmp_path: Path) -> None:
    """It leaves nothing; and after the end of a session, in a child of one, and where it is disabled there is none."""
    run_python("import tracelet_shim as tracelet\nassert tracelet.get_session()", env=ENV)
    child = "import tracelet_shim as t; s = t.get_session(); s.log_metrics({'a': 1}); print('child', bool(s))"
    done = run_python(
        f"""
import subprocess, sys, os
import tracelet_shim as tracelet
session = tracelet.start_logging("tensorboard")
session.log_metrics({{"a": 1}})
subprocess.run([sys.executable, "-c", {child!r}], check=True)
pid = os.fork()
if pid == 0:
    os._exit(5 if tracelet.get_session() else 6)
print("forked", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
tracelet.stop_logging()
tracelet.get_session().log_metrics({{"a": 2}})
print("stopped", bool(tracelet.get_session()))
""",
        env=ENV,
    )
    assert sorted(done.stdout.splitlines()) == ["child False", "forked 6", "stopped False"]
    assert len(runs(tmp_path)) == 1
    disabled = run_python("import tracelet_shim as t; print(bool(t.get_session()))", env={**ENV, "TRACELET_DISABLED": "1"})
    assert disabled.stdout == "False\n"


@pytest.mark.parametrize("strict", ["0", "1"])
def test_what_cannot_be(run_python: RunPython, strict: str) -> None:
    """One line, however often the program asks; under strict it raises."""
    program = """
import tracelet_shim as tracelet
for _ in range(3):
    tracelet.get_session().log_metrics({"a": 1})
import torch.utils.tensorboard
print("went on")
"""
    done = run_python(program, env={**ENV, "TRACELET_BACKEND": "mlfow", "TRACELET_STRICT": strict}, check=False)
    if strict == "1":
        assert done.returncode != 0
        assert "UnknownBackendError" in done.stderr
    else:
        assert done.stdout == "went on\n"
        assert [line for line in done.stderr.splitlines() if "mlfow" in line] == done.stderr.splitlines()
        assert len(done.stderr.splitlines()) == 1
