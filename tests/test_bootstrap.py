"""Activation at the start of the interpreter: what it costs, what it leaves, and that it never stands in the way.

Each test is a program of its own. Most of them import a stand-in for torch, because the real one takes seconds to
import and the bootstrap looks at nothing but its name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunPython

pytestmark = pytest.mark.cold

ROOT = Path(__file__).resolve().parents[1]

STATE = """
import sys
def finders():
    return sum(type(finder).__module__ == "tracelet_shim._bootstrap" for finder in sys.meta_path)
def modules():
    return sorted(name for name in sys.modules if name.split(".")[0] == "tracelet_shim")
"""

# What `session.api` really does is tested elsewhere. Here it must be called once, at the right moment, and may fail.
API = """
import os, sys
from wrapt import register_post_import_hook
print("connecting")
def activate_from_environment():
    assert "torch.utils.tensorboard" not in sys.modules or os.environ.get("LATE")
    if "FAIL" in os.environ:
        raise RuntimeError("first line\\nsecond line")
    register_post_import_hook(lambda module: print("hooked", module.__name__), "torch.utils.tensorboard")
"""


@pytest.fixture
def fake_torch(tmp_path: Path) -> Path:
    """Make a directory for ``PYTHONPATH`` with an empty ``torch.utils.tensorboard``."""
    package = tmp_path / "fake" / "torch" / "utils" / "tensorboard"
    package.mkdir(parents=True)
    for directory in (package, package.parent, package.parent.parent):
        (directory / "__init__.py").touch()
    return tmp_path / "fake"


@pytest.fixture
def fake_api(tmp_path: Path) -> str:
    """Return the lines of a program that put `API` in the place of the real one."""
    path = tmp_path / "fake_api.py"
    path.write_text(API)
    return f"""
