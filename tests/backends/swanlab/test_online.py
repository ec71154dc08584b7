"""SwanLab's server, and what stands before it, misbehave."""

from __future__ import annotations

import json

import pytest

from tests.chosen import each_change
from tests.faults.conftest import Train
from tests.faults.harness import eventually, losses
from tests.replay.commands import tracelet_shim
from tests.servers.fixtures import Serve

TWO_PARTS = """
session = begin("swanlab", exit_timeout=120)
log(0, 300)
reach("first"); wait_for("ill")
log(300, 600)
reach("second"); wait_for("asked")
state = session.status()["swanlab"]
assert (state.delivered, state.pending) == (300, 300), state
reach("third"); wait_for("well")
log(600, 900)
"""


@pytest.mark.parametrize(
    ("status", "body"), each_change([("429", "json"), ("403", "html"), ("200", "html")], ("200", "html"))
)  # tests/online has the others
def test_data_is_refused_for_a_while(train: Train, serve: Serve, status: str, body: str) -> None:
    """A quota, or a proxy, that answers in the service's place for a while loses nothing; meanwhile it is pending, and named."""
    server = serve("swanlab")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave(status, body=body)
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(3, fault=status)
    eventually(lambda: "the service does not take uploads" in program.errors)
    program.go("asked")
    program.wait_for("third")
    server.recover()
    program.go("well")
    said = program.end(900)
    assert "not delivered" not in said
    assert server.points() == losses(900)
    assert server.state["changed"] == 0
    server.check_understood()


def test_some_are_refused_for_good(train: Train, serve: Serve) -> None:
    """A point and a text that the service refuses with the whole batch that they are in, after they were handed over, are named,
    counted, and in the ledger; all others are there. Offered again to a service that takes them, they are, too: once."""
    server = serve("swanlab")
    code = """begin("swanlab")
log(0, 150)
writer.add_scalar("refused", 1.0, 7)
writer.add_text("refused", "note", 3)
log(150, 300)
"""
    program = train(code, env=server.env)
    said = program.end(300)
    assert server.points() == losses(300)
    assert "warning: swanlab: scalar 'refused' at step 7 was refused: a metric of this batch is not valid" in said
    assert "warning: swanlab: text 'refused' at step 3 was refused: a metric of this batch is not valid" in said
    assert "swanlab: 2 events were not delivered" in said
    (told,) = json.loads(tracelet_shim("status", "runs/x", "--json"))
    refused = [(row["kind"], row["path"], row["step"]) for row in told["set_aside"]]
    assert refused == [("scalar", "refused", 7), ("text", "refused", 3)]
    assert {row["message"] for row in told["set_aside"]} == {"a metric of this batch is not valid"}
    (server.directory / "takes-all").touch()
    program.resume("--retry-refused", env=server.env)
    assert server.points() == [*losses(300), ("refused", 7, 1.0)]
    assert list(server.run()["media"]) == ["refused (text)"]
    (told,) = json.loads(tracelet_shim("status", "runs/x", "--json"))
    assert (told["set_aside"], told["runs"][0]["delivered"]) == ([], 302)
    assert "everything has been delivered" in program.resume(env=server.env)
    assert (server.state["changed"], server.state["again"]) == (0, 0)
    server.check_understood()


def test_log_in_is_refused_for_a_while(train: Train, serve: Serve) -> None:
    """A log-in that is answered 429 is not taken for a wrong key."""
    server = serve("swanlab")
    server.misbehave("429", "/login/api_key$")
    program = train('begin("swanlab")\nlog(0, 100)\nreach("logged"); wait_for("well")\n', env=server.env)
    program.wait_for("logged")
    server.wait_for_requests(2, "/login/api_key$", "429")
    server.recover()
    program.go("well")
    program.end(100)
    assert server.points() == losses(100)


@pytest.mark.nightly
def test_server_is_gone_at_the_end(train: Train, serve: Serve) -> None:
    """What a server that died did not get is named at the end, counted, and delivered by a resumed delivery: once."""
    server = serve("swanlab")
    code = 'begin("swanlab", exit_timeout=10)\nlog(0, 300)\nreach("first"); wait_for("gone")\nlog(300, 600)\n'
    program = train(code, env=server.env, exit_timeout=10)
    program.wait_for("first")
    server.wait_for_points(300)
    server.kill()
    program.go("gone")
    said = program.end(600)
    assert "swanlab: 300 events were not delivered" in said
    server.start()
    program.resume(env=server.env)
    assert server.points() == losses(600)
    assert server.state["changed"] == 0
    server.check_understood()
