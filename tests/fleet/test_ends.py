"""How a session ends, and what its program's side does about what it alone can see: against a real Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from redis import Redis as BareRedis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.harness import eventually
from tests.fleet.conftest import Behind, Collect
from tests.fleet.redis import SESSIONS, Redis
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.writer_names import WriterNames
from tracelet_shim.fleet.address import address_of, connect
from tracelet_shim.fleet.keys import UNFINISHED, About, Keys
from tracelet_shim.fleet.lease import Leases
from tracelet_shim.fleet.ledger import FleetLedger, UnreachableError
from tracelet_shim.fleet.shipper import Shipper
from tracelet_shim.relay.log import Log
from tracelet_shim.state.rows import Changes

HOUR = 3600.0
KEYS = Keys("session1")
PROGRAM = Program(script="train.py", module=None, argv=(), cwd="/", executable="python", pid=1, host="node")
encode = wire.Encoder().encode


@pytest.fixture
def client(redis: Redis) -> Iterator[Any]:
    """A client as collectors have one."""
    made = connect(address_of(redis.url), {"TRACELET_REDIS_PASSWORD": redis.password or ""})
    yield made
    made.close()


class Left(Exception):  # noqa: N818 - what would end a process
    pass


class Told(Leases):
    """Says so, instead of ending the process."""

    def lost(self, why: str) -> NoReturn:
        raise Left(why)


def test_the_end_is_noted_at_once_and_whatever_memory_there_is(redis: Redis, client: Any) -> None:
    """A session that ends with something left is unfinished, ended and nobody's, or none of that; a full Redis takes it; and
    who asks again, since the answer was lost, is no stranger."""
    leases = Told(client, "me", HOUR)
    client.zadd(SESSIONS, {KEYS.session: 1})
    assert leases.claim(KEYS)
    ledger = FleetLedger(client, KEYS, leases)
    ledger.end(KEYS.session, "finished", cut_off=False, taken={})
    assert not client.hexists(KEYS.runs, "ended")
    redis.allow(0.1)
    ledger.finish(whole=False)
    ledger.finish(whole=False)
    redis.allow(0)
    assert redis.sessions() == []
    assert client.zrange(UNFINISHED, 0, -1) == [KEYS.session.encode()]
    assert client.hexists(KEYS.runs, "ended")
    assert not client.exists(KEYS.lease)


def test_nobody_ends_anothers_session(client: Any) -> None:
    client.zadd(SESSIONS, {KEYS.session: 1})
    assert Told(client, "other", HOUR).claim(KEYS)
    with pytest.raises(Left):
        FleetLedger(client, KEYS, Told(client, "me", HOUR)).finish(whole=True)
    assert client.zcard(SESSIONS) == 1


def test_a_lease_that_came_too_late_is_not_inherited(client: Any) -> None:
    """A process of a session's own that took longer to start than the lease holds does not write beside the new owner."""
    assert Told(client, "other", HOUR).claim(KEYS)
    with pytest.raises(Left):
        Told(client, "me", HOUR).inherit(KEYS)


def test_what_is_noted_again_is_counted_once(redis: Redis, behind: Behind, client: Any) -> None:
    """Redis has done what it was told, and its answer came too late."""
    network = behind(redis)
    slow = BareRedis("127.0.0.1", network.port, password=redis.password, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))
    leases = Told(client, "me", HOUR)
    assert leases.claim(KEYS)
    ledger = FleetLedger(slow, KEYS, leases)
    ledger.commit(KEYS.session, Changes(lost=[("good", 0, 5)]))
    network.seconds = 0.7
    again = Changes(lost=[("good", 0, 2), ("good", 1, 1)])
    with pytest.raises(UnreachableError):
        ledger.commit(KEYS.session, again)
    eventually(lambda: client.hget(KEYS.runs, "lost.good") == b"8")
    network.seconds = 0.0
    ledger.commit(KEYS.session, again)
    slow.close()
    assert FleetLedger(client, KEYS, leases).lost(KEYS.session) == {"good": {"": 8}}
    assert client.hget(KEYS.ledger, "lost.good.0") == b"7"


@pytest.mark.slow
def test_a_session_that_has_ended_is_not_announced_for_good(collect: Collect, redis: Redis, client: Any) -> None:
    """Its program's side, started again at that moment, announces it once more: collectors take that back."""
    client.set(KEYS.about, b"")
    client.hset(KEYS.runs, "ended", encode([time.time(), "finished", False]))
    client.zadd(SESSIONS, {KEYS.session: time.time()})
    collect()
    redis.wait_delivered(30)


@pytest.fixture
def ship(redis: Redis) -> Iterator[Callable[..., Shipper]]:
    """The program's side of a session to "good" and "bad" that has logged so much."""
    shippers: list[Shipper] = []

    def start(records: int, size: int, budget: int = 1_000_000) -> Shipper:
        log = Log(Decoder(WriterNames()))
        log.memory = 1e9
        log.add_cursor(lambda: 0)
        log.append([msg.Record(0, number, bytes(size)) for number in range(records)])
        run = RunInfo(session=KEYS.session, project="p", exp_name="e", program=PROGRAM, started=1.0)
        specs = [msg.BackendSpec(name, f"none:{name}", {}) for name in ("good", "bad")]
        address = address_of(redis.url)._replace(password=redis.password)
        about = About(1, run, specs, 1_000_000, budget, "/runs")
        close = msg.Close("finished", 10.0)
        shippers.append(Shipper(address, about, log, lambda _: None, lambda *_: None, lambda: close, lambda: "/runs"))
        shippers[-1].start()
        return shippers[-1]

    yield start
    for shipper in shippers:
        shipper.gives_up = True
        eventually(lambda shipper=shipper: shipper.ended)  # type: ignore[misc]


def test_a_tracker_that_has_failed_for_good_stops_nobody_at_the_budget(ship: Callable[..., Shipper], client: Any) -> None:
    """Collectors let Redis forget what only such a tracker lacks, beyond half of the budget: the program's side knows that."""
    client.hset(KEYS.runs, "shown.bad", encode((None, None, "failed", "wrong key")))
    client.hset(KEYS.runs, "at.bad", encode((0, 0, 0, 0)))
    shipper = ship(records=400, size=10_000)

    def all_sent() -> bool:
        client.hset(KEYS.runs, "at.good", encode((shipper.sent, 0, shipper.sent, 0)))
        return shipper.handed_over

    eventually(all_sent, 30)


def test_what_redis_has_lost_is_appended_again_though_nothing_more_is_logged(
    ship: Callable[..., Shipper], redis: Redis, client: Any
) -> None:
    """The end of a program is the last thing that it has appended; it looks after that until collectors have it."""
    shipper = ship(records=10, size=10)
    eventually(lambda: shipper.handed_over)
    entries = client.xlen(KEYS.log)
    redis.kill()
    redis.forget()
    redis.start()
    eventually(lambda: client.xlen(KEYS.log) == entries and redis.sessions() == [KEYS.session], 30)
