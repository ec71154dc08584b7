"""Settings: a slip, wherever it is made, is told with the name that was meant."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import warnings
from collections import deque
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel

import tracelet_shim as tracelet
from tests.backends import TRACKERS
from tests.backends.about import about
from tests.conftest import RunPython
from tracelet_shim import errors
from tracelet_shim.backends import registry
from tracelet_shim.backends.mlflow.backend import MLflowBackend
from tracelet_shim.session.settings import Problem, resolve

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
    assert not tracelet.get_session()


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


MANY = float("inf"), float("nan"), -1, "abc", True, 1e300


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"config": "cfg.yaml"}, r"config='cfg.yaml' .* remedy: .*safe_load\(open\('cfg.yaml'\)\)"),
        ({"config": Path("cfg.yaml")}, r"config=PosixPath\('cfg.yaml'\) .* remedy: .*safe_load"),
        *[({"config": odd}, r"argument config=.* remedy: config=\{") for odd in ([1], 3, OmegaConf.create([1]), len, ...)],
        ({"tags": 3}, r"argument tags=3 cannot be used: .* remedy: tags=\{"),
        ({"tags": b"x"}, r"argument tags=b'x' cannot be used: .* remedy: tags=\{"),
        *[({name: 3}, rf"argument {name}=3 cannot be used: .* remedy: {name}='3'") for name in ("project", "notes", "run_id")],
        ({"root": 3}, "argument root=3 cannot be used: it is no text"),
        *[({name: "ja"}, rf"{name}='ja' cannot be used: it is neither True nor False") for name in ("offline", "strict", "ci")],
        ({"offline": 3}, "offline=3 cannot be used: it is neither True nor False"),
        *[({"exit_timeout": odd}, "argument exit_timeout=.* cannot be used: it is no number of seconds") for odd in MANY],
        ({"what_ran": 3.5}, "argument what_ran=3.5 cannot be used: .* remedy: what_ran="),
        ({"backend": 3}, "argument backend=3 cannot be used: .* remedy: "),
        ({"backend": [None]}, "argument backend=None cannot be used: .* remedy: "),
        ({"backend": b"mlflow"}, "argument backend=b'mlflow' cannot be used"),
        ({"backend": MLflowBackend}, r"argument backend=<class .* remedy: MLflowBackend\(\)"),
        ({"backend": {"mlflow": {}}}, r"argument backend=\{'mlflow': \{\}\} cannot be used: .* remedy: .*options=\{"),
        ({"options": {"mlflow": "Xqj7"}}, "what it has for 'mlflow' is no table of options, but a str; remedy: "),
        ({"options": {3: {}}}, "3 is no name of a tracker; remedy: "),
        ({"options": ["mlflow"]}, "it is no table of trackers, but a list; remedy: "),
        ({"options": {"clearml": {"offline": "ja"}}}, "'clearml': option offline='ja' is neither true nor false"),
        ({"options": {"comet": {"offline": 3}}}, "'comet': option offline=3 is neither true nor false"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_right(arguments: dict[str, Any], told: str) -> None:
    """It is an error of ours that names the value, unless it may be a credential, and the remedy; no session is there."""
    with pytest.raises(errors.ConfigurationError, match=told) as raised:
        tracelet.start_logging(**{"backend": "tensorboard", **arguments})
    assert "Xqj7" not in str(raised.value)
    assert not tracelet.get_session()


def test_the_name_of_the_run_by_its_place() -> None:
    """Other libraries take it so; the error has the argument that is meant."""
    for args, more in ((("run-1",), {"backend": "mlflow"}), (("mlflow", "run-1"), {}), (("mlflow", "run-1", 3), {})):
        with pytest.raises(TypeError, match="exp_name='run-1'"):
            tracelet.start_logging(*args, **more)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("backend = 3", "tracelet.toml: backend=3 cannot be used"),
        ("tags = 3", "tracelet.toml: tags=3 cannot be used"),
        ("config = 'x'", "tracelet.toml: config='x' cannot be used"),
        ("options = 3", "tracelet.toml: options cannot be used"),
        ("[options]\nmlflow = 'x'", "tracelet.toml: options cannot be used"),
        ("memory = -1", "tracelet.toml: memory=-1 cannot be used: it is no number of megabytes"),
    ],
    ids=repr,
)
def test_a_value_in_the_file_that_cannot_be_right(text: str, told: str) -> None:
    """It is named with the file."""
    Path("tracelet.toml").write_text(text)
    with pytest.raises(errors.ConfigurationError, match=told):
        tracelet.start_logging()


@dataclasses.dataclass(frozen=True)
class Optimizer:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)


@dataclasses.dataclass  # with slots=True a dataclass has no __dict__; Python 3.10 makes it so, too
class Slotted:
    __slots__ = ("lr",)
    lr: float


@attrs.frozen
class Attrs:
    lr: float = 0.1


class Struct(msgspec.Struct):
    lr: float = 0.1


class Model(BaseModel, extra="allow"):
    lr: float = 0.1
    optimizer: Any = Optimizer()


class Plain:
    __slots__ = ("lr", "unset")

    def __init__(self) -> None:
        self.lr = 0.1


class Named(NamedTuple):
    lr: float = 0.1


CONFIGURATIONS = [
    *[{"lr": 0.1}, MappingProxyType({"lr": 0.1}), Slotted(0.1), dataclasses.make_dataclass("Made", ["lr"], slots=True)(0.1)],
    *[Attrs(), Struct(), argparse.Namespace(lr=0.1), SimpleNamespace(lr=0.1), Named(), Plain(), OmegaConf.create({"lr": 0.1})],
]


@pytest.mark.parametrize("given", CONFIGURATIONS, ids=lambda given: type(given).__name__)
def test_what_a_configuration_can_be(given: Any) -> None:
    """What holds values by name is taken, with __dict__ or without, alone or within another one."""
    assert resolve({"config": given}, (), {}).config == {"lr": 0.1}
    if not isinstance(given, (Plain, tuple)):
        assert resolve({"config": {"a": [given]}}, (), {}).config == {"a": [{"lr": 0.1}]}


class Colour(enum.Enum):
    RED = 1


def test_the_values_of_a_configuration() -> None:
    """Objects with fields are tables, all that is a sequence is a list, and what cannot be read does not cost the rest."""
    omega = OmegaConf.create({"layers": [1, [2, 3]], "lr": "${missing}", "must": "???", "seed": 7})
    within: dict[str, Any] = {"a": 1}
    within["itself"] = [within]
    given = {
        "omega": omega, "list": omega.layers, "model": Model(more=1), "deque": deque([1]), "set": {1}, "range": range(10**9),
        "bytes": b"ab", "enum": Colour.RED, "scalar": np.float32(0.5), "array": np.array([[3]]), "class": Optimizer,
        "within": within, "keys": {1: 2}.keys(), "dots": Path("a/b"),
    }  # fmt: skip
    found = resolve({"config": given}, (), {}).config
    assert found.pop("omega") == {
        "layers": [1, [2, 3]], "lr": "<InterpolationKeyError>", "must": "<MissingMandatoryValue>", "seed": 7,
    }  # fmt: skip
    assert found.pop("model") == {"lr": 0.1, "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "more": 1}
    assert found.pop("within") == {"a": 1, "itself": ["..."]}
    assert found.pop("class") == str(Optimizer)
    assert found == {
        "list": [1, [2, 3]], "deque": [1], "set": [1], "range": "range(0, 1000000000)", "bytes": "b'ab'", "enum": "Colour.RED",
        "scalar": 0.5, "array": 3, "keys": [1], "dots": "a/b",
    }  # fmt: skip


def test_a_set_of_trackers() -> None:
    """It is a list, in the same order whenever it is given."""
    session = tracelet.start_logging(backend={"tensorboard", "trackio"}, ranks="main", delivery="thread")
    assert session.settings.backend == ("tensorboard", "trackio")
    assert tracelet.start_logging(backend={"trackio", "tensorboard"}, ranks="main", delivery="thread") is session
    tracelet.stop_logging()


WRONG = {
    "TRACELET_OFFLINE": "ja", "TRACELET_STRICT": "x", "TRACELET_EXIT_TIMEOUT": "-1", "TRACELET_MEMORY": "viel",
    "TRACELET_WHAT_RAN": "host,enviroment", "TRACELET_RANKS": "al", "TRACELET_PROJECT": "p",
}  # fmt: skip


def test_wrong_variables_cost_nothing_else() -> None:
    """Under environment activation each is ignored by itself, the file's value or the default counts, and a value that may have
    been meant to keep data here does so."""
    Path("tracelet.toml").write_text("exit_timeout = 5\nprojct = 'q'\nquiet = 'ja'\n")
    problems: list[Problem] = []
    settings = resolve({}, registry.names(), WRONG, problems=problems)
    assert (settings.offline, settings.strict, settings.exit_timeout, settings.memory) == (True, False, 5.0, 256.0)
    assert (settings.what_ran, settings.ranks, settings.project, settings.quiet) == (("host",), "main", "p", False)
    told = {str(error).split("=")[0].split()[-1]: instead for error, instead in problems}
    ignored = ("'project'?)", "quiet", "TRACELET_STRICT", "TRACELET_EXIT_TIMEOUT", "TRACELET_MEMORY", "TRACELET_RANKS")
    half = {"TRACELET_OFFLINE": "it counts as 1", "TRACELET_WHAT_RAN": "what is known of it counts"}
    assert told == {**dict.fromkeys(ignored, "it is ignored"), **half}


def test_wrong_variables_of_a_program(run_python: RunPython, tmp_path: Path) -> None:
    """Each is a line, and the data arrives; so it does where one of the trackers, or an option of it, is wrong. Under strict a
    wrong variable is an error before anything is logged, and so it is for a call."""
    env = {**WRONG, "TRACELET_BACKEND": "tensorboard,mlfow,aim", "TRACELET_AIM_REPOS": "x"}
    done = run_python(TRAIN, env=env)
    assert "variable TRACELET_OFFLINE='ja' cannot be used: it is neither 1 nor 0 (it counts as 1)\n" in done.stderr
    assert "variable TRACELET_STRICT='x' cannot be used: it is neither 1 nor 0 (it is ignored)\n" in done.stderr
    assert "unknown backend 'mlfow' (did you mean 'mlflow'?)" in done.stderr
    assert done.stderr.count("(the others go on without it)") == 2
    assert list(tmp_path.glob("tracelet-runs/p/**/*tfevents*"))
    assert not (tmp_path / ".aim").exists()
    for wrong in ({"TRACELET_OFFLINE": "ja"}, {"TRACELET_EXIT_TIMEOUT": "nan"}, {"TRACELET_AIM_REPOS": "x"}):
        strict = {"TRACELET_BACKEND": "tensorboard,aim", "TRACELET_STRICT": "1", **wrong}
        assert run_python(TRAIN + "\nprint('trained')", env=strict, check=False).stdout == ""
    with pytest.raises(errors.ConfigurationError, match="TRACELET_OFFLINE='ja'"):
        resolve({}, registry.names(), {"TRACELET_OFFLINE": "ja"})


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
    readers = [tracker for tracker in TRACKERS if about(tracker).reads_dotenv]
    script = """
import os, sys
import tracelet_shim as tracelet
session = tracelet.start_logging(backend=sys.argv[1:], offline=True)
SummaryWriter("runs/x").add_scalar("a", 1.0, 1)
assert session.flush(60), session.status()
pid = session._bus._parts[0].bus.relay_pid
print(session.settings.project, "MARK" in os.environ, b"MARK=" in open(f"/proc/{pid}/environ", "rb").read())
"""
    done = run_python("from torch.utils.tensorboard import SummaryWriter\n" + script, "mlflow", *readers)
    assert done.stdout.splitlines()[-1] == "None False False"
    assert (tmp_path / "mlflow.db").is_file()
    assert not (tmp_path / "dotenv.db").exists()
