"""Where the relay process imports from: where the training process does, in the same order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.replay.commands import environment

pytestmark = pytest.mark.cold

ROOT = Path(__file__).parents[2]
FROM_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no safe path")

BACKEND = """
import json, os, sys
from tracelet_shim.testing import RecordingBackend

class Telling(RecordingBackend):
    name = "telling"

    def open(self, run):
        import asyncio, pathlib
        import tracelet_shim
        found = [sys.path, asyncio.__file__, pathlib.__file__, tracelet_shim.__file__, sys.flags.no_user_site]
        with open("told.json", "w") as file:
            json.dump([*found, os.environ.get("PYTHONPATH"), os.environ.get("PYTHONSAFEPATH")], file)
        return super().open(run)
"""

PROGRAM = """
import json, sys
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
tracelet.start_logging(backend="telling", strict=True)
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 1.0, 1)
json.dump(sys.path, open("path.json", "w"))
"""


def install(directory: Path) -> Path:
    """Make a directory with the tracker in it; return it."""
    info = directory / "telling-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: telling\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tracelet_shim.backends]\ntelling = telling_backend:Telling\n")
    (directory / "telling_backend.py").write_text(BACKEND)
    return directory


def told(directory: Path) -> tuple[list[str], list[str], list[object]]:
    """Return the path of the training process, and what the relay has told: its path, and the rest."""
    path, *rest = json.loads((directory / "told.json").read_text())
    return json.loads((directory / "path.json").read_text()), path, rest


def test_old_packages_beside_ours_do_not_hide_the_standard_library(run_python: RunPython, tmp_path: Path) -> None:
    """An index has packages named asyncio and pathlib, for Pythons of old. Where one is installed beside us the program does not
    see it, and neither does the relay: it starts, and its modules are the standard library's."""
    site = install(tmp_path / "site-packages")
    (site / "tracelet_shim").symlink_to(ROOT / "tracelet_shim")
    for name in ("asyncio", "pathlib", "enum", "json", "typing", "runpy", "importlib", "logging", "threading", "selectors"):
        (site / f"{name}.py").write_text(f"raise ImportError({name!r} + ' is too old for this Python')\n")
    done = run_python(f"import sys\nsys.path.remove({str(ROOT)!r})\nsys.path.append({str(site)!r})\n{PROGRAM}")
    assert "cannot run here" not in done.stderr
    _, path, (asyncio, pathlib, package, *_) = told(tmp_path)
    import pathlib as ours

    assert pathlib == ours.__file__
    assert Path(str(asyncio)).parents[1] == Path(str(pathlib)).parent
    assert package == str(site / "tracelet_shim" / "__init__.py")
    assert path[-2:] == [str(site), str(tmp_path)]


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        ([], {}),
        pytest.param(["-s"], {}, marks=pytest.mark.nightly),
        pytest.param(["-P"], {}, marks=FROM_3_11),
        pytest.param([], {"PYTHONSAFEPATH": "1"}, marks=[FROM_3_11, pytest.mark.nightly]),
    ],
    ids=["plain", "no user site", "safe path", "safe path variable"],
)
def test_the_path_is_the_programs_in_its_order(
    run_python: RunPython, tmp_path: Path, flags: list[str], variables: dict[str, str]
) -> None:
    """What PYTHONPATH and the program have put in front stays in front; only the script's own directory goes to the end. Of the
    variables, what an SDK starts gets PYTHONPATH as little as before, and the others as they are."""
    site, front = install(tmp_path / "packages"), tmp_path / "front"
    done = run_python(
        f"import sys\nsys.path.insert(0, {str(front)!r})\n{PROGRAM}", flags=flags, env={"PYTHONPATH": str(site), **variables}
    )
    assert "cannot run here" not in done.stderr
    program, path, (_, _, package, no_user_site, python_path, safe_path) = told(tmp_path)
    own = [str(tmp_path)] if str(tmp_path) in program else []
    assert path == [entry for entry in program if entry not in own] + own
    assert path[:2] == [str(front), str(site)]
    assert bool(own) == (flags != ["-P"] and not variables)
    assert package == str(ROOT / "tracelet_shim" / "__init__.py")
    assert no_user_site == ("-s" in flags)
    assert (python_path, safe_path) == (None, variables.get("PYTHONSAFEPATH"))


def test_the_directory_of_a_module_goes_to_the_end(tmp_path: Path) -> None:
    """With -m, Python looks in the working directory first; the program may have gone elsewhere since."""
    site = install(tmp_path / "packages")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "train.py").write_text(f"import os\nos.mkdir('out')\nos.chdir('out')\n{PROGRAM}")
    command = [sys.executable, "-m", "pkg.train"]
    subprocess.run(command, cwd=tmp_path, env=environment(PYTHONPATH=str(site)), check=True, timeout=120)
    program, path, _ = told(tmp_path / "out")
    assert program[:2] == [str(tmp_path), str(site)]
    assert path == [*program[1:], str(tmp_path)]
