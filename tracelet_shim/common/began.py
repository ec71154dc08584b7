"""Where the program began: relative stores are there, whatever directory it has changed to since."""

from __future__ import annotations

import os
import sys

import tracelet_shim

__all__ = ["began_at", "working_directory"]


def began_at() -> str:
    """Return the directory in which the program began. Hydra and Ray Tune, which change directory for each job, say it. Else it
    is where this package was first imported, which is at the start of the interpreter if the environment activates. Each test of
    pytest is a program of its own, and begins where it is."""
    hydra = getattr(sys.modules.get("hydra.core.hydra_config"), "HydraConfig", None)
    if hydra is not None and hydra.initialized() and (of_hydra := hydra.get().runtime.get("cwd")):  # none with its compose API
        return str(of_hydra)
    if "ray" in sys.modules and (of_tuner := os.environ.get("TUNE_ORIG_WORKING_DIR")):
        return of_tuner
    is_test = "_pytest" in sys.modules and "PYTEST_CURRENT_TEST" in os.environ
    return working_directory() if is_test else tracelet_shim._began_at or working_directory()  # noqa: SLF001


def working_directory() -> str:
    """Return the present one."""
    try:
        return os.getcwd()
    except OSError:  # it was deleted under the program
        return os.path.sep
