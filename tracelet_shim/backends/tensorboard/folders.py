"""Where the directory of an event file lies in the copy: where it lies in the original, or under the writer's name."""

from __future__ import annotations

import hashlib
import logging
import os

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.files import RUN_FILE
from tracelet_shim.eventfiles.own_files import is_own

__all__ = ["EXTRA_FILES", "Folders", "inside", "normal"]

EXTRA_FILES = "tracelet-files"

logger = logging.getLogger("tracelet_shim.backends.tensorboard")

_STATE = ".tracelet"  # has event files of ours: they are named by their writer


class Folders:
    """The directories of one run; no two share a place.

    Args:
        directory: the run's.
        root: the session's root log directory, as of `normal`; None if it is not known.
    """

    def __init__(self, directory: str, root: str | None) -> None:
        self._directory = directory
        self._root = root
        self._places: dict[str, str] = {}  # original -> place in the copy
        self._taken: set[str] = set()

    def of(self, event: ev.Event) -> str:
        """Return where the event's directory lies, relative to the run's."""
        if is_own(event.record.file):  # it shares the directory of the writer that it is of
            return event.writer
        source = normal(os.path.dirname(event.record.file))
        own = normal(event.logdir) if event.logdir else source
        if own != source and source.startswith(f"{own}/"):  # the writer's own directory has its place before what is in it
            self._place(own, event.writer)
        return self._place(source, event.writer)

    def _place(self, source: str, writer: str) -> str:
        if source not in self._places:
            parts = [part for part in self._wanted(source, writer).split("/") if part not in ("", ".", "..")]
            place = "/".join(parts)
            itself = os.path.realpath(os.path.join(self._directory, place)) == os.path.realpath(source)
            if itself or place in self._taken or place.startswith((RUN_FILE, EXTRA_FILES)):
                place = f"{place or 'root'}_{hashlib.blake2s(os.fsencode(source), digest_size=4).hexdigest()}"
            if inside(self._directory, source):
                logger.warning("the copy %s lies in the original %s: TensorBoard shows both there", self._directory, source)
            self._places[source] = place
            self._taken.add(place)
        return self._places[source]

    def _wanted(self, source: str, writer: str) -> str:
        below_root = self._root is not None and f"{source}/".startswith(f"{self._root.rstrip('/')}/")
        if below_root and self._root is not None and _STATE not in source.split("/"):
            return source[len(self._root) :]
        if writer and source.endswith(f"/{writer}"):
            return writer
        # A directory that add_scalars or add_hparams made below the writer's.
        above = os.path.dirname(source)
        while above not in self._places and above != os.path.dirname(above):
            above = os.path.dirname(above)
        if above in self._places:
            return f"{self._places[above]}/{source[len(above) :]}"
        below = source.rpartition(f"/{writer}/")[2] if writer and f"/{writer}/" in source else ""
        return f"{writer}/{below}"


def normal(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def inside(path: str, directory: str) -> bool:
    """True if `path` is `directory` or lies in it, symbolic links resolved."""
    path, directory = os.path.realpath(path), os.path.realpath(directory)
    return path == directory or path.startswith(f"{directory.rstrip(os.sep)}{os.sep}")
