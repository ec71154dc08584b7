"""Asks a tracker for an artifact, in a process of its own: nothing of the SDK comes into the training, and a time-out is one.

The question goes to the process as a file that is its standard input, and the answer comes as one: there is no pipe that could
break under a program that has given SIGPIPE its usual meaning back.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from typing import Any, BinaryIO

import msgspec

from tracelet_shim.backends.base import Backend, RunInfo
from tracelet_shim.bus import wire
from tracelet_shim.bus.launch import RelayDiedError, module_command, relay_environment
from tracelet_shim.common.system import end_group

__all__ = ["Answer", "Question", "ask", "ask_here"]


_LATE = "it did not answer in time"


class Question(msgspec.Struct, tag=True):
    """What is to be fetched.

    Attributes:
        class_path: of the backend, ``module:class``.
        options: its options, as they were given.
        run, name, directory: as of `Backend.fetch`.
    """

    class_path: str
    options: dict[str, Any]
    run: RunInfo
    name: str
    directory: str


class Answer(msgspec.Struct, tag=True):
    """What came of it.

    Attributes:
        path, identity: as of `backends.base.Fetched`.
        problem: why there is nothing; None if there is.
        missing: the tracker has no such artifact; another one may have it.
    """

    path: str = ""
    identity: str = ""
    problem: str | None = None
    missing: bool = False


def ask(question: Question, timeout: float) -> Answer:
    """Ask in a process of its own, which is killed with all that it has started when the time is over, or this thread is
    interrupted.

    Args:
        question: what to ask.
        timeout: seconds.
    """
    try:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile(prefix="tracelet-fetch-")) for _ in range(3)]
            return _ask(question, timeout, *files)
    except (RelayDiedError, OSError) as error:
        return Answer(problem=f"no process could be started to ask it: {error}")


def _ask(question: Question, timeout: float, asked: BinaryIO, answered: BinaryIO, log: BinaryIO) -> Answer:
    asked.write(wire.Encoder().encode(question))
    asked.seek(0)
    command = module_command("tracelet_shim.relay.fetch", str(os.getpid()))
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command, stdin=asked, stdout=answered, stderr=log, env=relay_environment(os.environ), start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return Answer(problem=_LATE)
    finally:
        end_group(process)  # what it has started goes with it
        process.wait()
    answered.seek(0)
    data = answered.read()
    if data:
        decoder: wire.Decoder[Answer] = wire.Decoder(Answer)
        return decoder.decode(data)
    log.seek(0)
    lines = log.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return Answer(problem=f"the process that asked it ended with exit code {process.returncode}{last}")


def ask_here(backend: type[Backend], question: Question, timeout: float) -> Answer:
    """As `ask`, in a thread of this process, for a tracker that lives here. When the time is over, it is left alone."""
    from tracelet_shim.relay.fetch import answer

    got: list[Answer] = []
    thread = threading.Thread(target=lambda: got.append(answer(backend, question)), name="tracelet-fetch", daemon=True)
    thread.start()
    thread.join(timeout)
    return got[0] if got else Answer(problem=_LATE)
