"""What a run is opened with, and what comes back: the words of the contract in `tracelet_shim.backends.base`, where third parties
import them from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from tracelet_shim.common.text import as_utf8

__all__ = ["WHAT_RAN", "Ending", "Job", "OpenedRun", "Part", "Program", "RunInfo", "Status"]

Part = Literal["git", "diff", "command", "packages", "host", "gpus"]
WHAT_RAN: tuple[Part, ...] = get_args(Part)
"""What can be recorded of the program and its machine."""

Status = str
"""How a run ended: ``"finished"``, ``"failed"`` or ``"killed"``."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """The user's program, for trackers that record what ran.

    Attributes:
        script: absolute path of the script, or None (``python -c``, a notebook, standard input).
        module: the module name under ``python -m``, or None.
        argv: ``sys.argv`` of the training process.
        cwd: its working directory.
        executable: its Python interpreter.
        pid, host: where it ran.
    """

    script: str | None
    module: str | None
    argv: tuple[str, ...]
    cwd: str
    executable: str
    pid: int
    host: str

    def readable(self) -> Program:
        """Return it for somebody to read: paths and arguments as UTF-8."""
        script = as_utf8(self.script) if self.script is not None else None
        return msgspec.structs.replace(self, script=script, cwd=as_utf8(self.cwd), executable=as_utf8(self.executable))


class Job(msgspec.Struct, frozen=True):
    """What a scheduler runs, and may run again.

    Attributes:
        name: the same each time.
        times: how often it has been started again; grows.
    """

    name: str
    times: int


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is opened with. None means: what the tracker itself would take (its environment, its default).

    Attributes:
        session: id of the session, the same for all trackers; 16 hex digits.
        project: MLflow's experiment, W&B's project, ...
        exp_name: display name of the run.
        run_id: id chosen by the user. A tracker that can resumes the run of that id or creates it; one that cannot
            choose ids keeps it as a tag ``tracelet.run_id``, and finds the run by that tag to resume it.
        resume: the tracker's own id of an existing run to continue; wins over `run_id`.
        borrowed: True if `resume` is a run that the user has active: it is joined and left open.
        tags: name -> value; the value of a bare label is ``""``.
        noticed: the names of those tags that nobody gave: the CI job's, the commit's.
        notes: free text.
        config: parameters known at the start; plain JSON values.
        group: name that joins the runs of one distributed job; None for a single run.
        offline: True if no network may be used, on trackers that have an offline mode.
        root: the session's root log directory, absolute; None as long as it is not known.
        program: the training program.
        what_ran: which of `WHAT_RAN` may be recorded. The relay attaches it as files; a backend that records some of it in a
            form of its tracker's own asks here.
        started: seconds since the epoch.
        forward: address of the Redis through which collectors get the session; None if it is delivered from here.
        job: the scheduler's job, if what an earlier start of it has logged is to be continued.
    """

    session: str
    program: Program
    started: float
    project: str | None = None
    exp_name: str | None = None
    run_id: str | None = None
    resume: str | None = None
    borrowed: bool = False
    tags: dict[str, str] = {}
    noticed: tuple[str, ...] = ()
    notes: str | None = None
    config: dict[str, Any] = {}
    group: str | None = None
    offline: bool = False
    root: str | None = None
    job: Job | None = None
    forward: str | None = None
    what_ran: tuple[Part, ...] = WHAT_RAN


class OpenedRun(msgspec.Struct, frozen=True):
    """What `Backend.open` returns.

    Attributes:
        run_id: the tracker's own id of the run.
        url: a link, or for a local store a path or the command that shows it; None if there is nothing to open.
    """

    run_id: str
    url: str | None = None


class Ending(NamedTuple):
    """A function of an SDK that ends a run.

    Attributes:
        owner: the class or module that has it.
        function: its name there.
        run_id: (self or None, args, kwargs) -> the id of the run that such a call ends, or None.
    """

    owner: Any
    function: str
    run_id: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], str | None]
