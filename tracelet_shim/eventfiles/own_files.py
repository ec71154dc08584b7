"""Event files of our own, which lie with our state: how they are called, and where the files are that their records name."""

from __future__ import annotations

import os
import re

__all__ = ["HANDLE", "OWN_SUFFIX", "SYSTEM", "is_own", "is_sample", "store_of", "stored_at"]

OWN_SUFFIX = ".tracelet-records"
"""How their names end. TensorBoard makes a run of what has ``tfevents`` in its name, wherever it lies."""
HANDLE = "handle"
"""The directory, beside the ledger, of what was logged through a session itself."""
SYSTEM = "system"
"""The writer of the system metrics, and the directory of their files, beside the ledger."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def is_own(path: str) -> bool:
    """Return whether this is one, by its name. (The first versions had others, with ``tfevents``.)"""
    return path.endswith(OWN_SUFFIX)


def is_sample(path: str, writer: str) -> bool:
    """Return whether a record of this file is one of the system metrics. (A writer of the user's may be called like theirs.)"""
    return writer == SYSTEM and is_own(path)


def store_of(path: str) -> str:
    """Return the directory of the files that the records of one name."""
    return f"{path.removesuffix(OWN_SUFFIX)}.files"


def stored_at(path: str, sha256: str) -> str:
    """Return where a file is kept that a record names, for as long as a tracker needs it.

    Raises:
        ValueError: it is no name of one; a log directory may be somebody else's.
    """
    if not _SHA256.match(sha256):
        raise ValueError(f"{sha256[:80]!r} is no SHA-256")
    return os.path.join(store_of(path), sha256)
