"""One process serves many sessions: what they share, and what nobody else's trouble takes from them."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import environment, event_file_steps, eventually
from tests.node.programs import Collector, Start, is_gone, losses, parent, points, states, wait_until_gone


def test_sessions_of_one_directory_share_one_process(start: Start, collector: Collector, tmp_path: Path) -> None:
    """Each has a run with its points, once; ranks and their devices differ, and make no difference."""
    own = [{"LOCAL_RANK": str(n), "CUDA_VISIBLE_DEVICES": str(n)} for n in range(4)]
    programs = [start(f"run-{n}", backends="mlflow,tensorboard", env={**collector.env, **own[n]}) for n in range(4)]
    served = {program.served_by() for program in programs}
    assert collector.hosts() == list(served)
    for program in programs:
        assert "warning" not in program.end()
    assert points(tmp_path) == {f"run-{n}": losses(1000) for n in range(4)}
    assert set(states(tmp_path).values()) == {"FINISHED"}
    copies = {path.parent for path in (tmp_path / "tracelet-runs").rglob("*tfevents*")}
    assert [event_file_steps(copy) for copy in copies] == [list(range(1000))] * 4
    assert not list(tmp_path.glob("runs/*/.tracelet/*.ring"))


def test_another_directory_or_environment_has_another_process(start: Start, collector: Collector, tmp_path: Path) -> None:
    """Relative stores are where the program stands, and credentials are whose program it is."""
    other = tmp_path / "other"
    other.mkdir()
    here = start("here", env=collector.env)
    there = start("there", env={**collector.env, "MLFLOW_TRACKING_USERNAME": "somebody"})
    apart = start("apart", directory=other, env=collector.env)
    assert len({program.served_by() for program in (here, there, apart)}) == 3
    for program in (here, there, apart):
        program.end()
    assert points(tmp_path) == {"here": losses(1000), "there": losses(1000)}
    assert points(other) == {"apart": losses(1000)}


def test_a_tracker_that_cannot_share_has_a_process_of_its_own(start: Start, collector: Collector, tmp_path: Path) -> None:
    program = start("both", backends="tensorboard,dvclive", env=collector.env)
    assert program.served_by() not in collector.hosts()
    assert program.end() == "" or "warning" not in program.errors
    assert event_file_steps(tmp_path / "tracelet-runs") == list(range(1000))


def test_a_killed_collector_takes_nothing_along(start: Start, collector: Collector, tmp_path: Path) -> None:
    """The sessions go on with processes of their own: nothing is lost, and nothing is there twice."""
    programs = [start(name, env=collector.env) for name in ("a", "b")]
    (host,) = {program.served_by() for program in programs}
    os.kill(collector.process.pid, signal.SIGKILL)
    collector.process.wait()
    os.kill(host, signal.SIGKILL)
    for program in programs:
        said = program.end()
        assert "the relay process died" in said
        assert "cannot be reached" in said
    assert points(tmp_path) == {"a": losses(1000), "b": losses(1000)}
    assert set(states(tmp_path).values()) == {"FINISHED"}


def test_a_killed_host_is_replaced(start: Start, collector: Collector, tmp_path: Path) -> None:
    """The collector itself goes on: it has the sessions served by another process."""
    programs = [start(name, env=collector.env) for name in ("a", "b")]
    (host,) = {program.served_by() for program in programs}
    os.kill(host, signal.SIGKILL)
    for program in programs:
        assert "cannot be reached" not in program.end()
    assert points(tmp_path) == {"a": losses(1000), "b": losses(1000)}
    (other,) = collector.hosts()
    assert other != host


def test_sessions_outlive_the_front(start: Start, collector: Collector, tmp_path: Path) -> None:
    """Who is served has no need of the process that took the session, and the one that serves it ends when all are done."""
    program = start("a", env=collector.env)
    host = program.served_by()
    os.kill(collector.process.pid, signal.SIGKILL)
    collector.process.wait()
    assert "died" not in program.end()
    assert points(tmp_path) == {"a": losses(1000)}
    wait_until_gone(host)


@pytest.mark.parametrize(("number", "state"), [(signal.SIGKILL, "FAILED"), (signal.SIGTERM, "KILLED")])
def test_a_killed_program_ends_its_own_run_alone(
    start: Start, collector: Collector, tmp_path: Path, number: int, state: str
) -> None:
    killed, other = start("killed", env=collector.env), start("other", env=collector.env)
    assert killed.served_by() == other.served_by()
    os.kill(killed.process.pid, number)
    eventually(lambda: states(tmp_path)["killed"] == state)
    assert states(tmp_path)["other"] == "RUNNING"
    other.end()
    assert points(tmp_path) == {"killed": losses(500), "other": losses(1000)}


def test_a_tracker_that_hangs_for_one_session_stops_no_other(start: Start, collector: Collector, tmp_path: Path) -> None:
    """One session's server takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hung = start(
            "hung", env={**collector.env, "TRACELET_MLFLOW_TRACKING_URI": uri, "TRACELET_EXIT_TIMEOUT": "3"}, patience=1,
        )  # fmt: skip
        host = hung.served_by()
        well = start("well", env=collector.env)
        assert well.served_by() == host
        assert "pending" not in well.end()
        assert points(tmp_path) == {"well": losses(1000)}
        assert "were not delivered" in hung.end() or "not delivered" in hung.errors
        later = start("later", env=collector.env)
        assert later.served_by() == host
        later.end()
    assert points(tmp_path) == {"well": losses(1000), "later": losses(1000)}


