"""Ray Tune: each trial is a run of its own, with its parameters and its final loss, in MLflow, Aim and Trackio.

    python examples/sweeps/ray_tune.py

Ray has each trial in a process and a directory of its own. The trackers' stores are where this program began all the same, one
for all trials. On a cluster, where the machines do not share that directory, name a server for each tracker (`options=`).
"""

from pathlib import Path

import ray
from ray import tune

HERE = Path.cwd()


def train(lr, layers, writer):
    """Stand in for a training; return the final loss."""
    loss = 1.0
    for step in range(20):
        loss *= 1 - min(0.5, lr / layers)
        writer.add_scalar("loss", loss, step)
    return loss


def trial(config):
    from torch.utils.tensorboard import SummaryWriter

    import tracelet_shim as tracelet

    name = tune.get_context().get_trial_name()
    with tracelet.start_logging(backend=["mlflow", "aim", "trackio"], project="sweeps", group="ray", exp_name=name) as session:
        session.log_params(config)
        with SummaryWriter(str(HERE / "runs" / name)) as writer:
            loss = train(**config, writer=writer)
        session.set_summary({"final_loss": loss})
    tune.report({"loss": loss})


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")  # this machine alone
    tuner = tune.Tuner(
        trial,
        param_space={"lr": tune.grid_search([0.1, 0.01]), "layers": tune.grid_search([2, 3])},
        run_config=tune.RunConfig(name="sweep", storage_path=str(HERE / "ray"), verbose=0),
    )
    best = tuner.fit().get_best_result("loss", "min")
    print("best:", best.config, best.metrics["loss"])
    ray.shutdown()
