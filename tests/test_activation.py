"""Activation in the company of others: import hooks in front of ours, mocks in its place, modules imported again.

All with the real torch and the real comet_ml. Each test is a program of its own, whose data the tracker for TensorBoard gets.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends import TRACKERS
from tests.backends.about import about, sdk
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import tensorboard_steps
from tests.replay.commands import COMMAND, environment

ENV = {"TRACELET_BACKEND": "tensorboard", "TRACELET_QUIET": "1", "TRACELET_DELIVERY": "thread"}

LOG = """
writer = SummaryWriter("runs/x")
for step in range(5):
    writer.add_scalar("loss", step / 7, step)
writer.close()
"""
USE = "from torch.utils.tensorboard import SummaryWriter\n" + LOG

HOOKS = """
import sys
from importlib.machinery import PathFinder, SourceFileLoader

class ClaimAll:
    '''Finds what is on the path, before anybody else is asked.'''
    find_spec = staticmethod(lambda name, path=None, target=None: PathFinder.find_spec(name, path, target))

class InFrontAgain:
    '''The same, and as jealous of its place as can be.'''
    def find_spec(self, name, path=None, target=None):
        sys.meta_path.remove(self)
        sys.meta_path.insert(0, self)
        return PathFinder.find_spec(name, path, target)

class Executes:
    '''Claims what begins with a name, and executes it by itself.'''
    def __init__(self, prefix):
        self.prefix, self.native = prefix, {}
    def find_spec(self, name, path=None, target=None):
        if not name.startswith(self.prefix):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            self.native[name], spec.loader = spec.loader, self
        return spec
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(self.native[module.__name__].get_code(module.__name__), vars(module))

def without_us():
    '''As a program does that puts back what it found on other days.'''
    sys.meta_path = [finder for finder in sys.meta_path if "tracelet" not in type(finder).__module__]
"""

CUT_OFF = """
without_us()
sys.path_hooks[:] = [hook for hook in sys.path_hooks if "tracelet" not in type(hook).__module__]
"""
"""What nothing of ours survives."""

NOTHING = "warning: nothing of torch.utils.tensorboard reaches tensorboard in this process (it was imported past us, by an "


def delivered(directory: Path) -> bool:
    steps = tensorboard_steps(directory)
    assert steps in ([], list(range(5)))
    return bool(steps)


@pytest.mark.cold
@pytest.mark.parametrize(
    ("name", "before"),
    each_change(
        itertools.product(
            ("torch.utils.tensorboard", "torch.utils.tensorboard.writer"),
            ("", "import torch\n", "import torch.utils.tensorboard._utils\n"),
        ),
        ("torch.utils.tensorboard", ""), ("torch.utils.tensorboard.writer", "import torch\n"),
    ),
)  # fmt: skip
def test_comet_is_imported_first(run_python: RunPython, tmp_path: Path, name: str, before: str) -> None:
    """comet_ml's import hook claims `torch.utils.tensorboard`; programs import it wherever it is installed, as Trainer does."""
    done = run_python(f"{before}import comet_ml\nfrom {name} import SummaryWriter\n{LOG}", env={**ENV, "TRACELET_STRICT": "1"})
    assert delivered(tmp_path), done.stderr


@pytest.mark.cold
@pytest.mark.parametrize(
    "module", each_change([sdk(tracker) for tracker in TRACKERS if about(tracker).own_hook], "mlflow", "wandb")
)
def test_another_sdk_is_imported_first(run_python: RunPython, tmp_path: Path, module: str) -> None:
    """What the other SDKs do at their import changes nothing either."""
    done = run_python(f"import {module}\n{USE}", env=ENV)
    assert delivered(tmp_path), done.stderr


