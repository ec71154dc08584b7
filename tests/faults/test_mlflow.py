"""A real ``mlflow server`` with log-in, over a real PostgreSQL: what it refuses, how it fails, and what it has in the end.

Faults come one after the other in one program, since each program, and each start of a server, costs many seconds.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.mlflow.postgres import PASSWORD
from tests.backends.mlflow.reached import Reached
from tests.backends.mlflow.tracking import TRAINER, MLflowServer, log_in
from tests.faults import proxy as faulty
from tests.faults.conftest import Train
from tests.faults.harness import copied_steps, eventually, free_port, is_relay
from tests.faults.mlflow import (
    EACH,
    PROGRAM,
    SlowAndTorn,
    Switch,
    attempts,
    becomes,
    check_everything,
    check_run,
    held,
    status,
    variables,
)  # fmt: skip
from tests.faults.proxy import Proxy
from tests.online.rounds import Program, check_all

SECRET = "hunter2hunter2hunter2"

def test_mlflow_does_not_let_the_user_in(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """A wrong password, a token that the server does not know, and a user who may only read: MLflow is given up at once, with a
    message that names what is wrong and what to do, never the secret; another tracker goes on; and a resumed
    delivery with the right log-in brings everything, once."""
    experiment = server.make_experiment(tmp_path.name)
    server.add_user("reader")
    server.permit("reader", experiment, "READ")
    server.permit(TRAINER, experiment, "EDIT")
    reader = {name: value for name, value in log_in("reader").items() if value}
    program = train(
        f"""{PROGRAM}
def known_as(**variables):
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        os.environ.pop("MLFLOW_TRACKING_" + name, None)
    os.environ.update(variables)

known_as(MLFLOW_TRACKING_USERNAME="trainer", MLFLOW_TRACKING_PASSWORD="{SECRET}")
whole(0)
known_as(MLFLOW_TRACKING_TOKEN="{SECRET}")
whole(1)
known_as(**{reader!r})
whole(2)
""",
        env=variables(tmp_path.name, server.uri),
    )
    said = program.end(150)
    for _, took, states in attempts(tmp_path, 3):
        assert took < 40  # `exit_timeout` is 60
        assert states["mlflow"][:4] == ["failed", 0, EACH, 0]
        assert states["tensorboard"][:4] == ["closed", EACH, 0, 0]
    assert copied_steps(tmp_path) == list(range(150))
    assert server.runs(tmp_path.name) == []
    refused = [line for line in said.splitlines() if "warning: mlflow: cannot open a run: " in line]
    assert ["error code 401" in line for line in refused] == [True, True, False]
    assert "remedy: correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which" in refused[0]
    assert "remedy: correct MLFLOW_TRACKING_TOKEN " in refused[1]
    assert "Permission denied" in refused[2]
    assert "remedy: have the permission EDIT on the experiment given to the user of MLFLOW_TRACKING_USERNAME" in refused[2]
    assert SECRET not in said
    assert str(reader["MLFLOW_TRACKING_PASSWORD"]) not in said
    again = program.resume(env=variables(tmp_path.name, server.uri))
    assert again.count(f"mlflow: {EACH} events delivered, 0 pending, 0 set aside") == 3
    check_everything(server, tmp_path.name, 150)


@pytest.mark.slow
def test_mlflow_is_ill_for_a_while(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """One fault after the other in one run: answers that are late or lost; a proxy that answers 500, 429, and 403 for files; no
    answer; the user's password, and then the permission, taken away and given back; the database read only, and killed; the
    server killed. Each time MLflow's events are pending and the trouble is named, another tracker does not wait, no more is
    called delivered than the server has, nothing is set aside; then each event is there, once."""
    project, switch = tmp_path.name, Switch()
    experiment = server.make_experiment(project)
    server.permit(TRAINER, experiment, "EDIT")
    with Proxy(server.port, switch) as proxy:
        switch.now = SlowAndTorn()
        program = train(
            f"""{PROGRAM}
session = talkative(begin("mlflow", "tensorboard", strict=True, exit_timeout=120))
mixed(0, 200)
for phase in range(2, 20):
    wait_for(f"phase{{phase}}")
    if os.path.exists("over"):
        break
    mixed(100 * phase, 100 * phase + 100)
    reach(f"logged{{phase}}")
