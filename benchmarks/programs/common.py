"""What the programs share."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Measure as the first argument says, and write the result where the second one says."""
    Path(sys.argv[2]).write_text(json.dumps(measure(json.loads(sys.argv[1]))))


def cpu() -> float:
    """Return the processor time of this process so far, in seconds, all threads, no children."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def relay_pid() -> int | None:
    """Return the pid of our relay process."""
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"tracelet_shim.relay" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


def descendants(pid: int) -> list[int]:
    """Return the pids of what a process has started, and what that has started, as far as it is still there."""
    found = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    except OSError:
        pass  # it has just ended
    return found


def processor_time(pid: int | None) -> float:
    """Return the processor time of another process so far, in seconds, and of its descendants."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    return own + sum(processor_time(int(child)) for child in children)
