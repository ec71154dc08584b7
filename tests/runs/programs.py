"""Programs that open and end runs by themselves, for each tracker that has an active run; and what those runs have."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.backends.about import UsersRun, all_about, sdk

__all__ = ["LOOP", "TRACKERS", "environment", "ids", "logged", "points", "program", "users_run"]

TRACKERS = {tracker: known for tracker, known in all_about().items() if known.users_run}

LOG = """
from torch.utils.tensorboard import SummaryWriter
import json, sys
import {sdk}

def begin(name):
    return {begin}

def log(name, first=0, points=60, writer=None):
    writer = writer or SummaryWriter("runs/" + name)
    for step in range(first, first + points):
        writer.add_scalar("loss", step / 7, step)
    return writer

"""

LOOP = """
ids = []
for k in range(3):
    run = begin(f"fold{k}")
    ids.append(RUN_ID)
    log(f"fold{k}", points=60 + k).close()
    END
print("ids", json.dumps(ids))
"""


def users_run(name: str) -> UsersRun:
    run = TRACKERS[name].users_run
    assert run
    return run


def program(name: str, text: str) -> str:
    run = users_run(name)
    body = text.replace("RUN_ID", run.run_id).replace("END", run.end)
    return LOG.format(sdk=sdk(name), begin=run.begin) + body


def environment(name: str, directory: Path, **more: str) -> dict[str, str]:
    settings = {"TRACELET_BACKEND": name, "TRACELET_EXIT_TIMEOUT": "100", "TRACELET_STRICT": "1", **more}
    return {**TRACKERS[name].reader.environment(directory), **settings}


def ids(output: str) -> list[str]:
    return list(json.loads(re.findall(r"^.*ids (\[.*\])$", output, re.MULTILINE)[-1]))


def points(name: str, directory: Path, run_id: str) -> list[tuple[int, float]]:
    found = TRACKERS[name].reader(directory, run_id).scalars("", "loss")
    return sorted((point.step, point.value) for point in found)


def logged(first: int, stop: int) -> list[tuple[int, float]]:
    return [(step, step / 7) for step in range(first, stop)]
