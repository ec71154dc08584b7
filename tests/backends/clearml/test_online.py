"""ClearML's server, and what stands before it, misbehave; and what it has is asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.chosen import each_change
from tests.faults.conftest import Train
from tests.faults.harness import losses
from tests.sample_events import WALL, Maker, run_info
from tests.servers.fixtures import Serve
from tests.servers.harness import Server
from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.clearml.backend import ClearMLBackend

TWO_PARTS = """
begin("clearml", exit_timeout=120)
log(0, 300)
reach("first"); wait_for("ill")
log(300, 600)
reach("second"); wait_for("well")
log(600, 900)
"""


@pytest.mark.parametrize(
    ("status", "body"),  # tests/online has the others for all trackers at a time
    each_change([("504", "json"), ("500", "html"), ("403", "html"), ("200", "html")], ("200", "html")),
)
def test_a_proxy_answers(train: Train, serve: Serve, tmp_path: Path, status: str, body: str) -> None:
    """Answers without ClearML's envelope are a proxy's, and pass: nothing is set aside, and no point lands in a wrong series."""
    server = serve("clearml")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave(status, body=body)
    program.go("ill")
    program.wait_for("second")
    server.wait_for_requests(4, fault=status)
    assert server.points() == losses(300)
    server.recover()
    program.go("well")
    said = program.end(900)
    assert "not delivered" not in said
    assert server.points() == losses(900)
    assert server.state["changed"] == 0
    server.check_understood()


def test_a_request_is_swallowed(train: Train, serve: Serve) -> None:
    """A request that is never answered is given up after seconds that are ours, not the SDK's 300, and sent again."""
    server = serve("clearml")
    program = train(TWO_PARTS, env=server.env, exit_timeout=120)
    program.wait_for("first")
    server.wait_for_points(300)
    server.misbehave("swallow", count=1)
    program.go("ill")
    program.go("well")
    server.wait_for_requests(1, fault="swallow")
    server.wait_for_points(900)
    program.end(900)
    assert server.points() == losses(900)


def in_thread(work: Callable[[], None]) -> None:
    """Run `work` as the relay does, not in the main thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def backend_for(server: Server) -> ClearMLBackend:
    hosts = dict.fromkeys(("api_host", "web_host", "files_host"), server.base)
    return ClearMLBackend({"offline": False, "access_key": "access", "secret_key": "secret", **hosts})


def write(server: Server, *batches: list[ev.Event], end: bool = True, **run: Any) -> str:
    """Write one session, return the run's id; without `end` it is as if its process were killed."""
    ids: list[str] = []

    def session() -> None:
        backend = backend_for(server)
        ids.append(backend.open(run_info(**run)).run_id)
        for batch in batches:
            backend.write(batch)
        if end:
            backend.close("finished")
        else:
            backend._worker.unregister()
            backend._undo.close()

    in_thread(session)
    return ids[0]


def session_of(number: int, steps: range) -> list[ev.Event]:
    """What one session logs: a curve, an infinite value, a plot, a picture, and a step that comes three times."""
    make = Maker("", f"/logs/events.{number}")

    def at(event: ev.Event) -> ev.Event:
        return msgspec.structs.replace(event, wall_time=WALL + number)

    curve = [make.scalar("curve", 10.0 * number + step, step, WALL + 100 * number + step) for step in steps]
    thrice = [make.scalar("more", 10.0 * number + i, 1, WALL + number + i) for i in range(3)]
    return [
        *curve, *thrice, at(make.scalar("bad", float("inf"), 3)), at(make.histogram("h", 3, buckets=10)),
        at(make.image("i", 3, np.full((2, 2), number, np.uint8))),
    ]  # fmt: skip


