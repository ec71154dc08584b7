"""What sessions tell the ``tracelet-shim run`` above them, so that it can wait for deliveries and sum up.

One JSON line an entry, appended to a file that `run` has made and named in the environment. Entries are

    {"began": session, "pid": ..., "trackers": [...], "linger": ...}    a session's runs are being opened
    {"relay": pid, "of": pid}                            the process that serves the process `of`
    {"collected": key, "of": pid}                        the collector of this machine was asked to serve the process `of`
    {"served": key, "relay": pid}                        the process that does so, which serves others as well
    {"served": key, "ended": true}                       the session has ended there
    {"session": ..., "directory": ...}                   where its ledger is
    {"session": ..., "trouble": ...}                     something that makes delivery doubtful, whatever the ledger says
    {"session": ..., "runs": [...]}                      the end of what no ledger has
    {"session": ..., "told": true}                       the page of the CI job has its summary
    {"session": ..., "strict": true}                     it left to `run` to fail if something is missing in the end
    {"unseen": ..., "pid": ...}                          a process has writers that we see nothing of, so no session began
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from tracelet_shim.common.system import O_BINARY, O_CLOEXEC, is_there

__all__ = ["VARIABLE", "add", "is_alive", "is_read", "pass_on", "read", "report_to"]

VARIABLE = "_TRACELET_REPORT"
"""Environment variable: path of the file."""

_LONGEST = 500


_of_thread = threading.local()


def report_to(path: str | None) -> None:
    """In a process that serves sessions of many programs: what this thread adds belongs to this report, or to none."""
    _of_thread.path = path


def add(**entry: Any) -> None:
    """Append an entry, with the time; nothing happens if there is no `run` above this process, or not on this machine."""
    path: str | None = getattr(_of_thread, "path", os.environ.get(VARIABLE))
    if not path:
        return
    entry = {name: value[:_LONGEST] if name in ("trouble", "unseen") else value for name, value in entry.items()}
    _append(path, json.dumps({**entry, "at": time.time()}).encode() + b"\n")


def is_read() -> bool:
    """True if there is a `run` above this process, which waits for the relays and sums up."""
    path = os.environ.get(VARIABLE)
    return bool(path) and os.path.exists(str(path))


def pass_on(path: str) -> None:
    """Append what is in the file to that of the `run` above this one."""
    above = os.environ.get(VARIABLE)
    if above:
        _append(above, Path(path).read_bytes())


def _append(path: str, lines: bytes) -> None:
    with contextlib.suppress(OSError):  # never made here: a file that is gone means that nobody waits any more
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | O_BINARY | O_CLOEXEC)
        try:
            os.write(fd, lines)  # in one piece, so that the lines of several processes do not mix
        finally:
            os.close(fd)


def read(path: str) -> list[dict[str, Any]]:
    """Return the entries so far; a line that was cut off by a full disk is left out."""
    entries = []
    for line in Path(path).read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def is_alive(pid: int, started: float) -> bool:
    """Return whether the process that had this id at this time still runs."""
    if pid == 0:
        return False
    if not is_there(pid):
        return False
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(float(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, ValueError, StopIteration):
        return True
    since = boot + int(fields[18]) / os.sysconf("SC_CLK_TCK")
    return state != "Z" and since < started + 2.0  # else it has ended, and its id was given to another one