""",
            env={**variables(project, f"http://127.0.0.1:{proxy.port}"), "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"},
            exit_timeout=120,
        )
        phases = [2]

        def while_ill(trouble: str, *, lets_nothing_pass: bool = True) -> None:
            """Log a hundred steps while something is wrong; the session says so, and claims no more than is true."""
            phase = phases[-1]
            before = held(server, project) if lets_nothing_pass else 0
            program.go(f"phase{phase}")
            program.wait_for(f"logged{phase}")
            becomes(program, lambda said: re.search(trouble, said[4]) is not None)
            becomes(program, lambda said: said[1] == 2 * EACH * (phase + 1), "tensorboard")
            state, delivered, pending, failed, _ = status(program)
            assert (state, failed) == ("retrying", 0)
            assert delivered + pending == 2 * EACH * (phase + 1)
            assert pending >= 2 * EACH if lets_nothing_pass else pending > 0
            assert before == delivered if lets_nothing_pass else delivered <= held(server, project)

        def then_well() -> None:
            switch.well()
            everything = 2 * EACH * (phases[-1] + 1)
            becomes(program, lambda said: said[:4] == ("open", everything, 0, 0))
            assert held(server, project) == everything
            phases.append(phases[-1] + 1)

        program.wait_for("begun")
        becomes(program, lambda said: said[:4] == ("open", 4 * EACH, 0, 0))
        torn = [request.line for request in proxy.requests if isinstance(request.fault, faulty.Reset)]
        for kind in ("runs/create", "runs/log-batch", "PUT "):
            assert any(kind in line for line in torn), kind
        assert held(server, project) == 4 * EACH

        for fault, part, trouble in (
            (faulty.Answer(500), "log-batch", "500"),
            (faulty.Answer(429), "", "429"),
            (faulty.Hang(), "", "timed out"),
        ):
            switch.ill(fault, part)
            while_ill(trouble)
            then_well()
        switch.ill(faulty.Answer(403), "PUT ")
        while_ill("403", lets_nothing_pass=False)
        then_well()

        server.set_password(TRAINER, SECRET)
        while_ill("error code 401")
        server.reset_password(TRAINER)
        then_well()
        server.permit(TRAINER, experiment, "READ")
        while_ill("error code 403")
        server.permit(TRAINER, experiment, "EDIT")
        then_well()

        server.make_read_only(yes=True)
        while_ill("cannot execute INSERT in a read-only transaction")
        server.make_read_only(yes=False)
        then_well()
        server.database.kill()
        program.go(f"phase{phases[-1]}")
        program.wait_for(f"logged{phases[-1]}")
        becomes(program, lambda said: said[:4] == ("retrying", 2 * EACH * phases[-1], 2 * EACH, 0))
        assert re.search("onnection|503|TEMPORARILY_UNAVAILABLE", status(program)[4])
        server.database.start()
        then_well()
        before = held(server, project)
        server.kill()
        while_ill("onnection")
        assert held(server, project) == before
        server.start()
        then_well()

        program.go("over")
        program.go(f"phase{phases[-1]}")
        said = program.end(100 * phases[-1])
    assert "not delivered" not in said
    check_everything(server, project, 100 * phases[-1])
    assert copied_steps(tmp_path) == list(range(100 * phases[-1]))


def test_mlflow_is_away_past_the_end(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """Nobody listens, from the first moment; nobody answers, from the first moment, or from the middle; the server dies in the
    middle and stays away. Each time the session ends in time and names what is missing, another tracker is complete, and a strict
    program fails; what is missing comes with a resumed delivery, once."""
    switch = Switch()
    with Proxy(server.port, switch) as proxy:
        program = train(
            f"""{PROGRAM}
def on(port):
    return {{"mlflow": {{"tracking_uri": f"http://127.0.0.1:{{port}}"}}}}

whole(0, exit_timeout=3, options=on({free_port()}))
reach("refused"); wait_for("hangs")
whole(1, exit_timeout=4, options=on({proxy.port}))
reach("hung"); wait_for("well")

def breaks_off(number, exit_timeout):
    for session in attempt(number, strict=True, exit_timeout=exit_timeout, options=on({proxy.port})):
        talkative(session)
        reach(f"begun{{number}}"); wait_for(f"ill{{number}}")
        log(50 + 50 * number, 100 + 50 * number)
        reach(f"logged{{number}}"); wait_for(f"end{{number}}")
        yield

for _ in breaks_off(2, 4):
    pass
