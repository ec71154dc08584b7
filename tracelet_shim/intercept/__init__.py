"""The only code that knows the writers of `torch.utils.tensorboard`, TensorBoard and tensorboardX, and wrapt; and what else of a
program is listened to.

`install` patches the classes once, when (and if) the module is imported, and never unpatches: the wrappers ask at call
time whether a sink is set. `set_sink` is all that a session needs. `missed` tells at its end whether nothing could be seen.
"""

from __future__ import annotations

from tracelet_shim.intercept._accelerate import use_fast_crc
from tracelet_shim.intercept._autolog import arguments_seen, install_autolog
from tracelet_shim.intercept._foreign import settle
from tracelet_shim.intercept._sink import ActiveRuns, Sink, set_sink, sink
from tracelet_shim.intercept._tap import absolute, flush_files
from tracelet_shim.intercept._watch import install, missed, missed_package
from tracelet_shim.intercept._wrapt import Wrapper

__all__ = [
    "ActiveRuns", "Sink", "Wrapper", "absolute", "arguments_seen", "flush_files", "install", "install_autolog", "missed",
    "missed_package", "set_sink", "settle", "sink", "use_fast_crc",
]  # fmt: skip
