"""The ledger of a session that collectors deliver, in Redis: as `state.ledger.Ledger`, of this one session, under its lease."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.fleet.keys import KEPT_SECONDS, REMEMBERED_SECONDS, SESSIONS, UNFINISHED, Keys
from tracelet_shim.fleet.lease import Leases
from tracelet_shim.fleet.scripts import COMMIT, FINISH, LOST
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.rows import Changes, Refused, RunRow, SessionRow, row_of

__all__ = ["FleetLedger", "UnreachableError"]

_RUNS, _LEDGER, _TOLD, _LOG = 2, 3, 4, 5
"""Of the script's keys, which is which."""


class UnreachableError(sqlite3.OperationalError):
    """Redis does not answer: to whoever keeps state, as a ledger that cannot be written now."""


class FleetLedger(Ledger):
    """Read once, when a host takes the session, and written through. Used from one thread at a time.

    Args:
        client: of Redis.
        keys: the session's.
        leases: of this process.

    Raises:
        redis.RedisError: it cannot be read.
    """

    def __init__(self, client: Any, keys: Keys, leases: Leases) -> None:
        self.directory = Path()
        self._client = client
        self._keys = keys
        self._leases = leases
        self._encoder = wire.Encoder()
        decoder: wire.Decoder[list[Any]] = wire.Decoder(list[Any])
        pipe = client.pipeline(transaction=True)
        pipe.hgetall(keys.runs)
        pipe.hgetall(keys.ledger)
        runs, rest = pipe.execute()
        self.what_ran: bytes | None = rest.pop(b"what-ran", None)
        self._kept: dict[str, list[Any]] = {}
        self._numbers: dict[str, int] = {}
        for name, data in [*runs.items(), *rest.items()]:
            what = name.decode()
            self._kept[what] = [int(data)] if what.startswith("lost.") else decoder.decode(data)
            head, _, number = what.partition(".")
            if number.isdigit():
                self._numbers[head] = max(self._numbers.get(head, -1), int(number))
        self._rows: dict[str, RunRow] = {}
        for name in {what.partition(".")[2] for what in self._kept if what.startswith(("shown.", "at."))}:
            run_id, url, state, error = self._kept.get(f"shown.{name}", [None, None, "opening", None])
            cursor, part, delivered, failed = self._kept.get(f"at.{name}", [0, 0, 0, 0])
            self._rows[name] = RunRow(name, run_id, url, cursor, delivered, failed, state, error, part)
        self._ended: list[Any] = [0.0, "failed", True]
        self._session = SessionRow(*self._kept["session"]) if "session" in self._kept else None

    # -- writing ------------------------------------------------------------------------------------------------------

    def _do(self, *ops: tuple[str, int, Any] | tuple[str, int, Any, Any]) -> None:
        """Have this done, all of it, or end this process, if the session is another one's."""
        import redis

        if not ops:
            return
        keys = self._keys
        flat: list[Any] = [value for op in ops for value in op]
        try:
            answer = self._client.eval(
                COMMIT, 5, keys.lease, keys.runs, keys.ledger, keys.told, keys.log, self._leases.owner, *flat
            )
        except (redis.RedisError, OSError) as error:
            raise UnreachableError(f"{type(error).__name__}: {error}") from error
        if answer != b"OK":
            self._leases.lost(f"session {keys.session} is another host's")

    def _set(self, key: int, field: str, value: Any) -> tuple[str, int, str, bytes]:
        return "HSET", key, field, self._encoder.encode(value)

    def _next(self, what: str) -> str:
        self._numbers[what] = self._numbers.get(what, -1) + 1
        return f"{what}.{self._numbers[what]}"

    def begin(self, run: RunInfo, root: str, trackers: Iterable[str] = ()) -> SessionRow | None:
        known = self._session
        if known is None:
            self._session = row_of(run, root)
            for name in trackers:
                self._rows[name] = RunRow(name, None, None, 0, 0, 0, "opening", None, 0)
            rows = [self._set(_RUNS, f"shown.{name}", (None, None, "opening", None)) for name in self._rows]
            self._do(self._set(_LEDGER, "session", tuple(self._session)), *rows)
            return None
        _, records, counted = self._kept.get("counts", [0, 0, 0])
        events = self._kept.get("counts", [0])[0]
        return known._replace(events=events, records=records, counted=counted)

    def commit(self, session: str, changes: Changes) -> None:
        ops: list[Any] = [self._set(_LEDGER, self._next("trial"), trial) for trial in changes.trials]
        ops += [self._set(_LEDGER, self._next("path"), path) for path in changes.paths]
        ops += [self._set(_LEDGER, self._next("refused"), tuple(refused)) for refused in changes.refused]
        ops += [("HDEL", _LEDGER, f"refused.{number}") for number in changes.accepted]
        lost: dict[str, int] = {}  # in all: what is written again, since the answer was lost, must not be counted again
        for name, source, events in changes.lost:
            for field in (f"lost.{name}", f"lost.{name}.{source}"):
                lost[field] = lost.get(field, self._kept.get(field, [0])[0]) + events
        ops += [("HSET", _RUNS if field.count(".") == 1 else _LEDGER, field, total) for field, total in lost.items()]
        ops += [self._set(_RUNS, f"shown.{name}", shown) for name, shown in changes.runs.items()]
        ops += [self._set(_RUNS, f"at.{name}", tuple(standing)) for name, standing in changes.standings.items()]
        if changes.counts is not None:
            ops.append(self._set(_RUNS, "counts", changes.counts))
        self._do(*ops)
        self._kept |= {field: [total] for field, total in lost.items()}
        for name, (run_id, url, state, error) in changes.runs.items():
            self._rows[name] = self._rows[name]._replace(run_id=run_id, url=url, state=state, error=error)
        for name, (cursor, part, delivered, failed) in changes.standings.items():
            self._rows[name] = self._rows[name]._replace(cursor=cursor, part=part, delivered=delivered, failed=failed)

    def will_end(self, session: str, status: str) -> None:
        """Whoever goes on with the session finds that in its stream."""

    def end(self, session: str, status: str, *, cut_off: bool, taken: Mapping[int, int]) -> None:
        """Redis hears of it with all else that belongs to the end (`finish`)."""
        self._ended = [time.time(), status, cut_off]

    def finish(self, *, whole: bool) -> None:
        """Let go of the session, with its lease; it is remembered, and if it is not `whole`, all of it is kept.

        Raises:
            redis.RedisError: Redis does not answer; what may be done again.
        """
        keys = self._keys
        names = [keys.lease, keys.runs, SESSIONS, UNFINISHED, keys.log, keys.about, keys.ledger, keys.told, keys.alive]
        ended = self._encoder.encode(self._ended)
        since: Any = "" if whole else time.time()
        more = (self._leases.owner, keys.session, ended, since, REMEMBERED_SECONDS, KEPT_SECONDS)
        if self._client.eval(FINISH, len(names), *names, *more) == LOST.encode():
            self._leases.lost(f"session {keys.session} is another host's")

    def add_source(self, session: str, source: msg.Source) -> None:
        row = [source.id, source.path, source.logdir, source.parent, source.replay]
        self._kept[f"source.{source.id}"] = row
        self._do(self._set(_LEDGER, f"source.{source.id}", row))

    def add_writer(self, session: str, number: int, logdir: str) -> None:
        self._kept[f"writer.{number}"] = [logdir]
        self._do(self._set(_LEDGER, f"writer.{number}", [logdir]))

    def keep_what_ran(self, data: bytes) -> None:
        """Keep what ran, for a run that another owner may have to open."""
        self._do(("HSET", _LEDGER, "what-ran", data))

    def tell(self, trouble: bytes) -> None:
        """Have the program hear of a trouble."""
        self._do(("RPUSH", _TOLD, trouble))

    def trim(self, records: int) -> None:
        """Let Redis forget the records before this one."""
        self._do(("XTRIM", _LOG, f"{records}-0"))

    # -- reading ------------------------------------------------------------------------------------------------------

    def _all(self, what: str) -> list[list[Any]]:
        found = [(int(name.partition(".")[2]), row) for name, row in self._kept.items() if name.startswith(f"{what}.")]
        return [row for _, row in sorted(found, key=lambda each: each[0])]

    def runs(self, session: str) -> list[RunRow]:
        return list(self._rows.values())

    def sources(self, session: str) -> list[msg.Source]:
        return [msg.Source(*row) for row in self._all("source")]

    def writers(self, session: str) -> list[str]:
        return [row[0] for row in self._all("writer")]

    def trials(self, session: str) -> list[tuple[int, int, str | None, dict[str, Any]]]:
        return [(source, position, trial, params) for source, position, trial, params in self._all("trial")]

    def paths(self, session: str) -> list[tuple[str, str, str, str | None, str]]:
        return [(path, writer, tag, series, suffix) for path, writer, tag, series, suffix in self._all("path")]

    def taken(self, session: str) -> dict[int, int]:
        return {}

    def lost(self, session: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for name, row in self._kept.items():
            if name.startswith("lost.") and name.count(".") == 1:
                found[name.partition(".")[2]] = {"": int(row[0])}
        return found

    def set_aside_of(self, session: str, backend: str) -> list[tuple[int, Refused]]:
        rows = ((int(name.partition(".")[2]), Refused(*row)) for name, row in self._kept.items() if name.startswith("refused."))
        return [(number, refused) for number, refused in rows if refused.backend == backend]

    def count_refused(self, session: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in self._rows.values():
            if row.failed:
                found[row.backend] = row.failed
        return found

    def earlier(self, run: RunInfo, root: str) -> SessionRow | None:
        return None

    def is_waited_for(self, path: str, session: str) -> bool:
        return True

    def session(self, session: str) -> SessionRow | None:
        return self._session

    @property
    def records(self) -> int:
        """How many records earlier owners have taken."""
        return int(self._kept.get("counts", [0, 0, 0])[1])

    def close(self) -> None:
        """The client is the host's."""
