"""W&B's server, what stands before it, and W&B's own service misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.backends.wandb.installed import since
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.faults.conftest import Train
from tests.faults.harness import Training, eventually, losses
from tests.online.rounds import Program, check_all
from tests.servers.fixtures import Serve
from tests.servers.harness import Server

TWO_PARTS = """
session = begin("wandb", exit_timeout=120)
log(0, 300)
reach("first"); wait_for("ill")
log(300, 600)
reach("second"); wait_for("well")
log(600, 900)
"""


def services(program: Training) -> list[int]:
    """Return the processes of W&B's service that a program's relay has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            is_one = re.search(rb"wandb-core|wandb.service", (entry / "cmdline").read_bytes())  # the latter in 0.17
            if parent in program.relays and is_one is not None:
                found.append(int(entry.name))
    return found


def check_gone(pids: Sequence[int]) -> None:
    """They end with their relay, while the server does not answer them yet: else they would go on beside what comes next."""
    assert pids
    eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), 30)  # one that is not waited for has none


@pytest.mark.parametrize("fault", each_change(("403", "swallow", "500", "200"), "403", "200"))  # the others are in tests/online
def test_rows_are_refused_for_a_while(train: Train, serve: Serve, fault: str) -> None:
    """A 403, after which W&B's service uploads nothing more, a request that is swallowed, errors, and a proxy's page, which that
    service takes for an acknowledgement: no row is lost, and none is there twice."""
    server = serve("wandb")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave(fault, count=1 if fault in ("swallow", "200") else 0, body="html" if fault == "200" else "json")
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(1, fault=fault)
    server.recover()
    program.go("well")
    said = program.end(900)
    assert "not delivered" not in said
    assert server.points() == losses(900)
    assert server.run()["exitcode"] == 0
    server.check_understood()


@pytest.mark.parametrize("fault", each_change(("gone", "hang"), "hang"))  # the other is in tests/online
def test_server_is_away_past_the_end(train: Train, serve: Serve, fault: str) -> None:
    """What a server that died, or hangs, did not get is named at the end, counted, and delivered by a resumed delivery: once."""
    server = serve("wandb")
    code = 'begin("wandb", exit_timeout=10)\nlog(0, 300)\nreach("first"); wait_for("away")\nlog(300, 600)\n'
    program = train(code, env=server.env, exit_timeout=10)
    program.wait_for("first")
    server.wait_for_points(300)
    server.kill() if fault == "gone" else server.misbehave("hang", "")
    of_relay = services(program)
    program.go("away")
    said = program.end(600)
    check_gone(of_relay)
    found = re.search(r"wandb: (\d+) events were not delivered", said)
    assert found is not None
    assert int(found[1]) >= 300  # how many of the first half were known to be there depends on when the server was asked
    assert server.points() == losses(300)
    server.start() if fault == "gone" else server.recover()
    program.resume(env=server.env)
    assert server.points() == losses(600)
    server.check_understood()


@pytest.mark.parametrize("victim", each_change(("service", "relay", "all"), "service"))  # the others are in tests/online
def test_processes_are_killed(train: Train, serve: Serve, victim: str) -> None:
    """W&B's service, the relay or everything is killed with rows on their way: the service is gone with its relay, and in the
    end, each row is on the server once."""
    server = serve("wandb")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave("hang")
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(1, fault="hang")
    of_relay = services(program)
    pids = of_relay if victim == "service" else program.relays
    for pid in [*pids, program.process.pid] if victim == "all" else list(pids):
        os.kill(pid, signal.SIGKILL)
    check_gone(of_relay)
    server.recover()
    if victim == "all":
        program.process.wait()
        program.resume(env=server.env)
        assert server.points() == losses(600)
    else:
        program.go("well")
        program.end(900)
        assert server.points() == losses(900)
    server.check_understood()


