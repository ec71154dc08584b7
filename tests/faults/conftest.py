"""Fixtures of the fault suite."""

from __future__ import annotations

import ctypes
import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests import launch
from tests.backends.mlflow.postgres import PostgreSQL
from tests.backends.mlflow.tracking import MLflowServer
from tests.faults.harness import Training


class Train(Protocol):
    """What the fixture `train` is."""

    def __call__(self, code: str, **settings: Any) -> Training: ...


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """Start a training program in the test's directory, or another: ``train(code, env={}, exit_timeout=60)``."""
    started: list[Training] = []

    def start(code: str, *, directory: Path = tmp_path, **settings: Any) -> Training:
        started.append(Training(directory, code, **settings))
        return started[-1]

    yield start
    for program in started:
        program.stop()


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    database = PostgreSQL()
    try:
        database.start()
        server = MLflowServer(tmp_path_factory.mktemp("server"), database)
        yield server
        server.kill()
    finally:
        database.remove()


@pytest.fixture
def server(_server: MLflowServer) -> MLflowServer:
    """A running ``mlflow server``, the same for all tests, since starting one takes many seconds. Each test has an experiment
    of its own, and may kill it, or its database."""
    _server.start()
    return _server


@functools.cache
def _own_mounts() -> bool:
    """Give this process a table of mounts of its own, which the programs that it starts share: what a test has mounted is gone
    with them, even if they are killed, and nobody else meets it."""
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 0x40000
    libc = ctypes.CDLL(None, use_errno=True)
    launch.stop()  # a program that is forked has the mounts of the process that forks
    return libc.unshare(clone_newns) == 0 and libc.mount(b"none", b"/", None, ms_rec | ms_private, None) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small file system of its own: ``small_disk("1m")`` returns the directory."""
    if not _own_mounts():
        pytest.skip("no file system can be mounted here")
    places: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tracelet-test", str(place)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=False)
