"""What the user ran: facts of the training process that the relay cannot see."""

from __future__ import annotations

import os
import socket
import sys

from tracelet_shim.backends.base import Program
from tracelet_shim.common.began import began_at, working_directory
from tracelet_shim.common.text import as_utf8
from tracelet_shim.provenance.secrets import mask_arguments

__all__ = ["describe"]


def describe(*, here: bool = False) -> Program:
    """Return the user's program, as it was started, without secrets in its arguments: trackers record them.

    Args:
        here: take the present working directory, not the one that it began in: a run of the user's is where his SDK has put it.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    script = getattr(main, "__file__", None)
    module = None
    if spec is not None and spec.name:
        module = spec.name.removesuffix(".__main__")
    orig = getattr(sys, "argv", None) or [""]
    return Program(
        script=os.path.abspath(script) if script else None,
        module=module,
        argv=mask_arguments(as_utf8(str(argument)) for argument in orig),
        cwd=working_directory() if here else began_at(),
        executable=sys.executable or "",
        pid=os.getpid(),
        host=socket.gethostname(),
    )
