"""Trackers in the training process leave the program's random numbers as they are."""

from __future__ import annotations

import pytest

from tests.backends import TRACKERS
from tests.backends.about import about, sdk
from tests.chosen import each_change
from tests.conftest import RunPython

PROGRAM = """
import random, sys
{first}
import numpy as np, torch
from torch.utils.tensorboard import SummaryWriter
import tracelet_shim as tracelet

def state():
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, keys.tolist(), rest, torch.get_rng_state().tolist()

random.seed(0); np.random.seed(0); torch.manual_seed(0)
before = state()
session = tracelet.start_logging(backend=sys.argv[1], delivery="thread", exit_timeout=200)
writer = SummaryWriter("runs/x")
writer.add_scalar("loss", 1.0, 1)
writer.add_mesh("mesh", torch.zeros(1, 3, 3), faces=torch.tensor([[[0, 1, 2]]]))
writer.add_hparams({{"lr": 1}}, {{"m": 2.0}}, run_name="a")
writer.add_hparams({{"lr": 2}}, {{"m": 2.0}}, run_name="b")
flushed = session.flush(200)
held = state() == before
writer.close()
tracelet.stop_logging()
print(flushed, held, state() == before)
"""


CASES = [
    *((tracker, "") for tracker in TRACKERS),
    *((tracker, f"import {sdk(tracker)}") for tracker in TRACKERS if about(tracker).draws_at_import),
]


@pytest.mark.parametrize(("backend", "first"), each_change(CASES, ("mlflow", ""), ("wandb", ""), CASES[-1]))
def test_seeded_program_draws_the_same_numbers(run_python: RunPython, backend: str, first: str) -> None:
    """With the tracker in the training process, Python's, NumPy's and torch's global generators stay where they were, while it
    delivers and when it has ended; also where the program has imported the SDK itself."""
    done = run_python(PROGRAM.format(first=first), backend, timeout=300)
    assert done.stdout.splitlines()[-1] == "True True True"


def test_the_command_line_is_the_programs(run_python: RunPython) -> None:
    """Looking for random numbers in the modules of an SDK asks nothing of objects in them: absl's flags would read the program's
    arguments, and refuse those that they do not know."""
    script = """
import tracelet_shim
from torch.utils.tensorboard import SummaryWriter
session = tracelet_shim.start_logging(backend="tensorboard", delivery="thread")
with SummaryWriter("runs/x") as writer:
    writer.add_scalar("loss", 1.0, 0)
print(session.flush(60))
"""
    assert run_python(script, "-q", "--what=3").stdout == "True\n"


IMPORTS = """
import gc, itertools, sys, threading, types
from tracelet_shim.relay.own_random import keep_apart

module = sys.modules["mlflow.being_imported"] = types.ModuleType("mlflow.being_imported")
sys.setswitchinterval(1e-6)
gc.set_threshold(5)

class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):  # where the collector runs, another thread may
        for _ in range(50):
            pass

def go_on_importing():
    for number in itertools.count():
        setattr(module, f"name{number % 3000}", number)
        vars(module).pop(f"name{number * 7 % 3000}", None)
        Cycle()

threading.Thread(target=go_on_importing, daemon=True).start()
for _ in range(500):
    keep_apart("mlflow")
"""


def test_a_module_is_imported_meanwhile(run_python: RunPython) -> None:
    """A tracker's run is opened in a thread while the program imports: names that come into its modules are in nobody's way."""
    run_python(IMPORTS)