@pytest.mark.cold
@pytest.mark.parametrize(
    "hook",
    [
        "sys.meta_path.insert(0, ClaimAll)",
        pytest.param("import torch; sys.meta_path.insert(0, ClaimAll)", marks=pytest.mark.nightly),
        "import torch; sys.meta_path.insert(0, InFrontAgain())",
        pytest.param("import torch; sys.meta_path.insert(0, Executes('torch.utils.tensorboard'))", marks=pytest.mark.nightly),
        "import torch, tensorboard; sys.meta_path.insert(0, Executes('torch.'))",
        "sys.meta_path.insert(0, Executes('torch.utils.tensorboard.writer'))",
        "without_us()",
        pytest.param("import torch; without_us(); sys.meta_path.insert(0, ClaimAll)", marks=pytest.mark.nightly),
    ],
)
def test_an_odd_import_hook_stands_in_front(run_python: RunPython, tmp_path: Path, hook: str) -> None:
    """Whatever it claims, and however it loads that; also where ours has been thrown out."""
    done = run_python(f"{HOOKS}{hook}\n{USE}", env={**ENV, "TRACELET_STRICT": "1"})
    assert delivered(tmp_path), done.stderr
    assert done.stderr == ""


@pytest.mark.cold
@pytest.mark.parametrize(
    "hook",
    ["import comet_ml", "sys.meta_path.insert(0, Executes('torch.'))", "import torch; sys.meta_path.insert(0, InFrontAgain())"],
)
def test_a_hook_behind_start_logging(run_python: RunPython, tmp_path: Path, hook: str) -> None:
    """The call is as good as the variable: also what comes in front after it changes nothing."""
    start = "import tracelet_shim\ntracelet_shim.start_logging('tensorboard', delivery='thread', strict=True, quiet=True)"
    done = run_python(f"{HOOKS}\n{start}\n{hook}\n{USE}")
    assert delivered(tmp_path), done.stderr


LATE = {"auto": "import tracelet_shim.auto", "call": "import tracelet_shim; tracelet_shim.start_logging('tensorboard')"}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
def test_a_late_look(run_python: RunPython, tmp_path: Path, late: str) -> None:
    """Where the module was loaded unseen, `auto` and the call come in time before the first writer: the classes are patched
    where they are, those that the program has taken and derived included."""
    script = f"""
from torch.utils.tensorboard import SummaryWriter as Native
class SummaryWriter(Native):
    pass
{late}
"""
    done = run_python(HOOKS + CUT_OFF + script + LOG, env={**ENV, "TRACELET_STRICT": "1"})
    assert delivered(tmp_path), done.stderr
    assert done.stderr == ""


AGAIN = {
    "reload": "import importlib; SummaryWriter = importlib.reload(module).SummaryWriter",
    "reload past us": "sys.meta_path.insert(0, ClaimAll); import importlib; importlib.reload(module); del sys.meta_path[0]\n"
    "import this; SummaryWriter = module.SummaryWriter",
    "import again": "del sys.modules[module.__name__]; from torch.utils.tensorboard.writer import SummaryWriter",
}


@pytest.mark.parametrize("again", AGAIN)
def test_the_module_is_loaded_again(run_python: RunPython, tmp_path: Path, again: str) -> None:
    """The classes of a module that is loaded a second time are new ones, and are patched like the first."""
    done = run_python(f"{HOOKS}\nimport torch.utils.tensorboard.writer as module\n{AGAIN[again]}\n{LOG}", env=ENV)
    assert delivered(tmp_path), done.stderr


