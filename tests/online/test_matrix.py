"""The same faults for all four trackers at a time, each with its own server: what the servers hold at each moment and at last.
With each change two of them are chosen for a row.

A program costs seconds, and a fault that is over hides no other: so faults follow each other in one program wherever they can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults.conftest import Train
from tests.faults.harness import eventually
from tests.online.rounds import (
    Program,
    check_all,
    check_answers,
    check_coming_and_going,
    check_misses,
    everywhere,
    with_servers,
)
from tests.servers.fixtures import Serve
from tests.servers.harness import Server

ANSWERS = (("500", "json"), ("429", "json"), ("403", "html"), ("200", "html"), ("lost", "json"), ("hang", "json"))


def start(serve: Serve, names: Sequence[str]) -> list[Server]:
    return [serve(name) for name in names]


@with_servers(turn=5)
def test_answers(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """Errors, refusals that may pass, a proxy's page, lost answers and requests that hang, one after the other, to everything
    that is asked: as long as something is missing the status says so, and in the end each thing is there, once."""
    check_answers(train, start(serve, names), ANSWERS)


@with_servers(turn=0)
def test_servers_come_and_go(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """Servers that are away at the start, come, die, come back, and die for good: what is missing in the end is named, strict
    fails, nobody says that everything has been delivered, and a resumed delivery brings it when they are back: once."""
    servers = start(serve, names)
    for server in servers:
        server.kill()
    check_coming_and_going(train, servers)


@with_servers(turn=3)
def test_servers_hang(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """Servers that take every request and never answer, from the start: they hold up no end, what is missing is named, and comes
    with a resumed delivery; the same again from the middle of a run that goes on."""
    servers = start(serve, names)
    for server in servers:
        server.misbehave("hang", "")
    program = Program(train, servers, 1, exit_timeout=5)
    program.round()
    program.check_truth()
    said = program.end(3)
    check_misses(said, servers, program.rounds)
    program.well()
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    assert "everything has been delivered" in program.replay()


@with_servers(turn=1)
def test_wrong_keys(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """Keys that the servers do not know are named with what can be done, and not tried again and again; what is missing is named,
    too, and comes with a resumed delivery under the right keys."""
    servers = start(serve, names)
    wrong: dict[str, str | None] = {}
    for server in servers:
        wrong |= server.wrong_env
    program = Program(train, servers, 1, env=wrong, strict=False)
    program.round()
    eventually(lambda: {state.state for state in program.check_truth().values()} == {"failed"}, 60)
    said = program.end()
    check_misses(said, servers, program.rounds)
    for server in servers:
        assert re.search(rf"{server.name}: cannot open a run: .*; remedy: check .*{server.name.upper()}_API_", said), said
    assert "everything has been delivered" not in program.replay(env=wrong, code=2)
    program.replay()
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()


@with_servers(turn=2)
def test_processes_are_killed(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """The relay is killed with answers lost, and then everything with requests on their way: what is missing comes with
    the next relay, or with a resumed delivery, and nothing is there twice."""
    servers = start(serve, names)
    program = Program(train, servers, 4)
    program.round()
    program.wait_until_there()
    program.ill("lost")
    program.kill(training=False)
    program.well()
    program.round()
    program.wait_until_known()
    program.ill("hang")
    program.kill()
    program.well()
    program.check_told()
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    assert "everything has been delivered" in program.replay()


@with_servers(turn=3)
def test_training_is_killed_and_begins_again(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """The training process is killed: its relay delivers what it has got. The next one goes on in the same runs, by their id."""
    servers = start(serve, names)
    program = Program(train, servers, 2, run_id="night-7")
    program.round()
    program.status()  # so it has reached the relay
    program.kill(relay=False)
    program.wait_for_relay()
    program.check_told()
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()
    program = Program(train, servers, 3, first=1, run_id="night-7")
    program.round()
    program.round()
    program.end()
    check_all(servers, program.rounds)


@with_servers(turn=4)
def test_servers_are_ill_when_runs_begin_and_end(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """Errors while runs are opened are waited for. When the answers to all that is asked at the end are lost, everything may be
    there, and nobody knows: it is missing, until one of two that resume at a time has found it there: once."""
    servers = start(serve, names)
    for server in servers:
        server.misbehave("503", "", body="html")
    program = Program(train, servers, 2, exit_timeout=12)
    program.round()
    for fault in ("503", "403", "429"):
        for server in servers:
            server.misbehave(fault, "", body="html")
        everywhere(servers, lambda server, fault=fault: bool(server.requests("", fault)))  # type: ignore[misc]
        program.check_truth()
    program.well()
    program.wait_until_known()
    for server in servers:
        server.misbehave("lost", "")
    program.round()
    check_misses(program.end(3), servers, program.rounds)
    program.wait_for_relay()
    program.well()
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda _: program.resume_now(), range(2)))
    assert [code for code, _ in said if code] in ([], [2])
    refusals = ("is being delivered by another process", "is still running (process")  # before its lock is asked for, or by that
    assert all(code == 0 or any(refusal in text for refusal in refusals) for code, text in said), said
    assert "everything has been delivered" in program.replay()
    check_all(servers, program.rounds)
