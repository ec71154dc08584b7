"""A tracker of a third party that takes nothing until a file named ``gate`` is there, and does not open as long as there is one
named ``closed``: for tests of what waits."""

from __future__ import annotations

from pathlib import Path

RECORDING = "tracelet_shim.testing:RecordingBackend"
TENSORBOARD = "tracelet_shim.backends.tensorboard.backend:TensorBoardBackend"

MODULE = """
import os, time
from {module} import {base}

class Gated({base}):
    name = "gated"
    batch_events = 50

    def open(self, run):
        while os.path.exists("closed"):
            time.sleep(0.05)
        return super().open(run)

    def write(self, events):
        while not os.path.exists("gate"):
            time.sleep(0.05)
        super().write(events)
"""


def install(directory: Path, base: str = RECORDING) -> dict[str, str]:
    """Put the tracker into a directory; return the variables with which a Python finds it, and nothing else. But for the gate it
    is the tracker `base`."""
    module, _, name = base.partition(":")
    info = directory / "gated-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tracelet_shim.backends]\ngated = gated_backend:Gated\n")
    (directory / "gated_backend.py").write_text(MODULE.format(module=module, base=name))
    return {"PYTHONPATH": str(directory), "TRACELET_BACKEND": "gated"}