@pytest.mark.parametrize(
    ("fake", "start"),
    each_change(
        itertools.product(
            ("None", "mock.MagicMock()", "types.ModuleType(name)", "Slotted()", "with_spec()"),
            ("by the variable", "by a call before", "by a call meanwhile"),
        ),
        ("None", "by the variable"), ("mock.MagicMock()", "by a call meanwhile"), ("types.ModuleType(name)", "by a call before"),
        ("Slotted()", "by a call meanwhile"), ("with_spec()", "by the variable"),
    ),
)  # fmt: skip
def test_a_mock_was_in_its_place(run_python: RunPython, tmp_path: Path, fake: str, start: str) -> None:
    """A test suite's stand-in is left alone and breaks nothing, and the real module is found when it comes."""
    script = f"""
import sys, types
from importlib.machinery import ModuleSpec
from unittest import mock
import torch.utils

class Slotted:
    __slots__ = ("SummaryWriter",)

def with_spec():
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.SummaryWriter = object
    return module

if "before" in {start!r}:
    import tracelet_shim; tracelet_shim.start_logging()
names = ("torch.utils.tensorboard", "torch.utils.tensorboard.writer")
for name in names:
    sys.modules[name] = {fake}
if "meanwhile" in {start!r}:
    import tracelet_shim; tracelet_shim.start_logging()
import this
try:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.writer import SummaryWriter
except (ImportError, AttributeError):
    pass
for name in names:
    del sys.modules[name]
"""
    done = run_python(script + USE, env=ENV)
    assert delivered(tmp_path), done.stderr
    assert done.stderr == ""


def test_a_stand_in_with_classes_is_left_alone(run_python: RunPython) -> None:
    """Classes of the test suite's own that have the names of torch's are not patched, at the start of a session neither."""
    script = """
import sys, types
import tracelet_shim
class FileWriter:
    def add_event(self, event): ...
class SummaryWriter:
    def add_scalar(self, *args): ...
before = dict(vars(FileWriter)), dict(vars(SummaryWriter))
for name in ("torch.utils.tensorboard", "torch.utils.tensorboard.writer"):
    sys.modules[name] = module = types.ModuleType(name)
    module.FileWriter, module.SummaryWriter = FileWriter, SummaryWriter
tracelet_shim.start_logging("tensorboard", delivery="thread", strict=True)
SummaryWriter().add_scalar("loss", 1.0, 1)
print((dict(vars(FileWriter)), dict(vars(SummaryWriter))) == before)
tracelet_shim.stop_logging()
"""
    assert run_python(script).stdout == "True\n"


def test_a_lazy_module(run_python: RunPython, tmp_path: Path) -> None:
    """`importlib.util.LazyLoader` executes a module when it is first used; looking at it is no use."""
    script = """
import importlib.util, sys
import torch.utils
name = "torch.utils.tensorboard"
spec = importlib.util.find_spec(name)
spec.loader = importlib.util.LazyLoader(spec.loader)
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import this
print(name + ".writer" in sys.modules)
SummaryWriter = module.SummaryWriter
"""
    done = run_python(script + LOG, env=ENV)
    assert done.stdout.endswith("False\n")
    assert delivered(tmp_path), done.stderr


def test_the_module_is_as_it_would_be(run_python: RunPython) -> None:
    """Neither its class nor its loader shows that we have seen it, with and without a foreign loader."""
    script = f"""
{HOOKS}
hook = Executes("torch.utils.tensorboard.writer")
if "foreign" in sys.argv:
    sys.meta_path.insert(0, hook)
import inspect, torch.utils.tensorboard.writer as module
print(type(module).__name__, type(module.__loader__).__name__, module.__spec__.loader is module.__loader__)
print("class SummaryWriter" in inspect.getsource(module), sum("tracelet" in type(f).__module__ for f in sys.meta_path))
"""
    assert run_python(script, env=ENV).stdout == "module SourceFileLoader True\nTrue 1\n"
    assert run_python(script, "foreign", env=ENV).stdout == "module Executes True\nTrue 1\n"


