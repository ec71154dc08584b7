"""What every row of the matrix of faults has in common: a program that logs in rounds, the servers that it logs to, and the two
questions that are asked of both, at any time and at the end.

A round is `ROUND` points of ``loss``, a text and an image; the first one has hyperparameters, too. Each is one event. Servers are
those of `tests.servers.harness`, or any others that are a `Held`: rows are about the faults, and do not know whom they are about.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from tests.faults.conftest import Train
from tests.faults.harness import Training, environment, eventually, is_relay, losses
from tests.servers.harness import SERVERS, Point

__all__ = [
    "ROUND", "Held", "Program", "Status", "check_all", "check_answers", "check_coming_and_going", "check_misses", "everywhere",
    "held", "logged", "things", "with_servers",
]  # fmt: skip

ROUND = 50
"""Points of a round."""

_PROLOGUE = """
import json
import numpy as np

def status(session):
    fields = ("state", "delivered", "pending", "failed", "unconfirmed", "error")
    return json.dumps({name: [getattr(state, field) for field in fields] for name, state in session.status().items()})

def stand(name):  # as a program that trains, it calls again and again: then it hears what its relay has to say
    while not os.path.exists(name):
        session.status()
        if os.path.exists("ask"):
            Path("ask").unlink(missing_ok=True)  # ranks of one program share these files
            new = f"status.{os.getpid()}"
            Path(new).write_text(status(session))
            os.replace(new, "status.json")
        time.sleep(0.02)

def round(number):
    log(ROUND * number, ROUND * number + ROUND)
    writer.add_text("note", f"round {number}", number)
    writer.add_image("picture", np.full((3, 2, 2), number, np.uint8), number)
    if number == 0:
        writer.add_hparams({"lr": 0.5}, {"hparam/acc": 1.5})
    writer.flush()  # TensorBoard's own file, for the case that this is killed
    reach(f"logged{number}")
