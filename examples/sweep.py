"""A sweep in one process: every `add_hparams` after the first becomes a child run that the tracker can compare.

    python examples/sweep.py
"""

import mlflow
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet


def evaluate(learning_rate, layers):
    return 1 - abs(learning_rate - 0.01) * 10 - abs(layers - 3) / 10


trials = [{"learning_rate": rate, "layers": layers} for rate in (0.001, 0.01, 0.1) for layers in (2, 3)]

with tracelet.start_logging(backend="mlflow", project="sweep", exp_name="grid") as session:
    with SummaryWriter("runs/sweep") as writer:
        for number, trial in enumerate(trials):
            writer.add_hparams(trial, {"hparam/score": evaluate(**trial)}, run_name=f"trial-{number}")
    run_id = session.run_ids["mlflow"]

# The first trial gave the run itself its parameters; the others are nested runs in it.
client = mlflow.MlflowClient()
run = client.get_run(run_id)
nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["run_name"])
for each in (run, *nested):
    print(each.info.run_name, each.data.params, each.data.metrics)
