"""Aim has no active run: which of the user's `aim.Run` a writer belongs to, and when that ends."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from tests.backends.aim.live import AimServer
from tests.backends.aim.reader import AimReader
from tests.conftest import RunPython
from tracelet_shim.backends.aim.repository import Repository

BEGIN = """
import gc, json, os, sys, threading
import aim
from torch.utils.tensorboard import SummaryWriter

def begin(name, **more):
    return aim.Run(experiment=name, system_tracking_interval=None, capture_terminal_logs=False, **more)

def log(name, points=20):
    writer = SummaryWriter("runs/" + name)
    for step in range(points):
        writer.add_scalar("loss", step / 7, step)
    return writer

"""


def program(text: str) -> str:
    return BEGIN + text


def env(directory: Path, **more: str | None) -> dict[str, str | None]:
    return {**AimReader.environment(directory), "TRACELET_BACKEND": "aim", "TRACELET_STRICT": "1", **more}


def ids(output: str) -> list[str]:
    return list(json.loads(re.findall(r"^ids (\[.*\])$", output, re.MULTILINE)[-1]))


def points(directory: Path, run: str, writer: str = "") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in AimReader(directory, run).scalars(writer, "loss")]


def logged(stop: int) -> list[tuple[int, float]]:
    return [(step, step / 7) for step in range(stop)]


LET_GO = """
ids, ends = [], []
for k in range(3):
    run = begin(f"fold{k}")  # the one before has ended, as always with Aim
    assert not any(each.alive for each in ends)
    ends.append(run._resources.finalizer)
    ids.append(run.hash)
    log(f"fold{k}", 20 + k).close()
del run
print("end", [not each.alive for each in ends])
print("ids", json.dumps(ids))
"""


def test_a_run_that_the_program_lets_go_of(run_python: RunPython, tmp_path: Path) -> None:
    """It ends there and then, as it does without us, and with all its points."""
    done = run_python(program(LET_GO), env=env(tmp_path))
    assert "end [True, True, True]" in done.stdout
    assert [points(tmp_path, run) for run in ids(done.stdout)] == [logged(20 + k) for k in range(3)]


MANY = """
found, ids = [], []
for k in range(8):
    run = begin(f"fold{k}")
    ids.append(run.hash)
    log(f"fold{k}").close()
    run.close()
    found.append(len(os.listdir("/proc/self/fd")))
print("descriptors", len(set(found[2:])) == 1 or found)
print("ids", json.dumps(ids))
"""


def test_many_runs_one_after_the_other(run_python: RunPython, tmp_path: Path) -> None:
    """A run that has ended leaves no file, watch or lock open in the training process."""
    done = run_python(program(MANY), env=env(tmp_path))
    assert "descriptors True" in done.stdout
    assert [points(tmp_path, run) for run in ids(done.stdout)] == [logged(20)] * 8


def test_the_index_needs_no_watch(tmp_path: Path) -> None:
    """An inotify instance is scarce: a user has 128, and a session indexes its run every 30 seconds."""

    def watches() -> int:
        links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return sum("inotify" in os.readlink(link) for link in links if link.is_symlink())

    repository = Repository(str(tmp_path), lambda error: False)
    run = repository.start("0" * 24, 1.0, resume=False)
    before = watches()
    for _ in range(3):
        repository.index(run.hash)
    assert watches() == before
    run.close()
    assert [each.hash for each in AimReader(tmp_path).runs] == [run.hash]


SEVERAL = """
import tracelet_shim
first = begin("first")
session = tracelet_shim.start_logging()  # which sees a run that was there before
one = log("first")
second = begin("second")
two = log("second")

def in_a_thread():
    log("of the thread")  # into the main thread's latest

    def other():
        mine = begin("other")
        found.append(mine.hash)
        log("other")
        ready.set()
        go.wait()
        mine.close()

    threading.Thread(target=other).start()

