"""Who comes first where there are too few processors.

Training does, as long as it goes on and does not wait for us: then this process steps back. While its program waits (a run is
being opened, a flush, the end), what delays this process delays the program, and it stands where the program stands.

So only what can be taken back will do. Linux shares processors out among sessions before it looks at the processes in one
(``man 7 sched``, the autogroup feature); this process has a session of its own, and may raise and lower the nice value of that,
from 0 to 19. The nice value of a process counts within a session, or where there is no such feature (containers mostly); to lower
it again takes CAP_SYS_NICE or RLIMIT_NICE. Who has neither competes with the training as its equal there: as the SDK would if the
program itself used it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

__all__ = ["Priority"]

_NICENESS = 5
_AUTOGROUP = Path("/proc/self/autogroup")


class Priority:
    """The priority of this process and of all that its SDKs start."""

    def __init__(self) -> None:
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        self._leads = os.getpgrp() == os.getpid() and _may_return(self._usual)
        self._has_group = os.getsid(0) == os.getpid() and _AUTOGROUP.exists()  # else it is the group of others, too
        self._is_back = False

    def step_back(self, *, back: bool) -> None:
        """Let training come first, or stand beside it again; to be called often: the kernel may put one off for a moment."""
        if back == self._is_back:
            return
        if self._leads:
            with contextlib.suppress(OSError):  # an SDK's process that belongs to somebody else
                os.setpriority(os.PRIO_PGRP, 0, min(19, self._usual + _NICENESS * back))  # all threads of all processes
        if self._has_group:
            try:
                _AUTOGROUP.write_text(str(_NICENESS * back))
            except BlockingIOError:  # ten times a second may anybody do that
                return
            except OSError:
                self._has_group = False
        self._is_back = back


def _may_return(usual: int) -> bool:
    """True if a nice value may be lowered to the usual one: tried with a thread, each of which has its own on Linux."""
    if not sys.platform.startswith("linux"):
        return False
    returned = False

    def try_it() -> None:
        nonlocal returned
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, usual + 1)
            os.setpriority(os.PRIO_PROCESS, 0, usual)
            returned = True

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return returned
