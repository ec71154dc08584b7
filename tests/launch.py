"""Starts the programs of tests: Python scripts in processes of their own.

Importing torch is what most of them spend most of their time on. So a script that uses it, and says nothing to the interpreter
itself, is *warm*: a process that has imported torch and tensorboard, but neither ``torch.utils.tensorboard`` nor anything of
ours, forks, and runs it as ``python script.py`` would: `sys.argv`, `sys.path`, ``__main__``, the environment and the standard
streams are its own, and it ends as an interpreter does. What is about the start of an interpreter, or the first import of torch,
is marked as ``cold``; and with ``pytest --cold`` (``make test-all``) everything is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import site
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Process", "start", "stop"]

_READ_AT_START = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "LD_", "TORCH", "COVERAGE")
"""How the variables begin that an interpreter, or torch, reads when it starts."""

always_cold = False
"""Whether every program starts an interpreter of its own."""


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


def start(
    script: Path,
    *args: str,
    env: Mapping[str, str],
    cwd: Path,
    stdout: int,
    stderr: int,
    flags: Sequence[str] = (),
) -> Process:
    """Start ``python [flags] script [args]`` in a session of its own, with nothing on standard input.

    Args:
        env: its whole environment.
        stdout, stderr: file descriptors.
        flags: options of the interpreter; with any, it is started cold.
    """
    if not (always_cold or flags) and "torch" in script.read_text(encoding="utf-8") and not _steers(env):
        return _forking_server().fork(script, args, env, cwd, stdout, stderr)
    return subprocess.Popen(
        [sys.executable, *flags, str(script), *args], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
        start_new_session=True,
    )  # fmt: skip


def _steers(env: Mapping[str, str]) -> bool:
    """Whether an environment differs from ours in what is read when an interpreter starts."""

    def read(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith(_READ_AT_START)}

    return read(env) != read(os.environ)


# -- in the process of the tests --------------------------------------------------------------------------------------


class _Forked:
    """A program that was forked; its exit code comes through the socket of the process that waits for it."""

    def __init__(self, pid: int, said: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._said = said
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._said], [], [], 0)[0]:
                self.returncode = os.waitstatus_to_exitcode(int(self._said.recv(32) or b"256"))
                self._said.close()
            return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = 0.05 if until is None else min(0.05, until - time.monotonic())
            if left <= 0:
                assert timeout is not None
                raise subprocess.TimeoutExpired(["a program that was forked"], timeout)
            time.sleep(left)
        return code


class _ForkingServer:
    """The process that has torch, and forks."""

    def __init__(self) -> None:
        self._mine, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def fork(
        self, script: Path, args: Sequence[str], env: Mapping[str, str], cwd: Path, stdout: int, stderr: int
    ) -> _Forked:
        order = {"script": str(script), "args": args, "env": dict(env), "cwd": str(cwd)}
        mine, theirs = socket.socketpair()
        with theirs, open(os.devnull, "rb") as nothing:
            text = json.dumps(order).encode()
            socket.send_fds(
                self._mine, [len(text).to_bytes(4, "big")], [theirs.fileno(), nothing.fileno(), stdout, stderr]
            )
            self._mine.sendall(text)
        pid = int(mine.recv(32) or b"0")
        assert pid, "the process that forks for the tests has died"
        return _Forked(pid, mine)

    def stop(self) -> None:
        self._mine.close()
        self._process.wait()


_server: _ForkingServer | None = None


def _forking_server() -> _ForkingServer:
    global _server
    if _server is None:
        _server = _ForkingServer()
    return _server


def stop() -> None:
    """Stop the process that forks."""
    global _server
    if _server is not None:
        _server.stop()
        _server = None


# -- in the process that forks ----------------------------------------------------------------------------------------


def _serve(orders: socket.socket) -> dict[str, Any]:
    """Fork for each order, until there is nobody to give one; return the order in the process that is to be its program."""
    while True:
        head, fds, _, _ = socket.recv_fds(orders, 4, 4)
        if not head:
            os._exit(0)
        text = b""
        while len(text) < int.from_bytes(head, "big"):
            text += orders.recv(1 << 20)
        if os.fork() == 0:  # whoever waits for the program
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            orders.close()
            said, *streams = fds
            pid = os.fork()
            if pid == 0:
                os.close(said)
                os.setsid()
                for to, stream in enumerate(streams):
                    os.dup2(stream, to)
                    os.close(stream)
                return json.loads(text)  # type: ignore[no-any-return]
            for stream in streams:
                os.close(stream)
            with contextlib.suppress(BrokenPipeError):
                os.write(said, str(pid).encode().ljust(32))
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(BrokenPipeError):
                os.write(said, str(status).encode().ljust(32))
            os._exit(0)
        for fd in fds:
            os.close(fd)


def _become(order: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Make this process look like ``python script.py``; return the code, and the namespace to run it in."""
    from importlib.machinery import SourceFileLoader
    from types import ModuleType

    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    script = order["script"]
    sys.argv[:] = [script, *order["args"]]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    sys.path[0] = str(Path(script).parent)
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=script, __builtins__=__builtins__, __cached__=None, __loader__=SourceFileLoader("__main__", script),
        __annotations__={},
    )  # fmt: skip
    sys.modules["__main__"] = main
    for directory in site.getsitepackages():  # what `site` does with it at the start of an interpreter
        ours = Path(directory, "tracelet_shim.pth")
        if ours.exists():
            exec(ours.read_text(encoding="utf-8"))
    return compile(Path(script).read_bytes(), script, "exec"), main.__dict__


if __name__ == "__main__":
    import gc

    import torch  # noqa: F401

    # At its end an interpreter looks through all that torch has made, and a fork would copy all of it for that: this takes longer
    # than most programs do.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait are waited for by nobody
    with socket.socket(fileno=int(sys.argv[1])) as _orders:
        _order = _serve(_orders)
    _itself = sys.modules["__main__"]  # it is no longer there
    exec(*_become(_order))
