"""Isolation of the whole suite, and programs run in processes of their own.

No test reads or writes the developer's home directory, tracker settings or run stores, and none reaches for a network:
before any test module is imported, and so before any SDK is, the environment is emptied of everything that steers a
tracker and then points it at a temporary directory. Each test runs in a working directory of its own, because most
trackers keep their runs in the current one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests import launch
from tests.environment import foreign_variables, isolated_environment

pytest.register_assert_rewrite("tests.online.rounds")  # before anybody imports it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-nightly", action="store_true", help="leave out the tests that are marked as nightly")
    parser.addoption("--cold", action="store_true", help="start an interpreter for each program, instead of forking one")


@pytest.hookimpl(tryfirst=True)  # before pytest's own, which takes the temporary directory from here
def pytest_configure(config: pytest.Config) -> None:
    # A shell script's background jobs have SIGINT ignored, and so would the programs that the tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    place = _memory()
    _sweep(place)
    home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    config.add_cleanup(launch.stop)
    if config.option.basetemp is None:  # xdist tells its workers theirs
        config.option.basetemp = str(home / "tests")
    for name in foreign_variables():
        del os.environ[name]
    os.environ.update(isolated_environment(home))
    # A session that is to end without its tracker is over then. What goes on by itself is tested in delivery/test_linger.py.
    os.environ["TRACELET_LINGER"] = "0"
    (home / "tmp").mkdir()  # for what SDKs leave behind
    os.environ["TMPDIR"] = tempfile.tempdir = str(home / "tmp")
    # Kept between runs: matplotlib takes seconds to look through the fonts.
    os.environ["MPLCONFIGDIR"] = str(config.rootpath / ".pytest_cache" / "matplotlib")
    # Not in the working directory, which is another for each test.
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(config.rootpath / ".hypothesis")

    from hypothesis import settings

    # No deadline: on a shared machine, a timed test fails for reasons of its own. The tests of each change try the same examples
    # each time, so that what fails is the change's; those of each night try new ones.
    chosen = config.getoption("--without-nightly")
    settings.register_profile("tests", deadline=None, print_blob=True, derandomize=chosen)
    settings.load_profile("tests")


_PREFIX = "tracelet-tests-"


def _sweep(place: Path | None) -> None:
    """Remove what a run that was killed, hours ago, has left in memory."""
    for left in place.glob(f"{_PREFIX}*-*") if place else ():
        with contextlib.suppress(OSError, ValueError):
            about = left.stat()
            gone = not Path("/proc", str(int(left.name.removeprefix(_PREFIX).partition("-")[0]))).exists()
            if gone and about.st_uid == os.getuid() and time.time() - about.st_mtime > 6 * 3600:
                shutil.rmtree(left, ignore_errors=True)


def _memory() -> Path | None:
    """Return a directory in memory, if it has room for us: the trackers' stores wait for the disk most of their time."""
    place = Path("/dev/shm")
    try:
        has_room = shutil.disk_usage(place).free > 4 * 2**30
        runs_programs = not os.statvfs(place).f_flag & os.ST_NOEXEC
    except OSError:
        return None
    return place if has_room and runs_programs and os.access(place, os.W_OK) else None


AT_NIGHT = pytest.StashKey[set[str]]()
"""Of a configuration, the names of the tests all of whose members are marked as nightly."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for item in items:
        names[item.get_closest_marker("nightly") is not None].add(item.name.partition("[")[0])
    config.stash[AT_NIGHT] = names[True] - names[False]
    if config.getoption("--without-nightly"):
        left_out = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    if hasattr(config, "workerinput"):  # what takes long comes first, so that nobody waits for it at the end
        items.sort(key=lambda item: not item.get_closest_marker("slow"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, give each worker the next test that nobody has begun; what shares something goes to one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

    return Scheduling(config, log)


TOGETHER = re.compile(
    r"tests/backends/\w+/(?!test_online)"  # a tracker's SDK is imported once
    r"|tests/conformance/test_trackers\.py::\w+\[((\w+-)?(process|thread))"  # one program each
    r"|tests/faults/test_(mlflow|values)\.py"  # one MLflow server
    r"|tests/(intercept/test_native_files|test_custom_backend|test_packaging|test_publish_cost)\.py"  # a fixture of the module's
)
"""How the ids of tests begin that have something in common, so that one process has to run them. The others run programs of their
own, or take no time."""


def together(nodeid: str) -> str:
    """Return the name of a test's group: the test itself, if it has none."""
    found = TOGETHER.match(nodeid)
    if not found:
        return nodeid
    return f"the program of {found[1]}" if found[1] else "the MLflow server" if found[4] else found[0]


@pytest.fixture(autouse=True)
def _cold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = request.config.getoption("--cold") or request.node.get_closest_marker("cold") is not None
    monkeypatch.setattr(launch, "always_cold", cold)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mlflow_store(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have an MLflow store without runs in the test's directory, as a user's second program finds it: MLflow's migrations take
    longer than all else that most programs do. Tests of MLflow itself, and of first programs, do without."""
    place = tmp_path_factory.getbasetemp()
    whole = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "whole-mlflow.db"  # the same for all workers
    if not whole.exists():
        new = tmp_path_factory.mktemp("store") / "mlflow.db"
        make = f"import mlflow; mlflow.MlflowClient({f'sqlite:///{new}'!r}).search_experiments()"
        subprocess.run([sys.executable, "-c", make], cwd=new.parent, check=True, capture_output=True)
        os.replace(new, whole)
    shutil.copy(whole, tmp_path / "mlflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db, db:
        db.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", (str(tmp_path / "mlruns" / "0"),))


class RunPython(Protocol):
    """What the fixture `run_python` is."""

    def __call__(
        self,
        script: str,
        *args: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
        flags: Sequence[str] = (),
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_python(tmp_path: Path) -> Iterator[RunPython]:
    """Run a program in a process of its own, with the interpreter and the isolated environment of the tests.

    ``run_python(script, *args, env={}, cwd=tmp_path, timeout=120, flags=(), check=True)`` returns the
    `subprocess.CompletedProcess`, with text output. `script` is the program's text, and is stored in `cwd` as
    ``script.py``. `env` adds variables, or removes those that are None. `flags` are the interpreter's. With `check`, an
    exit code other than 0 fails the test and shows what the program printed. A program that takes longer than `timeout`
    seconds is killed with all that it started, and fails the test in any case. `tests.launch` tells how it starts.
    """
    started: list[launch.Process] = []

    def run(
        script: str,
        *args: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
        flags: Sequence[str] = (),
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        directory = cwd or tmp_path
        path = directory / "script.py"
        path.write_text(textwrap.dedent(script), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        for name, value in (env or {}).items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        command = [sys.executable, *flags, str(path), *args]
        # Into files, not pipes: a process that outlives the program (the relay) holds the pipes open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = launch.start(
                path, *args, env=environment, cwd=directory, stdout=out.fileno(), stderr=err.fileno(), flags=flags
            )
            started.append(process)
            try:
                process.wait(timeout)
                problem = f"ended with {process.returncode}" if check and process.returncode else None
            except subprocess.TimeoutExpired:
                _kill_group(process)
                problem = f"took longer than {timeout} s"
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())
        if problem:
            pytest.fail(f"the program {problem}\n-- stdout\n{done.stdout}\n-- stderr\n{done.stderr}", pytrace=False)
        return done

    yield run
    for process in started:
        _kill_group(process)


def _kill_group(process: launch.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
