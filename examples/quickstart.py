"""One call before the first SummaryWriter, and its data also arrives in the trackers named.

    python examples/quickstart.py

MLflow's database, Aim's repository and TensorBoard's runs are made in the working directory.
"""

import math
import random

from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet

session = tracelet.start_logging(
    backend=["mlflow", "aim"],
    project="quickstart",
    exp_name="decay",
    tags={"stage": "example"},
    config={"seed": 0, "rate": 0.05},
)

# From here on it is TensorBoard code as it always was.
random.seed(0)
with SummaryWriter("runs/decay") as writer:
    for step in range(200):
        writer.add_scalar("loss", math.exp(-0.05 * step) + 0.01 * random.random(), step)
    writer.add_text("note", "Made by **quickstart.py**", 0)

# Not needed: a program that just ends loses nothing. It shows what can be asked.
session.flush(timeout=60)
for name, state in session.status().items():
    print(f"{name}: {state.state}, {state.delivered} events delivered, {state.pending} pending, {state.failed} failed")
    print(f"    run {session.run_ids[name]}, to look at it: {session.urls[name]}")
tracelet.stop_logging()
