"""The ways to log besides a session of one process: runs that the program opens itself, all ranks, trackers in a thread."""

from __future__ import annotations

from tests.faults.conftest import Train
from tests.online.rounds import Program, check_all, check_misses, everywhere
from tests.servers.fixtures import Serve

JOINED = """
import comet_ml, swanlab
from clearml import Task

quiet = comet_ml.ExperimentConfig(auto_output_logging=False, auto_metric_logging=False, log_env_details=False)
experiment = comet_ml.start(project_name="p", experiment_config=quiet)
run = swanlab.init(project="p")
task = Task.init("p", "t", auto_connect_frameworks=False, auto_resource_monitoring=False, auto_connect_streams=False)
session = begin("clearml", "comet", "swanlab", exit_timeout=5)
mine = {"clearml": task.id, "comet": experiment.id, "swanlab": run.id}
assert session.run_ids == mine, (session.run_ids, mine)
"""


def test_runs_of_the_users(train: Train, serve: Serve) -> None:
    """Runs that the program has opened itself get everything, through errors too, once; what a server does not take before the
    session ends is named, and a resumed delivery puts it into the same runs, though the program was killed. (W&B's: in its own
    folder; what its service has got is not known before the run ends.)"""
    servers = [serve(name) for name in ("clearml", "comet", "swanlab")]
    # SDKs that take over standard error stumble over each other, with or without us
    env: dict[str, str | None] = {"SWANLAB_TERMINAL_PROXY_TYPE": "none"}
    program = Program(train, servers, 3, begin=JOINED, env=env, at_last="tracelet.stop_logging()\nreach('told')\n")
    program.round()
    program.wait_until_there()
    program.wait_until_told()
    for server in servers:
        server.misbehave("500", "")
    program.round()
    everywhere(servers, lambda server: bool(server.requests("", "500")))
    program.check_truth()
    for server in servers:
        server.recover()
    program.wait_until_there()
    program.wait_until_told()
    for server in servers:
        server.misbehave("hang", "")
    program.round()
    everywhere(servers, lambda server: bool(server.requests("", "hang")))
    program.check_truth()
    program.training.go("end")
    program.training.wait_for("told")
    check_misses(program.training.errors, servers, program.rounds)
    program.training.stop()
    for server in servers:
        server.recover()
    program.replay()
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()
