"""A run of yours that is active already is joined, and left open at the end.

    python examples/borrowed_run.py
"""

import mlflow
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet

mlflow.set_experiment("borrowed")
with mlflow.start_run(run_name="mine") as run:
    mlflow.log_param("from", "mlflow")

    tracelet.start_logging(backend="mlflow")
    with SummaryWriter("runs/borrowed") as writer:
        for step in range(100):
            writer.add_scalar("loss", 1 / (step + 1), step)
    tracelet.stop_logging()

    # Still yours, and still open.
    assert mlflow.active_run().info.run_id == run.info.run_id
    mlflow.log_metric("after", 1.0)

client = mlflow.MlflowClient()
run = client.get_run(run.info.run_id)
print(run.info.run_name, run.info.status, run.data.params, run.data.metrics)
print(len(client.get_metric_history(run.info.run_id, "loss")), "points of loss")
