"""What a launcher or scheduler says of this process: torchrun, SLURM, MPI."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from tracelet_shim.backends.base import Job

__all__ = ["rank", "scheduled_job", "world_group"]

_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_GROUPS = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PMI_JOBID", "OMPI_MCA_ess_base_jobid")


def rank(environment: Mapping[str, str] | None = None) -> int:
    """Return this process's rank under torchrun, SLURM or MPI; 0 outside them."""
    environment = os.environ if environment is None else environment
    for variable in _RANKS:
        value = environment.get(variable, "")
        if value.isdigit():
            return int(value)
    return 0


def world_group(environment: Mapping[str, str] | None = None) -> str | None:
    """Return what the launcher calls the job, for grouping the runs of several ranks."""
    environment = os.environ if environment is None else environment
    return next((environment[v] for v in _GROUPS if environment.get(v, "none") != "none"), None)


def scheduled_job(environment: Mapping[str, str] | None = None) -> Job | None:
    """Return the job that a scheduler may start again under the same name: SLURM's (``SLURM_JOB_ID``), or that of a
    torchrun that restarts its workers; None outside them."""
    environment = os.environ if environment is None else environment
    again = _number(environment, "TORCHELASTIC_RESTART_COUNT")
    if "SLURM_JOB_ID" in environment:
        times = _number(environment, "SLURM_RESTART_COUNT") * 1_000_000 + again
        return Job(f"slurm:{environment['SLURM_JOB_ID']}", times)
    if "TORCHELASTIC_RUN_ID" in environment:  # "none" by default: then the agent, our parent, tells jobs apart
        return Job(f"torchrun:{environment['TORCHELASTIC_RUN_ID']}:{socket.gethostname()}:{os.getppid()}", again)
    return None


def _number(environment: Mapping[str, str], variable: str) -> int:
    value = environment.get(variable, "")
    return int(value) if value.isdigit() else 0
