"""The way to a relay process without a thread here: everything goes into a ring that outlives this process.

What is published is in the ring when `publish` returns, and the relay takes it from there, also after the end of this process.
What the relay has to say is looked at on calls that happen anyway. Where there is no room in the ring, positions are kept, as
the `Bus` does it, and go into the ring at a later look.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.bus.accounts import Accounts
from tracelet_shim.bus.bus import LAST_WORDS, Bus, closing_message, through_exits
from tracelet_shim.bus.channel import ThreadChannel
from tracelet_shim.bus.collected import Collector
from tracelet_shim.bus.launch import RelayDiedError
from tracelet_shim.bus.outbox import Outbox
from tracelet_shim.bus.process import PAUSE, RESTART_SECONDS, RESTARTS, RelayChannel
from tracelet_shim.bus.relay_process import RelayProcess
from tracelet_shim.bus.ring import Ring

__all__ = ["Mailbox"]

_LOOK = 0.1
"""Seconds between two looks at what the relay has to say, on calls that come anyway."""
_WAIT = 0.02
"""Seconds of one wait for a reply, where somebody waits."""
_MOST_BYTES = 32 << 20

_now = time.monotonic

logger = logging.getLogger("tracelet_shim")


class Mailbox:
    """Takes messages from any thread, without waiting, and hands them to a relay process in order.

    Args:
        place: log directory of the first writer -> the state directory.
        memory: bytes; the ring has up to a third of it.
        tell: takes what the user should know of the relay process.
        on_reply: takes the relay's replies; called in the threads that call in here.
        collector: the setting of that name.

    Attributes:
        lingers: seconds that the relay, which has been let go, may go on by itself.
    """

    def __init__(
        self, place: Callable[[str], str], memory: int, tell: Callable[[str], None], on_reply: Callable[[msg.Reply], None],
        collector: str | None = None,
    ) -> None:  # fmt: skip
        self._place = place
        self._memory = memory
        self._tell = tell
        self._on_reply = on_reply
        self._process: RelayProcess | None = None
        self._collector = Collector(collector, tell) if collector is not None else None
        self._instead: Bus | None = None  # where there is no relay process, or no ring
        self._told: list[msg.Message] = []  # Open, writers and sources: what a successor has to be told first
        self._encoder = wire.Encoder()
        self._accounts = Accounts()
        self._outbox = Outbox(self._accounts)
        self._put_at_once = self._outbox.put_at_once
        self._looking = threading.RLock()
        self._next_look = 0.0
        self._refused = 0  # events that came after the end
        self._stopped = self._is_over = False
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._retry: tuple[RelayDiedError, float] | None = None
        self._lost = 0  # records that predecessors of the relay had in an index which is gone
        self._gone: dict[str, int] = {}  # by tracker, how many of their events it may not have got
        self._latest: dict[str, msg.BackendState] = {}
        self._root: str | None = None
        self._flush_ids = itertools.count(1 << 32)  # those of a bus that takes over are others
        self._flushing: dict[int, bool | None] = {}  # by id, whether every tracker had everything then, once that is known
        self._asked_to_close: msg.Close | None = None
        self._close: msg.Close | None = None
        self._close_until = 0.0
        self._closed = False
        self.lingers = 0.0
        self._closed_states: dict[str, msg.BackendState] | None = None

    def start(self, message: msg.Open) -> None:
        """Start the relay with its first message."""
        self._told.append(message)
        try:
            self._process = RelayProcess(self._collector, message)
        except RelayDiedError as error:
            self._serve_here(error)
            return
        self._process.send(self._encoder.encode(message), message)
        self._process.write()

    @property
    def _bus(self) -> Bus | None:
        """What has taken everything over, if that was so just now."""
        return self._instead

    @property
    def relay_pid(self) -> int | None:
        """The process id of the relay; None if there is none."""
        return self._process.pid if self._process is not None else None

    # -- the training thread ------------------------------------------------------------------------------------------

    def publish(self, record: msg.Record) -> None:
        """Copy a record into the ring."""
        if _now() >= self._next_look:
            self.look()
        if record.hint is None and self._put_at_once(record):
            return
        if self._instead is not None:
            self._instead.publish(record)
        elif self._stopped and not self._is_over:
            with self._looking:
                self._refused += type(record.hint) is not msg.Nested
        else:
            self._outbox.put(record)
            self._tell_errors()

    def tell(self, message: msg.Message) -> None:
        """Hand over any other message, behind all that was published before it."""
        if isinstance(message, (msg.Writer, msg.Source)):
            self._told.append(message)
            if self._outbox.ring is None and self._instead is None and not self._stopped:
                self._make_ring(message)
        if self._instead is not None:
            self._instead.tell(message)
        elif not self._stopped or self._is_over:
            self._put(message)
            self.nudge()

    def _put(self, item: msg.Message) -> None:
        if self._outbox.ring is not None:
            self._outbox.put(item)
            self._tell_errors()
        elif self._process is not None:  # before the first writer; a successor is told again
            self._process.send(self._encoder.encode(item), item)

    def _tell_errors(self) -> None:
        while self._outbox.errors:
            error = self._outbox.errors.popleft()
            logger.debug("a message could not be sent", exc_info=error)
            self._on_reply(msg.Trouble(None, "unsent", f"an event could not be sent: {type(error).__name__}: {error}"))

    def _make_ring(self, first: msg.Writer | msg.Source) -> None:
        """Now it is known where the state is: what has come so far went through the pipe."""
        opened = self._told[0]
        assert isinstance(opened, msg.Open)
        logdir = first.logdir if isinstance(first, msg.Writer) or first.parent is None else first.parent
        try:
            ring = Ring(self._place(logdir), opened.run.session, min(self._memory // 3, _MOST_BYTES))
        except OSError as error:
            logger.debug("there is no place for a ring", exc_info=error)
            self._go_through_pipe()
            return
        # Options may be secrets, and are not written anywhere. Without them this says whose the ring is, should nobody else come
        # to say so.
        backends = [msgspec.structs.replace(spec, options={}) for spec in opened.backends]
        ring.put_message(self._encoder.encode(msgspec.structs.replace(opened, backends=backends)))
        self._outbox.begin(ring)
        process = self._process
        if process is not None:  # else its successor is told
            process.send(self._encoder.encode(msg.UseRing(ring.path)))
            process.write()
            ring.on_turn = process.wake

    def _go_through_pipe(self) -> None:
        process, self._process = self._process, None
        channel = RelayChannel(self._tell, process)
        self._serve_by(Bus(lambda: channel, self._memory, self._on_reply))

    def nudge(self) -> None:
        """Have the relay look into the ring now, and hear what it has to say."""
        if self._instead is not None:
            self._instead.nudge()
            return
        self.look()
        if self._process is not None:
            self._process.wake()

    # -- looking ------------------------------------------------------------------------------------------------------

    def look(self, wait: float = 0.0) -> None:
        """Take what the relay has to say, for which this waits up to `wait` seconds, and put into the ring what has waited for
        room."""
        if self._instead is not None:
            time.sleep(wait)
            return
        self._next_look = time.monotonic() + _LOOK
        if not self._looking.acquire(blocking=False):  # another thread does
            time.sleep(wait)
            return
        try:
            if self._process is not None and not self._stopped:
                if wait:
                    self._process.wait(wait)
                for reply in self._process.replies():
                    self._replied(reply)
                self._process.write()
                self._outbox.settle()
            elif self._retry is not None and time.monotonic() >= self._retry[1]:
                self._restart(self._retry[0])
            else:
                time.sleep(wait)
        except RelayDiedError as error:
            self._died(error)
        except Exception as error:
            self._over(error)
        finally:
            self._looking.release()

    def _replied(self, reply: msg.Reply) -> None:
        if isinstance(reply, (msg.Counters, msg.Closed, msg.Lingers)):
            self._latest = reply.backends
            reply.taken += self._lost
            for name, count in self._gone.items():
                if name in reply.backends:
                    reply.backends[name].failed += count
            self._accounts.learn(reply.backends, reply.taken)
            self._root = getattr(reply, "root", None) or self._root
        if isinstance(reply, msg.Flushed):
            if reply.id in self._flushing:
                self._flushing[reply.id] = reply.whole
        elif isinstance(reply, (msg.Closed, msg.Lingers)):
            self._on_reply(msg.Counters(reply.backends, taken=reply.taken))
            self._closed_states = reply.backends
            self._closed = isinstance(reply, msg.Closed)
        elif isinstance(reply, msg.More):
            self._put(msg.Rest(reply.backend))
        elif isinstance(reply, msg.Continued):
            new = reply.lost - self._lost
            self._lost = reply.lost
            if new > 0:  # without state, or if its disk was full, the relay has less than its predecessor had
                pending = {name: min(new, state.pending) for name, state in self._latest.items()}
                self._gone = {name: self._gone.get(name, 0) + count for name, count in pending.items()}
        elif not isinstance(reply, msg.Hello):
            self._on_reply(reply)

    # -- the end of the relay -----------------------------------------------------------------------------------------

    def _died(self, error: RelayDiedError) -> None:
        self._process = None
        if not error.started and not self._restarts:
            self._serve_here(error)
        else:
            self._restart(error)

    def _restart(self, error: RelayDiedError) -> None:
        """Start a successor, now or, if the machine has no room for a process, a few seconds later; delivery is over if that was
        tried too often."""
        now = time.monotonic()
        self._retry = None
        if len(self._restarts) == RESTARTS and now - self._restarts[0] <= RESTART_SECONDS:
            self._over(error)
            return
        opened = self._told[0]
        assert isinstance(opened, msg.Open)
        if self._collector is not None and (error.refused or self._restarts):  # what kills it may be this session
            self._collector.is_usable = False
        if error.refused:
            self._tell(f"the collector has not taken this session ({error}); a process of its own serves it")
        else:
            self._restarts.append(now)
            self._tell(f"the relay process died ({error}); starting it again")
        try:
            self._outbox.begin_again()
            process = RelayProcess(self._collector, opened)
        except RelayDiedError as problem:
            self._retry = (problem, now + PAUSE * len(self._restarts))
            return
        except OSError as problem:
            self._over(problem)
            return
        for message in list(self._told):
            again = msg.again(message, self._root)
            process.send(self._encoder.encode(again), again)
        ring = self._outbox.ring
        if ring is not None:
            process.send(self._encoder.encode(msg.UseRing(ring.path)))
            ring.on_turn = process.wake
        process.send(self._encoder.encode(msg.Continue()))
        process.write()
        self._process = process
        for number, whole in list(self._flushing.items()):
            if whole is None:
                self._put(msg.Flush(number))
        if ring is None and self._close is not None:
            self._put(self._close)

    def _over(self, error: Exception) -> None:
        """Delivery is over: nothing is kept in memory any more, but counted. What is in the ring stays there, for a resumed
        delivery, and more is put into it as long as there is room."""
        self._is_over = self._stopped = True
        self._refused += self._outbox.forget()
        logger.debug("delivery stopped", exc_info=error)
        self._on_reply(msg.Trouble(None, "internal", f"delivery stopped: {type(error).__name__}: {error}"))

    def _serve_here(self, error: RelayDiedError) -> None:
        """The relay cannot run here: a thread serves the trackers, and takes what is in the ring."""
        self._tell(f"the relay process cannot run here ({error}); the trackers are served from a thread instead")
        self._serve_by(Bus(ThreadChannel, self._memory, self._on_reply))

    def _serve_by(self, bus: Bus) -> None:
        opened = self._told[0]
        assert isinstance(opened, msg.Open)
        bus.start(opened)
        self._outbox.hand_over(bus)
        self._instead = bus
        if self._asked_to_close is not None:
            bus.begin_close(self._asked_to_close)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """As `Bus.flush`."""
        if self._instead is not None:
            return self._instead.flush(timeout)
        until = time.monotonic() + timeout
        number = next(self._flush_ids)
        self._flushing[number] = None
        try:
            self.tell(msg.Flush(number))
            while self._flushing[number] is None and not self._stopped:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self.look(min(_WAIT, left))
                bus = self._bus
                if bus is not None:
                    return bus.flush(max(0.0, left))
            return bool(self._flushing[number]) and not self._accounts.unsendable
        finally:
            self._flushing.pop(number, None)

    def states(self, names: Iterable[str]) -> dict[str, msg.BackendState]:
        """As `Bus.states`."""
        self.look()
        if self._instead is not None:
            return self._instead.states(names)
        return self._accounts.states(names, self._outbox.published() + self._refused)

    def unsent(self) -> int:
        """As `Bus.unsent`."""
        if self._instead is not None:
            return self._instead.unsent()
        return self._accounts.unsent(self._outbox.published() + self._refused)

    def begin_close(self, message: msg.Close) -> None:
        """As `Bus.begin_close`."""
        if self._instead is not None:
            self._instead.begin_close(message)
        elif self._close is None:
            self._asked_to_close = message
            self._close, self._close_until = closing_message(message)
            self.tell(self._close)

    def close(
        self,
        message: msg.Close,
        progress: Callable[[], None] | None = None,
        *,
        last_words: float = LAST_WORDS,
        until: threading.Event | None = None,
    ) -> dict[str, msg.BackendState] | None:
        """As `Bus.close`."""
        self.begin_close(message)
        return through_exits(lambda: self._wait_closed(message, progress, last_words, until), message)

    def _wait_closed(
        self,
        message: msg.Close,
        progress: Callable[[], None] | None,
        last_words: float,
        or_until: threading.Event | None,
    ) -> dict[str, msg.BackendState] | None:
        shown = time.monotonic()
        while self._closed_states is None and not self._stopped and time.monotonic() < self._close_until:
            self.look(_WAIT)
            if self._instead is not None:
                break
            if or_until is not None and or_until.is_set():
                return None
            if progress is not None and time.monotonic() - shown >= 0.1:
                shown = time.monotonic()
                progress()
        if self._instead is not None:
            return self._instead.close(message, progress, last_words=last_words, until=or_until)
        self._stopped = True
        process, self._process = self._process, None
        if process is not None:
            self.lingers = message.linger if process.finish(last_words, lingers=message.linger > 0) else 0.0
            with contextlib.suppress(RelayDiedError):
                for reply in process.replies() if not self._closed else ():  # it has come to its end in this moment
                    self._replied(reply)
            process.release()
        self._is_over = False
        self._outbox.end(remove=self._closed)  # the relay does that too, if it lives long enough
        return self._closed_states

    def after_fork(self) -> None:
        """In a forked child: this is the parent's."""
        self._stopped, self._is_over = True, False
        if self._instead is not None:
            self._instead.after_fork()
        if self._process is not None:
            self._process.after_fork()
        self._outbox.ring = None  # the map goes with the last reference to it

    def handles(self) -> Mapping[str, Backend]:
        """Return the backends that live in this process, by name."""
        return self._instead.handles() if self._instead is not None else {}
