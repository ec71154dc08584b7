"""What one `add_scalar` does on the calling thread, counted: a gate for speed that needs no clock.

The bounds are what the code needs now. Whoever adds work to the way of a call meets them here, and either finds another
place for it or raises the bound knowingly.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import RunPython

PROGRAM = """
    import gc, json, sys, threading
    from torch.utils.tensorboard import SummaryWriter

    def counted(writer):
        python, c, ours = [], [], set()

        def profile(frame, event, argument):
            if event == "call":
                python.append(frame.f_code.co_name)
            elif event == "c_call":
                c.append(argument.__name__)
                if "tracelet_shim" in frame.f_code.co_filename:
                    ours.add(argument.__name__)

        sys.setprofile(profile)
        writer.add_scalar("loss", 0.5, 100)
        sys.setprofile(None)
        c.remove("setprofile")
        return {"python": len(python), "c": len(c), "c_of_ours": sorted(ours)}

    def instructions(writer):
        number = 0

        def local(frame, event, argument):
            nonlocal number
            number += event == "opcode"
            return local

        def enter(frame, event, argument):
            if "tracelet_shim" in frame.f_code.co_filename:
                frame.f_trace_opcodes, frame.f_trace_lines = True, False
                return local

        sys.settrace(enter)
        writer.add_scalar("loss", 0.5, 101)
        sys.settrace(None)
        return number

    def kept_blocks(writer):
        gc.collect()
        gc.disable()
        before = sys.getallocatedblocks()
        for step in range(1000, 2000):
            writer.add_scalar("loss", step + 0.5, step)
        writer.flush()
        return (sys.getallocatedblocks() - before) / 1000

    def measured(name):
        writer = SummaryWriter(name)
        for step in range(50):
            writer.add_scalar("loss", 0.5, step)
        writer.flush()
        writer.add_scalar("loss", 0.5, 99)
        return {**counted(writer), "instructions": instructions(writer), "blocks": kept_blocks(writer)}

    results = {"plain": measured("plain")}

    import tracelet_shim
    from tracelet_shim.session.session import Session
    from tracelet_shim.testing import RecordingBackend

    make_channel = Session._make_channel
    for accelerate in (False, True):
        for number in (1, 9):
            go = threading.Event()
            # The sender waits, so that what is counted is what the calling thread does and leaves.
            Session._make_channel = lambda self, specs: (go.wait(), make_channel(self, specs))[1]
            backends = [type("Numbered", (RecordingBackend,), {"name": f"b{i}"})() for i in range(number)]
            tracelet_shim.start_logging(backend=backends, accelerate=accelerate)
            name = f"{number}-{'fast' if accelerate else 'native'}"
            results[name] = measured(name)
            go.set()
            tracelet_shim.stop_logging()
            assert all(len(backend.events) == 1053 for backend in backends)
    print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def counts() -> dict[str, Any]:
    return {}


@pytest.fixture(autouse=True)
def _measured(counts: dict[str, Any], run_python: RunPython) -> None:
    if not counts:
        counts.update(json.loads(run_python(PROGRAM).stdout))


@pytest.mark.parametrize(("writer", "calls"), [("1-native", 10), ("1-fast", 0)])
def test_python_calls(counts: dict[str, Any], writer: str, calls: int) -> None:
    """A scalar costs few Python calls more than plain TensorBoard; with the faster writer, which needs fewer, none. (One of the
    ten is that TensorBoard's own writer is watched, too, for programs that use it without torch's.)"""
    assert counts[writer]["python"] <= counts["plain"]["python"] + calls


@pytest.mark.parametrize("writer", ["1-native", "1-fast"])
def test_c_calls(counts: dict[str, Any], writer: str) -> None:
    """Of C functions, our code calls these and no others: no waiting, nothing that depends on the trackers, and no I/O but that
    the faster writer writes the record to the event file, framed by hand."""
    allowed = {"SerializeToString", "__exit__", "append", "get", "len"}
    if writer == "1-fast":
        allowed |= {"monotonic", "pack", "time", "value", "write"}
    assert set(counts[writer]["c_of_ours"]) <= allowed
    assert counts[writer]["c"] <= counts["plain"]["c"] + 10


@pytest.mark.parametrize(("writer", "instructions"), [("1-native", 395), ("1-fast", 462)])
def test_instructions(counts: dict[str, Any], writer: str, instructions: int) -> None:
    """A scalar takes a bounded number of bytecode instructions of ours; some versions of Python need a few more."""
    assert 0 < counts[writer]["instructions"] <= instructions


@pytest.mark.parametrize("writer", ["1-native", "1-fast"])
def test_blocks_of_memory(counts: dict[str, Any], writer: str) -> None:
    """A queued scalar keeps four blocks: the record, its bytes, the exact value, its position."""
    assert counts[writer]["blocks"] - counts["plain"]["blocks"] <= 4.0


@pytest.mark.parametrize("writer", ["native", "fast"])
def test_nine_trackers_cost_what_one_does(counts: dict[str, Any], writer: str) -> None:
    """With nine trackers, a call does and keeps exactly what it does with one."""
    one, nine = counts[f"1-{writer}"], counts[f"9-{writer}"]
    assert {**nine, "blocks": 0} == {**one, "blocks": 0}
    assert nine["blocks"] == pytest.approx(one["blocks"], abs=0.2)
