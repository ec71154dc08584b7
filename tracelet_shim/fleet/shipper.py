"""The program's side: a thread of the relay process that appends the session's records to its stream, and looks where its
trackers stand.

The event files and the index are the log behind the stream: what Redis has not got, or has lost, is read from them again. The
numbers of entries (`keys.Position`) are those of records, so nothing is appended twice, whatever answer was lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.fleet.address import Address, connect
from tracelet_shim.fleet.keys import PART, SESSIONS, UNFINISHED, About, Keys, Position
from tracelet_shim.fleet.scripts import APPEND, LATEST
from tracelet_shim.relay.log import Log
from tracelet_shim.state.rows import Shown, row_of

__all__ = ["Shipper", "Standings", "problem_of"]

_BATCH_RECORDS, _BATCH_BYTES, _PART_BYTES = 5000, 1 << 19, 1 << 20
_GATHER = 0.25
"""Seconds between two batches, as long as nobody waits: an entry takes a hundred bytes beside its records."""
_LOOK = 0.5
_CHECK = 3.0
"""Seconds after which it is looked whether Redis still has everything, when nothing is appended that would tell."""
_ALIVE_SECONDS = 120
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 10.0

logger = logging.getLogger("tracelet_shim.relay")


class Standings:
    """Where the trackers stand, as the collectors have last said.

    Attributes:
        shown: by tracker, what there is to be seen of its run.
        at: by tracker, its cursor, part, delivered and failed.
        lost: by tracker, how many of the failed events are nowhere any more.
        counts: how many events there are, of how many records.
        ended: the collectors are done with the session.
    """

    def __init__(self) -> None:
        self.shown: dict[str, Shown] = {}
        self.at: dict[str, tuple[int, int, int, int]] = {}
        self.lost: dict[str, int] = {}
        self.counts = (0, 0)
        self.ended = False

    def read(self, fields: dict[bytes, bytes]) -> None:
        """Take what Redis has (`ledger.FleetLedger` writes it)."""
        decoder: wire.Decoder[list[Any]] = wire.Decoder(list[Any])
        for name, data in fields.items():
            what, _, tracker = name.decode().partition(".")
            if what == "shown":
                run_id, url, state, error = decoder.decode(data)
                self.shown[tracker] = (run_id, url, state, error)
            elif what == "at":
                cursor, part, delivered, failed = decoder.decode(data)
                self.at[tracker] = (cursor, part, delivered, failed)
            elif what == "lost":
                self.lost[tracker] = int(data)
            elif what == "counts":
                events, records, _ = decoder.decode(data)
                self.counts = (events, records)
            elif what == "ended":
                self.ended = True


class Shipper:
    """Of one session. Everything but its thread is called from the dispatcher's.

    Args:
        address: where Redis is.
        about: what the session is opened with.
        log: its records.
        on_look: called from this thread with the standings, when there is news.
        trouble: takes what the user is to hear of, by tracker (or None) and kind.
        due: returns, when the end was asked for and everything that belongs before it is appended, the message that says so;
            asked again and again.
        root: returns the root directory, once it is known.

    Attributes:
        sent: the number of records that Redis has.
        problem: why nothing can be appended now; None if it can.
        gives_up: nobody waits for this thread any more.
    """

    def __init__(
        self,
        address: Address,
        about: About,
        log: Log,
        on_look: Callable[[Standings], None],
        trouble: Callable[[str | None, str, str], None],
        due: Callable[[], msg.Close | None],
        root: Callable[[], str | None],
    ) -> None:
        self._address = address
        self._about = about
        self._keys = Keys(about.run.session)
        self._log = log
        self._on_look = on_look
        self._trouble = trouble
        self._due = due
        self._root = root
        self._client: Any = None
        self._encoder = wire.Encoder()
        self._trouble_decoder: wire.Decoder[msg.Trouble] = wire.Decoder(msg.Trouble)
        self._telling = threading.Lock()
        self._told: list[tuple[int, msg.Message]] = []  # what comes between the records, with how many are before it
        self._appended = 0  # of those
        self._nth = 0  # of the latest entry
        self._last = Position(0)  # the latest entry that Redis has
        self._closing = False
        self._unacknowledged: deque[tuple[int, int]] = deque()  # number of records up to there, bytes
        self._bytes = 0
        self._heard = 0  # of the troubles
        self._announced = False
        self._hurry = threading.Event()
        self._next_look = self._next_check = 0.0
        self._seen = Position(0)  # the latest entry at the last look
        self.standings = Standings()
        self.sent = 0
        self.problem: str | None = None
        self.gives_up = False
        self._thread = threading.Thread(target=self._main, name="tracelet-forward", daemon=True)

    def start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    @property
    def ended(self) -> bool:
        """True if there is nothing more for this thread to do."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def handed_over(self) -> bool:
        """True if Redis has everything, the end included."""
        return self._closing and self._appended == len(self._told) and self.sent >= self._log.length

    def tell(self, message: msg.Message) -> None:
        """Have a message appended behind all records that there are now. Before the thread has started, it is about records that
        an earlier process had taken, and which Redis may not have: it goes before all that is appended."""
        with self._telling:
            self._told.append((self._log.length if self._thread.ident is not None else 0, message))
        if isinstance(message, msg.Flush):
            self.hurry()

    def hurry(self) -> None:
        """Somebody waits."""
        self._hurry.set()
        self._log.wake()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        attempt = 0
        while not self.gives_up:
            try:
                self._connect()
                while self._goes_on:
                    self._step()
                    attempt = 0
                    self._rest()
                if self.standings.ended:
                    self.problem = None
                    return
            except Exception as error:
                self.problem = problem_of(error, self._address)
                if self.problem is None:
                    logger.exception("forwarding stopped")
                    self.problem = f"forwarding stopped: {type(error).__name__}: {error}"
                text = f"{self.problem}; the event files keep what is logged meanwhile"
                self._trouble(None, f"redis-{type(error).__name__}", text)
                attempt += 1
                until = time.monotonic() + min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(attempt, 6))
                while time.monotonic() < until and not self.gives_up:
                    time.sleep(0.1)

    @property
    def _goes_on(self) -> bool:
        return not (self.gives_up or self.standings.ended)

    def _rest(self) -> None:
        if self._hurry.is_set() or self._closing:
            self._hurry.clear()
            self._log.wait(self.sent, 0.05)
        else:
            self._hurry.wait(_GATHER)

    def _connect(self) -> None:
        """Announce the session, and see how much of it is there."""
        if self._client is None:
            self._client = connect(self._address)
        keys, client = self._keys, self._client
        restored = False
        self.standings.read(client.hgetall(keys.runs))
        if self.standings.ended:  # in an earlier process's time
            self._on_look(self.standings)
            return
        if not client.exists(keys.about):
            if any(at[0] for at in self.standings.at.values()):
                self._trouble(None, "redis-empty", "Redis has lost what it had of this session; the rest is handed over again")
                self._restore()
                restored = True
            client.set(keys.about, self._encoder.encode(self._about), nx=True)
            client.zadd(SESSIONS, {keys.session: time.time()}, nx=True)
        elif not self._announced and client.zscore(UNFINISHED, keys.session) is None:
            client.zadd(SESSIONS, {keys.session: time.time()}, nx=True)
        self._announced = True
        self._find_place()
        if restored:
            self.sent = self._done
            with self._telling:
                self._appended = 0
        self.problem = None

    def _restore(self) -> None:
        """Let a Redis that has lost everything have where the trackers stood, as far as it is known here."""
        done, events = self._done, max(at[2] + at[3] for at in self.standings.at.values())
        session = row_of(self._about.run, self._root() or self._about.root or "")
        self._client.hset(self._keys.ledger, "session", self._encoder.encode(tuple(session)))
        with self._telling:  # as the ledger keeps them: the records that are handed over again need them
            told = [message for _, message in self._told]
        writers: dict[str, int] = {}
        for message in told:
            if isinstance(message, msg.Source):
                row = (message.id, message.path, message.logdir, message.parent, message.replay)
                self._client.hset(self._keys.ledger, f"source.{message.id}", self._encoder.encode(row))
            if isinstance(message, (msg.Source, msg.Writer)):
                parent = message.parent if isinstance(message, msg.Source) else None
                writers.setdefault(parent or message.logdir, len(writers))
        for logdir, number in writers.items():
            self._client.hset(self._keys.ledger, f"writer.{number}", self._encoder.encode((logdir,)))
        self._client.hset(self._keys.runs, "counts", self._encoder.encode((events, done, done)))
        for name, shown in self.standings.shown.items():
            self._client.hset(self._keys.runs, f"shown.{name}", self._encoder.encode(shown))
        for name, at in self.standings.at.items():
            self._client.hset(self._keys.runs, f"at.{name}", self._encoder.encode(at))

    @property
    def _done(self) -> int:
        """The number of records that every tracker has."""
        return min((at[0] for at in self.standings.at.values()), default=0)

    def _find_place(self) -> None:
        import redis

        try:
            last = Position.of(self._client.xinfo_stream(self._keys.log)["last-generated-id"])
            size = int(self._client.memory_usage(self._keys.log) or 0)
        except redis.ResponseError:  # no such key
            last, size = Position(0), 0
        self._last = last
        self._nth = last.nth
        self.sent = min(last.records, self._log.length)
        with self._telling:  # of what was told there, nobody knows which entry the last one was: it may come twice
            there = next((at for at, (number, _) in enumerate(self._told) if number >= self.sent), len(self._told))
            self._appended = min(self._appended, there)
        self._unacknowledged.clear()
        self._unacknowledged.append((self.sent, size))
        self._bytes = size

    def _step(self) -> None:
        """Append what there is, and look where the trackers stand."""
        while not self.gives_up and self._append():
            if time.monotonic() >= self._next_look:
                self._look()
        if not self._closing:
            end = self._due()
            if end is not None:
                self.tell(end)
                self._closing = True
                while self._append():
                    pass
        if time.monotonic() >= self._next_look:
            self._look()

    def _append(self) -> bool:
        """Append one entry; return False if there is none now, or no room for it."""
        if self._bytes > self._about.budget:
            return False
        with self._telling:
            number, message = self._told[self._appended] if self._appended < len(self._told) else (self._log.length, None)
        if self.sent < number:
            records = self._log.raw(self.sent, min(number - self.sent, _BATCH_RECORDS), _BATCH_BYTES)
            if not records:
                return False
            return self._add(self.sent + len(records), msg.Records(records))
        if message is not None:
            added = self._add(self.sent, message)
            self._appended += added
            return added
        return False

    def _add(self, records: int, message: msg.Message) -> bool:
        """Append a message; return False if Redis has something else than it had, and it has to be seen what is there."""
        data = self._encoder.encode(message)
        size = len(data) + 100
        part = 0
        while len(data) > _PART_BYTES:
            self._nth = max(self._nth + 1, PART)
            if not self._add_entry(Position(self.sent, self._nth), b"n", part, b"p", data[:_PART_BYTES]):
                return False
            data, part = data[_PART_BYTES:], part + 1
        self._nth = 0 if records > self.sent else self._nth + 1
        if not self._add_entry(Position(records, self._nth), b"n", part, b"m", data, b"t", self._now()):
            return False
        self.sent = records
        self._unacknowledged.append((records, size))
        self._bytes += size
        return True

    def _add_entry(self, number: Position, *fields: Any) -> bool:
        """Append an entry behind the one that is known to be the latest. A client connects again by itself, and so does not
        notice that Redis was away in between, and what it has lost by that."""
        answer = self._client.eval(APPEND, 1, self._keys.log, str(self._last), str(number), *fields)
        if answer != b"OK":
            logger.warning("Redis has the entries up to %s of those up to %s", answer.decode(), self._last)
            self._connect()
            return False
        self._last = number
        return True

    def _now(self) -> bytes:
        return self._encoder.encode(time.time())

    def _look(self) -> None:
        self._next_look = time.monotonic() + _LOOK
        keys = self._keys
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(keys.runs)
        pipe.lrange(keys.told, self._heard, -1)
        pipe.set(keys.alive, 1, ex=_ALIVE_SECONDS)
        fields, told, _ = pipe.execute()
        self._heard += len(told)
        for data in told:
            trouble = self._trouble_decoder.decode(data)
            self._trouble(trouble.backend, trouble.kind, trouble.message)
        self.standings.read(fields)
        done, at, shown = self._done, self.standings.at, self.standings.shown
        if len(at) == len(self._about.backends):
            if self._bytes > self._about.budget / 2:  # then collectors do not keep it for a tracker that has failed
                done = min((at[name][0] for name in at if name not in shown or shown[name][2] != "failed"), default=self.sent)
            while self._unacknowledged and self._unacknowledged[0][0] <= done:
                self._bytes -= self._unacknowledged.popleft()[1]
        self._on_look(self.standings)
        if self._last != self._seen or not self._last.records:
            self._seen, self._next_check = self._last, time.monotonic() + _CHECK
        elif time.monotonic() >= self._next_check and not self.standings.ended:
            self._next_check = time.monotonic() + _CHECK
            latest = self._client.eval(LATEST, 1, keys.log)
            if latest != str(self._last).encode():
                logger.warning("Redis has the entries up to %s of those up to %s", latest.decode(), self._last)
                self._connect()


def problem_of(error: Exception, address: Address) -> str | None:
    """Return what is wrong with Redis, without secrets; None if the error is not about that."""
    import redis

    from tracelet_shim.errors import TraceletError

    if isinstance(error, TraceletError):
        return str(error)
    if not isinstance(error, (redis.RedisError, OSError)):
        return None
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in str(error) or "WRONGPASS" in str(error):
        return f"Redis at {address.url} does not take the password; remedy: set TRACELET_REDIS_PASSWORD or _PASSWORD_FILE"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"Redis at {address.url} does not let this user do that ({error}); docs/fleet.md has the rights that are needed"
    if isinstance(error, redis.exceptions.OutOfMemoryError) or str(error).startswith("OOM"):
        return f"Redis at {address.url} is out of memory"
    return f"Redis at {address.url} does not answer ({type(error).__name__}: {str(error)[:200]})"
