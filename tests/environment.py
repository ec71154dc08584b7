"""The environment in which tests and benchmarks run: nothing of the developer's, no network, no telemetry."""

from __future__ import annotations

import os
from pathlib import Path

from tests.backends import TRACKERS, part

__all__ = ["foreign_variables", "isolated_environment", "warnings"]

_FOREIGN = (
    "TRACELET_",
    *(prefix for tracker in TRACKERS for prefix in part(tracker, "environment").FOREIGN),
    *("GITHUB_", "GITLAB_", "CI_", "JENKINS_", "BUILDKITE", "CIRCLE", "BUILD_", "SYSTEM_", "AGENT_", "CHANGE_"),
    *("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_", "OTEL_", "GIT_", "XDG_", "PYTHONWARNINGS"),
)
_ALSO_FOREIGN = frozenset(
    {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    | {"TF_BUILD", "BRANCH_NAME", "TAG_NAME"}
    | {"CI", "FORCE_COLOR", "CLICOLOR_FORCE"}  # change what tools print and what SDKs switch off
)


def foreign_variables() -> list[str]:
    """Return the names of the variables, now in the environment, that steer a tracker, a launcher or us."""
    return [name for name in os.environ if name.startswith(_FOREIGN) or name in _ALSO_FOREIGN]


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
        # -- git, which trackers ask for the state of the code
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.invalid",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.invalid",
        # -- what each tracker needs for it
        **{name: value for tracker in TRACKERS for name, value in part(tracker, "environment").isolated(home).items()},
    }


def warnings(said: str) -> list[str]:
    """Return the warnings among what a program of ours has said, but for the one that its machine is slow."""
    return [line for line in said.splitlines() if "warning: " in line and ": it has not answered for " not in line]
