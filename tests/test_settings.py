"""Settings: a slip, wherever it is made, is told with the name that was meant."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import tracelet_shim as tracelet
from tests.conftest import RunPython
from tracelet_shim import errors
from tracelet_shim._settings import resolve
from tracelet_shim.backends import registry

TRAIN = "from torch.utils.tensorboard import SummaryWriter\nSummaryWriter('runs/x').add_scalar('a', 1, 1)"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ({"projct": "p"}, "project"),
        ({"backends": "mlflow"}, "backend"),
        ({"backend": "mlflw"}, "mlflow"),
        ({"delivery": "thred"}, "thread"),
        ({"ranks": "al"}, "all"),
        ({"options": {"mlfow": {}}}, "mlflow"),
        ({"options": {"mlflow": {"trackng_uri": "u"}}}, "tracking_uri"),
        ({"backend": "tensorboard", "options": {"mlflow": {"trackng_uri": "u"}}}, "tracking_uri"),
    ],
    ids=str,
)
def test_a_slip_in_the_call(arguments: dict[str, Any], meant: str) -> None:
    """It is an error, of an option of a tracker that is not used as well, and no session is there."""
    with pytest.raises((TypeError, errors.ConfigurationError), match=f"did you mean '{meant}'"):
        tracelet.start_logging(**arguments)
    assert tracelet.get_session() is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("projct = 'p'", "project"),
        ("[mlfow]\ntracking_uri = 'u'", "mlflow"),
        ("[mlflow]\ntrackng_uri = 'u'", "tracking_uri"),
        ("ranks = 'al'", "all"),
        ("backend = ['aimm']", "aim"),
    ],
    ids=repr,
)
def test_a_slip_in_the_file(text: str, meant: str) -> None:
    """It is an error, too."""
    Path("tracelet.toml").write_text(text)
    with pytest.raises(errors.ConfigurationError, match=f"did you mean '{meant}'"):
        tracelet.start_logging()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TRACELET_PROJET", "TRACELET_PROJECT"),
        ("TRACELT_PROJECT", "TRACELET_PROJECT"),
        ("TRACELETPROJECT", "TRACELET_PROJECT"),
        ("tracelet_backend", "TRACELET_BACKEND"),
        ("TRACLET_DISABLED", "TRACELET_DISABLED"),
        ("TRACELET_STATEDIR", "TRACELET_STATE_DIR"),
        ("TRACELET_MLFOW_TRACKING_URI", "TRACELET_MLFLOW_TRACKING_URI"),
    ],
)
def test_a_slip_in_the_name_of_a_variable(variable: str, meant: str) -> None:
    """It is a warning: a variable may be a later version's."""
    with pytest.warns(UserWarning, match=rf"{variable} is not known \(did you mean {meant}\?\)"):
        resolve({}, registry.names(), {variable: "x"})


def test_a_switch_that_is_neither_on_nor_off() -> None:
    """TRACELET_DISABLED with a value that means nothing switches nothing off, and that is said."""
    with pytest.warns(UserWarning, match="TRACELET_DISABLED='ture' is neither 1 nor 0"):
        resolve({}, registry.names(), {"TRACELET_DISABLED": "ture"})


def test_variables_of_others_are_left_alone() -> None:
    """What others call theirs is no slip of ours."""
    names = ("KERAS_BACKEND", "MPLBACKEND", "PROJECT", "TRACE_PROJECT", "SENTRY_TAGS", "NOTES", "TRACELET", "")
    others = dict.fromkeys([*names, "TRACE_SYSTEM_METRICS"], "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve({}, registry.names(), others).project is None


def test_a_slip_that_does_not_matter_costs_nothing(run_python: RunPython, tmp_path: Path) -> None:
    """Under environment activation, a wrong option of a tracker that is not used is a line, and the others have their data;
    strict makes it an error."""
    env = {"TRACELET_BACKEND": "tensorboard", "TRACELET_AIM_REPOS": "x"}
    done = run_python(TRAIN, env=env)
    assert "has no option 'repos' (did you mean 'repo'?); its options: artifacts_uri, repo (it is ignored)" in done.stderr
    assert list(tmp_path.glob("tracelet-runs/**/*tfevents*"))
    assert run_python(TRAIN, env={**env, "TRACELET_STRICT": "1"}, check=False).returncode == 1


def test_dotenv_is_not_read(run_python: RunPython, tmp_path: Path) -> None:
    """A .env in the working directory sets nothing of ours, and reaches neither the training's environment nor the relay's."""
    (tmp_path / ".env").write_text("TRACELET_PROJECT=from-dotenv\nMLFLOW_TRACKING_URI=sqlite:///dotenv.db\nMARK=1\n")
    script = """
import os
import tracelet_shim as tracelet
session = tracelet.start_logging(backend=["mlflow", "comet", "swanlab"], offline=True)
SummaryWriter("runs/x").add_scalar("a", 1.0, 1)
assert session.flush(60), session.status()
pid = session._bus._parts[0].bus._channel._now._process.pid
print(session.settings.project, "MARK" in os.environ, b"MARK=" in open(f"/proc/{pid}/environ", "rb").read())
"""
    done = run_python("from torch.utils.tensorboard import SummaryWriter\n" + script)
    assert done.stdout.splitlines()[-1] == "None False False"
    assert (tmp_path / "mlflow.db").is_file()
    assert not (tmp_path / "dotenv.db").exists()
