"""ClearML's server, and what stands before it, misbehave."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Train
from tests.faults.harness import losses
from tests.servers.fixtures import Serve

TWO_PARTS = """
begin("clearml", exit_timeout=120)
log(0, 300)
reach("first"); wait_for("ill")
log(300, 600)
reach("second"); wait_for("well")
log(600, 900)
"""


@pytest.mark.parametrize(("status", "body"), [("504", "json"), ("500", "html"), ("403", "html"), ("200", "html")])
def test_a_proxy_answers(train: Train, serve: Serve, tmp_path: Path, status: str, body: str) -> None:
    """Answers without ClearML's envelope are a proxy's, and pass: nothing is set aside, and no point lands in a wrong series."""
    server = serve("clearml")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave(status, body=body)
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(4, fault=status)
    assert server.points() == losses(300)
    server.recover()
    program.go("well")
    said = program.end(900)
    assert "not delivered" not in said
    assert server.points() == losses(900)
    assert server.state["changed"] == 0
    server.check_understood()


def test_a_request_is_swallowed(train: Train, serve: Serve) -> None:
    """A request that is never answered is given up after seconds that are ours, not the SDK's 300, and sent again."""
    server = serve("clearml")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave("swallow", count=1)
    program.go("ill")
    program.go("well")
    server.wait_for_requests(1, fault="swallow")
    server.wait_for_points(900)
    program.end(900)
    assert server.points() == losses(900)
