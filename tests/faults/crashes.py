"""A trial of the crash suite: a plan that a seed decides, the program that follows it, and what must be where afterwards.

The program notes each `add_*` that has returned in a way that outlives it. It is killed, or kills its relay, at a line of our
code within a call: which one is counted while Python traces that call, so that a seed means the same moment each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.backends.about import about
from tests.backends.tensorboard.reader import TensorBoardReader
from tests.delivery.programs import relays
from tests.faults.harness import Training, environment, eventually
from tracelet_shim.cli.status import sessions
from tracelet_shim.replay.rings import anything_left
from tracelet_shim.testing import Reader

__all__ = ["SCENARIOS", "Plan", "Trial", "plan_of"]

CHEAP = ("tensorboard", "dvclive", "trackio")
DEAR = ("mlflow", "aim", "wandb")
_OURS = "CRASHES_OF"
"""The variable by which a trial's processes are known, but for those that were forked."""
_NOTE = struct.Struct("<II")
_ENDS = {"kill", "exit", "term", "handled"}
"""What ends the program."""
_HANDLER = 9
"""The number that stands for a thread, of what a signal handler logs."""


class _Place(NamedTuple):
    """Where an event is to be found."""

    kind: str
    writer: str
    tag: str
    step: int


class Moment(NamedTuple):
    """When something is done, and what.

    Attributes:
        within: "start", "writer", "close", "stop", or the number of the main thread's event.
        line: of our code within it; None: when it has returned.
        actions: see `CODE`.
    """

    within: str | int
    line: int | None
    actions: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A trial.

    Attributes:
        scenario: the name of what happens.
        events: of each thread.
        rich: the share of texts, images and histograms, and whether there are hyperparameters.
        pause: seconds, at most, between two events.
        memory: megabytes; small ones make a ring that is soon full.
        stops: whether it calls `stop_logging`, or just ends.
        later: seconds after the program's end at which its relay is killed; None: it is not.
        resumed: seconds after which a first resumed delivery is killed, where one is needed; None: it is not.
    """

    seed: int
    scenario: str
    trackers: tuple[str, ...]
    writers: int
    threads: int
    events: int
    rich: float
    pause: float
    memory: float
    stops: bool
    moments: tuple[Moment, ...]
    later: float | None = None
    resumed: float | None = None

    @property
    def names(self) -> list[str]:
        """The names of the writers."""
        return ["", "b", "c"][: self.writers]


# -- plans ------------------------------------------------------------------------------------------------------------


def _line(rng: random.Random, most: int) -> int | None:
    """Return a line, early ones more often; or None."""
    return None if rng.random() < 0.2 else int(most ** rng.random())


def _scenarios(name: str, rng: random.Random, events: int) -> dict[str, Any]:
    call, line = rng.randrange(1, events), _line(rng, 60)
    first = rng.randrange(call)
    begin = ("start", _line(rng, 3000)) if rng.random() < 0.5 else ("writer", _line(rng, 600))
    close, stop = ("close", _line(rng, 40)), ("stop", _line(rng, 400))
    both = ("kill relay", "kill")
    match name:
        case "killed in a call":
            moments = [Moment(call, line, ("kill",))]
        case "killed by a scheduler":
            moments = [Moment(call, line, ("term",))]
        case "exits in a call":
            moments = [Moment(call, line, ("exit",))]
        case "a handler logs and exits":
            moments = [Moment(call, line, ("handled",))]
        case "the relay is killed":
            moments = [Moment(call, line, ("kill relay",))]
        case "the relay is killed twice":
            moments = [Moment(first, line, ("kill relay",)), Moment(call, _line(rng, 60), ("kill relay",))]
        case "both are killed":
            moments = [Moment(call, line, both)]
        case "the relay is killed, then both":
            moments = [Moment(first, line, ("kill relay",)), Moment(call, _line(rng, 60), both)]
        case "the relay stands still, then both are killed":
            moments = [Moment(first, line, ("stop relay",)), Moment(call, _line(rng, 60), both)]
        case "the relay stands still for a while":
            moments = [Moment(first, line, ("stop relay",)), Moment(call, _line(rng, 60), ("continue relay",))]
        case "the relay stands still, then training is killed":
            moments = [Moment(first, line, ("stop relay",)), Moment(call, _line(rng, 60), ("continue relay", "kill"))]
        case "killed while opening":
            moments = [Moment(*begin, ("kill",))]
        case "both are killed while opening":
            moments = [Moment(*begin, both)]
        case "the relay is killed while opening":
            moments = [Moment(*begin, ("kill relay",))]
        case "killed while closing":
            moments = [Moment(*close, ("kill",))]
        case "both are killed while closing":
            moments = [Moment(*close, both)]
        case "killed at the end":
            moments = [Moment(*stop, ("kill",))]
        case "both are killed at the end":
            moments = [Moment(*stop, both)]
        case "the relay is killed at the end":
            moments = [Moment(*stop, ("kill relay",))]
        case "killed, and its relay later":
            return {"moments": (Moment(call, line, ("kill",)),), "later": rng.random() ** 2}
        case "both are killed, and what resumes":
            return {"moments": (Moment(call, line, both),), "resumed": 0.3 + 2 * rng.random()}
        case "a child logs, then training is killed":
            moments = [Moment(first, line, ("fork",)), Moment(call, _line(rng, 60), ("kill",))]
        case _:
            raise AssertionError(name)
    return {"moments": tuple(moments)}


SCENARIOS = (
    "killed in a call", "both are killed", "the relay is killed", "killed while opening", "both are killed at the end",
    "killed by a scheduler", "the relay stands still, then both are killed", "a handler logs and exits",
    "both are killed while opening", "killed at the end", "the relay is killed twice", "exits in a call",
    "killed, and its relay later", "the relay is killed while opening", "both are killed, and what resumes",
    "the relay stands still for a while", "killed while closing", "the relay is killed, then both",
    "a child logs, then training is killed", "the relay is killed at the end", "both are killed while closing",
    "the relay stands still, then training is killed",
)  # fmt: skip


def plan_of(seed: int, *, small: bool) -> Plan:
    """Return the plan of a seed. One or two trackers, mostly such as start at once; more in every third that is not small."""
    rng = random.Random(seed)
    every = (*CHEAP, *DEAR)
    trackers = {rng.choice(CHEAP), every[seed % 6]} if small or seed % 3 else set(rng.sample(every, rng.randint(1, 6)))
    events = round(10 ** rng.uniform(1, 2.3 if small else 3.3))
    paced = rng.random() < 0.4
    scenario = SCENARIOS[seed % len(SCENARIOS)]
    return Plan(
        seed=seed, scenario=scenario, trackers=tuple(sorted(trackers)), writers=rng.randint(1, 3), threads=rng.randint(1, 2),
        events=events, rich=rng.choice((0.0, 0.0, 0.02, 0.1)), pause=rng.random() * 0.3 / events if paced else 0.0,
        memory=rng.choice((256.0, 256.0, 0.2)), stops=rng.random() < 0.5 or scenario.endswith("at the end"),
        **_scenarios(scenario, rng, events),
    )  # fmt: skip


# -- the program ------------------------------------------------------------------------------------------------------


def event_of(seed: int, thread: int, number: int, writers: int, rich: float) -> tuple[str, int, str, float]:
    """Return what a thread logs as its event of this number: kind, writer, tag, value. The step is the number."""
    rng = random.Random(f"{seed} {thread} {number}")
    kind = rng.choice(("text", "image", "histogram")) if rng.random() < rich else "scalar"
    if rich and thread == 0 and number == 3:
        kind = "hparams"
    value = rng.uniform(-1, 1) * 10.0 ** rng.randint(-30, 30)
    return kind, rng.randrange(writers), f"{kind}{thread}{rng.randrange(2)}", value


CODE = """
import json, random, struct, threading
import numpy as np

