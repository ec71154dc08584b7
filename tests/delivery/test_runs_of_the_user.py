"""Runs that the program opens and ends itself, in every tracker that has an active run: a writer belongs to the one that was
active when it was made, and the end of a run waits for what was logged into it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.backends.mlflow.reader import MLflowReader
from tests.backends.wandb.reader import WandbReader
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.runs.programs import LOOP, TRACKERS, environment, ids, logged, points, program, users_run

pytestmark = pytest.mark.usefixtures("mlflow_store")

WITH_A_RELAY = [(name, "process") for name in TRACKERS]


# A run of the user's lives in the training process in both hostings, but for MLflow.
@pytest.mark.parametrize(
    ("name", "delivery"),
    each_change([*WITH_A_RELAY, *((name, "thread") for name in TRACKERS)], *WITH_A_RELAY, ("mlflow", "thread")),
)
def test_runs_that_follow_each_other(name: str, delivery: str, run_python: RunPython, tmp_path: Path) -> None:
    """Each of three runs, ended right after its last point, has all its own points, and no run of ours stands beside them."""
    env = environment(name, tmp_path, TRACELET_DELIVERY=delivery)
    done = run_python(program(name, LOOP), env=env, timeout=400)  # ClearML's own `close` takes tens of seconds
    runs = ids(done.stdout)
    assert [points(name, tmp_path, run) for run in runs] == [logged(0, 60 + k) for k in range(3)]
    assert set(TRACKERS[name].reader(tmp_path).run_ids()) == set(runs)


@pytest.mark.parametrize("name", each_change(TRACKERS, "comet", "mlflow", "wandb"))  # what differs are the SDKs' own handlers
def test_a_run_that_the_program_leaves_open(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """What a tracker's own handler does at the end of the interpreter comes after the delivery."""
    text = "run = begin('fold0')\nprint('ids', json.dumps([RUN_ID]))\nlog('fold0')\n"
    done = run_python(program(name, text), env=environment(name, tmp_path), timeout=400)
    (run,) = ids(done.stdout)
    assert points(name, tmp_path, run) == logged(0, 60)
    assert TRACKERS[name].reader(tmp_path).run_ids() == [run]


FOLDS = """
import threading, time
import psutil
import tracelet_shim

folds = []
with mlflow.start_run(run_name="parent") as parent:
    outer = log("outer")
    for k in range(3):
        with mlflow.start_run(run_name=f"fold{k}", nested=True) as fold:
            folds.append(fold.info.run_id)
            writer = log(f"fold{k}")
    session = tracelet_shim.get_session()
    while len(psutil.Process().children()) > 1:  # the parent's relay alone; the others may have some last words
        time.sleep(0.1)
    log("outer", 60, writer=outer)
    log("fold2", 60, writer=writer)  # a run that has ended
    outer.add_scalars("pair", {"a": 1.0}, 0)

def in_a_thread(k):
    with mlflow.start_run(run_name=f"thread{k}") as run:
        writer = log(f"thread{k}")
        meet.wait()
        log(f"thread{k}", 60, writer=writer)
        threads.append((k, run.info.run_id))

threads, meet = [], threading.Barrier(2)
both = [threading.Thread(target=in_a_thread, args=(k,)) for k in range(2)]
for thread in both: thread.start()
for thread in both: thread.join()
log("own")
tracelet_shim.stop_logging()
print("delivered", session.status()["mlflow"].delivered, session.status()["mlflow"].state)
print("ids", json.dumps([parent.info.run_id, *folds, *(run for _, run in sorted(threads))]))
"""


