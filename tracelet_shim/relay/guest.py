"""What a process of ours does before it uses an SDK: stand where the user's program stands, and load the backend."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from pathlib import Path

from tracelet_shim.backends.base import Backend, Program
from tracelet_shim.backends.registry import validate

__all__ = ["backend_at", "take_place"]


def take_place(program: Program) -> None:
    """Stand where the user's program stands: SDKs put their local stores relative to the working directory."""
    with contextlib.suppress(OSError):
        os.chdir(program.cwd)
    sys.argv[:] = [Path(program.script or "python").name, *program.argv[1:]]


def backend_at(class_path: str) -> type[Backend]:
    """Return a backend by its ``module:class``.

    Raises:
        Exception: there is none, or importing it fails.
    """
    module, _, name = class_path.partition(":")
    return validate(getattr(import_module(module), name))
