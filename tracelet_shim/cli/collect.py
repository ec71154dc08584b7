"""``tracelet-shim collect``: deliver what many programs log, of this machine or of many."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from tracelet_shim import errors
from tracelet_shim.display.terminal import say

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["collect"]

_IDLE_AUTO = 60
"""`node.front.IDLE`, which is not imported for the sake of a help text."""


def collect(
    redis: Annotated[str | None, typer.Argument(metavar="REDIS", hidden=True)] = None,
    follow: Annotated[
        str | None, typer.Option("--follow", metavar="DIR", help="Deliver each run under a directory.")
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option("--idle", metavar="SECONDS", help=f"End when so long idle. Default: never; with --auto {_IDLE_AUTO}."),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option("--socket", metavar="PATH", help="Of one machine: where it listens; TRACELET_COLLECTOR, else auto."),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Of one machine: start one in the background, if there is none; print its path.")
    ] = False,
    drain: Annotated[
        float | None,
        typer.Option("--drain", metavar="SECONDS", help="Of one machine: what sessions may take after SIGTERM; until they end."),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="REDIS: processes that deliver; --follow: runs at a time.")
    ] = 1,
    lease: Annotated[
        float, typer.Option("--lease", metavar="SECONDS", min=1.0, help="REDIS: how long a dead process's sessions wait.")
    ] = 15.0,
    most: Annotated[
        int, typer.Option("--most", metavar="N", min=1, help="REDIS: sessions that a process takes at a time.")
    ] = 500,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="REDIS: show Prometheus what there is to be seen.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="REDIS: first take the sessions again that ended with something undelivered.")
    ] = False,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="NAMES", help="--follow: trackers, by commas; default: mlflow.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", metavar="NAME", help="--follow: the runs' project.")] = None,
    quiet: Annotated[
        float, typer.Option("--quiet", metavar="SECONDS", help="--follow: after so long a rest, a run makes room.")
    ] = 30.0,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON, for programs.")] = False,
) -> None:
    """Deliver what many programs log.

    Without arguments: of this machine, which find it by TRACELET_COLLECTOR=PATH, or TRACELET_COLLECTOR=auto, which starts one if
    there is none.

    REDIS, as in redis://host:6379/0: what programs of any machine hand over there, by TRACELET_DELIVERY=REDIS. The password is
    taken from TRACELET_REDIS_PASSWORD, or from the file that TRACELET_REDIS_PASSWORD_FILE names; stores and credentials are those
    of this command's directory and environment. Several may run, on as many machines. SIGTERM hands everything back.

    --follow DIR: each sub-directory with event files is a run, of which what it has, and what comes, is delivered.
    """
    from tracelet_shim.fleet import logs

    logs.set_up(as_json=log_json)
    try:
        if follow is not None:
            if redis is not None or metrics is not None or retry:
                raise errors.ConfigurationError("--follow DIR goes with none of REDIS, --metrics, --retry")
            _follow(follow, {"--backend": backend, "--project": project}, processes, quiet, idle)
        elif redis is not None:
            _collect(redis, processes, lease, most, idle, metrics, retry=retry)
        else:
            _serve(place, idle, drain, auto=auto)
    except errors.TraceletError as error:
        say(str(error))
        raise typer.Exit(2) from None


def _collect(
    redis: str, processes: int, lease: float, most: int, idle: float | None, metrics: int | None, *, retry: bool
) -> None:
    from tracelet_shim.fleet.address import address_of
    from tracelet_shim.fleet.collector import Collector
    from tracelet_shim.fleet.shipper import problem_of

    address = address_of(redis)
    collector = Collector(address, processes=processes, lease=lease, most=most, until_idle=idle, say=say)
    if metrics is not None:
        from tracelet_shim.fleet.metrics import serve

        serve(address, metrics)
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


def _follow(directory: str, arguments: dict[str, str | None], processes: int, quiet: float, idle: float | None) -> None:
    from tracelet_shim.fleet.gateway import Gateway

    given = [f"{name}={value}" for name, value in arguments.items() if value is not None]
    gateway = Gateway(directory, given, processes=processes, quiet=quiet, until_idle=idle, say=say)
    say(f"following {directory}, {processes} runs at a time")
    gateway.run()


def _serve(place: str | None, idle: float | None, drain: float | None, *, auto: bool) -> None:
    from tracelet_shim.bus.collector_place import AUTO, listen, place_of
    from tracelet_shim.bus.launch import RelayDiedError
    from tracelet_shim.node.front import Front

    path = place_of(place or os.environ.get("TRACELET_COLLECTOR") or AUTO).absolute()
    try:
        if auto:
            _start(path, idle)
            return
        listener, held = listen(path)
    except BlockingIOError:
        say(f"there is one at {path} already")
        raise typer.Exit(2) from None
    except (OSError, RelayDiedError) as error:
        say(f"cannot collect at {path}: {error}")
        raise typer.Exit(2) from None
    say(f"collecting at {path}")
    Front(path, listener, held, idle=idle, drain=drain).run()


def _start(path: Path, idle: float | None) -> None:
    from tracelet_shim.bus.collected import start_collector

    with contextlib.suppress(BlockingIOError):  # there is one
        start_collector(path, *([] if idle is None else [str(idle)]))
    typer.echo(str(path))
