"""Artifacts that lie in a copy's directory: of the session's own run by their name, of any by ``DIRECTORY/NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.backends.shared.files import give_back
from tracelet_shim.backends.shared.names import file_names
from tracelet_shim.backends.tensorboard.folders import EXTRA_FILES

__all__ = ["fetch"]

_FORM = "one of another run is found as RUN_DIRECTORY/NAME"


def fetch(options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:  # noqa: ARG001 - a run says where it is
    """As `Backend.fetch`."""
    found = give_back(name, run.resume, f"{EXTRA_FILES}/artifacts", file_names(), directory)
    if found is None:
        raise NoSuchArtifactError(f"there is no artifact {name!r} in {run.resume or 'this session'}; {_FORM}")
    return Fetched(*found)
