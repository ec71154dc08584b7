"""Optuna: each trial of a study is a run of its own, with its parameters and its final loss, in MLflow, Aim and Trackio.

    python examples/sweeps/optuna_study.py
"""

import optuna
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet


def train(lr, layers, writer):
    """Stand in for a training; return the final loss."""
    loss = 1.0
    for step in range(20):
        loss *= 1 - min(0.5, 10 * lr / layers)
        writer.add_scalar("loss", loss, step)
    return loss


def objective(trial):
    params = {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True), "layers": trial.suggest_int("layers", 1, 4)}
    with tracelet.start_logging(
        backend=["mlflow", "aim", "trackio"], project="sweeps", group="optuna", exp_name=f"optuna-{trial.number}"
    ) as session:
        session.log_params(params)
        with SummaryWriter(f"runs/optuna/{trial.number}") as writer:
            loss = train(**params, writer=writer)
        session.set_summary({"final_loss": loss})
    return loss


study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
study.optimize(objective, n_trials=3)
print("best:", study.best_trial.number, study.best_params)
