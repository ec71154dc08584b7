"""The repository that holds the runs: found, made, opened for us alone; on this machine, or on an Aim server."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.aim import joined
from tracelet_shim.backends.aim.connection import connection_class
from tracelet_shim.backends.aim.process import disown, in_this_thread
from tracelet_shim.backends.aim.versions import is_in_index, lists_without_index
from tracelet_shim.common.private_files import locked
from tracelet_shim.common.text import usable

__all__ = ["Repository", "find", "place_of"]

_TRIES, _LAST_TRIES = 10, 150
"""How often a run is put into the index while another process has that: as it goes on, and as it has ended, after which nobody
would do it."""

logger = logging.getLogger("tracelet_shim.relay")


def find(cwd: str, option: str) -> str:
    """Return where the repository is: the option; else, as Aim does it, the nearest one upwards or the working directory.

    Args:
        cwd: the program's working directory.
        option: a path or ``aim://host:port``; empty if nothing was said.
    """
    from aim.sdk.utils import clean_repo_path, search_aim_repo

    here = usable(cwd if os.path.isdir(cwd) else os.getcwd())
    if option:
        return option if "://" in option else str(clean_repo_path(os.path.join(here, os.path.expanduser(option))))
    found, _ = search_aim_repo(here)
    return str(found or here)


def place_of(repo: Any) -> str:
    """Return where an `aim.Repo` is, as of `find`."""
    return f"aim://{repo.root_path}" if repo.is_remote_repo else str(repo.root_path)


class Repository:
    """A repository, made where there is none. The object is ours alone, not `Repo`'s shared one for the path, so that its end
    is in our hands.

    Args:
        where: as of `find`.
        is_transient: whether an error passes.
        theirs: a run of the user's in it that is written to; None if there is none.

    Attributes:
        native: the `aim.Repo`.
        is_remote: True for one on a server.
    """

    def __init__(self, where: str, is_transient: Callable[[BaseException], bool], theirs: Any = None) -> None:
        self._where, self._is_transient, self._theirs = where, is_transient, theirs
        self.native = open_repo(where)
        self.is_remote = bool(self.native.is_remote_repo)
        self._finalizers: list[Any] = []
        self._indexed = float("-inf")
        self._indexer: Any = None

    def url(self) -> str:
        return self._where if self.is_remote else f"aim up --repo {self.native.root_path}"

    def artifacts_uri(self) -> str | None:
        """Return where the files of runs go if nobody names a place; None if there is no place."""
        if self.is_remote or {"#", "?"} & set(self.native.path):  # Aim cuts there
            return None
        return f"file://{self.native.path}/artifacts"

    def start(self, run_hash: str, started: float, *, resume: bool) -> Any:
        """Return the new `aim.Run` of this hash, or the one that has it.

        Args:
            run_hash: 24 hex digits.
            started: when the run began; of a server's, Aim takes the time of now.
            resume: True to take a run whose lock somebody has left behind: a dead machine, or, on a server, a process that was
                killed in the last five minutes.
        """
        import aim

        joined.is_ours(run_hash)
        settings = {"repo": self.native, "system_tracking_interval": None, "capture_terminal_logs": False}
        try:
            if not self.is_remote and (created := _naive_utc(started)):
                self.native.request_props(run_hash, read_only=False, created_at=created)  # else it would be created now
            with _hash_is(run_hash):
                try:
                    opened = aim.Run(**settings)
                except TimeoutError:  # of the lock, filelock's or the server's; RocksDB's own goes with its process
                    if not resume:
                        raise
                    opened = aim.Run(**settings, force_resume=True)
        finally:
            self._finalizers += disown(self.native)
        self._finalizers += disown(self.native, opened)
        if not hasattr(opened._tracker, "_track") or not hasattr(opened._tracker, "sequence_infos"):
            raise errors.BackendError(f"aim {aim.__version__} stores sequences in an unknown way; known: 3.19 to 3.29")
        return opened

    def send(self) -> None:
        """Return when the Aim server has everything that is written; nothing to do for a local repository. Raises as of
        ``connection.py``."""
        if self.is_remote:
            self.native._client.send()
            if self._theirs is not None:
                joined.wait_for_server(self._theirs)

    def forget(self) -> None:
        """What the Aim server refuses for good is not to be sent again."""
        if self.is_remote:
            self.native._client.forget()

    def abandon(self) -> None:
        """The server is gone: whoever drops the last reference to us must not wait for it."""
        for finalizer in self._finalizers:
            finalizer.detach()
        if self.is_remote:
            self.native._client.leave()

    def indexed_seconds_ago(self) -> float:
        return time.monotonic() - self._indexed

    def index(self, run_hash: str, *, goes_on: bool = False) -> None:
        """Put a run into the repository's index, through which Aim's API finds runs; `aim up` would do it, too. One that goes on
        where it has to be there only."""
        if self.is_remote or (goes_on and lists_without_index(self.native)):
            return
        self._indexer = self._indexer or _indexer(self.native)
        if is_in_index(self._indexer, run_hash):
            return
        for _ in range(_TRIES if goes_on else _LAST_TRIES):
            try:
                self._indexer.index(run_hash)
                break
            except Exception as error:
                if not self._is_transient(error):
                    raise
                time.sleep(0.1)  # someone else has the index for some milliseconds; many that end at once, for seconds
        else:
            text = "run %s is not in the index as it is now: others have it all the time; `aim up` puts it there"
            logger.log(logging.DEBUG if goes_on else logging.WARNING, text, run_hash)
            return
        self._indexed = time.monotonic()


def open_repo(where: str) -> Any:
    """Open the repository, make it where there is none. Two processes that make one at once spoil it: one at a time."""
    from aim import Repo

    if "://" in where:
        return _connected(where) if Repo.is_remote_path(where) else Repo(where)
    unready = (0, 0)  # version of a repository that is not there, or not yet ready
    if Repo.get_version(where) == unready:
        os.makedirs(where, exist_ok=True)
        with locked(where, 60):
            deadline = time.monotonic() + 10  # for a process that does not know our lock and is making it
            while Repo.exists(where) and Repo.get_version(where) == unready and time.monotonic() < deadline:
                time.sleep(0.1)
            if Repo.get_version(where) == unready:
                Repo(where, init=True)
    return Repo(where)


def _connected(where: str) -> Any:
    """Return the `aim.Repo` of a server, with a connection of our own kind."""
    from aim.sdk import repo

    made: list[Any] = []

    def client(path: str) -> Any:
        made.append(connection_class()(path))
        return made[-1]

    try:
        with in_this_thread(repo, "Client", client):
            return repo.Repo(where)
    except BaseException:
        for connection in made:
            connection.leave()
        raise


class _Unwatching:
    """Stands where Aim has an observer of files: with watchdog 7 each has a thread and an inotify instance from its beginning, of
    which a user has 128."""

    def schedule(self, *_: Any, **__: Any) -> None:
        """Nothing is looked at."""

    def unschedule(self, *_: Any) -> None:
        """Nothing was looked at."""


def _indexer(repo: Any) -> Any:
    """Return what puts runs into a repository's index when it is told to."""
    from aim.sdk import index_manager as sdk

    def unwatching(*_: Any, **__: Any) -> _Unwatching:
        return _Unwatching()

    with ExitStack() as stack:
        for name in ("Observer", "PollingObserver"):
            if hasattr(sdk, name):
                stack.enter_context(in_this_thread(sdk, name, unwatching))
        return sdk.RepoIndexManager(repo)


@contextmanager
def _hash_is(run_hash: str) -> Iterator[None]:
    """Let the next new `aim.Run` of this thread have this hash, or be the run that has it.

    ``aim.Run(hash)`` refuses a hash that is not there yet, and what is there it looks up in a cache half a second old.
    """
    from aim.sdk import base_run

    with in_this_thread(base_run, "generate_run_hash", lambda *_: run_hash):
        yield


def _naive_utc(seconds: float) -> datetime | None:
    """Return a time as Aim's database has it; None for one that a date cannot express."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return None
