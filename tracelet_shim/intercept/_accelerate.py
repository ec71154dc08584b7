"""The same event files for less: what a session saves the training process.

TensorBoard's event writer has a thread and a queue of ten for each file, opens, appends to and closes the file for each
record (``tensorboard/compat/tensorflow_stub/io/gfile.py``), and computes CRC32C in Python. Under a session, new local
writers get something else in the place of ``_AsyncWriter``, with the C implementation of google-crc32c: on the machine's own
file systems a `DirectWriter`, which writes each record in one call, so that a program that is killed leaves what it has logged;
on others a `BatchWriter`, whose thread may wait for a server while the training goes on. The bytes in the files are the same,
and so are the meanings of ``flush`` and ``close``; an error of the file still reaches the next call.

What differs: ``max_queue`` does not block the caller after ten events. Nothing is lost at exit, where TensorBoard loses up to ten
events. A file of a relative path stays where it was made when the program changes its directory.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
import time
import weakref
from collections import deque
from typing import Any, Protocol

from tracelet_shim.common.file_systems import is_local
from tracelet_shim.common.system import O_BINARY, O_CLOEXEC, after_fork
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.eventfiles.tfrecord import count_records, framed, framing

__all__ = ["BatchWriter", "DirectWriter", "EventWriter", "accelerate", "use_fast_crc"]

_os_write, _now = os.write, time.monotonic  # as they were, whatever a program puts there

_MAX_BYTES = 32 << 20
_MOST_OPEN = 64
"""Files that are kept open; beyond these, each record opens its file, as natively."""
_FIRST = 512
"""The lowest number of a descriptor that is held."""
_LOOK_SECONDS = 1.0
"""Seconds between two looks whether the file is still the one at its path."""


class EventWriter(Protocol):
    """What stands in for ``tensorboard.summary.writer.event_file_writer._AsyncWriter``.

    Attributes:
        last: the latest record, as TensorBoard serialised it.
        lock: held while a record is taken.
    """

    last: bytes
    lock: threading.RLock

    def write(self, data: bytes) -> None: ...
    def append(self, data: bytes) -> None: ...

    def count(self) -> int:
        """Return how many records have been written."""

    def flush(self) -> None: ...
    def close(self) -> None: ...


def accelerate(writer: Any) -> EventWriter | None:
    """Give a FileWriter or EventFileWriter that was just created its other writer; None if it is none of TensorBoard's own
    local ones."""
    from tensorboard.compat.tensorflow_stub.io import gfile
    from tensorboard.summary.writer import event_file_writer

    events = getattr(writer, "event_writer", writer)
    native: Any = getattr(events, "_async_writer", None)
    if type(events) is not event_file_writer.EventFileWriter:
        return None
    if type(native) is not event_file_writer._AsyncWriter:
        return None
    file = native._writer._writer
    if not isinstance(getattr(file, "fs", None), gfile.LocalFileSystem):
        return None
    use_fast_crc()
    native._worker.stop()
    path = os.path.abspath(file.filename)
    new = DirectWriter(native._writer, path) if is_local(os.fsdecode(path)) else BatchWriter(native._writer, file)
    events._async_writer = new
    _files.watch(new)
    return new


def use_fast_crc() -> None:
    """Let writers that are not replaced (older than the session, or remote) have the C checksum too."""
    record_writer = sys.modules.get("tensorboard.summary.writer.record_writer")
    if record_writer is not None:  # else there is no writer yet, and `accelerate` comes here again for the first
        record_writer.masked_crc32c = tfrecord.masked_crc32c  # type: ignore[attr-defined]


class DirectWriter:
    """Writes each record at once.

    Args:
        record_writer: TensorBoard's RecordWriter, for flush and close.
        path: the file, absolute.

    Attributes:
        last: the latest record, as TensorBoard serialised it.
        lock: held while a record is written.
    """

    def __init__(self, record_writer: Any, path: str | bytes) -> None:
        self._writer = record_writer
        self._path = path
        self.lock = threading.RLock()
        self._fd = -1
        self._held: os.stat_result | None = None  # the file that is held
        self._look_at = 0.0
        self._closed = self._foreign = False
        self._error: Exception | None = None
        self.last = b""
        self._framed = framing()

    def write(self, data: bytes) -> None:
        """Append a record to the file."""
        self.last = data
        with self.lock:
            self.append(data)

    def append(self, data: bytes) -> None:
        """As `write`, by who holds the lock."""
        fd = self._fd
        if fd < 0 or _now() >= self._look_at:
            self._append_slowly(data)
            return
        try:
            record = self._framed(data)
            written = _os_write(fd, record)
            if written != len(record):  # the disk is nearly full
                _write_all(fd, record[written:])
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EBADF:  # the program has closed it
                self._append_slowly(data)
            else:
                self._fail(error)

    def _append_slowly(self, data: bytes) -> None:
        """Where no file is held, or it may be another one now."""
        self._refuse()
        if self._foreign:  # a forked child's copy of our file is not for writing
            return
        try:
            self._look()
            if self._fd >= 0:
                _write_all(self._fd, framed(data))
            else:
                fd = self._opened()
                try:
                    _write_all(fd, framed(data))
                finally:
                    os.close(fd)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """The user's next call gets it, as TensorBoard's own writer does it."""
        self._error = error
        self._release()

    def _refuse(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise OSError("Writer is closed")

    def count(self) -> int:
        """Return how many records the file has."""
        return count_records(os.fsdecode(self._path))

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | O_BINARY | O_CLOEXEC, 0o666)

    def _look(self) -> None:
        """Hold the file that is at the path now: somebody may have removed the other one. Natively each record goes there."""
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if self._fd >= 0:
            try:
                if os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
                    return
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBADF):
                    raise
            self._release()
        if _files.may_stay_open():
            try:
                self._fd = _moved_up(self._opened())
                self._held = os.fstat(self._fd)
            except BaseException:
                _files.is_closed()
                raise

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _files.is_closed()
            try:
                is_ours = self._held is not None and os.path.samestat(os.fstat(fd), self._held)
            except OSError:
                is_ours = False  # a program may close all descriptors there are, and open files of its own
            if is_ours:
                os.close(fd)

    def forget(self) -> None:
        """In a forked child: the file is the parent's."""
        self.lock = threading.RLock()
        self._foreign = True
        self._release()

    def flush(self) -> None:
        """Everything is written out already."""
        self._refuse()
        self._look_at = 0.0
        self._writer.flush()

    def close(self) -> None:
        """Close the file; a second call changes nothing."""
        with self.lock:
            if not self._closed:
                self._closed = True
                self._release()
                self._writer.flush()
                self._writer.close()

    def __del__(self) -> None:
        self._release()


