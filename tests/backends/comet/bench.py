"""Comet without us, for the benchmarks: its SDK's best bulk call, its own TensorBoard hook, and what arrived."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.sdk import Counts, Opened, counts


def direct() -> Opened:
    """`log_metrics` of a dict."""
    import comet_ml

    experiment = comet_ml.OfflineExperiment(
        project_name="bench", offline_directory="comet", log_code=False, log_graph=False, auto_param_logging=False,
        auto_metric_logging=False, auto_output_logging=False, parse_args=False, log_env_details=False,
        log_git_metadata=False, log_git_patch=False, display_summary_level=0,
    )  # fmt: skip

    def log(step: int, values: dict[str, float]) -> None:
        experiment.log_metrics(values, step=step)

    return log, experiment.end


def count(directory: Path) -> Counts:
    from tests.backends.comet.reader import Archive

    types = {"visualization": "images", "histogram3d": "histograms", "audio": "audio", "text-sample": "texts"}

    def kinds() -> Iterator[str]:
        places = (directory / "comet", Path(os.environ["COMET_OFFLINE_DIRECTORY"]))
        for path in (path for place in places for path in place.glob("*.zip")):
            for what, payload in Archive(path).messages:
                if what == "metric_msg" and "loss" in payload["metric"]["metricName"]:
                    yield "scalars"
                elif what == "file_upload":
                    yield types.get(payload["upload_type"], "other")

    return counts(kinds())


def hook() -> None:
    """As its documentation says, offline."""
    import comet_ml

    comet_ml.start(
        online=False, project_name="bench",
        experiment_config=comet_ml.ExperimentConfig(
            offline_directory="comet", auto_metric_logging=True, auto_histogram_tensorboard_logging=True,
        ),
    )  # fmt: skip


hook_first = "comet_ml"
"""Its hook wants this to be imported before torch."""
