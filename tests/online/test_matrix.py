"""The same faults for all four trackers at a time, each with its own server: what the servers hold at each moment and at last.

A program costs seconds, and a fault that is over hides no other: so faults follow each other in one program wherever they can.
"""

from __future__ import annotations

from tests.faults.conftest import Train
from tests.online.rounds import Program, check_all, check_misses, everywhere
from tests.servers.fixtures import Serve
from tests.servers.harness import SERVERS, Server

ANSWERS = (("500", "json"), ("429", "json"), ("403", "html"), ("200", "html"), ("lost", "json"), ("hang", "json"))


def start(serve: Serve) -> list[Server]:
    return [serve(name) for name in SERVERS]


def test_answers(train: Train, serve: Serve) -> None:
    """Errors, refusals that may pass, a proxy's page, lost answers and requests that hang, one after the other, to everything
    that is asked: as long as something is missing the status says so, and in the end each thing is there, once."""
    servers = start(serve)
    program = Program(train, servers, 1 + len(ANSWERS))
    program.round()
    program.wait_until_told()
    for fault, body in ANSWERS:
        for server in servers:
            server.misbehave(fault, "", body=body)
        program.round()
        everywhere(servers, lambda server, fault=fault: bool(server.requests("", fault)))  # type: ignore[misc]
        program.check_truth()
        for server in servers:
            server.recover()
        program.wait_until_there()
        program.wait_until_told()
    said = program.end()
    assert "not delivered" not in said
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()


def test_servers_come_and_go(train: Train, serve: Serve) -> None:
    """Servers that are away at the start, come, die, come back, and die for good: what is missing in the end is named, strict
    fails, nobody says that everything has been delivered, and a resumed delivery brings it when they are back: once."""
    servers = start(serve)
    for server in servers:
        server.kill()
    program = Program(train, servers, 4, exit_timeout=8)
    program.round()
    program.wait_until_retried()
    for server in servers:
        server.start()
    program.wait_until_there()
    program.wait_until_told()
    for server in servers:
        server.kill()
    program.round()
    program.wait_until_retried()
    for server in servers:
        server.start()
    program.wait_until_there()
    program.wait_until_told()
    program.round()
    program.wait_until_there()
    for server in servers:
        server.kill()
    program.round()
    program.check_truth()
    said = program.end(3)
    check_misses(said, servers, program.rounds)
    said = program.replay("--timeout", "3", code=2)
    assert "everything has been delivered" not in said
    program.check_told()
    for server in servers:
        server.start()
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    assert "everything has been delivered" in program.replay()


def test_servers_hang(train: Train, serve: Serve) -> None:
    """Servers that take every request and never answer, from the start: they hold up no end, what is missing is named, and comes
    with a resumed delivery; the same again from the middle of a run that goes on."""
    servers = start(serve)
    for server in servers:
        server.misbehave("hang", "")
    program = Program(train, servers, 1, exit_timeout=5)
    program.round()
    program.check_truth()
    said = program.end(3)
    check_misses(said, servers, program.rounds)
    for server in servers:
        server.recover()
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    assert "everything has been delivered" in program.replay()
