"""What became of the sessions of a command, for the end of ``tracelet-shim run``."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelet_shim import errors
from tracelet_shim.common import run_report
from tracelet_shim.display.terminal import say

if TYPE_CHECKING:
    from tracelet_shim.bus.messages import BackendState

__all__ = ["accounts", "print_summary", "tell_job", "wait_for_relays"]

_SHOWN = 10
_TICK = 0.1
_NOTICEABLE = 1.0
_SLACK = 5.0
"""Seconds that a relay may take to write down its end."""


def wait_for_relays(path: str, seconds: float, pause: Callable[[float], bool]) -> bool:
    """Wait until what serves training processes that are gone has ended; return whether it has.

    A relay process outlives a program that was killed, and delivers what it has. A CI job kills what is left of a step when
    the step ends, so the step must not end before that.

    Args:
        path: the report.
        seconds: how long to wait at most; more, if a session's relay may `linger` longer.
        pause: waits so many seconds; returns False if the waiting should end.
    """
    start = time.monotonic()
    said = False
    seconds = max([seconds, *(entry["linger"] for entry in run_report.read(path) if "began" in entry)])
    while _are_left_alone(run_report.read(path)):
        waited = time.monotonic() - start
        if waited >= seconds + _SLACK:
            return False
        if waited >= _NOTICEABLE and not said:
            said = True
            say(f"waiting for what a program has left to deliver, for up to {seconds:.0f} s")
        if not pause(_TICK):
            return False
    return True


def _are_left_alone(entries: list[dict[str, Any]]) -> bool:
    """True if something is delivered for a program that is gone."""
    hosts = {entry["served"]: entry for entry in entries if "served" in entry and "relay" in entry}
    ended = {entry["served"] for entry in entries if "served" in entry and "ended" in entry}
    own = [(entry, entry) for entry in entries if "relay" in entry and "of" in entry]
    handed = [entry for entry in entries if "collected" in entry and entry["collected"] not in ended]
    collected = [(hosts[entry["collected"]], entry) for entry in handed if entry["collected"] in hosts]
    return any(
        run_report.is_alive(relay["relay"], relay["at"]) and not run_report.is_alive(of["of"], of["at"])
        for relay, of in own + collected
    )


class Account:
    """A session, as far as the report and its ledger tell.

    Args:
        session: its id.
        entries: what the report has of it.

    Attributes:
        name: project and name of the run, where it has them.
        runs: by tracker, what `tracelet-shim status` says; None if nothing is known.
        troubles: why something may be missing, whatever the counts say.
        resume: the command that delivers what is missing.
        told: True if the session itself has told the CI job.
        strict: True if the session left it to `run` to fail if something is missing.
    """

    def __init__(self, session: str, entries: list[dict[str, Any]]) -> None:
        self.session = session
        self.name = ""
        self.told = self.strict = False
        self.resume: str | None = None
        self.runs: dict[str, dict[str, Any] | None] = {}
        self.troubles: list[str] = []
        directory = None
        began: dict[str, Any] = {}
        for entry in entries:
            if "began" in entry:
                began = entry
                self.runs = dict.fromkeys(entry["trackers"])
            self.runs.update({run["backend"]: run for run in entry.get("runs", ())})
            directory = entry.get("directory", directory)
            self.told = self.told or "told" in entry
            self.strict = self.strict or "strict" in entry
            self.troubles += [entry["trouble"]] if "trouble" in entry else []
        if directory is not None:
            self._look_up(directory)
        elif run_report.is_alive(began["pid"], began["at"]):
            self.troubles.append("it is still running")

    def _look_up(self, directory: str) -> None:
        from tracelet_shim.cli.status import sessions

        try:
            if not Path(directory, "ledger.db").is_file():
                raise FileNotFoundError("it is gone")
            (about,) = sessions(Path(directory), self.session)
        except (OSError, sqlite3.Error, ValueError, errors.StateError) as error:
            self.troubles.append(f"the ledger in {directory} cannot be read ({error})")
            return
        self.name = "/".join(part for part in (about["project"], about["exp_name"]) if part)
        self.runs.update({run["backend"]: run for run in about["runs"]})
        self.resume = about["resume"]
        for lost in about["lost"]:
            what = f"{lost['events']} events are lost: {lost['file']} has fewer records than were logged, or is gone"
            self.troubles.append(f"{lost['backend']}: {what}")
        if about["not_recorded"]:
            self.troubles.append(f"the event files have {about['not_recorded']} records that were never handed over")
        if about["status"] == "running":
            self.troubles.append("it is still running")
        elif about["status"] == "cut off":
            self.troubles.append("it was cut off")

    @property
    def complete(self) -> bool:
        """True if every tracker has everything, and its run was ended."""
        return not self.troubles and all(run is not None and _state(run).complete for run in self.runs.values())


def _state(run: dict[str, Any]) -> BackendState:
    from tracelet_shim.bus.messages import BackendState

    failed = run["set_aside"] + run["lost"]
    return BackendState(run["state"], run["delivered"], run["pending"], failed, run["error"], lost=run["lost"])


def accounts(path: str) -> list[Account]:
    """Return the sessions that began, in that order."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in run_report.read(path):
        if "began" in entry:
            entries[entry["began"]] = [entry]
        elif entry.get("session") in entries:
            entries[entry["session"]].append(entry)
    return [Account(session, found) for session, found in entries.items()]


def tell_job(found: list[Account], environment: Mapping[str, str], *, quiet: bool) -> None:
    """Tell the CI job of the sessions that could not: their programs were killed."""
    from tracelet_shim.provenance import ci

    for account in found:
        runs = {name: run for name, run in account.runs.items() if run is not None}
        if account.told or not runs:
            continue
        states = {name: _state(run) for name, run in runs.items()}
        urls = {name: run["url"] for name, run in runs.items()}
        title = account.name or account.session
        ci.tell(environment, title, urls, states, account.resume, quiet=quiet)


def print_summary(found: list[Account], *, quiet: bool) -> None:
    """Print each session with its runs; with `quiet`, only those that are not complete. Of very many, those that are
    complete are counted."""
    complete = [account for account in found if account.complete]
    shown = [] if quiet else complete[:_SHOWN]
    for account in found:
        if account in shown or not account.complete:
            _print(account)
    if not quiet and len(complete) > _SHOWN:
        say(f"and {len(complete) - _SHOWN} more sessions with everything delivered; all of them: tracelet-shim status")


def _print(account: Account) -> None:
    say(f"session {account.session}" + (f" ({account.name})" if account.name else ""))
    for backend, run in account.runs.items():
        if run is None:
            say(f"  {backend}: nothing is known of it")
            continue
        counts = f"{run['delivered']} delivered, {run['pending']} pending, {run['set_aside']} set aside"
        counts += f", {run['lost']} lost" if run["lost"] else ""
        state = "" if run["state"] == "closed" else f" ({run['state']})"
        error = f" ({run['error']})" if run["error"] and not account.complete else ""
        say(f"  {backend}{state}: {counts}: {run['url'] or run['run_id'] or 'no run was opened'}{error}")
    for trouble in account.troubles:
        say(f"  warning: {trouble}")
    if account.resume is not None and not account.complete:
        say(f"  to deliver what is missing: {account.resume}")
