"""`Session.use_artifact`: whom to ask, and what becomes of the answer."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tracelet_shim import errors
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend, RunInfo
from tracelet_shim.bus.fetching import Answer, Question, ask, ask_here
from tracelet_shim.eventfiles.own_records import ArtifactContent, UsedContent
from tracelet_shim.handle import downloads, records
from tracelet_shim.handle.recorder import Made, Recorder, Runs
from tracelet_shim.session.run_info import run_info
from tracelet_shim.session.settings import DEFAULT_BACKEND

if TYPE_CHECKING:
    from tracelet_shim.session.session import Session

__all__ = ["use"]

_OPENING = 60.0
"""Seconds that trackers may take to open their runs, before they are asked without."""
_REMEDY = "name one that a tracker has, as this calls it, and the tracker with from_=; or give it more time with timeout="


def use(session: Session, recorder: Recorder, name: str, tracker: str | None, timeout: float) -> Path:
    """Return the place of an artifact, and log that it is used. Arguments and errors as of `Session.use_artifact`."""
    until = time.monotonic() + timeout
    runs = session.active_runs() if session.active else ()
    own = recorder.logged(name) if tracker is None else None
    try:
        with downloads.making(recorder.downloads(runs)) as directory:
            kept = _kept(directory, name, own)
            giver, answer = kept or _first(session, runs, name, tracker, directory, until)
            path, digest = downloads.settle(directory, answer.path)
    except (OSError, ValueError) as error:
        if isinstance(error, errors.TraceletError):
            raise
        raise errors.ArtifactError(name, {"tracelet-shim": f"it has no place here: {error}"}, "make room for it") from error
    content = UsedContent(giver, answer.identity, digest)

    def make(_: Recorder, __: Runs) -> Iterable[Made]:
        yield Made(records.own(name, content, 0, time.time()))

    if session.active:
        recorder.take("use_artifact", make)
    return path


def _kept(directory: str, name: str, own: tuple[ArtifactContent, str] | None) -> tuple[str, Answer] | None:
    """Return what this session has of an artifact; None if it has none, or had it until every tracker had it."""
    if own is None:
        return None
    try:
        return "", Answer(downloads.fill(directory, name, *own))
    except FileNotFoundError:
        _empty(directory)
        return None


def _empty(directory: str) -> None:
    shutil.rmtree(directory)
    os.mkdir(directory, 0o700)


def _first(
    session: Session, runs: Runs, name: str, tracker: str | None, directory: str, until: float
) -> tuple[str, Answer]:
    """Return what the first tracker gives that has it, and its name."""
    names = [tracker.strip().lower()] if tracker is not None else list(dict.fromkeys(session.settings.backend))
    asked = {name: _class_of(session, name) for name in names or [DEFAULT_BACKEND]}
    problems: dict[str, str] = {}
    opened: dict[str, str] | None = None
    for giver, backend in asked.items():
        run = session.opened_as or run_info(session.id, session.settings, None)
        given = session.objects[giver].given if giver in session.objects else session.settings.options.get(giver, {})
        problem = _impossible(backend, given, run)
        if problem is not None:
            problems[giver] = problem
            continue
        if opened is None:
            opened = _opened(session, runs, until)
            run = session.opened_as or run
        run = msgspec.structs.replace(run, resume=opened.get(giver))
        question = Question(f"{backend.__module__}:{backend.__qualname__}", dict(given), run, name, directory)
        left = max(0.0, until - time.monotonic())
        here = session.settings.delivery == "thread" or giver in session.objects
        answer = ask_here(backend, question, left) if here else ask(question, left)
        if answer.problem is None:
            return giver, answer
        problems[giver] = answer.problem
        if not answer.missing:  # it may have it: another tracker's could be another one
            break
        _empty(directory)
    raise errors.ArtifactError(name, problems, _REMEDY)


def _class_of(session: Session, name: str) -> type[Backend]:
    return type(session.objects[name]) if name in session.objects else registry.find(name)


def _impossible(backend: type[Backend], given: Any, run: RunInfo) -> str | None:
    try:
        backend.check(offline=run.offline, options=given)
        return backend.cannot_fetch(backend.parsed(given), run)
    except errors.TraceletError as error:
        return str(error)


def _opened(session: Session, runs: Runs, until: float) -> dict[str, str]:
    """Return the ids of the runs that are open, by tracker: the user's own, else the session's."""
    if not (session.active or session.has_begun):
        return {}
    found = session.wait_opened(min(_OPENING, max(0.0, until - time.monotonic())) if session.active else 0.0)
    return {name: one.run_id for name, one in found.items()} | dict(runs)
