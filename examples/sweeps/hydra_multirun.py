"""Hydra: each job of a multirun is a run of its own, with its parameters and its final loss, in MLflow, Aim and Trackio.

    python examples/sweeps/hydra_multirun.py --multirun lr=0.1,0.01 layers=2,3 hydra.job.chdir=true

Hydra gives each job a directory of its own. The event files are there; the trackers' stores are where the program began, one for
all jobs.
"""

from dataclasses import dataclass

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet


@dataclass
class Config:
    lr: float = 0.1
    layers: int = 2


ConfigStore.instance().store("config", Config)


def train(lr, layers, writer):
    """Stand in for a training; return the final loss."""
    loss = 1.0
    for step in range(20):
        loss *= 1 - min(0.5, lr / layers)
        writer.add_scalar("loss", loss, step)
    return loss


@hydra.main(version_base=None, config_name="config")
def main(config):
    number = HydraConfig.get().job.get("num", 0)  # without --multirun there is one job, and it has none
    with tracelet.start_logging(
        backend=["mlflow", "aim", "trackio"], project="sweeps", group="hydra", exp_name=f"hydra-{number}"
    ) as session:
        session.log_params(config)
        with SummaryWriter("runs") as writer:
            loss = train(config.lr, config.layers, writer)
        session.set_summary({"final_loss": loss})
    return loss


if __name__ == "__main__":
    main()
