"""What ran: the state of the code, the command line, the packages and the machine, as files for each tracker's run.

    code/what_ran.json        all of it
    code/uncommitted.diff     what ``git diff HEAD`` says, up to a megabyte
    code/requirements.txt     the packages, ``name==version``

It is collected beside the delivery, in a thread of its own, never on the training thread; whatever cannot be found out is
left out, and named. Environment variables are never looked at. Of arguments, the remote's URL and the diff, what looks like
a secret is taken out (`tracelet_shim.provenance.secrets`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.common.private_files import open_file
from tracelet_shim.common.system import end_group
from tracelet_shim.provenance.gpus import Gpus
from tracelet_shim.provenance.packages import packages
from tracelet_shim.provenance.secrets import mask_text

__all__ = ["WhatRan", "with_tags"]

_GIT_SECONDS = 10.0
_STATUS_SECONDS = 1.0
_FRESH_SECONDS = 2.0
_DIFF_BYTES = 1_000_000
_NAMES = 1000  # of untracked files

logger = logging.getLogger("tracelet_shim.relay")


class _Found(msgspec.Struct):
    """What was found out.

    Attributes:
        tags: for the run, where none of that name was given.
        files: (path, content).
    """

    tags: dict[str, str] = {}
    files: list[tuple[str, bytes]] = []


class WhatRan:
    """Collects in the background, once a session, for all trackers.

    Args:
        run: of its `what_ran`, the parts to collect; nothing if that is empty.
        collects: False if another process does, where the program ran: `receive` takes that.
    """

    def __init__(self, run: RunInfo, *, collects: bool = True) -> None:
        self._run = run
        self._collects = collects
        self._found = _Found()
        self._has_tags = threading.Event()
        self._has_status = threading.Event()
        self._complete = threading.Event()
        self._kept = not run.what_ran
        self._thread = threading.Thread(target=self._collect, name="tracelet-what-ran", daemon=True)
        if not run.what_ran:
            self._end()

    def start(self) -> None:
        """Begin, if there is something to collect; once."""
        if self._collects and not self._complete.is_set():
            self._thread.start()

    def tags(self, timeout: float) -> dict[str, str]:
        """Return commit and branch, as soon as they are known; nothing if that takes longer than `timeout` seconds.

        Whether files were changed is told where git says it within a second more; in a large work tree it may not.
        """
        until = time.monotonic() + timeout
        if not self._has_tags.wait(max(0.0, timeout)):
            return {}
        self._has_status.wait(max(0.0, min(_STATUS_SECONDS, until - time.monotonic())))
        return dict(self._found.tags)

    def files(self, timeout: float = 0.0) -> list[ev.Blob] | None:
        """Return the files, or None if they are not there within `timeout` seconds."""
        if not self._complete.wait(max(0.0, timeout)):
            return None
        return [
            ev.Blob(
                writer="", tag=path, step=0, wall_time=self._run.started, record=ev.RecordId(path, 0), data=data,
                name=os.path.basename(path),
            )
            for path, data in self._found.files
        ]  # fmt: skip

    # -- on disk, for a run that can only be opened later ----------------------------------------------------------------

    def keep(self, path: Path) -> None:
        """Write it down once it is complete; a second call changes nothing.

        Raises:
            OSError: it cannot be written.
        """
        if not self._kept and self._complete.is_set():
            self._kept = True
            with open(path, "wb", opener=open_file) as file:
                file.write(msgspec.msgpack.encode(self._found))

    def restore(self, path: Path) -> None:
        """Before `start`: take what an earlier relay of this session has collected, which was nearer to the truth."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._found = msgspec.msgpack.decode(path.read_bytes(), type=_Found)
            self._kept = True
            self._end()

    # -- where another process collects it -------------------------------------------------------------------------------

    def encoded(self, timeout: float) -> bytes | None:
        """Return it for another process, which `receive`s it; None if it is not complete within `timeout` seconds."""
        return msgspec.msgpack.encode(self._found) if self._complete.wait(max(0.0, timeout)) else None

    def receive(self, data: bytes) -> None:
        """Take what another process has `encoded`, or nothing, if that is empty; once."""
        if self._complete.is_set():
            return
        with contextlib.suppress(msgspec.DecodeError):
            self._found = msgspec.msgpack.decode(data, type=_Found) if data else _Found()
        self._kept = True
        self._end()

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        try:
            self._look()
        except Exception:  # nothing here is worth more than the run
            logger.warning("what ran could not be found out", exc_info=True)
        finally:
            self._end()

    def _end(self) -> None:
        for event in (self._has_tags, self._has_status, self._complete):
            event.set()

    def _look(self) -> None:
        parts, program = self._run.what_ran, self._run.program
        about: dict[str, Any] = {}
        files: list[tuple[str, bytes]] = []
        lost: list[str] = []
        repository: _Repository | None = None
        if {"git", "diff"}.intersection(parts):
            with _part("git", lost):
                repository = _Repository.of(program)
        if repository is not None and "git" in parts:
            with _part("git", lost):
                about["git"] = repository.head()
                self._found.tags = {f"git.{name}": about["git"][name] for name in ("commit", "branch") if about["git"][name]}
                self._has_tags.set()
                about["git"] |= repository.state()
                if about["git"]["dirty"] is not None:
                    self._found.tags = {**self._found.tags, "git.dirty": str(about["git"]["dirty"]).lower()}
        self._has_tags.set()
        self._has_status.set()
        if repository is not None and "diff" in parts:
            with _part("diff", lost):
                if diff := repository.diff():
                    files.append(("uncommitted.diff", diff))
        if repository is not None and "git" in parts:
            with _part("git", lost):
                about.setdefault("git", {}).update(repository.untracked())
        if "command" in parts:
            with _part("command", lost):
                about["command"] = {
                    "argv": program.argv, "script": program.script, "module": program.module, "cwd": program.cwd,
                    "executable": program.executable, "pid": program.pid,
                }  # fmt: skip
        if "packages" in parts:
            about["python"] = {"version": platform.python_version(), "implementation": platform.python_implementation()}
            with _part("packages", lost):
                about["packages"], unread = packages()
                lost += unread
                lines = [f"{name}=={version}\n" for name, version in about["packages"].items()]
                files.append(("requirements.txt", "".join(lines).encode("utf-8", "replace")))
        if "host" in parts:
            with _part("host", lost):
                about["host"] = _host(program)
        if "gpus" in parts:
            with _part("gpus", lost):
                about["gpus"] = Gpus().describe()
        if lost:
            about["not_found_out"] = list(dict.fromkeys(lost))
        about["session"], about["started"] = self._run.session, self._run.started
        files.append(("what_ran.json", _as_json(about)))
        # Several sessions may go on with a run of this id: each has its own folder there.
        folder = f"code/{self._run.session}" if self._run.run_id else "code"
        self._found.files = [(f"{folder}/{name}", data) for name, data in files]


