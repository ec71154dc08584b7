"""What a writer is called: its log directory relative to the session's root.

The rule depends on nothing but the order in which writers are created, so a rerun of a program gets the same names.
"""

from __future__ import annotations

import os.path
import posixpath

from tracelet_shim.common.text import as_utf8

__all__ = ["SPLITS", "WriterNames", "root_of"]

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"})
"""Directory names that stand for a part of one run: ``runs/x/train`` belongs to the run ``runs/x``."""


def root_of(logdir: str) -> str:
    """Return the root of a session that was given none, whose first log directory this is."""
    parent, last = os.path.split(logdir)
    return parent if last.lower() in SPLITS and parent else logdir


class WriterNames:
    """Gives each log directory its name within the session.

    Args:
        root: the directory that names are relative to. None: the first log directory, or its parent where that
            directory is named like a split (`SPLITS`).
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = root
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def __call__(self, logdir: str) -> str:
        """Return the writer name of a log directory (absolute): ``""`` for the root itself."""
        name = self._names.get(logdir)
        if name is None:
            name = self._names[logdir] = self._unique(as_utf8(self._make(logdir)))
            self._taken.add(name)
        return name

    def _make(self, logdir: str) -> str:
        if self.root is None:
            self.root = root_of(logdir)
        if logdir == self.root:
            return ""
        prefix = self.root.rstrip("/" + os.sep) + "/"
        unified = logdir.replace(os.sep, "/")
        if unified.startswith(prefix.replace(os.sep, "/")):
            return unified[len(prefix) :]
        return posixpath.basename(unified.rstrip("/")) or "root"

    def _unique(self, name: str) -> str:
        if name not in self._taken:
            return name
        number = 2
        while f"{name}-{number}" in self._taken:
            number += 1
        return f"{name}-{number}"
