"""A command as a child process that the caller cannot tell from the command itself: terminal, signals, exit status.

The child is in the process group of this process, has its standard streams and every other open descriptor, and is started
without a shell. What differs from an ``exec`` is the process id.

All signals that can be passed on are blocked here and taken one by one (as tini, the init process of containers, does), so
that none is lost between two calls, and so that the kernel tells who sent it. What comes from the kernel, as Ctrl-C and
Ctrl-Z do, has gone to the whole process group: the child has it too. What another process sent may have been meant for
us alone: the child gets it from us.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from tracelet_shim.cli._waiting import flush

__all__ = ["Supervisor", "end_like"]

_FINAL = {signal.SIGKILL, signal.SIGSTOP}
_FAULTS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP}
_ANSWERS = {signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGXCPU, signal.SIGXFSZ}  # to what this process does
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_SAME_WISH = 1.0  # seconds
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


class Supervisor:
    """Starts the command.

    Args:
        command: the program and its arguments.
        environment: its environment.

    Raises:
        OSError: the command cannot be started.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the kernel keeps no exit status
        # What the caller has had ignored (`nohup`, a background job of a script) stays so, for the child as well.
        passed = signal.valid_signals() - _FINAL - _FAULTS - _ANSWERS
        self._latest = (0, 0.0)
        self._taken = {number for number in passed if signal.getsignal(number) != signal.SIG_IGN}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)
        if signal.SIGINT in self._taken:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # no KeyboardInterrupt between the fork and the command
        prepare = _preparation(mask)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - no shell: the arguments arrive as they were given
                command,
                env=environment,
                close_fds=False,  # a job server of make, a descriptor that the shell has opened
                preexec_fn=prepare,  # noqa: PLW1509 - there is one thread
            )
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise

    def wait(self) -> int:
        """Pass signals on until the command has ended; return its exit code, or the negative number of the signal that
        killed it."""
        while True:
            number, sent = self._next_signal()
            if number == signal.SIGCHLD:
                code = self._reap()
                if code is not None:
                    return code
                continue
            if sent and not self._again(number):
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it became another user's (sudo)
                    os.kill(self._process.pid, number)
            if number == signal.SIGTSTP:
                _stop()

    def _again(self, number: int) -> bool:
        """True if this is the same wish to end as a moment ago: `timeout`, schedulers and service managers signal the process
        that they started and then its whole group, which the command is in."""
        latest, self._latest = self._latest, (number, time.monotonic())
        return number in _ENDING and latest[0] == number and self._latest[1] - latest[1] < _SAME_WISH

    def _next_signal(self) -> tuple[int, bool]:
        """Wait for a signal; return it, and whether a process sent it."""
        if sys.platform == "darwin":  # it does not tell who sent it
            return signal.sigwait(self._taken), not os.isatty(0)
        info = signal.sigwaitinfo(self._taken)
        return info.si_signo, info.si_code <= 0

    def _reap(self) -> int | None:
        """Collect all children that have ended: in a container we may be the first process, which orphans are given to."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return None
                if pid == self._process.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
                    return self._process.returncode
        return None

    def pause(self, seconds: float) -> bool:
        """After the end of the command: wait; return False if someone wants us to end."""
        time.sleep(seconds)
        self._reap()
        return not signal.sigpending() & _ENDING


def _preparation(mask: set[int | signal.Signals]) -> Callable[[], None]:
    """Return what the child does before it becomes the command.

    It asks the kernel to be killed when this process dies, so that a SIGKILL does to the training what it did while the
    command had our process id. Only then does it look who its parent is: we may have died before it could ask. (The kernel
    forgets the wish when a program with more rights is executed, such as sudo.)
    """
    prctl, parent = _prctl(), os.getpid()

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):  # a Python without ctypes
        return None
    return prctl


def _stop() -> None:
    """Do what SIGTSTP does by default; if nobody could continue us (an orphaned process group), the kernel does nothing."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def end_like(code: int) -> NoReturn:
    """End this process with the exit code, or by the signal, that the command ended with."""
    flush()
    if code < 0:
        # The command has dumped core, if it was to; another core of ours would be of no use, and could take its name.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        prctl = _prctl()
        if prctl is not None:  # a handler of core dumps (systemd, apport) asks nobody for limits
            prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        code = 128 - code  # still here: the first process of a container is immune
    os._exit(code)
