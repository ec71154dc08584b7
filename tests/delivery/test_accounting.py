"""What is said to be missing is what is missing, to everybody who asks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import tracelet_shim as tracelet
from tests.chosen import each_change
from tests.conftest import RunPython
from tests.delivery.programs import LOG, tensorboard_steps
from tests.delivery.test_bus import StalledChannel
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Refusal, Status
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.bus import Bus
from tracelet_shim.bus.channel import Channel, SplitChannel
from tracelet_shim.relay import said, watch
from tracelet_shim.testing import RecordingBackend

TENSORBOARD = LOG.replace('backend=["mlflow", "tensorboard"]', 'backend=["tensorboard"]')
STOP_RELAY = """
def stop_relay(s):
    os.kill(s._bus._parts[0].bus.relay_pid, signal.SIGSTOP)
"""


def until(check: Callable[[], bool]) -> None:
    """Wait until `check` holds."""
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def cli(*arguments: str, code: int = 0) -> str:
    """Run the command line program; return its standard output."""
    done = subprocess.run([sys.executable, "-m", "tracelet_shim", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


class Gated(RecordingBackend):
    """Does nothing before it is let go."""

    name = "gated"

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def write(self, events: Sequence[ev.Event]) -> None:
        self.asked.set()
        self.go.wait(60)
        super().write(events)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Any]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "runs" / "x")) as writer:
        yield writer
    tracelet.stop_logging()


# -- what waits in the training process -------------------------------------------------------------------------------


def test_relay_that_stands_still_at_the_end(run_python: RunPython, tmp_path: Path) -> None:
    """Of a relay that does not answer at the end, `status`, the exit message, strict's exit code, and `tracelet-shim status`
    afterwards have the exact number of events that it never got; the parts of an `add_hparams` are no events."""
    done = run_python(
        TENSORBOARD
        + STOP_RELAY
        + """
