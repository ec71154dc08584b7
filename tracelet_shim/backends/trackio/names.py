"""Which names Trackio takes: of metrics, projects, runs, artifacts."""

from __future__ import annotations

import itertools
from collections.abc import Container

from tracelet_shim.backends.shared.names import Names

__all__ = [
    "DEFAULT_PROJECT", "ILLEGAL_KEY", "ILLEGAL_PROJECT", "OWN", "artifact_file", "artifact_name", "artifact_names", "keys",
    "project_name", "run_id", "run_names", "unused",
]  # fmt: skip

OWN = "tracelet/"
"""What our own keys in rows and configs begin with."""

_UNPRINTABLE = r"\x00-\x1f\x7f\ud800-\udfff"
ILLEGAL_KEY = (
    rf"[{_UNPRINTABLE}]|\A(?:p(?=roject\Z)|r(?=un(_id)?\Z)|t(?=ime(stamp)?\Z|racelet/)|s(?=tep\Z|eries_key\Z)|m(?=etrics\Z)"
    rf"|d(?=ata_type\Z)|_(?=[_{_UNPRINTABLE}]))"
)
"""``utils.RESERVED_KEYS``, the ``__`` of `Run.log`, what ``dataProcessing.js`` overwrites, and our own name space."""

_SIDECARS = ("system", "configs", "traces", "artifacts", "artifact_versions", "artifact_aliases", "run_artifact_links")
ILLEGAL_PROJECT = r"[^\w\-]|\Ar(?=egistry-)|" + "|".join(
    rf"(?:(?<=(?s:.)_)|(?<=[^\w\-])){word[0]}(?={word[1:]}\Z)" for word in _SIDECARS
)
"""`canonical_project_name` and `validate_project_name`; an escape ends with an underscore, too."""

_ILLEGAL_RUN = rf"[/\\{_UNPRINTABLE}]|\A\.{{1,2}}\Z|\A\s|\s\Z"  # the name is a folder of the media directory
_ILLEGAL_ID = r"[^A-Za-z0-9._-]"  # cas.ARTIFACT_NAME_RE, and our run ids
DEFAULT_PROJECT = "default"  # canonical_project_name("")


def keys() -> Names:
    return Names(ILLEGAL_KEY, 10_000)


def run_names() -> Names:
    return Names(_ILLEGAL_RUN, 150, in_bytes=True)


def artifact_names() -> Names:
    return Names(_ILLEGAL_ID, 150)


def artifact_name(logged: str) -> str:
    """Return the name of an artifact that was logged through a session itself."""
    return Names(_ILLEGAL_ID, 150)(logged)


def artifact_file(path: str) -> str:
    """Return the path of a file in an artifact (``cas.py``, `validate_logical_path`)."""
    return Names(rf"[\\{_UNPRINTABLE}]|(?<=\A[A-Za-z]):", 1000, in_bytes=True)(path)


def project_name(project: str) -> str:
    return Names(ILLEGAL_PROJECT, 180, empty=DEFAULT_PROJECT, in_bytes=True)(project)


def unused(name: str, used: Container[str]) -> str:
    """Return `name`, or what it begins and no run is called yet."""
    return next(found for n in itertools.count(1) if (found := name if n == 1 else f"{name} ({n})") not in used)


def run_id(given: str) -> str:
    return Names(_ILLEGAL_ID, 64)(given)
