"""The directory of a run: the one to continue, or one that no other run has."""

from __future__ import annotations

import os

from tracelet_shim import errors
from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.shared.files import load
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.tensorboard.folders import inside

__all__ = ["choose_directory"]

_COMPONENT = r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[. ]+$"


def choose_directory(run: RunInfo, logdir: str | None, root: str | None) -> str:
    """Return the directory of the run.

    Args:
        run: the call's.
        logdir: the user's option.
        root: the log directory that is copied; None if it is not known.
    """
    directory = _directory(run, logdir, root)
    _forbid_overlap(directory, root)
    return directory


def _directory(run: RunInfo, logdir: str | None, root: str | None) -> str:
    if run.resume:
        return os.path.abspath(run.resume)
    base = os.path.join(run.program.cwd, logdir or "tracelet-runs")
    if logdir is None and root is not None and inside(base, root):  # SummaryWriter(".")
        base = os.path.join(os.path.dirname(root), "tracelet-runs")
    mapped = Names(_COMPONENT, 180, in_bytes=True)
    project = os.path.join(os.path.abspath(base), mapped(run.project or "default"))
    if run.run_id is not None:
        for name in sorted(os.listdir(project)) if os.path.isdir(project) else ():
            if load(os.path.join(project, name)).get("run_id") == run.run_id:
                return os.path.join(project, name)
    directory = os.path.join(project, mapped(run.exp_name or run.run_id or run.session))
    _forbid_overlap(directory, root)  # before anything is made there
    try:
        os.makedirs(directory)
    except FileExistsError:
        about = load(directory)
        same = run.run_id is not None and about.get("run_id") == run.run_id  # made by a parallel session just now
        if not same and run.session not in about.get("sessions", []):
            return f"{directory}-{run.session}"
    return directory


def _forbid_overlap(directory: str, root: str | None) -> None:
    """Refuse a copy that lies in the original or round it: TensorBoard would show everything twice."""
    if root is not None and (inside(directory, root) or inside(root, directory)):
        raise errors.ConfigurationError(
            f"tensorboard: the copy ({directory}) and the log directory that is copied ({root}) must not lie in"
            f" each other; remedy: options={{'tensorboard': {{'logdir': <a directory elsewhere>}}}}"
        )
