"""The ways to log besides a session of one process: runs that the program opens itself, all ranks, trackers in a thread."""

from __future__ import annotations

import re

from tests.faults.conftest import Train
from tests.faults.harness import eventually
from tests.online.rounds import Program, check_all, check_misses, everywhere, with_servers
from tests.servers.fixtures import Serve
from tests.servers.harness import server_class


@with_servers(turn=5)
def test_runs_of_the_users(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """Runs that the program has opened itself get everything, through errors too, once; what a server does not take before the
    session ends is named, and a resumed delivery puts it into the same runs, though the program was killed."""
    servers = [serve(name) for name in names if server_class(name).users_run]
    opened = "".join(f"{server.users_run}\nmine[{server.name!r}] = run.id\n" for server in servers)
    begin = f"mine = {{}}\n{opened}\nsession = begin(*mine, exit_timeout=5)\nassert session.run_ids == mine, session.run_ids\n"
    program = Program(train, servers, 3, begin=begin, at_last="tracelet.stop_logging()\nreach('told')\n")
    program.round()
    program.wait_until_known()
    program.ill("500")
    program.well()
    program.wait_until_known()
    program.ill("hang")
    program.training.go("end")
    program.training.wait_for("told")
    check_misses(program.training.errors, servers, program.rounds)
    program.training.stop()
    program.well()
    program.replay()
    check_all(servers, program.rounds)
    assert "everything has been delivered" in program.replay()


@with_servers(turn=0)
def test_trackers_in_a_thread(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """With the trackers in the training process, errors and requests that hang lose nothing either; what a server that died does
    not get is named, strict fails, and it comes with a resumed delivery."""
    servers = [serve(name) for name in names]
    env = {"COMET_LOGGING_CONSOLE": None}  # the tests' own value has the SDK print on training's terminal what we keep off it
    program = Program(train, servers, 4, delivery="thread", exit_timeout=8, env=env)
    program.round()
    program.wait_until_there()
    for fault in ("500", "hang"):
        program.ill(fault)
        program.well()
        program.wait_until_known()
    program.kill_servers()
    program.round()
    said = program.end(3, memory=1e9)  # the SDKs are imported there
    check_misses(said, servers, program.rounds)
    program.check_told()
    program.start_servers()
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
session = begin(*NAMES, ranks="all", strict=True, exit_timeout=120)
"""


@with_servers(turn=5)
def test_all_ranks(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """Each of two ranks has a run of its own at each server, with everything, once, through errors and lost answers."""
    servers = [serve(name) for name in names]
    program = Program(train, servers, 3, begin=f"NAMES = {names!r}\n{RANKS}")
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


SWEEP = """
def sweep(first, stop):
    for lr in range(first, stop):
        writer.add_hparams({"lr": float(lr)}, {"acc": float(lr)}, run_name=f"trial{lr}")
    writer.flush()
    reach(f"swept{stop}")
session = begin(*NAMES, exit_timeout=10, strict=True)
sweep(1, 4)
stand("ill")
sweep(4, 7)
"""


@with_servers(turn=2)
def test_trials(train: Train, serve: Serve, names: tuple[str, ...]) -> None:
    """The trials of a sweep are delivered when the servers have them: those that a server which died does not get are named,
    strict fails, and they come with a resumed delivery: each once."""
    servers = [serve(name) for name in names]
    program = Program(train, servers, 0, begin=f"NAMES = {names!r}\n{SWEEP}", exit_timeout=10)
    program.training.wait_for("swept4")
    eventually(lambda: all(state.delivered + state.unconfirmed == 3 for state in program.status().values()))
    for server in servers:
        server.kill()
    for name, state in program.status().items():
        (server,) = (server for server in servers if server.name == name)
        assert state.delivered <= len(server.trials()), (name, state)
    program.training.go("ill")
    said = program.end(3)
    for server in servers:
        found = re.search(rf"{server.name}: (\d+) events were not delivered", said)
        assert found is not None, (server.name, said)
        assert int(found[1]) >= 6 - len(server.trials()), (server.name, said)
        server.start()
    program.replay()
    for server in servers:
        assert (server.name, server.trials()) == (server.name, [float(lr) for lr in range(1, 7)])
    assert "everything has been delivered" in program.replay()