def test_mlflow_runs_in_each_other_and_beside_each_other(run_python: RunPython, tmp_path: Path) -> None:
    """Parent, child and threads' runs have their own points; so has a run that had ended, and with no run active, the
    session's own. What serves a run ends with it."""
    done = run_python(program("mlflow", FOLDS), env=environment("mlflow", tmp_path), timeout=400)
    parent, *others = ids(done.stdout)
    assert f"delivered {10 * 60 + 2 * 60 + 1 - 60} closed" in done.stdout
    found = {run: points("mlflow", tmp_path, run) for run in MLflowReader(tmp_path).run_ids() + others}
    own = set(found) - {parent, *others}
    assert [len(own), *(found[run] for run in own)] == [1, logged(0, 60)]
    assert found[parent] == logged(0, 120)
    assert [found[run] for run in others] == [logged(0, 60), logged(0, 60), logged(0, 120), logged(0, 120), logged(0, 120)]
    assert [(p.step, p.value) for p in MLflowReader(tmp_path, parent).scalars("", "pair", "a")] == [(0, 1.0)]


RESUMED = """
with begin("r") as run:
    first = log("first")
with mlflow.start_run(run_id=run.info.run_id):
    log("second", 100)
    log("first", 60, writer=first)
print("ids", json.dumps([run.info.run_id]))
"""


def test_a_run_that_is_resumed(run_python: RunPython, tmp_path: Path) -> None:
    """A run that the program opens again after its end has what its first and its later writers log then."""
    done = run_python(program("mlflow", RESUMED), env=environment("mlflow", tmp_path))
    (run,) = ids(done.stdout)
    assert points("mlflow", tmp_path, run) == logged(0, 120)
    assert [point.step for point in MLflowReader(tmp_path, run).scalars("second", "loss")] == list(range(100, 160))
    assert MLflowReader(tmp_path).run_ids() == [run]


AGENT = """
import threading

def agent(function, count):  # as `wandb.agent` does
    for _ in range(count):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

runs = []
def train():
    with begin(f"trial{len(runs)}") as run:
        runs.append(run.id)
        log(f"trial{len(runs)}")

agent(train, 3)
print("ids", json.dumps(runs))
"""


def test_a_sweep_in_threads(run_python: RunPython, tmp_path: Path) -> None:
    """The functions that an agent calls, each in a thread with a W&B run of its own, have their own points."""
    done = run_python(program("wandb", AGENT), env=environment("wandb", tmp_path))
    assert [points("wandb", tmp_path, run) for run in ids(done.stdout)] == [logged(0, 60)] * 3


LATE = """
run = begin("first")
print("ids", json.dumps([run.id]))
writer = log("first")
run.finish()
log("first", 60, 7, writer)
import tracelet_shim
state = tracelet_shim.get_session().status()["wandb"]
print(state.delivered, state.failed, state.state)
"""


def test_what_comes_after_the_end_of_a_run_is_named(run_python: RunPython, tmp_path: Path) -> None:
    """A writer that logs on after its W&B run has ended loses that, and it is said once, counted, and no success."""
    done = run_python(program("wandb", LATE), env=environment("wandb", tmp_path), check=False)
    (run,) = ids(done.stdout)
    assert points("wandb", tmp_path, run) == logged(0, 60)
    assert done.stdout.splitlines()[-1] == "60 7 closed"
    assert done.stderr.count(f"what was logged into your run {run} after its end is in the event files only") == 2
    assert "wandb: 7 events were not delivered" in done.stderr
    assert done.returncode == 3
    assert WandbReader(tmp_path).run_ids() == [run]


STUCK = """
import os, signal, threading, time
import psutil
import tracelet_shim
run = begin("stuck")
print("ids", json.dumps([run.info.run_id]))
log("stuck")
session = tracelet_shim.get_session()
assert session.flush(100)
(relay,) = psutil.Process().children()
relay.suspend()
log("stuck", 60)
"""


