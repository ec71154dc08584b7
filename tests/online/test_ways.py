"""The ways to log besides a session of one process: runs that the program opens itself, all ranks, trackers in a thread."""

from __future__ import annotations

from tests.faults.conftest import Train
from tests.online.rounds import Program, check_all, check_misses, everywhere
from tests.servers.fixtures import Serve
from tests.servers.harness import SERVERS

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


def test_trackers_in_a_thread(train: Train, serve: Serve) -> None:
    """With the trackers in the training process, errors and requests that hang lose nothing either; what a server that died does
    not get is named, strict fails, and it comes with a resumed delivery."""
    servers = [serve(name) for name in SERVERS]
    program = Program(train, servers, 4, delivery="thread", exit_timeout=8)
    program.round()
    program.wait_until_there()
    for fault in ("500", "hang"):
        for server in servers:
            server.misbehave(fault, "")
        program.round()
        everywhere(servers, lambda server, fault=fault: bool(server.requests("", fault)))  # type: ignore[misc]
        program.check_truth()
        for server in servers:
            server.recover()
        program.wait_until_there()
        program.wait_until_told()
    for server in servers:
        server.kill()
    program.round()
    said = program.end(3, memory=1e9)  # the SDKs are imported there
    check_misses(said, servers, program.rounds)
    program.check_told()
    for server in servers:
        server.start()
    program.replay()
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()


RANKS = """
import subprocess
if "RANK" not in os.environ:
    ranks = [subprocess.Popen([sys.executable, __file__], env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"}) for rank in "01"]
    codes = [rank.wait() for rank in ranks]
    assert codes == [0, 0], codes
    raise SystemExit
session = begin("clearml", "comet", "swanlab", "wandb", ranks="all", strict=True, exit_timeout=120)
"""


def test_all_ranks(train: Train, serve: Serve) -> None:
    """Each of two ranks has a run of its own at each server, with everything, once, through errors and lost answers."""
    servers = [serve(name) for name in SERVERS]
    program = Program(train, servers, 3, begin=RANKS)
    program.round()
    everywhere(servers, lambda server: server.count_runs() == 2)
    for fault in ("500", "lost"):
        for server in servers:
            server.misbehave(fault, "")
        program.round()
        everywhere(servers, lambda server, fault=fault: bool(server.requests("", fault)))  # type: ignore[misc]
        for server in servers:
            server.recover()
    program.training.go("end")
    assert program.training.process.wait(180) == 0, program.training.errors
    for rank in range(2):
        for server in servers:
            server.number = rank
        check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()
