"""The faults that the other tests rely on are what they are said to be."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import redis as client_of_redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.fleet.conftest import Behind, MakeRedis
from tests.fleet.redis import Redis, programs


def test_a_killed_redis_has_what_it_was_told(redis: Redis) -> None:
    with redis.client() as client:
        client.xadd("stream", {"n": "1"}, id="5-1")
    redis.kill()
    redis.start()
    with redis.client() as client:
        assert client.xrange("stream") == [("5-1", {"n": "1"})]


def test_a_stopped_redis_keeps_connections(redis: Redis) -> None:
    said: list[Any] = []
    with redis.client() as client:
        client.ping()
        redis.stop_answering()
        asking = threading.Thread(target=lambda: said.append(client.set("a", "b")))
        asking.start()
        asking.join(0.3)
        assert said == []
        redis.go_on()
        asking.join()
        assert said == [True]


def test_a_full_redis_refuses_to_grow(redis: Redis) -> None:
    with redis.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(client_of_redis.exceptions.OutOfMemoryError):
            client.set("some", "x" * 10_000)
        redis.allow(0)
        assert client.set("more", "x" * 10_000)


def test_a_cut_network_says_nothing(redis: Redis, behind: Behind) -> None:
    """What is connected hears nothing then, and nothing new is connected; once it is mended, the old connections end."""
    network = behind(redis)

    def connected() -> Any:
        return client_of_redis.Redis(
            "127.0.0.1", network.port, password=redis.password, socket_timeout=0.3, decode_responses=True,
            retry=Retry(NoBackoff(), 0),  # by default it would connect anew, and hear that there is nobody
        )  # fmt: skip

    old, new = connected(), connected()
    assert old.ping()
    network.cut()
    with pytest.raises(client_of_redis.TimeoutError):
        old.ping()
    with pytest.raises(client_of_redis.ConnectionError):
        new.ping()
    network.mend()
    assert new.set("a", "b")
    assert new.get("a") == "b"
    old.close()
    new.close()


@pytest.mark.parametrize("name", sorted(programs()))
def test_an_acl_user_may_no_more_than_its_rules(make_redis: MakeRedis, name: str) -> None:
    """Each server takes what the fleet relies on: users, streams with numbers of one's own, scripts with flags."""
    server = make_redis(password="secret-7", user="trainer", acl="~tracelet:* +@all", program=programs()[name])
    with server.client() as client:
        assert client.xadd("tracelet:{s}:log", {"d": "x"}, id="7-0") == "7-0"
        with pytest.raises(client_of_redis.ResponseError, match="equal or smaller"):
            client.xadd("tracelet:{s}:log", {"d": "x"}, id="7-0")
        assert client.eval("#!lua flags=allow-oom\nreturn redis.call('GET', KEYS[1])", 1, "tracelet:a") is None
        with pytest.raises(client_of_redis.exceptions.NoPermissionError):
            client.set("other", "x")
    assert not server.holds("secret-7")


def test_the_page_names_each_fault() -> None:
    """docs/fleet.md has every test of a fault, and no other one."""
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "fleet.md").read_text()
    table = page.partition("`tests/fleet/test_faults.py` |")[2].partition("\n\n")[0]
    tests = re.findall(r"^def (test_\w+)", (root / "tests" / "fleet" / "test_faults.py").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(test_\w+)`", table)) == sorted(tests)
