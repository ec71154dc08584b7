"""Comet's server, and what stands before it, misbehave."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Train
from tests.faults.harness import losses
from tests.servers.fixtures import Serve

TWO_PARTS = """
begin("comet", exit_timeout=120)
log(0, 300)
reach("first"); wait_for("ill")
log(300, 600)
writer.add_text("note", "a text", 1)
reach("second"); wait_for("well")
log(600, 900)
"""


@pytest.mark.nightly  # tests/online has it for all trackers at a time
@pytest.mark.parametrize("fault", ["500", "403", "200", "lost"])
def test_points_are_refused_for_a_while(train: Train, serve: Serve, fault: str) -> None:
    """Errors on the end point of metrics, a proxy's page, and answers that are lost: every point is there in the end, and none
    twice though the server recognises none."""
    server = serve("comet")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave(fault, body="html" if fault == "200" else "json")
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(1 if fault == "lost" else 4, fault=fault)
    server.recover()
    program.go("well")
    said = program.end(900)
    assert "not delivered" not in said
    assert server.points() == losses(900)
    assert [asset["type"] for asset in server.run()["assets"]].count("text-sample") == 1
    server.check_understood()


@pytest.mark.nightly
def test_server_is_gone_at_the_end(train: Train, serve: Serve) -> None:
    """What a server that died did not get is named at the end, counted, and delivered by a resumed delivery: once."""
    server = serve("comet")
    code = 'begin("comet", exit_timeout=10)\nlog(0, 300)\nreach("first"); wait_for("gone")\nlog(300, 600)\n'
    program = train(code, env=server.env, exit_timeout=10)
    program.wait_for("first")
    server.wait_for_points(300)
    server.kill()
    program.go("gone")
    said = program.end(600)
    assert "comet: 300 events were not delivered" in said
    server.start()
    program.resume(env=server.env)
    assert server.points() == losses(600)
    server.check_understood()