# -- what could not be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "strict", "code"),
    [("", False, 0), ("", True, 3), ("raise SystemError", True, 1), ("sys.exit()", True, 3)],
    ids=["not strict", "strict", "strict, fails by itself", "strict, sys.exit"],
)
def test_what_never_happened_is_said(run_python: RunPython, tmp_path: Path, end: str, strict: bool, code: int) -> None:
    """A program that was to be activated, and whose writers nobody could see, ends with one line that has the remedy."""
    env = {**ENV, "TRACELET_STRICT": "1" if strict else None}
    done = run_python(HOOKS + CUT_OFF + USE + end, env=env, check=False)
    assert done.returncode == code
    (line, *more) = [line for line in done.stderr.splitlines() if line.startswith("tracelet-shim: ")]
    assert line.startswith(f"tracelet-shim: {NOTHING}")
    assert line.endswith("tracelet-shim replay LOGDIR --backend tensorboard")
    assert more == (["tracelet-shim: error: nothing was delivered; see the warning above"] if strict else [])
    assert not delivered(tmp_path)


@pytest.mark.parametrize("end", ["", "sys.exit(5)"])
@pytest.mark.parametrize("call", [False, True], ids=["variable", "call"])
def test_what_cannot_be_patched_is_said(run_python: RunPython, end: str, call: bool) -> None:
    """The same where the classes were seen and resist; a program that fails by itself keeps its code."""
    start = "import tracelet_shim\ntracelet_shim.start_logging('tensorboard', delivery='thread', strict=True)" if call else ""
    script = f"""
import sys, wrapt
def resist(*args):
    raise TypeError("immutable")
wrapt.wrap_object = resist
{start}
{USE}
{end}
"""
    env = {} if call else {**ENV, "TRACELET_STRICT": "1"}
    done = run_python(script, env=env, check=False)
    assert done.returncode == (5 if end else 3)
    assert "reaches tensorboard in this process (TypeError('immutable'))" in done.stderr
    assert "error: no" in done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"TRACELET_DISABLED": "1"},
        {"RANK": "1"},
        {"TRACELET_BACKEND": ""},
        {"TRACELET_BACKEND": None},
    ],
    ids=str,
)
def test_who_was_not_to_log_says_nothing(run_python: RunPython, env: dict[str, str | None]) -> None:
    """Nothing is missing where nothing was asked for."""
    done = run_python(HOOKS + CUT_OFF + USE, env={**ENV, "TRACELET_STRICT": "1", **env})
    assert done.stderr == ""


def test_children_of_who_logs_say_nothing(run_python: RunPython, tmp_path: Path) -> None:
    """Programs that a training process starts are inactive on purpose, and so is its fork."""
    (tmp_path / "child.py").write_text(HOOKS + CUT_OFF + USE.replace("runs/x", "runs/child"))
    script = f"""
{USE}
import os, subprocess, sys
subprocess.run([sys.executable, "child.py"], check=True)
child = os.fork()
if child == 0:
    SummaryWriter("runs/fork").add_scalar("loss", 1.0, 1)
    sys.exit()
print(os.waitpid(child, 0)[1])
"""
    done = run_python(script, env={**ENV, "TRACELET_STRICT": "1"})
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert delivered(tmp_path)


def test_who_has_said_why_says_no_more(run_python: RunPython) -> None:
    """A tracker that cannot be used here was one line at the start, and is none at the end."""
    done = run_python("import comet_ml\n" + USE, env={**ENV, "TRACELET_BACKEND": "mlfow"})
    (line,) = done.stderr.splitlines()
    assert line.startswith("tracelet-shim: unknown backend 'mlfow'")


def test_settings_that_cannot_be_right_are_said_in_the_end(run_python: RunPython) -> None:
    """What was wrong with the settings, too, is said by a program that could not be activated; strict has its code."""
    env = {**ENV, "TRACELET_DELIVERY": "pigeon"}
    for strict, code, begins in ((None, 0, ""), ("1", 3, "error: ")):
        done = run_python(HOOKS + CUT_OFF + USE, env={**env, "TRACELET_STRICT": strict}, check=False)
        assert done.returncode == code
        assert f"tracelet-shim: {begins}environment variable TRACELET_DELIVERY='pigeon' cannot be used" in done.stderr


