"""The collector, started on demand by `tracelet_shim.bus.collected`; not for use by hand: that is ``tracelet-shim collect``.

    python -m tracelet_shim.node SOCKET LISTENER_FD LOCK_FD [IDLE]
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from tracelet_shim.node.front import IDLE, Front


def main() -> None:
    """Serve until nobody has needed it for a while."""
    path, listener, held = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    idle = float(sys.argv[4]) if len(sys.argv) > 4 else IDLE
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # of the terminal that somebody else has
    os.set_inheritable(listener, False)
    os.set_inheritable(held, False)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the program that needed it may be bound to one processor
    Front(path, socket.socket(fileno=listener), held, idle=idle).run()


if __name__ == "__main__":
    main()