s = session(exit_timeout=3, strict=True)
w = log(1000)
w.add_hparams({"lr": 1.0}, {"accuracy": 0.5}, run_name=".")
assert s.flush(60)
stop_relay(s)
log(20_000, w, 1000)
w.add_hparams({"lr": 2.0}, {"accuracy": 0.5, "top5": 2.0}, run_name=".")
w.close()
print(s.status()["tensorboard"].pending)
""",
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == "20001\n"
    assert "warning: tensorboard: 20001 events were not delivered" in done.stderr
    assert "not everything was delivered (tensorboard: 20001)" in done.stderr
    (session,) = json.loads(cli("status", "runs/x", "--json"))
    assert session["not_recorded"] == 20_000 + 5  # records of the event file: each part of the hparams is one there
    assert session["runs"][0]["pending"] == 20_005
    cli("replay", "runs/x", "--resume")
    assert tensorboard_steps(tmp_path) == list(range(21_000))


def test_what_waits_is_counted_wherever_it_is() -> None:
    """In the queue, in the gaps behind it, on the way in a channel that stalls: whatever has been published is pending until the
    relay has said that it has it. Parts of an `add_hparams` are not counted."""
    channel = StalledChannel()
    bus = Bus(lambda: channel, 10_000_000, lambda reply: None)

    def pending() -> int:
        return bus.states(["a"])["a"].pending

    bus._thread.start()
    for i in range(150_000):
        bus.publish(msg.Record(i % 2, i // 2, b"x" * 40, 0.5, msg.Nested() if i % 1000 == 7 else None))
    assert bus._gaps is not None
    assert pending() == 150_000 - 150
    bus.tell(msg.Writer("/new"))
    for i in range(150_000, 200_000):
        bus.publish(msg.Record(0, i, b"x" * 40, 0.5))
    assert pending() == 200_000 - 150
    channel.go.set()
    until(lambda: len(channel.records) == 200_000)
    assert pending() == 200_000 - 150  # sent, and not known to be there
    bus._replied(msg.Counters({"a": msg.BackendState("open", 900, 80, 5)}, taken=1000))
    nested = sum(isinstance(record.hint, msg.Nested) for record in channel.records[1000:])
    assert nested > 100
    assert pending() == 80 + 199_000 - nested
    bus._replied(msg.Counters({"a": msg.BackendState("open", 199_850)}, taken=200_000))
    assert pending() == 0
    bus._stopped = True


class _BreaksOff(StalledChannel):
    def pump(self) -> None:
        if self.records:
            raise OSError("over")


def test_what_comes_after_the_end_of_delivery_is_counted() -> None:
    """Where delivery is over, whatever the reason, nothing is kept in memory any more, and all is pending."""
    channel = _BreaksOff()
    bus = Bus(lambda: channel, 10_000_000, lambda reply: None)
    channel.go.set()
    bus.start(msg.Open(None, [], 0, None))  # type: ignore[arg-type]
    bus.publish(msg.Record(0, 1, b"x"))
    until(lambda: not bus._thread.is_alive())
    for i in range(10):
        bus.publish(msg.Record(0, 2 + i, b"x", None, msg.Nested() if i == 3 else None))
    assert bus.states(["a"])["a"].pending == 10
    assert not bus._queue
    assert not bus.flush(60)  # at once: nobody is there to answer


class _Refusing(StalledChannel):
    def send(self, message: msg.Message) -> None:
        if isinstance(message, msg.Records) and any(record.data == b"bad" for record in message.records):
            raise ValueError("it cannot be encoded")
        super().send(message)


def test_an_event_that_cannot_be_sent_is_missing() -> None:
    """An event that no message can hold takes no others with it, and counts as failed in each tracker."""
    channel = _Refusing()
    bus = Bus(lambda: channel, 10_000_000, lambda reply: None)
    channel.go.set()
    bus._thread.start()
    for i in range(10):
        bus.publish(msg.Record(0, i, b"bad" if i == 4 else b"good"))
    until(lambda: len(channel.records) == 9)
    bus._replied(msg.Counters({"a": msg.BackendState("open", 9)}, taken=9))
    until(lambda: bus.states(["a"])["a"] == msg.BackendState("open", 9, 0, 1))
    bus._stopped = True


def test_two_hostings_are_counted_each_for_itself() -> None:
    """Of trackers here and trackers in the relay process, each has pending what its own hosting has not taken."""
    parts: tuple[Channel, Channel] = (StalledChannel(), StalledChannel())
    channel = SplitChannel(parts[0], {"here"}, parts[1])
    bus = Bus(lambda: channel, 10_000_000, lambda reply: None)
    channel.on_reply = bus._replied
    for i in range(10):
        bus.publish(msg.Record(0, i, b"x"))
    parts[0].on_reply(msg.Counters({"here": msg.BackendState("open", 10)}, 10, taken=10))
    parts[1].on_reply(msg.Counters({"there": msg.BackendState("open", 2, 1)}, 3, taken=3))
    pending = {name: state.pending for name, state in bus.states(["here", "there"]).items()}
    assert pending == {"here": 0, "there": 8}


# -- delivered is what the tracker has acknowledged -------------------------------------------------------------------


class Forgetful(RecordingBackend):
    """Has acknowledged nothing but its first 30 events."""

    name = "forgetful"

    def unsettled(self) -> int:
        return max(0, len(self.events) - 30)


def test_what_is_not_acknowledged_is_pending(writer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What a tracker has been handed and has not acknowledged is pending, no flush says that it is there, and at the end it is
    missing."""
    session = tracelet.start_logging(backend=Forgetful(), strict=True)
    for step in range(30):
        writer.add_scalar("loss", step, step)
    assert session.flush(60)
    for step in range(30, 100):
        writer.add_scalar("loss", step, step)
    until(lambda: session.status()["forgetful"].unconfirmed == 70)
    assert session.status()["forgetful"] == msg.BackendState("open", 30, 70, unconfirmed=70)
    assert not session.flush(1)
    with pytest.raises(tracelet.DeliveryError) as error:
        tracelet.stop_logging()
    assert error.value.undelivered == {"forgetful": 70}
    assert "forgetful: 70 events were not delivered" in capsys.readouterr().err


class RefusesLater(RecordingBackend):
    """Refuses an event in the middle of those that it has acknowledged nothing of yet."""

    name = "later"

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[ev.RecordId] = []

    def unsettled(self) -> int:
        return 0 if self.status else len(self.events) - len(self.refused)

    def take_refused(self) -> list[Refusal]:
        found = [e for e in self.events if e.step == 7 and e.record not in self.refused]
        self.refused += [e.record for e in found]
        return [Refusal.of(e, "after all not") for e in found]


def test_what_is_refused_later_is_set_aside(writer: Any) -> None:
    """What a tracker refuses after it was handed over is failed, and in the ledger with its place and the reason."""
    session = tracelet.start_logging(backend=RefusesLater(), strict=True)
    for step in range(50):
        writer.add_scalar("loss", step, step)
    until(lambda: session.status()["later"].failed == 1)
    for step in range(50, 100):
        writer.add_scalar("loss", step, step)
    with pytest.raises(tracelet.DeliveryError):
        tracelet.stop_logging()
    state = session.status()["later"]
    assert (state.delivered, state.pending, state.failed) == (99, 0, 1)
    (told,) = json.loads(cli("status", "--json"))
    ((kind, path, step, message),) = [[row[k] for k in ("kind", "path", "step", "message")] for row in told["set_aside"]]
    assert (kind, path, step, message) == ("scalar", "loss", 7, "after all not")
    assert (told["runs"][0]["delivered"], told["runs"][0]["set_aside"]) == (99, 1)


