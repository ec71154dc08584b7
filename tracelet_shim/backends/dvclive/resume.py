"""The directory of a run: the one to continue, the one that the user names, or one that no other run has.

A run is ``dvclive/<project>/<exp_name>`` under the program's directory. `dvclive.Live` deletes what an earlier run left in its
directory (``live.py``, ``_init_cleanup``), so no two runs share one, unless the user names it (`dir`).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.dvclive.files import NAMES_FILE, write_json
from tracelet_shim.backends.dvclive.limits import COMPONENT
from tracelet_shim.backends.dvclive.live import wants_resume
from tracelet_shim.backends.shared.files import RUN_FILE, load
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.common.system import is_there

__all__ = ["choose_directory", "clear"]

logger = logging.getLogger("tracelet_shim.backends.dvclive")


def choose_directory(run: RunInfo, named: str | None, *, saves: bool) -> tuple[str, bool]:
    """Return the run's directory, and whether what an earlier run left there gives way to it.

    Args:
        run: the call's.
        named: the user's option `dir`.
        saves: the run becomes a DVC experiment.
    """
    if run.resume:
        return os.path.abspath(run.resume), False
    fixed = named or ("dvclive" if saves else None)
    if fixed is not None:
        directory = os.path.abspath(os.path.join(run.program.cwd, fixed))
        about = load(directory)
        if _continues(run, about) or not _has_run(directory):
            return directory, False
        if about.get("experiment") or (named and not _is_active(about)):
            return directory, not wants_resume()
        why = "another program is writing to it" if _is_active(about) else "its run is in no DVC experiment yet"
        logger.warning("dvclive: %s is left alone: %s", directory, why)
        if named:
            return f"{directory}-{run.session}", False
    component = Names(COMPONENT, 120)
    project = os.path.abspath(os.path.join(run.program.cwd, "dvclive", component(run.project or "default")))
    if run.run_id is not None:
        for name in sorted(os.listdir(project)) if os.path.isdir(project) else ():
            if _continues(run, load(os.path.join(project, name))):
                return os.path.join(project, name), False
    directory = os.path.join(project, component(run.exp_name or run.run_id or run.session))
    if not (_claim(directory, run.session) or _continues(run, load(directory)) or wants_resume()):
        return f"{directory}-{run.session}", False
    return directory, False


def clear(directory: str) -> None:
    """Remove what an earlier run of ours left, which `Live` does not know of."""
    if load(directory):  # else the folders are not ours
        for name in ("media", "trials"):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        write_json(os.path.join(directory, NAMES_FILE), {})


def _continues(run: RunInfo, about: Mapping[str, Any]) -> bool:
    """True if `about` is of the run that is to be opened: an earlier or parallel session of it, or an earlier try."""
    same = run.run_id is not None and about.get("run_id") == run.run_id
    return same or run.session in about.get("sessions", [])


def _claim(directory: str, session: str) -> bool:
    """Make a directory that says from its first moment whose it is; False if there is one with something in it."""
    new = os.path.join(os.path.dirname(directory), f".new-{session}")
    write_json(os.path.join(new, RUN_FILE), {"sessions": [session]})
    try:
        os.rename(new, directory)
    except OSError as error:
        shutil.rmtree(new)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _has_run(directory: str) -> bool:
    names = ("plots", "metrics.json", "params.yaml", RUN_FILE)
    return any(os.path.exists(os.path.join(directory, name)) for name in names)


def _is_active(about: Mapping[str, Any]) -> bool:
    """True if the program that writes this run is still there; on another machine, nobody can tell."""
    if about.get("status") != "running" or about.get("host") != socket.gethostname() or not about.get("pid"):
        return False
    return is_there(about["pid"])
