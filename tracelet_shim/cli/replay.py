"""``tracelet-shim replay LOGDIR``: deliver event files that are there already."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from tracelet_shim import errors
from tracelet_shim.cli._command import tracker_options
from tracelet_shim.common.text import quoted
from tracelet_shim.display.printable import printable
from tracelet_shim.display.terminal import say

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tracelet_shim.replay import Outcome, Progress

__all__ = ["replay"]

_LINE_SECONDS = 5.0
_SHOWN = 50  # files that could not be read


def replay(
    logdir: Annotated[str, typer.Argument(metavar="LOGDIR", hidden=True)],
    session: Annotated[str | None, typer.Argument(metavar="SESSION", hidden=True)] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="Trackers, comma separated: mlflow,wandb.", metavar="NAMES")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", metavar="NAME", help="Project (MLflow: experiment).")] = None,
    exp_name: Annotated[
        str | None,
        typer.Option("--exp-name", "-n", metavar="NAME", help="Display name of the run; default: the directory's name."),
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="ID", help="Id of the run, to resume it under later.")] = None,
    tags: Annotated[str | None, typer.Option("--tags", metavar="TAGS", help="Tags, comma separated: nightly,seed=3.")] = None,
    notes: Annotated[str | None, typer.Option("--notes", metavar="TEXT", help="Free text.")] = None,
    offline: Annotated[
        bool | None, typer.Option("--offline/--no-offline", help="Use no network, on trackers that can do without.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="TRACKER.KEY=VALUE", help="An option of a tracker; can be repeated."),
    ] = None,
    root: Annotated[
        str | None, typer.Option("--root", metavar="DIR", help="Directory that writers are named relative to; default: LOGDIR.")
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="Make each sub-directory a run of its own.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as files grow, until Ctrl-C or --idle.")] = False,
    idle: Annotated[
        float | None, typer.Option("--idle", metavar="SECONDS", help="With --follow: end after so many seconds without news.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue sessions: the same runs, and only what is missing.")
    ] = False,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="With --resume: offer what a tracker refused to it again.")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="With --resume: deliver from here what collectors were to have from a Redis.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Give a tracker up that does not move for so many seconds."),
    ] = None,
) -> None:
    """Deliver LOGDIR, a TensorBoard log directory, ours or ten years old, to any trackers.

    SESSION goes with --resume: which one is to be continued; without it, all that are not complete.

    Exit code: 0 if everything was delivered, 1 if a file is damaged or cannot be read, 2 if something was not delivered or
    nothing was found.
    """
    names = {"--project": project, "--exp-name": exp_name, "--run-id": run_id, "--tags": tags, "--notes": notes}
    given = [name for name, value in names.items() if value is not None]
    if resume and (given or follow or root is not None):
        wrong = [*given, *(["--follow"] if follow else []), *(["--root"] if root is not None else [])]
        _refuse(f"{', '.join(wrong)}: --resume continues a session as it was started")
    if session is not None and not resume:
        _refuse(f"{session!r}: a session is named with --resume only")
    if retry_refused and not resume:
        _refuse("--retry-refused goes with --resume")
    if direct and not resume:
        _refuse("--direct goes with --resume")
    named = run_id or exp_name or root or session or os.environ.get("TRACELET_RUN_ID")
    if runs and (follow or named):
        _refuse("--runs goes with none of --follow, --run-id, --exp-name, --root: each sub-directory is a run, named after it")
    if idle is not None and not follow:
        _refuse("--idle goes with --follow")
    try:
        options = tracker_options(option or [])
    except errors.ConfigurationError as error:
        _refuse(str(error))
    arguments: dict[str, Any] = {
        "backend": backend, "project": project, "exp_name": exp_name, "run_id": run_id, "tags": tags, "notes": notes,
        "offline": offline, "options": options, "root": root, "exit_timeout": timeout,
        "delivery": "process" if direct else None,
    }  # fmt: skip
    os.environ["TRACELET_DISABLED"] = "1"  # what an SDK does with TensorBoard is not for us, here or in its children
    _finish(_Job(session, arguments, resume, retry_refused, runs, follow, idle).run(logdir))


class _Job(NamedTuple):
    """What is to be done, with one directory or several: the options."""

    session: str | None
    arguments: dict[str, Any]
    resume: bool
    retry_refused: bool
    runs: bool
    follow: bool
    idle: float | None

    def run(self, logdir: str) -> int:
        """Do it; return the exit code."""
        code = 0
        logdir = os.path.abspath(logdir)
        with _View() as view:
            try:
                places, refused = self._places(logdir)
                for path, problem in refused:
                    view.say(f"warning: {path}: {problem}")
                    code = 1
                for place, recursive in places:
                    if view.stopped():
                        break
                    if self.runs:
                        view.say(f"-- {os.path.relpath(place, logdir)}")
                    try:
                        code = max(code, self._do(place, view, recursive=recursive))
                    except errors.StateError as error:  # of this directory
                        view.say(f"error: {error}")
                        code = 2
            except errors.TraceletError as error:
                view.say(f"error: {error}")
                return 2
            except sqlite3.Error as error:
                view.say(f"error: the ledger cannot be read: {error}")
                return 2
        return code

    def _places(self, logdir: str) -> tuple[list[tuple[str, bool]], list[tuple[str, str]]]:
        """Return the directories that are runs, and those that are not gone into, with the reason."""
        from tracelet_shim import replay as engine

        if not os.path.isdir(logdir):
            raise errors.ConfigurationError(f"{logdir} is no directory")
        if not self.runs:
            return [(logdir, True)], []
        refused: list[tuple[str, str]] = []
        places = engine.run_directories(logdir, lambda *what: refused.append(what), sessions=self.resume)
        if not places:
            raise errors.StateError(f"no sub-directory of {logdir} has event files{' or a session' if self.resume else ''}")
        return places, refused

    def _do(self, place: str, view: _View, *, recursive: bool) -> int:
        from tracelet_shim import replay as engine

        if not self.resume:
            if self.runs:
                self.arguments["exp_name"] = os.path.basename(place)
            return _account(
                engine.replay(
                    place, self.arguments, view, recursive=recursive, follow=self.follow, idle=self.idle
                ), view
            )  # fmt: skip
        outcomes = engine.resume(
            place, self.arguments, view, session=self.session, retry_refused=self.retry_refused
        )  # fmt: skip
        if not outcomes:
            backend = self.arguments["backend"]
            whom = f" for {backend}" if backend else ""
            view.say(f"nothing to resume in {place}{whom}: everything has been delivered")
        return max((_account(outcome, view) for outcome in outcomes), default=0)


def _account(outcome: Outcome, view: _View) -> int:
    """Say how it went; return the exit code."""
    if outcome.problem is not None:
        view.say(f"error: {outcome.problem}")
        return 2
    for damage in outcome.damages[:_SHOWN]:
        view.say(f"warning: {damage}")
    if len(outcome.damages) > _SHOWN:
        view.say(f"warning: and {len(outcome.damages) - _SHOWN} more that could not be read")
    for name, state in outcome.states.items():
        error = f" ({state.error})" if state.error else ""
        lost = f", {state.lost} lost" if state.lost else ""
        refused = state.failed - state.lost
        view.say(f"{name}: {state.delivered} events delivered, {state.pending} pending, {refused} set aside{lost}{error}")
    for name, files in outcome.lost.items():
        for path, events in files.items():
            view.say(f"{name}: {events} events are lost: {path} has fewer records than were logged, or is gone")
    command = f"tracelet-shim replay {quoted(outcome.root)} --resume"
    if any(state.pending or state.state != "closed" for state in outcome.states.values()):
        view.say(f"to deliver the rest: {command}")
    for name, events in outcome.refused.items():
        view.say(f"{events} events were refused by {name} and are set aside; to offer them again: {command} --retry-refused")
    return 2 if outcome.undelivered else int(bool(outcome.damages))


def _refuse(problem: str) -> NoReturn:
    say(problem)
    raise typer.Exit(2)


def _finish(code: int) -> NoReturn:
    """End at once: every run has been closed, or given up with a message, and SDKs' own exit handlers may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _View:
    """Shows the progress: bars on a terminal, a line every few seconds elsewhere. Ctrl-C and SIGTERM end in good order; the
    second of them ends at once."""

    def __init__(self) -> None:
        from tracelet_shim.display.console import Console

        self._console = Console(stderr=True, soft_wrap=True)
        self._bars: Any = None
        self._tasks: dict[str, TaskID] = {}
        self._stopped = False
        self._next_line = time.monotonic() + _LINE_SECONDS
        self._line = ""

    def __enter__(self) -> _View:  # noqa: PYI034 - nobody subclasses it
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, console=self._console, transient=True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._stopped:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped

    def say(self, line: str) -> None:
        self._console.print(f"tracelet-shim: {line}")

    def progress(self, progress: Progress) -> None:
        if self._bars is not None:
            self._show("reading", progress.read, progress.size)
            for name, state in progress.states.items():
                done = state.delivered + state.failed
                label = name if state.state == "open" else f"{name} ({state.state})"
                self._show(name, done, done + state.pending, label)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            states = [f"{name}: {s.delivered} delivered, {s.pending} pending" for name, s in progress.states.items()]
            line = "; ".join([f"read {progress.read / 1e6:.1f} of {progress.size / 1e6:.1f} MB", *states])
            if line != self._line:  # a tracker that is down moves nothing for hours
                self.say(line)
            self._line = line

    def _show(self, name: str, completed: int, total: int, label: str | None = None) -> None:
        label = printable(label or name)
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(label)
        self._bars.update(self._tasks[name], completed=completed, total=max(total, 1), description=label)