def _moved_up(fd: int) -> int:
    """Give a descriptor another number, which is not soon given to a file of a program that closes all descriptors there are."""
    try:
        import fcntl
        import resource
    except ImportError:  # Windows
        return fd
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST if limit < 0 else min(_FIRST, limit // 2))
    except OSError:  # there is none
        return fd
    os.close(fd)
    return moved


def _write_all(fd: int, record: bytes) -> None:
    while record:
        record = record[os.write(fd, record) :]


class BatchWriter:
    """Writes records in another thread, without waiting for the file.

    Args:
        record_writer: TensorBoard's RecordWriter, for flush and close.
        file: the file under it.

    Attributes:
        last: the latest record, as TensorBoard serialised it.
        lock: may be held while a record is taken; never while the file is written.
    """

    def __init__(self, record_writer: Any, file: Any) -> None:
        self._writer = record_writer
        self._file = file
        self._pending: deque[bytes] = deque()
        self._bytes = 0
        self.lock = threading.RLock()
        self._draining = threading.RLock()
        self._closed = self._foreign = False
        self._error: Exception | None = None
        self._listed = False
        self.last = b""

    def write(self, data: bytes) -> None:
        """Take a record. Waits for the disk only if that is far behind."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise OSError("Writer is closed")
        self.last = data
        self._pending.append(data)
        self._bytes += len(data)
        if not self._listed:
            self._listed = True
            _files.list(self)
        elif self._bytes > _MAX_BYTES:
            self.drain()

    append = write

    def count(self) -> int:
        """Return how many records the file has, and those that are pending."""
        self.drain()
        return count_records(os.fsdecode(self._file.filename))

    def drain(self) -> None:
        """Append what is pending to the file."""
        with self._draining:
            self._listed = False  # before taking: what comes from now on lists us again
            self._bytes = 0
            parts: list[bytes] = []
            while self._pending:
                parts.append(framed(self._pending.popleft()))
            if parts and not self._foreign:  # a forked child's copy of our file is not for writing
                try:
                    self._file.write(b"".join(parts))
                except Exception as error:  # the user's next call gets it, as TensorBoard's own writer does it
                    self._error = error

    def forget(self) -> None:
        """In a forked child: the file is the parent's."""
        self.lock, self._draining = threading.RLock(), threading.RLock()
        self._foreign = True
        self._pending.clear()
        self._listed = False

    def flush(self) -> None:
        """Write everything out."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise OSError("Writer is closed")
        self.drain()
        self._writer.flush()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write everything out and close the file; a second call changes nothing."""
        with self._draining:
            if not self._closed:
                self._closed = True
                self.drain()
                self._writer.flush()
                self._writer.close()


class _Files:
    """All writers; how many files are held open; and the thread that drains batches, started when the first one has something."""

    def __init__(self) -> None:
        self._listed: deque[BatchWriter] = deque()
        self._some = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._hooked = False
        self._open = 0
        self._writers: weakref.WeakSet[DirectWriter | BatchWriter] = weakref.WeakSet()

    def watch(self, writer: DirectWriter | BatchWriter) -> None:
        """Take note of a new writer."""
        self._writers.add(writer)
        if not self._hooked:
            self._hooked = True
            after_fork(self.after_fork)

    def may_stay_open(self) -> bool:
        """Return whether one more file may be held open, and count it if so. Threads may race for the last one."""
        if self._open >= _MOST_OPEN:
            return False
        self._open += 1
        return True

    def is_closed(self) -> None:
        """One that was counted is closed."""
        self._open -= 1

    def list(self, writer: BatchWriter) -> None:
        """Drain this writer now."""
        self._listed.append(writer)
        if self._thread is None:
            self._begin()
        if not self._some.is_set():
            self._some.set()

    def _begin(self) -> None:
        with self._start:
            if self._thread is None:
                atexit.register(self.drain)
                self._thread = threading.Thread(target=self._run, name="tracelet-files", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            self.drain()

    def drain(self) -> None:
        """Drain all listed writers."""
        while self._listed:
            self._listed.popleft().drain()

    def after_fork(self) -> None:
        """In a child: the thread is the parent's, its locks may be held for ever, and what is pending is its own to
        write."""
        self._listed.clear()
        self._some = threading.Event()
        self._start = threading.Lock()
        self._thread = None
        for writer in list(self._writers):
            writer.forget()


_files = _Files()
