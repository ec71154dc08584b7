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

from tracelet_shim._text import quoted

if TYPE_CHECKING:
    from rich.console import Console

    from tracelet_shim.ledger import Ledger, SessionRow

__all__ = ["sessions", "status"]

_STATE = ".tracelet"
_LEVELS = 2
_SHOWN_REFUSALS = 5


def status(
    logdir: Annotated[
        str | None, typer.Argument(metavar="[LOGDIR]", help="A log directory; default: those in ./runs and here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show sessions, their runs and links, and what is delivered, pending and set aside, by tracker."""
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for directory in _state_directories(logdir):
        try:
            found += sessions(directory)
        except (OSError, sqlite3.Error) as error:
            problems.append(f"{directory}: {error}")
    for problem in problems:
        typer.echo(f"tracelet-shim: cannot read the ledger in {problem}", err=True)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    if problems:
        raise typer.Exit(1)


def _state_directories(logdir: str | None) -> list[Path]:
    """Return the directories that have a ledger: in the log directory and two levels below, and where the environment
    says."""
    tops = [Path(logdir)] if logdir is not None else [Path("runs"), Path()]
    candidates = []
    named = os.environ.get("TRACELET_STATE_DIR")
    if named:
        candidates.append(Path(named).absolute())
    for top in tops:
        for level in range(_LEVELS + 1):
            with contextlib.suppress(OSError):
                candidates += sorted(top.glob("*/" * level + _STATE))
    found = {path.resolve(): path.absolute() for path in reversed(candidates) if (path / "ledger.db").is_file()}
    return list(reversed(found.values()))


def sessions(directory: Path, only: str | None = None) -> list[dict[str, Any]]:
    """Return the sessions in a state directory, the latest first, or only the one with this id, in the form of the JSON
    output.

    Raises:
        OSError, sqlite3.Error: there is no ledger that can be read.
    """
    from tracelet_shim.ledger import Ledger

    ledger = Ledger(directory)
    try:
        return [_about(ledger, session) for session in ledger.sessions() if only in (None, session.id)]
    finally:
        ledger.close()


def _about(ledger: Ledger, session: SessionRow) -> dict[str, Any]:
    from tracelet_shim.replay import missing, running

    root = str(ledger.directory.parent) if ledger.directory.name == _STATE else session.root
    runs_on = running(session, ledger.directory)
    left = None if runs_on else missing(ledger, session, root)
    rows = ledger.runs(session.id)
    state = "running" if runs_on else session.status if session.ended is not None else "cut off"
    command = None
    if left is not None and left.anything:
        command = f"tracelet-shim replay {quoted(root)} --resume {session.id}"
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
                "pending": 0 if row.cursor >= session.records else max(1, session.events - row.delivered - row.failed),
                "set_aside": row.failed,
                "error": row.error,
            }
            for row in rows
        ],
        "set_aside": [
            dict(zip(("backend", "file", "position", "kind", "path", "step", "message"), refused, strict=True))
            for refused in ledger.refused(session.id)
        ],
        "not_recorded": left.tail if left is not None else False,
        "resume": command,
    }


def _print(sessions: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # in a file or a pipe, a wrapped command line is of no use
    if not sessions:
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
    table = Table("tracker", "state", "delivered", "pending", "set aside", "run", box=box.SIMPLE_HEAD)
    for row in session["runs"]:
        counts = (str(row[key]) for key in ("delivered", "pending", "set_aside"))
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
    more = len(session["set_aside"]) - _SHOWN_REFUSALS
    if more > 0:
        _line(console, f"  and {more} more set aside; all of them: tracelet-shim status --json")
    if session["not_recorded"]:
        _line(console, "  the event files have records that were never handed over")
    if session["resume"]:
        _line(console, f"  to deliver what is missing: {session['resume']}")
    console.print()


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)
