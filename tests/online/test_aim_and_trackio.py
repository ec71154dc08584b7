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
from tests.faults.harness import losses
from tests.online.rounds import Program, check_all, check_answers, check_coming_and_going, check_misses, everywhere
from tests.servers.live import Live

pytest.importorskip("aim")

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


def test_answers(train: Train, servers: list[Live]) -> None:
    """Errors, refusals that may pass, a proxy's pages, lost answers and silence, one after the other: as long as something is
    missing the status says so, and in the end each thing is there, once."""
    start(servers)
    check_answers(train, servers, ANSWERS)


def test_servers_come_and_go(train: Train, servers: list[Live]) -> None:
    """Servers that are away at the start, come, die, come back, and die for good: what is missing in the end is named, strict
    fails, nobody says that everything has been delivered, and a resumed delivery brings it when they are back: once."""
    check_coming_and_going(train, servers)


def test_silence_and_wrong_keys_at_the_start(train: Train, servers: list[Live]) -> None:
    """Servers that take every request and never answer hold up no end. Then a token that Trackio's does not know, and a proxy
    that lets nobody through to Aim's: that is named with what can be done, never with the secret, and not tried again and again.
    What is missing is named all the same, and comes with a resumed delivery, once."""
    start(servers)
    aim, _ = servers
    for server in servers:
        server.misbehave("hang")
    program = Program(train, servers, 1, exit_timeout=5)
    program.round()
    program.check_truth()
    said = program.end(3)
    check_misses(said, servers, program.rounds)
    program.well()
    aim.misbehave("403")
    before = len(aim.requests())
    said = program.replay(env={"TRACKIO_WRITE_TOKEN": "wrong-secret"}, code=2)
    assert "trackio: cannot open a run: the Trackio server does not accept the token" in said, said
    assert "remedy: set TRACKIO_WRITE_TOKEN" in said
    assert "wrong-secret" not in said
    assert "aim: cannot open a run: 403 Injected from http://127.0.0.1" in said, said
    assert len(aim.requests()) - before < 6  # of one try
    assert "everything has been delivered" not in said
    program.check_told()
    aim.recover()
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    assert "everything has been delivered" in program.replay()


def test_processes_are_killed(train: Train, servers: list[Live]) -> None:
    """The relay is killed with answers lost, and then everything with requests on their way: what is missing comes with the next
    relay, or with a resumed delivery, and nothing is there twice. The next program goes on in the same runs, by their id; it is
    killed, and its relay delivers what it has got."""
    start(servers)
    program = Program(train, servers, 3, run_id="night-7")
    program.round()
    program.wait_until_there()
    program.ill("lost")
    program.kill(training=False)
    program.well()
    program.wait_until_known()
    program.ill("hang")
    program.kill()
    program.well()
    program.check_told()
    program.replay()
    check_all(servers, program.rounds)
    program.check_told()
    program = Program(train, servers, 4, first=3, run_id="night-7")
    program.round()
    program.status()  # so it has reached the relay
    program.kill(relay=False)
    program.wait_for_relay()
    assert [row["pending"] for row in program.told().values()] == [0, 0]
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()


def test_in_the_training_process(train: Train, servers: list[Live]) -> None:
    """``delivery="thread"``, on a rank that has runs of its own: servers are killed and come back, and everything is there."""
    start(servers)
    env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    program = Program(train, servers, 2, env=env, delivery="thread", ranks="all")
    program.round()
    program.wait_until_there()
    program.kill_servers()
    program.round()
    program.wait_until_retried()
    program.start_servers()
    program.wait_until_known()
    said = program.end()
    assert "not delivered" not in said
    check_all(servers, program.rounds)


JOINED = """
import contextlib, json
import numpy as np
import trackio

with contextlib.redirect_stdout(open(os.devnull, "w")):
    run = trackio.init("mine", name="his", embed=False, auto_log_cpu=False, auto_log_gpu=False, server_url=os.environ["SERVER"])
    session = begin("aim", "trackio", strict=True)
    run.log({"his": 0.5}, step=7)
    log(0, 100)
    writer.add_audio("sound", np.linspace(-1, 1, 800, dtype="float32")[None], 0, 8000)
    writer.add_text("note", "round 0", 0)
    reach("logged"); wait_for("ill")
    log(100, 200)
    writer.add_image("picture", np.full((3, 2, 2), 1, np.uint8), 1)
    reach("logged more"); wait_for("well")
    trackio.finish()
"""


def test_a_run_of_yours_on_a_server(train: Train, servers: list[Live]) -> None:
    """The run of `trackio.init` on a server is joined: what is logged goes into it beside its own points, through a fault, and
    `trackio.finish` waits for it."""
    start(servers)
    aim, trackio = servers
    assert isinstance(trackio, TrackioServer)
    program = train(JOINED, env={**aim.env, "SERVER": trackio.url})
    program.wait_for("logged")
    everywhere(servers, lambda server: ("loss", 99, 99 / 7) in server.points())
    for server in servers:
        server.misbehave("503")
    program.go("ill")
    program.wait_for("logged more")
    everywhere(servers, lambda server: bool(server.requests(fault="503")))
    for server in servers:
        server.recover()
    program.go("well")
    said = program.end(200)
    assert "not delivered" not in said
    for server, own in ((aim, []), (trackio, [("his", 7, 0.5)])):
        assert server.points() == [*own, *losses(200)]
        assert (server.name, server.things()) == (server.name, ["audio 0", "image 1", "text 0"])
