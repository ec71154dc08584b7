"""``tracelet-shim collect``: deliver what many programs log."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from tracelet_shim import errors
from tracelet_shim.display.terminal import say

__all__ = ["collect"]


def collect(
    redis: Annotated[str | None, typer.Argument(metavar="REDIS", hidden=True)] = None,
    follow: Annotated[
        str | None, typer.Option("--follow", metavar="DIR", help="Deliver each run under a directory, instead of a Redis.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="NAMES", help="With --follow: trackers, by commas; default: mlflow.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", metavar="NAME", help="With --follow: the runs' project.")] = None,
    quiet: Annotated[
        float, typer.Option("--quiet", metavar="SECONDS", help="With --follow: after so long a rest, a run makes room.")
    ] = 30.0,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="Processes that deliver; with --follow, runs at a time.")
    ] = 1,
    lease: Annotated[
        float,
        typer.Option("--lease", metavar="SECONDS", min=1.0, help="How long after the death of a process its sessions wait."),
    ] = 15.0,
    most: Annotated[int, typer.Option("--most", metavar="N", min=1, help="Sessions that a process takes at a time.")] = 500,
    until_idle: Annotated[
        float | None, typer.Option("--until-idle", metavar="SECONDS", help="End when there was no session for so long.")
    ] = None,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Show Prometheus, on this port, what there is to be seen.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="First take the sessions again that ended with something undelivered.")
    ] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON, for programs.")] = False,
) -> None:
    """Deliver the sessions that programs hand over to a Redis.

    REDIS is its address, as in redis://host:6379/0; the programs have the same in TRACELET_DELIVERY. A password is taken from
    TRACELET_REDIS_PASSWORD, or from the file that TRACELET_REDIS_PASSWORD_FILE names. The trackers' stores and credentials are
    those of this command's directory and environment.

    With --follow there is no Redis: each sub-directory of DIR with event files is a run, of which what it has, and what comes, is
    delivered, wherever it is written.

    Several may run, on as many machines: each session is served by one at a time, and by another one when that is gone. SIGTERM
    hands everything back, and ends.
    """
    from tracelet_shim.fleet import logs
    from tracelet_shim.fleet.address import address_of
    from tracelet_shim.fleet.collector import Collector
    from tracelet_shim.fleet.shipper import problem_of

    logs.set_up(as_json=log_json)
    if follow is not None:
        if redis is not None or metrics is not None or retry:
            say("--follow DIR goes with none of REDIS, --metrics, --retry")
            raise typer.Exit(2)
        _follow(follow, {"--backend": backend, "--project": project}, processes, quiet, until_idle)
        return
    if redis is None:
        say("what is to be collected? remedy: tracelet-shim collect redis://host:6379/0, or tracelet-shim collect --follow DIR")
        raise typer.Exit(2)
    try:
        address = address_of(redis)
        collector = Collector(address, processes=processes, lease=lease, most=most, until_idle=until_idle, say=say)
        if metrics is not None:
            from tracelet_shim.fleet.metrics import serve

            serve(address, metrics)
    except errors.TraceletError as error:
        say(str(error))
        raise typer.Exit(2) from None
    try:
        collector.check()
        if retry:
            say(f"{collector.retry()} sessions are taken again")
        say(f"collecting from {address.url}, with {processes} process{'es' if processes > 1 else ''}")
    except Exception as error:
        problem = problem_of(error, address)
        if problem is None:
            raise
        say(problem)
    collector.run()
    logging.getLogger("tracelet_shim.fleet").info("ended")
    sys.stderr.flush()


def _follow(directory: str, arguments: dict[str, str | None], processes: int, quiet: float, until_idle: float | None) -> None:
    from tracelet_shim.fleet.gateway import Gateway

    given = [f"{name}={value}" for name, value in arguments.items() if value is not None]
    try:
        gateway = Gateway(directory, given, processes=processes, quiet=quiet, until_idle=until_idle, say=say)
        say(f"following {directory}, {processes} runs at a time")
        gateway.run()
    except errors.TraceletError as error:
        say(str(error))
        raise typer.Exit(2) from None
