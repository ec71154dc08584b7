"""What the user ran, and how it ends: facts of the training process that the relay cannot see."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

import wrapt

from tracelet_shim.backends.base import Job, Program
from tracelet_shim.common.text import as_utf8
from tracelet_shim.provenance.secrets import mask_arguments

__all__ = ["ExitWatch", "as_utf8", "describe", "rank", "scheduled_job", "world_group"]

_watch: ExitWatch | None = None

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


def describe() -> Program:
    """Return the user's program, as it was started, without secrets in its arguments: trackers record them."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    script = getattr(main, "__file__", None)
    module = None
    if spec is not None and spec.name:
        module = spec.name.removesuffix(".__main__")
    orig = getattr(sys, "argv", None) or [""]
    return Program(
        script=os.path.abspath(script) if script else None,
        module=module,
        argv=mask_arguments(as_utf8(str(argument)) for argument in orig),
        cwd=_cwd(),
        executable=sys.executable or "",
        pid=os.getpid(),
        host=socket.gethostname(),
    )


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the directory was deleted under the program
        return os.path.sep


def _exiting(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG001 - wrapt's signature
    if _watch is not None and threading.current_thread() is threading.main_thread():
        _watch.noted(args[0] if args else None)
    return wrapped(*args, **kwargs)


class ExitWatch:
    """Tells, when the interpreter ends, in which way.

    Nothing is hooked for exceptions: the interpreter itself leaves an uncaught one in ``sys.last_value`` before it runs
    the atexit handlers. Only ``sys.exit`` leaves no trace, so it is wrapped to note its code; a program that catches
    the SystemExit and goes on is told by what it does afterwards (`still_running`).

    Attributes:
        terminated: set by whoever sees SIGTERM come.
    """

    def __init__(self) -> None:
        self._code: object = None
        self.terminated = False

    def watch(self) -> None:
        """Begin to note the codes of `sys.exit`."""
        global _watch
        _watch = self
        if not isinstance(sys.exit, wrapt.FunctionWrapper):
            sys.exit = wrapt.FunctionWrapper(sys.exit, _exiting)

    def noted(self, code: object) -> None:
        """The main thread has called `sys.exit` with this code."""
        self._code = code

    def still_running(self) -> None:
        """The program logs: if it had called `sys.exit` before and is past it, that was caught."""
        if self._code is None or threading.current_thread() is not threading.main_thread():
            return
        if not isinstance(sys.exc_info()[1], SystemExit):  # else a finally block on the way out
            self._code = None

    def status(self) -> str:
        """Return ``"finished"``, ``"failed"`` or ``"killed"``; to be called at exit."""
        error = getattr(sys, "last_value", None)
        if self.terminated or isinstance(error, KeyboardInterrupt):
            return "killed"
        if error is not None and not hasattr(sys, "ps1"):  # at a prompt, an error ends nothing
            return "failed"
        if self._code in (None, 0, False):
            return "finished"
        return "killed" if self._code in (130, 143) else "failed"
