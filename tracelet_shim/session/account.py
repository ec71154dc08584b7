"""What the user is told at the end: what did not arrive, and what becomes of it."""

from __future__ import annotations

import os

from tracelet_shim import errors, intercept
from tracelet_shim.bus import messages as msg
from tracelet_shim.common import run_report
from tracelet_shim.common.text import quoted
from tracelet_shim.display.terminal import say
from tracelet_shim.session.parts import Parts
from tracelet_shim.session.replies import Replies
from tracelet_shim.session.resume import leave_open, resume_command

__all__ = ["remedy", "tell", "too_late"]

_AT_WORK = ("opening", "open", "retrying")


def remedy(parts: Parts | None) -> str | None:
    """Return the command that delivers what is missing; None if nothing is that it could deliver."""
    if parts is None:
        return None
    return resume_command(parts.to_resume(), refused=any(state.refused for state in parts.states().values()))


def too_late(parts: Parts | None, replies: Replies, what: str) -> None:
    """Say of events that they are in the event files only, and let a resumed delivery find them there."""
    entries = parts.entries() if parts is not None else []
    for session, root in entries:
        problem = leave_open(session, root)
        if problem is not None:
            replies.warn(msg.Trouble(None, "ledger", problem))
    command = resume_command(root for _, root in entries)
    later = f"; to deliver them: {command}" if command is not None else ""
    replies.warn(msg.Trouble(None, "late", f"{what}; they are in the event files only{later}"))


def tell(parts: Parts, replies: Replies, session: str, *, answered: bool, strict: bool, at_exit: bool) -> None:
    """Say what did not arrive.

    Args:
        parts: all that the session delivers to; it has been closed.
        replies: what was said before.
        session: its id.
        answered: False if a relay did not say in time where it stands.
        strict: fail if anything is missing. A program that ends below `tracelet-shim run` leaves that to `run` where relays go on
            by themselves.
        at_exit: the program is ending.

    Raises:
        DeliveryError: under `strict`, if anything was not delivered.
    """
    late = parts.unsent()
    if parts.lingers:
        intercept.flush_files()  # the relay goes on with what they have
        if not answered:
            say("the relay has not answered yet; what is missing is told as of its last report, and may be less")
    elif answered and late:
        intercept.flush_files()  # so that they are there for a resumed delivery, however the program goes on
        too_late(parts, replies, f"{late} events were logged while the end waited, and came too late for the trackers")
    elif not answered and not replies.in_doubt:  # a relay that stands still, or died
        silent = "the relay did not answer at the end; what is missing is told as of its last report, and may be less"
        replies.warn(msg.Trouble(None, "silent", silent))
    states = {**replies.states, **parts.states()}
    missing = {name: state for name, state in states.items() if not state.complete}
    at_work = {name for name, state in missing.items() if parts.lingers and state.state in _AT_WORK}
    for name, state in missing.items():
        say(f"warning: {name}: {_left(state) if name in at_work else state.shortfall}")
    goes_on = _goes_on(parts, logged=any(state.missing for state in missing.values())) if at_work else ""
    if goes_on:
        say(goes_on)
    command = remedy(parts)
    if command is not None:
        say(f"what is missing {'after that' if goes_on else 'is in the event files; to deliver it'}: {command}")
    if not strict or not (missing or replies.in_doubt):
        return
    if at_exit and run_report.is_read() and at_work == set(missing) and not replies.in_doubt:
        run_report.add(session=session, strict=True)
        return
    counts = ", ".join(f"{name}: {state.missing or state.state}" for name, state in missing.items())
    later = f"; {goes_on}" if goes_on else f"; to deliver it: {command}" if command is not None else ""
    raise errors.DeliveryError(
        f"not everything was delivered ({counts or 'see the warnings above'}){later}",
        {name: state.missing for name, state in missing.items()},
    )


def _left(state: msg.BackendState) -> str:
    if state.missing:
        text = f"{state.missing} events are not there yet"
    else:
        text = f"its run is not {'open' if state.state == 'opening' else 'ended'} yet"
    return text + (f" ({state.error})" if state.error else "")


def _goes_on(parts: Parts, *, logged: bool) -> str:
    text = f"the relay goes on by itself, for up to {parts.lingers:.0f} s"
    if run_report.is_read():
        return f"{text}, and tracelet-shim run waits for it"
    directory = os.environ.get("TRACELET_STATE_DIR")
    state = f"TRACELET_STATE_DIR={quoted(os.path.abspath(directory))} " if directory else ""
    roots = dict.fromkeys(f" {quoted(root)}" for _, root in parts.entries() if "://" not in root)
    if not roots and logged:  # the relay has not said yet where the ledger is
        roots = {"": None}
    return "; ".join([text, *(f"how far it is: {state}tracelet-shim status{root}" for root in roots)])
