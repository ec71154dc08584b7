"""The recipes in examples/sweeps/, run by the commands of docs/sweeps.md; what each tracker has is read from its own store."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.environment import warnings

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "sweeps"



class Trial(NamedTuple):
    """A run: its group, its parameters, its final metrics, and the points of ``loss``."""

    group: str
    params: dict[str, float]
    final: dict[str, float]
    points: dict[int, float]


def commands() -> dict[str, list[str]]:
    """Return the arguments of each recipe, as the page has them."""
    page = (ROOT / "docs" / "sweeps.md").read_text()
    lines = re.findall(r"^ {4}python examples/sweeps/(\S+)(.*)$", page, re.MULTILINE)
    return {name: shlex.split(rest) for name, rest in lines}


def test_the_page_has_every_recipe_and_its_command() -> None:
    assert set(commands()) == {path.name for path in RECIPES.glob("*.py")}
    for name, arguments in commands().items():
        assert f"    {shlex.join(['python', f'examples/sweeps/{name}', *arguments])}\n" in (RECIPES / name).read_text()


def run(recipe: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRACKIO_DIR": os.path.abspath("trackio"), "TRACELET_STRICT": "1", **variables}
    command = [sys.executable, str(RECIPES / recipe), *commands()[recipe]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    assert [line for line in warnings(done.stderr) if "tracelet-shim" in line] == []
    return done.stdout


def in_mlflow() -> dict[str, Trial]:
    """Return the runs of the experiment ``sweeps`` in the database of the working directory."""
    with sqlite3.connect("mlflow.db") as db:
        query = "SELECT run_uuid, r.name FROM runs r JOIN experiments e USING (experiment_id) WHERE e.name = 'sweeps'"
        found = {}
        for run_id, name in db.execute(query).fetchall():
            tags = dict(db.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))
            params = dict(db.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)))
            metrics = db.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run_id,)).fetchall()
            final = {key: value for key, _, value in metrics if key != "loss"}
            points = {step: value for key, step, value in metrics if key == "loss"}
            found[name] = Trial(tags["tracelet.group"], {key: float(value) for key, value in params.items()}, final, points)
        return found


def in_aim() -> dict[str, Trial]:
    """Return the runs of the experiment ``sweeps`` in the repository of the working directory."""
    from aim import Repo
    from aim.storage.context import Context

    found = {}
    for each in Repo(os.getcwd()).iter_runs():
        if each.experiment == "sweeps":
            loss = each.get_metric("loss", Context({})).data.items()
            points = {step: value for step, (value, *_) in loss}
            found[each.name] = Trial(each["group"], each["hparams"], each["summary"], points)
    return found


def in_trackio() -> dict[str, Trial]:
    """Return the runs of the project ``sweeps``."""
    with sqlite3.connect("trackio/sweeps.db") as db:
        found = {}
        for name, text in db.execute("SELECT run_name, config FROM configs").fetchall():
            config = json.loads(text)
            rows = db.execute("SELECT step, metrics FROM metrics WHERE run_name = ?", (name,)).fetchall()
            values: dict[str, dict[int, Any]] = {}
            for step, row in rows:
                for key, value in json.loads(row).items():
                    values.setdefault(key, {})[step] = value
            params = {key: value for key, value in config.items() if not key.startswith(("_", "tracelet/"))}
            final = {key: points[max(points)] for key, points in values.items() if not key.startswith(("loss", "tracelet/"))}
            found[name] = Trial(config["_Group"], params, final, values["loss"])
        return found


def check(trials: Mapping[str, Mapping[str, float]], group: str) -> None:
    """Each trial is in each of the three, in one group, with its parameters, all points and the last of them as its final one."""
    for found in (in_mlflow(), in_aim(), in_trackio()):
        assert {name: trial.params for name, trial in found.items()} == trials
        for trial in found.values():
            assert trial.group == group
            assert sorted(trial.points) == list(range(20))
            assert trial.final == {"final_loss": trial.points[19]}
        assert len({trial.final["final_loss"] for trial in found.values()}) == len(trials)


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (it is in the extra dev)")


@pytest.mark.slow
@pytest.mark.nightly  # what differs from Hydra's is the recipe alone
@pytest.mark.usefixtures("mlflow_store")
@needs("optuna")
def test_optuna() -> None:
    printed = run("optuna_study.py")
    assert printed.startswith("best: ")
    found = in_mlflow()
    assert sorted(found) == ["optuna-0", "optuna-1", "optuna-2"]
    check({name: trial.params for name, trial in found.items()}, "optuna")
    best = min(found, key=lambda name: found[name].final["final_loss"])
    assert printed == f"best: {best.removeprefix('optuna-')} {_as_printed(found[best].params)}\n"


def _as_printed(params: Mapping[str, float]) -> dict[str, float]:
    return {"lr": params["lr"], "layers": int(params["layers"])}


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_store")
@needs("hydra")
def test_hydra() -> None:
    """Each job has a directory of its own, with the event files; the stores are where the program began."""
    run("hydra_multirun.py")
    grid = [{"lr": lr, "layers": layers} for lr in (0.1, 0.01) for layers in (2, 3)]
    check({f"hydra-{n}": params for n, params in enumerate(grid)}, "hydra")
    for n in range(4):
        (job,) = Path("multirun").glob(f"*/*/{n}")
        assert {path.name for path in job.iterdir()} == {".hydra", "hydra_multirun.log", "runs"}


@pytest.fixture
def ray_directory() -> Iterator[str]:
    """A directory with a short name: Ray has sockets in it, whose names may have 107 bytes."""
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)  # its last processes may be about to write there


@pytest.mark.slow
@pytest.mark.nightly  # Ray's own processes take most of it; Hydra's jobs are in directories of their own too
@pytest.mark.usefixtures("mlflow_store")
@needs("ray")
def test_ray(ray_directory: str) -> None:
    """Trials beside each other, each in a process and a directory of its own."""
    run("ray_tune.py", RAY_TMPDIR=ray_directory, RAY_USAGE_STATS_ENABLED="0")
    found = in_mlflow()
    grid = [{"lr": lr, "layers": layers} for lr in (0.1, 0.01) for layers in (2, 3)]
    assert sorted(map(str, (trial.params for trial in found.values()))) == sorted(str(_floats(params)) for params in grid)
    check({name: trial.params for name, trial in found.items()}, "ray")


def _floats(params: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in params.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_store")
def test_wandb_agent() -> None:
    """The W&B runs of the agent are joined by the sessions, and the other three trackers have the same trials."""
    from tests.backends.wandb.reader import WandbReader

    run("wandb_agent.py", WANDB_DIR=os.getcwd())
    trials = {f"trial{n}": {"lr": lr, "layers": 2} for n, lr in enumerate((0.1, 0.01))}
    check(trials, "agent")
    for name, params in trials.items():
        trial = WandbReader(Path.cwd(), name)
        assert {key: trial.params()[key] for key in ("lr", "layers")} == params
        assert [point.step for point in trial.scalars("", "loss")] == list(range(20))
        assert trial.summary_metrics()["final_loss"] == trial.scalars("", "loss")[-1].value
    assert sorted(WandbReader(Path.cwd()).run_ids()) == sorted(trials)
