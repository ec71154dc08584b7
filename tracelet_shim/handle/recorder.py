"""Writes what a session's own methods make into event files of its own, and hands it over like any other record.

A record's file and position are its identity, as everywhere; so index, ledger, retry, resume and replay know no difference. The
files, one for the session and one for each run of the user's, lie beside the ledger (`eventfiles.own_files.HANDLE`). Their place
follows from the root, which the first writer in the same run tells. What describes a run is usually said before that: it waits in
the state directory that the working directory would have, without an identity yet, and moves to its place then. What has a step
does not wait: a program that logs such before it has a writer, or ends without one, has the working directory as its root. So
the names of tags depend on the order of calls alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tracelet_shim.bus import messages as msg
from tracelet_shim.common.private_files import make_directory, open_file
from tracelet_shim.eventfiles import tfrecord, waiting
from tracelet_shim.eventfiles.own_files import HANDLE, OWN_SUFFIX, store_of
from tracelet_shim.eventfiles.own_records import ArtifactContent, StoredFile
from tracelet_shim.handle import downloads, records, snapshots

__all__ = ["Made", "Recorder", "RecordsFile", "Taker"]

Runs = tuple[tuple[str, str], ...]


_MOST_STEP = 2**63 - 1


class Made(NamedTuple):
    """A record, and what it does not say itself."""

    data: bytes
    hint: msg.Hint | None = None


class Taker(Protocol):
    """The session, as far as it takes records."""

    def active_runs(self) -> Runs: ...
    def opening(self) -> msg.Open: ...
    def join(self, runs: Runs) -> None: ...
    def add_source(self, path: str, logdir: str, parent: str | None, runs: Runs) -> int: ...
    def publish(self, record: msg.Record) -> None: ...


class RecordsFile:
    """An event file of the session's own.

    Args:
        directory: where it is made.
        name: its name, without suffix.

    Attributes:
        path: absolute.
        length: number of records, the first of which only says what the file is.
        number: that of its source; None before it is handed over.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, directory: Path, name: str) -> None:
        make_directory(directory.parent)
        make_directory(directory)
        self.path = str(directory / f"{name}{OWN_SUFFIX}")
        self._file = open(self.path, "xb", buffering=0, opener=open_file)  # noqa: SIM115 - open as long as the session
        self.length = 0
        self.number: int | None = None
        self.append(records.file_version(time.time()))

    @property
    def store(self) -> str:
        """The directory of the files that its records name."""
        return store_of(self.path)

    def append(self, data: bytes) -> int:
        """Write a record, in one system call where the disk lets it; return its position.

        Raises:
            OSError: it could not be written. The file has not grown.
        """
        end = self._file.tell()
        view = memoryview(tfrecord.framed(data))
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.seek(end)
                self._file.truncate(end)
            raise
        self.length += 1
        return self.length - 1

    def records(self) -> Iterator[bytes]:
        """Yield the data of its records.

        Raises:
            OSError: it cannot be read.
        """
        with open(self.path, "rb") as file:
            yield from tfrecord.records(file)

    def move(self, directory: Path) -> None:
        """Go to another directory, with the files that its records name.

        Raises:
            OSError: it cannot.
        """
        make_directory(directory.parent)
        make_directory(directory)
        for path in (self.store, waiting.told_at(self.path), self.path):
            if os.path.exists(path):
                shutil.move(path, directory / os.path.basename(path))
        left = Path(self.path).parent
        self.path = str(directory / os.path.basename(self.path))
        self._file.close()
        self._file = open(self.path, "ab", buffering=0, opener=open_file)  # noqa: SIM115 - as above
        for empty in (left, left.parent):  # made for this, if nothing else is there
            with contextlib.suppress(OSError):
                empty.rmdir()


