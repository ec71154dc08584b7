"""Event files that no writer has announced: what appears or grows in directories that a session was told to watch.

A thread looks, and reads what is new; the relay takes it, as records of its own (`OWN_SOURCES`). What a writer of the program has
announced is that writer's: such a file is left alone, and what was read of one before its writer was heard of is left out of what
the writer sends.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from tracelet_shim.bus import messages as msg
from tracelet_shim.common.inside import is_below
from tracelet_shim.common.private_files import open_file
from tracelet_shim.eventfiles.logdir import CREATED, PROJECTOR, Damage, EventFile
from tracelet_shim.eventfiles.own_files import is_own
from tracelet_shim.eventfiles.tfrecord import count_records
from tracelet_shim.relay.directory import Directory, Taker, beyond

__all__ = ["Kept", "Watching", "kept", "outermost", "position_at"]

_POLL = 1.0
_SHARE = 20.0
"""Seconds between two looks; and how many times as long as a look took, where that is more: a large tree, a slow file system."""
_SETTLED = 1.0
"""Seconds that a file is left alone, in which its writer may be heard of. (It is announced before its second record is there.)"""
_CLOCKS = 2.0
"""Seconds that a file's time of change may be off: file systems keep it in steps of up to two seconds."""
_MOST_WAITING = 8 << 20
"""Bytes that the thread may be ahead of the relay."""
_TORN_SECONDS = 1.0
"""How long the last look waits for the end of a record that is just being written."""
_MOST_TOLD = 3

logger = logging.getLogger("tracelet_shim.relay")


class Kept(msgspec.Struct):
    """What a successor, or `replay --resume`, has to know.

    Attributes:
        tops: the directories.
        since: when the session began, seconds since the epoch.
        sizes: bytes of the event files that were there before; of a projector's file, how many embeddings it had.
    """

    tops: list[str]
    since: float
    sizes: dict[str, int]