def test_a_server_that_says_late_what_it_has(train: Train, serve: Serve) -> None:
    """W&B's server counts rows some seconds after it has got them: a run that ends is asked for again until it has said so; and
    one that is continued meanwhile by another relay is opened again, until nothing is written over."""
    server = serve("wandb")
    (server.directory / "late").write_text("3")
    program = Program(train, [server], 2)
    program.round()
    program.wait_until_there()
    program.kill(training=False)
    program.round()
    said = program.end()
    assert "not delivered" not in said
    check_all([server], program.rounds)
    assert "everything has been delivered" in program.replay()


def test_everything_is_refused_while_the_program_goes_on(train: Train, serve: Serve) -> None:
    """All that is asked is answered 403, and the program goes on logging: that the run cannot be continued says nothing of the
    events that come meanwhile. None is set aside, and each is there, once, when that is over."""
    server = serve("wandb")
    program = Program(train, [server], 3)
    program.round()
    program.wait_until_told()
    server.misbehave("403", "", body="html")
    program.round()
    server.wait_for_requests(1, fault="403")
    eventually(lambda: "has stopped to upload" in str(program.status()["wandb"].error))
    program.round()

    def is_asked_to_write() -> bool:
        state = program.status()["wandb"]
        return state.failed > 0 or "cannot be continued yet" in str(state.error)

    eventually(is_asked_to_write)
    assert program.check_truth()["wandb"].failed == 0
    server.recover()
    program.wait_until_known()
    said = program.end()
    assert "refused" not in said
    check_all([server], program.rounds)


def test_wrong_key_fails_at_once(train: Train, serve: Serve) -> None:
    """A key that the server does not know is not tried again and again."""
    server = serve("wandb")
    env = {**server.env, "WANDB_API_KEY": "bad" + "k" * 37}
    program = train('begin("wandb", exit_timeout=20)\nlog(0, 100)\n', env=env, exit_timeout=20)
    said = program.end(100)
    assert "wandb: cannot open a run: " in said
    assert "wandb: 100 events were not delivered" in said
    assert "WANDB_API_KEY" in said


# -- files, tables, parameters and trials ---------------------------------------------------------------------------------------

EVERYTHING = """
import json, numpy, torch
def everything(step):
    writer.add_scalar("loss", step / 7, step)
    writer.add_image("picture", numpy.full((3, 8, 8), step, "uint8"), step)
    writer.add_text("page", f"text {step}", step)
    writer.add_pr_curve("curve", numpy.array([0, 1, 1, 0]), numpy.array([0.1, 0.8, 0.6, step / 1000]), step)
    writer.add_tensor("tensor", torch.full((3,), float(step)), step)
    writer.add_hparams({"lr": step / 8}, {"score": float(step)}, run_name=f"trial{step}")

def say(name):
    with open(name + ".json", "w") as file:
        state = session.status()["wandb"]
        json.dump({"state": state.state, "delivered": state.delivered, "pending": state.pending, "failed": state.failed}, file)
"""


def everything(server: Server, steps: Sequence[int]) -> None:
    """Check that the server has everything of these steps, once."""
    runs = {run["name"]: run for run in server.state["runs"].values()}
    (main,) = [run for run in runs.values() if "tracelet/trial" not in run["config"]]
    trials = [run for run in runs.values() if run is not main]
    rows = [json.loads(line) for line in main["history"].values()]
    for key in ("loss", "picture", "page", "Custom Chart Tables/curve_table"):
        assert sorted(row["global_step"] for row in rows if key in row) == list(steps), key
    for row in rows:
        for value in row.values():
            if isinstance(value, dict) and "path" in value:
                assert value["path"] in main["files"]
            if isinstance(value, dict) and "artifact_path" in value:
                client = value["artifact_path"].split("/")[2]
                states = [made["state"] for made in server.state["artifacts"].values() if client in made["clients"]]
                assert "COMMITTED" in states
    pictures = [name for name in main["files"] if name.startswith("media/images/")]
    assert len(pictures) == len(steps)
    assert len([name for name in main["files"] if name.startswith("tensors/")]) == len(steps)
    assert sorted(run["displayName"] for run in trials) == [f"trial{step}" for step in steps[1:]]  # the first is the run itself
    for run in trials:
        (row,) = map(json.loads, run["history"].values())
        assert run["config"]["lr"]["value"] == row["score"] / 8
    server.check_understood()


