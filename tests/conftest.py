"""Isolation of the whole suite, and programs run in processes of their own.

No test reads or writes the developer's home directory, tracker settings or run stores, and none reaches for a network:
before any test module is imported, and so before any SDK is, the environment is emptied of everything that steers a
tracker and then points it at a temporary directory. Each test runs in a working directory of its own, because most
trackers keep their runs in the current one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

_FOREIGN = (
    *("TRACELET_", "MLFLOW_", "WANDB_", "AIM_", "CLEARML_", "TRAINS_", "COMET_", "DVC", "SWANLAB_", "TRACKIO_", "HF_"),
    *("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_", "OTEL_", "GIT_", "XDG_", "PYTHONWARNINGS", "DATABRICKS_"),
)
_ALSO_FOREIGN = frozenset(
    {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    | {"CI", "GITHUB_ACTIONS", "FORCE_COLOR", "CLICOLOR_FORCE"}  # change what tools print and what SDKs switch off
)


def isolated_environment(home: Path) -> dict[str, str]:
    """Return the variables that keep every tracker within `home`, silent, offline and without telemetry."""
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_STATE_HOME": str(home / "state"),
        "DO_NOT_TRACK": "true",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "COLUMNS": "120",
        "MPLBACKEND": "Agg",
        # -- MLflow: no telemetry; a server that is gone fails in seconds, not minutes
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # -- W&B
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DATA_DIR": str(home / "wandb-data"),
        "WANDB_CACHE_DIR": str(home / "wandb-cache"),
        "WANDB_CONFIG_DIR": str(home / "wandb-config"),
        # -- Aim
        "AIM_UI_TELEMETRY_ENABLED": "0",
        # -- ClearML; a settings file that does not exist hides the user's
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CACHE_DIR": str(home / "clearml"),
        "CLEARML_CONFIG_FILE": str(home / "no-clearml.conf"),
        "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1",
        # -- Comet
        "COMET_CONFIG": str(home / "no-comet.config"),
        "COMET_OFFLINE_DIRECTORY": str(home / "comet"),
        "COMET_START_ONLINE": "false",
        "COMET_ERROR_TRACKING_ENABLE": "false",
        "COMET_LOGGING_CONSOLE": "ERROR",
        # -- DVCLive
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-cache"),
        # -- SwanLab, Trackio and the hub under it
        "SWANLAB_MODE": "offline",
        "TRACKIO_DIR": str(home / "trackio"),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        # -- git, which trackers ask for the state of the code
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.invalid",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.invalid",
    }


def pytest_configure(config: pytest.Config) -> None:
    home = Path(tempfile.mkdtemp(prefix="tracelet-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name in _ALSO_FOREIGN:
            del os.environ[name]
    os.environ.update(isolated_environment(home))
    # Kept between runs: matplotlib takes seconds to look through the fonts.
    os.environ["MPLCONFIGDIR"] = str(config.rootpath / ".pytest_cache" / "matplotlib")
    # Not in the working directory, which is another for each test.
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(config.rootpath / ".hypothesis")

    from hypothesis import settings

    # No deadline: on a shared machine, a timed test fails for reasons of its own.
    settings.register_profile("tests", deadline=None, print_blob=True)
    settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class RunPython(Protocol):
    """What the fixture `run_python` is."""

    def __call__(
        self,
        script: str,
        *args: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
        flags: Sequence[str] = (),
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_python(tmp_path: Path) -> Iterator[RunPython]:
    """Run a program in a process of its own, with the interpreter and the isolated environment of the tests.

    ``run_python(script, *args, env={}, cwd=tmp_path, timeout=120, flags=(), check=True)`` returns the
    `subprocess.CompletedProcess`, with text output. `script` is the program's text, and is stored in `cwd` as
    ``script.py``. `env` adds variables, or removes those that are None. `flags` are the interpreter's. With `check`, an
    exit code other than 0 fails the test and shows what the program printed. A program that takes longer than `timeout`
    seconds is killed with all that it started, and fails the test in any case.
    """
    started: list[subprocess.Popen[str]] = []

    def run(
        script: str,
        *args: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
        flags: Sequence[str] = (),
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        directory = cwd or tmp_path
        path = directory / "script.py"
        path.write_text(textwrap.dedent(script), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        for name, value in (env or {}).items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        command = [sys.executable, *flags, str(path), *args]
        # Into files, not pipes: a process that outlives the program (the relay) holds the pipes open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
            started.append(process)
            try:
                process.wait(timeout)
                problem = f"ended with {process.returncode}" if check and process.returncode else None
            except subprocess.TimeoutExpired:
                _kill_group(process)
                problem = f"took longer than {timeout} s"
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())
        if problem:
            pytest.fail(f"the program {problem}\n-- stdout\n{done.stdout}\n-- stderr\n{done.stderr}", pytrace=False)
        return done

    yield run
    for process in started:
        _kill_group(process)


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
