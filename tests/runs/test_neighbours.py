"""Other shapes of programs that open and end runs by themselves, in every tracker that has an active run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.chosen import each_change
from tests.conftest import RunPython
from tests.runs.programs import TRACKERS, environment, ids, logged, points, program, users_run

pytestmark = pytest.mark.usefixtures("mlflow_store")


def trackers(*chosen: str, of: Iterable[str] = tuple(TRACKERS)) -> pytest.MarkDecorator:
    """Every tracker in each night; with each change one, or two where they differ."""
    return pytest.mark.parametrize("name", each_change(of, *chosen))


TWO_WRITERS = """
run = begin("two")
print("ids", json.dumps([RUN_ID]), flush=True)
first = log("two", points=20)
second = SummaryWriter("runs/two/val")
for step in range(20):
    second.add_scalar("loss", 100.0 + step, step)
    first.add_scalar("loss", (20 + step) / 7, 20 + step)
second.close()
END
os._exit(0)
"""


@trackers("wandb")
def test_two_writers_of_one_run(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """Both have all their points in it, though one is never closed, and the program is gone as soon as the run has ended."""
    done = run_python(program(name, "import os\n" + TWO_WRITERS), env=environment(name, tmp_path), timeout=400)
    (run,) = ids(done.stdout)
    assert points(name, tmp_path, run) == logged(0, 40)
    val = TRACKERS[name].reader(tmp_path, run).scalars("val", "loss")
    assert sorted((point.step, point.value) for point in val) == [(step, 100.0 + step) for step in range(20)]
    assert TRACKERS[name].reader(tmp_path).run_ids() == [run]


BEFORE = """
own = log("own", points=20)
run = begin("theirs")
print("ids", json.dumps([RUN_ID]), flush=True)
log("own", 20, 20, own)
theirs = log("theirs", points=60)
END
log("own", 40, 20, own)
own.close()
"""


@trackers("aim")
def test_a_writer_that_is_older_than_the_run(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """It goes on in the session's own run, within the user's and after it; one that is made within belongs to the user's."""
    done = run_python(program(name, BEFORE), env=environment(name, tmp_path), timeout=400)
    (run,) = ids(done.stdout)
    assert points(name, tmp_path, run) == logged(0, 60)
    (own,) = set(TRACKERS[name].reader(tmp_path).run_ids()) - {run}
    assert points(name, tmp_path, own) == logged(0, 60)


LATE = """
run = begin("first")
print("ids", json.dumps([RUN_ID]), flush=True)
writer = log("first")
END
log("first", 60, 7, writer)
writer.close()
import tracelet_shim
state = tracelet_shim.get_session().status()[sys.argv[1]]
tracelet_shim.get_session().flush(100)
state = tracelet_shim.get_session().status()[sys.argv[1]]
print(state.delivered, state.failed)
"""


