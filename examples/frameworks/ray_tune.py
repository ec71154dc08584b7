"""Ray Tune: two trials, whose results Tune writes with tensorboardX, as it does by itself where that is installed.

    pip install "ray[tune]" tensorboardX
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/ray_tune.py

What arrives: one run, of the process that has the Tuner, with each trial as a writer: `<trial>/ray/tune/loss` and more, by
iteration. Its hyper-parameters arrive as those of the trial.
"""

import os

import ray
from ray import tune


def train(config):
    weight = 1.0
    for _ in range(10):
        weight -= config["lr"] * 2 * weight
        tune.report({"loss": weight**2})


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    tuner = tune.Tuner(
        train,
        param_space={"lr": tune.grid_search([0.05, 0.2])},
        run_config=tune.RunConfig(name="two", storage_path=os.path.abspath("runs"), verbose=0),
    )
    print(f"best loss {tuner.fit().get_best_result('loss', 'min').metrics['loss']:.5f}")
    ray.shutdown()