def test_a_collector_that_is_not_there_is_named_once(start: Start, tmp_path: Path) -> None:
    program = start("alone", env={"TRACELET_COLLECTOR": str(tmp_path / "nowhere.sock")})
    program.served_by()
    said = program.end()
    assert said.count("cannot be reached") == 1
    assert "nowhere.sock" in said
    assert points(tmp_path) == {"alone": losses(1000)}


def test_drained_it_serves_those_it_has_and_takes_no_others(start: Start, collector: Collector, tmp_path: Path) -> None:
    first = start("first", env=collector.env)
    host = first.served_by()
    collector.process.terminate()
    eventually(lambda: not collector.path.exists())
    late = start("late", env=collector.env)
    assert late.served_by() != host
    assert "cannot be reached" in late.end()
    assert "died" not in first.end()
    assert collector.process.wait(60) == 0
    assert is_gone(host)
    assert points(tmp_path) == {"first": losses(1000), "late": losses(1000)}


def test_asked_twice_it_leaves_sessions_to_processes_of_their_own(start: Start, collector: Collector, tmp_path: Path) -> None:
    program = start("left", env=collector.env)
    program.served_by()
    collector.process.terminate()
    eventually(lambda: not collector.path.exists())
    collector.process.terminate()
    assert collector.process.wait(60) == 0
    assert "the relay process died" in program.end()
    assert points(tmp_path) == {"left": losses(1000)}


def test_started_on_demand_by_two_at_once_there_is_one(start: Start, tmp_path: Path) -> None:
    env = {"TRACELET_COLLECTOR": "auto", "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    (tmp_path / "run").mkdir(mode=0o700)
    programs = [start(f"run-{n}", env=env) for n in range(2)]
    hosts = {program.served_by() for program in programs}
    front = parent(next(iter(hosts)))
    try:
        assert len(hosts) == 1
        place = tmp_path / "run" / "tracelet-shim" / "collector.sock"
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        for program in programs:
            program.end()
        assert not is_gone(front)
    finally:
        os.kill(front, signal.SIGTERM)
        wait_until_gone(front)
    assert points(tmp_path) == {f"run-{n}": losses(1000) for n in range(2)}


def test_after_a_kill_another_one_is_started_on_demand(start: Start, tmp_path: Path) -> None:
    env = {"TRACELET_COLLECTOR": "auto", "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    (tmp_path / "run").mkdir(mode=0o700)
    programs = [start(f"run-{n}", env=env) for n in range(2)]
    (host,) = {program.served_by() for program in programs}
    front = parent(host)
    os.kill(front, signal.SIGKILL)
    wait_until_gone(front)
    os.kill(host, signal.SIGKILL)
    late = start("late", env=env)
    successor = parent(late.served_by())
    try:
        for program in programs:
            said = program.end()
            assert said.count("the relay process died") == 1
            assert "process of its own" not in said
        late.end()
    finally:
        os.kill(successor, signal.SIGTERM)
        wait_until_gone(successor)
    assert points(tmp_path) == {name: losses(1000) for name in ("run-0", "run-1", "late")}


def test_it_ends_when_idle(start: Start, tmp_path: Path) -> None:
    """Started by hand in the background, and found there."""
    (tmp_path / "run").mkdir(mode=0o700)
    env = {"TRACELET_COLLECTOR": "auto", "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    command = [sys.executable, "-m", "tracelet_shim", "collect", "--auto", "--idle", "2"]
    done = subprocess.run(command, env=environment(env), capture_output=True, text=True, check=True, timeout=60)
    place = tmp_path / "run" / "tracelet-shim" / "collector.sock"
    assert done.stdout == f"{place}\n"
    program = start("run", env=env)
    host = program.served_by()
    front = parent(host)
    program.end()
    wait_until_gone(front)
    wait_until_gone(host)
    assert not place.exists()
    assert not list(place.parent.glob("host-*"))


def test_two_do_not_listen_at_one_place(collector: Collector) -> None:
    command = [sys.executable, "-m", "tracelet_shim", "collect", "--socket", str(collector.path)]
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "already" in done.stderr


def test_a_place_where_others_write_is_none(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    command = [sys.executable, "-m", "tracelet_shim", "collect", "--socket", str(tmp_path / "open" / "c.sock")]
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "others can write" in done.stderr


@pytest.mark.parametrize("knock", [b"", b"session", b"{" * 50])
def test_who_only_knocks_does_no_harm(start: Start, collector: Collector, tmp_path: Path, knock: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as guest:
        guest.connect(os.path.relpath(collector.path, tmp_path))
        if knock:
            guest.send(knock)
            assert guest.recv(100) == b""
    program = start("after", env=collector.env)
    program.served_by()
    program.end()
    assert points(tmp_path) == {"after": losses(1000)}


def test_run_waits_for_what_a_killed_program_has_left(start: Start, collector: Collector, tmp_path: Path) -> None:
    """The process that delivers it serves others as well, and does not end: the end of the session counts."""
    other = start("other", env=collector.env)
    host = other.served_by()
    script = """
import os, signal
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter("runs/killed")
for step in range(1000):
    writer.add_scalar("loss", step / 7, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "killed.py").write_text(script)
    command = [sys.executable, "-m", "tracelet_shim", "run", "-b", "mlflow", "-n", "killed", "--", sys.executable, "killed.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(collector.env), capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == -signal.SIGKILL
    assert "mlflow: 1000 delivered, 0 pending" in done.stderr + done.stdout
    assert not is_gone(host)
    assert states(tmp_path) == {"killed": "FAILED", "other": "RUNNING"}
    other.end()
    assert points(tmp_path) == {"killed": losses(1000), "other": losses(1000)}
