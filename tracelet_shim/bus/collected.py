"""A session that the collector of this machine serves, as the training process holds it.

The training process hands over what it would start a relay process with: the two sockets, the pipe in which SIGTERM leaves its
mark, and a file that says which process can serve it: which interpreter, where, with which environment. It waits for no answer.
Whoever does not want the session closes the sockets, as a relay does that dies, and another relay goes on with the ring.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from tracelet_shim.backends import registry
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.collector_place import AUTO, connect, listen, place_of
from tracelet_shim.bus.launch import RelayDiedError, module_command, relay_environment
from tracelet_shim.common import run_report
from tracelet_shim.common.system import O_CLOEXEC

__all__ = ["PER_PROCESS", "PROTOCOL", "CollectedSession", "Collector", "is_per_process"]

PROTOCOL = 1
"""Of what is handed over; a collector that speaks another one does not take the session."""

PER_PROCESS = frozenset((
    # torchrun and other launchers: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
    # which devices and processors a process has
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_PROC_BIND",
    "OMP_PLACES", "GOMP_CPU_AFFINITY",
    # shells and terminals
    "_", "SHLVL", "PWD", "OLDPWD", "TERM", "COLUMNS", "LINES", "WINDOWID", "STY", "TMUX", "TMUX_PANE", "SSH_CLIENT",
    "SSH_CONNECTION", "SSH_TTY", "GPG_TTY",
    # systemd, pytest
    "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "XDG_SESSION_ID", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER",
))  # fmt: skip
"""Variables that differ between the processes of one program, or the trials of one sweep, and that no tracker reads which shares
its process."""
_PER_PROCESS_BEGIN = (
    "TORCHELASTIC_", "TORCH_NCCL_", "NCCL_", "SLURM_", "PMI_", "PMIX_", "OMPI_", "PALS_", "MPI_LOCAL", "ACCELERATE_", "FSDP_",
    "RAY_", "TUNE_", "NNI_", "JOBLIB_", "TRACELET_", "_TRACELET_",
)  # fmt: skip
_READ_BY_RELAYS = frozenset(("TRACELET_STATE_DIR", "TRACELET_DISABLED", "_TRACELET_PATH"))
"""Of ours, what is read after the training process has said all it has to say; the other settings come with the session."""

_LONGEST_WORD = 4096
_PATIENCE, _PAUSE = 2.0, 0.02


def is_per_process(variable: str) -> bool:
    """Return whether sessions that differ in this variable alone can be served by one process."""
    if variable in _READ_BY_RELAYS:
        return False
    return variable in PER_PROCESS or variable.startswith(_PER_PROCESS_BEGIN)


class CollectedSession:
    """What is used of `subprocess.Popen`, of a session: it, not the process that serves it, is waited for and killed.

    Args:
        connection: to the collector.

    Attributes:
        pid: of the process that serves it; 0 until that is known.
        returncode: None until the session has ended. If the process has been killed, as `Popen` has it.
        reason: what the collector has to say of the end.
        refused: no process has taken the session.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pid = 0
        self.returncode: int | None = None
        self.reason = ""
        self.refused = True

    @property
    def pid(self) -> int:
        self.poll()
        return self._pid

    def poll(self) -> int | None:
        """Take what has been said; return the exit code of the session, if it has ended."""
        while self.returncode is None:
            try:
                word = self._connection.recv(_LONGEST_WORD)
            except BlockingIOError:
                break
            except OSError:  # closed by the program, or reset: the collector ended before it had taken the session
                word = b""
            if not word:
                self._ended(-signal.SIGKILL, "the collector ended")
                break
            said: dict[str, Any] = json.loads(word)
            self._pid = said.get("pid", self._pid)
            self.refused = self.refused and "pid" not in said
            if "code" in said:
                self._ended(said["code"], said["reason"])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the session.

        Raises:
            subprocess.TimeoutExpired: it has not come in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("the collector", timeout or 0.0)
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            poll.poll(None if left is None else left * 1000)
        return code

    def send_signal(self, number: int) -> None:
        """The process is that of others, too: only the end of this session can be asked for."""
        if number == signal.SIGKILL:
            self.kill()

    def kill(self) -> None:
        """End the session, whatever it is at, as if its process were killed."""
        if self.returncode is None:
            with contextlib.suppress(OSError):
                self._connection.send(b"kill")
            self._ended(-signal.SIGKILL, "killed")

    def _ended(self, code: int, reason: str) -> None:
        self.returncode, self.reason = code, reason
        self._connection.close()

    def let_go(self) -> None:
        """Close the connection; the session goes on."""
        self._connection.close()


