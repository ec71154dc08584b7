"""A W&B agent: each trial is a W&B run of its own, and with the same parameters and final loss one in MLflow, Aim and Trackio.

    python examples/sweeps/wandb_agent.py

Which trial is next is told by W&B's server. So that this runs without an account, `LocalController` stands in for it, and the
runs of W&B are kept on this machine. With an account, leave out both, and give the agent the id that `wandb.sweep(...)` returns.
"""

import itertools
import os
from unittest import mock

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_API_KEY", "0" * 40)  # nobody's: the agent does not begin without one

import wandb
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet


class LocalController:
    """Answers the agent as W&B's server does: a trial of the grid each time, and then that there are no more."""

    def __init__(self, **grid):
        trials = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        self._commands = [
            {"type": "run", "run_id": f"trial{n}", "args": {name: {"value": value} for name, value in trial.items()}}
            for n, trial in enumerate(trials)
        ] + [{"type": "exit"}]

    def register(self, *args, **kwargs):
        return {"id": "agent"}

    def heartbeat(self, api, agent, metrics, running):
        return [] if running else [self._commands.pop(0)]

    def __enter__(self):
        self._patches = [
            mock.patch("wandb.Api"),  # asks the server who you are
            mock.patch("wandb.apis.public.sweeps._register_agent", self.register),
            mock.patch("wandb.apis.public.sweeps._agent_heartbeat", self.heartbeat),
        ]
        for patch in self._patches:
            patch.start()

    def __exit__(self, *error):
        for patch in self._patches:
            patch.stop()


def train(lr, layers, writer):
    """Stand in for a training; return the final loss."""
    loss = 1.0
    for step in range(20):
        loss *= 1 - min(0.5, lr / layers)
        writer.add_scalar("loss", loss, step)
    return loss


def trial():
    with wandb.init() as run:
        params = dict(run.config)
        # W&B's run is this one, since it is active; in the other three a run is made.
        with tracelet.start_logging(
            backend=["wandb", "mlflow", "aim", "trackio"], project="sweeps", group="agent", exp_name=run.id
        ) as session:
            session.log_params(params)
            with SummaryWriter(f"runs/agent/{run.id}") as writer:
                loss = train(**params, writer=writer)
            session.set_summary({"final_loss": loss})


if __name__ == "__main__":
    with LocalController(lr=[0.1, 0.01], layers=[2]):
        wandb.agent("sweep", function=trial, project="sweeps")
