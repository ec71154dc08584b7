"""What a tracker is told of a run before it opens it."""

from __future__ import annotations

import time

import msgspec

from tracelet_shim import intercept
from tracelet_shim.backends.base import Job, RunInfo
from tracelet_shim.provenance.launcher import rank, scheduled_job, world_group
from tracelet_shim.provenance.program import describe
from tracelet_shim.session.settings import Settings

__all__ = ["job_of", "run_info"]


def run_info(session: str, s: Settings, job: Job | None, *, borrowed: bool = False) -> RunInfo:
    """Return what the settings and the program say of a run.

    Args:
        session: the session's id, or that of its part.
        s: the session's settings.
        job: the scheduler's job that it may continue.
        borrowed: it is a run of the user's.
    """
    name, tags = s.exp_name, dict(s.tags)
    group = s.group
    if s.ranks == "all":
        group = group or world_group() or s.exp_name
        tags["rank"] = str(rank())
        name = f"{name}-rank{rank()}" if name else name
    root = intercept.absolute(s.root) if s.root is not None else None
    program = describe(here=borrowed)
    if "command" not in s.what_ran:
        program = msgspec.structs.replace(program, argv=program.argv[:1])
    return RunInfo(
        session=session, program=program, started=time.time(), project=s.project, exp_name=name, run_id=s.run_id,
        tags=tags, notes=s.notes, config=dict(s.config), group=group, offline=s.offline, root=root,
        job=job, what_ran=s.what_ran, forward=s.redis.url if s.redis is not None else None,
    )  # fmt: skip


def job_of(settings: Settings) -> Job | None:
    """Return the scheduler's job that a session may continue; an id that the user has chosen says it all."""
    job = scheduled_job() if settings.run_id is None else None
    return Job(f"{job.name}:rank{rank()}", job.times) if job is not None and settings.ranks == "all" else job