class HangsInClose(RecordingBackend):
    name = "hangs"

    def close(self, status: Status) -> None:
        time.sleep(3600)


class FailsInClose(RecordingBackend):
    name = "fails"

    def close(self, status: Status) -> None:
        raise ValueError("not ended")


@pytest.mark.parametrize("backend", [HangsInClose, FailsInClose])
def test_a_run_that_was_not_ended_is_no_success(writer: Any, backend: type[RecordingBackend]) -> None:
    """A tracker that has every event, and whose run could not be ended, is not complete: strict raises."""
    session = tracelet.start_logging(backend=backend(), strict=True, exit_timeout=1)
    writer.add_scalar("loss", 1.0, 1)
    with pytest.raises(tracelet.DeliveryError) as error:
        tracelet.stop_logging()
    assert error.value.undelivered == {backend.name: 0}
    (state,) = session.status().values()
    assert (state.delivered, state.pending, state.failed) == (1, 0, 0)


@pytest.mark.parametrize("backend", each_change(("HangsInClose", "FailsInClose"), "HangsInClose"))
def test_run_fails_where_a_run_was_not_ended(tmp_path: Path, backend: str) -> None:
    """`tracelet-shim run --strict` has exit code 3 for such a run as well, whatever the program itself asks for."""
    (tmp_path / "program.py").write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.delivery.test_accounting import {backend}
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
tracelet.start_logging(backend={backend}(), strict=False, exit_timeout=1)
SummaryWriter("runs/x").add_scalar("loss", 1.0, 1)
"""
    )
    cli("run", "--strict", "--", sys.executable, "program.py", code=3)
    cli("run", "--", sys.executable, "program.py", code=0)


def test_a_refused_event_is_not_delivered(run_python: RunPython) -> None:
    """An event that a tracker refuses is counted as failed, no flush says that all is there, and a strict program has exit
    code 3."""
    done = run_python(
        TENSORBOARD
        + """
from tracelet_shim.backends.tensorboard.backend import TensorBoardBackend
write = TensorBoardBackend.write
def refuse(self, events):
    if any(event.step == 5 for event in events):
        raise ValueError("not this one")
    write(self, events)
TensorBoardBackend.write = refuse
s = session(delivery="thread", strict=True)
log(10)
print(s.flush(60), s.status()["tensorboard"].failed)
""",
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == "False 1\n"
    assert "tensorboard: 1 events were not delivered" in done.stderr
    (session,) = json.loads(cli("status", "runs/x", "--json"))
    assert [run["set_aside"] for run in session["runs"]] == [1]


# -- a tracker that does not answer -----------------------------------------------------------------------------------


def test_a_tracker_that_does_not_answer_is_named(
    writer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tracker that does not return from a call is named once, while the program runs, with what it was asked; `status` says so
    as long as it lasts. One that has nothing to do is not named."""
    gated, idle = Gated(), RecordingBackend()
    session = tracelet.start_logging(backend=[gated, idle])
    writer.add_scalar("loss", 1.0, 1)
    until(lambda: session.status()["recording"].delivered == 1)
    assert gated.asked.wait(60)
    monkeypatch.setattr(watch, "_SILENT_SECONDS", 0.3)  # only now: on a slow machine, any call may take that long
    until(lambda: session.status()["gated"].error is not None)
    assert "writing 1 events" in str(session.status()["gated"].error)
    time.sleep(1)
    monkeypatch.setattr(watch, "_SILENT_SECONDS", 60.0)
    gated.go.set()
    assert session.flush(60)
    assert session.status()["gated"].error is None
    monkeypatch.setattr(watch, "_SILENT_SECONDS", 0.3)  # now nobody has anything to do
    time.sleep(1)
    said = capsys.readouterr().err
    assert said.count("it has not answered for") == 1
    assert "warning: gated: it has not answered for" in said


class Computes(RecordingBackend):
    """Takes two seconds to write, and uses the processor all the time."""

    name = "computes"

    def write(self, events: Sequence[ev.Event]) -> None:
        end = time.thread_time() + 2.0
        while time.thread_time() < end:
            pass
        super().write(events)