def kept(path: Path) -> Kept | None:
    """Return what was kept in this file; None if nothing was."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError):
        return None


def position_at(path: str, size: int | None) -> int:
    """Return the position of the first record that was not there when a file had so many bytes."""
    if not size or os.path.basename(path) == PROJECTOR:
        return size or 0
    return count_records(path, size)


class _Learned(NamedTuple):
    """A record from before the session, which may say something about later ones."""

    source: int
    data: bytes


class _Side(Taker):
    """The relay, as the directory with this number sees it."""

    size = 0

    def __init__(self, watching: Watching, number: int) -> None:
        self._watching = watching
        self._number = number
        self.relay = self  # type: ignore[assignment]

    def handle(self, message: msg.Source) -> None:
        self._watching.put(self._number, message, 0)

    def learn(self, source: int, data: bytes) -> None:
        if b"\n" in data and len(data) < _MOST_WAITING:
            self._watching.put(self._number, _Learned(source, data), len(data))

    def feed(self, records: list[msg.Record], read: int) -> None:
        self._watching.put(self._number, records, sum(len(record.data or b"") for record in records))

    def stopped(self) -> bool:
        return self._watching.is_stopped


class Watching:
    """Watches directories for a relay. All methods are for the relay's thread.

    Args:
        tops: the directories, absolute; they need not be there.
        since: what was written before this is not the session's; seconds since the epoch.
        learn: takes records from before the session: (number of the source, data).
        trouble: told, by kind, what cannot be read; from any thread.
        wake: called, from any thread, when there is something to take.

    Attributes:
        found: True if there was anything.
        is_whole: False if the last look did not come to its end, or a file ends in the middle of a record.
        is_stopped: True when nothing more is wanted.
    """

    def __init__(
        self, tops: Iterable[str], since: float, learn: Callable[[int, bytes], None], trouble: Callable[[str, str], None],
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self.tops = outermost(tops)
        self._since = since
        self._learn = learn
        self._trouble = trouble
        self._wake = wake
        self._directories = [
            Directory(_Side(self, number), top, wanted=self._is_wanted, start=self._start_of, follow=True, ours=False)
            for number, top in enumerate(self.tops)
        ]
        self._thread = threading.Thread(target=self._main, name="tracelet-watch", daemon=True)
        self._changed = threading.Condition()
        self._queue: deque[tuple[int, msg.Source | _Learned | list[msg.Record]]] = deque()
        self._waiting = 0  # bytes
        self._held: deque[tuple[int, float, msg.Flush | msg.Close]] = deque()
        self._asked = self._answered = 0
        self._ends = self._is_over = False
        self._looks = 0
        # The thread's:
        self._sizes: dict[str, int] | None = None
        self._starts: dict[str, int] = {}
        self._reals: dict[str, str] = {}  # by path, of the files that are read
        self._seen: dict[str, float] = {}
        self._told: set[str] = set()
        # The relay's:
        self._numbers: dict[tuple[int, int], int | None] = {}
        self._paths: dict[int, str] = {}
        self._read: dict[str, tuple[int, int]] = {}  # by real path, the first position that was taken, and that behind the last
        self._claimed: set[str] = set()  # real paths
        self._writers: set[str] = set()  # log directories
        self._had: dict[int, tuple[int, int]] = {}  # by source of the program's, what was taken before it was announced
        self._before: Mapping[int, int] = {}
        self._kept_at: Path | None = None
        self.found = self.is_stopped = False
        self.is_whole = True

    # -- the relay's thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def claim(self, source: msg.Source) -> None:
        """A writer of the program has announced this file."""
        real = os.path.realpath(source.path)
        self._writers.add(source.logdir)
        self._claimed.add(real)
        if real in self._read and source.id not in self._had:
            self._had[source.id] = self._read[real]

    def leave_out(self, message: msg.Records) -> int:
        """Take out of what the program sends what was taken from the files before; return how many records that are."""
        if not self._had:
            return 0
        new = [record for record in message.records if not self._is_had(record)]
        left_out, message.records = len(message.records) - len(new), new
        return left_out

    def _is_had(self, record: msg.Record) -> bool:
        if record.source >= msg.OWN_SOURCES or isinstance(record.hint, msg.Embedded):
            return False
        first, behind = self._had.get(record.source, (0, 0))
        # A successor gets as many records again as were left out, whatever source they are of.
        return first <= record.position < max(behind, self._before.get(record.source, 0))

    def take(self, number: Callable[[], int]) -> Iterator[msg.Source | msg.Records]:
        """Yield what has been found since the last time; each is to be handled before the next.

        Args:
            number: returns that of the next source of the relay's.
        """
        with self._changed:
            items, self._queue, self._waiting = list(self._queue), deque(), 0
            self._changed.notify_all()
        for top, item in items:
            if isinstance(item, msg.Source):
                own = None if os.path.realpath(item.path) in self._claimed else number()
                self._numbers[top, item.id] = own
                if own is not None:
                    self.found = True
                    self._paths[own] = os.path.realpath(item.path)
                    yield msgspec.structs.replace(item, id=own)
            elif isinstance(item, _Learned):
                own = self._numbers.get((top, item.source))
                if own is not None:
                    self._learn(own, item.data)
            else:
                mine = list(self._mine(top, item))
                if mine:
                    yield msg.Records(mine)

    def _mine(self, top: int, records: list[msg.Record]) -> Iterator[msg.Record]:
        for record in records:
            own = self._numbers.get((top, record.source))
            path = self._paths.get(own) if own is not None else None
            if own is None or path is None or path in self._claimed:
                continue
            record.source = own
            first, _ = self._read.get(path, (record.position, 0))
            self._read[path] = first, record.position + 1
            yield record

    def hold(self, message: msg.Flush | msg.Close, until: float = math.inf) -> None:
        """Look now, and keep a message until what is found is taken, or, at the latest, until then (monotonic seconds). `Close`
        ends the watching: it comes behind all that writers have announced."""
        with self._changed:
            self._asked += 1
            self._held.append((self._asked, until, message))
            self._ends = self._ends or isinstance(message, msg.Close)
            self._changed.notify_all()

    def due(self) -> Iterator[msg.Flush | msg.Close]:
        """Yield the messages that have been kept long enough."""
        while self._held:
            look, until, message = self._held[0]
            with self._changed:
                if (self._answered < look or self._queue) and time.monotonic() < until:
                    return
                if isinstance(message, msg.Close):
                    self.is_whole = self.is_whole and self._is_over and not self._queue
                    self.is_stopped = True
                    self._changed.notify_all()
            self._held.popleft()
            if isinstance(message, msg.Close) and not self.found and not self._has_writers():
                self._trouble("watch-nothing", f"nothing was found to deliver: no event file appeared or grew in {self.places}")
            yield message

    def _has_writers(self) -> bool:
        return any(is_below(path, os.path.realpath(top)) for path in self._claimed for top in self.tops)

    @property
    def places(self) -> str:
        """The directories, in words."""
        return ", ".join(self.tops)

    def keep(self, path: Path) -> None:
        """Write down, once, what whoever goes on after a kill has to know."""
        if self._kept_at is not None or not self._looks:
            return
        data = msgspec.msgpack.encode(Kept(self.tops, self._since, self._sizes or {}))
        with contextlib.suppress(OSError), open(open_file(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:  # said by the ledger
            file.write(data)
        self._kept_at = path

    def restore(self, path: Path, sources: Iterable[msg.Source], taken: Mapping[int, int]) -> None:
        """Before `start`, in a relay that was started again: go on where its predecessor was.

        Args:
            path: as of `keep`.
            sources: all of the session.
            taken: by source, the position behind the last record.
        """
        known = kept(path)
        if known is not None:
            self._sizes, self._kept_at = known.sizes, path
        self._before = {source: position for source, position in taken.items() if source < msg.OWN_SOURCES}
        for source in sources:
            if source.id < msg.OWN_SOURCES or is_own(source.path):
                continue
            top = next((n for n, top in enumerate(self.tops) if is_below(source.path, top)), 0)
            self._directories[top].know(source, taken.get(source.id, 0))
            real = os.path.realpath(source.path)
            self._reals[source.path] = self._paths[source.id] = real
            self._numbers[top, source.id] = source.id
            self._read[real] = 0, taken.get(source.id, 0)
            self.found = True

    # -- the thread ---------------------------------------------------------------------------------------------------

    def put(self, top: int, item: msg.Source | _Learned | list[msg.Record], size: int) -> None:
        with self._changed:
            while self._waiting > _MOST_WAITING and not self.is_stopped:
                self._changed.wait(0.5)
            self._queue.append((top, item))
            self._waiting += size
        self._wake()

    def _main(self) -> None:
        while not self.is_stopped:
            with self._changed:
                asked, is_last = self._asked, self._ends
            began = time.monotonic()
            try:
                self._look(is_last=is_last)
            except Exception as error:  # whatever it is, it is tried again, and the end does not wait for it
                logger.exception("what is watched cannot be looked at")
                self._trouble("watch-internal", f"{self.places} cannot be watched: {type(error).__name__}: {error}")
                self.is_whole = self.is_whole and not is_last
            if self._kept_at is not None:
                with contextlib.suppress(OSError):  # the state is gone
                    os.utime(self._kept_at)  # until when files can be the session's
            pause = max(_POLL, _SHARE * (time.monotonic() - began))
            with self._changed:
                self._looks += 1
                self._answered, self._is_over = asked, is_last
                if is_last:
                    break
                self._changed.wait_for(lambda: self._asked > self._answered or self.is_stopped, pause)
        self._wake()

    def _look(self, *, is_last: bool) -> None:
        if self._sizes is None:
            sizes: dict[str, int] = {}
            for directory in self._directories:
                for path in directory.found():
                    self._note(path, sizes)
            self._sizes = sizes
        for directory in self._directories:
            for path in [path for path in directory.files if self._reals.get(path) in self._claimed]:
                del directory.files[path]
            if is_last:
                directory.is_followed = False
            directory.scan()
            directory.read()
        until, torn = time.monotonic() + _TORN_SECONDS, False
        while is_last and (torn := self._torn()) and time.monotonic() < until and not self.is_stopped:
            time.sleep(0.1)
            for directory in self._directories:
                directory.read()
        self.is_whole = self.is_whole and not torn
        for directory in self._directories:
            self._name(directory.damages())

    def _torn(self) -> bool:
        return any(damage.expected for directory in self._directories for damage in directory.damages())

    def _note(self, path: str, sizes: dict[str, int]) -> None:
        """Take note, at the first look, of a file that is there: of what was in it before the session began."""
        try:
            about = os.stat(path)
            named = CREATED.search(os.path.basename(path))
            if named is not None and int(named.group(1)) > self._since:
                return
            if os.path.basename(path) == PROJECTOR:
                if about.st_mtime < self._since:
                    sizes[path] = beyond(path, 0)
            elif about.st_mtime < self._since - _CLOCKS:
                sizes[path] = about.st_size
            else:  # written to since, or just before
                size = EventFile(path, os.path.dirname(path)).size_at(self._since)
                if size is not None or about.st_mtime < self._since:  # else it was copied to here since
                    sizes[path] = about.st_size if size is None else size
        except OSError:  # gone, or not to be read: it is told of when it is looked for
            return

    def _is_wanted(self, path: str) -> bool:
        """Return whether a file that is not read yet is to be read now."""
        assert self._sizes is not None
        try:
            about = os.stat(path)
        except OSError:  # a link to nowhere
            return False
        before = self._sizes.get(path)
        if os.path.basename(path) == PROJECTOR:
            return about.st_mtime >= self._since and os.path.dirname(path) not in self._writers and self._is_first(path)
        if before is not None and before == about.st_size:
            return False
        with contextlib.suppress(OSError):  # what cannot be read is told of
            if count_records(path, most=2) < 2:
                return False
        if not self._ends and time.monotonic() - self._seen.setdefault(path, time.monotonic()) < _SETTLED:
            return False
        return self._is_first(path)

    def _is_first(self, path: str) -> bool:
        """Return whether a file is no writer's, and is not read already under another name; then it is read now."""
        real = os.path.realpath(path)
        if real in self._claimed or real in {other for name, other in self._reals.items() if name != path}:
            return False
        self._reals[path] = real
        return True

    def _start_of(self, path: str) -> int:
        """Return the position of the first record that is the session's."""
        assert self._sizes is not None
        size = self._sizes.get(path)
        with contextlib.suppress(OSError):
            if size is not None and os.path.basename(path) != PROJECTOR and os.path.getsize(path) < size:
                return 0  # another file, in its place
            return position_at(path, size)
        return 0

    def _name(self, damages: Iterable[Damage]) -> None:
        """Say, once, what cannot be read."""
        for damage in damages:
            if damage.expected or damage.path in self._told:
                continue
            self._told.add(damage.path)
            if len(self._told) <= _MOST_TOLD:
                self._trouble(f"watch-{len(self._told)}", f"watched: {damage}")
            else:
                logger.warning("watched: %s", damage)
            if len(self._told) == _MOST_TOLD + 1:
                self._trouble("watch-more", f"more in {self.places} cannot be read; the log of the relay has it")


def outermost(tops: Iterable[str]) -> list[str]:
    """Return the directories that are in no other one of them."""
    by_real = {os.path.realpath(top): top for top in reversed(list(tops))}
    inner = {real for real in by_real for other in by_real if real != other and is_below(real, other)}
    return [top for real, top in reversed(by_real.items()) if real not in inner]
