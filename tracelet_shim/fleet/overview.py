"""What there is to be seen of a fleet: its sessions, who serves each, and how far that is behind."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec

from tracelet_shim.bus import wire
from tracelet_shim.fleet.delivery import about_of
from tracelet_shim.fleet.keys import HOSTS, SESSIONS, UNFINISHED, Keys, Position
from tracelet_shim.fleet.shipper import Standings

__all__ = ["FleetSession", "Hosts", "hosts", "overview"]


class FleetSession(NamedTuple):
    """One session.

    Attributes:
        session: its id.
        project, exp_name, host: of the program.
        state: ``"waits"`` for a collector, ``"served"``, or ``"unfinished"``: ended with something that was not delivered.
        owner: the host that serves it, as machine:pid:id.
        alive: its program's side has given a sign of life within two minutes.
        records: how many Redis has got.
        behind: by tracker, how many of those it has not acknowledged.
        delivered: by tracker, events.
        set_aside: by tracker, how many events it has refused, or never gets.
        states: by tracker, the state of its run.
        errors: by tracker, the latest trouble.
        lag_seconds: how old the oldest record is that some tracker has not acknowledged, by the time at which it was put into
            Redis; 0 if there is none.
        bytes: what its stream takes in Redis.
    """

    session: str
    project: str | None
    exp_name: str | None
    host: str
    state: str
    owner: str | None
    alive: bool
    records: int
    behind: dict[str, int]
    delivered: dict[str, int]
    set_aside: dict[str, int]
    states: dict[str, str]
    errors: dict[str, str]
    lag_seconds: float
    bytes: int


class Hosts(NamedTuple):
    """The hosts that have given a sign of life within the last minute, and how old that is, in seconds."""

    seen: dict[str, float]


def hosts(client: Any) -> Hosts:
    """Return the hosts that are there."""
    now = time.time()
    found = client.zrange(HOSTS, 0, -1, withscores=True)
    return Hosts({name.decode(): max(0.0, now - at) for name, at in found if now - at < 60.0})


def overview(client: Any) -> list[FleetSession]:
    """Return the sessions that are to be delivered, and those that were ended with something left, in the order of their start.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    names: dict[str, bool] = {}
    for key in (SESSIONS, UNFINISHED):
        names.update({name.decode(): key == UNFINISHED for name in client.zrange(key, 0, -1)})
    return [found for name, left in names.items() if (found := _session(client, Keys(name), unfinished=left)) is not None]


def _session(client: Any, keys: Keys, *, unfinished: bool) -> FleetSession | None:
    pipe = client.pipeline(transaction=False)
    pipe.get(keys.about)
    pipe.hgetall(keys.runs)
    pipe.get(keys.lease)
    pipe.exists(keys.alive)
    pipe.xinfo_stream(keys.log)
    pipe.memory_usage(keys.log)
    data, runs, lease, alive, stream, size = pipe.execute(raise_on_error=False)
    if data is None:
        return None
    try:
        about = about_of(data)
    except msgspec.DecodeError:
        about = None
    standings = Standings()
    standings.read(runs)
    records = Position.of(stream["last-generated-id"]).records if isinstance(stream, dict) else 0
    trackers = [spec.name for spec in about.backends] if about is not None else list(standings.shown)
    at = {name: standings.at.get(name, (0, 0, 0, 0)) for name in trackers}
    behind = {name: max(0, records - place[0]) for name, place in at.items()}
    run = about.run if about is not None else None
    return FleetSession(
        session=keys.session,
        project=run.project if run else None,
        exp_name=run.exp_name if run else None,
        host=run.program.host if run else "",
        state="unfinished" if unfinished else "served" if lease else "waits",
        owner=lease.decode() if lease else None,
        alive=bool(alive),
        records=records,
        behind=behind,
        delivered={name: place[2] for name, place in at.items()},
        set_aside={name: place[3] for name, place in at.items()},
        states={name: standings.shown.get(name, (None, None, "opening", None))[2] for name in trackers},
        errors={name: shown[3] for name, shown in standings.shown.items() if shown[3]},
        lag_seconds=_lag(client, keys, min((place[0] for place in at.values()), default=0)) if any(behind.values()) else 0.0,
        bytes=int(size) if isinstance(size, int) else 0,
    )


def _lag(client: Any, keys: Keys, done: int) -> float:
    """Return how old what comes behind `done` records is: each batch has the time at which it was appended."""
    entries = client.xrange(keys.log, min=f"({Position(done)}", max="+", count=1)
    times: wire.Decoder[float] = wire.Decoder(float)
    if not entries or b"t" not in entries[0][1]:
        return 0.0
    return max(0.0, time.time() - times.decode(entries[0][1][b"t"]))