def test_the_wait_is_bounded(run_python: RunPython, tmp_path: Path) -> None:
    """A relay that stands still holds the end of a run no longer than `exit_timeout`; what is missing is named, and a later
    `replay --resume` puts it into the same run."""
    text = STUCK + "mlflow.end_run()\nassert mlflow.active_run() is None\n"
    env = environment("mlflow", tmp_path, TRACELET_EXIT_TIMEOUT="3")
    done = run_python(program("mlflow", text), env=env, check=False)
    (run,) = ids(done.stdout)
    assert done.returncode == 3
    assert f"mlflow: your run {run} ends when what was logged into it has arrived, up to 3 s" in done.stderr
    assert f"your run {run} ends without" in done.stderr
    (command,) = set(re.findall(r"tracelet-shim (replay .* --resume)", done.stderr))
    assert points("mlflow", tmp_path, run) == logged(0, 60)
    resume = f"import runpy, sys; sys.argv[1:] = {command.split()!r}; runpy.run_module('tracelet_shim', run_name='__main__')"
    run_python(resume, env=TRACKERS["mlflow"].reader.environment(tmp_path))
    found = points("mlflow", tmp_path, run)
    assert [step for step, _ in found] == [step for step, _ in logged(0, 60) + logged(60, 120)]
    assert MLflowReader(tmp_path).run_ids() == [run]


def test_ctrl_c_ends_the_wait(run_python: RunPython, tmp_path: Path) -> None:
    """Ctrl-C while the end of a run waits is the program's; a second end, and one in a forked child, wait for nothing."""
    text = (
        STUCK
        + """
def interrupt():
    while not session._bus._ending:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    mlflow.end_run()
except KeyboardInterrupt:
    print("interrupted")
assert mlflow.active_run() is run
child = os.fork()
if child == 0:
    mlflow.end_run()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
mlflow.end_run()
relay.resume()
"""
    )
    env = environment("mlflow", tmp_path, TRACELET_EXIT_TIMEOUT="100", TRACELET_STRICT="0")
    done = run_python(program("mlflow", text), env=env)
    (run,) = ids(done.stdout)
    assert "interrupted" in done.stdout
    assert points("mlflow", tmp_path, run) == logged(0, 120)


TWICE = """
import threading
run = begin("twice")
print("ids", json.dumps([run.id]))
log("twice")
import pickle
finish = pickle.loads(pickle.dumps(wandb.Run._finish))  # patched by now
assert finish.__wrapped__ is wandb.Run._finish.__wrapped__
ends = [threading.Thread(target=run.finish) for _ in range(3)]
for end in ends: end.start()
for end in ends: end.join()
"""


def test_several_threads_end_a_run(run_python: RunPython, tmp_path: Path) -> None:
    """A run that several threads end at once has everything; a patched function is pickled as ever."""
    done = run_python(program("wandb", TWICE), env=environment("wandb", tmp_path))
    (run,) = ids(done.stdout)
    assert points("wandb", tmp_path, run) == logged(0, 60)


KILLED = """
import os, signal, time
run = begin("killed")
print("ids", json.dumps([RUN_ID]), flush=True)
writer = log("killed")
import tracelet_shim
session = tracelet_shim.get_session()
assert session.flush(100)
log("killed", 60, writer=writer)
writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", each_change([name for name in TRACKERS if users_run(name).outlives_program], "aim", "wandb"))
def test_a_run_that_dies_with_its_program(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """What a killed program took with it is put into the same run of the user's by `replay --resume`; but what W&B had taken
    in a run of the user's, it keeps for up to 15 seconds, and loses."""
    done = run_python(program(name, KILLED), env=environment(name, tmp_path), check=False)
    (run,) = ids(done.stdout)
    command = ["replay", "runs/killed", "--resume"]
    resume = f"import runpy, sys; sys.argv[1:] = {command}; runpy.run_module('tracelet_shim', run_name='__main__')"
    run_python(resume, env=TRACKERS[name].reader.environment(tmp_path), timeout=300)
    steps = [step for step, _ in points(name, tmp_path, run)]
    assert steps == sorted(set(steps))
    assert set(range(60 if users_run(name).keeps_back else 0, 120)) <= set(steps)
    assert TRACKERS[name].reader(tmp_path).run_ids() == [run]
    check = users_run(name).check_resumed
    if check:
        check(tmp_path)