@trackers("comet", "mlflow")
def test_a_writer_that_is_used_after_the_run(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """MLflow has it all the same; elsewhere it is counted, said once, and no success."""
    done = run_python(program(name, LATE), name, env=environment(name, tmp_path), timeout=400, check=False)
    (run,) = ids(done.stdout)
    has_all = name == "mlflow"  # its runs are written to by their ids
    assert points(name, tmp_path, run) == logged(0, 67 if has_all else 60)
    assert done.stdout.splitlines()[-1] == ("67 0" if has_all else "60 7")
    said = done.stderr.count(f"what was logged into your run {run} after its end is in the event files only")
    assert (said > 0, done.returncode) == ((False, 0) if has_all else (True, 3))
    assert TRACKERS[name].reader(tmp_path).run_ids() == [run]


NEXT = """
def begin_next(name):
    return NEXT_RUN

found = []
run = begin("fold0")
for k in range(3):
    found.append(RUN_ID)
    log(f"fold{k}", points=60 + k)
    if k < 2:
        run = begin_next(f"fold{k + 1}")
END
print("ids", json.dumps(found))
"""


@trackers("comet", of=[name for name in TRACKERS if users_run(name).begin_next])
def test_a_run_that_ends_with_the_begin_of_the_next(name: str, run_python: RunPython, tmp_path: Path) -> None:
    text = NEXT.replace("NEXT_RUN", users_run(name).begin_next or "")
    done = run_python(program(name, text), env=environment(name, tmp_path), timeout=400)
    runs = ids(done.stdout)
    assert [points(name, tmp_path, run) for run in runs] == [logged(0, 60 + k) for k in range(3)]
    assert set(TRACKERS[name].reader(tmp_path).run_ids()) == set(runs)


AGAIN = """
run = begin("r")
ids = [RUN_ID]
first = log("first")
END
run = OPEN_AGAIN
assert RUN_ID == ids[0]
second = log("second", points=20)
log("first", 60, 20, first)
END
print("ids", json.dumps(ids))
"""


@trackers("aim", of=[name for name in TRACKERS if users_run(name).begin_again])
def test_a_run_that_is_opened_again(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """It has what its first and its later writers log then."""
    text = AGAIN.replace("OPEN_AGAIN", users_run(name).begin_again or "")
    done = run_python(program(name, text), env=environment(name, tmp_path), timeout=400)
    (run,) = ids(done.stdout)
    assert points(name, tmp_path, run) == logged(0, 80)
    second = TRACKERS[name].reader(tmp_path, run).scalars("second", "loss")
    assert sorted((point.step, point.value) for point in second) == logged(0, 20)
    assert TRACKERS[name].reader(tmp_path).run_ids() == [run]


FOLDS = """
import tracelet_shim

with open("data.txt", "w") as file:
    file.write("content")

found = []
for k in range(2):
    run = begin(f"fold{k}")
    found.append(RUN_ID)
    tracelet_shim.get_session().log_params({"fold": k})  # before there is a writer in this run
    tracelet_shim.get_session().log_artifact("data.txt")
    log(f"fold{k}", points=20 + k).close()
    tracelet_shim.get_session().log_table("errors", [{"image": 17 + k}])
    END
print("ids", json.dumps(found))
"""


@trackers("mlflow")
def test_what_describes_a_fold(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """What is logged through the session before the first writer of a run waits for that one, and is in that run."""
    done = run_python(program(name, FOLDS), env=environment(name, tmp_path), timeout=400)
    runs = ids(done.stdout)
    for k, run in enumerate(runs):
        assert {key: str(value) for key, value in TRACKERS[name].reader(tmp_path, run).params().items()} == {"fold": str(k)}
        assert points(name, tmp_path, run) == logged(0, 20 + k)
    assert set(TRACKERS[name].reader(tmp_path).run_ids()) == set(runs)
    if name == "mlflow":
        for k, run in enumerate(runs):
            (table,) = (tmp_path / "mlruns" / "0" / run / "artifacts" / "tables").rglob("*.json")
            assert json.loads(table.read_text()) == {"columns": ["image"], "data": [[17 + k]]}
            assert (tmp_path / "mlruns" / "0" / run / "artifacts" / "artifacts" / "data.txt").read_text() == "content"


FAILS = """
try:
    with begin("fails") as run:
        print("ids", json.dumps([RUN_ID]))
        log("fails")
        raise RuntimeError("of the program")
except RuntimeError as error:
    print("got", error)
"""


@trackers("wandb", of=[name for name in TRACKERS if users_run(name).is_context])
def test_an_exception_leaves_the_run(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """The run has its points, the tracker's own word for a failure, and the program its exception."""
    done = run_python(program(name, FAILS), env=environment(name, tmp_path), timeout=400)
    (run,) = ids(done.stdout)
    assert "got of the program" in done.stdout
    assert points(name, tmp_path, run) == logged(0, 60)
    assert TRACKERS[name].reader(tmp_path, run).status() == "failed"


HANDLE = """
import tracelet_shim
session = tracelet_shim.start_logging()
run = begin("theirs")
print("ids", json.dumps([RUN_ID]), flush=True)
session.log_params({"depth": 3, "model": {"width": 7}})
log("theirs")
session.log_metrics({"best": 0.5}, 60)
session.set_summary({"final": 0.25})
session.log_text("note", "within", 1)
END
session.log_params({"outside": 1})
log("own")
session.log_text("note", "outside", 2)
"""


@trackers("trackio")
def test_what_the_session_takes_itself(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """Its methods go into the run that is active at the call; after its end, into the session's own."""
    done = run_python(program(name, HANDLE), env=environment(name, tmp_path), timeout=400)
    (run,) = ids(done.stdout)
    (own,) = set(TRACKERS[name].reader(tmp_path).run_ids()) - {run}
    theirs, ours = TRACKERS[name].reader(tmp_path, run), TRACKERS[name].reader(tmp_path, own)
    assert {key: str(value) for key, value in theirs.params().items()} == {"depth": "3", "model.width": "7"}
    assert {key: str(value) for key, value in ours.params().items()} == {"outside": "1"}
    assert [(point.step, point.value) for point in theirs.scalars("", "best")] == [(60, 0.5)]
    assert theirs.summary_metrics()["final"] == 0.25  # W&B has the last values beside it
    assert theirs.texts("", "note") == [(1, "within")]
    assert ours.texts("", "note") == [(2, "outside")]
    assert points(name, tmp_path, run) == points(name, tmp_path, own) == logged(0, 60)


IN_THREADS = """
import threading

meet, found, one_at_a_time = threading.Barrier(3, timeout=100), {}, threading.Lock()

def in_a_thread(name, points):
    with one_at_a_time:  # Aim's repository is made with the first
        run = begin(name)
    found[name] = RUN_ID
    meet.wait()
    writer = log(name, points=points)
    meet.wait()
    log(name, points, 20, writer)
    END

threads = [threading.Thread(target=in_a_thread, args=(f"thread{k}", 10 * k + 10)) for k in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
log("own")
print("ids", json.dumps([found[f"thread{k}"] for k in range(3)]))
"""


@trackers("mlflow", of=("mlflow", "aim", "trackio"))
def test_a_run_in_each_thread(name: str, run_python: RunPython, tmp_path: Path) -> None:
    """Where each thread can have a run, each run has its own thread's points, and what is logged outside of them its own run."""
    done = run_python(program(name, IN_THREADS), env=environment(name, tmp_path), timeout=400)
    runs = ids(done.stdout)
    assert [points(name, tmp_path, run) for run in runs] == [logged(0, 30 + 10 * k) for k in range(3)]
    (own,) = set(TRACKERS[name].reader(tmp_path).run_ids()) - set(runs)
    assert points(name, tmp_path, own) == logged(0, 60)


AGENT = """
sys.path.insert(0, sys.argv[1])
from wandb_agent import LocalController  # the stand-in of the recipe

def train():
    with wandb.init() as run:
        print("lr", run.id, run.config.lr)
        log(run.id)
        if run.config.lr == 0.2:
            raise RuntimeError("of the program")

with LocalController(lr=[0.1, 0.2, 0.3]):
    wandb.agent("sweep", function=train, project="p")
"""


def test_an_agent(run_python: RunPython, tmp_path: Path) -> None:
    """W&B's agent, which ends the service and begins another one for each trial: each has its points, and the one that fails has
    W&B's word for it."""
    recipes = Path(__file__).resolve().parents[2] / "examples" / "sweeps"
    done = run_python(program("wandb", AGENT), str(recipes), env=environment("wandb", tmp_path), timeout=400)
    trials = dict(re.findall(r"^lr (\S+) (\S+)$", done.stdout, re.MULTILINE))
    assert trials == {"trial0": "0.1", "trial1": "0.2", "trial2": "0.3"}
    assert [points("wandb", tmp_path, run) for run in trials] == [logged(0, 60)] * 3
    reader = TRACKERS["wandb"].reader
    assert {run: reader(tmp_path, run).status() for run in reader(tmp_path).run_ids()} == {
        "trial0": "finished", "trial1": "failed", "trial2": "finished"
    }  # fmt: skip
