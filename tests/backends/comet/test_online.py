"""Comet's server, and what stands before it, misbehave."""

from __future__ import annotations

import pytest

from tests.chosen import each_change
from tests.faults.conftest import Train
from tests.faults.harness import eventually, losses
from tests.servers.fixtures import Serve
from tests.servers.harness import Point, Server

TWO_PARTS = """
begin("comet", exit_timeout=120)
log(0, 300)
reach("first"); wait_for("ill")
log(300, 600)
writer.add_text("note", "a text", 1)
reach("second"); wait_for("well")
log(600, 900)
"""


@pytest.mark.parametrize("fault", each_change(("500", "403", "200", "lost"), "200"))  # tests/online has the others
def test_points_are_refused_for_a_while(train: Train, serve: Serve, fault: str) -> None:
    """Errors on the end point of metrics, a proxy's page, and answers that are lost: every point is there in the end, and none
    twice though the server recognises none."""
    server = serve("comet")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave(fault, body="html" if fault == "200" else "json")
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(1 if fault == "lost" else 4, fault=fault)
    server.recover()
    program.go("well")
    said = program.end(900)
    assert "not delivered" not in said
    assert server.points() == losses(900)
    assert [asset["type"] for asset in server.run()["assets"]].count("text-sample") == 1
    server.check_understood()


@pytest.mark.nightly
def test_server_is_gone_at_the_end(train: Train, serve: Serve) -> None:
    """What a server that died did not get is named at the end, counted, and delivered by a resumed delivery: once."""
    server = serve("comet")
    code = 'begin("comet", exit_timeout=10)\nlog(0, 300)\nreach("first"); wait_for("gone")\nlog(300, 600)\n'
    program = train(code, env=server.env, exit_timeout=10)
    program.wait_for("first")
    server.wait_for_points(300)
    server.kill()
    program.go("gone")
    said = program.end(600)
    assert "comet: 300 events were not delivered" in said
    server.start()
    program.resume(env=server.env)
    assert server.points() == losses(600)
    server.check_understood()


MIXED = """
from pathlib import Path
import numpy as np
session = begin("comet", exit_timeout=120, strict=True)

def mixed(number):
    for tag in range(60):  # metrics that the server is asked for, one by one
        writer.add_scalar(f"norm/{tag}", tag / 7, number)
    writer.add_image("picture", np.full((3, 2, 2), number, np.uint8), number)
    writer.add_text("note", f"text {number}", number)
    writer.add_hparams({"lr": float(number)}, {"hparam/acc": 1.5}, run_name=f"trial{number}")
    log(number, number + 1)
    writer.flush()
    reach(f"logged{number}")

stand = 0
while not os.path.exists("end"):
    if os.path.exists(f"go{stand}"):
        mixed(stand)
        stand += 1
    time.sleep(0.02)
"""
ANSWERS_LOST = ("/asset/upload$", "/visualizations/upload$", "/experiment/metric$", "/experiment/parameter$", "")


def test_answers_are_lost_one_kind_at_a_time(train: Train, serve: Serve) -> None:
    """The answers to one kind of request are lost, while all else goes through: to pictures, texts, the points of many metrics,
    those of hyperparameters and of trials. Each is there once, though Comet appends what comes again."""
    server = serve("comet")
    program = train(MIXED, env=server.env, exit_timeout=120)
    for number, paths in enumerate(ANSWERS_LOST):
        seen = len(server.requests(paths, "lost"))
        server.misbehave("lost", paths)
        program.go(f"go{number}")
        program.wait_for(f"logged{number}")
        server.wait_for_requests(seen + 1, paths, "lost")
        server.recover()
        eventually(lambda number=number: ("loss", number, number / 7) in all_points(server))
    program.go("end")
    said = program.end(len(ANSWERS_LOST))
    assert "not delivered" not in said
    steps = range(len(ANSWERS_LOST))
    wanted = [(f"norm/{tag}", step, tag / 7) for tag in range(60) for step in steps]
    wanted += [*losses(len(ANSWERS_LOST)), *[("hparam/acc", 0, 1.5)] * len(ANSWERS_LOST)]
    assert sorted(all_points(server)) == sorted(wanted)
    assets = [asset for run in server.state["experiments"].values() for asset in run["assets"]]
    for kind in ("image", "text-sample"):
        assert sorted(int(asset["step"]) for asset in assets if asset["type"] == kind) == list(steps), kind
    assert server.count_runs() == len(ANSWERS_LOST)  # the run, and a trial for each but the first
    server.check_understood()


def all_points(server: Server) -> list[Point]:
    """Return the points of the run and of its trials."""
    runs = server.state["experiments"].values()
    return [(name, step, value) for run in runs for name, step, value, _ in run["metrics"]]
