"""Event files -> relay: any TensorBoard log directory into any trackers, and the rest of a session that was cut off.

Nothing is translated here. Records go, as they stand in the event files, to the same `Relay` that serves a training
process; it is hosted in this process. What calls knew and event files do not (exact values, keys of `add_scalars`) comes
from the index of a session that is continued, and is read off the names of directories for everything else.

The program that wrote the files is not running, or not here: backends are told a process id of 0.
"""

from __future__ import annotations

from tracelet_shim.eventfiles.logdir import Damage, run_directories
from tracelet_shim.replay.new_run import replay
from tracelet_shim.replay.resumption import resume
from tracelet_shim.replay.undelivered import missing, running
from tracelet_shim.replay.view import Outcome, Progress, View

__all__ = ["Damage", "Outcome", "Progress", "View", "missing", "replay", "resume", "run_directories", "running"]
