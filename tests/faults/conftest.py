"""Fixtures of the fault suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.faults.harness import MLflowServer, Training


class Train(Protocol):
    """What the fixture `train` is."""

    def __call__(self, code: str, **settings: Any) -> Training: ...


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """Start a training program in the test's directory: ``train(code, env={}, exit_timeout=60)``."""
    started: list[Training] = []

    def start(code: str, **settings: Any) -> Training:
        started.append(Training(tmp_path, code, **settings))
        return started[-1]

    yield start
    for program in started:
        program.stop()


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(_server: MLflowServer) -> MLflowServer:
    """A running ``mlflow server``, the same for all tests, since starting one takes many seconds. Each test has an experiment
    of its own, and may kill it."""
    _server.start()
    return _server