import importlib.abc, importlib.util, sys
class FakeApi(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == "tracelet_shim.session.api":
            return importlib.util.spec_from_file_location(fullname, {str(path)!r})
sys.meta_path.insert(0, FakeApi())
"""


def test_nothing_is_imported_without_the_variable(run_python: RunPython) -> None:
    """With `TRACELET_BACKEND` unset, an interpreter starts as if the package were not installed."""
    done = run_python(STATE + "print(finders(), modules())")
    assert (done.stdout, done.stderr) == ("0 []\n", "")


@pytest.mark.parametrize("value", ["1", "true", "YES", " on "])
def test_nothing_is_imported_when_disabled(run_python: RunPython, value: str) -> None:
    """`TRACELET_DISABLED` wins over `TRACELET_BACKEND`."""
    env = {"TRACELET_BACKEND": "mlflow", "TRACELET_DISABLED": value}
    done = run_python(STATE + "print(finders(), modules())", env=env)
    assert (done.stdout, done.stderr) == ("0 []\n", "")


@pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
def test_a_false_disabled_does_not_disable(run_python: RunPython, value: str) -> None:
    """The ways to say no are the usual ones."""
    done = run_python(STATE + "print(finders())", env={"TRACELET_BACKEND": "mlflow", "TRACELET_DISABLED": value})
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_program_without_tensorboard_loads_only_the_bootstrap(run_python: RunPython, tmp_path: Path) -> None:
    """With the variable set, and no `SummaryWriter` in sight, one small module waits, and nothing is left on disk."""
    before = sorted(path.name for path in tmp_path.iterdir())
    script = "import json, email, sqlite3\nprint(finders(), modules(), {'wrapt', 'numpy'} & set(sys.modules))"
    done = run_python(STATE + script, env={"TRACELET_BACKEND": "mlflow,aim"})
    assert done.stdout == "1 ['tracelet_shim', 'tracelet_shim._bootstrap'] set()\n"
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "script.py"])


def test_the_bootstrap_imports_no_further_module(run_python: RunPython) -> None:
    """Whatever the interpreter has not loaded anyway would be paid by every process."""
    script = """
        import sys
        before = set(sys.modules) - {"__future__"}  # which whatever watches the interpreter may have loaded
        import tracelet_shim._bootstrap
        print(sorted(set(sys.modules) - before))
    """
    assert run_python(script).stdout == "['__future__', 'tracelet_shim', 'tracelet_shim._bootstrap']\n"


def test_the_hook_fires_for_the_very_import_that_triggered_it(
    run_python: RunPython, fake_torch: Path, fake_api: str
) -> None:
    """The finder that wrapt inserts during our `find_spec` is asked for this module, too; ours is gone afterwards."""
    done = run_python(
        STATE + fake_api + "import torch.utils.tensorboard\nprint(finders())",
        env={"TRACELET_BACKEND": "mlflow", "PYTHONPATH": str(fake_torch)},
    )
    assert done.stdout == "connecting\nhooked torch.utils.tensorboard\n0\n"
    assert done.stderr == ""


def test_a_foreign_wrapt_hook_on_the_same_module_fires_as_well(
    run_python: RunPython, fake_torch: Path, fake_api: str
) -> None:
    """wrapt's finder may already be in front of ours, on its way to the same module."""
    done = run_python(
        fake_api
        + """
import wrapt
wrapt.register_post_import_hook(lambda module: print("foreign", module.__name__), "torch.utils.tensorboard")
import torch.utils.tensorboard
""",
        env={"TRACELET_BACKEND": "mlflow", "PYTHONPATH": str(fake_torch)},
    )
    assert sorted(done.stdout.split("\n")) == [
        "",
        "connecting",
        "foreign torch.utils.tensorboard",
        "hooked torch.utils.tensorboard",
    ]


def test_a_missing_tensorboard_is_reported_as_ever(
    run_python: RunPython, fake_torch: Path, fake_api: str
) -> None:
    """Programs fall back to tensorboardX on exactly this error."""
    script = """
try:
    import torch.utils.tensorboard
except ModuleNotFoundError as error:
    print(error)
"""
    # As with a torch that was built without it: the parent package is there, the module is not.
    for path in (fake_torch / "torch" / "utils" / "tensorboard").iterdir():
        path.unlink()
    (fake_torch / "torch" / "utils" / "tensorboard").rmdir()
    done = run_python(fake_api + script, env={"TRACELET_BACKEND": "mlflow", "PYTHONPATH": str(fake_torch)})
    assert done.stdout == "connecting\nNo module named 'torch.utils.tensorboard'\n"
    assert done.stderr == ""


def test_a_failure_is_one_line_and_the_program_goes_on(run_python: RunPython, fake_torch: Path, fake_api: str) -> None:
    """Training is never harmed."""
    done = run_python(
        STATE + fake_api + "import torch.utils.tensorboard as t\nprint(t.__name__, finders())",
        env={"TRACELET_BACKEND": "mlflow", "PYTHONPATH": str(fake_torch), "FAIL": "1"},
    )
    assert done.stdout == "connecting\ntorch.utils.tensorboard 0\n"
    assert done.stderr == "tracelet-shim: RuntimeError: first line second line (training goes on without it)\n"


def test_a_failure_with_no_standard_error_is_silent(run_python: RunPython, fake_torch: Path, fake_api: str) -> None:
    """A daemon may have closed it."""
    run_python(
        fake_api + "sys.stderr.close(); sys.stderr = None\nimport torch.utils.tensorboard",
        env={"TRACELET_BACKEND": "mlflow", "PYTHONPATH": str(fake_torch), "FAIL": "1"},
    )


def test_under_strict_a_failure_is_raised_at_each_import(
    run_python: RunPython, fake_torch: Path, fake_api: str
) -> None:
    """A program that tries again, or tries something else after an ImportError, does not slip through."""
    script = """
for attempt in range(2):
    try:
        import torch.utils.tensorboard
    except RuntimeError as error:
        print(type(error).__name__, "torch.utils.tensorboard" in sys.modules)
"""
    done = run_python(
        fake_api + script,
        env={"TRACELET_BACKEND": "mlflow", "TRACELET_STRICT": "1", "PYTHONPATH": str(fake_torch), "FAIL": "1"},
    )
    assert done.stdout == "connecting\nRuntimeError False\nRuntimeError False\n"
    assert done.stderr == ""


def test_an_unknown_tracker_in_the_environment_is_one_line(run_python: RunPython, fake_torch: Path) -> None:
    """What the real activation finds wrong is told on standard error, and nothing else happens."""
    done = run_python(
        STATE + "import torch.utils.tensorboard\nprint(finders(), 'mlflow' in sys.modules)",
        env={"TRACELET_BACKEND": "mlfow", "PYTHONPATH": str(fake_torch)},
    )
    assert done.stdout == "0 False\n"
    assert done.stderr.startswith("tracelet-shim: unknown backend 'mlfow' (did you mean 'mlflow'?)")
    assert done.stderr.endswith(" (training goes on without it)\n")
    assert done.stderr.count("\n") == 1


def test_an_unknown_tracker_ends_a_strict_program(run_python: RunPython, fake_torch: Path) -> None:
    """A job that must not run without its trackers does not run."""
    done = run_python(
        "import torch.utils.tensorboard\nprint('trained')",
        env={"TRACELET_BACKEND": "mlfow", "TRACELET_STRICT": "1", "PYTHONPATH": str(fake_torch)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "UnknownBackendError" in done.stderr


def test_a_program_that_makes_no_writer_opens_no_run(run_python: RunPython, tmp_path: Path) -> None:
    """Importing TensorBoard (Lightning does) is not logging. Here torch is the real one."""
    script = "import torch.utils.tensorboard, tracelet_shim\nprint(bool(tracelet_shim.get_session()))"
    done = run_python(script, env={"TRACELET_BACKEND": "tensorboard"})
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


@pytest.mark.parametrize("flags", [("-S",), ("-I", "-S")], ids=" ".join)
def test_auto_reaches_where_no_pth_file_does(
    run_python: RunPython, fake_torch: Path, fake_api: str, flags: tuple[str, ...]
) -> None:
    """`import tracelet_shim.auto` is the same activation, for interpreters without `site`."""
    packages = [str(ROOT), str(fake_torch), *(path for path in sys.path if path.endswith("site-packages"))]
    script = f"""
import sys
sys.path.extend({packages})
{STATE}
print(modules())
{fake_api}
import tracelet_shim.auto
print(finders())
import torch.utils.tensorboard
"""
    done = run_python(script, flags=flags, env={"TRACELET_BACKEND": "mlflow"})
    assert done.stdout == "[]\n1\nconnecting\nhooked torch.utils.tensorboard\n"


def test_auto_does_nothing_without_the_variable(run_python: RunPython) -> None:
    """The line may stay in the program."""
    assert run_python(STATE + "import tracelet_shim.auto\nprint(finders())").stdout == "0\n"


def test_activation_happens_once(run_python: RunPython, fake_torch: Path, fake_api: str) -> None:
    """The .pth file, read twice, and `auto` make one finder and one connection."""
    script = (
        STATE
        + fake_api
        + """
import site
exec(open(next(p + "/tracelet_shim.pth" for p in site.getsitepackages())).read())
import tracelet_shim.auto, tracelet_shim._bootstrap
tracelet_shim._bootstrap.activate()
print(finders())
import torch.utils.tensorboard
tracelet_shim._bootstrap.activate()
print(finders())
"""
    )
    done = run_python(script, env={"TRACELET_BACKEND": "mlflow", "PYTHONPATH": str(fake_torch)})
    assert done.stdout == "1\nconnecting\nhooked torch.utils.tensorboard\n0\n"


def test_auto_after_tensorboard_connects_at_once(run_python: RunPython, fake_torch: Path, fake_api: str) -> None:
    """`site` did not run, and the program has imported TensorBoard before `auto`: not too late."""
    packages = [str(ROOT), str(fake_torch), *(path for path in sys.path if path.endswith("site-packages"))]
    script = f"""
import sys
sys.path.extend({packages})
{fake_api}
import torch.utils.tensorboard
import tracelet_shim.auto
"""
    done = run_python(script, flags=("-S",), env={"TRACELET_BACKEND": "mlflow", "LATE": "1"})
    assert done.stdout == "connecting\nhooked torch.utils.tensorboard\n"


def test_other_threads_may_import_while_the_finder_leaves(
    run_python: RunPython, fake_torch: Path, fake_api: str, tmp_path: Path
) -> None:
    """Taking an entry out of `sys.meta_path` in place makes a concurrent import skip a finder, and fail."""
    for number in range(400):
        (tmp_path / f"module_{number}.py").touch()
    script = """
import importlib, threading
errors = []
def work(numbers):
    for number in numbers:
        try:
            importlib.import_module(f"module_{number}")
        except ImportError as error:
            errors.append(error)
threads = [threading.Thread(target=work, args=(range(part, 400, 4),)) for part in range(4)]
sys.setswitchinterval(1e-6)
for thread in threads:
    thread.start()
import torch.utils.tensorboard
for thread in threads:
    thread.join()
print(errors)
"""
    done = run_python(fake_api + script, env={"TRACELET_BACKEND": "mlflow", "PYTHONPATH": str(fake_torch)})
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def run_with_sitecustomize(fake_torch: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program as ``tracelet-shim run`` does where no .pth file is installed: an interpreter without our files."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)

    def run(script: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(str(p) for p in (ROOT / "tracelet_shim" / "_site", *paths))
        return subprocess.run(
            [str(bare / "bin" / "python"), "-c", script],
            env={**os.environ, "PYTHONPATH": path, **variables},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )

    return run


def test_sitecustomize_activates_in_place_of_the_pth_file(
    run_with_sitecustomize: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """It finds the package beside itself, and puts that directory last."""
    done = run_with_sitecustomize(STATE + "print(finders(), sys.path[-1])", TRACELET_BACKEND="mlflow")
    assert (done.stdout, done.stderr) == (f"1 {ROOT}\n", "")


def test_sitecustomize_runs_the_one_that_it_hides(
    run_with_sitecustomize: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The user's or the system's own comes next, under its own name."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("MARK = 'theirs'; print(__name__)")
    script = STATE + "import sitecustomize\nprint(finders(), sitecustomize.MARK)"
    done = run_with_sitecustomize(script, theirs, TRACELET_BACKEND="mlflow")
    assert (done.stdout, done.stderr) == ("sitecustomize\n1 theirs\n", "")


def test_the_start_file_names_a_callable() -> None:
    """PEP 829: each line is ``package.module:callable``, as `pkgutil.resolve_name` takes it."""
    import pkgutil

    lines = (ROOT / "packaging" / "tracelet_shim.start").read_text().split()
    assert [callable(pkgutil.resolve_name(line)) for line in lines] == [True]


def test_the_pth_file_is_one_import_line() -> None:
    """`site` runs a line only if it begins with ``import``, and each line by itself."""
    (line,) = (ROOT / "packaging" / "tracelet_shim.pth").read_text().splitlines()
    assert line.startswith("import os; ")