def _as_json(about: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.format(msgspec.json.encode(about, enc_hook=str), indent=1)
    except (UnicodeError, ValueError, TypeError):  # names that are no texts; `json` escapes them, and takes ten times as long
        return json.dumps(about, indent=1, default=str).encode()


@contextlib.contextmanager
def _part(name: str, lost: list[str]) -> Iterator[None]:
    """Add `name` to `lost` if this part cannot be found out; the others are."""
    try:
        yield
    except Exception:
        logger.warning("what ran: %s could not be found out", name, exc_info=True)
        lost.append(name)


def with_tags(run: RunInfo, found: Mapping[str, str]) -> RunInfo:
    """Return `run` with tags more, where it has none of that name."""
    new = tuple(name for name in found if name not in run.tags)
    return msgspec.structs.replace(run, tags={**found, **run.tags}, noticed=run.noticed + new)


def _host(program: Program) -> dict[str, Any]:
    """Return the machine: processors in all and those that the program may use, memory in bytes."""
    usable = None
    with contextlib.suppress(OSError, AttributeError):
        usable = len(os.sched_getaffinity(program.pid))  # of the program: who asks may serve several
    memory = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "name": program.host, "os": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count(),
        "usable_cpus": usable, "memory": memory,
    }  # fmt: skip