"""


def with_servers(*, turn: int) -> pytest.MarkDecorator:
    """Have a row with all servers at a time in each night, and for each change with two of them, by turns: most of the time goes
    into the import of SDKs."""
    pairs = list(itertools.combinations(SERVERS, 2)) or [SERVERS]
    two = pairs[turn % len(pairs)]
    return pytest.mark.parametrize(
        "names", [pytest.param(two, id="-".join(two)), pytest.param(SERVERS, id="all", marks=pytest.mark.nightly)]
    )


class Held(Protocol):
    """A server, as the rows use it."""

    name: str
    """The tracker."""

    @property
    def env(self) -> Mapping[str, str | None]:
        """The variables with which the unmodified SDK uses this server."""

    @property
    def wrong_env(self) -> Mapping[str, str | None]:
        """Those that name a key, or a password, that it does not know, instead of the right one."""

    def points(self) -> list[Point]:
        """Return the points of ``loss``, and of other metrics, that it holds of the one run that it has; one that is there twice
        is twice in it. Works when it has been killed, too."""

    def things(self) -> list[str]:
        """Return what else it holds of that run, with all that belongs to it (the file of an image): ``hparams`` (with the
        metric), ``image 0``, ``text 0``, ... for the steps. What is there twice is twice in it."""

    def start(self) -> None:
        """Start it, on the same port and with what it held, and wait until it answers."""

    def kill(self) -> None:
        """SIGKILL."""

    def misbehave(self, mode: str, paths: str | None = None, *, count: int = 0, body: str = "json") -> None:
        """As of `tests.servers.standin`: ``hang``, ``swallow``, ``lost``, or a status code."""

    def recover(self) -> None:
        """The end of that."""

    def requests(self, paths: str | None = None, fault: str | None = None) -> list[dict[str, Any]]:
        """Return the requests that it has got, or only those for some paths, or with one fault."""

    def check_understood(self) -> None:
        """Fail if it did not understand something."""


class Status(NamedTuple):
    """What ``session.status()`` says of a tracker."""

    state: str
    delivered: int
    pending: int
    failed: int
    unconfirmed: int
    error: str | None


def things(rounds: int) -> list[str]:
    """Return what a server holds beside points after so many rounds."""
    return sorted([*["hparams"][:rounds], *(f"{kind} {n}" for n in range(rounds) for kind in ("image", "text"))])


def logged(rounds: int) -> int:
    """Return the number of events of so many rounds."""
    return ROUND * rounds + len(things(rounds))


def _losses(server: Held) -> list[Point]:
    try:
        return [point for point in server.points() if point[0] == "loss"]
    except (ValueError, FileNotFoundError):  # no run yet
        return []


def held(server: Held) -> int:
    """Return the number of events that a server holds; none if it has no run."""
    found = _losses(server)
    return len(found) + (len(server.things()) if found else 0)


def everywhere(servers: Iterable[Held], check: Callable[[Held], bool], seconds: float = 120) -> None:
    """Wait until this is so at each of the servers; name those at which it is not."""
    left = list(servers)

    def there() -> bool:
        left[:] = [server for server in left if not check(server)]
        return not left

    try:
        eventually(there, seconds)
    except AssertionError:
        raise AssertionError(f"it did not happen at {[server.name for server in left]}") from None


def check_all(servers: Iterable[Held], rounds: int) -> None:
    """Each server holds everything of so many rounds, once, and nothing that it did not understand."""
    for server in servers:
        assert _losses(server) == losses(ROUND * rounds), server.name
        assert (server.name, server.things()) == (server.name, things(rounds))
        server.check_understood()


def check_misses(said: str, servers: Iterable[Held], rounds: int) -> None:
    """What was said at the end names for each server at least as many events as it lacks."""
    for server in servers:
        found = re.search(rf"{server.name}: (\d+) events were not delivered", said)
        missing = logged(rounds) - held(server)
        assert found is not None, (server.name, missing, said)
        assert missing <= int(found[1]) <= logged(rounds), (server.name, missing, said)


def check_answers(train: Train, servers: Sequence[Held], answers: Sequence[tuple[str, str]]) -> None:
    """Each of these faults (and the form of its answer), one after the other, to everything that is asked: as long as something
    is missing the status says so, and in the end each thing is there, once."""
    program = Program(train, servers, 1 + len(answers))
    program.round()
    program.wait_until_told()
    for fault, body in answers:
        program.ill(fault, body=body)
        program.well()
        program.wait_until_known()
    said = program.end()
    assert "not delivered" not in said
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()


def check_coming_and_going(train: Train, servers: Sequence[Held]) -> None:
    """Servers, not running yet, that come, die, come back, and die for good: what is missing in the end is named, strict fails,
    nobody says that everything has been delivered, and a resumed delivery brings it when they are back: once."""
    program = Program(train, servers, 4, exit_timeout=8)
    program.round()
    program.wait_until_retried()
    program.start_servers()
    program.wait_until_known()
    program.kill_servers()
    program.round()
    program.wait_until_retried()
    program.start_servers()
    program.wait_until_known()
    program.round()
    program.wait_until_there()
    program.kill_servers()
    program.round()
    program.check_truth()
    said = program.end(3)
    check_misses(said, servers, program.rounds)
    said = program.replay("--timeout", "3", code=2)
    assert "everything has been delivered" not in said
    program.check_told()
    program.start_servers()
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    assert "everything has been delivered" in program.replay()


class Program:
    """A training program that logs to all of the servers, a round each time that it is told to.

    Args:
        train: starts it.
        servers: which.
        rounds: how many it can be told to log.
        first: the number of the first.
        exit_timeout: for delivery at the end; while a server is away, it is waited for so long.
        strict: as of the session.
        env: variables more.
        begin: the code that begins its session, as ``session``.
        at_last: code at its end.
        settings: more settings of the session.
    """

    def __init__(
        self, train: Train, servers: Sequence[Held], rounds: int, *, first: int = 0, exit_timeout: float = 120,
        strict: bool = True, env: Mapping[str, str | None] | None = None, begin: str | None = None, at_last: str = "",
        **settings: object,
    ) -> None:  # fmt: skip
        self.servers = servers
        self.env: dict[str, str | None] = {}
        for server in servers:
            self.env |= server.env
        settings = {"exit_timeout": exit_timeout, "strict": strict, **settings}
        for left in ("begun", "ended", "end"):  # by an earlier program
            Path(left).unlink(missing_ok=True)
        names = "".join(f"{server.name!r}, " for server in servers)
        steps = [f'stand("go{n}"); round({n})\n' for n in range(first, rounds)]
        begin = begin or f"session = begin({names}**{settings!r})\n"
        code = "".join([f"ROUND = {ROUND}\n", _PROLOGUE, begin, *steps, 'stand("end")\n', at_last])
        self.training: Training = train(code, env={**self.env, **(env or {})}, exit_timeout=exit_timeout)
        self._rounds = first

    @property
    def rounds(self) -> int:
        """How many rounds have been logged."""
        return self._rounds

    def round(self) -> None:
        """Have it log the next round."""
        self.training.go(f"go{self._rounds}")
        self.training.wait_for(f"logged{self._rounds}")
        self._rounds += 1

    def ill(self, fault: str, *, body: str = "json") -> None:
        """Let all servers answer everything with a fault, and log a round that meets it; nobody says that it is there."""
        for server in self.servers:
            server.misbehave(fault, "", body=body)
        self.round()
        everywhere(self.servers, lambda server: bool(server.requests("", fault)))
        self.check_truth()

    def well(self) -> None:
        """The end of that."""
        for server in self.servers:
            server.recover()

    def start_servers(self) -> None:
        """Start all servers, with what they held."""
        for server in self.servers:
            server.start()

    def kill_servers(self) -> None:
        """SIGKILL, to all of them."""
        for server in self.servers:
            server.kill()

    def wait_until_known(self) -> None:
        """Wait until everything is there, and then until the status says so."""
        self.wait_until_there()
        self.wait_until_told()

    def status(self) -> dict[str, Status]:
        """Return what ``session.status()`` says now."""
        answer = self.training.directory / "status.json"
        answer.unlink(missing_ok=True)
        self.training.go("ask")
        self.training.wait_for("begun")
        eventually(answer.exists, 30, pause=0.02)
        return {name: Status(*state) for name, state in json.loads(answer.read_text()).items()}

    def check_truth(self) -> dict[str, Status]:
        """The status is not better than the truth, for no tracker: a server only gets more, so what it lacks now, it lacked when
        the status was asked for. Return the status."""
        states = self.status()
        for server in self.servers:
            state, there = states[server.name], held(server)
            assert state.delivered <= there, (server.name, state, there)
            assert state.delivered + state.pending + state.failed >= logged(self._rounds), (server.name, state)
            assert state.pending or state.failed or there >= logged(self._rounds), (server.name, state, there)
        return states

    def wait_until_there(self) -> None:
        """Wait until all servers hold all that has been logged."""
        everywhere(self.servers, lambda server: held(server) >= logged(self._rounds))

    def wait_until_told(self) -> None:
        """Wait until the status has all of it, too: then it must be so."""

        def told() -> bool:
            return all(not state.pending for state in self.check_truth().values())

        eventually(told, 120)

    def wait_until_retried(self) -> None:
        """Wait until each tracker has said that it cannot do what it was asked, and is trying again."""
        eventually(lambda: all(state.error for state in self.check_truth().values()), 120)

    def check_told(self) -> None:
        """As `check_truth`, by ``tracelet-shim status``, after the end."""
        for name, row in self.told().items():
            (server,) = (server for server in self.servers if server.name == name)
            there = held(server)
            assert row["delivered"] <= there, (row, there)
            missing = row["pending"] + row["set_aside"]
            assert bool(missing) == (there < logged(self._rounds)), (row, there)
            assert row["delivered"] + missing == logged(self._rounds), (row, there)

    def kill(self, *, training: bool = True, relay: bool = True) -> None:
        """SIGKILL, to the training process, its relay, or both."""
        relays = list(self.training.relays)
        assert relays
        for pid in [*[self.training.process.pid][: int(training)], *relays[: len(relays) * relay]]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if training:
            self.training.process.wait()

    def wait_for_relay(self) -> None:
        """Wait until its relays have ended."""
        eventually(lambda: not any(is_relay(pid) for pid in self.training.relays), 120)

    def end(self, code: int = 0, *, memory: float = 40e6) -> str:
        """Have it end with this exit code; check what training saw of it, and return what it said."""
        self.training.go("end")
        return self.training.end(ROUND * self._rounds, code=code, memory=memory)

    def replay(self, *options: str, code: int = 0, env: Mapping[str, str | None] | None = None) -> str:
        """Run ``tracelet-shim replay runs/x --resume``, which must have this exit code; return what it said."""
        return self._command("replay", "runs/x", "--resume", *options, code=code, env=env)

    def told(self) -> dict[str, Any]:
        """Return what ``tracelet-shim status runs/x`` says of each tracker of the latest session."""
        latest, *_ = json.loads(self._command("status", "runs/x", "--json"))
        return {row["backend"]: row for row in latest["runs"]}

    def resume_now(self) -> tuple[int, str]:
        """As `replay`, in any thread; return the exit code, too."""
        return self._run("replay", "runs/x", "--resume")

    def _command(self, *args: str, code: int = 0, env: Mapping[str, str | None] | None = None) -> str:
        returned, said = self._run(*args, env=env)
        assert returned == code, said
        return said

    def _run(self, *args: str, env: Mapping[str, str | None] | None = None) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tracelet_shim", *args], cwd=self.training.directory, capture_output=True, text=True,
            env=environment({**self.env, **(env or {})}), timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr
