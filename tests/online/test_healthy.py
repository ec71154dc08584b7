"""Servers that are well."""

from __future__ import annotations

from tests.faults.conftest import Train
from tests.faults.harness import losses
from tests.servers.fixtures import Serve
from tests.servers.harness import SERVERS


def test_everything_is_on_the_server(train: Train, serve: Serve) -> None:
    """A program that is not changed, and names its trackers in the environment, has each point on each tracker's server: once,
    with its step and exact value."""
    servers = [serve(name) for name in SERVERS]
    env: dict[str, str | None] = {"TRACELET_BACKEND": ",".join(SERVERS), "TRACELET_EXIT_TIMEOUT": "150"}
    for server in servers:
        env |= server.env
    program = train('writer = SummaryWriter("runs/x")\nreach("begun")\nlog(0, 225)\n', env=env, exit_timeout=150)
    said = program.end(225)
    assert "not delivered" not in said
    for server in servers:
        assert server.points() == losses(225), server.name
        server.check_understood()
    assert "everything has been delivered" in program.resume(env=env)
