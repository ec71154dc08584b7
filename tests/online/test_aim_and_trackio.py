"""Aim's and Trackio's own servers under faults, both in one program: what their stores hold at each moment and at last.

A program costs seconds, and a fault that is over hides no other: so faults follow each other in one program wherever they can.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.aim.live import AimServer
from tests.backends.trackio.live import TrackioServer
from tests.faults.conftest import Train
from tests.online.rounds import Program, check_all, check_misses, everywhere
from tests.servers.live import Live

ANSWERS = (("503", "html"), ("429", "json"), ("403", "html"), ("404", "html"), ("200", "json"), ("lost", ""), ("hang", ""))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Live]]:
    """Both servers, not started yet."""
    made: list[Live] = [AimServer(tmp_path / "aim-server"), TrackioServer(tmp_path / "trackio-server")]
    yield made
    for server in made:
        server.close()


def start(servers: list[Live]) -> None:
    for server in servers:
        server.start()


def kill(servers: list[Live]) -> None:
    for server in servers:
        server.kill()


def test_answers(train: Train, servers: list[Live]) -> None:
    """Errors, refusals that may pass, a proxy's pages, lost answers and silence, one after the other: as long as something is
    missing the status says so, and in the end each thing is there, once."""
    start(servers)
    program = Program(train, servers, 1 + len(ANSWERS))
    program.round()
    program.wait_until_told()
    for fault, body in ANSWERS:
        for server in servers:
            server.misbehave(fault, body=body)
        program.round()
        everywhere(servers, lambda server, fault=fault: bool(server.requests(fault=fault)))  # type: ignore[misc]
        program.check_truth()
        for server in servers:
            server.recover()
        try:
            program.wait_until_there()
        except AssertionError:
            print(fault, program.status(), program.training.errors, [(len(s.points()), s.things(), s.requests()[-5:]) for s in servers])
            raise
        program.wait_until_told()
    said = program.end()
    assert "not delivered" not in said
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()


def test_servers_come_and_go(train: Train, servers: list[Live]) -> None:
    """Servers that are away at the start, come, die, come back, and die for good: what is missing in the end is named, strict
    fails, nobody says that everything has been delivered, and a resumed delivery brings it when they are back: once."""
    program = Program(train, servers, 4, exit_timeout=8)
    program.round()
    program.wait_until_retried()
    start(servers)
    program.wait_until_there()
    program.wait_until_told()
    kill(servers)
    program.round()
    program.wait_until_retried()
    start(servers)
    program.wait_until_there()
    program.wait_until_told()
    program.round()
    program.wait_until_there()
    kill(servers)
    program.round()
    program.check_truth()
    said = program.end(3)
    check_misses(said, servers, program.rounds)
    said = program.replay("--timeout", "3", code=2)
    assert "everything has been delivered" not in said
    program.check_told()
    start(servers)
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    assert "everything has been delivered" in program.replay()
