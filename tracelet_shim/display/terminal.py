"""What a person sees of a session on standard error: lines, and bars."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tracelet_shim.display.printable import printable

if TYPE_CHECKING:
    from tracelet_shim.bus.messages import BackendState

__all__ = ["Drain", "say"]

_NOTICEABLE = 1.0  # seconds that the end may take without a word

logger = logging.getLogger("tracelet_shim")

_console: Any = None  # of the bars that are on the terminal


def say(line: str) -> None:
    """One line for the user. Standard error may be closed or full: that must not reach the training."""
    console, line = _console, printable(line)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if console is not None:  # then lines go above the bars
            console.print(f"tracelet-shim: {line}", soft_wrap=True)
            return
        sys.stderr.write(f"tracelet-shim: {line}\n")
        sys.stderr.flush()


class Drain:
    """Shows on standard error that the end is waiting for deliveries, once it takes noticeable time: a bar a tracker on a
    terminal, one line elsewhere.

    Nothing here may fail the end of a training, or start a thread, which the interpreter refuses at its shutdown.

    Args:
        states: returns where each tracker stands.
        seconds: how long the end may take.
        quiet: show nothing.
    """

    def __init__(self, states: Callable[[], Mapping[str, BackendState]], seconds: float, *, quiet: bool) -> None:
        self._states = states
        self._seconds = seconds
        self._quiet = quiet
        self._since = time.monotonic()
        self._before = {name: _done(state) for name, state in states().items()}
        self._shown = False
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def show(self) -> None:
        """Bring what is shown up to date; to be called a few times a second."""
        if self._quiet or (self._shown and self._bars is None) or time.monotonic() - self._since < _NOTICEABLE:
            return
        pending = sum(state.pending for state in self._states().values())
        if not self._shown and pending == 0:
            return
        try:
            if not self._shown:
                self._bars = _new_bars(self._seconds)
            if self._bars is not None:
                self._update()
        except Exception:
            logger.debug("no bars can be shown", exc_info=True)
            self._give_up()
            self._shown = False
        if not self._shown and self._bars is None:
            say(f"delivering {pending} more events, for up to {self._seconds:.0f} s")
        self._shown = True

    def close(self) -> None:
        """Leave the bars as they stand at last."""
        if self._bars is None:
            return
        try:
            self._update()
            self._bars.stop()
        except Exception:
            logger.debug("the bars could not be ended", exc_info=True)
        self._give_up()

    def _update(self) -> None:
        for name, state in self._states().items():
            done = _done(state) - self._before.get(name, 0)
            if name not in self._tasks:
                if not state.pending:
                    continue
                self._tasks[name] = self._bars.add_task(printable(name))
            label = name if state.state in ("open", "closed") else f"{name} ({state.state})"
            self._bars.update(self._tasks[name], completed=done, total=done + state.pending, description=printable(label))
        self._bars.refresh()

    def _give_up(self) -> None:
        global _console
        self._bars = _console = None


def _done(state: BackendState) -> int:
    return state.delivered + state.failed


def _new_bars(seconds: float) -> Any:
    """Return bars that have been put on the terminal; None where there is none, or one that cannot show them."""
    global _console
    if not sys.stderr.isatty():
        return None
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from tracelet_shim.display.console import Console

    console = Console(file=sys.stderr)
    if not console.is_interactive:
        return None
    columns = (TextColumn("tracelet-shim: {task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    bars = Progress(
        *columns, TextColumn(f"for up to {seconds:.0f} s"), console=console, auto_refresh=False, redirect_stdout=False,
        redirect_stderr=False,
    )  # fmt: skip
    bars.start()
    console.show_cursor(show=True)  # who is killed now cannot give it back
    _console = console
    return bars
