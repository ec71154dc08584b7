"""The programs in examples/ and the shell steps of the CI files, run as their readers would run them."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow


def run(*command: str, **variables: str) -> str:
    """Run a command in the working directory, with the tools of this environment first on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def example(name: str, *args: str) -> str:
    return run(sys.executable, str(EXAMPLES / name), *args)


def metrics(run_name: str) -> dict[str, int]:
    """Return the number of points of each metric of the MLflow runs of a name."""
    with sqlite3.connect("mlflow.db") as db:
        query = "SELECT key, COUNT(*) FROM metrics JOIN runs USING (run_uuid) WHERE name = ? GROUP BY key"
        return dict(db.execute(query, (run_name,)))


def test_the_training_program_says_nothing_of_us() -> None:
    """What the demo trains is what any TensorBoard user has written."""
    assert "tracelet" not in (EXAMPLES / "train.py").read_text().lower()


def test_demo() -> None:
    """All that was written is in all three trackers; the exit code says so, and so does the table. What an earlier demo left is
    gone, so that nothing old is counted."""
    Path("demo-output").mkdir()
    Path("demo-output", "mlflow.db").write_text("from another time")
    printed = example("demo.py")
    table = [line.split() for line in printed.splitlines() if re.match(r"  [a-zP]\w+ .* \d+ ", line)]
    assert len(table) == 8
    for *_, written, in_mlflow, in_aim, in_tensorboard in table:
        assert int(written) > 0
        assert written == in_mlflow == in_aim == in_tensorboard
    assert "missing" not in printed


@pytest.mark.nightly  # the whole demo once more
def test_demo_fails_where_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that has less than was written makes the exit code 1, and is named."""
    Path("broken.py").write_text(
        "import sys, runpy, mlflow\n"
        "whole = mlflow.MlflowClient.get_metric_history\n"
        "mlflow.MlflowClient.get_metric_history = lambda *args: whole(*args)[1:]\n"
        f"sys.argv = [{str(EXAMPLES / 'demo.py')!r}]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    with pytest.raises(AssertionError, match="missing: MLflow has 715 scalar points of 721"):
        run(sys.executable, "broken.py")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        pytest.param(
            "mlflow", ("not everything had arrived", "missing: MLflow cannot be read (ImportError: not today)"),
            marks=pytest.mark.nightly,  # the whole demo once more
        ),
        ("torch", ("The program itself failed, with exit code 1",)),
    ],
)  # fmt: skip
def test_demo_says_what_happened(tmp_path: Path, module: str, said: tuple[str, ...]) -> None:
    """Where the program does not end well the demo says so, in lines and without a traceback of its own, and has exit code 1."""
    Path("broken").mkdir()
    Path("broken", f"{module}.py").write_text("raise ImportError('not today')\n")
    with pytest.raises(AssertionError) as failed:
        run(sys.executable, str(EXAMPLES / "demo.py"), PYTHONPATH=str(tmp_path / "broken"))
    output = str(failed.value)
    assert output.startswith("exit code 1\n")
    assert all(line in output for line in said), output
    assert 'demo.py", line' not in output  # the program's own traceback is the program's


def test_quickstart() -> None:
    """Every event is delivered to both trackers, with nothing pending."""
    printed = example("quickstart.py")
    assert printed.count("201 events delivered, 0 pending, 0 failed") == 2
    assert metrics("decay") == {"loss": 200}


def test_sweep() -> None:
    """Each trial has a run with its own parameters and score."""
    lines = example("sweep.py").splitlines()
    assert len(lines) == 6
    assert [line.split()[0] for line in lines] == ["grid", *(f"trial-{number}" for number in range(1, 6))]
    assert "{'learning_rate': '0.01', 'layers': '3'} {'hparam/score': 1.0}" in lines[3]


def test_borrowed_run() -> None:
    """The user's own run has the user's data and ours, and its end is the user's."""
    printed = example("borrowed_run.py")
    assert "mine FINISHED {'from': 'mlflow'}" in printed
    assert "100 points of loss" in printed
    assert metrics("mine") == {"loss": 100, "after": 1}


@pytest.fixture
def checkout() -> None:
    """Make the working directory what a CI job finds after the checkout."""
    shutil.copytree(EXAMPLES, "examples")


@pytest.mark.usefixtures("checkout")
def test_github_actions() -> None:
    """The variables of the job are all that it takes; every step but the installation is run."""
    values = {"github.ref_name": "main", "github.run_number": "7", "github.sha": "0123abcd"}

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: values[match[1]], text)

    job = yaml.safe_load((EXAMPLES / "ci" / "github-actions.yml").read_text())["jobs"]["train"]
    variables = {name: filled(value) for name, value in job["env"].items()}
    printed = [
        run("bash", "-e", "-o", "pipefail", "-c", filled(step["run"]), **variables)
        for step in job["steps"]
        if "run" in step and step["name"] != "Install"
    ]
    assert len(printed) == 2
    assert printed[1].startswith("main-7 FINISHED")
    assert metrics("main-7")["train/loss"] == 640
    assert list(Path("tracelet-runs").rglob("*tfevents*"))
    (upload,) = (step["with"] for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert all(Path(path).exists() for path in upload["path"].split())


@pytest.mark.nightly  # as the one before it
@pytest.mark.usefixtures("checkout")
def test_gitlab_ci() -> None:
    """The same for GitLab; `tracelet-shim run` gives one command a run of its own."""
    values = {"CI_COMMIT_REF_SLUG": "main", "CI_PIPELINE_IID": "7", "CI_COMMIT_SHORT_SHA": "0123abcd"}
    job = yaml.safe_load((EXAMPLES / "ci" / "gitlab-ci.yml").read_text())["train"]
    variables = {
        name: re.sub(r"\$(\w+)", lambda match: values[match[1]], value) for name, value in job["variables"].items()
    }
    printed = run("bash", "-e", "-o", "pipefail", "-c", "\n".join(job["script"]), **variables)
    assert metrics("main-7")["train/loss"] == metrics("slow")["train/loss"] == 640
    assert "Total 1 runs." in printed  # in Aim: the second went to MLflow alone
    assert all(Path(path).exists() for path in job["artifacts"]["paths"])