def test_a_continued_run_overwrites_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server has of a run is asked of it, in pages, when a step comes that is not behind the last one."""
    monkeypatch.setattr("tracelet_shim.backends.clearml.resume._PAGE", 7)
    server = serve("clearml")
    ids = set()
    for n in range(4):
        late = Maker("", f"/late.{n}").scalar("curve", 10.0 * n, 0, WALL + 99 + 100 * n)
        ids.add(write(server, session_of(n, range(1, 6)), [late], run_id="x"))
    assert len(ids) == 1
    curve = [value for name, _, value in server.points() if name.startswith("curve")]
    assert sorted(curve) == [10.0 * n + step for n in range(4) for step in range(6)]
    assert sorted(value for name, _, value in server.points() if name.startswith("more")) == [
        10.0 * n + i for n in range(4) for i in range(3)
    ]
    kinds = [event["type"] for event in server.state["events"][ids.pop()].values()]
    assert (kinds.count("plot"), kinds.count("training_debug_image"), len(server.state["files"])) == (4, 4, 4)
    assert (server.state["changed"], server.state["overwritten"]) == (0, 0)
    server.check_understood()


def test_a_run_that_goes_on_where_it_was_asks_nothing(serve: Serve) -> None:
    """Steps behind the last one cost no request, however much the run has."""
    server = serve("clearml")
    for n in range(3):
        make = Maker("", f"/logs/events.{n}")
        write(server, [make.scalar("curve", 1.0, step) for step in range(10 * n, 10 * n + 10)], run_id="x")
    assert len(server.points()) == 30
    assert server.requests(r"events\.get_") == []
    server.check_understood()


def test_a_batch_that_the_server_has_comes_again(serve: Serve) -> None:
    """A process was killed behind the write of a batch: whoever goes on writes it again, and nothing is there twice."""
    server = serve("clearml")
    batch = session_of(1, range(1, 6))
    run_id = write(server, [Maker("", "/first").scalar("curve", 0.5, 0)], batch, end=False)
    before = server.state["events"][run_id]
    assert write(server, batch, [Maker("", "/late").scalar("curve", 9.0, 6, WALL + 500)], resume=run_id) == run_id
    after = server.state["events"][run_id]
    assert {key: event for key, event in after.items() if key in before} == before
    assert len(after) == len(before) + 1
    assert server.state["changed"] == 0
    server.check_understood()


@pytest.mark.parametrize("status", each_change((408, 425, 429, 500, 503, 504), 429, 503))
def test_what_passes_is_sent_again(serve: Serve, status: int) -> None:
    """Nothing that a busy server or a proxy says of an event or a file sets it aside, nor of what the run has already."""
    server = serve("clearml")
    make = Maker()
    run_id = write(server, [make.scalar("a", 0.0, 1, WALL - 9)])
    tries: list[tuple[ev.Event, str]] = [
        (make.scalar("a", 1.0, 1), r"events\.get_task_events$"), (make.scalar("a", 2.0, 2), r"events\.add_batch$"),
        (make.histogram("h", 1, buckets=10), r"events\.get_plot_sample$"),
        (make.histogram("h", 2, buckets=10), r"events\.add_batch$"), (make.image("i", 1), "^/$"), (make.graph(), "^/$"),
    ]  # fmt: skip

    def session() -> None:
        backend = backend_for(server)
        backend.open(run_info(resume=run_id))
        try:
            for event, paths in tries:
                server.misbehave(str(status), paths, body="html")
                with pytest.raises((errors.BackendError, OSError)) as caught:
                    backend.write([event])
                assert backend.is_transient(caught.value), (paths, caught.value)
                server.recover()
                backend.write([event])
        finally:
            backend.close("finished")

    in_thread(session)
    assert server.points() == [("a", 1, 0.0), ("a", 2, 2.0), ("a/a ·2", 1, 1.0)]
    assert len(server.state["files"]) == 3
    server.check_understood()


TRIALS = """
session = begin("clearml", exit_timeout=60, strict=True, run_id="night-7")
for lr in range(4):
    writer.add_hparams({"lr": float(lr)}, {"acc": float(lr)}, run_name=f"trial{lr}")
    writer.flush()
reach("swept"); wait_for("end")
"""


def test_answers_to_the_making_of_tasks_are_lost(train: Train, serve: Serve) -> None:
    """The server makes a task, of the run or of a trial, and its answer is lost: that task is found again, and no second one is
    made."""
    server = serve("clearml")
    made = r"/tasks\.create$"
    server.misbehave("lost", made, count=1)
    program = train(TRIALS.replace("for lr", 'reach("opened"); wait_for("ill")\nfor lr'), env=server.env, exit_timeout=60)
    program.wait_for("opened")
    server.misbehave("lost", made, count=1)
    program.go("ill")
    program.wait_for("swept")
    server.wait_for_requests(2, made, "lost")
    program.go("end")
    said = program.end(0)
    assert "not delivered" not in said
    assert server.trials() == [0.0, 1.0, 2.0, 3.0]
    assert server.count_runs() == 4  # the first trial is the run itself
    server.check_understood()
