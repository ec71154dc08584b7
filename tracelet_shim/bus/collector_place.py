"""The socket of the collector of this machine: where it is, who may listen there, and how one connects to it.

A name of a socket is about a hundred bytes long at most, whatever the file system takes; so it is named by an open directory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tracelet_shim.common.began import began_at
from tracelet_shim.common.private_files import make_directory, open_file
from tracelet_shim.common.system import HAS_PACKETS, O_CLOEXEC, lock, user_number

__all__ = ["AUTO", "connect", "listen", "peer", "place_of"]

AUTO = "auto"
"""As a setting: the user's own collector of this machine, started when it is needed."""

_WAITING = 1024  # sessions that have connected, and have not been taken
_PATIENCE = 2.0
_CREDENTIALS = struct.Struct("3i")  # pid, user, group: ``struct ucred`` of ``man 7 unix``
_FILE, _NAME = 0o600, "collector"


def place_of(setting: str) -> Path:
    """Return the path of the socket. That of `AUTO` is the user's own on this machine, in a job of SLURM that job's: what a job
    has started ends with it."""
    if setting != AUTO:
        return Path(began_at(), setting)
    job = os.environ.get("SLURM_JOB_ID", "")
    name = f"{_NAME}-{job}.sock" if job.isdigit() else f"{_NAME}.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and _is_own(runtime):
        return Path(runtime, "tracelet-shim", name)
    return Path(tempfile.gettempdir(), f"tracelet-shim-{user_number()}", name)


def _is_own(directory: str) -> bool:
    """True if nobody else can put anything there."""
    try:
        about = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == user_number() and not about.st_mode & 0o022


def connect(path: Path) -> socket.socket:
    """Connect to the collector.

    Raises:
        OSError: nobody listens there, or somebody else does.
    """
    connection = _made()
    try:
        connection.settimeout(_PATIENCE)
        with _named(path) as name:
            connection.connect(name)
        _, user = peer(connection)
        if user != user_number():
            raise PermissionError(f"{path} is another user's")
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection


def listen(path: Path) -> tuple[socket.socket, int]:
    """Become the one that listens at a path; return the socket, and the descriptor that says so to others as long as it is open
    in any process.

    Raises:
        BlockingIOError: somebody does so already.
        PermissionError: the directory is not this user's alone.
        OSError: nobody can.
    """
    make_directory(path.parent)
    if not _is_own(os.path.realpath(path.parent)):
        raise PermissionError(f"{path.parent} is a place where others can write")
    held = open_file(path.with_name(f"{path.name}.lock"), os.O_RDWR)
    try:
        lock(held)
        path.unlink(missing_ok=True)  # of one that was killed
        listener = _made()
        try:
            with _named(path) as name:
                listener.bind(name)
                os.chmod(name, _FILE)  # before anybody can connect
            listener.listen(_WAITING)
        except BaseException:
            listener.close()
            raise
    except BaseException:
        os.close(held)
        raise
    return listener, held


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end."""
    pid, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, user


def _made() -> socket.socket:
    if not HAS_PACKETS or not hasattr(socket, "SO_PEERCRED"):
        raise OSError("this system does not tell who is at the other end of a socket")
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[str]:
    """Give a socket a short name."""
    directory = os.open(path.parent, os.O_RDONLY | O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