class Recorder:
    """Takes what is logged through a session itself; may be used from any thread, and from signal handlers.

    Args:
        taker: gets the records.
        session: the session's id.
        place: root directory -> the state directory.
        tell: takes what cannot be taken: a kind, and a line.
        root: the session's root directory, absolute, if the user has named one.
    """

    def __init__(
        self, taker: Taker, session: str, place: Callable[[str], Path], tell: Callable[[str, str], None], root: str | None
    ) -> None:
        self._taker = taker
        self._session = session
        self._place = place
        self._tell = tell
        self._root = root
        self._roots: dict[Runs, str] = {}  # by runs, in the order in which they became known
        self._files: dict[Runs, RecordsFile] = {}
        self._made = 0
        self._lock = threading.RLock()
        self._moving = threading.RLock()  # held while files are kept or moved, which may take long
        self._queue: deque[tuple[Runs, Made]] = deque()
        self._writing = False
        self._next_step = 0

    def take(self, what: str, make: Callable[[Recorder, Runs], Iterable[Made]], *, steps: bool = False) -> None:
        """Write records and hand them over. Never raises: what cannot be taken is told.

        Args:
            what: the method that was called.
            make: makes the records.
            steps: they do not wait for the first writer.
        """
        try:
            runs = self._taker.active_runs()
            if steps and self._root_of(runs) is None:
                self._settle_somewhere(runs)
            made = list(make(self, runs))
            with self._lock:
                self._queue.extend((runs, record) for record in made)
                if self._writing:  # a signal handler, in the middle of it
                    return
                self._writing = True
                try:
                    while self._queue:
                        self._write(*self._queue.popleft())
                finally:
                    self._writing = False
        except Exception as error:
            self._tell(f"{what}-{type(error).__name__}", f"{what}() could not be taken: {error}")

    def leave_out(self, what: str, which: str, error: Exception) -> None:
        """Tell of a part of what a method was called with that cannot be taken; the others are."""
        self._tell(f"{what}-{type(error).__name__}", f"{what}() leaves out {which}: {error}")

    def tell(self, what: str, text: str) -> None:
        """Tell of something that a method was called with, and that is taken for something else."""
        self._tell(f"{what}-instead", f"{what}(): {text}")

    def step(self, what: str, given: Any) -> int:
        """Return a step as a whole number; None is 0.

        Raises:
            ValueError, TypeError: it is none, or has more than 64 bits.
        """
        step = 0 if given is None else int(given)
        if given is not None and step != given:
            self.tell(what, f"step {given!r} is no whole number; it counts as {step}")
        if not -_MOST_STEP <= step <= _MOST_STEP:
            raise ValueError(f"step {step} has more than 64 bits")
        return step

    def next_step(self, what: str, given: Any) -> int:
        """Return the step of metrics: as it was given, else one more than the latest one, as long as there is one."""
        step = None if given is None else self.step(what, given)
        with self._lock:
            found = self._next_step if step is None else step
            self._next_step = max(self._next_step, min(found + 1, _MOST_STEP))
        return found

    def keep(self, runs: Runs, path: str, name: str) -> tuple[StoredFile, ...]:
        """Keep a file, or those of a directory, as they are now, for records of these runs.

        Raises:
            OSError, ValueError: as of `snapshots`.
        """
        found, left_out = snapshots.files_of(path, name)
        if left_out:
            more = f", and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            self._tell("left-out", f"log_artifact() leaves out {left_out[0]}{more}, which is no regular file")
        with self._moving:
            with self._lock:
                store = self._file(runs).store
            return tuple(snapshots.keep(at, store, within) for within, at in found)

    def logged(self, name: str) -> tuple[ArtifactContent, str] | None:
        """Return the latest artifact of this name that was logged here, and the directory with its files; None if there is none.
        It is looked for where it was written: nothing of it is kept in memory."""
        with self._moving:
            with self._lock:
                files = [(file, file.length) for file in self._files.values()]
            for file, length in reversed(files):
                found = None
                for data in islice(file.records(), length):
                    found = records.artifact_in(data, name) or found
                if found is not None:
                    return found, file.store
        return None

    def downloads(self, runs: Runs) -> Path:
        """Return the directory where artifacts go that the user asks for."""
        return self._place(self._root_of(runs) or os.getcwd()) / downloads.DIRECTORY

    def settle(self, runs: Runs, root: str) -> None:
        """The root is known, since a writer was made in these runs: what has waited for it goes to its place, and is handed over.

        Args:
            runs: of the writer.
            root: absolute.
        """
        if self._root_of(runs) is not None:
            return
        with self._moving, self._lock:
            if self._root_of(runs) is not None:
                return
            self._roots[runs] = root
            file, directory = self._files.get(runs), self._place(root) / HANDLE
            if file is None:
                return
            try:
                if Path(file.path).parent != directory:
                    file.move(directory)
                file.number = self._taker.add_source(file.path, root, None, runs)
                for position, data in enumerate(file.records()):
                    if position:
                        self._taker.publish(msg.Record(file.number, position, data))
                waiting.forget(file.path)
            except Exception as error:
                del self._files[runs]
                text = f"what was logged before the first writer could not be taken: {error}"
                self._tell(f"settle-{type(error).__name__}", text)

    def wait_no_longer(self, tracker: str | None = None, run_id: str | None = None) -> None:
        """No writer has come: what waits for one is to go; or what is for a run that the user is about to end."""
        for runs, file in list(self._files.items()):
            if file.number is None and (run_id is None or (tracker, run_id) in runs):
                self._settle_somewhere(runs)

    def is_root(self, logdir: str) -> bool:
        """Return whether this has become the root of some runs."""
        return logdir in self._roots.values()

    def _root_of(self, runs: Runs) -> str | None:
        return self._root or self._roots.get(runs)

    def _settle_somewhere(self, runs: Runs) -> None:
        """Without a writer in these runs, their root is what the others have, else the working directory."""
        self.settle(runs, next(iter(self._roots.values()), None) or os.getcwd())

    def _file(self, runs: Runs) -> RecordsFile:
        file = self._files.get(runs)
        if file is None:
            name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{self._session}.{self._made}"
            root = self._root_of(runs)
            file = RecordsFile(self._place(os.getcwd() if root is None else root) / HANDLE, name)
            self._made += 1
            self._files[runs] = file
            if root is not None:
                file.number = self._taker.add_source(file.path, root, None, runs)
            elif not runs:
                waiting.tell(file.path, self._taker.opening(), os.getcwd())
            else:  # so that the end of a run of the user's waits for what is logged into it
                self._taker.join(runs)
        return file

    def _write(self, runs: Runs, made: Made) -> None:
        file = self._file(runs)
        try:
            position = file.append(made.data)
        except OSError:
            raise
        except BaseException:  # Ctrl-C: nobody knows whether it is in the file
            self._files.pop(runs, None)
            raise
        if file.number is not None:
            self._taker.publish(msg.Record(file.number, position, made.data, None, made.hint))