def test_files_are_refused_for_a_while(train: Train, serve: Serve) -> None:
    """Files and tables that W&B's service has given up are pending until it has been handed them again."""
    server = serve("wandb")
    code = EVERYTHING + """
session = begin("wandb", exit_timeout=120)
everything(0)
reach("first"); wait_for("ill")
everything(1)
reach("second"); wait_for("status")
say("then"); reach("said"); wait_for("well")
everything(2)
"""
    program = train(code, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_requests(1, "^/storage/.*media/images")
    server.misbehave("403", "^/storage/")
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(4, "^/storage/", "403")
    program.go("status")
    program.wait_for("said")
    then = json.loads((program.directory / "then.json").read_text())
    assert then["delivered"] <= 7  # the first round, and the scalar before the picture that is refused
    assert then["pending"] >= 5
    assert then["failed"] == 0
    server.recover()
    program.go("well")
    said = program.end(3)
    assert "not delivered" not in said
    everything(server, [0, 1, 2])


JOINED = EVERYTHING + f"GIVEN = {{'finish_timeout': 10.0}} if {since('0.27')} else {{}}" + """
import wandb
mine = wandb.init(project="p", settings=wandb.Settings(console="off", silent=True, **GIVEN))
session = begin("wandb", exit_timeout=30)
mine.log({"own": 1.0})
log(0, 50)
everything(50)
mine.log({"own": 2.0}, step=500)
reach("first"); wait_for("away")
log(51, 100)
session.flush(1)
say("before")
mine.finish()
say("after")
"""
"""A run of the user's, with rows of his own between ours, and a step that he leaps to."""


ENDLESS = pytest.mark.skipif(not since("0.27"), reason="before, W&B's `finish` waits for such a server without end")


@pytest.mark.parametrize("away", [False, pytest.param(True, marks=ENDLESS)])
def test_a_run_of_the_users(train: Train, serve: Serve, away: bool) -> None:
    """What was logged into a run of the user's is delivered when the server has it, which is after he has ended it; if the server
    is away then, it is named, and comes into the same run with a resumed delivery."""
    server = serve("wandb")
    program = train(JOINED, env=server.env, exit_timeout=30)
    program.wait_for("first")
    server.wait_for_requests(1)
    if away:
        eventually(lambda: len(server.run()["history"]) >= 50)
        server.kill()
    program.go("away")
    said = program.end(100, memory=250e6)  # the SDK is in the process
    before, after = (json.loads((program.directory / f"{name}.json").read_text()) for name in ("before", "after"))
    assert before["delivered"] + before["pending"] == 105
    assert after["pending"] == (105 - after["delivered"])
    assert (after["pending"] > 0) is away
    if away:
        assert re.search(r"wandb: \d+ events were not delivered", said)
        server.start()
        program.resume(env=server.env)
    (main,) = [run for run in server.state["runs"].values() if "tracelet/trial" not in run["config"]]
    rows = [json.loads(row) for row in main["history"].values()]
    assert sorted((row["global_step"], row["loss"]) for row in rows if "loss" in row) == [(n, n / 7) for n in range(100)]
    own = [row["own"] for row in rows if "own" in row]  # his are not ours to bring
    assert own == ([1.0, 2.0] if not away else [1.0, 2.0][: len(own)])
    assert len([name for name in main["files"] if name.startswith("media/images/")]) == 1
    server.check_understood()


def test_a_file_is_refused_for_good(train: Train, serve: Serve) -> None:
    """A file that the server does not take, again and again, costs that event alone: it is named, set aside and counted, and
    comes with `replay --resume --retry-refused` when it is taken."""
    server = serve("wandb")
    code = EVERYTHING + """
session = begin("wandb", exit_timeout=60)
log(0, 50)
writer.add_image("picture", numpy.full((3, 8, 8), 3, "uint8"), 3)
log(50, 100)
"""
    server.misbehave("413", "^/storage/.*media/images")
    program = train(code, env=server.env, exit_timeout=60)
    said = program.end(100)
    assert "wandb: image 'picture' at step 3 was refused: W&B's server answers 413 for file media/images/" in said, said
    assert "wandb: 1 events were not delivered" in said
    assert [point for point in server.points() if point[0] == "loss"] == losses(100)
    server.recover()
    program.resume("--retry-refused", env=server.env)
    (name,) = [name for name in server.run()["files"] if name.startswith("media/images/")]
    assert name in str([row for row in server.run()["history"].values() if "picture" in row])


FAULTS = (
    ("429", "^/storage/", "json"), ("500", "^/storage/", "html"), ("429", "^/graphql", "json"), ("502", "^/graphql", "html"),
)  # fmt: skip


def test_uploads_and_questions_pass_through_errors(train: Train, serve: Serve) -> None:
    """429 and 5xx, with or without the service's own form, to the uploads of files and to GraphQL, which opens the run, makes
    files and is asked what is there: at the start, and then each alone, while all else goes through."""
    server = serve("wandb")
    server.misbehave("429", "^/graphql")
    program = Program(train, [server], 1 + len(FAULTS), strict=False)  # which would wait for its run to be open
    program.round()
    server.wait_for_requests(1, "^/graphql", "429")
    program.check_truth()
    server.misbehave("503", "^/graphql", body="html")
    server.wait_for_requests(1, "^/graphql", "503")
    program.check_truth()
    server.recover()
    program.wait_until_there()
    program.wait_until_told()
    for number, (fault, paths, body) in enumerate(FAULTS, 1):
        seen = len(server.requests(paths, fault))
        server.misbehave(fault, paths, body=body)
        program.round()
        server.wait_for_requests(seen + 1, paths, fault)
        program.check_truth()
        server.recover()
        program.wait_until_there()
        program.wait_until_told()
        check_all([server], number + 1)
    said = program.end()
    assert "not delivered" not in said
    check_all([server], program.rounds)
    assert "everything has been delivered" in program.replay()


def test_what_is_logged_through_the_session(run_python: RunPython, serve: Serve) -> None:
    """An artifact is delivered when the server has it whole, with its file; tags and alerts go as well, and nothing is left."""
    server = serve("wandb")
    program = """
import tracelet_shim as tracelet
session = tracelet.start_logging("wandb", project="p", exp_name="e", strict=True, exit_timeout=60)
with open("a.txt", "w") as file:
    file.write("a")
session.log_artifact("a.txt", type="dataset", aliases=["best"])
session.log_table("tab", {"a": [1, 2]}, step=3)
session.set_tags({"stage": "done"})
session.alert("odd", "loss is NaN")
session.log_params({"lr": 0.5})
"""
    run_python(program, env={name: value for name, value in server.env.items() if value is not None} | {"WANDB_MODE": "online"})
    found = {a["name"]: a for a in server.state["artifacts"].values()}
    assert (found["a.txt"]["type"], found["a.txt"]["state"]) == ("dataset", "COMMITTED")
    assert [a["type"] for name, a in found.items() if name != "a.txt"] == ["run_table"]
    assert server.run()["config"]["lr"] == {"value": 0.5}
    assert server.run()["tags"] == ["stage=done"]
    (alert,) = server.state["alerts"]
    assert (alert["title"], alert["text"], alert["severity"]) == ("odd", "loss is NaN", "INFO")
    assert [name for name in server.run()["files"] if name.startswith("alerts/odd/")]
    server.check_understood()
