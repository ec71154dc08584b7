"""W&B's own service, a process that we start, ends with us."""

from __future__ import annotations

from tests.faults.conftest import Train
from tests.faults.harness import eventually, is_relay
from tests.servers.fixtures import Serve


def test_a_run_that_was_being_opened_is_not_opened_any_more(train: Train, serve: Serve) -> None:
    """A server that hangs while the run is opened, and recovers after the program has ended, gets nothing by itself any more: it
    would be written beside what a resumed delivery writes."""
    server = serve("wandb")
    server.misbehave("hang", "")
    code = 'begin("wandb", exit_timeout=2)\nlog(0, 50)\nreach("logged"); wait_for("end")\n'
    program = train(code, env=server.env, exit_timeout=2)
    program.wait_for("logged")
    server.wait_for_requests(1, "", "hang")
    relays = list(program.relays)
    program.go("end")
    said = program.end(50)
    assert "wandb: 50 events were not delivered" in said
    server.recover()
    eventually(lambda: not any(map(is_relay, relays)), 60)
    assert server.state["runs"] == {}
    program.resume(env=server.env)
    assert len(server.points()) == 50
