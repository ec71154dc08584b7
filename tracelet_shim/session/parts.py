"""The runs of a session as one bus: each run of the user's is served by itself, beside the session's own.

A *part* is what is opened, delivered and ended together: a bus, a relay, an entry in the ledger. The session's own runs are
one part. A run that the user has active in a tracker gets a part of its own when the first writer is made in it; when he ends
the run, what was logged into it is delivered first, and the part ends too: fifty folds need no fifty relays.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from tracelet_shim import intercept
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Backend
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.bus import Bus
from tracelet_shim.bus.mailbox import Mailbox
from tracelet_shim.display.terminal import say
from tracelet_shim.eventfiles.own_files import is_own
from tracelet_shim.intercept import ActiveRuns
from tracelet_shim.session import run_ends, threads_at_exit

__all__ = ["Parts", "Plan", "Route"]

_Key = tuple[str, "str | None"]
"""A tracker, and the id of a run of the user's in it; None for the session's own run."""
_NOTICEABLE = 1.0
"""Seconds that the end of a run may wait without a word."""
_FROM_BEST_TO_WORST = ("closed", "open", "opening", "retrying", "abandoned", "failed")


class Plan(NamedTuple):
    """How a session wants its parts to be.

    Attributes:
        open_message: (id, backends) -> the first message of a part.
        make_bus: (backends, on_reply) -> the way to what hosts them.
        opens: called when a part with these id and backends is about to be opened.
        ends: called when the user is about to end a run: (tracker, id).
        on_reply: takes what parts have to say, the counters of all together; called from other threads.
        on_problem: takes an error of ours.
        exit_timeout: seconds that the end of a run of the user's may wait.
        quiet: say nothing while it does.
    """

    open_message: Callable[[str, list[msg.BackendSpec]], msg.Open]
    make_bus: Callable[[list[msg.BackendSpec], Callable[[msg.Reply], None]], Bus | Mailbox]
    opens: Callable[[str, list[msg.BackendSpec]], None]
    ends: Callable[[str, str], None]
    on_reply: Callable[[msg.Reply], None]
    on_problem: Callable[[Exception], None]
    exit_timeout: float
    quiet: bool


class Route(Protocol):
    """Where the records of an event file go."""

    def publish(self, record: msg.Record) -> None: ...


class _Fan:
    """Several routes. A bus may take the data off a record, so each has its own."""

    def __init__(self, routes: list[Route]) -> None:
        self._first, *self._others = routes

    def publish(self, record: msg.Record) -> None:
        for route in self._others:
            route.publish(msg.Record(record.source, record.position, record.data, record.value, record.hint))
        self._first.publish(record)


class _Over:
    """In the place of a bus, when the user has ended the run."""

    def __init__(self, parts: Parts, key: _Key) -> None:
        self._parts = parts
        self._key = key

    def publish(self, record: msg.Record) -> None:
        self._parts.came_late(self._key, record)


class _Part:
    def __init__(self, session: str, specs: list[msg.BackendSpec], bus: Bus | Mailbox) -> None:
        self.session = session
        self.specs = specs
        self.bus = bus
        self.states = {spec.name: msg.BackendState() for spec in specs}
        self.root: str | None = None
        self.spilled = False
        self.ender: int | None = None  # the thread in which the user ends the run
        self.handed_over = threading.Event()  # what is left is uploaded when the user ends the run
        self.ended = threading.Event()
        self._resumable = {spec.name for spec in specs if spec.class_path}

    def now(self) -> dict[str, msg.BackendState]:
        """Return where each tracker stands, with all that its relay has not taken yet. (`states` is what the relay has said.)"""
        return self.bus.states(self.states)

    @property
    def complete(self) -> bool:
        """True if `replay --resume` would find nothing to do; what was given as an object it cannot open."""
        states = [state for name, state in self.now().items() if name in self._resumable]
        return all(state.state == "closed" and not state.pending and not state.refused for state in states)


class Parts:
    """All that a session delivers to. It stands where a `Bus` would stand: what is flushed or closed is so everywhere.

    Args:
        session: the session's id, which its first part has.
        specs: the session's backends.
        plan: how the parts are to be.

    Attributes:
        routes: by number of the source, where its records go; read for each record.
        ids: of the parts so far, which are sessions of their own in the ledger.
    """

    def __init__(self, session: str, specs: list[msg.BackendSpec], plan: Plan) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._plan = plan
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may end a run while it is held
        self._new_ids = itertools.chain([session], iter(lambda: uuid.uuid4().hex[:16], None))
        self._parts: list[_Part] = []
        self._by_key: dict[_Key, _Part] = {}
        self._ending: dict[_Key, _Part] = {}
        self._over: set[_Key] = set()  # ended by the user
        self._before: dict[str, msg.BackendState] = {}  # of parts that are gone
        self._incomplete: list[str] = []  # their root directories, where something is missing
        self._writers: dict[_Key, list[str]] = {}
        self._sources: list[tuple[msg.Source, ActiveRuns]] = []
        self._closed = self._has_begun = False
        self._silent = False  # a relay did not answer at the end of its run
        self.on_problem = plan.on_problem
        self.routes: list[Route] = []
        self.ids: list[str] = []

    # -- the sink of interception -------------------------------------------------------------------------------------

    def begin(self, runs: ActiveRuns) -> None:
        """Open the runs that a writer would belong to that is made now."""
        with self._lock:
            self._join(runs)
            self._has_begun = True

    def writer_created(self, logdir: str, runs: ActiveRuns) -> None:
        with self._lock:
            for key in self._over.intersection(runs):  # it is active: it has been resumed since it was ended
                self._reopen(key)
            for part in self._join(runs):
                part.bus.tell(msg.Writer(logdir))
            self._remember(logdir, runs)

    def add_source(self, path: str, logdir: str, parent: str | None, runs: ActiveRuns) -> int:
        with self._lock:
            source = msg.Source(len(self._sources), path, logdir, parent)
            for part in self._join(runs):
                part.bus.tell(source)
            if not is_own(path):  # of which there is no writer
                self._remember(parent or logdir, runs)
            self._sources.append((source, runs))
            self.routes.append(self._route(runs))
            return source.id

    def _remember(self, logdir: str, runs: ActiveRuns) -> None:
        for key in self._keys(runs):
            known = self._writers.setdefault(key, [])
            if logdir not in known:
                known.append(logdir)

    def _keys(self, runs: ActiveRuns) -> list[_Key]:
        active = dict(runs)
        return [(name, active.get(name)) for name in self._specs]

    def _join(self, runs: ActiveRuns) -> list[_Part]:
        """Return the parts that serve these runs, each once; those that are not there yet are opened."""
        keys = [key for key in self._keys(runs) if key not in self._over]
        missing = [key for key in keys if key not in self._by_key and not self._closed]
        own = [key for key in missing if key[1] is None]
        for group in [*([own] if own else []), *([key] for key in missing if key[1] is not None)]:
            self._open(group)
        return list({id(part): part for part in map(self._by_key.get, keys) if part is not None}.values())

    def _open(self, keys: list[_Key]) -> _Part:
        specs = [self._spec(*key) for key in keys]
        session = next(self._new_ids)
        bus = self._plan.make_bus(specs, lambda reply: self._replied(part, reply))
        part = _Part(session, specs, bus)
        self.ids.append(session)
        self._parts.append(part)
        self._by_key.update(dict.fromkeys(keys, part))
        self._plan.opens(session, specs)
        if specs[0].borrowed:
            try:
                run_ends.watch(self, specs[0].name)
            except Exception as error:  # an SDK that has changed: its run is served all the same
                self.on_problem(error)
        message = self._plan.open_message(session, specs)
        # What is watched goes once to each tracker: into the run that was active there at the start.
        bus.start(msgspec.structs.replace(message, watch=[]) if self._has_begun else message)
        return part

    def _spec(self, name: str, run_id: str | None) -> msg.BackendSpec:
        spec = self._specs[name]
        if run_id is None:
            return spec
        options, outside = spec.options, _takes_ids(name)
        if outside:
            try:
                options = {**options, **registry.find(name).borrowed_options()}
            except Exception as error:  # an SDK that has changed: its run is looked for where the session's are
                self.on_problem(error)
        return msgspec.structs.replace(spec, options=options, resume=run_id, borrowed=True, here=not outside)

    def _route(self, runs: ActiveRuns) -> Route:
        routes: list[Route] = [part.bus for part in self._join(runs)]
        routes += [_Over(self, key) for key in self._keys(runs) if key in self._over]
        return routes[0] if len(routes) == 1 else _Fan(routes)

    def _reroute(self, key: _Key) -> None:
        for number, (_, runs) in enumerate(self._sources):
            if key in runs:
                self.routes[number] = self._route(runs)

    # -- the end of a run of the user's -------------------------------------------------------------------------------

    def end(self, name: str, run_id: str) -> Callable[[], None]:
        """The user is about to end a run: deliver what was logged into it, if it is one of ours, within `exit_timeout`.

        Returns:
            What is to be called when he has ended it, and what was uploaded then is there or not. Until then other threads that
            end it wait too: they find it ended.
        """
        if self._pid != os.getpid():
            return _nothing
        key = (name, run_id)
        self._plan.ends(name, run_id)
        with self._lock:
            mine = self._by_key.pop(key, None)
            part = mine or self._ending.get(key)
            if mine is not None:
                mine.ender = threading.get_ident()
                self._ending[key] = mine
                self._over.add(key)
                self._reroute(key)
        if mine is not None:
            try:
                self._wait(mine, name, run_id)
            except BaseException:
                mine.ended.set()
                self._let_go(key, mine)
                raise
            return lambda: self._has_ended(key, mine)
        if part is not None and part.ender != threading.get_ident():  # else a signal handler, in the middle of it
            part.ended.wait(2 * self._plan.exit_timeout)
        return _nothing

    def _has_ended(self, key: _Key, part: _Part) -> None:
        """The user has ended a run: wait for the word of the tracker, and let go of the part."""
        try:
            if part.handed_over.is_set():
                self._wait(part, *key)
        finally:
            part.ended.set()
            self._let_go(key, part)

    def _wait(self, part: _Part, name: str, run_id: str | None) -> None:
        """Deliver what is left, and end the part, as far as that can be done before the user has ended the run. Ctrl-C while this
        waits is the user's."""
        begun = time.monotonic()
        said = flushed = False

        def waiting() -> None:
            nonlocal said, flushed
            if part.spilled and not flushed:
                flushed = True
                intercept.flush_files()  # what did not fit into memory is read from them
            if not said and time.monotonic() - begun >= _NOTICEABLE:
                said = True
                if not self._plan.quiet:
                    seconds = f"up to {self._plan.exit_timeout:.0f} s"
                    say(f"{name}: your run {run_id} ends when what was logged into it has arrived, {seconds}")

        until = None if part.handed_over.is_set() else part.handed_over
        answer = part.bus.close(msg.Close("finished", self._plan.exit_timeout), waiting, last_words=0.0, until=until)
        if answer is None and until is not None and until.is_set():
            return
        self._silent = self._silent or answer is None
        state = part.now()[name]
        if state.state != "closed" or state.pending:
            missing = f"{state.pending} events" if state.pending else "its last events"
            text = f"your run {run_id} ends without {missing}, which were not delivered in time"
            self._plan.on_reply(msg.Trouble(name, f"ended-{run_id}", text))

    def _let_go(self, key: _Key, part: _Part) -> None:
        with self._lock:
            del self._ending[key]
            if self._closed:  # the session counts what it has now
                return
            self._parts.remove(part)
            self._before = _merged([self._before, part.now()])
            if part.root is not None and not part.complete:
                self._incomplete.append(part.root)

    def came_late(self, key: _Key, record: msg.Record) -> None:
        """Something was logged into a run that the user has ended. Where runs are written to by their ids it arrives all the
        same; elsewhere it is missing."""
        name, run_id = key
        with self._lock:
            if _takes_ids(name) and not self._closed:
                self._reopen(key)
                self._by_key[key].bus.publish(record)
                return
            text = f"what was logged into your run {run_id} after its end is in the event files only"
            self._before = _merged([self._before, {name: msg.BackendState("closed", failed=1, error=text)}])
        self._plan.on_reply(msg.Trouble(name, f"late-{run_id}", text))
        self._tell_counters()

    def _reopen(self, key: _Key) -> None:
        if key not in self._over:  # another thread has
            return
        self._over.discard(key)
        part = self._open([key])
        for logdir in self._writers.get(key, ()):  # in the same order, so that they get the same names
            part.bus.tell(msg.Writer(logdir))
        for source, runs in self._sources:
            if key in runs:
                part.bus.tell(source)
        self._reroute(key)

    # -- replies ------------------------------------------------------------------------------------------------------

    def _replied(self, part: _Part, reply: msg.Reply) -> None:
        if isinstance(reply, msg.HandedOver):
            part.handed_over.set()
            return
        if not isinstance(reply, msg.Counters):
            self._plan.on_reply(reply)
            return
        part.states = {**part.states, **reply.backends}
        part.root = reply.root or part.root
        part.spilled = reply.spilled
        self._tell_counters()

    def _tell_counters(self) -> None:
        with self._lock:  # so that the session hears them in order
            states = _merged([self._before, *(part.states for part in self._parts)])
            self._plan.on_reply(msg.Counters(states, spilled=any(part.spilled for part in self._parts)))

    def states(self) -> dict[str, msg.BackendState]:
        """Return where each tracker stands, over all its runs: the counts summed, and the worst state."""
        with self._lock:
            return _merged([self._before, *(part.now() for part in self._parts)])

    def unsent(self) -> int:
        """As `Bus.unsent`, of all parts."""
        with self._lock:
            return sum(part.bus.unsent() for part in self._parts)

    def entries(self) -> list[tuple[str, str]]:
        """Return the parts that the ledger has: (session, root directory)."""
        with self._lock:
            return [(part.session, part.root) for part in self._parts if part.root is not None]

    def to_resume(self) -> list[str]:
        """Return the root directories in which `replay --resume` finds what is missing."""
        with self._lock:
            roots = [*self._incomplete, *(part.root for part in self._parts if part.root is not None and not part.complete)]
        return list(dict.fromkeys(roots))

    @property
    def lingers(self) -> float:
        """After `close`: seconds that relays may go on by themselves; 0.0 if none does."""
        return max((part.bus.lingers for part in self._parts if isinstance(part.bus, Mailbox)), default=0.0)

    # -- as a bus -----------------------------------------------------------------------------------------------------

    def nudge(self) -> None:
        for part in list(self._parts):
            part.bus.nudge()

    def look(self, wait: float = 0.0) -> None:
        """Take what the relays have to say, without waiting for long."""
        for part in list(self._parts):
            part.bus.look(wait)

    def flush(self, timeout: float) -> bool:
        """As `Bus.flush`, for all parts."""
        until = time.monotonic() + timeout
        flushed = [part.bus.flush(max(0.0, until - time.monotonic())) for part in list(self._parts)]
        return all(flushed)

    def close(self, message: msg.Close, progress: Callable[[], None] | None = None) -> dict[str, msg.BackendState] | None:
        """As `Bus.close`, for all parts; None if one of the relays, or of those before, did not answer in time."""
        with self._lock:
            self._closed = True
            parts = list(self._parts)
        run_ends.unwatch(self)
        with threads_at_exit.allowed():
            for part in parts:
                part.bus.begin_close(message)
            answers = [part.bus.close(message, progress) for part in parts]
        return None if self._silent or None in answers else self.states()

    def after_fork(self) -> None:
        """In a forked child: this is the parent's."""
        run_ends.unwatch(self)
        for part in self._parts:
            part.bus.after_fork()

    def handles(self) -> Mapping[str, Backend]:
        """Return the backends that live in this process, by name; of several, the latest."""
        return {name: backend for part in list(self._parts) for name, backend in part.bus.handles().items()}


def _takes_ids(name: str) -> bool:
    return registry.find(name).joins_from_outside()


def _merged(each: Iterable[Mapping[str, msg.BackendState]]) -> dict[str, msg.BackendState]:
    merged: dict[str, msg.BackendState] = {}
    for states in each:
        for name, state in states.items():
            merged[name] = _sum(merged[name], state) if name in merged else state
    return merged


def _sum(one: msg.BackendState, other: msg.BackendState) -> msg.BackendState:
    worst = max(one, other, key=lambda state: _FROM_BEST_TO_WORST.index(state.state))
    numbers = {name: getattr(one, name) for name in one.__struct_fields__ if isinstance(getattr(one, name), int)}
    sums = {name: number + getattr(other, name) for name, number in numbers.items()}
    return msgspec.structs.replace(worst, error=other.error or one.error, **sums)


def _nothing() -> None:
    """Nobody waits."""
