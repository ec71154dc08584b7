"""``tracelet-shim status``: the sessions that were recorded here, and what each tracker has of them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracelet_shim import errors
from tracelet_shim.common.text import quoted
from tracelet_shim.display.terminal import say

if TYPE_CHECKING:
    from tracelet_shim.display.console import Console
    from tracelet_shim.state.ledger import Ledger
    from tracelet_shim.state.rows import SessionRow

__all__ = ["sessions", "status"]

_STATE = ".tracelet"
_LEVELS = 2
_SHOWN_REFUSALS = 5


def status(
    logdir: Annotated[str | None, typer.Argument(metavar="LOGDIR", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    fleet: Annotated[
        str | None, typer.Option("--fleet", metavar="REDIS", help="Show the sessions that collectors deliver instead.")
    ] = None,
) -> None:
    """Show sessions, their runs and links, and what is delivered, pending and set aside, by tracker.

    LOGDIR is a log directory; default: those in ./runs and here.
    """
    if fleet is not None:
        from tracelet_shim.cli import _fleet

        _fleet.show(fleet, as_json=as_json)
        return
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for directory in _state_directories(logdir):
        try:
            found += sessions(directory)
        except errors.StateError as error:
            problems.append(f"cannot read the ledger: {error}")
        except (OSError, sqlite3.Error) as error:
            problems.append(f"cannot read the ledger in {directory}: {error}")
    for problem in problems:
        say(problem)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found, anything=bool(problems))
    if problems:
        raise typer.Exit(1)


def _state_directories(logdir: str | None) -> list[Path]:
    """Return the directories that have a ledger, or a ring: in the log directory and two levels below, and where the
    environment says."""
    from tracelet_shim.replay.rings import anything_left

    tops = [Path(logdir)] if logdir is not None else [Path("runs"), Path()]
    candidates = []
    named = os.environ.get("TRACELET_STATE_DIR")
    if named:
        candidates.append(Path(named).absolute())
    for top in tops:
        for level in range(_LEVELS + 1):
            with contextlib.suppress(OSError):
                candidates += sorted(top.glob("*/" * level + _STATE))
    found = {
        path.resolve(): path.absolute() for path in reversed(candidates) if (path / "ledger.db").is_file() or anything_left(path)
    }
    return list(reversed(found.values()))


def sessions(directory: Path, only: str | None = None) -> list[dict[str, Any]]:
    """Return the sessions in a state directory, the latest first, or only the one with this id, in the form of the JSON
    output. Those that were killed before their relay could note them are entered in the ledger.

    Raises:
        StateError: there is no ledger that can be read, or it has no session.
        OSError, sqlite3.Error: it cannot be read now.
    """
    from tracelet_shim.replay.rings import adopt
    from tracelet_shim.state.ledger import Ledger

    adopt(directory)
    ledger = Ledger(directory, existing=True)
    try:
        return [_about(ledger, session) for session in ledger.sessions() if only in (None, session.id)]
    finally:
        ledger.close()


def _about(ledger: Ledger, session: SessionRow) -> dict[str, Any]:
    from tracelet_shim.replay import missing, running

    root = str(ledger.directory.parent) if ledger.directory.name == _STATE else session.root
    runs_on = running(session, ledger.directory)
    left = missing(ledger, session, root, alive=runs_on)
    state = "running" if runs_on else session.status if session.ended is not None else "cut off"
    command = None
    if not runs_on and (left.anything or left.refused):
        command = f"tracelet-shim replay {quoted(root)} --resume {session.id}"
        if not left.backends:
            command += " --backend NAMES"
        if left.refused:
            command += " --retry-refused"
        if ledger.directory.name != _STATE:
            command = f"TRACELET_STATE_DIR={quoted(str(ledger.directory))} {command}"
    return {
        "session": session.id,
        "root": root,
        "project": session.project,
        "exp_name": session.exp_name,
        "status": state,
        "started": session.started,
        "ended": session.ended,
        "script": session.script,
        "host": session.host,
        "pid": session.pid,
        "runs": [
            {
                "backend": row.backend,
                "run_id": row.run_id,
                "url": row.url,
                "state": row.state,
                "delivered": row.delivered,
                "pending": left.pending.get(row.backend, 0) + left.tail,
                "set_aside": left.refused.get(row.backend, 0),
                "lost": sum(left.lost.get(row.backend, {}).values()),
                "error": row.error,
            }
            for row in left.rows
        ],
        "lost": [
            {"backend": backend, "file": path, "events": events}
            for backend, files in left.lost.items()
            for path, events in files.items()
        ],
        "set_aside": [
            dict(zip(("backend", "file", "position", "kind", "path", "step", "message"), refused, strict=True))
            for refused in ledger.refused(session.id)
        ],
        "not_recorded": left.tail,
        "resume": command,
    }


def _print(sessions: list[dict[str, Any]], *, anything: bool) -> None:
    from tracelet_shim.display.console import Console

    console = Console()
    if not sessions and not anything:
        console.print("no sessions found; name a log directory: tracelet-shim status LOGDIR")
    for session in sessions:
        _print_session(console, session)


def _print_session(console: Console, session: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    name = "/".join(part for part in (session["project"], session["exp_name"]) if part)
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(session["started"]))
    words = (session["session"], name, session["status"], f"started {started}", f"in {session['root']}")
    _line(console, " ".join(word for word in words if word))
    lost = ("lost",) if session["lost"] else ()
    table = Table("tracker", "state", "delivered", "pending", "set aside", *lost, "run", box=box.SIMPLE_HEAD)
    for row in session["runs"]:
        counts = (str(row[key]) for key in ("delivered", "pending", "set_aside", *lost))
        table.add_row(row["backend"], row["state"], *counts, row["url"] or row["run_id"] or "")
    console.print(table)
    for row in session["runs"]:
        if row["error"]:
            _line(console, f"  {row['backend']}: {row['error']}")
    for refused in session["set_aside"][:_SHOWN_REFUSALS]:
        _line(
            console,
            f"  set aside by {refused['backend']}: {refused['kind']} {refused['path'][:80]!r} at step {refused['step']}"
            f" ({refused['file']}, record {refused['position']}): {refused['message']}",
        )
    more = sum(row["set_aside"] for row in session["runs"]) - _SHOWN_REFUSALS
    if more > 0:
        _line(console, f"  and {more} more set aside; all of which the message is kept: tracelet-shim status --json")
    for lost in session["lost"]:
        _line(
            console,
            f"  lost for {lost['backend']}: {lost['events']} events: {lost['file']} has fewer records than were logged,"
            " or is gone",
        )
    if not session["runs"]:
        _line(console, "  it was killed before its trackers were noted")
    if session["not_recorded"]:
        _line(console, f"  the event files have {session['not_recorded']} records that were never handed over")
    if session["resume"]:
        _line(console, f"  to deliver what is missing: {session['resume']}")
    console.print()


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)
