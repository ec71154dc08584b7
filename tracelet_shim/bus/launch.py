"""How the relay process is started: its command line, its environment, and the pipe in which SIGTERM leaves a mark."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from tracelet_shim.common.began import began_at
from tracelet_shim.common.system import after_fork

__all__ = ["RelayDiedError", "module_command", "relay_command", "relay_environment", "sigterm_mark"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FLAGS = {"I": "isolated", "E": "ignore_environment", "s": "no_user_site"}
"""What the training process's interpreter does not look at, the relay's does not look at either."""


class RelayDiedError(Exception):
    """The relay process ended, or could not be started.

    Attributes:
        started: False if it cannot run here: it ended by itself before it said hello. Then nothing has been sent yet.
        refused: the collector of this machine has not taken the session, which is to have a process of its own.
    """

    def __init__(self, reason: str, *, started: bool, refused: bool = False) -> None:
        self.started = started
        self.refused = refused
        super().__init__(reason)


def _above_standard(fd: int) -> int:
    """Return a descriptor above 2: where a program runs with closed standard streams, new ones take their numbers, and
    the child's own would be laid over them."""
    if fd > 2:
        return fd
    import fcntl

    higher = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


_mark: tuple[int, int] | None = None
"""Read and write end of the pipe in which SIGTERM leaves its mark; for the life of the process, whatever relays come."""


def sigterm_mark() -> int:
    """Return the end of a pipe that can be read when this process has got SIGTERM; then what would have happened without
    us happens.

    `faulthandler` does this in C, without a Python signal handler: `signal.getsignal` is what it was, and a process that
    is busy in C code dies as fast as ever. It is never unregistered: that would put back the handler of the time of
    registration, and so take away one that the program has set since.
    """
    global _mark
    if _mark is None:
        read, write = (_above_standard(fd) for fd in os.pipe())
        os.set_blocking(write, False)  # nothing may wait in a signal handler
        _mark = (read, write)
        with contextlib.suppress(RuntimeError, ValueError, OSError, AttributeError):  # no such signal on this system
            faulthandler.register(signal.SIGTERM, file=write, all_threads=False, chain=True)
        after_fork(_unmark)
    return _mark[0]


def _unmark() -> None:
    """In a forked child: its SIGTERM is not the parent's. The number stays in use, or another file would get the mark."""
    if _mark is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, _mark[1], inheritable=False)
        os.close(null)


def relay_command(term_read: int) -> list[str]:
    """Return the command line of the relay."""
    return module_command("tracelet_shim.relay", str(os.getpid()), str(term_read))


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of ours, in a process that imports as this one does.

    Raises:
        RelayDiedError: there is nothing to run it with.
    """
    if not sys.executable or getattr(sys, "frozen", False) or not os.access(sys.executable, os.X_OK):
        raise RelayDiedError(f"no Python interpreter to start it with (sys.executable is {sys.executable!r})", started=False)
    flags = [f"-{flag}" for flag, name in _FLAGS.items() if getattr(sys.flags, name)]
    start = os.path.join(_PACKAGE, "relay", "_start.py")
    return [sys.executable, *flags, start, "-m", module, *arguments]


def relay_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the relay's environment: the user's, never activated itself, with our import path, in its order.

    The script's own directory goes to the end of the path: a ``wandb/`` folder or a ``click.py`` beside the user's script
    must not stand in front of a package that an SDK imports. PYTHONPATH would also reach what an SDK starts.
    """
    new = {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME")}
    if "PYTHONHOME" in environment:
        new["PYTHONHOME"] = environment["PYTHONHOME"]
    if new.get("TRACELET_STATE_DIR"):  # the relay begins where the program is now
        new["TRACELET_STATE_DIR"] = os.path.join(began_at(), new["TRACELET_STATE_DIR"])
    entries: list[Any] = list(sys.path)
    path = [entry or _cwd() for entry in entries if isinstance(entry, str)]  # Python itself passes over what is no str
    own = _own_directory()
    if own in path and not _is_library(own):
        path.remove(own)
        path.append(own)
    home = os.path.dirname(_PACKAGE)  # with the packages that ours needs, if it is on no path any more
    new["_TRACELET_PATH"] = json.dumps(list(dict.fromkeys([*path, home])))
    new["TRACELET_DISABLED"] = "1"
    return new


def _own_directory() -> str:
    """Return the directory that Python itself has put in front of the path: the script's, else the working directory of then,
    which a module run with ``-m`` was found in."""
    if getattr(sys.flags, "safe_path", False):
        return ""
    main = sys.modules.get("__main__")
    file: str | None = getattr(main, "__file__", None)
    spec: Any = getattr(main, "__spec__", None)
    if not file:
        return _cwd()
    if spec is None:
        return os.path.dirname(os.path.realpath(file))
    found = os.path.abspath(file)
    for _ in range(spec.name.count(".") + 1):
        found = os.path.dirname(found)
    return _cwd() if _is_library(found) else found


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return os.sep


def _is_library(path: str) -> bool:
    return path.endswith((".zip", "site-packages", "dist-packages")) or path.rstrip("/").startswith(sys.base_prefix)