def test_a_tracker_that_works_is_not_named(
    writer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An SDK that is at work, if ever so slowly, is not said not to answer."""
    monkeypatch.setattr(watch, "_SILENT_SECONDS", 1.0)
    monkeypatch.setattr(watch, "_MOVING_SECONDS", 0.01)
    session = tracelet.start_logging(backend=Computes())
    writer.add_scalar("loss", 1.0, 1)
    assert session.flush(60)
    assert "has not answered" not in capsys.readouterr().err


def test_why_a_tracker_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its thread imports is known, and so is the latest warning of its SDK in any thread, without its secrets; nothing older
    than the call is said of it."""
    import logging

    (tmp_path / "slow_sdk.py").write_text("import slow_part\n")
    (tmp_path / "slow_part.py").write_text("import threading\nthreading.go.wait(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(said, "_said", {})
    factory = logging.getLogRecordFactory()
    go = threading.Event()
    monkeypatch.setattr(threading, "go", go, raising=False)
    thread = threading.Thread(target=__import__, args=("slow_sdk",))
    thread.start()
    try:
        until(lambda: said.why(thread, "slow_sdk", 0.0) == "importing slow_sdk")
        said.listen()
        logging.getLogger("other_sdk.core").warning("retrying https://me:hunter2@host/, attempt %d", 3)
        me = threading.current_thread()
        assert said.why(me, "other_sdk", 0.0) == "its SDK says: retrying https://***@host/, attempt 3"
        assert said.why(me, "other_sdk", time.monotonic()) == ""
        assert said.why(threading.Thread(), "slow_sdk", 0.0) == ""
    finally:
        logging.setLogRecordFactory(factory)
        go.set()
        thread.join()


# -- what is logged while the end waits -------------------------------------------------------------------------------


def test_what_a_thread_logs_while_the_end_waits_arrives(writer: Any) -> None:
    """Points that another thread logs while `stop_logging` waits for a tracker are delivered too."""
    backend = Gated()
    session = tracelet.start_logging(backend=backend, strict=True)
    for step in range(100):
        writer.add_scalar("loss", step, step)

    def go_on() -> None:
        until(lambda: not session.active)
        for step in range(100, 200):
            writer.add_scalar("loss", step, step)
        backend.go.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    tracelet.stop_logging()
    thread.join()
    assert [event.step for event in backend.events] == list(range(200))


def test_a_thread_that_never_stops_logging_does_not_hold_up_the_end(writer: Any) -> None:
    """The end waits for what was logged until the trackers had caught up once, not for a thread that logs on and on; what that
    has logged too late is pending in the end."""
    backend = Gated()
    session = tracelet.start_logging(backend=backend, exit_timeout=60)
    writer.add_scalar("loss", 0, 0)
    over = threading.Event()
    logged = 1

    def go_on() -> None:
        nonlocal logged
        while not over.is_set():
            writer.add_scalar("loss", logged, logged)
            logged += 1
            time.sleep(0.001)

    thread = threading.Thread(target=go_on)
    thread.start()
    backend.go.set()
    tracelet.stop_logging()
    states = session.status()
    over.set()
    thread.join()
    assert session.status() == states  # what comes after that is not ours
    assert backend.status == "finished"
    assert states["gated"].delivered == len(backend.events)
    assert states["gated"].delivered + states["gated"].pending <= logged


TOO_LATE = """
from tracelet_shim.backends.tensorboard.backend import TensorBoardBackend
close = TensorBoardBackend.close
def late(self, status):
    log(5, w, 100)
    close(self, status)
TensorBoardBackend.close = late
"""


def test_what_comes_too_late_is_named(run_python: RunPython, tmp_path: Path) -> None:
    """Points that are logged when a tracker's run is being ended already are named, with their number, make a strict program
    fail, and come with a resumed delivery."""
    done = run_python(TENSORBOARD + TOO_LATE + 's = session(delivery="thread", strict=True)\nw = log(100)\n', check=False)
    assert done.returncode == 3
    assert "warning: tensorboard: 5 events were not delivered" in done.stderr
    assert "--resume" in done.stderr
    cli("replay", "runs/x", "--resume")
    assert tensorboard_steps(tmp_path) == list(range(105))


@pytest.mark.parametrize(
    ("strict", "hosting"),
    each_change([(strict, hosting) for strict in (True, False) for hosting in ("process", "thread")],
                (True, "process"), (False, "thread")),
)  # fmt: skip
def test_what_a_handler_logs_after_the_end_is_named(
    run_python: RunPython, tmp_path: Path, hosting: str, strict: bool
) -> None:
    """A handler of the interpreter's end that was registered before the session runs after the session's end. What it logs is
    said to be in the event files only, makes a strict program fail, and comes with a resumed delivery."""
    done = run_python(
        "import atexit\natexit.register(lambda: (log(5, w, 100), w.close()))\n"
        + TENSORBOARD
        + f"session(delivery={hosting!r}, strict={strict})\nw = log(100)\n",
        check=False,
    )
    (line,) = [line for line in done.stderr.splitlines() if "after the end" in line]
    assert line.endswith(f"tracelet-shim replay {tmp_path}/runs/x --resume")
    assert done.returncode == (3 if strict else 0)
    cli("replay", "runs/x", "--resume")
    assert tensorboard_steps(tmp_path) == list(range(105))
