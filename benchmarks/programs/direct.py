"""A loop that does nothing but hand scalars to one tracker, by the best bulk call of its SDK.

Config: `tracker`, `steps`; each step has ten tags. What is timed begins with the run open and ends with the run closed: most
SDKs return before they have done the work. What is best was measured for each SDK; private functions are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.programs.common import main

TAGS = [f"loss/{tag}" for tag in range(10)]

Log = Callable[[int, dict[str, float]], None]
Opened = tuple[Log, Callable[[], None]]
"""A function that takes a step's values by tag, and one that ends the run."""


def tensorboard() -> Opened:
    """One record with ten values, a queue that does not block."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard.writer import FileWriter

    writer = FileWriter("direct", max_queue=1_000_000)

    def log(step: int, values: dict[str, float]) -> None:
        parts = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        writer.add_summary(Summary(value=parts), step)

    return log, writer.close


def mlflow() -> Opened:
    """`log_batch` of 1,000 metrics, the most that it takes."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient("sqlite:///mlflow.db")
    run = client.create_run("0").info.run_id
    batch: list[Any] = []

    def log(step: int, values: dict[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        batch.extend(Metric(tag, value, now, step) for tag, value in values.items())
        if len(batch) >= 1000:
            client.log_batch(run, metrics=batch)
            batch.clear()

    def close() -> None:
        if batch:
            client.log_batch(run, metrics=batch)
        client.set_terminated(run)

    return log, close


def wandb() -> Opened:
    """A row for each step, with the step as a value, as W&B's own TensorBoard hook writes it."""
    import wandb as sdk

    run = sdk.init(mode="offline", settings=sdk.Settings(console="off", x_disable_stats=True))
    run.define_metric("global_step", hidden=True)
    run.define_metric("*", step_metric="global_step")

    def log(step: int, values: dict[str, float]) -> None:
        run.log({**values, "global_step": step, "_timestamp": time.time()})

    return log, run.finish


def aim() -> Opened:
    """`track` of a dict: a call for each value costs as much."""
    from aim import Repo, Run

    run = Run(repo=Repo.from_path("aim", init=True), system_tracking_interval=None, capture_terminal_logs=False)

    def log(step: int, values: dict[str, float]) -> None:
        run.track(values, step=step)

    return log, run.close


def clearml() -> Opened:
    """`report_scalar`, reported from a thread: the default, a process, takes forty times as long."""
    from clearml import Task

    Task._report_subprocess_enabled = False
    task = Task.init(
        "bench", "direct", reuse_last_task_id=False, auto_connect_frameworks=False, auto_connect_arg_parser=False,
        auto_resource_monitoring=False, auto_connect_streams=False,
    )  # fmt: skip
    logger = task.get_logger()

    def log(step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            title, _, series = tag.partition("/")
            logger.report_scalar(title, series, value, step)

    return log, task.close


def comet() -> Opened:
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


def dvclive() -> Opened:
    """`log_metric`, with the summary made once, at the end; `next_step` would read all tables again."""
    from dvclive import Live

    live = Live("dvclive", save_dvc_exp=False, dvcyaml=None)

    def log(step: int, values: dict[str, float]) -> None:
        live.step = step
        for tag, value in values.items():
            live.log_metric(tag, value, timestamp=True)

    return log, live.end


def swanlab() -> Opened:
    """`log` of a dict."""
    import swanlab as sdk

    off = {"hardware": False, "runtime": False, "requirements": False, "git": False, "swanlab": False, "monitor": False}
    settings = sdk.Settings(probe=off, terminal={"proxy_type": "none"})
    run = sdk.init(project="bench", mode="offline", log_dir="swanlog", settings=settings)

    def log(step: int, values: dict[str, float]) -> None:
        run.log(values, step=step)

    return log, run.finish


def trackio() -> Opened:
    """`log` of a dict."""
    import trackio as sdk

    run = sdk.init(project="bench", auto_log_cpu=False, auto_log_gpu=False, embed=False)

    def log(step: int, values: dict[str, float]) -> None:
        run.log(values, step=step)

    return log, sdk.finish


def measure(config: dict[str, Any]) -> dict[str, Any]:
    log, close = globals()[config["tracker"]]()
    log(0, dict.fromkeys(TAGS, 0.0))
    time.sleep(2.0)
    began = time.perf_counter()
    for step in range(1, config["steps"] + 1):
        log(step, dict.fromkeys(TAGS, 0.1 * step))
    looped = time.perf_counter()
    close()
    return {"loop": looped - began, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main(measure)
