"""The files of a run, in the order in which they are delivered."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tracelet_shim.bus import messages as msg
from tracelet_shim.common.inside import is_inside, refusal
from tracelet_shim.eventfiles import add_scalars
from tracelet_shim.eventfiles.logdir import (
    PROJECTOR,
    STATE,
    Damage,
    EventFile,
    Projector,
    elsewhere,
    is_event_file,
    projector_config,
    walk,
)
from tracelet_shim.eventfiles.own_files import HANDLE
from tracelet_shim.eventfiles.tfrecord import count_records
from tracelet_shim.provenance.system_metrics import WRITER

if TYPE_CHECKING:
    from tracelet_shim.relay.dispatcher import Relay

__all__ = ["Directory", "Taker", "beyond"]

_BATCH_RECORDS = 1000
_BATCH_BYTES = 1 << 20


class Taker(Protocol):
    """What a directory is read for.

    Attributes:
        relay: gets the new files, and what is to be learnt from records that it has had.
        size: bytes of all files.
    """

    relay: Relay
    size: int

    def feed(self, records: list[msg.Record], read: int) -> None:
        """Hand records over; so many bytes have been read."""

    def stopped(self) -> bool:
        """Return whether nothing more is wanted."""


class Directory:
    """The files of a log directory, in the order in which they are delivered: directories by the time of their first
    record, so that the first `add_hparams` is the one that was called first; files one after the other.

    Args:
        taker: gets the records.
        top: the directory; None: nothing but the files that are added.
        recursive: take what is below as well.
        wanted: tells of a file that is found whether it belongs to the run.
        start: tells of a file that is wanted at which position that begins.
        follow: there will be another look at it.
        ours: take the event files of ours that lie with our state as well.

    Attributes:
        files: by path, those that are read.
        is_followed: as `follow`, from now on.
        behind: the number behind that of the last source.
    """

    def __init__(
        self, taker: Taker, top: str | None, *, recursive: bool = True, wanted: Callable[[str], bool] | None = None,
        start: Callable[[str], int] = lambda _: 0, follow: bool = False, ours: bool = True,
    ) -> None:  # fmt: skip
        self._taker = taker
        self._top = top
        self._recursive = recursive
        self._wanted = wanted
        self._start = start
        self._ours = ours
        self.is_followed = follow
        self.files: dict[str, EventFile | Projector] = {}
        self._refused: dict[str, str] = {}
        self.behind = 0

    def know(self, source: msg.Source, start: int) -> None:
        """Add a file that the relay knows already."""
        kind = Projector if os.path.basename(source.path) == PROJECTOR else EventFile
        inside = self._top if self._top is not None and is_inside(source.path, self._top) else None
        file = self.files[source.path] = kind(source.path, source.logdir, start, inside=inside)
        file.source = source.id
        self.behind = max(self.behind, source.id + 1)

    def scan(self) -> None:
        """Look for new files, and announce them."""
        new: dict[str, list[EventFile | Projector]] = {}
        self._refused.clear()
        for directory, logdir, names in self._places():
            for name in names:
                path = os.path.join(directory, name)
                if path in self.files or not _is_read(name):
                    continue
                if self._wanted is not None and not self._wanted(path):
                    continue
                problem = self._refusal(path)
                if problem is not None:
                    self._refused[path] = problem
                    continue
                kind = Projector if name == PROJECTOR else EventFile
                new.setdefault(directory, []).append(kind(path, logdir, self._start(path), inside=self._top))
        homes = self._homes([file for files in new.values() for file in files])
        ordered = [sorted((file.order(), file.path, file) for file in files) for files in new.values()]
        for files in sorted(ordered, key=lambda files: (files[0][0][1], files[0][1])):
            for _, path, file in files:
                if path not in homes:
                    continue
                file.source, self.behind = self.behind, self.behind + 1
                self.files[path] = file
                self._taker.relay.handle(msg.Source(file.source, path, file.logdir, homes[path], replay=True))

    def found(self) -> Iterator[str]:
        """Yield the paths of all files there are now, whether they are wanted or not."""
        for directory, _, names in self._places():
            yield from (os.path.join(directory, name) for name in names if _is_read(name))

    def _homes(self, new: list[EventFile | Projector]) -> dict[str, str | None]:
        """Return whose `add_scalars` has made new files, if any has; without those of which only the next look can tell."""
        found: dict[str, str | None] = {file.path: None for file in new}
        files: dict[str, list[str]] = {}
        for file in (*self.files.values(), *new):
            files.setdefault(os.path.dirname(file.path), []).append(file.path)
        for file in new:
            if isinstance(file, EventFile) and self._top is not None and self._recursive:
                found[file.path] = add_scalars.home(file.path, files, self._top)
                may_be = any(add_scalars.homes(file.path, files, self._top))
                if self.is_followed and may_be and not add_scalars.tags(file.path, self._top):
                    del found[file.path]
        return found

    def _refusal(self, path: str) -> str | None:
        """Return why this file is not read, if it is not: a link to somewhere else, a FIFO, ..."""
        assert self._top is not None
        if not is_inside(path, self._top):
            return elsewhere(os.path.realpath(path), self._top)
        return refusal(path, self._top)

    def _places(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield (directory, log directory, names of files); the two differ for event files of ours, which lie with our state."""
        if self._top is None:
            return
        for directory, names in walk(self._top, recursive=self._recursive, refused=self._refused.__setitem__):
            yield directory, directory, names
            for name, logdir in ((HANDLE, directory), (WRITER, os.path.join(directory, WRITER))):
                own = os.path.join(directory, STATE, name)
                if self._ours and self._recursive and os.path.isdir(own):
                    with contextlib.suppress(OSError):  # of another user's session
                        yield own, logdir, os.listdir(own)

    def read(self) -> int:
        """Hand over what is new in the files; return the number of records."""
        count = size = 0
        batch: list[msg.Record] = []
        self._taker.size = sum(file.size for file in self.files.values())
        for file in self.files.values():
            if self._taker.stopped():
                break
            for record in file.records(self._taker.relay.learn):
                batch.append(record)
                size += len(record.data or b"")
                if len(batch) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
                    count += len(batch)
                    self._taker.feed(batch, sum(file.offset for file in self.files.values()))
                    batch, size = [], 0
                if self._taker.stopped():
                    break
        if batch:
            self._taker.feed(batch, sum(file.offset for file in self.files.values()))
        return count + len(batch)

    def damages(self) -> tuple[Damage, ...]:
        left_out = [Damage(path, None, problem) for path, problem in self._refused.items()]
        return (*left_out, *(damage for file in self.files.values() for damage in file.damages))


def _is_read(name: str) -> bool:
    return is_event_file(name) or name == PROJECTOR


def _embeddings(path: str) -> int:
    try:
        return len(projector_config(path))
    except ImportError:  # `tracelet-shim status` without tensorboard, which has the projector's schema
        return len(re.findall(rb"^\s*embeddings\s*\{", Path(path).read_bytes(), re.MULTILINE))


def beyond(path: str, taken: int) -> int:
    """Return how many records, or embeddings, a file has from position `taken` on; the first record says only what it is."""
    try:
        if os.path.basename(path) == PROJECTOR:
            return max(0, _embeddings(path) - taken)
        return max(0, count_records(path) - max(1, taken))
    except (OSError, ValueError):
        return 0
