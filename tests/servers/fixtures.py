"""Fixtures of the suite that runs the unmodified SDKs online, against stand-in servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import train
from tests.servers.harness import Server, server_class

__all__ = ["Serve", "serve", "train"]

Serve = Callable[[str], Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a stand-in server: ``serve("comet")``."""
    started: list[Server] = []

    def start(name: str) -> Server:
        started.append(server_class(name)(tmp_path / f"{name}-server"))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.kill()