found, ready, go = [], threading.Event(), threading.Event()
thread = threading.Thread(target=in_a_thread)
thread.start(); thread.join(); ready.wait()
log("again")  # still into the main thread's, though another thread's is younger
go.set()
second.track(5.0, name="mine", step=1)
second.close()
log("third")  # the first is open yet
with_reading = aim.Run(first.hash, repo=".", read_only=True)
first["mine"] = {"kept": 1}
first.add_tag("mine")
first.close()
log("own")
print("ids", json.dumps([first.hash, second.hash, *found]))
"""


def test_several_runs_at_once(run_python: RunPython, tmp_path: Path) -> None:
    """The latest that is open of the thread's own, else of the main thread's; what the user does in it himself stays."""
    done = run_python(program(SEVERAL), env=env(tmp_path))
    first, second, other = ids(done.stdout)
    assert points(tmp_path, first) == logged(20)
    assert points(tmp_path, first, "third") == logged(20)
    assert [points(tmp_path, second, writer) for writer in ("", "of the thread", "again")] == [logged(20)] * 3
    assert points(tmp_path, other) == logged(20)
    (own,) = set(AimReader(tmp_path).run_ids()) - {first, second, other}
    assert points(tmp_path, own) == logged(20)
    mine = AimReader(tmp_path, first)
    assert mine.run["mine"] == {"kept": 1}
    assert mine.props["tags"] == {"mine"}
    assert (mine.props["name"], mine.props["experiment"]) == (f"Run: {first}", "first")
    assert [point.value for point in AimReader(tmp_path, second).scalars("", "mine")] == [5.0]


DESCRIBED = """
import tracelet_shim
run = begin("theirs")
session = tracelet_shim.start_logging(
    project="not this", exp_name="nor this", tags={"stage": "try"}, notes="ours", config={"lr": 0.1},
    options={"aim": {"repo": "elsewhere"}},
)
writer = log("theirs")
writer.add_hparams({"depth": 3}, {"score": 1.0})
session.log_table("errors", [{"image": 17}])
with open("data.txt", "w") as file:
    file.write("content")
session.log_artifact("data.txt")
run.close()
print("ids", json.dumps([run.hash]))
"""


def test_what_a_run_of_the_user_gets(run_python: RunPython, tmp_path: Path) -> None:
    """What was asked for, in the repository where it is; its name and its experiment stay the user's."""
    done = run_python(program(DESCRIBED), env=env(tmp_path))
    (run,) = ids(done.stdout)
    theirs = AimReader(tmp_path, run)
    assert theirs.props["experiment"] == "theirs"
    assert theirs.props["tags"] == {"stage=try"}
    assert theirs.props["description"] == "ours"
    assert theirs.run["hparams"] == {"lr": 0.1, "depth": 3}
    assert theirs.run["summary"] == {"score": 1.0}
    assert "status" not in theirs.run[...]
    assert ["17" in record.value.data for record in theirs.records("texts", "", "errors", type="table")] == [True]
    stored = {name: Path(artifact.uri.removeprefix("file://")) for name, artifact in theirs.run.artifacts.items()}
    assert stored["artifacts/data.txt"].read_text() == "content"
    assert not (tmp_path / "elsewhere").exists()


ON_A_SERVER = """
import tracelet_shim
where = os.environ["TRACELET_AIM_REPO"]
ids = []
for k in range(2):
    run = begin(f"fold{k}", repo=where)
    ids.append(run.hash)
    log(f"fold{k}", 20 + k).close()
    tracelet_shim.get_session().log_params({"fold": k})
    run.close()
print("ids", json.dumps(ids))
"""


def test_runs_of_the_user_on_a_server(run_python: RunPython, tmp_path: Path) -> None:
    """The end of a run on an Aim server waits until that has everything. The user's run is sent by Aim's own client."""
    server = AimServer(tmp_path / "server")
    try:
        server.start()
        done = run_python(program(ON_A_SERVER), env=env(tmp_path, **server.env))
        server.kill()
    finally:
        server.close()
    copy = tmp_path / "copy"  # without the index Aim reads all that there is
    shutil.copytree(tmp_path / "server" / ".aim", copy / ".aim", ignore=shutil.ignore_patterns("index"))
    for k, run in enumerate(ids(done.stdout)):
        assert points(copy, run) == logged(20 + k)
        assert AimReader(copy, run).run["hparams"] == {"fold": k}
    assert {path.name for path in (copy / ".aim" / "meta" / "chunks").iterdir()} == set(ids(done.stdout))