PLAN = json.loads({plan!r})
SEED, WRITERS, RICH = PLAN["seed"], PLAN["writers"], PLAN["rich"]
notes = os.open("notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def my_relays():
    for place in Path("/proc/self/task").glob("*/children"):
        for pid in place.read_text().split():
            try:
                if b"tracelet_shim.relay" in Path("/proc", pid, "cmdline").read_bytes():
                    yield int(pid)
            except OSError:
                pass

def act(actions):
    with open("acted", "a") as acted:
        acted.write(f"{{actions}}\\n")
    for action in actions:
        if action.endswith(" relay"):
            number = {{"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}}[action.split()[0]]
            for pid in my_relays():
                os.kill(pid, number)
        elif action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "exit":
            os._exit(0)
        elif action in ("term", "handled"):
            signal.raise_signal({{"term": signal.SIGTERM, "handled": signal.SIGALRM}}[action])
        elif action == "fork":
            pid = os.fork()
            if pid == 0:
                writers[0].add_scalar("of the child", 1.0, 1)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)

def handled(number, frame):
    for number in range(3):
        add({handler}, number)
    os._exit(0)

signal.signal(signal.SIGALRM, handled)

def during(what, function, *args):
    for within, line, actions in PLAN["moments"]:
        if within == what:
            break
    else:
        return function(*args)
    left = [line]
    def trace(frame, event, arg):
        if "/tracelet_shim/" not in frame.f_code.co_filename:
            return None
        if left[0] is not None:
            left[0] -= 1
            if left[0] <= 0:
                left[0] = None
                sys.settrace(None)
                act(actions)
        return trace
    if line is not None:
        sys.settrace(trace)
    try:
        return function(*args)
    finally:
        sys.settrace(None)
        if line is None or left[0] is not None:
            act(actions)

def add(thread, number):
    kind, writer, tag, value = event_of(SEED, thread, number, WRITERS, RICH)
    w = writers[writer]
    if kind == "scalar":
        w.add_scalar(tag, value, number)
    elif kind == "text":
        w.add_text(tag, repr(value), number)
    elif kind == "image":
        w.add_image(tag, np.full((3, 4, 4), number % 256, np.uint8), number)
    elif kind == "histogram":
        w.add_histogram(tag, np.arange(10 + number % 50) / 7, number)
    else:
        w.add_hparams({{"lr": value, "seed": SEED}}, {{"hparam/m": value}})
    os.write(notes, struct.pack("<II", thread, number))

def run(thread):
    for number in range(PLAN["events"]):
        during(number, add, thread, number) if thread == 0 else add(thread, number)
        if PLAN["pause"]:
            time.sleep(PLAN["pause"])

def start():
    return tracelet.start_logging(backend=PLAN["trackers"], project="p", exp_name="e", exit_timeout=120)

def make_writers():
    return [SummaryWriter(str(Path("runs/x") / name)) for name in {names!r}]

during("start", start)
writers = during("writer", make_writers)
writer = writers[0]
if RICH:  # the copy of the tensorboard backend has hyperparameters in the place of a root writer that has logged nothing before
    writer.add_scalar("first", 0.5, 0)
threads = [threading.Thread(target=run, args=(number,)) for number in range(1, PLAN["threads"])]
for thread in threads:
    thread.start()
run(0)
for thread in threads:
    thread.join()
for each in writers:
    during("close", each.close) if each is writers[-1] else each.close()
if PLAN["stops"]:
    during("stop", tracelet.stop_logging)
"""


def code_of(plan: Plan) -> str:
    """Return the program of a plan."""
    code = CODE.format(plan=json.dumps(dataclasses.asdict(plan)), names=plan.names, handler=_HANDLER)
    return inspect.getsource(event_of).replace("def", "import random\n\ndef", 1) + code


# -- a trial ----------------------------------------------------------------------------------------------------------


class Trial:
    """One program, killed and resumed as its plan says, and what is found then.

    Args:
        plan: the plan.
        directory: the program's working directory.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self.state = directory / "runs" / "x" / ".tracelet"
        self.env: dict[str, str | None] = {_OURS: str(directory), "TRACELET_MEMORY": str(plan.memory)}
        for tracker in plan.trackers:
            self.env |= about(tracker).reader.environment(self._place(tracker))

    def _place(self, tracker: str) -> Path:
        """Return where a tracker has its store: that of MLflow is there already."""
        place = self.directory if tracker == "mlflow" else self.directory / tracker
        place.mkdir(exist_ok=True)
        return place

    def follow(self, training: Training) -> None:
        """Wait until the program has ended, do to its relay what is planned, and have a resumed delivery if that is needed."""
        code = training.process.wait(150)
        alive = relays(self.directory)
        self._check_end(code, training.errors)
        killed = any("kill relay" in moment.actions for moment in self.plan.moments)
        if self.plan.later is not None:
            time.sleep(self.plan.later)
            for pid in relays(self.directory):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed = True
        if alive:
            eventually(lambda: not relays(self.directory), 150)
        needs = bool(self.left())
        assert killed or not needs, f"the relay lived, and has left {self.left()}"
        assert not (alive and needs) or self.plan.later is not None, f"a relay was there, and has left {self.left()}"
        if needs:
            if self.plan.resumed is not None:
                self._kill_resumption(self.plan.resumed)
            training.resume(env=self.env)
        assert not self.left()

    def _check_end(self, code: int, said: str) -> None:
        """The plan was followed, and it is all that the program has noticed."""
        acted = self.directory / "acted"
        assert acted.exists(), said
        assert len(acted.read_text().splitlines()) == len(self.plan.moments), said
        wanted = -signal.SIGKILL if "kill" in self._actions else -signal.SIGTERM if "term" in self._actions else 0
        assert code == wanted, said
        assert all(line.startswith("tracelet-shim: ") for line in said.splitlines()), said

    def _kill_resumption(self, seconds: float) -> None:
        command = [sys.executable, "-m", "tracelet_shim", "replay", "runs/x", "--resume"]
        with open(self.directory / "killed-resumption.txt", "wb") as said:
            process = subprocess.Popen(command, cwd=self.directory, env=environment(self.env), stdout=said, stderr=said)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
            process.wait()

    def left(self) -> list[str]:
        """Return what is not as it is when all is delivered, by ``tracelet-shim status``; nothing if there is no session."""
        if not (self.state / "ledger.db").exists():
            return ["a ring of no session"] if self.state.exists() and anything_left(self.state) else []
        found = []
        for session in sessions(self.state):
            if session["resume"] is not None or session["ended"] is None:
                found.append(f"{session['session']} {session['status']}, {session['not_recorded']} not recorded")
            found += [
                repr(row)
                for row in session["runs"]
                if row["pending"] or row["set_aside"] or row["lost"] or row["state"] != "closed"
            ]
        return found

    def check(self) -> None:
        """Everything that was logged is everywhere, once; no process and no ring is left, and the ledger says so."""
        eventually(lambda: not self._processes(), 60)
        assert not self.state.exists() or not anything_left(self.state)
        returned = self._returned()
        native = self._values(TensorBoardReader(self.directory, str(self.directory / "runs" / "x")))
        self._compare("the event file", native, returned, float32=True)
        for tracker in self.plan.trackers:
            place = self._place(tracker)
            reader = about(tracker).reader(place)
            runs = reader.run_ids() if any(place.iterdir()) else []
            assert len(runs) == 1 or not (runs or native), (tracker, runs)
            found = self._values(reader) if runs else {}
            self._compare(tracker, found, returned, float32=about(tracker).float32)
            beyond, behind = sorted(found.keys() - native.keys()), sorted(native.keys() - found.keys())
            assert not beyond, (tracker, "beyond the event file", beyond[:5])
            assert not behind, (tracker, "behind the event file", behind[:5])
            if runs:
                assert reader.status() in self._statuses(), (tracker, reader.status())
                self._check_hparams(reader, tracker, returned)

    def _processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{_OURS}={self.directory}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().decode("utf-8", "replace"))
        return found

    def _returned(self) -> set[tuple[int, int]]:
        notes = self.directory / "notes"
        data = notes.read_bytes() if notes.exists() else b""
        return set(_NOTE.iter_unpack(data[: len(data) // _NOTE.size * _NOTE.size]))

    def _event(self, thread: int, number: int) -> tuple[str, int, str, float]:
        return event_of(self.plan.seed, thread, number, self.plan.writers, self.plan.rich)

    def _values(self, reader: Reader) -> dict[_Place, list[Any]]:
        """Return what is there."""
        kinds = ("scalar", "text", "image", "histogram") if self.plan.rich else ("scalar",)
        threads = [*range(self.plan.threads), _HANDLER]
        tags = [(kind, w, f"{kind}{t}{n}") for kind in kinds for w in self.plan.names for t in threads for n in range(2)]
        found: dict[_Place, list[Any]] = {}
        for kind, writer, tag in tags:
            for step, value in _read(reader, kind, writer, tag):
                found.setdefault(_Place(kind, writer, tag, step), []).append(value)
        return found

    def _expected(self, thread: int, number: int) -> tuple[_Place, tuple[Any, Any]]:
        """Return where an event is to be found, and what: exact, and as the event file has it."""
        kind, writer, tag, value = self._event(thread, number)
        what: tuple[Any, Any] = (value, float(np.float32(value)))
        if kind == "text":
            what = (repr(value),) * 2
        elif kind == "image":
            what = ((number % 256,),) * 2
        elif kind == "histogram":
            what = (10 + number % 50,) * 2
        return _Place(kind, self.plan.names[writer], tag, number), what

    def _compare(self, where: str, found: Mapping[_Place, list[Any]], returned: set[tuple[int, int]], *, float32: bool) -> None:
        """What has returned is there once, exact; what was under way is there once, or not. The exact value dies with the program
        of what found no room in the ring, and of what a handler logged in the middle of a call before it ended the program."""
        wanted = dict(self._expected(*each) for each in returned if self._event(*each)[0] != "hparams")
        missing = sorted(wanted.keys() - found.keys())
        assert not missing, (where, f"{len(missing)} of {len(wanted)} are missing", missing[:5])
        threads = [*range(self.plan.threads), _HANDLER]
        under_way = dict(self._expected(thread, sum(each[0] == thread for each in returned)) for thread in threads)
        more = sorted(found.keys() - wanted.keys() - under_way.keys())
        assert not more, (where, "what nobody has logged", more[:5])
        twice = [(place, values) for place, values in found.items() if len(values) > 1]
        assert not twice, (where, "twice", twice[:5])
        no_room = self.plan.memory < 1 and bool(self._actions & _ENDS)
        wrong = []
        for place, (value,) in found.items():
            exact, rounded = wanted.get(place) or under_way[place]
            inexact = no_room or place in under_way or place.tag[len(place.kind)] == str(_HANDLER)
            right = [rounded] if float32 else [exact, rounded] if inexact else [exact]
            if value not in right:
                wrong.append((place, value, exact))
        assert not wrong, (where, f"{len(wrong)} of {len(found)} have another value", wrong[:5])

    @property
    def _actions(self) -> set[str]:
        return {action for moment in self.plan.moments for action in moment.actions}

    def _statuses(self) -> set[str]:
        if self._actions & _ENDS - {"term"}:
            at_end = any(moment.within == "stop" for moment in self.plan.moments)
            return {"failed", "finished"} if at_end else {"failed"}
        return {"killed"} if "term" in self._actions else {"finished"}

    def _check_hparams(self, reader: Reader, tracker: str, returned: set[tuple[int, int]]) -> None:
        if not self.plan.rich or (0, 3) not in returned:
            return
        value = self._event(0, 3)[3]
        assert float(reader.params()["lr"]) == value, tracker
        wanted = float(np.float32(value)) if about(tracker).float32 else value
        assert reader.summary_metrics()["hparam/m"] == wanted, tracker


def _read(reader: Reader, kind: str, writer: str, tag: str) -> Iterator[tuple[int, Any]]:
    if kind == "scalar":
        yield from ((point.step, point.value) for point in reader.scalars(writer, tag))
    elif kind == "text":
        yield from reader.texts(writer, tag)
    elif kind == "image":
        for step, pixels in reader.images(writer, tag):
            yield step, tuple(sorted({int(pixel) for pixel in pixels[..., :3].reshape(-1)}))
    else:
        for step, _, counts in reader.histograms(writer, tag):
            yield step, round(float(counts.sum()))
