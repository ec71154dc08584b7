"""The ring: a file in memory that the training process writes and the relay reads, and that outlives both.

The first page is the header, the rest the ring itself. Numbers are native: both are on one machine. Only the training process
writes `written`, only the relay writes how much is free again. What is free is said in one of two slots, and then which slot it
is: whoever is killed in the middle leaves the other one.

A frame is never cut at the end of the ring, and begins at a multiple of eight. The number of bytes written comes last, in one
piece, so that a frame is there as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import platform
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.ring_places import SUFFIX, in_memory, is_mine, remove_ring
from tracelet_shim.common.file_systems import keeps_space, share_of
from tracelet_shim.common.private_files import make_directory, open_file
from tracelet_shim.common.system import O_CLOEXEC, O_NOFOLLOW, lock

__all__ = ["Ring", "RingError", "RingReader"]

_MAGIC = 0x31474E49525F5354  # in the file: TS_RING1
_HEADER = mmap.PAGESIZE
_FRAME = struct.Struct("@IIIIQd")  # bytes in all, what it is, source, bytes of the hint, position, value
_SIZE, _pack = _FRAME.size, _FRAME.pack_into
_MAGIC_AT, _CAPACITY_AT, _WRITTEN_AT, _SLOT_AT, _SLOTS = 0, 1, 2, 3, (8, 16)  # by eight bytes
_RECORD, _MESSAGE, _PART, _LAST_PART, _PAD = range(1, 6)
_KIND, _VALUED, _DATA = 0xFF, 0x100, 0x200

_SMALLEST = 1 << 16
_STEP = 1 << 18  # bytes that are made ready at a time
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it
_BATCH_RECORDS = 1000
_BATCH_BYTES = 1 << 20


def _memory_fence() -> Callable[[], None] | None:
    """Return what keeps the processor from moving a write across it to memory that another process reads; None where it does
    not do that anyway (Intel's *Software Developer's Manual*, volume 3, "Memory Ordering"; AMD's says the same).

    Others do: ARM, POWER, RISC-V. There, giving a lock back keeps what was written before it, and taking it keeps what comes
    after, and the two keep their order (*Arm Architecture Reference Manual*, "Load-Acquire, Store-Release").
    """
    if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686"):
        return None
    local = threading.local()  # a lock of its own for each thread, which no fork finds taken by another

    def fence() -> None:
        lock = getattr(local, "lock", None)
        if lock is None:
            lock = local.lock = threading.Lock()
        lock.acquire()
        lock.release()
        lock.acquire()
        lock.release()

    return fence


class RingError(Exception):
    """The file is no ring, or it is damaged."""


_fence = _memory_fence()


class Ring:
    """The writer's side. Used by one thread at a time, and never in the middle of itself.

    Args:
        directory: the state directory. Where its file system cannot be trusted to have the space that it has promised, the ring
            is `in_memory`.
        session: the session's id.
        capacity: bytes that it takes, about.

    Attributes:
        path: the file.
        records: how many records have been put into it.
        on_turn: called when another quarter of it is begun: the reader should be told.

    Raises:
        OSError: there is no place for it.
    """

    def __init__(self, directory: str | os.PathLike[str], session: str, capacity: int) -> None:
        self._capacity = capacity = max(_SMALLEST, capacity) // mmap.PAGESIZE * mmap.PAGESIZE
        self.path = ""
        if not hasattr(os, "posix_fallocate"):  # macOS, Windows: none of what follows would be safe
            raise OSError(errno.ENOSYS, "no ring can be made on this system")
        error: OSError | None = None
        memory = in_memory(directory)
        for place, may_be in ((os.fspath(directory), keeps_space), (memory, is_mine)):
            try:
                if place == memory:
                    make_directory(os.path.dirname(place))
                make_directory(place)
                if not may_be(place):
                    continue
                capacity = self._capacity = share_of(place, capacity, least=_SMALLEST) // mmap.PAGESIZE * mmap.PAGESIZE
                self._map = self._made(os.path.join(place, session + SUFFIX), _HEADER + capacity)
                self.path = os.path.join(place, session + SUFFIX)
                break
            except OSError as problem:
                error = problem
        if not self.path:
            remove_ring(Path(memory, session + SUFFIX))  # the directories
            raise error or OSError(f"there is no place for a ring beside {os.fspath(directory)}")
        self._words = memoryview(self._map).cast("Q")
        self._words[_CAPACITY_AT] = capacity
        self._words[_MAGIC_AT] = _MAGIC
        self.records = 0
        self._written = 0
        self._at, self._limit = _HEADER, _HEADER
        self._turns = -1  # quarters that have been begun, less one
        self._makes_ready = True
        self.on_turn: Callable[[], None] = lambda: None

    @staticmethod
    def _made(path: str, size: int) -> mmap.mmap:
        descriptor = open_file(path, os.O_RDWR | os.O_EXCL)
        try:
            _hold(descriptor)
            os.posix_fallocate(descriptor, 0, size)  # a page for which the disk has no room would end the process
            return mmap.mmap(descriptor, size)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    def put(self, record: msg.Record, hint: bytes = b"") -> bool:
        """Copy a record into the ring, with its encoded hint; return False if there is no room."""
        data, value = record.data, record.value
        if data is None:
            data = b""
            what = _RECORD if value is None else _RECORD | _VALUED
        else:
            what = _RECORD | _DATA if value is None else _RECORD | _DATA | _VALUED
        length = _SIZE + len(data) + len(hint)
        at = self._at
        end = at + (length + 7 & -8)
        if end > self._limit:
            if not self._find_room(end - at):
                return False
            end += self._at - at
            at = self._at
        memory = self._map
        _pack(memory, at, length, what, record.source, len(hint), record.position, 0.0 if value is None else value)
        begin = at + _SIZE
        if hint:
            memory[begin : begin + len(data)] = data
            memory[begin + len(data) : at + length] = hint
        else:
            memory[begin : at + length] = data
        if _fence is not None:
            _fence()
        # No call from here on, and so no signal handler that could leave it half done.
        self.records += 1
        self._written += end - at
        self._at = end
        self._words[_WRITTEN_AT] = self._written
        return True

    def put_message(self, data: bytes) -> bool:
        """Copy an encoded message into the ring; return False if there is no room, or never will be (`parts_of`)."""
        return self._put(_MESSAGE, data)

    def put_part(self, data: bytes, *, first: bool, last: bool) -> bool:
        """Copy a part of a message."""
        return self._put(_LAST_PART if last else _PART, data, first)

    def parts_of(self, data: bytes) -> Iterator[tuple[bytes, bool, bool]]:
        """Yield the parts of a message that is too large, and whether each is the first, and the last."""
        size = self._capacity // 4
        for start in range(0, len(data), size):
            yield data[start : start + size], start == 0, start + size >= len(data)

    def fits(self, length: int) -> bool:
        """Return whether so many bytes fit into the ring when it is empty."""
        return length + _SIZE <= self._capacity // 2

    def _put(self, what: int, data: bytes, first: int = 0) -> bool:
        total = _SIZE + len(data) + 7 & -8
        if self._at + total > self._limit and not self._find_room(total):
            return False
        at = self._at
        _FRAME.pack_into(self._map, at, _SIZE + len(data), what, first, 0, 0, 0.0)
        self._map[at + _SIZE : at + _SIZE + len(data)] = data
        if _fence is not None:
            _fence()
        self._written += total
        self._at = at + total
        self._words[_WRITTEN_AT] = self._written
        return True

    def _find_room(self, total: int) -> bool:
        """Find a place for so many bytes, at the front if there are too few before the end, and make the memory there ready."""
        written = self._written
        free = self._capacity - (written - _freed(self._words)[0])
        to_end = self._capacity - written % self._capacity
        if to_end < total:
            if free < to_end + total:
                return False
            struct.pack_into("@II", self._map, self._at, to_end, _PAD)
            self._written, self._at = written + to_end, _HEADER
            free -= to_end
            to_end = self._capacity
        elif free < total:
            return False
        elif to_end == self._capacity:
            self._at = _HEADER
        self._limit = self._at + max(total, min(to_end, free, _STEP, self._capacity // 4))
        self._make_ready()
        turns = self._written // (self._capacity // 4)
        if turns != self._turns:
            self._turns = turns
            self.on_turn()
        return True

    def _make_ready(self) -> None:
        """Have the kernel map the pages up to the limit at once: a record that touches a new page waits for each of them a
        microsecond or two, and one of 44 KB touches eleven."""
        if self._makes_ready:
            start = self._at // mmap.PAGESIZE * mmap.PAGESIZE
            try:
                self._map.madvise(_MADV_POPULATE_WRITE, start, self._limit - start)
            except (OSError, AttributeError):  # an older kernel, another system: they come when they are touched
                self._makes_ready = False

    def restore(self) -> None:
        """Make the file again if somebody has removed it; nobody else may have it mapped.

        Raises:
            OSError: there is no place for it any more.
        """
        if not os.path.exists(self.path):
            make_directory(os.path.dirname(os.path.dirname(self.path)))
            make_directory(os.path.dirname(self.path))
            new = self._made(self.path, len(self._map))
            new[:] = self._map[:]
            self._words.release()
            self._map.close()
            self._map, self._words = new, memoryview(new).cast("Q")

    @property
    def written(self) -> int:
        """The number of bytes that have been written, round and round."""
        return self._written

    @property
    def freed(self) -> int:
        """The number of bytes of these that are free again."""
        return _freed(self._words)[0]

    def close(self, *, remove: bool = False) -> None:
        """Let go of the ring; `remove` the file, and the directories that it was alone in."""
        self._limit = 0
        self._words.release()
        self._map.close()
        if remove:
            remove_ring(Path(self.path))


class RingReader:
    """The reader's side.

    Args:
        path: the file.

    Attributes:
        path: the file.
        records: how many records come before what is read next.
        lost: how many of them are in no index, and nowhere else.

    Raises:
        RingError: it is no ring.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        descriptor = os.open(path, os.O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        try:
            _hold(descriptor)
            size = os.fstat(descriptor).st_size
            if size < _HEADER + mmap.PAGESIZE:
                raise RingError(f"{path} is no ring")
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")
        self._capacity = self._words[_CAPACITY_AT]
        if self._words[_MAGIC_AT] != _MAGIC or self._capacity != size - _HEADER:
            raise RingError(f"{path} is no ring, or was cut off when it was made")
        self._at, self.records, self.lost = _freed(self._words)
        self._skip = 0
        self._hold: int | None = None
        self._parts = bytearray()
        self._messages: wire.Decoder[msg.Message] = wire.Decoder(msg.Message)
        self._hints: wire.Decoder[msg.Hinted] = wire.Decoder(msg.Hinted)

    def skip(self, known: int) -> int:
        """Leave out what an index has of so many records; return how many are lost for good, since the index was lost."""
        known += self.lost
        self._skip = max(0, known - self.records)
        self.lost += max(0, self.records - known)
        return self.lost

    @property
    def is_empty(self) -> bool:
        return bool(self._words[_WRITTEN_AT] == self._at)

    def read(self, most: int = 8 << 20) -> list[msg.Message]:
        """Return what has been put into the ring since, about `most` bytes of it; nothing only if there is nothing more.

        Raises:
            RingError: it is damaged.
        """
        written = self._words[_WRITTEN_AT]
        if written == self._at:
            return []
        if _fence is not None:
            _fence()
        if not self._at <= written <= self._at + self._capacity:
            raise RingError(f"{self.path} is damaged: {written} bytes were written, and {self._at} read")
        found: list[msg.Message] = []
        batch: list[msg.Record] = []
        size = 0
        until = min(written, self._at + most)
        while self._at < until or (self._at < written and not found and not batch):
            at = _HEADER + self._at % self._capacity
            length, what = struct.unpack_from("@II", self._map, at)
            total = length + 7 & -8
            if length < 8 or self._at + total > written or at + total > _HEADER + self._capacity:
                raise RingError(f"{self.path} is damaged: a frame of {length} bytes")
            kind = what & _KIND
            if kind == _RECORD:
                self.records += 1
                if self._skip:
                    self._skip -= 1
                else:
                    batch.append(self._record(at, length, what))
                    size += length
            if batch and (kind not in (_RECORD, _PAD) or len(batch) >= _BATCH_RECORDS or size >= _BATCH_BYTES):
                found.append(msg.Records(batch))
                batch, size = [], 0
            if kind == _MESSAGE:
                self._take(self._map[at + _SIZE : at + length], found)
            elif kind in (_PART, _LAST_PART):
                (is_first,) = struct.unpack_from("@I", self._map, at + 8)
                if is_first:
                    self._parts.clear()
                if is_first or self._parts:  # else a predecessor has taken its beginning, and died with it
                    self._parts += self._map[at + _SIZE : at + length]
                if kind == _LAST_PART and self._parts:
                    self._take(bytes(self._parts), found)
                    self._parts.clear()
            elif kind not in (_RECORD, _PAD):
                raise RingError(f"{self.path} is damaged: a frame of kind {kind}")
            self._at += total
        if batch:
            found.append(msg.Records(batch))
        return found

    def _take(self, data: bytes, found: list[msg.Message]) -> None:
        message = self._messages.decode(data)
        if isinstance(message, msg.Records):  # one too large for a frame of its own
            self.records += len(message.records)
            skipped = min(self._skip, len(message.records))
            self._skip -= skipped
            if skipped == len(message.records):
                return
        elif isinstance(message, msg.Close) and self._hold is None:
            self._hold = self._at  # a successor is to find it
        found.append(message)

    def _record(self, at: int, length: int, what: int) -> msg.Record:
        _, _, source, hinted, position, value = _FRAME.unpack_from(self._map, at)
        end = at + length
        hint = self._hints.decode(self._map[end - hinted : end]).hint if hinted else None
        data = self._map[at + _SIZE : end - hinted] if what & _DATA else None
        return msg.Record(source, position, data, value if what & _VALUED else None, hint)

    @property
    def is_half_full(self) -> bool:
        return bool(self._words[_WRITTEN_AT] - _freed(self._words)[0] > self._capacity // 2)

    def free(self) -> None:
        """What has been read is not needed any more. Parts of a message stay until the last one is read, if there is room, and
        the end of the session stays."""
        if self._hold is not None or (self._parts and not self.is_half_full):
            return
        now = self._words[_SLOT_AT]
        slot = _SLOTS[1 - now]
        self._words[slot], self._words[slot + 1], self._words[slot + 2] = self._at, self.records, self.lost
        if _fence is not None:
            _fence()
        self._words[_SLOT_AT] = 1 - now

    def trim(self) -> None:
        """Give back what a ring that nobody writes to any more takes of memory or disk, but for what is still to be read."""
        begin, end = self._at % self._capacity, self._words[_WRITTEN_AT] % self._capacity
        free = [(end, begin)] if end <= begin else [(0, begin), (end, self._capacity)]
        for start, stop in free:
            first, pages = -(-start // mmap.PAGESIZE), stop // mmap.PAGESIZE - -(-start // mmap.PAGESIZE)
            if pages > 0:
                self._map.madvise(mmap.MADV_REMOVE, _HEADER + first * mmap.PAGESIZE, pages * mmap.PAGESIZE)

    def close(self, *, remove: bool) -> None:
        """Let go of the ring; `remove` the file, and the directories that it was alone in."""
        self._words.release()
        self._map.close()
        if remove:
            remove_ring(self.path)


def _hold(descriptor: int) -> None:
    """Show that the ring is in use, for as long as it is mapped: the map has a copy of the descriptor."""
    with contextlib.suppress(OSError):  # no locks there, or somebody is just looking whether it is in use
        lock(descriptor, shared=True)


def _freed(words: memoryview) -> tuple[int, int, int]:
    slot = _SLOTS[words[_SLOT_AT] & 1]
    return words[slot], words[slot + 1], words[slot + 2]
