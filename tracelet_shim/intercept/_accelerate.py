"""The same event files for less: what a session saves the training process.

TensorBoard's event writer has a thread and a queue of ten for each file, opens, appends to and closes the file for each
record (``tensorboard/compat/tensorflow_stub/io/gfile.py``), and computes CRC32C in Python. Under a session, new local
writers get `BatchWriter` in the place of ``_AsyncWriter``: one thread for all files, which appends what came in the last
tenth of a second in one go, with the C implementation of google-crc32c. The bytes in the files are the same, and so are
the meanings of ``flush`` and ``close``; an error of the file still reaches the next call.

What differs: ``max_queue`` does not block the caller after ten events (the bound is in bytes), and an event is in the file
within a tenth of a second rather than at once. At exit everything is written, where TensorBoard loses up to ten events.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections import deque
from typing import Any

from tracelet_shim.eventfiles import tfrecord

__all__ = ["BatchWriter", "accelerate", "use_fast_crc"]

_PERIOD = 0.1
_MAX_BYTES = 32 << 20


def accelerate(writer: Any) -> BatchWriter | None:
    """Give a FileWriter that was just created its `BatchWriter`; None if it is none of TensorBoard's own local ones."""
    from tensorboard.compat.tensorflow_stub.io import gfile
    from tensorboard.summary.writer import event_file_writer

    native: Any = getattr(writer.event_writer, "_async_writer", None)
    if type(writer.event_writer) is not event_file_writer.EventFileWriter:
        return None
    if type(native) is not event_file_writer._AsyncWriter:
        return None
    file = native._writer._writer
    if not isinstance(getattr(file, "fs", None), gfile.LocalFileSystem):
        return None
    use_fast_crc()
    native._worker.stop()
    batch = BatchWriter(native._writer, file)
    writer.event_writer._async_writer = batch
    _files.writers.add(batch)
    return batch


def use_fast_crc() -> None:
    """Let writers that are not replaced (older than the session, or remote) have the C checksum too."""
    record_writer = sys.modules.get("tensorboard.summary.writer.record_writer")
    if record_writer is not None:  # else there is no writer yet, and `accelerate` comes here again for the first
        record_writer.masked_crc32c = tfrecord.masked_crc32c  # type: ignore[attr-defined]


class BatchWriter:
    """Stands in for ``tensorboard.summary.writer.event_file_writer._AsyncWriter``.

    Args:
        record_writer: TensorBoard's RecordWriter, for flush and close.
        file: the file under it.

    Attributes:
        last: the latest record, as TensorBoard serialised it.
    """

    def __init__(self, record_writer: Any, file: Any) -> None:
        self._writer = record_writer
        self._file = file
        self._pending: deque[bytes] = deque()
        self._bytes = 0
        self._lock = threading.RLock()
        self._closed = False
        self._error: Exception | None = None
        self._listed = False
        self._pid = os.getpid()
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

    def drain(self) -> None:
        """Append what is pending to the file."""
        with self._lock:
            self._listed = False  # before taking: what comes from now on lists us again
            self._bytes = 0
            parts: list[bytes] = []
            while self._pending:
                parts += tfrecord.framed(self._pending.popleft())
            if parts and self._pid == os.getpid():  # a forked child's copy of our file is not for writing
                try:
                    self._file.write(b"".join(parts))
                except Exception as error:  # the user's next call gets it, as TensorBoard's own writer does it
                    self._error = error

    def forget(self) -> None:
        """In a forked child: the file is the parent's."""
        self._lock = threading.RLock()
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
        with self._lock:
            if not self._closed:
                self._closed = True
                self.drain()
                self._writer.flush()
                self._writer.close()


class _Files:
    """The thread that drains all writers, started when the first one has something."""

    def __init__(self) -> None:
        self._listed: deque[BatchWriter] = deque()
        self._some = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._hooked = False
        self.writers: weakref.WeakSet[BatchWriter] = weakref.WeakSet()

    def list(self, writer: BatchWriter) -> None:
        """Drain this writer at the next turn."""
        self._listed.append(writer)
        if self._thread is None:
            self._begin()
        if not self._some.is_set():
            self._some.set()

    def _begin(self) -> None:
        with self._start:
            if self._thread is None:
                if not self._hooked:
                    self._hooked = True
                    os.register_at_fork(after_in_child=self.after_fork)
                    atexit.register(self.drain)
                self._thread = threading.Thread(target=self._run, name="tracelet-files", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._some.wait()
            pause.wait(_PERIOD)
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
        for writer in list(self.writers):
            writer.forget()


_files = _Files()