class _Repository:
    """A git work tree, asked by the git program.

    Args:
        root: its top directory.
        until: monotonic seconds; what git has not said by then stays unknown.
    """

    def __init__(self, root: str, until: float) -> None:
        self._root = root
        self._until = until

    @classmethod
    def of(cls, program: Program) -> _Repository | None:
        """Return the work tree of the script; of the working directory, where the script is an installed one."""
        directories = [program.cwd]
        if program.script and not f"{program.script}/".startswith(f"{sys.prefix}/"):
            directories.insert(0, os.path.dirname(program.script))
        until = time.monotonic() + _GIT_SECONDS
        for directory in directories:
            root = _git(directory, until, "rev-parse", "--show-toplevel")
            if root and root.strip():
                return cls(os.fsdecode(root.rstrip(b"\n")), until)
        return None

    def head(self) -> dict[str, Any]:
        """Return root, commit and branch. None is, here and below, what git did not say in time, or what there is none of."""
        return {
            "root": self._root.encode("utf-8", "replace").decode(),
            "commit": self._line("rev-parse", "--verify", "--quiet", "HEAD"),
            "branch": self._line("symbolic-ref", "--short", "--quiet", "HEAD"),
        }

    def state(self) -> dict[str, Any]:
        """Return remote, and whether tracked files differ from the commit, which takes long in a large work tree."""
        remote = self._line("config", "--get", "remote.origin.url")
        status = self._ask("status", "--porcelain", "--untracked-files=no")
        return {
            "remote": mask_text(remote) if remote else None,
            "dirty": bool(status) if status is not None else None,
        }

    def untracked(self) -> dict[str, Any]:
        """Return untracked files by name. It may take longest of all, and tells least."""
        listed = self._ask("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory", "-z")
        names = [name.decode("utf-8", "replace") for name in (listed or b"").split(b"\0") if name]
        return {"untracked": names[:_NAMES], "untracked_more": max(0, len(names) - _NAMES)}

    def diff(self) -> bytes:
        """Return what differs from the commit, as a patch; binary files by name only, so that they do not take its place."""
        data = self._ask(
            "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--",
            limit=_DIFF_BYTES + 1,
        )  # fmt: skip
        if not data:
            return b""
        end = b""
        if len(data) > _DIFF_BYTES:
            data = data[: data.rfind(b"\n", 0, _DIFF_BYTES) + 1]
            end = f"... [cut: the diff is longer than {_DIFF_BYTES} bytes]\n".encode()
        return mask_text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape") + end

    def _ask(self, *arguments: str, limit: int = _DIFF_BYTES) -> bytes | None:
        return _git(self._root, self._until, *arguments, limit=limit)

    def _line(self, *arguments: str) -> str | None:
        said = self._ask(*arguments)
        return said.decode("utf-8", "replace").strip() or None if said else None


class _Said:
    """What git has said: (since when that is known, what), once somebody has asked."""

    def __init__(self) -> None:
        self.asking = threading.Lock()
        self.known: tuple[float, bytes | None] | None = None


_said: dict[tuple[str, ...], _Said] = {}
_remembering = threading.Lock()


def _git(directory: str, until: float, *arguments: str, limit: int = _DIFF_BYTES) -> bytes | None:
    """Return what git prints, up to `limit` bytes; None if it failed, or had not ended at `until` (monotonic seconds).

    Where one process serves the trials of a sweep that start at once, it is asked once for all: what it said two seconds ago is
    what the program ran, which had been read by then.
    """
    now = time.monotonic()
    with _remembering:
        for key, said in list(_said.items()):
            if said.known is not None and said.known[0] < now - _FRESH_SECONDS:
                del _said[key]
        mine = _said.setdefault((directory, str(limit), *arguments), _Said())
    if not mine.asking.acquire(timeout=max(0.0, until - now)):
        return None
    try:
        if mine.known is None:
            mine.known = (time.monotonic(), _ask_git(directory, until, *arguments, limit=limit))
        return mine.known[1]
    finally:
        mine.asking.release()


def _ask_git(directory: str, until: float, *arguments: str, limit: int) -> bytes | None:
    """It changes nothing: takes no lock, starts no watcher, fetches nothing and asks nobody."""
    if time.monotonic() >= until:
        return None
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    try:
        process = subprocess.Popen(  # noqa: S603 - git, and arguments of ours
            ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", "-C", directory, *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **quiet},
            start_new_session=True,  # so that what it starts (filters, helpers) can be ended with it
        )
    except OSError:  # there is no git, or no such directory
        return None
    timer = threading.Timer(until - time.monotonic(), _kill, (process,))
    timer.daemon = True
    timer.start()
    assert process.stdout is not None
    with process.stdout:
        data = process.stdout.read(limit)
    if len(data) >= limit:
        _kill(process)
        process.wait()
        timer.cancel()
        return data
    code = process.wait()
    timer.cancel()
    return data if code == 0 else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    end_group(process)
