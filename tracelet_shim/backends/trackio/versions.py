"""What differs between the versions of Trackio (0.2 to 0.43), found by what is there.

    0.2.2   the first that can be imported (0.2.0 and 0.2.1 are packages without code); rows of metrics, and nothing else
    0.2.7   images                          0.18    alerts
    0.3     tables, TRACKIO_DIR             0.24    runs have ids; a server of its own that takes tokens
    0.4     configs                         0.29    fragments
    0.7     histograms, audio               0.30    artifacts
    0.14    the page of the system          0.34    HTML
    0.17    rows have ids; Markdown         0.36    3D objects, registries

What one lacks has another form: ``older.py`` for what a store lacks, `lacks` and what asks it for what the dashboard cannot show.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Capability, Level
from tracelet_shim.backends.shared.versions import Need, Versions

__all__ = ["ARTIFACTS", "SERVER", "VERSIONS", "has", "is_older_than", "known_names", "refined", "takes"]

ARTIFACTS, SERVER = (0, 30), (0, 30)
"""The first versions that keep artifacts, and whose servers can be written to."""

VERSIONS = Versions(
    "0.2.2", "0.43.0",
    (
        Need("<0.38", "huggingface_hub", "<1.32", "it imports names that moved there"),
        Need("<0.11", "requests", ">=2", "it imports it, and nothing brings it any more"),
    ),
)  # fmt: skip

_IN_A_ROW = "in a row (the dashboard draws it from Trackio {} on)"
_FILES = "a file in the media directory, listed in a row (an artifact from Trackio 0.30 on)"
_FORMS: tuple[tuple[tuple[int, int], type[ev.Event], Level, str], ...] = (
    ((0, 36), ev.Mesh, Level.FILE, "PLY (trackio.Object3D from Trackio 0.36 on)"),
    ((0, 34), ev.PRCurve, Level.CONVERTED, "trackio.Table with all numbers"),
    ((0, 34), ev.Graph, Level.FILE, "pbtxt and pb"),
    ((0, 30), ev.Tensor, Level.FILE, f"NPY, {_FILES}"),
    ((0, 30), ev.CustomScalars, Level.FILE, f"JSON, {_FILES}"),
    ((0, 30), ev.Blob, Level.FILE, f"the bytes, {_FILES}"),
    ((0, 30), ev.Table, Level.NATIVE, f"trackio.Table (its head, if large), whole as CSV and JSON: {_FILES}"),
    ((0, 30), ev.Artifact, Level.CONVERTED, _FILES),
    ((0, 30), ev.Model, Level.CONVERTED, f"{_FILES}; in no registry, which is said once"),
    ((0, 30), ev.Used, Level.CONVERTED, "config, `tracelet/used/...`"),
    ((0, 18), ev.Alert, Level.CONVERTED, "trackio.Table"),
    ((0, 17), ev.Text, Level.CONVERTED, "trackio.Table of one cell"),
    ((0, 7), ev.Audio, Level.FILE, "the WAV unchanged (trackio.Audio from Trackio 0.7 on)"),
    ((0, 7), ev.Histogram, Level.CONVERTED, "trackio.Table of the exact buckets"),
    ((0, 3), ev.Table, Level.CONVERTED, f"{_IN_A_ROW.format('0.3')}; whole as CSV and JSON: {_FILES}"),
    ((0, 3), ev.PRCurve, Level.CONVERTED, _IN_A_ROW.format("0.3")),
    ((0, 3), ev.Text, Level.CONVERTED, _IN_A_ROW.format("0.3")),
    ((0, 3), ev.Histogram, Level.CONVERTED, _IN_A_ROW.format("0.3")),
    ((0, 3), ev.Alert, Level.CONVERTED, _IN_A_ROW.format("0.3")),
)  # fmt: skip


def is_older_than(first: tuple[int, ...]) -> bool:
    """Tell whether the installed Trackio is older than a version; False if that is not known. Imports nothing."""
    try:
        numbers = re.findall(r"\d+", metadata.version("trackio"))
    except metadata.PackageNotFoundError:
        return False
    return bool(numbers) and tuple(map(int, numbers[: len(first)])) < first


def refined(capabilities: Mapping[type[ev.Event], Capability]) -> Mapping[type[ev.Event], Capability]:
    """Return the capabilities that the installed version has, of those of the newest."""
    changed = {kind: Capability(level, how) for first, kind, level, how in _FORMS if is_older_than(first)}
    return {**capabilities, **changed}


def has(name: str) -> bool:
    """Tell whether Trackio has a type of this name."""
    import trackio

    return hasattr(trackio, name)


def takes(function: Any, name: str) -> bool:
    """Tell whether a function of the SDK has a parameter of this name."""
    return name in inspect.signature(function).parameters


def known_names(function: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `values` that a function of the SDK has parameters for."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in values.items() if name in parameters}
