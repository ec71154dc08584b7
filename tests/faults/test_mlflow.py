"""A real ``mlflow server`` with log-in, over a real PostgreSQL: what it refuses, how it fails, and what it has in the end.

Faults come one after the other in one program, since each program, and each start of a server, costs many seconds.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.backends.mlflow.tracking import TRAINER, MLflowServer, log_in
from tests.faults import proxy as faulty
from tests.faults.conftest import Train
from tests.faults.harness import Training, copied_steps, eventually, free_port, losses
from tests.faults.proxy import Proxy

SECRET = "hunter2hunter2hunter2"

# A program that logs points, texts and pictures, and tells what the session says of them when a test asks.
PROGRAM = """
import json, threading
import torch

def mixed(start, stop):
    log(start, stop)
    for step in range(start, stop, 50):
        writer.add_text("note", f"text {step}", step)
        writer.add_image("picture", torch.full((3, 4, 4), step / 1000), step)

def answer(session):
    while True:
        if os.path.exists("asked"):
            os.remove("asked")
            states = {name: [s.state, s.delivered, s.pending, s.failed, s.error] for name, s in session.status().items()}
            Path("answer.new").write_text(json.dumps(states))
            os.replace("answer.new", "answer")
        time.sleep(0.02)

def talkative(session):
    threading.Thread(target=answer, args=(session,), daemon=True).start()
    return session

def attempt(number, **more):
    "One session of its own, into the same run; what has come of it is written down."
    began = time.monotonic()
    session = begin("mlflow", "tensorboard", run_id="r", **more)
    mixed(50 * number, 50 * number + 50)
    session.wait_opened()
    took = time.monotonic() - began
    yield session
    writer.close()
    try:
        session.stop()
        missing = None
    except tracelet.DeliveryError as error:  # strict
        missing = error.undelivered
    states = {name: [s.state, s.delivered, s.pending, s.failed, s.error] for name, s in session.status().items()}
    Path(f"attempt{number}").write_text(json.dumps([missing, took, states]))

def whole(number, **more):
    for _ in attempt(number, **more):
        pass
"""
EACH = 52
"""Events of 50 steps: the points, a text and a picture."""


def variables(project: str, uri: str) -> dict[str, str | None]:
    return {"TRACELET_PROJECT": project, "MLFLOW_TRACKING_URI": uri, **log_in(TRAINER)}


def status(program: Training, tracker: str = "mlflow") -> tuple[str, int, int, int, str]:
    """Return what the running session says now of a tracker: state, delivered, pending, failed, error."""
    answer = program.directory / "answer"
    answer.unlink(missing_ok=True)
    (program.directory / "asked").touch()
    eventually(answer.exists, pause=0.02)
    state, delivered, pending, failed, error = json.loads(answer.read_text())[tracker]
    return state, delivered, pending, failed, error or ""


def becomes(program: Training, right: Callable[[tuple[str, int, int, int, str]], bool], tracker: str = "mlflow") -> None:
    """Wait until what the session says of a tracker is right."""
    until = time.monotonic() + 90
    while not right(said := status(program, tracker)):
        assert time.monotonic() < until, f"it still says {said}\n{program.errors}"
        time.sleep(0.1)


def held(server: MLflowServer, project: str) -> int:
    """Return how many of the events the server holds."""
    files = server.files(project, None)
    return server.count(project) + sum(bool(re.search(r"^text/.*\.md$|^images/.*\.png$", name)) for name in files)


def check_everything(
    server: MLflowServer, project: str, steps: int, ended: str = "FINISHED", *, also: Sequence[int] | None = None
) -> None:
    """Every point is there, once, in one run; so are the texts and pictures of `mixed`, or of these steps."""
    others = list(range(0, steps, 50)) if also is None else list(also)
    assert server.points(project, ended) == losses(steps)
    files = server.files(project, ended)
    texts = sorted(data.decode() for name, data in files.items() if re.search(r"^text/.*\.md$", name))
    assert texts == sorted(f"text {step}" for step in others)
    pictures = [int(step) for name in files for step in re.findall(r"^images/picture\+step\+(\d+)\+.*\.png$", name)]
    assert sorted(pictures) == others


def attempts(directory: Path, count: int) -> Iterator[tuple[dict[str, int] | None, float, dict[str, Any]]]:
    for number in range(count):
        yield json.loads((directory / f"attempt{number}").read_text())


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


class Switch:
    """What a proxy does at the moment: `now`, for requests whose line has `part` in it."""

    def __init__(self) -> None:
        self.well()

    def well(self) -> None:
        self.now: Callable[[int, str], faulty.Fault] = lambda number, line: None

    def __call__(self, number: int, line: str) -> faulty.Fault:
        return self.now(number, line)

    def ill(self, fault: faulty.Fault, part: str = "") -> None:
        self.now = lambda number, line: fault if part in line else None


class SlowAndTorn:
    """Of each kind of request, cut off the first answer before its first byte (a client that tries again by itself does so
    then), the second one in its middle, and every seventh; the others come late."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __call__(self, number: int, line: str) -> faulty.Fault:
        kind = re.split(r"[?]|/artifacts/", line)[0]
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        if count == 1:
            return faulty.Reset(0.0)
        return faulty.Reset(0.7) if count == 2 or count % 7 == 0 else faulty.Delay(0.05)


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
        while_ill("BAD_REQUEST")  # with a page of what the database has said
        server.make_read_only(yes=False)
        then_well()
        server.database.kill()
        while_ill_without_database(program, phases[-1])
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


def while_ill_without_database(program: Training, phase: int) -> None:
    """Log a hundred steps while there is no database to look into: nothing new is delivered."""
    program.go(f"phase{phase}")
    program.wait_for(f"logged{phase}")
    becomes(program, lambda said: re.search("onnection|503|TEMPORARILY_UNAVAILABLE", said[4]) is not None)
    assert status(program)[:4] == ("retrying", 2 * EACH * phase, 2 * EACH, 0)


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
