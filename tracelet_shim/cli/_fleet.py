"""``tracelet-shim status --fleet``: the sessions that collectors deliver."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from tracelet_shim import errors
from tracelet_shim.display.terminal import say

if TYPE_CHECKING:
    from tracelet_shim.fleet.address import Address
    from tracelet_shim.fleet.overview import FleetSession

__all__ = ["asked", "show"]


def asked(address: Address) -> tuple[str, str, str, str | None]:
    """Return what `doctor` says of a Redis: level, what it is about, text, remedy. The trackers are the collectors' affair."""
    from tracelet_shim.fleet.address import connect
    from tracelet_shim.fleet.overview import hosts
    from tracelet_shim.fleet.shipper import problem_of

    try:
        there = len(hosts(connect(address)).seen)
    except Exception as error:
        problem = str(error) if isinstance(error, errors.TraceletError) else problem_of(error, address)
        if problem is None:
            raise
        return "error", "redis", problem, "what is logged meanwhile is in the event files; `replay --resume` hands it over"
    if not there:
        return "warning", "redis", f"{address.url} answers, and nobody delivers", f"start `tracelet-shim collect {address.url}`"
    return "ok", "redis", f"{address.url} answers; {there} processes deliver", None


def show(redis: str, *, as_json: bool) -> None:
    """Print what there is in a Redis; exit code 1 if it does not answer, 2 if its address cannot be right."""
    from tracelet_shim.fleet.address import address_of, connect
    from tracelet_shim.fleet.overview import hosts, overview
    from tracelet_shim.fleet.shipper import problem_of

    try:
        address = address_of(redis)
        client = connect(address)
    except errors.TraceletError as error:
        say(str(error))
        raise typer.Exit(2) from None
    try:
        sessions, there = overview(client), hosts(client)
    except Exception as error:
        problem = problem_of(error, address)
        if problem is None:
            raise
        say(problem)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"hosts": there.seen, "sessions": [session._asdict() for session in sessions]}, indent=2))
        return
    typer.echo(f"{len(there.seen)} hosts, {len(sessions)} sessions that are to be delivered")
    for session in sessions:
        _print(session)
    if sessions and not there.seen:
        typer.echo(f"nobody delivers: start one with `tracelet-shim collect {address.url}`")


def _print(session: FleetSession) -> None:
    names = " / ".join(name for name in (session.project, session.exp_name) if name)
    who = {"served": f"served by {session.owner}", "waits": "waits for a collector", "unfinished": "ended, and not whole"}
    gone = "" if session.alive or session.state == "unfinished" else ", its program is silent"
    typer.echo(f"\n{session.session}  {names}  on {session.host}: {who[session.state]}{gone}")
    lag = f", {session.lag_seconds:.0f} s behind" if session.lag_seconds >= 1 else ""
    typer.echo(f"  {session.records} records, {session.bytes / 1e6:.1f} MB in Redis{lag}")
    for name, behind in session.behind.items():
        words = [session.states[name], f"{session.delivered[name]} delivered", f"{behind} behind"]
        words += [f"{session.set_aside[name]} set aside"] if session.set_aside[name] else []
        words += [session.errors[name]] if name in session.errors else []
        typer.echo(f"  {name}: {', '.join(words)}")
    if session.state == "unfinished":
        typer.echo("  remedy: mend what is wrong, then `tracelet-shim collect --retry`")
