"""A job that its scheduler starts again goes on in the runs that it had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.delivery.programs import LOG, eventually, mlflow_runs, relays, tensorboard_steps

pytestmark = pytest.mark.usefixtures("mlflow_store")

KILLED = LOG + "session()\nlog(300)\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)"
REST = LOG + "session()\nlog(200, None, 300)"
SECOND_TIME = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": "1"}


def light(script: str) -> str:
    """The same without MLflow, whose import takes seconds."""
    return script.replace('"mlflow", ', "")


def first_start(run_python: RunPython, tmp_path: Path, script: str, **env: str) -> None:
    run_python(script, env=env, check=False)
    eventually(lambda: not relays(tmp_path))


def copies(directory: Path) -> list[str]:
    """Return the status of each run of the tensorboard backend."""
    return [json.loads(path.read_bytes())["status"] for path in sorted((directory / "tracelet-runs").rglob("run.json"))]


def test_requeued_job_continues_its_runs(run_python: RunPython, tmp_path: Path) -> None:
    """Under SLURM's restart count, a job with the same id, script and log directory continues its runs in all trackers, each
    time it is started again."""
    first_start(run_python, tmp_path, KILLED, SLURM_JOB_ID="42")
    run_python(REST, env=SECOND_TIME)
    run_python(LOG + "session()\nlog(100, None, 500)", env={**SECOND_TIME, "SLURM_RESTART_COUNT": "2"})
    assert mlflow_runs(tmp_path) == [("FINISHED", 600, 600)]
    assert tensorboard_steps(tmp_path) == list(range(600))
    assert copies(tmp_path) == ["finished"]


def test_requeued_job_under_the_environment(run_python: RunPython, tmp_path: Path) -> None:
    """So does one whose code knows nothing of us."""
    env = {"TRACELET_BACKEND": "tensorboard"}
    first_start(run_python, tmp_path, KILLED.replace("session()\n", ""), SLURM_JOB_ID="42", **env)
    run_python(REST.replace("session()\n", ""), env={**SECOND_TIME, **env})
    assert tensorboard_steps(tmp_path) == list(range(500))
    assert copies(tmp_path) == ["finished"]


def test_requeued_job_that_asks_for_links_first(run_python: RunPython, tmp_path: Path) -> None:
    """Where the root directory is named, the runs are continued before there is a writer; where it is not, who asks for the
    links of the runs gets those of new ones, and does not wait in vain."""
    first_start(run_python, tmp_path, light(KILLED), SLURM_JOB_ID="42")
    asks = light(REST).replace("session()\n", "assert set(session(root='runs/x').urls) == {'tensorboard'}\n")
    run_python(asks, env=SECOND_TIME)
    assert copies(tmp_path) == ["finished"]
    run_python(asks.replace("root='runs/x'", ""), env={**SECOND_TIME, "SLURM_RESTART_COUNT": "2"})
    assert copies(tmp_path) == ["finished", "finished"]


def test_what_is_no_requeue_has_a_run_of_its_own(run_python: RunPython, tmp_path: Path) -> None:
    """A second program in one allocation, another job, a run id of the user's and a program outside of jobs do not continue
    anything."""
    first_start(run_python, tmp_path, light(KILLED), SLURM_JOB_ID="42")
    others = [{"SLURM_JOB_ID": "42"}, {"SLURM_JOB_ID": "43", "SLURM_RESTART_COUNT": "1"}, {}]
    for env in [*others, {**SECOND_TIME, "TRACELET_RUN_ID": "mine"}]:
        run_python(light(REST), env=env)
    assert sorted(copies(tmp_path)) == ["failed", *["finished"] * 4]


def test_new_log_directory_with_a_common_state_directory(run_python: RunPython, tmp_path: Path) -> None:
    """A program that makes up a log directory each time is continued if TRACELET_STATE_DIR is where it was."""
    env = {"TRACELET_STATE_DIR": str(tmp_path / "state")}
    first_start(run_python, tmp_path, light(KILLED), SLURM_JOB_ID="42", **env)
    elsewhere = light(REST).replace("log(200, None, 300)", "log(200, SummaryWriter('runs/y'), 300)")
    run_python(elsewhere, env={**SECOND_TIME, **env})
    assert copies(tmp_path) == ["finished"]


def test_workers_that_torchrun_restarts(run_python: RunPython, tmp_path: Path) -> None:
    """Workers that one torchrun starts again continue their run."""
    env = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}
    first_start(run_python, tmp_path, light(KILLED), TORCHELASTIC_RESTART_COUNT="0", **env)
    run_python(light(REST), env={**env, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert copies(tmp_path) == ["finished"]
