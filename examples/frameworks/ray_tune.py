"""Ray Tune: two trials, which its TBXLoggerCallback logs with tensorboardX; Tune uses that by itself where it is installed.

    pip install "ray[tune]" tensorboardX
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/ray_tune.py

The trials are processes of Ray's; the event files are written by the program that calls `fit`, one for each trial.

What arrives: one run with what each trial reported, `ray/tune/loss` and `ray/tune/place`, and what Tune adds, 20 points each.
The trial that logs first has the plain names, the other one has its directory in front; MLflow has no `=` in names, `lr=0.2000`
stands as `lr_x3d_0.2000` there. The first trial's `lr` is in the run, that of the other in a small run beside it, `hparams`.

Ray keeps its own files in /tmp/ray and, since it asks its processes for a token, one in ~/.ray/auth_token.
"""

import os
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import tune


def descend(config):
    """Go down a parabola; the learning rate decides how fast."""
    place = 4.0
    for _ in range(20):
        place -= config["lr"] * 2 * place
        tune.report({"loss": place**2, "place": place})


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
tuner = tune.Tuner(
    descend,
    param_space={"lr": tune.grid_search([0.05, 0.2])},
    run_config=tune.RunConfig(name="parabola", storage_path=str(Path("runs/ray").resolve()), verbose=0),
)
results = tuner.fit()
print(f"best lr {results.get_best_result('loss', 'min').config['lr']}")
ray.shutdown()
