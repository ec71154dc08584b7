"""What is on the pictures in docs/images: a small training that logs to four trackers at once. `pictures.py` runs it."""

import math
import sys
import time

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from torch.utils.tensorboard import SummaryWriter

import tracelet_shim as tracelet

STEPS = 200


def train(name: str, rate: float) -> None:
    """Log a run: curves whose values of one step are not written at one moment, pictures, histograms, text, a table."""
    random = np.random.default_rng(round(rate * 1e4))
    session = tracelet.start_logging(
        backend="mlflow,trackio,aim,tensorboard", project="digits", exp_name=name, group="rates", system_metrics=1,
        config={"rate": rate, "batch_size": 64, "model": {"depth": 3}}, tags={"stage": "demo"}, exit_timeout=300,
    )  # fmt: skip
    with SummaryWriter(f"runs/{name}") as writer:
        for step in range(STEPS):
            fit = 1 - math.exp(-step * rate * 20)
            writer.add_scalar("train/loss", 2.3 * (1 - fit) + 0.05 + random.normal() * 0.04, step)
            if step % 20 == 0:
                writer.add_histogram("weights/fc1", random.normal(0, 1 + fit, 2000), step)
                figure = plt.figure(figsize=(3, 3))
                plt.imshow(np.eye(10) * fit + random.random((10, 10)) * (1 - fit) / 3)
                plt.title(f"confusion, step {step}")
                writer.add_figure("val/confusion", figure, step)
                writer.add_text("notes", f"**Step {step}**: {fit:.0%} done", step)
            time.sleep(0.01)
            writer.add_scalar("train/accuracy", 0.1 + 0.88 * fit + random.normal() * 0.01, step)
            writer.add_scalar("rate", rate * 0.99**step, step)
            if step % 10 == 9:
                time.sleep(0.01)
                writer.add_scalar("val/loss", 2.3 * (1 - fit) + 0.11, step)
                writer.add_scalars("val/recall", {"cats": 0.9 * fit, "dogs": 0.7 * fit}, step)
            time.sleep(0.03)
        rows = [{"image": i, "true": i % 10, "found": i % 9} for i in range(20)]
        session.log_table("predictions", rows)
    session.stop()


if __name__ == "__main__":
    train(sys.argv[1], float(sys.argv[2]))
