"""A trial is a directory of the same form under ``trials/``."""

from __future__ import annotations

import os

from tracelet_shim import events as ev
from tracelet_shim.backends.dvclive.files import write_json, write_yaml
from tracelet_shim.backends.dvclive.summary import nest, yaml_value
from tracelet_shim.backends.shared.files import RUN_FILE, load
from tracelet_shim.backends.shared.names import Names

__all__ = ["add_to_trial"]


def add_to_trial(directory: str, name: str, event: ev.HParams, paths: Names, *, listed: bool) -> None:
    """Add a part of a trial. The directory itself is the memory: a trial may come in many parts, and twice.

    Args:
        directory: the trial's.
        name: the program's for it.
        event: the part.
        paths: the rule for names.
        listed: whether a dvc.yaml is wanted.
    """
    about = load(directory)
    about = {
        "trial": name,
        "params": {**about.get("params", {}), **event.params},
        "metrics": {**about.get("metrics", {}), **event.metrics},
        "domain": {**about.get("domain", {}), **event.domain},
        "step": event.step,
        "wall_time": event.wall_time,
        "status": "finished",
    }
    entries = {}
    if about["params"]:
        write_yaml(os.path.join(directory, "params.yaml"), yaml_value(about["params"]))
        entries["params"] = ["params.yaml"]
    if about["metrics"]:
        summary = nest({paths(key): value for key, value in about["metrics"].items()})
        write_json(os.path.join(directory, "metrics.json"), {**summary, "step": event.step})
        entries["metrics"] = ["metrics.json"]
    if listed:
        write_yaml(os.path.join(directory, "dvc.yaml"), entries)
    write_json(os.path.join(directory, RUN_FILE), about)
