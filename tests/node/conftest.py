"""Fixtures: programs and collectors that leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.programs import Collector, Program, Start


@pytest.fixture
def start(tmp_path: Path, mlflow_store: None) -> Iterator[Start]:
    """Start a training program in the test's directory, which has an MLflow store, or in another: ``start("name", ...)``."""
    started: list[Program] = []

    def begin(name: str, *, directory: Path = tmp_path, **settings: Any) -> Program:
        started.append(Program(directory, name, **settings))
        return started[-1]

    yield begin
    for program in started:
        program.kill()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    """A collector of the test's own."""
    (tmp_path / "node").mkdir(mode=0o700)
    running = Collector(tmp_path / "node" / "collector.sock")
    yield running
    running.stop()