class Collector:
    """The collector of this machine, for one session.

    Args:
        setting: the path of its socket, or `AUTO`.
        tell: takes what the user should know of it.

    Attributes:
        is_usable: False once it has been found that it is not.
    """

    def __init__(self, setting: str, tell: Callable[[str], None]) -> None:
        self._setting = setting
        self._tell = tell
        self.is_usable = True

    def serve(
        self, opened: msg.Open, orders: socket.socket, replies: socket.socket, term: int, request: IO[bytes]
    ) -> CollectedSession | None:
        """Have it serve a session; None if it cannot, so that the session needs a process of its own.

        Args:
            opened: the session's first message.
            orders: the relay's end of the socket of which it reads.
            replies: that of the one which it writes to.
            term: the end of the pipe in which SIGTERM leaves a mark.
            request: an empty file without a name.
        """
        if not self.is_usable or not all(map(_shares, opened.backends)):
            self.is_usable = False
            return None
        try:
            connection = self._reach()
            key = uuid.uuid4().hex
            request.write(json.dumps(_wanted(opened, key)).encode())
            request.flush()
            _hand_over(connection, [orders.fileno(), replies.fileno(), term, request.fileno()])
            run_report.add(collected=key, of=os.getpid())
        except (OSError, RelayDiedError) as error:
            self.is_usable = False
            place = place_of(self._setting)
            self._tell(f"the collector {place} cannot be reached ({error}); a process of its own serves this session")
            return None
        return CollectedSession(connection)

    def _reach(self) -> socket.socket:
        """Return a connection; start a collector first, if that is asked for and there is none."""
        path = place_of(self._setting)
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                if self._setting != AUTO or time.monotonic() > until:
                    raise
            try:
                start_collector(path)
            except BlockingIOError:  # another process is just doing that, or one is just ending
                time.sleep(_PAUSE)


def _hand_over(connection: socket.socket, descriptors: list[int]) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.send_fds(connection, [b"session"], descriptors)
        except OSError as error:  # too many descriptors of this user are on their way just now
            if error.errno not in (errno.ETOOMANYREFS, errno.EAGAIN) or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return


def start_collector(path: Path, *options: str) -> None:
    """Start a collector that belongs to nobody. Others can connect to it when this returns, and are heard when it has come up.

    Raises:
        BlockingIOError: there is one.
        OSError, RelayDiedError: it cannot be started.
    """
    listener, held = listen(path)
    with listener, open(os.devnull, "rb") as nothing:
        try:
            log = os.open(path.with_name(f"{path.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | O_CLOEXEC, 0o600)
            try:
                # The shell does not wait for it, and nobody else has to.
                command = module_command("tracelet_shim.node", str(path), str(listener.fileno()), str(held))
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    ["/bin/sh", "-c", '"$@" &', "sh", *command, *options],
                    stdin=nothing, stdout=log, stderr=log, cwd="/", env=_of_nobody(relay_environment(os.environ)),
                    pass_fds=(listener.fileno(), held), start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(log)
            process.wait()
        finally:
            os.close(held)


def _of_nobody(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not is_per_process(name)}


def _shares(spec: msg.BackendSpec) -> bool:
    try:
        kind = registry.find(spec.name)
    except Exception:  # whatever is wrong with it, its own relay process will say it
        return False
    return kind.shares_process and spec.class_path == f"{kind.__module__}:{kind.__qualname__}" and not spec.here


def _wanted(opened: msg.Open, key: str) -> dict[str, Any]:
    """Return what the process has to be that serves a session."""
    return {
        "protocol": PROTOCOL,
        "key": key,
        "report": os.environ.get(run_report.VARIABLE),
        "command": module_command("tracelet_shim.node.host"),
        "cwd": opened.run.program.cwd,
        "environment": _of_nobody(relay_environment(os.environ)),
    }