def test_a_module_that_we_need_ourselves_is_loaded_once(run_python: RunPython) -> None:
    """The import at which we see that the classes have come may be of a module that connecting imports as well."""
    script = """
import sys
ours = [finder for finder in sys.meta_path if type(finder).__module__.startswith("tracelet_shim")]
sys.meta_path = [finder for finder in sys.meta_path if finder not in ours]
sys.path_hooks = [hook for hook in sys.path_hooks if hook not in ours]
import torch.utils.tensorboard
assert "wrapt" not in sys.modules
sys.meta_path = [*ours, *sys.meta_path]
import wrapt
print(sys.modules["tracelet_shim.session.exit_watch"].wrapt is wrapt, wrapt.__spec__.loader.__class__.__name__)
"""
    done = run_python(script, env={"TRACELET_BACKEND": "tensorboard"})
    assert done.stdout == "True SourceFileLoader\n"


@pytest.mark.parametrize(("strict", "code"), [("--no-strict", 0), ("--strict", 3)])
def test_run_knows_of_it(strict: str, code: int) -> None:
    """`tracelet-shim run` hears of a process that was not activated, however deep, and of whatever code it ended with."""
    Path("script.py").write_text(HOOKS + CUT_OFF + USE)
    command = [COMMAND, "run", "-b", "tensorboard", strict, "--", "sh", "-c", f"{sys.executable} script.py; true"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    assert "has written event files of which nothing was delivered; it has said why" in done.stderr
    assert "no run was opened" not in done.stderr
    assert ("error: not everything was delivered" in done.stderr) == (code == 3)


def test_run_strict_past_comet() -> None:
    """And where comet_ml is imported first, everything is delivered under it."""
    Path("script.py").write_text("import comet_ml\n" + USE)
    command = [COMMAND, "run", "-b", "tensorboard", "--strict", "--", sys.executable, "script.py"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=True)
    assert "tensorboard: 5 delivered, 0 pending, 0 set aside" in done.stderr


# -- near misses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["TRACELET_BACKENDS", "TRACLET_BACKEND", "TRACELETBACKEND", "tracelet_backend", "TRACELET-BACKEND", "TRCELET_BACKEND"]
)
def test_a_near_miss_of_the_variable_is_named(run_python: RunPython, name: str) -> None:
    """Who sets it meant us; one line says so, in the process and for all that it starts."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    done = run_python(script, env={name: "mlflow"})
    line = f"tracelet-shim: environment variable {name} is not known (did you mean TRACELET_BACKEND?); it is ignored\n"
    assert done.stderr == line
    assert run_python(script, env={name: "mlflow", "TRACELET_DISABLED": "1"}).stderr == ""
    assert run_python(script, env={name: "mlflow", "TRACELET_BACKEND": "aim"}).stderr == ""
    said = subprocess.run(
        [COMMAND, "run", "--quiet", "--", "true"], env=environment(**{name: "aim"}), capture_output=True, text=True, check=True
    )
    assert said.stderr == line


@pytest.mark.parametrize(
    "name", ["TRITON_BACKENDS", "TRACKIO_BACKEND", "TRACELET_BACKUP", "TRANSFORMERS_BACKEND", "TRACE_BACKEND", "TRACER_BACKEND"]
)
def test_what_others_call_theirs_is_no_near_miss(run_python: RunPython, name: str) -> None:
    """No line is written for it."""
    assert run_python("", env={name: "x"}).stderr == ""


@pytest.mark.parametrize("name", ["KERAS_BACKEND", "MPLBACKEND", "TRACELET_PROJECT", "TRACKIO_DIR", "BACKUP_TRACE"])
def test_most_names_load_nothing(run_python: RunPython, name: str) -> None:
    """The look at the environment is one expression in the .pth file."""
    script = "import sys; print([name for name in sys.modules if name.startswith('tracelet')])"
    assert run_python(script, env={name: "x"}).stdout == "[]\n"