reach("ended2"); wait_for("better")
last = breaks_off(4, 3)
next(last)
""",
            env=variables(tmp_path.name, server.uri),
            exit_timeout=3,
        )
        program.wait_for("refused")
        switch.ill(faulty.Hang())
        program.go("hangs")
        program.wait_for("hung")
        switch.well()
        program.go("well")

        def breaks_off(number: int, breaks: Callable[[], None]) -> None:
            program.wait_for(f"begun{number}")
            becomes(program, lambda said: said[:4] == ("open", EACH, 0, 0))
            breaks()
            program.go(f"ill{number}")
            program.wait_for(f"logged{number}")
            assert status(program)[1:4] == (EACH, 50, 0)
            program.go(f"end{number}")

        breaks_off(2, lambda: switch.ill(faulty.Hang()))
        program.wait_for("ended2")
        switch.well()
        program.go("better")
        breaks_off(4, server.kill)
        said = program.end(300, code=3)
    assert f"tracelet-shim replay {tmp_path}/runs/x --resume" in said
    for number, (missing, _, states) in enumerate(attempts(tmp_path, 3)):
        expected, delivered = (50, EACH) if number == 2 else (EACH, 0)
        assert missing == ({"mlflow": 50} if number == 2 else None)
        assert states["mlflow"][1:4] == [delivered, expected, 0]
        assert states["tensorboard"][:4] == ["closed", delivered + expected, 0, 0]
    missing_then = re.findall(r"mlflow: (\d+) events were not delivered", said)
    assert missing_then == [str(EACH), str(EACH), "50", "50"]
    assert sorted(copied_steps(tmp_path)) == list(range(300))
    server.start()
    program.resume(env=variables(tmp_path.name, server.uri))
    check_everything(server, tmp_path.name, 300, also=(0, 50, 100, 200))


JOINED = """
import mlflow
mlflow.start_run(run_name="own")
session = begin("mlflow", exit_timeout=120, strict=True)
"""


def test_mlflow_run_of_the_user_outlives_processes(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """In a run of the program's own: the relay is killed with the answers to it lost, then everything with requests on their way.
    What is missing comes with the next relay, and with a resumed delivery, into that run, and nothing is there twice."""
    with Reached(server, tmp_path.name) as reached:
        program = Program(train, [reached], 4, begin=JOINED)
        program.round()
        program.wait_until_told()
        run = reached.run()
        reached.misbehave("lost", "")
        program.round()
        eventually(lambda: bool(reached.requests("log-batch", "lost")))
        program.check_truth()
        program.kill(training=False)
        reached.recover()
        program.round()
        program.wait_until_there()
        program.wait_until_told()
        reached.misbehave("hang", "")
        program.round()
        eventually(lambda: bool(reached.requests("log-batch", "hang")))
        program.check_truth()
        program.kill()
        reached.recover()
        program.check_told()
        program.replay()
        check_all([reached], program.rounds)
        assert reached.run() == run
        program.check_told()
        assert "everything has been delivered" in program.replay()


def test_mlflow_ranks_and_the_thread(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """Two ranks at a time, one of them with ``delivery="thread"``, whose answers are late or lost, make one experiment, with a
    run for each, of the same group; each has its own points and files, once. The other one is killed in the end: its run has
    failed, and is not left open."""
    with Proxy(server.port, SlowAndTorn()) as proxy:
        programs = []
        for rank, (delivery, end) in enumerate((("thread", ""), ("process", 'wait_for("never")\n'))):
            (tmp_path / str(rank)).mkdir()
            begin = f'talkative(begin("mlflow", ranks="all", delivery="{delivery}", strict=True))\n'
            env = variables(tmp_path.name, f"http://127.0.0.1:{proxy.port}")
            env |= {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "night-7"}
            code = f'{PROGRAM}\n{begin}mixed(0, 100)\nreach("logged")\n{end}'
            programs.append(train(code, directory=tmp_path / str(rank), env=env))
        thread, killed = programs
        killed.wait_for("logged")
        becomes(killed, lambda said: said[:4] == ("open", 2 * EACH, 0, 0))
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        thread.end(100, memory=500e6)  # MLflow itself is in the training process
        eventually(lambda: not any(map(is_relay, killed.relays)))
    runs = server.query(
        "SELECT r.name, status, run_uuid FROM runs r JOIN experiments e USING (experiment_id) WHERE e.name = %s ORDER BY 1",
        tmp_path.name,
    )
    assert [run[:2] for run in runs] == [("e-rank0", "FINISHED"), ("e-rank1", "FAILED")]
    groups = server.query("SELECT DISTINCT value FROM tags WHERE key = 'tracelet.group' AND run_uuid IN %s",
                          tuple(run[2] for run in runs))  # fmt: skip
    assert len(groups) == 1
    for *_, run in runs:
        check_run(server, run, 100)


def test_mlflow_writes_to_a_database(train: Train, tmp_path: Path, server: MLflowServer) -> None:
    """With a database itself as the store: a wrong password is an error at once, and is not shown; one that is killed in the
    middle is waited for, and has everything once when it is back."""
    project, database = tmp_path.name, server.database
    program = train(
        f"""{PROGRAM}
try:
    tracelet.start_logging(backend="mlflow", options={{"mlflow": {{"tracking_uri": {database.uri("runs", password=SECRET)!r}}}}},
                           strict=True, exit_timeout=3600)
except tracelet.BackendUnavailableError as error:
    Path("refused").write_text(str(error))
session = talkative(begin("mlflow", strict=True))
mixed(0, 100)
reach("first"); wait_for("killed")
mixed(100, 200)
reach("second"); wait_for("back")
""",
        env={"TRACELET_PROJECT": project, "MLFLOW_TRACKING_URI": database.uri("runs")},
    )
    program.wait_for("first")
    becomes(program, lambda said: said[:4] == ("open", 2 * EACH, 0, 0))
    assert len(server.points(project, "RUNNING")) == 100
    database.kill()
    program.go("killed")
    program.wait_for("second")
    becomes(program, lambda said: said[:4] == ("retrying", 2 * EACH, 2 * EACH, 0))
    database.start()
    becomes(program, lambda said: said[:4] == ("open", 4 * EACH, 0, 0))
    program.go("back")
    said = program.end(200)
    check_everything(server, project, 200)
    refused = (tmp_path / "refused").read_text()
    assert "password authentication failed" in refused
    assert "remedy: " in refused
    assert not [secret for secret in (SECRET, PASSWORD) if secret in refused + said]
