"""A job that its scheduler starts again goes on in the runs that it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.delivery.programs import LOG, eventually, mlflow_runs, relays, tensorboard_steps

KILLED = LOG + "session()\nlog(300)\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)"
REST = LOG + "session()\nlog(200, None, 300)"
SECOND_TIME = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": "1"}


def first_start(run_python: RunPython, tmp_path: Path, **env: str) -> None:
    run_python(KILLED, env=env, check=False)
    eventually(lambda: not relays(tmp_path))


@pytest.mark.parametrize("how", ["by a call", "by the environment", "that asks for links first"])
def test_requeued_job_continues_its_run(run_python: RunPython, tmp_path: Path, how: str) -> None:
    """Under SLURM's restart count, a job with the same id, script and log directory continues its runs in all trackers."""
    first_start(run_python, tmp_path, SLURM_JOB_ID="42")
    script, env = REST, dict(SECOND_TIME)
    if how == "by the environment":
        script = REST.replace("session()\n", "")
        env |= {"TRACELET_BACKEND": "mlflow,tensorboard", "TRACELET_PROJECT": "p", "TRACELET_EXP_NAME": "e"}
    elif how == "that asks for links first":
        script = REST.replace("session()\n", "assert set(session(root='runs/x').urls) == {'mlflow', 'tensorboard'}\n")
    run_python(script, env=env)
    assert mlflow_runs(tmp_path) == [("FINISHED", 500, 500)]
    assert tensorboard_steps(tmp_path) == list(range(500))
    assert len(list((tmp_path / "tracelet-runs").rglob("run.json"))) == 1


def test_requeued_again(run_python: RunPython, tmp_path: Path) -> None:
    """The third start goes on where the second one was."""
    first_start(run_python, tmp_path, SLURM_JOB_ID="42")
    run_python(REST, env=SECOND_TIME)
    run_python(LOG + "session()\nlog(100, None, 500)", env={**SECOND_TIME, "SLURM_RESTART_COUNT": "2"})
    assert mlflow_runs(tmp_path) == [("FINISHED", 600, 600)]


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_JOB_ID": "42"},
        {"SLURM_JOB_ID": "43", "SLURM_RESTART_COUNT": "1"},
        {**SECOND_TIME, "TRACELET_RUN_ID": "mine"},
        {},
    ],
    ids=["same start", "other job", "run id", "no job"],
)
def test_what_is_no_requeue_has_a_run_of_its_own(run_python: RunPython, tmp_path: Path, env: dict[str, str]) -> None:
    """A second program in one allocation, another job, and a run id of the user's do not continue anything."""
    first_start(run_python, tmp_path, SLURM_JOB_ID="42")
    run_python(REST, env=env)
    assert mlflow_runs(tmp_path) == [("FAILED", 300, 300), ("FINISHED", 200, 200)]


def test_new_log_directory_with_a_common_state_directory(run_python: RunPython, tmp_path: Path) -> None:
    """A program that makes up a log directory each time is continued if TRACELET_STATE_DIR is where it was."""
    env = {"TRACELET_STATE_DIR": str(tmp_path / "state")}
    first_start(run_python, tmp_path, SLURM_JOB_ID="42", **env)
    run_python(REST.replace("log(200, None, 300)", "log(200, SummaryWriter('runs/y'), 300)"), env={**SECOND_TIME, **env})
    assert mlflow_runs(tmp_path) == [("FINISHED", 500, 500)]


def test_workers_that_torchrun_restarts(run_python: RunPython, tmp_path: Path) -> None:
    """Workers that one torchrun starts again continue their run."""
    env = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}
    first_start(run_python, tmp_path, TORCHELASTIC_RESTART_COUNT="0", **env)
    run_python(REST, env={**env, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert mlflow_runs(tmp_path) == [("FINISHED", 500, 500)]
